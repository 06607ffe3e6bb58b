/* few_block.cuh: a block of few.cu: its parameters, where in shared memory things lie, its barriers, and the words
 * that blocks tell each other. */
#ifndef SSM_CUDA_FEW_BLOCK_CUH
#define SSM_CUDA_FEW_BLOCK_CUH

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"

#include <cstddef>

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,  /* that compute */
    BLOCK = THREADS + 128, /* registers change hands by fours of warps */
    ITEM = 8,
    TILE = 16,
    SEGMENT = ITEM * GPU_CHUNK * 2, /* bytes of 8 outputs × 256 k's: contiguous in gpu_matrix.tiled */
    PANEL = 2 * SEGMENT,
    DEPTH_MAX = 3,        /* stages per warp; 3 fill the shared memory */
    VECTORS = 8,          /* of 4 floats, held per lane */
    SPAN = 128 * VECTORS, /* … per warp: a residual of up to so many elements is read once, a longer one twice */
    GATE = 128,           /* words of a row that are asked for over and over, the rest when they are there */
    CORES = 24,           /* eights of k's of dt_proj: Rp ≤ 192 */
    MOST = 3,             /* vectors of 4 of a lone row's residual that a thread holds: E ≤ 3072 */
    PAD = 8,              /* halves after a row of operands: rows fall into different banks */
    CHUNK_ROW = (GPU_CHUNK + PAD) * 2,
    SUM_ROW = 20, /* floats from a row of a panel's 16 sums to the next, likewise */
    HEAD_PANELS = 24,
    SHARED_BYTES = 227 * 1024,
    ASKS_MAX = 1 << 24 /* some seconds: a word that never comes is an error of the launch, not a hang */
};
#define ABSENT 0xffffffffu

struct few_model {
    uint32_t E, D, L, Rp;
    float eps;
    enum ssm_dtype dtype;
    const void *embedding;
    const struct gpu_layer *layers;
    const float *norm_f;
    const uint16_t *head;
    const float *head_bias;
    float head_scale;
};

/* What a layer's phases need of struct gpu_layer, in shared memory. */
struct few_layer {
    const float *norm;
    const uint16_t *in, *x, *dt, *out;
    const float *in_bias, *x_bias, *dt_bias, *out_bias;
    const float *conv, *conv_bias, *A, *skip;
    float in_scale, x_scale, dt_scale, out_scale;
};

/* At the start of shared memory. */
struct control {
    uint64_t full[DEPTH_MAX * WARPS], empty[DEPTH_MAX * WARPS], norm_full[2], norm_empty[2]; /* mbarriers */
    uint4 zeros[GPU_CHUNK * 2 / 16]; /* an absent row's operands */
    struct gpu_run runs[GPU_FEW_ROWS];
    uint32_t run_of[GPU_FEW_ROWS], pick[GPU_FEW_ROWS];
    float g[GPU_FEW_ROWS];
};

/* Offsets into shared memory. */
struct layout {
    uint32_t layers; /* struct few_layer [L] */
    uint32_t norm;   /* fp32 [2][E]: weights of this layer's norm and the next one's; a lone row: [E] the residual */
    uint32_t dt;     /* fp16 [rows][Rp + PAD] */
    uint32_t bc;     /* fp32 [rows][2·16] */
    uint32_t x, z;   /* fp16 [items][rows][ITEM] */
    uint32_t sums;   /* fp32 [panels][rows][SUM_ROW] */
    uint32_t act;    /* fp16: u [rows][E + PAD], or [WARPS][rows] of CHUNK_ROW bytes: a warp's chunk of xc or y */
    uint32_t ring;   /* [depth][WARPS] panels */
    uint32_t panels, depth;
};

static __host__ __device__ uint32_t share(uint32_t n, uint32_t parts)
{
    return (n + parts - 1) / parts;
}

static __host__ __device__ uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static __host__ __device__ uint32_t select_tiles(const struct few_model &m)
{
    return m.Rp / TILE + 2;
}

static __host__ __device__ struct layout lay_out(const struct few_model &m, uint32_t blocks, uint32_t rows)
{
    uint32_t items = share(m.D / ITEM, blocks), e_chunks = share(m.E, GPU_CHUNK), d_chunks = share(m.D, GPU_CHUNK);
    uint32_t tiles = larger(share(m.E / TILE, blocks), share(select_tiles(m), blocks));
    struct layout at;
    at.panels = larger(larger(items * e_chunks, tiles * d_chunks), HEAD_PANELS);
    at.layers = sizeof(struct control);
    at.norm = (at.layers + m.L * (uint32_t)sizeof(struct few_layer) + 127) / 128 * 128;
    at.dt = at.norm + (rows == 1 ? 1 : 2) * m.E * 4;
    at.bc = at.dt + rows * (m.Rp + PAD) * 2;
    at.x = at.bc + rows * 2 * 16 * 4;
    at.z = at.x + items * rows * ITEM * 2;
    at.sums = at.z + items * rows * ITEM * 2;
    at.act = at.sums + at.panels * rows * SUM_ROW * 4;
    at.ring = (at.act + larger(rows * (m.E + PAD) * 2, WARPS * rows * CHUNK_ROW) + 127) / 128 * 128;
    uint32_t stages = at.ring < SHARED_BYTES ? (SHARED_BYTES - at.ring) / (WARPS * PANEL) : 0;
    at.depth = stages < DEPTH_MAX ? stages : DEPTH_MAX;
    return at;
}

/* Words told for a row and a layer: r before it [E], xc [D] as fp16, x_proj's outputs [Rp + 2N], y [D] as fp16. */
static __host__ __device__ uint32_t record_words(const struct few_model &m)
{
    return m.E + m.D + m.Rp + 2 * 16;
}

/* … and for a row: after the last layer comes r once more. */
static __host__ __device__ size_t row_words(const struct few_model &m)
{
    return (size_t)m.L * record_words(m) + m.E;
}

struct block {
    const struct few_model &m;
    const struct gpu_pass &p;
    struct layout at;
    uint8_t *shared;
    uint32_t base; /* its address for ptx.cuh */
    uint32_t rows, n_runs, warp, lane;
    uint32_t items;               /* own items: blockIdx.x + gridDim.x·i */
    uint32_t out, outs;           /* own tiles of out_proj: out + gridDim.x·i, i < outs */
    uint32_t select, selects;     /* … of x_proj */
    uint32_t heads;               /* … of the head: blockIdx.x + gridDim.x·i */
    uint32_t next, stage, parity; /* next panel's index modulo WARPS; where this warp's own next one lies */
};

static __device__ __forceinline__ struct control *control_of(const struct block &b)
{
    return reinterpret_cast<struct control *>(b.shared);
}

static __device__ __forceinline__ const struct few_layer &layer_of(const struct block &b, uint32_t l)
{
    return reinterpret_cast<const struct few_layer *>(b.shared + b.at.layers)[l];
}

/* Where the barriers of a panel's place and of a norm's weights are. */
static __device__ __forceinline__ uint32_t full_at(const struct block &b, uint32_t slot)
{
    return b.base + offsetof(struct control, full) + 8 * slot;
}

static __device__ __forceinline__ uint32_t empty_at(const struct block &b, uint32_t slot)
{
    return b.base + offsetof(struct control, empty) + 8 * slot;
}

static __device__ __forceinline__ uint32_t norm_full_at(const struct block &b, uint32_t l)
{
    return b.base + offsetof(struct control, norm_full) + 8 * (l % 2);
}

static __device__ __forceinline__ uint32_t norm_empty_at(const struct block &b, uint32_t l)
{
    return b.base + offsetof(struct control, norm_empty) + 8 * (l % 2);
}

/* Has v ready here, before a wait; the compiler would put it where it is used, behind. */
template <class T> static __device__ __forceinline__ void early(T *&v)
{
    asm volatile("" : "+l"(v));
}

static __device__ __forceinline__ void early(uint32_t &v)
{
    asm volatile("" : "+r"(v));
}

/* All warps that compute. */
static __device__ __forceinline__ void meet(void)
{
    group_sync<THREADS>(1);
}

/* ---- words between blocks ---- */

static __device__ __forceinline__ uint32_t *record(const struct block &b, uint32_t row, uint32_t l)
{
    return reinterpret_cast<uint32_t *>(b.p.partial) + row * row_words(b.m) + l * record_words(b.m);
}

/* Where x_proj's outputs and y begin in a record; r is at 0, xc at E. */
static __device__ __forceinline__ uint32_t select_at(const struct block &b)
{
    return b.m.E + b.m.D / 2;
}

static __device__ __forceinline__ uint32_t y_at(const struct block &b)
{
    return select_at(b) + b.m.Rp + 2 * 16;
}

static __device__ __forceinline__ void tell(uint32_t *at, uint32_t word)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
}

static __device__ __forceinline__ uint4 ask(const uint32_t *at)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
}

/* ABSENT if any word is. */
static __device__ __forceinline__ uint32_t largest(uint4 v)
{
    return max(max(v.x, v.y), max(v.z, v.w));
}

static __device__ __forceinline__ void count_ask(uint32_t *asks)
{
    if (++*asks > ASKS_MAX)
        __trap();
}

static __device__ __forceinline__ uint4 await(const uint32_t *at)
{
    uint32_t asks = 0;
    uint4 v;
    do {
        count_ask(&asks);
        v = ask(at);
    } while (largest(v) == ABSENT);
    return v;
}

/* Up to SPAN words: vector j is words 128·j + 4·lane …, zeros beyond the last. While there is nothing yet, only the
 * first GATE words are asked for: readers all over the chip would crowd the weights out of L2's ports. */
static __device__ __forceinline__ void await_span(uint4 v[VECTORS], const uint32_t *at, uint32_t lane, uint32_t words)
{
#pragma unroll
    for (uint32_t j = 0; j < VECTORS; j++)
        v[j] = make_uint4(0, 0, 0, 0);
    for (uint32_t to = GATE;; to = words) {
        uint32_t asks = 0, worst;
        do {
            count_ask(&asks);
            worst = 0;
#pragma unroll
            for (uint32_t j = 0; j < VECTORS; j++)
                if (128 * j < to && 128 * j + 4 * lane < words)
                    v[j] = ask(at + 128 * j + 4 * lane);
#pragma unroll
            for (uint32_t j = 0; j < VECTORS; j++)
                worst = max(worst, largest(v[j]));
        } while (worst == ABSENT);
        if (to >= words)
            return;
    }
}

/* Of rows 1 …, a lane's 8 activations: the first row's are there. */
static __device__ __forceinline__ void fetch_others(const struct block &b, const uint32_t *at, uint8_t *to)
{
    const size_t step = row_words(b.m);
    uint32_t asks = 0, worst;
    uint4 v[GPU_FEW_ROWS];
#pragma unroll
    for (uint32_t row = 1; row < GPU_FEW_ROWS; row++)
        v[row] = make_uint4(0, 0, 0, 0);
    do {
        count_ask(&asks);
        worst = 0;
#pragma unroll
        for (uint32_t row = 1; row < GPU_FEW_ROWS; row++)
            if (row < b.rows)
                v[row] = ask(at + row * step);
#pragma unroll
        for (uint32_t row = 1; row < GPU_FEW_ROWS; row++)
            worst = max(worst, largest(v[row]));
    } while (worst == ABSENT);
#pragma unroll
    for (uint32_t row = 1; row < GPU_FEW_ROWS; row++)
        if (row < b.rows)
            *reinterpret_cast<uint4 *>(to + row * CHUNK_ROW) = v[row];
}

/* Up to 256 fp16 activations of every row, this lane's 8 from `at` in the first row's record; `v`: what was there when
 * it was asked for ahead. */
static __device__ __forceinline__ void fetch(const struct block &b, const uint32_t *at, uint4 v, uint8_t *to,
                                             uint32_t width)
{
    __syncwarp();
    if (b.lane * 8 < width) {
        *reinterpret_cast<uint4 *>(to) = largest(v) == ABSENT ? await(at) : v;
        if (b.rows > 1)
            fetch_others(b, at, to);
    }
    __syncwarp();
}

/* The barrier over the grid, in two halves; thread 0 of every block. Every arrival adds so much that 2^31 come
 * together: the highest bit turns over, and the word is as the next launch needs it. */
static __device__ __forceinline__ uint32_t arrive(uint32_t *word)
{
    __threadfence();
    return atomicAdd(word, blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u);
}

static __device__ __forceinline__ void await_all(const uint32_t *word, uint32_t seen)
{
    uint32_t asks = 0, now;
    do {
        count_ask(&asks);
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
    } while (((now ^ seen) & 0x80000000u) == 0);
}

#endif
