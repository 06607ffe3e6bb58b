/* resident.cu: all layers of a signal-sized model in one launch, many rows. A block takes a tile of M = 8, 16, 32 or 64
 * rows through the model: activations stay in shared memory, weights come from L2 in the order of mma fragments, states
 * come from memory once and go back once. Called by the engine's thread; blocks that finish take the next chain of
 * tiles from a counter in gpu_pass.sync.
 *
 * A layer has five stretches, each between two barriers:
 *
 *   norm       u = norm(r), a warp per row
 *   project in x and z of 32 channels per warp and job; the convolution of those channels follows, no barrier between
 *   select     dt, B, C: six jobs, or three where M = 8; bc, dt and the staged Δ lie where u was
 *   scan       a warp owns 32 channels and some of the runs; Δ of four rows at a time by mma, from there through
 *              registers; states of the next AHEAD runs are in flight; y replaces x
 *   project out  r += 16 outputs per warp and job
 *
 * The first fragments of every product are loaded before the barrier that its activations wait for. When a scan is done,
 * conv windows and the first states of the next layer are fetched into L2, so that memory is busy during the products.
 *
 * Counts, per row and layer (E 128, D 256, R 8, bf16 state / E 256, D 512, R 16): 19.5 / 38.9 KB moved, of a chip's
 * 3 TB/s 6.5 / 13 ns; 115 / 426 thousand multiply-adds, of an SM's 1024 a clock; scan 8 / 16 warps × 200 instructions,
 * of 4 a clock, with 21 MUFU of 8 clocks each on a quarter; conv 8 / 16 half warps × 75. Per tile and layer: 245 / 885 KB
 * of weights at 57 B/ns. 16384 rows: 425 / 1700 µs of memory, 150 / 600 µs of instructions and 35 / 250 µs of weights
 * under or between it.
 *
 * Shared memory: rows are swizzled instead of padded, or two blocks of E = 128, M = 64 would not fit an SM by 3 KB.
 * Trap: rows beyond the tile's last go through the products (columns of an mma do not mix) and may hold anything; they
 * touch no slot and no result.
 *
 * Ladder: */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/mma.cuh"

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
    AHEAD = 2,                         /* states per lane on their way */
    CHUNK_STEPS = GPU_CHUNK / 16,
    SYNC_AT = 256, /* in gpu_pass.sync: the counter of chains, and of blocks that are done */
    /* bytes per SM that are fetched into L2 when a scan ends, and of states in all before the next begins */
    FETCH_BYTES = 192 << 10,
    FETCH_STATES = 128 << 10
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
    uint8_t *slot[GPU_TILE_ROWS_MAX]; /* by run of the tile */
    float g[GPU_TILE_ROWS_MAX];       /* by row */
    uint16_t first[GPU_TILE_ROWS_MAX + 1]; /* row of a run, from the tile's first; one more: the end */
    uint32_t chain;                        /* the block's next */
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

__device__ __forceinline__ uint32_t warps(void)
{
    return blockDim.x / 32;
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

/* ---- products: 16 · MT outputs of 8 · NT rows by a warp ---- */

/* Every weight is read once per tile and layer, so L1 is left to what is read again. */
__device__ __forceinline__ void load_fragment(uint32_t a[4], const uint4 *at)
{
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "l"(at));
}

/* Fragments of MT neighbouring bands of 16 outputs, DEPTH k-steps of them in registers or on their way. */
template <int MT, int DEPTH> struct stream {
    const uint4 *at; /* the lane's of the first band, DEPTH k-steps ahead of those in use */
    uint32_t band;   /* from one band to the next */
    uint32_t left;   /* k-steps, a multiple of DEPTH */
    uint32_t a[DEPTH][MT][4];

    __device__ __forceinline__ void load(int i)
    {
#pragma unroll
        for (int m = 0; m < MT; m++)
            load_fragment(a[i][m], at + i * 32 + m * band);
    }
};

/* A stream from the fragments of `band` on; not `wanted`: an idle one. */
template <int MT, int DEPTH>
__device__ __forceinline__ struct stream<MT, DEPTH> started(bool wanted, const struct weights &w, uint32_t band, uint32_t k, uint32_t lane)
{
    struct stream<MT, DEPTH> s = {};
    if (wanted) {
        s.left = k / 16;
        s.band = k * 2;
        s.at = w.fragments + band * s.band + lane;
#pragma unroll
        for (int i = 0; i < DEPTH; i++)
            s.load(i);
        s.at += DEPTH * 32;
    }
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
    /* Of k-step i from `at`: two groups of rows per instruction; NT = 1: of two k-steps, of which i is the even one. */
    __device__ __forceinline__ void load(uint32_t *b, int i, int tile) const
    {
        uint32_t from = at + i / 4 * (ALL * 1024) + tile * 1024 + (i % 4 * 32 ^ exchange);
#pragma unroll
        for (int n = 0; n < (TILES + 1) / 2; n++)
            ldmatrix_x4(b + 4 * n, from + 2048 * n);
    }
};

/* d += the next k-steps, a multiple of DEPTH. */
template <int MT, int NT, int ALL, int DEPTH>
__device__ __forceinline__ void multiply(float (&d)[MT][NT][4], struct stream<MT, DEPTH> &w, struct operand<NT, ALL> &x, uint32_t steps)
{
    enum { TILES = operand<NT, ALL>::TILES };
    static_assert(DEPTH % 4 == 0 && NT % TILES == 0, "");
    uint32_t b[NT > 1 ? 2 * TILES : 4];
#pragma unroll 1
    for (uint32_t step = 0; step < steps; step += DEPTH) {
        bool more = w.left > DEPTH;
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
#pragma unroll
            for (int tile = 0; tile < NT; tile += TILES) {
                if (NT > 1 || i % 2 == 0)
                    x.load(b, i, tile);
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int n = 0; n < TILES; n++)
                        mma_16816(d[m][tile + n], w.a[i][m], NT > 1 ? b + 2 * n : b + i % 2 * 2);
            }
            if (more)
                w.load(i);
        }
        w.at += DEPTH * 32;
        w.left -= DEPTH;
        x.at += DEPTH / 4 * (ALL * 1024);
    }
}

/* The total of all chunks. */
template <int NT, int ALL, int DEPTH>
__device__ __forceinline__ void multiply_chunks(float (&total)[1][NT][4], struct stream<1, DEPTH> &w, struct operand<NT, ALL> x)
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

/* ---- norm ---- */

__device__ __forceinline__ uint32_t bits(__half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

/* u = norm(r) · w of all M rows, zeros for those beyond the tile; f: fp32 copy in global memory, or NULL. */
template <int NT>
__device__ __forceinline__ void norm(const struct args &k, const float *w, float *f)
{
    const struct gpu_tile &tile = tables()->tile;
    const struct self me = current();
    const uint32_t E = k.d.E;
    for (uint32_t row = me.warp; row < 8 * NT; row += warps()) {
        const float *r = reinterpret_cast<const float *>(memory + k.at.r) + row * E;
        const uint32_t swizzle = row % 8 * 4;
        const bool present = row < tile.rows;
        float rstd = present ? row_rstd(r, E, k.d.eps, swizzle) : 0.0f;
        for (uint32_t e = me.lane * 4; e < E; e += 128) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (present) {
                const float4 s = __ldg(reinterpret_cast<const float4 *>(w + e));
                v = *reinterpret_cast<const float4 *>(r + (e ^ swizzle));
                v = make_float4(normed(v.x, rstd, s.x), normed(v.y, rstd, s.y), normed(v.z, rstd, s.z), normed(v.w, rstd, s.w));
                if (f)
                    *reinterpret_cast<float4 *>(f + (size_t)(tile.row + row) * E + e) = v;
            }
            *reinterpret_cast<uint2 *>(memory + k.at.u + panelled<NT>(row, e * 2)) =
                make_uint2(bits(to_half2(v.x, v.y)), bits(to_half2(v.z, v.w)));
        }
    }
}

/* ---- project in, convolution ---- */

/* 32 channels from 32 · pair of x or z, at `to`. */
template <int NT>
__device__ __forceinline__ void store_halves(const struct self &me, const float (&d)[2][NT][4], const struct weights &w, uint32_t band,
                                             uint32_t pair, const uint8_t *to)
{
    float bias[2][2];
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            bias[m][i] = __ldg(w.bias + (band + m) * 16 + output_of(2 * i, me.lane));
    uint32_t address = shared_address(to) + panelled<NT>(me.lane % 8, pair * 64 + me.lane / 8 * 16);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint32_t h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *v = d[i / 2][n] + i % 2 * 2, b = bias[i / 2][i % 2];
            h[i] = bits(to_half2(product(v[0], w.scale, b), product(v[1], w.scale, b)));
        }
        stmatrix_x4_trans(address + n * 1024, h);
    }
}

/* Windows of runs from … from + BATCH − 1: `at` in a slot, taps `stride` apart. */
__device__ __forceinline__ void load_windows(uint32_t window[BATCH][3], uint32_t from, uint32_t n_runs, size_t at, uint32_t stride)
{
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
        window[i][0] = window[i][1] = window[i][2] = 0;
        if (from + i < n_runs) {
            const uint8_t *taps = tables()->slot[from + i] + at;
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = __ldcs(reinterpret_cast<const uint32_t *>(taps + j * stride));
        }
    }
}

/* Two channels of a run through their window, in time order; x lies at byte `at` of its row. */
template <int NT>
__device__ __forceinline__ void convolve_run(uint32_t window[3], uint8_t *x, uint32_t at, uint32_t from, uint32_t to,
                                             const float w[2][4], const float bias[2])
{
#pragma unroll 1
    for (uint32_t row = from; row < to; row++) {
        uint32_t *cell = reinterpret_cast<uint32_t *>(x + panelled<NT>(row, at)), now = *cell;
        const uint32_t taps[4] = {window[0], window[1], window[2], now};
        float2 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = __half22float2(*reinterpret_cast<const __half2 *>(&taps[j]));
        *cell = bits(__halves2half2(conv4(v[0].x, v[1].x, v[2].x, v[3].x, w[0], bias[0]),
                                    conv4(v[0].y, v[1].y, v[2].y, v[3].y, w[1], bias[1])));
        window[0] = window[1];
        window[1] = window[2];
        window[2] = now;
    }
}

/* Channels d and d + 1 of every run, a half warp per run; `window` holds the first batch. */
template <int NT>
__device__ __forceinline__ void convolve(const struct args &k, const struct self &me, const struct layer &l, size_t window_at, uint32_t n_runs,
                                         uint32_t d, uint32_t window[BATCH][3])
{
    const uint32_t stride = k.d.D * 2;
    float w[2][4], bias[2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 v = __ldg(reinterpret_cast<const float2 *>(l.conv + j * k.d.D + d));
        w[0][j] = v.x;
        w[1][j] = v.y;
    }
    float2 b = __ldg(reinterpret_cast<const float2 *>(l.conv_bias + d));
    bias[0] = b.x;
    bias[1] = b.y;
    for (uint32_t from = me.lane / 16 * BATCH; from < n_runs; from += 2 * BATCH) {
        uint32_t next[BATCH][3];
        load_windows(next, from + 2 * BATCH, n_runs, window_at, stride);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if (from + i < n_runs) {
                convolve_run<NT>(window[i], memory + k.at.x, d * 2, tables()->first[from + i], tables()->first[from + i + 1], w,
                                 bias);
                uint8_t *taps = tables()->slot[from + i] + window_at;
#pragma unroll
                for (int j = 0; j < 3; j++)
                    __stcs(reinterpret_cast<uint32_t *>(taps + j * stride), window[i][j]);
            }
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = next[i][j];
        }
    }
}

/* Jobs are pairs of bands: those of x, then those of z. */
template <int NT>
__device__ __forceinline__ void project_in(const struct args &k, const struct layer &l, uint32_t index, struct stream<2, 4> &w)
{
    const struct self me = current();
    const uint32_t pairs = k.d.D / 32, stride = k.d.D * 2, n_runs = tables()->tile.n_runs;
    for (uint32_t job = me.warp; job < 2 * pairs; job += warps()) {
        const uint32_t channel = job * 32 + me.lane % 16 * 2; /* of x */
        const size_t window_at = index * k.p.slab.conv_layer + channel * 2;
        uint32_t window[BATCH][3] = {};
        float d[2][NT][4] = {};
        if (NT == 1 && job < pairs)
            load_windows(window, me.lane / 16 * BATCH, n_runs, window_at, stride);
        struct operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        w = started<2, 4>(job + warps() < 2 * pairs, l.in_proj, 2 * (job + warps()), k.d.E, me.lane);
        if (job < pairs) {
            store_halves(me, d, l.in_proj, 2 * job, job, memory + k.at.x);
            if (NT > 1)
                load_windows(window, me.lane / 16 * BATCH, n_runs, window_at, stride);
            __syncwarp();
            convolve<NT>(k, me, l, window_at, n_runs, channel, window);
            __syncwarp();
        } else {
            store_halves(me, d, l.in_proj, 2 * job, job - pairs, memory + k.at.z);
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
__device__ __forceinline__ void select(const struct args &k, const struct layer &l, struct stream<1, 8> &w)
{
    enum { SPLIT = selection<NT>::SPLIT, N = selection<NT>::TILES };
    const struct self me = current();
    const uint32_t jobs = selection<NT>::jobs(k);
    for (uint32_t job = me.warp; job < jobs; job += warps()) {
        const uint32_t band = job / SPLIT, row = job % SPLIT * 8 * N;
        float d[1][N][4] = {};
        multiply_chunks(d, w, operand<N, NT>(memory + k.at.x + row * 128, me.lane));
        w = started<1, 8>(job + warps() < jobs, l.x_proj, (job + warps()) / SPLIT, k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t output = band * 16 + output_of(i, me.lane);
            const float bias = __ldg(l.x_proj.bias + output);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float v = product(d[0][n][i], l.x_proj.scale, bias);
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
    uint32_t channel, run, end;
    size_t at; /* of the layer's states in a slot */
    float A[16], skip;
    state16<S> next[AHEAD];

    __device__ __forceinline__ uint8_t *state(uint32_t i) const
    {
        return state_at<S>(tables()->slot[i] + at, channel);
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
__device__ __forceinline__ void scan_begin(const struct args &k, const struct layer &l, uint32_t index, struct scanner<S> &s)
{
    const struct gpu_tile &tile = tables()->tile;
    const struct self me = current();
    const uint32_t blocks = k.d.D / 32, groups = warps() / blocks, group = me.warp / blocks;
    s.channel = me.warp % blocks * 32 + me.lane;
    s.run = group < groups ? runs_before(me.lane, tile.n_runs, groups, group * tile.rows) : 0;
    s.end = group < groups ? runs_before(me.lane, tile.n_runs, groups, (group + 1) * tile.rows) : 0;
    s.at = k.p.slab.ssm_at + index * k.p.slab.ssm_layer;
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (s.run + i < s.end)
            s.next[i].load(s.state(s.run + i));
    load_A(l.A, s.channel, s.A);
    s.skip = __ldg(l.skip + s.channel);
}

/* Δ of a warp's channels, rows `row` … + 3, to its stage. Columns 4 … 7 of the mma repeat 0 … 3, and the lanes that hold
 * them look after outputs 8 … 15 of each band. */
template <int NT>
__device__ __forceinline__ void stage_deltas(const struct args &k, const struct self &me, const struct layer &l, uint32_t band, uint32_t row,
                                             const float bias[2], float *stage)
{
    const uint32_t steps = k.d.Rp / 16, high = me.lane / 2 % 2;
    const uint32_t from = shared_address(memory + k.at.dt) + min(row + me.lane % 4, 8 * NT - 1) * (k.d.Rp + DT_PAD) * 2 +
                          me.lane / 8 % 2 * 16;
    const uint4 *at = l.dt_proj.fragments + band * steps * 32 + me.lane;
    float d[2][4] = {};
    for (uint32_t step = 0; step < steps; step++) {
        uint32_t b[2];
        ldmatrix_x2(b, from + step * 32);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint4 v = __ldg(at + (m * steps + step) * 32);
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
                softplus(product(high ? d[m][2 + i] : d[m][i], l.dt_proj.scale, bias[m]));
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
__device__ __forceinline__ void scan(const struct args &k, const struct layer &l, struct scanner<S> &s)
{
    const struct self me = current();
    const uint32_t band = s.channel / 32 * 2, begin = tables()->first[s.run];
    float *stage = reinterpret_cast<float *>(memory + k.at.stage + me.warp * STAGE_BYTES), bias[2];
#pragma unroll
    for (int m = 0; m < 2; m++)
        bias[m] = __ldg(l.dt_proj.bias + (band + m) * 16 + me.lane / 2 % 2 * 8 + me.lane / 4);
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
                        stage_deltas<NT>(k, me, l, band, row, bias, stage);
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

#define OUT_DEPTH(NT) (NT > 4 ? 4 : 8) /* beside the accumulators of a tile, and of a chunk */

template <int NT>
__device__ __forceinline__ void project_out(const struct args &k, const struct layer &l, struct stream<1, OUT_DEPTH(NT)> &w)
{
    const struct self me = current();
    for (uint32_t band = me.warp; band < k.d.E / 16; band += warps()) {
        float d[1][NT][4] = {};
        multiply_chunks(d, w, operand<NT, NT>(memory + k.at.x, me.lane));
        w = started<1, OUT_DEPTH(NT)>(band + warps() < k.d.E / 16, l.out_proj, band + warps(), k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t e = band * 16 + output_of(i, me.lane);
            const float bias = __ldg(l.out_proj.bias + e);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float *r = reinterpret_cast<float *>(memory + k.at.r + swizzled(8 * n + row_of(i, me.lane), e * 4, k.d.E * 4));
                *r = __fadd_rn(*r, product(d[0][n][i], l.out_proj.scale, bias));
            }
        }
    }
}

/* Sectors of 32 bytes are written whole: eight outputs of a row by eight lanes. */
template <int NT>
__device__ __forceinline__ void head(const struct args &k, uint32_t bands, struct stream<1, 4> &w)
{
    const struct gpu_tile &tile = tables()->tile;
    const struct self me = current();
    for (uint32_t band = me.warp; band < bands; band += warps()) {
        float d[1][NT][4] = {};
        struct operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        w = started<1, 4>(band + warps() < bands, k.head, band + warps(), k.d.E, me.lane);
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const uint32_t row = 8 * n + row_of(j, me.lane);
                const uint32_t pick = row < tile.rows ? __ldg(k.p.pick + tile.row + row) : GPU_NOT_PICKED;
                if (pick != GPU_NOT_PICKED) {
#pragma unroll
                    for (int i = j; i < 4; i += 2) {
                        const uint32_t output = band * 16 + output_of(i, me.lane);
                        k.p.out[pick * k.p.ldo + output] = product(d[0][n][i], k.head.scale, __ldg(k.head.bias + output));
                    }
                }
            }
        }
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
    const uint32_t run = me.lane * warps() + me.warp;
    if (run < tables()->tile.n_runs)
        fetch_early(k, tables()->slot[run], run, index);
    __syncwarp();
}

__device__ __forceinline__ void fetch_late(const struct args &k, uint32_t index)
{
    const struct self me = current();
    const uint32_t run = k.fetch_early + me.lane * warps() + me.warp;
    if (run < min(tables()->tile.n_runs, k.fetch_late))
        prefetch_l2(tables()->slot[run] + k.p.slab.ssm_at + index * k.p.slab.ssm_layer, k.state_bytes);
    __syncwarp();
}

__device__ __forceinline__ float input(const struct args &k, const struct gpu_tile &tile, uint32_t row, uint32_t e)
{
    return k.p.tokens ? embedded(k.embedding, k.dtype, (size_t)k.p.tokens[tile.row + row] * k.d.E + e)
                      : k.p.r[(size_t)(tile.row + row) * k.d.E + e];
}

__device__ __forceinline__ void load_rows(const struct args &k, const struct gpu_tile &tile)
{
    enum { LOADS = 8 };
    const uint32_t n = tile.rows * k.d.E;
    for (uint32_t from = threadIdx.x; from < n; from += LOADS * blockDim.x) {
        float v[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const uint32_t at = from + i * blockDim.x;
            v[i] = at < n ? input(k, tile, at / k.d.E, at % k.d.E) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const uint32_t at = from + i * blockDim.x;
            if (at < n)
                *reinterpret_cast<float *>(memory + k.at.r + swizzled(at / k.d.E, at % k.d.E * 4, k.d.E * 4)) = v[i];
        }
    }
}

/* Complete after a barrier. */
__device__ __forceinline__ void open_tile(const struct args &k, const struct gpu_tile &tile)
{
    struct tables *t = tables();
    if (threadIdx.x < tile.n_runs) {
        const struct gpu_run run = k.p.runs[tile.run + threadIdx.x];
        t->slot[threadIdx.x] = run.slot;
        t->first[threadIdx.x] = run.row - tile.row;
        fetch_early(k, run.slot, threadIdx.x, 0);
    }
    if (threadIdx.x < tile.rows)
        t->g[threadIdx.x] = k.p.g[tile.row + threadIdx.x];
    if (threadIdx.x == 0) {
        t->tile = tile;
        t->n_out = k.p.head->n_out;
        t->first[tile.n_runs] = tile.rows;
    }
    load_rows(k, tile);
}

/* Every stretch begins with the barrier that it needs; the last one of a tile is the caller's. */
template <enum ssm_dtype S, int NT>
__device__ __forceinline__ void run_tile(const struct args &k, uint32_t tile)
{
    struct self me = current();
    open_tile(k, k.p.tiles[tile]);
    struct stream<2, 4> in = started<2, 4>(me.warp < k.d.D / 16, k.layers[0].in_proj, 2 * me.warp, k.d.E, me.lane);
    for (uint32_t index = 0; index < k.d.L; index++) {
        const struct layer &l = k.layers[index];
        const bool last = index + 1 == k.d.L;
        __syncthreads();
        norm<NT>(k, l.norm, NULL);
        __syncthreads();
        fetch_late(k, index);
        project_in<NT>(k, l, index, in);
        me = current();
        struct stream<1, 8> x =
            started<1, 8>(me.warp < selection<NT>::jobs(k), l.x_proj, me.warp / selection<NT>::SPLIT, k.d.D, me.lane);
        __syncthreads();
        struct scanner<S> s = {};
        if (NT == 1) /* registers allow it, and there is little else to wait behind */
            scan_begin(k, l, index, s);
        select<NT>(k, l, x);
        if (NT > 1)
            scan_begin(k, l, index, s);
        __syncthreads();
        scan<S, NT>(k, l, s);
        me = current();
        struct stream<1, OUT_DEPTH(NT)> out =
            started<1, OUT_DEPTH(NT)>(me.warp < k.d.E / 16, l.out_proj, me.warp, k.d.D, me.lane);
        if (!last)
            fetch_early(k, index + 1);
        __syncthreads();
        project_out<NT>(k, l, out);
        me = current();
        in = started<2, 4>(!last && me.warp < k.d.D / 16, k.layers[last ? index : index + 1].in_proj, 2 * me.warp, k.d.E, me.lane);
    }
    const uint32_t n_out = tables()->n_out;
    if (n_out || k.p.f) {
        me = current();
        struct stream<1, 4> w = started<1, 4>(me.warp < n_out / 16, k.head, me.warp, k.d.E, me.lane);
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
    while (chain < k.p.head->n_chains) {
        const struct gpu_chain c = k.p.chains[chain];
        if (threadIdx.x == 0)
            tables()->chain = gridDim.x + atomicAdd(&sync[0], 1u);
        for (uint32_t i = 0; i < c.n; i++) {
            run_tile<S, NT>(k, c.tile + i);
            chain = tables()->chain;
            __syncthreads();
        }
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

void gpu_resident(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t tile_rows, uint32_t n_chains,
                  cudaStream_t stream)
{
    if (!n_chains)
        return;
    const struct gpu_dims &d = m->d;
    const uint32_t sms = sms_of_device();
    const bool pairs = n_chains > sms && d.D <= D_MAX / 2 && places_of(d, tile_rows, THREADS_MAX / 64).bytes <= PAIR_BYTES;
    const uint32_t blocks = pairs ? 2 : 1, threads = THREADS_MAX / blocks;
    struct args k = {};
    k.p = *p;
    k.d = d;
    k.at = places_of(d, tile_rows, threads / 32);
    k.window_bytes = 3 * d.D * sizeof(uint16_t);
    k.state_bytes = d.D * d.N * (uint32_t)ssm_dtype_bytes(state);
    const uint32_t windows = tile_rows * k.window_bytes, room = FETCH_BYTES / blocks;
    k.fetch_late = FETCH_STATES / blocks / k.state_bytes;
    k.fetch_early = room > windows ? std::min((room - windows) / k.state_bytes, k.fetch_late) : 0;
    k.dtype = m->dtype;
    k.embedding = m->embedding;
    k.norm_f = m->norm_f;
    k.head = weights_of(m->head);
    for (uint32_t i = 0; i < d.L; i++)
        k.layers[i] = layer_of(m->layers[i]);
    const int size = tile_rows == 64 ? 3 : tile_rows == 32 ? 2 : tile_rows == 16 ? 1 : 0;
    kernels[state][size]<<<std::min(n_chains, sms * blocks), threads, k.at.bytes, stream>>>(k);
}
