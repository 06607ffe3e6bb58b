/* resident_block.cuh: a block of resident.cu: what its launch is told, where in shared memory things lie, how weights
 * come in, and products of the rows of a tile. */
#ifndef SSM_CUDA_RESIDENT_BLOCK_CUH
#define SSM_CUDA_RESIDENT_BLOCK_CUH

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"
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

} // namespace

#endif
