/* resident.cu: all layers of a signal-sized model in one launch, many rows. A block takes a tile of M = 8, 16, 32 or 64
 * rows through the model: activations stay in shared memory, weights come from L2 in the order of mma fragments, states
 * come from memory once and go back once. Called by the engine's thread; blocks that finish take the next chain of
 * tiles from a counter in gpu_pass.sync.
 *
 * A layer has five stretches, each begun by a barrier:
 *
 *   norm         u = norm(r), a warp per row
 *   project in   x and z, 32 channels per warp and job; the convolution of those channels follows without a barrier
 *   select       dt, B, C: six jobs, or three where M = 8; they and Δ's stages lie where u was
 *   scan         a warp owns 32 channels and some of the runs. Δ of four rows at a time by mma; states of the next runs
 *                are on their way; y replaces x
 *   project out  r += 16 outputs per warp and job
 *
 * The first fragments of a product, biases and states are loaded before the barrier that activations wait for. When a
 * scan is done, conv windows and the first states of the next layer are fetched into L2, so that memory has work during
 * the products. Where there are more chains than SMs and D ≤ 256, two blocks of 8 warps share an SM, and one's products
 * overlap the other's scan; else a block has 16 warps.
 *
 * Counts per row and layer, bf16 state (E 128, D 256, R 8 | E 256, D 512, R 16): 19.5 | 38.9 KB to move, 6.5 | 13 ns of
 * a chip at 3 TB/s (fp32 35.8 | 71.7 KB); 115 | 426 thousand multiply-adds at about 1024 a clock and SM. Instructions
 * of a warp: scan 146 a row and 32 channels, 32 for its share of Δ, 62 a run; conv 43 a row of 64 channels, 24 a run.
 * Per tile and layer 245 | 885 KB of weights at 57 B/ns and SM.
 *
 *   16384 rows, T = 1   memory 425 | 1700 µs (fp32 850 | 3400), instructions 150 | 600, weights 35 | 250, mma 35 | 210
 *   1024 rows, M = 8    memory 27 µs; a layer: norm 0.4, in 2.3, conv 0.6, select 0.7, scan 2.2, out 1.2; all 35
 *   4096 runs, T = 8    memory 106 µs, instructions 260 µs at 4 a clock, MUFU 165
 *
 * Shared memory: rows are swizzled, not padded, or two blocks of E = 128, M = 64 would not fit into an SM (113 KB
 * each).
 *
 * Traps. Rows beyond the tile's last go through the products (columns of an mma do not mix) and may hold anything; they
 * touch no slot and no result. Whatever is loaded under a condition is zeroed first: a register that may be unset
 * lives, for the compiler, from the kernel's beginning.
 *
 * Ladder (µs, H100, bf16 states: sig-128x4 B = 1024, 16384, 4096 × T 8; sig-256x8 B = 16384):
 *   62.3, 604, 585, 2423   z by slices of channels
 *   63.8, 575, 496, 2357   z at once, Δ four rows at a time within the warp that scans, fewer barriers
 *   59.3, –, –, –          a small pass's states sent for at its beginning, for all layers
 *   57.8, 579, 466, 2347   bf16 states rounded in place, SiLU without its divisor's scaling; exponentials a row ahead made it 512
 * sig-128x4 B = 1024 is bound by latency (48 µs for 8 rows), T 8 by issue slots. */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"

#include <algorithm>

#include "ssm/dtype.h"

namespace
{

enum {
    THREADS_MAX = 512,
    LAYERS_MAX = 24,
    E_MAX = 256,
    D_MAX = 512,
    TABLES_BYTES = 1024,
    BLOCK_BYTES = 227 << 10, /* shared memory, at most */
    PAIR_BYTES = 113 << 10,  /* … where two blocks share an SM */
    BC_STRIDE = 36,          /* floats: rows 2t begin in different banks */
    DT_PAD = 8,              /* halves, likewise */
    STAGE_ROWS = 4,
    STAGE_BYTES = STAGE_ROWS * 32 * 4, /* per warp */
    BATCH = 4,                         /* conv windows per half warp on their way */
    AHEAD_BYTES = 64,                  /* of states, per lane on their way */
    SELECT_DEPTH = 8,                  /* k-steps of x_proj on their way */
    CHUNK_STEPS = GPU_CHUNK / 16,
    SYNC_AT = 256, /* in gpu_pass.sync: the counter of chains, and of blocks that are done */
    /* bytes per SM that are fetched into L2 when a scan ends, and of states in all before the next begins */
    FETCH_BYTES = 192 << 10,
    FETCH_STATES = 128 << 10,
    FETCH_ALL = 42 << 20 /* a pass of so little is fetched whole at its beginning */
};

/* ---- what a launch is told ---- */

struct weights {
    const uint4 *fragments;
    const float *bias;
    float scale;
};

struct layer {
    const float *norm, *conv, *conv_bias, *A, *skip;
    struct weights in_proj, x_proj, dt_proj, out_proj;
};

/* Offsets of a block's arrays in its shared memory; struct tables is at 0. */
struct places {
    uint32_t r;     /* fp32 [M][E], swizzled */
    uint32_t x, z;  /* fp16 [D / 64][M][64], swizzled; y replaces x */
    uint32_t u;     /* fp16 [E / 64][M][64], swizzled; up to the end of "project in", then: */
    uint32_t bc;    /* fp32 [M][BC_STRIDE] */
    uint32_t dt;    /* fp16 [M][Rp + DT_PAD] */
    uint32_t stage; /* fp32 [warps][STAGE_ROWS][32]: Δ */
    uint32_t bytes;
};

struct args {
    struct gpu_pass p;
    struct gpu_dims d;
    struct places at;
    uint32_t warps;
    bool fetch_all;                   /* at the beginning, for all layers */
    uint32_t fetch_early, fetch_late; /* runs whose states are fetched into L2 when a scan ends; … before the next */
    uint32_t window_bytes, state_bytes; /* of a run and layer */
    enum ssm_dtype dtype;
    const void *embedding;
    const float *norm_f;
    struct weights head;
    struct layer layers[LAYERS_MAX];
};
static_assert(sizeof(struct args) <= 4096, "kernel arguments");

struct tables {
    struct gpu_tile tile;
    uint32_t n_out;
    uint8_t *slot[GPU_TILE_ROWS_MAX];      /* by run of the tile */
    float g[GPU_TILE_ROWS_MAX];            /* by row */
    uint16_t first[GPU_TILE_ROWS_MAX + 1]; /* row of a run, from the tile's first; one more: the end */
    uint32_t end;                          /* of the block's chain: tile */
    uint32_t chain;                        /* its next */
};
static_assert(sizeof(struct tables) <= TABLES_BYTES, "shared memory");

/* ---- a block ---- */

extern __shared__ __align__(1024) uint8_t memory[];

__device__ __forceinline__ struct tables *tables(void)
{
    return reinterpret_cast<struct tables *>(memory);
}

/* This thread. Every stretch asks anew and gets an answer that the compiler cannot tell from another one; or it would
 * work out all stretches' addresses before the first layer, and spill them. */
struct self {
    uint32_t warp, lane;
};

__device__ __forceinline__ struct self current(void)
{
    uint32_t i;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i));
    return {i / 32, i % 32};
}

/* Where byte `at` of a row of r lies. Rows are a multiple of 128 bytes; their 16-byte units change places within 128
 * bytes, so that the same unit of eight rows lies in different banks. */
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t at, uint32_t stride)
{
    return row * stride + (at ^ row % 8 * 16);
}

/* The same of u, x and z, which are cut into panels of 64 columns, [M][64] each: the way from row to row and from
 * 8 rows to the next is known when this is compiled. */
template <int NT> __device__ __forceinline__ uint32_t panelled(uint32_t row, uint32_t at)
{
    return at / 128 * (NT * 1024) + swizzled(row, at % 128, 128);
}

/* ---- weights: loaded where it says so, early, before a barrier. An ordinary load would be put off until its value is
 * used, and one past the coherent path (.nc) would be moved behind the barrier. ---- */

/* Most are read once per tile and layer, so L1 is left to what is read again. Not `wanted`: v keeps what it holds. */
__device__ __forceinline__ void load_now(uint32_t v[4], const uint4 *at, bool wanted)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n}"
                 : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3])
                 : "l"(at), "r"((uint32_t)wanted));
}

__device__ __forceinline__ float4 load_now(const float4 *at)
{
    uint32_t v[4] = {};
    load_now(v, reinterpret_cast<const uint4 *>(at), true);
    return make_float4(__uint_as_float(v[0]), __uint_as_float(v[1]), __uint_as_float(v[2]), __uint_as_float(v[3]));
}

__device__ __forceinline__ float2 load_now(const float2 *at)
{
    float2 v;
    asm volatile("ld.global.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(at));
    return v;
}

__device__ __forceinline__ float load_now(const float *at)
{
    float v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(at));
    return v;
}

/* ---- products: 16 · MT outputs of 8 · NT rows by a warp ---- */

/* k-steps on their way, of two bands and of one: what registers allow beside the accumulators. */
#define IN_DEPTH(NT) (NT > 1 ? 4 : 8)
#define OUT_DEPTH(NT) (NT > 4 ? 4 : NT > 1 ? 8 : 16)

/* Fragments of MT neighbouring bands of 16 outputs, DEPTH k-steps of them in registers or on their way. */
template <int MT, int DEPTH> struct stream {
    const uint4 *at; /* the lane's of the first band, DEPTH k-steps ahead of those in use */
    uint32_t band;   /* from one band to the next */
    uint32_t left;   /* k-steps, a multiple of 4 */
    uint32_t a[DEPTH][MT][4];

    __device__ __forceinline__ void load(int i, bool wanted)
    {
#pragma unroll
        for (int m = 0; m < MT; m++)
            load_now(a[i][m], at + i * 32 + m * band, wanted);
    }
};

/* A stream from the fragments of `band` on; not `wanted`: an idle one. */
template <int MT, int DEPTH>
__device__ __forceinline__ stream<MT, DEPTH> started(bool wanted, const struct weights &w, uint32_t band, uint32_t k,
                                                     uint32_t lane)
{
    stream<MT, DEPTH> s = {};
    s.left = wanted ? k / 16 : 0;
    s.band = k * 2;
    s.at = w.fragments + band * s.band + lane;
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        s.load(i, i < s.left);
    s.at += DEPTH * 32;
    return s;
}

/* The B operand: 8 · NT rows of panels with 8 · ALL rows. */
template <int NT, int ALL> struct operand {
    enum { TILES = NT > 4 ? 4 : NT }; /* groups of 8 rows in registers at a time */
    uint32_t at, exchange;

    __device__ __forceinline__ operand(const uint8_t *from, uint32_t lane)
    {
        at = shared_address(from) + (NT == 1 ? lane % 8 : lane / 16 * 8 + lane % 8) * 128;
        exchange = ((NT == 1 ? lane / 8 : lane / 8 % 2) ^ lane % 8) * 16;
    }
    /* Of k-step i of a panel: two groups of rows per instruction; NT = 1: of that and the next one. */
    __device__ __forceinline__ void load(uint32_t *b, int i, int tile) const
    {
        uint32_t from = at + tile * 1024 + (i * 32 ^ exchange);
#pragma unroll
        for (int n = 0; n < (TILES + 1) / 2; n++)
            ldmatrix_x4(b + 4 * n, from + 2048 * n);
    }
};

/* d += a panel's four k-steps, whose fragments are a[i] … a[i + 3]. */
template <int MT, int NT, int ALL, int DEPTH>
__device__ __forceinline__ void multiply_panel(float (&d)[MT][NT][4], stream<MT, DEPTH> &w, operand<NT, ALL> &x, int i)
{
    enum { TILES = operand<NT, ALL>::TILES };
    const bool more = w.left > DEPTH;
    uint32_t b[NT > 1 ? 2 * TILES : 4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int tile = 0; tile < NT; tile += TILES) {
            if (NT > 1 || j % 2 == 0)
                x.load(b, j, tile);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < TILES; n++)
                    mma_16816(d[m][tile + n], w.a[i + j][m], NT > 1 ? b + 2 * n : b + j % 2 * 2);
        }
        w.load(i + j, more);
    }
    w.left -= 4;
    x.at += ALL * 1024;
}

/* d += the next k-steps: a multiple of DEPTH, or all that are left. */
template <int MT, int NT, int ALL, int DEPTH>
__device__ __forceinline__ void multiply(float (&d)[MT][NT][4], stream<MT, DEPTH> &w, operand<NT, ALL> &x,
                                         uint32_t steps)
{
    const uint32_t end = w.left - steps;
#pragma unroll 1
    while (w.left > end) {
        multiply_panel(d, w, x, 0);
#pragma unroll
        for (int i = 4; i < DEPTH; i += 4)
            if (w.left > end)
                multiply_panel(d, w, x, i);
        w.at += DEPTH * 32;
    }
}

/* The total of all chunks. */
template <int NT, int ALL, int DEPTH>
__device__ __forceinline__ void multiply_chunks(float (&total)[1][NT][4], stream<1, DEPTH> &w, operand<NT, ALL> x)
{
    bool first = true;
#pragma unroll 1
    do {
        float d[1][NT][4] = {};
        multiply(d, w, x, min(w.left, (uint32_t)CHUNK_STEPS));
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                total[0][n][i] = first ? d[0][n][i] : __fadd_rn(total[0][n][i], d[0][n][i]);
        first = false;
    } while (w.left > 0);
}

/* Element i of an accumulator: row of the n-tile, output of the band. */
__device__ __forceinline__ uint32_t row_of(int i, uint32_t lane)
{
    return lane % 4 * 2 + i % 2;
}

__device__ __forceinline__ uint32_t output_of(int i, uint32_t lane)
{
    return lane / 4 + i / 2 * 8;
}

/* Of MT bands: of this lane's two outputs of each. */
template <int MT> struct biases {
    float of[MT][2];

    __device__ __forceinline__ biases(const float *bias, uint32_t band, uint32_t lane)
    {
#pragma unroll
        for (int i = 0; i < 2 * MT; i++)
            of[i / 2][i % 2] = load_now(bias + (band + i / 2) * 16 + output_of(i % 2 * 2, lane));
    }
};

/* ---- norm ---- */

/* u = norm(r) · w of all M rows, zeros for those beyond the tile; f: fp32 copy in global memory, or NULL. */
template <int NT> __device__ __forceinline__ void norm(const struct args &k, const float *w, float *f)
{
    enum { PARTS = E_MAX / 128 };
    const struct self me = current();
    const struct gpu_tile &tile = tables()->tile;
    const uint32_t E = k.d.E, begin = me.lane * 4;
    float4 s[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++)
        s[i] = load_now(reinterpret_cast<const float4 *>(w + (begin + 128 * i < E ? begin + 128 * i : 0)));
    for (uint32_t row = me.warp; row < 8 * NT; row += k.warps) {
        float4 v[PARTS];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const uint32_t e = begin + 128 * i;
            v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (e < E && row < tile.rows) {
                v[i] = *reinterpret_cast<const float4 *>(memory + k.at.r + swizzled(row, e * 4, E * 4));
                sum = add_squares(sum, v[i]);
            }
        }
        const float rstd = rstd_of(sum, E, k.d.eps);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const uint32_t e = begin + 128 * i;
            if (e < E) {
                v[i] = normed4(v[i], rstd, s[i]);
                *reinterpret_cast<uint2 *>(memory + k.at.u + panelled<NT>(row, e * 2)) = to_half4(v[i]);
                if (f && row < tile.rows)
                    *reinterpret_cast<float4 *>(f + (size_t)(tile.row + row) * E + e) = v[i];
            }
        }
    }
}

/* ---- project in, convolution ---- */

/* 32 channels from 32 · pair of x or z, at `to`. */
template <int NT>
__device__ __forceinline__ void store_halves(const struct self &me, const float (&d)[2][NT][4], const biases<2> &bias,
                                             float scale, uint32_t pair, const uint8_t *to)
{
    uint32_t address = shared_address(to) + panelled<NT>(me.lane % 8, pair * 64 + me.lane / 8 * 16);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint32_t h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *v = d[i / 2][n] + i % 2 * 2, b = bias.of[i / 2][i % 2];
            h[i] = bits(to_half2(product(v[0], scale, b), product(v[1], scale, b)));
        }
        stmatrix_x4_trans(address + n * 1024, h);
    }
}

/* Windows of every other run from `from` on: `at` in a slot, taps `stride` apart. */
__device__ __forceinline__ void load_windows(uint32_t window[BATCH][3], uint32_t from, uint32_t n_runs, size_t at,
                                             uint32_t stride)
{
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
        window[i][0] = window[i][1] = window[i][2] = 0;
        if (from + 2 * i < n_runs) {
            const uint8_t *taps_at = tables()->slot[from + 2 * i] + at;
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = __ldcs(reinterpret_cast<const uint32_t *>(taps_at + j * stride));
        }
    }
}

/* The convolution's weights of channels d and d + 1. */
struct taps {
    float w[2][4], bias[2];

    __device__ __forceinline__ void load(const struct layer &l, uint32_t D, uint32_t d)
    {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float2 v = load_now(reinterpret_cast<const float2 *>(l.conv + j * D + d));
            w[0][j] = v.x;
            w[1][j] = v.y;
        }
        const float2 v = load_now(reinterpret_cast<const float2 *>(l.conv_bias + d));
        bias[0] = v.x;
        bias[1] = v.y;
    }
};

/* Two channels of a run through their window, in time order; x lies at byte `at` of its row. */
template <int NT>
__device__ __forceinline__ void convolve_run(uint32_t window[3], uint8_t *x, uint32_t at, uint32_t from, uint32_t to,
                                             const struct taps &c)
{
#pragma unroll 1
    for (uint32_t row = from; row < to; row++) {
        uint32_t *cell = reinterpret_cast<uint32_t *>(x + panelled<NT>(row, at)), now = *cell;
        const uint32_t in[4] = {window[0], window[1], window[2], now};
        float2 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = to_float2(in[j]);
        *cell = bits(__halves2half2(conv4(v[0].x, v[1].x, v[2].x, v[3].x, c.w[0], c.bias[0]),
                                    conv4(v[0].y, v[1].y, v[2].y, v[3].y, c.w[1], c.bias[1])));
        window[0] = window[1];
        window[1] = window[2];
        window[2] = now;
    }
}

/* Channels d and d + 1 of every run, a half warp per run; `window` holds the first batch. */
template <int NT>
__device__ __forceinline__ void convolve(const struct args &k, const struct self &me, const struct taps &c,
                                         size_t window_at, uint32_t n_runs, uint32_t d, uint32_t window[BATCH][3])
{
    const uint32_t stride = k.d.D * 2;
    for (uint32_t from = me.lane / 16; from < n_runs; from += 2 * BATCH) {
        uint32_t next[BATCH][3];
        load_windows(next, from + 2 * BATCH, n_runs, window_at, stride);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const uint32_t run = from + 2 * i;
            if (run < n_runs) {
                convolve_run<NT>(window[i], memory + k.at.x, d * 2, tables()->first[run], tables()->first[run + 1], c);
                uint8_t *to = tables()->slot[run] + window_at;
#pragma unroll
                for (int j = 0; j < 3; j++)
                    __stcs(reinterpret_cast<uint32_t *>(to + j * stride), window[i][j]);
            }
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = next[i][j];
        }
    }
}

/* Jobs are pairs of bands: those of x, then those of z. */
template <int NT>
__device__ __forceinline__ void project_in(const struct args &k, const struct layer &l, uint32_t index,
                                           stream<2, IN_DEPTH(NT)> &w)
{
    const struct self me = current();
    const uint32_t pairs = k.d.D / 32, stride = k.d.D * 2, n_runs = tables()->tile.n_runs;
    for (uint32_t job = me.warp; job < 2 * pairs; job += k.warps) {
        const uint32_t channel = job * 32 + me.lane % 16 * 2; /* of x */
        const size_t window_at = index * k.p.slab.conv_layer + channel * 2;
        uint32_t window[BATCH][3] = {};
        struct taps c = {};
        float d[2][NT][4] = {};
        const biases<2> bias(l.in_proj.bias, 2 * job, me.lane);
        if (NT == 1 && job < pairs)
            load_windows(window, me.lane / 16, n_runs, window_at, stride);
        operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        if (NT == 1 && job < pairs)
            c.load(l, k.d.D, channel);
        w = started<2, IN_DEPTH(NT)>(job + k.warps < 2 * pairs, l.in_proj, 2 * (job + k.warps), k.d.E, me.lane);
        if (job < pairs) {
            store_halves(me, d, bias, l.in_proj.scale, job, memory + k.at.x);
            if (NT > 1) {
                c.load(l, k.d.D, channel);
                load_windows(window, me.lane / 16, n_runs, window_at, stride);
            }
            __syncwarp();
            convolve<NT>(k, me, c, window_at, n_runs, channel, window);
            __syncwarp();
        } else {
            store_halves(me, d, bias, l.in_proj.scale, job - pairs, memory + k.at.z);
        }
    }
}

/* ---- select ---- */

/* Jobs are bands of 16 outputs, by half of the rows where there are more than 8. */
template <int NT> struct selection {
    enum { SPLIT = NT > 1 ? 2 : 1, TILES = NT / SPLIT };

    static __device__ __forceinline__ uint32_t jobs(const struct args &k)
    {
        return (k.d.Rp / 16 + 2) * SPLIT;
    }
};

template <int NT>
__device__ __forceinline__ void select(const struct args &k, const struct layer &l, stream<1, SELECT_DEPTH> &w)
{
    enum { SPLIT = selection<NT>::SPLIT, N = selection<NT>::TILES };
    const struct self me = current();
    const uint32_t jobs = selection<NT>::jobs(k);
    for (uint32_t job = me.warp; job < jobs; job += k.warps) {
        const uint32_t band = job / SPLIT, row = job % SPLIT * 8 * N;
        float d[1][N][4] = {};
        const biases<1> bias(l.x_proj.bias, band, me.lane);
        multiply_chunks(d, w, operand<N, NT>(memory + k.at.x + row * 128, me.lane));
        w = started<1, SELECT_DEPTH>(job + k.warps < jobs, l.x_proj, (job + k.warps) / SPLIT, k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t output = band * 16 + output_of(i, me.lane);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float v = product(d[0][n][i], l.x_proj.scale, bias.of[0][i / 2]);
                const uint32_t at = row + 8 * n + row_of(i, me.lane);
                if (output < k.d.Rp)
                    reinterpret_cast<__half *>(memory + k.at.dt)[at * (k.d.Rp + DT_PAD) + output] = to_half(v);
                else
                    reinterpret_cast<float *>(memory + k.at.bc)[at * BC_STRIDE + output - k.d.Rp] = v;
            }
        }
    }
}

/* ---- scan ---- */

/* What a lane holds through the scan of a layer: channel, runs, and the states of the first of them. */
template <enum ssm_dtype S> struct scanner {
    enum { AHEAD = AHEAD_BYTES / (16 * sizeof(typename state_type<S>::type)) }; /* runs */
    uint32_t channel, run, end;
    uint32_t at;                /* of the channel's first vector in a slot */
    float A[16], skip, bias[2]; /* bias: of Δ, see stage_deltas() */
    uint32_t dt[2][4];          /* first fragments of dt_proj; mostly there are no others */
    state16<S> next[AHEAD];

    __device__ __forceinline__ uint8_t *state(uint32_t i) const
    {
        uint8_t *first = tables()->slot[i] + at;
        asm volatile("" : "+l"(first)); /* one address, the other vectors by offset */
        return first;
    }
};

/* Runs that begin before row at / groups. */
__device__ __forceinline__ uint32_t runs_before(uint32_t lane, uint32_t n_runs, uint32_t groups, uint32_t at)
{
    uint32_t n = 0;
#pragma unroll
    for (uint32_t i = lane; i < GPU_TILE_ROWS_MAX; i += 32)
        n += __popc(__ballot_sync(0xffffffffu, i < n_runs && tables()->first[i] * groups < at));
    return n;
}

/* Warps beyond one per 32 channels share the runs. */
template <enum ssm_dtype S>
__device__ __forceinline__ void scan_begin(const struct args &k, const struct layer &l, uint32_t index, scanner<S> &s)
{
    const struct gpu_tile &tile = tables()->tile;
    const struct self me = current();
    const uint32_t blocks = k.d.D / 32, groups = k.warps / blocks, group = me.warp / blocks;
    s.channel = me.warp % blocks * 32 + me.lane;
    s.run = group < groups ? runs_before(me.lane, tile.n_runs, groups, group * tile.rows) : 0;
    s.end = group < groups ? runs_before(me.lane, tile.n_runs, groups, (group + 1) * tile.rows) : 0;
    s.at = (size_t)state_at<S>(reinterpret_cast<uint8_t *>(k.p.slab.ssm_at + index * k.p.slab.ssm_layer), s.channel);
#pragma unroll
    for (int i = 0; i < s.AHEAD; i++)
        if (s.run + i < s.end)
            s.next[i].load(s.state(s.run + i));
#pragma unroll
    for (int i = 0; i < 4; i++) { /* as load_A() has it */
        const float4 v = load_now(reinterpret_cast<const float4 *>(l.A) + s.channel / 32 * 128 + i * 32 + me.lane);
        s.A[4 * i] = v.x;
        s.A[4 * i + 1] = v.y;
        s.A[4 * i + 2] = v.z;
        s.A[4 * i + 3] = v.w;
    }
    s.skip = load_now(l.skip + s.channel);
#pragma unroll
    for (int m = 0; m < 2; m++) {
        s.bias[m] = load_now(l.dt_proj.bias + s.channel / 32 * 32 + m * 16 + me.lane / 2 % 2 * 8 + me.lane / 4);
        load_now(s.dt[m], l.dt_proj.fragments + (s.channel / 32 * 2 + m) * (k.d.Rp * 2) + me.lane, true);
    }
}

/* Δ of a warp's channels, rows `row` … + 3, to its stage. Columns 4 … 7 of the mma repeat 0 … 3, and the lanes that
 * hold them look after outputs 8 … 15 of each band. */
template <enum ssm_dtype S, int NT>
__device__ __forceinline__ void stage_deltas(const struct args &k, const struct self &me, const struct layer &l,
                                             const scanner<S> &s, uint32_t row, float *stage)
{
    const uint32_t steps = k.d.Rp / 16, high = me.lane / 2 % 2;
    const uint32_t from = shared_address(memory + k.at.dt) +
                          min(row + me.lane % 4, 8 * NT - 1) * (k.d.Rp + DT_PAD) * 2 + me.lane / 8 % 2 * 16;
    uint32_t b[2];
    float d[2][4] = {};
    ldmatrix_x2(b, from);
    mma_16816(d[0], s.dt[0], b);
    mma_16816(d[1], s.dt[1], b);
#pragma unroll 1
    for (uint32_t step = 1; step < steps; step++) {
        ldmatrix_x2(b, from + step * 32);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint4 v = __ldg(l.dt_proj.fragments + ((s.channel / 32 * 2 + m) * steps + step) * 32 + me.lane);
            const uint32_t a[4] = {v.x, v.y, v.z, v.w};
            mma_16816(d[m], a, b);
        }
    }
    __syncwarp(); /* the rows before are done with */
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            stage[(me.lane % 2 * 2 + i) * 32 + m * 16 + high * 8 + me.lane / 4] =
                softplus(product(high ? d[m][2 + i] : d[m][i], l.dt_proj.scale, s.bias[m]));
    __syncwarp();
}

__device__ __forceinline__ void load_row(const float *at, float B[16], float C[16])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float4 v = reinterpret_cast<const float4 *>(at)[i];
        float *to = i < 4 ? B + 4 * i : C + 4 * (i - 4);
        to[0] = v.x;
        to[1] = v.y;
        to[2] = v.z;
        to[3] = v.w;
    }
}

template <enum ssm_dtype S, int NT>
__device__ __forceinline__ void scan(const struct args &k, const struct layer &l, scanner<S> &s)
{
    enum { AHEAD = scanner<S>::AHEAD };
    const struct self me = current();
    const uint32_t begin = tables()->first[s.run];
    float *stage = reinterpret_cast<float *>(memory + k.at.stage + me.warp * STAGE_BYTES);
    uint32_t row = begin, x_at = k.at.x + s.channel / 64 * (NT * 1024), column = s.channel * 2 % 128;
    asm volatile("" : "+r"(x_at), "+r"(column)); /* not to be worked out again for every row */
    for (; s.run < s.end; s.run += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (s.run + i < s.end) {
                uint8_t *at = s.state(s.run + i);
                const uint32_t to = tables()->first[s.run + i + 1];
                state16<S> state;
                float h[16];
                s.next[i].unpack(h);
                if (s.run + i + AHEAD < s.end)
                    s.next[i].load(s.state(s.run + i + AHEAD));
                do {
                    if ((row - begin) % STAGE_ROWS == 0)
                        stage_deltas<S, NT>(k, me, l, s, row, stage);
                    float B[16], C[16];
                    load_row(reinterpret_cast<const float *>(memory + k.at.bc) + row * BC_STRIDE, B, C);
                    uint8_t *cell = memory + x_at + swizzled(row, column, 128);
                    __half *x = reinterpret_cast<__half *>(cell);
                    const __half z = *reinterpret_cast<const __half *>(cell + (k.at.z - k.at.x));
                    *x = to_half(scan_step(state, h, s.A, B, C, stage[(row - begin) % STAGE_ROWS * 32 + me.lane],
                                           tables()->g[row], __half2float(*x), __half2float(z), s.skip));
                } while (++row < to);
                state.store(at);
            }
        }
    }
}

/* ---- project out, head ---- */

template <int NT>
__device__ __forceinline__ void project_out(const struct args &k, const struct layer &l, stream<1, OUT_DEPTH(NT)> &w)
{
    const struct self me = current();
    for (uint32_t band = me.warp; band < k.d.E / 16; band += k.warps) {
        float d[1][NT][4] = {};
        const biases<1> bias(l.out_proj.bias, band, me.lane);
        multiply_chunks(d, w, operand<NT, NT>(memory + k.at.x, me.lane));
        w = started<1, OUT_DEPTH(NT)>(band + k.warps < k.d.E / 16, l.out_proj, band + k.warps, k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t e = band * 16 + output_of(i, me.lane);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float *r =
                    reinterpret_cast<float *>(memory + k.at.r + swizzled(8 * n + row_of(i, me.lane), e * 4, k.d.E * 4));
                *r = __fadd_rn(*r, product(d[0][n][i], l.out_proj.scale, bias.of[0][i / 2]));
            }
        }
    }
}

/* Sectors of 32 bytes are written whole: eight outputs of a row by eight lanes. */
template <int NT> __device__ __forceinline__ void head(const struct args &k, uint32_t bands, stream<1, 4> &w)
{
    const struct self me = current();
    const struct gpu_tile &tile = tables()->tile;
    uint32_t pick[NT][2];
#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
        const uint32_t row = i / 2 * 8 + row_of(i % 2, me.lane);
        pick[i / 2][i % 2] = row < tile.rows ? __ldg(k.p.pick + tile.row + row) : GPU_NOT_PICKED;
    }
    for (uint32_t band = me.warp; band < bands; band += k.warps) {
        float d[1][NT][4] = {};
        const biases<1> bias(k.head.bias, band, me.lane);
        operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        w = started<1, 4>(band + k.warps < bands, k.head, band + k.warps, k.d.E, me.lane);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (pick[n][i % 2] != GPU_NOT_PICKED)
                    k.p.out[pick[n][i % 2] * k.p.ldo + band * 16 + output_of(i, me.lane)] =
                        product(d[0][n][i], k.head.scale, bias.of[0][i / 2]);
        __syncwarp();
    }
}

/* ---- a tile ---- */

/* Into L2: conv windows of all runs, states of the first. Of layer 0 it is done by those who know the slots first. */
__device__ __forceinline__ void fetch_early(const struct args &k, const uint8_t *slot, uint32_t run, uint32_t index)
{
    prefetch_l2(slot + index * k.p.slab.conv_layer, k.window_bytes);
    if (run < k.fetch_early)
        prefetch_l2(slot + k.p.slab.ssm_at + index * k.p.slab.ssm_layer, k.state_bytes);
}

/* A warp issues these one lane after the other: all warps take part. */
__device__ __forceinline__ void fetch_early(const struct args &k, uint32_t index)
{
    const struct self me = current();
    const uint32_t run = me.lane * k.warps + me.warp;
    if (run < tables()->tile.n_runs)
        fetch_early(k, tables()->slot[run], run, index);
    __syncwarp();
}

__device__ __forceinline__ void fetch_late(const struct args &k, uint32_t index)
{
    const struct self me = current();
    const uint32_t run = k.fetch_early + me.lane * k.warps + me.warp;
    if (run < min(tables()->tile.n_runs, k.fetch_late))
        prefetch_l2(tables()->slot[run] + k.p.slab.ssm_at + index * k.p.slab.ssm_layer, k.state_bytes);
    __syncwarp();
}

/* Four elements of a token's embedding, as embedded() has them. */
__device__ __forceinline__ float4 widened(uint2 v, enum ssm_dtype dtype)
{
    if (dtype == SSM_BF16)
        return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                           __uint_as_float(v.y & 0xffff0000u));
    const float2 lo = to_float2(v.x), hi = to_float2(v.y);
    return make_float4(lo.x, lo.y, hi.x, hi.y);
}

/* r of the tile's rows, several rows per warp at a time. Rows beyond the tile are token 0 on the way, and dropped. */
template <int NT> __device__ __forceinline__ void load_rows(const struct args &k, const struct gpu_tile tile)
{
    enum { ROWS = NT > 4 ? 4 : 2, PARTS = E_MAX / 128 };
    const struct self me = current();
    const uint32_t E = k.d.E, step = k.warps;
    for (uint32_t first = me.warp; first < tile.rows; first += ROWS * step) {
        float4 v[ROWS][PARTS];
        if (k.p.tokens) {
            size_t token[ROWS];
            uint2 raw[ROWS][PARTS];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                token[i] = first + i * step < tile.rows ? __ldg(k.p.tokens + tile.row + first + i * step) : 0;
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++) {
                const uint32_t e = me.lane * 4 + i % PARTS * 128;
                raw[i / PARTS][i % PARTS] = make_uint2(0, 0);
                if (e < E)
                    raw[i / PARTS][i % PARTS] = __ldg(reinterpret_cast<const uint2 *>(
                        static_cast<const uint16_t *>(k.embedding) + token[i / PARTS] * E + e));
            }
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++)
                v[i / PARTS][i % PARTS] = widened(raw[i / PARTS][i % PARTS], k.dtype);
        } else {
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++) {
                const uint32_t e = me.lane * 4 + i % PARTS * 128, row = first + i / PARTS * step;
                v[i / PARTS][i % PARTS] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (e < E && row < tile.rows)
                    v[i / PARTS][i % PARTS] =
                        __ldg(reinterpret_cast<const float4 *>(k.p.r + (size_t)(tile.row + row) * E + e));
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS * PARTS; i++) {
            const uint32_t e = me.lane * 4 + i % PARTS * 128, row = first + i / PARTS * step;
            if (e < E && row < tile.rows)
                *reinterpret_cast<float4 *>(memory + k.at.r + swizzled(row, e * 4, E * 4)) = v[i / PARTS][i % PARTS];
        }
    }
}

/* Complete after a barrier. */
template <int NT> __device__ __forceinline__ void open_tile(const struct args &k, const struct gpu_tile tile)
{
    struct tables *t = tables();
    if (threadIdx.x < tile.n_runs) {
        const struct gpu_run run = k.p.runs[tile.run + threadIdx.x];
        t->slot[threadIdx.x] = run.slot;
        t->first[threadIdx.x] = run.row - tile.row;
        for (uint32_t index = 0; index < (k.fetch_all ? k.d.L : 1); index++)
            fetch_early(k, run.slot, threadIdx.x, index);
    }
    if (threadIdx.x < tile.rows)
        t->g[threadIdx.x] = k.p.g[tile.row + threadIdx.x];
    if (threadIdx.x == 0) {
        t->tile = tile;
        t->n_out = k.p.head->n_out;
        t->first[tile.n_runs] = tile.rows;
    }
    load_rows<NT>(k, tile);
}

/* Every stretch begins with the barrier that it needs; the last one of a tile is the caller's. */
template <enum ssm_dtype S, int NT> __device__ __forceinline__ void run_tile(const struct args &k, uint32_t tile)
{
    struct self me = current();
    stream<2, IN_DEPTH(NT)> in =
        started<2, IN_DEPTH(NT)>(me.warp < k.d.D / 16, k.layers[0].in_proj, 2 * me.warp, k.d.E, me.lane);
    open_tile<NT>(k, k.p.tiles[tile]);
    for (uint32_t index = 0; index < k.d.L; index++) {
        const struct layer &l = k.layers[index];
        const bool last = index + 1 == k.d.L;
        __syncthreads();
        norm<NT>(k, l.norm, NULL);
        __syncthreads();
        if (!k.fetch_all)
            fetch_late(k, index);
        project_in<NT>(k, l, index, in);
        me = current();
        stream<1, SELECT_DEPTH> x = started<1, SELECT_DEPTH>(me.warp < selection<NT>::jobs(k), l.x_proj,
                                                             me.warp / selection<NT>::SPLIT, k.d.D, me.lane);
        __syncthreads();
        scanner<S> s = {};
        if (NT == 1) /* registers allow it, and there is little else to wait behind */
            scan_begin(k, l, index, s);
        select<NT>(k, l, x);
        if (NT > 1)
            scan_begin(k, l, index, s);
        __syncthreads();
        scan<S, NT>(k, l, s);
        me = current();
        stream<1, OUT_DEPTH(NT)> out =
            started<1, OUT_DEPTH(NT)>(me.warp < k.d.E / 16, l.out_proj, me.warp, k.d.D, me.lane);
        if (!last && !k.fetch_all)
            fetch_early(k, index + 1);
        __syncthreads();
        project_out<NT>(k, l, out);
        me = current();
        in = started<2, IN_DEPTH(NT)>(!last && me.warp < k.d.D / 16, k.layers[last ? index : index + 1].in_proj,
                                      2 * me.warp, k.d.E, me.lane);
    }
    const uint32_t n_out = tables()->n_out;
    if (n_out || k.p.f) {
        me = current();
        stream<1, 4> w = started<1, 4>(me.warp < n_out / 16, k.head, me.warp, k.d.E, me.lane);
        __syncthreads();
        norm<NT>(k, k.norm_f, k.p.f);
        __syncthreads();
        head<NT>(k, n_out / 16, w);
    }
}

template <enum ssm_dtype S, int NT>
__global__ void __launch_bounds__(THREADS_MAX, 1) resident(const __grid_constant__ struct args k)
{
    uint32_t *sync = k.p.sync + SYNC_AT, chain = blockIdx.x;
    for (;;) {
        const struct gpu_chain c = k.p.chains[min(chain, k.p.capacity - 1)];
        if (chain >= k.p.head->n_chains)
            break;
        if (threadIdx.x == 0) {
            tables()->chain = gridDim.x + atomicAdd(&sync[0], 1u);
            tables()->end = c.tile + c.n;
        }
        uint32_t tile = c.tile, end;
        do {
            run_tile<S, NT>(k, tile++);
            chain = tables()->chain;
            end = tables()->end;
            __syncthreads();
        } while (tile < end);
    }
    if (threadIdx.x == 0 && atomicAdd(&sync[1], 1u) == gridDim.x - 1)
        sync[0] = sync[1] = 0;
}

/* ---- host ---- */

typedef void (*kernel)(struct args);
const kernel kernels[3][4] = {
    {resident<SSM_F32, 1>, resident<SSM_F32, 2>, resident<SSM_F32, 4>, resident<SSM_F32, 8>},
    {resident<SSM_BF16, 1>, resident<SSM_BF16, 2>, resident<SSM_BF16, 4>, resident<SSM_BF16, 8>},
    {resident<SSM_F16, 1>, resident<SSM_F16, 2>, resident<SSM_F16, 4>, resident<SSM_F16, 8>},
};

struct places places_of(const struct gpu_dims &d, uint32_t rows, uint32_t n_warps)
{
    struct places at;
    at.r = TABLES_BYTES;
    at.x = at.r + rows * d.E * 4;
    at.z = at.x + rows * d.D * 2;
    at.u = at.z + rows * d.D * 2;
    at.bc = at.u;
    at.dt = at.bc + rows * BC_STRIDE * 4;
    at.stage = at.dt + rows * (d.Rp + DT_PAD) * 2;
    at.bytes = std::max(at.u + rows * d.E * 2, at.stage + n_warps * STAGE_BYTES);
    return at;
}

uint32_t sms_of_device(void)
{
    int device = 0, sms = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    return (uint32_t)std::max(sms, 1);
}

struct weights weights_of(const struct gpu_matrix &m)
{
    return {reinterpret_cast<const uint4 *>(m.fragments), m.bias, m.scale};
}

struct layer layer_of(const struct gpu_layer &l)
{
    return {l.norm,
            l.conv,
            l.conv_bias,
            l.A,
            l.skip,
            weights_of(l.in_proj),
            weights_of(l.x_proj),
            weights_of(l.dt_proj),
            weights_of(l.out_proj)};
}

} // namespace

bool gpu_resident_open(const struct gpu_model *m)
{
    const struct gpu_dims &d = m->d;
    if (!m->resident || d.E % 64 || d.E > E_MAX || d.D % 128 || d.D > D_MAX || d.L > LAYERS_MAX)
        return false;
    uint32_t bytes = places_of(d, GPU_TILE_ROWS_MAX, THREADS_MAX / 32).bytes;
    bool ok = bytes <= BLOCK_BYTES;
    for (int i = 0; i < 12 && ok; i++) {
        const void *fn = reinterpret_cast<const void *>(kernels[i / 4][i % 4]);
        ok = !cudaFuncSetAttribute(fn, cudaFuncAttributeMaxDynamicSharedMemorySize, BLOCK_BYTES) &&
             !cudaFuncSetAttribute(fn, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    }
    if (!ok)
        cudaGetLastError();
    return ok;
}

/* The largest that leaves few SMs without a tile. */
uint32_t gpu_resident_tile(const struct gpu_model *m, uint32_t rows)
{
    uint32_t tile = GPU_TILE_ROWS_MAX, wanted = sms_of_device() * 7 / 8;
    while (tile > 8 && (rows + tile - 1) / tile < wanted)
        tile /= 2;
    return tile;
}

void gpu_resident(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t tile_rows,
                  uint32_t n_chains, cudaStream_t stream)
{
    if (!n_chains)
        return;
    const struct gpu_dims &d = m->d;
    const uint32_t sms = sms_of_device();
    const bool pairs =
        n_chains > sms && d.D <= D_MAX / 2 && places_of(d, tile_rows, THREADS_MAX / 64).bytes <= PAIR_BYTES;
    const uint32_t blocks = pairs ? 2 : 1, threads = THREADS_MAX / blocks;
    struct args k = {};
    k.p = *p;
    k.d = d;
    k.at = places_of(d, tile_rows, threads / 32);
    k.warps = threads / 32;
    k.window_bytes = 3 * d.D * sizeof(uint16_t);
    k.state_bytes = d.D * d.N * (uint32_t)ssm_dtype_bytes(state);
    const uint32_t windows = tile_rows * k.window_bytes, room = FETCH_BYTES / blocks;
    k.fetch_late = FETCH_STATES / blocks / k.state_bytes;
    k.fetch_early = room > windows ? std::min((room - windows) / k.state_bytes, k.fetch_late) : 0;
    k.fetch_all = n_chains <= sms && tile_rows <= 8 &&
                  (size_t)n_chains * tile_rows * d.L * (k.state_bytes + k.window_bytes) <= FETCH_ALL;
    if (k.fetch_all)
        k.fetch_early = tile_rows;
    k.dtype = m->dtype;
    k.embedding = m->embedding;
    k.norm_f = m->norm_f;
    k.head = weights_of(m->head);
    for (uint32_t i = 0; i < d.L; i++)
        k.layers[i] = layer_of(m->layers[i]);
    const int size = tile_rows == 64 ? 3 : tile_rows == 32 ? 2 : tile_rows == 16 ? 1 : 0;
    kernels[state][size]<<<std::min(n_chains, sms * blocks), threads, k.at.bytes, stream>>>(k);
}
