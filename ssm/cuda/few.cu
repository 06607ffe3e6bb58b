/* few.cu: large models, few rows: a pass of up to 8 rows through the whole model in one launch. One block per SM, all
 * resident (cooperative launch). Weights flow through a ring of panels in shared memory without a pause, across phases
 * and layers and into the head; activations go from block to block through L2.
 *
 * Work. A panel is 16 outputs × up to 256 k's of a matrix (8 KB): one warp, one mma accumulator, one partial sum. Each
 * block owns the same channels and outputs in every layer, so its states, windows and residual are its own:
 *
 *   item   8 channels: their x and z rows of in_proj (as one panel's 16 outputs), convolution, Δ, scan      D/8 items
 *   tile   16 outputs of out_proj, x_proj or the head                                                       n/16 tiles
 *
 *   in      u = norm(r), x and z = in_proj·u, convolution    waits for r,          tells xc    own items
 *   select  x_proj·xc                                        waits for xc,         tells Δ's input, B, C    own tiles
 *   scan    Δ, states, gate                                  waits for Δ's, B, C,  tells y     own items
 *   out     r += out_proj·y                                  waits for y,          tells r     own tiles
 *
 * Items go round the blocks from the first, tiles from the last, so that bytes per block come out even.
 *
 * Between blocks there is no barrier and no flag: every 32-bit word that one block tells the others has a place of its
 * own in p.partial, filled with ABSENT at the start of the launch, and readers ask until it is there. No arithmetic
 * makes ABSENT: a NaN comes out as 0x7fffffff, and to_half() makes none. A word is all that a reader needs, so relaxed
 * loads and stores do. One barrier over the grid, hidden behind the first weights' way, parts ABSENT from the first
 * words told. A phase costs one way through L2 (about 1000 clk) instead of release, barrier and load (about 2700).
 *
 * Warps 0…7 compute, warp 8 feeds: panel n of the block's list goes to warp n % 8, stage n / 8 % depth; the order of
 * the list is that of the loops in feed(), and take_turn() counts along. Traps: (1) a stage of the ring is waited for
 * by one warp only, each time in turn, because a parity wait that skips a turn can return early; (2) loads that do not
 * depend on other blocks are issued before the wait for words: behind it they would cost their own way from HBM; (3)
 * between two uses of `sums` or `act` there is always a meet().
 *
 * Counts, B = 1, bf16 weights, fp32 state, 132 blocks; HBM at 3.0 TB/s, 1.98 GHz. A layer's chain: 4 ways through L2 of
 * 1000 clk, 3 sums of 16 mma of 33 clk, norm 600, convolution 250, Δ and scan 450, the rest of 4 phases 1100: 8000 clk.
 * What does not follow the chain is HBM's: the ring holds 25 MB, 8.4 µs of it.
 *
 *                    weights   states rw   HBM       chain          expected
 *   mamba-130m        256 MB      5 MB      87 µs    24 × 4.0 µs    118 µs: chain, then 52 of the head's 77 MB
 *   MambaByte-972M   1938 MB     22 MB     653 µs    48 × 5.5 µs    665 µs: HBM, start and end
 *   MambaByte-1.6B   3200 MB     28 MB    1076 µs    48 × 6.5 µs    1090 … 1150 µs: HBM; 12 blocks have two tiles
 *
 * Ladder (µs on an H100, B = 1, fp32 states: mamba-130m, MambaByte-972M, MambaByte-1.6B):
 *   293, 1308, 1943   words polled, one warp norms, a panel's weights loaded after its activations
 *   247, 1118, 1747   weights of the first panel in registers before its activations come
 *   228, 1042, 1698   addresses before waits, registers for the warps that compute
 *   231, 921, 1451    a lone row is normed by the whole block, the next panel's activations asked for behind a product
 *   224, 913, 1449    words that have come are not asked for again
 *   217, 749, –       one H200 (221, 743 before): 32 arrivals and a fence free a panel, no panel is read unasked
 *
 * The stream alone (nothing computed) takes 87 and 628 µs, 3.1 TB/s: what is left is the chain, 8 µs a layer for
 * mamba-130m. Tried: panels fetched into L2 ahead of the ring (1 to 3 % slower), no evict-first policy (1 % slower),
 * naps between polls (2 % slower), all of a long residual held by one warp (280, 1140, 1620). */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"

#include <algorithm>
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
    CORES = 24,           /* eights of k's of dt_proj: Rp ≤ 192, which goes with E ≤ 3072 */
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

/* ---- weights in: one thread ---- */

struct feed {
    uint32_t warp, stage, parity; /* of the next panel */
    uint64_t policy;
};

/* 16 outputs × width k's: 8 from `lo`, 8 from `hi`. */
static __device__ __forceinline__ void feed_panel(const struct block &b, struct feed &f, const uint16_t *lo,
                                                  const uint16_t *hi, uint32_t width)
{
    const uint32_t slot = f.stage * WARPS + f.warp, bytes = width * ITEM * 2, full = full_at(b, slot);
    const uint32_t to = b.base + b.at.ring + slot * PANEL;
    mbarrier_wait(empty_at(b, slot), f.parity ^ 1);
    mbarrier_expect(full, 2 * bytes);
    bulk_load_once(to, lo, bytes, full, f.policy);
    bulk_load_once(to + SEGMENT, hi, bytes, full, f.policy);
    if (++f.warp < WARPS)
        return;
    f.warp = 0;
    if (++f.stage == b.at.depth) {
        f.stage = 0;
        f.parity ^= 1;
    }
}

/* Eights `lo` and `hi` of a matrix's outputs, over all k. */
static __device__ __forceinline__ void feed_outputs(const struct block &b, struct feed &f, const uint16_t *tiled,
                                                    uint32_t k, uint32_t lo, uint32_t hi)
{
    const uint16_t *first = tiled + (size_t)lo * ITEM * k, *second = tiled + (size_t)hi * ITEM * k;
    for (uint32_t from = 0; from < k; from += GPU_CHUNK)
        feed_panel(b, f, first + from * ITEM, second + from * ITEM, min(k - from, (uint32_t)GPU_CHUNK));
}

static __device__ __forceinline__ void feed_norm(const struct block &b, uint32_t l, const float *norm)
{
    const uint32_t bytes = b.m.E * 4;
    mbarrier_wait(norm_empty_at(b, l), (l >> 1 & 1) ^ 1);
    mbarrier_expect(norm_full_at(b, l), bytes);
    bulk_load(b.base + b.at.norm + l % 2 * bytes, norm, bytes, norm_full_at(b, l));
}

static __device__ __forceinline__ uint32_t heads_at_once(const struct block &b)
{
    return b.at.panels / share(b.m.E, GPU_CHUNK);
}

static __device__ __forceinline__ bool does_head(const struct block &b)
{
    return b.heads > 0 || (b.p.f && blockIdx.x == 0);
}

static __device__ void feed(const struct block &b)
{
    const uint32_t E = b.m.E, D = b.m.D, blocks = gridDim.x;
    struct feed f = {0, 0, 0, evict_first()};
    for (uint32_t l = 0; l < b.m.L; l++) {
        const struct few_layer &w = layer_of(b, l);
        if (b.rows > 1)
            feed_norm(b, l, w.norm);
        for (uint32_t i = 0, item = blockIdx.x; i < b.items; i++, item += blocks)
            feed_outputs(b, f, w.in, E, item, D / ITEM + item);
        for (uint32_t i = 0, tile = b.select; i < b.selects; i++, tile += blocks)
            feed_outputs(b, f, w.x, D, 2 * tile, 2 * tile + 1);
        for (uint32_t i = 0, tile = b.out; i < b.outs; i++, tile += blocks)
            feed_outputs(b, f, w.out, D, 2 * tile, 2 * tile + 1);
    }
    if (does_head(b) && b.rows > 1)
        feed_norm(b, b.m.L, b.m.norm_f);
    for (uint32_t i = 0, tile = blockIdx.x; i < b.heads; i++, tile += blocks)
        feed_outputs(b, f, b.m.head, E, 2 * tile, 2 * tile + 1);
}

/* ---- products ---- */

/* A panel as mma takes it. */
struct fragments {
    uint32_t w[GPU_CHUNK / 16][4];
};

/* What lies in this warp's next place, all of it, however wide the panel. */
static __device__ __forceinline__ void load_panel(const struct block &b, struct fragments *f)
{
    const uint32_t slot = b.stage * WARPS + b.warp, i = b.lane / 8, j = b.lane % 8;
    const uint32_t from = b.base + b.at.ring + slot * PANEL + i % 2 * SEGMENT + i / 2 * 128 + j * 16;
#pragma unroll
    for (uint32_t k = 0; k < GPU_CHUNK; k += 16)
        ldmatrix_x4(f->w[k / 16], from + k * 16);
}

static __device__ __forceinline__ void await_panel(const struct block &b)
{
    mbarrier_wait(full_at(b, b.stage * WARPS + b.warp), b.parity);
}

static __device__ __forceinline__ void release_panel(struct block &b)
{
    fence_async_proxy();
    mbarrier_arrive(empty_at(b, b.stage * WARPS + b.warp));
    if (++b.stage == b.at.depth) {
        b.stage = 0;
        b.parity ^= 1;
    }
}

/* acc = panel · activations, `width` k's. from: this lane's ldmatrix address of the latter. */
static __device__ __forceinline__ void multiply(const struct block &b, float acc[4], const struct fragments &f,
                                                uint32_t from, uint32_t width)
{
    const uint32_t zeros = b.base + offsetof(struct control, zeros), k_lane = b.lane / 8 * 8;
    uint32_t v[GPU_CHUNK / 32][4];
    if (width == GPU_CHUNK) {
#pragma unroll
        for (uint32_t k = 0; k < GPU_CHUNK; k += 32)
            ldmatrix_x4(v[k / 32], from + k * 2);
    } else {
#pragma unroll
        for (uint32_t k = 0; k < GPU_CHUNK; k += 32)
            ldmatrix_x4(v[k / 32], k + k_lane < width ? from + k * 2 : zeros);
    }
    acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < GPU_CHUNK; k += 16) {
        if (k >= width)
            break;
        mma_16816(acc, f.w[k / 16], v[k / 32] + k / 16 % 2 * 2);
    }
}

/* Sums of a panel: row after row of 16 outputs, SUM_ROW floats apart. */
static __device__ __forceinline__ float *sums_of(const struct block &b, uint32_t panel)
{
    return reinterpret_cast<float *>(b.shared + b.at.sums) + panel * b.rows * SUM_ROW;
}

static __device__ __forceinline__ void store_sums(const struct block &b, float *to, const float acc[4])
{
    const uint32_t row = b.lane % 4 * 2;
    if (row < b.rows) {
        to[0] = acc[0];
        to[8] = acc[2];
    }
    if (row + 1 < b.rows) {
        to[SUM_ROW] = acc[1];
        to[SUM_ROW + 8] = acc[3];
    }
}

/* Over a tile's chunks in ascending order. */
static __device__ __forceinline__ float total(const struct block &b, const float *sums, uint32_t chunks)
{
    const uint32_t step = b.rows * SUM_ROW;
    float t = *sums;
#pragma unroll 4
    for (uint32_t c = 1; c < chunks; c++)
        t = __fadd_rn(t, sums[c * step]);
    return t;
}

/* This warp's part of the next panels, chunk after chunk of k's, into `sums`, from panel `panel` on, which is loaded.
 * `told`: where the first row's activations come from, NULL: u. */
static __device__ __forceinline__ void do_panels(struct block &b, uint32_t panel, uint32_t n, uint32_t k,
                                                 const uint32_t *told, struct fragments &f)
{
    const uint32_t chunks = share(k, GPU_CHUNK), row = b.lane % 8, own = b.at.act + b.warp * b.rows * CHUNK_ROW;
    const uint32_t first = b.base + b.lane / 8 * 16 + (told ? own + row * CHUNK_ROW : b.at.act + row * (k + PAD) * 2);
    uint8_t *fetched = b.shared + own + b.lane * 16;
    uint4 ahead = make_uint4(ABSENT, ABSENT, ABSENT, ABSENT);
    early(fetched);
    for (uint32_t chunk = panel % chunks, next;; chunk = next) {
        const uint32_t width = min(k - chunk * GPU_CHUNK, (uint32_t)GPU_CHUNK);
        uint32_t from = row < b.rows ? first + (told ? 0 : chunk * GPU_CHUNK * 2)
                                     : b.base + (uint32_t)offsetof(struct control, zeros);
        float *to = sums_of(b, panel) + b.lane % 4 * 2 * SUM_ROW + b.lane / 4, acc[4];
        early(from);
        early(to);
        next = (chunk + WARPS) % chunks;
        if (told) {
            fetch(b, told + chunk * (GPU_CHUNK / 2) + b.lane * 4, ahead, fetched, width);
            if (panel + WARPS < n && next * GPU_CHUNK + b.lane * 8 < k) /* its way is hidden behind the product */
                ahead = ask(told + next * (GPU_CHUNK / 2) + b.lane * 4);
        }
        multiply(b, acc, f, from, width);
        store_sums(b, to, acc);
        release_panel(b);
        panel += WARPS;
        if (panel >= n)
            return;
        await_panel(b);
        load_panel(b, &f);
    }
}

/* ---- norm ---- */

static __device__ __forceinline__ float4 floats(uint4 v)
{
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

/* Of this warp's row before layer l, elements from `from` on; zeros beyond the last. */
static __device__ __forceinline__ void await_residual(const struct block &b, uint4 v[VECTORS], uint32_t l,
                                                      uint32_t from)
{
    const uint32_t words = min(b.m.E - from, (uint32_t)SPAN);
    await_span(v, record(b, b.warp, l) + from, b.lane, words);
}

/* u of this warp's row, of several, before layer l; l = L: after the last one, and f where wanted. */
static __device__ __forceinline__ void normalise(const struct block &b, uint32_t l)
{
    const uint32_t row = b.warp, E = b.m.E;
    const float *weights = reinterpret_cast<const float *>(b.shared + b.at.norm) + (l & 1) * E;
    __half *u = reinterpret_cast<__half *>(b.shared + b.at.act) + row * (E + PAD);
    float *f = l == b.m.L && blockIdx.x == 0 ? b.p.f : NULL;
    uint4 v[VECTORS];
    float s = 0.0f;
    mbarrier_wait(norm_full_at(b, l), l >> 1 & 1);
#pragma unroll 1
    for (uint32_t from = 0; from < E; from += SPAN) {
        await_residual(b, v, l, from);
#pragma unroll
        for (uint32_t j = 0; j < VECTORS; j++)
            s = add_squares(s, floats(v[j]));
    }
    const float rstd = rstd_of(s, E, b.m.eps);
#pragma unroll 1
    for (uint32_t from = 0; from < E; from += SPAN) {
        float4 w[VECTORS];
        if (E > SPAN)
            await_residual(b, v, l, from);
#pragma unroll
        for (uint32_t j = 0; j < VECTORS; j++) {
            uint32_t e = from + 128 * j + 4 * b.lane;
            w[j] = e < E ? *reinterpret_cast<const float4 *>(weights + e) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (uint32_t j = 0; j < VECTORS; j++) {
            uint32_t e = from + 128 * j + 4 * b.lane;
            w[j] = normed4(floats(v[j]), rstd, w[j]);
            uint2 h = to_half4(w[j]);
            if (e < E)
                *reinterpret_cast<uint2 *>(u + e) = h;
        }
        if (!f)
            continue;
#pragma unroll
        for (uint32_t j = 0; j < VECTORS; j++) {
            uint32_t e = from + 128 * j + 4 * b.lane;
            if (e < E)
                *reinterpret_cast<float4 *>(f + (size_t)row * E + e) = w[j];
        }
    }
    fence_async_proxy();
    mbarrier_arrive(norm_empty_at(b, l));
}

/* u of a lone row before layer l, by the whole block: each thread its own vectors, the sum by every warp. */
static __device__ __forceinline__ void normalise_alone(const struct block &b, uint32_t l)
{
    enum { MOST = 3 };
    const uint32_t E = b.m.E;
    const float *weights = l == b.m.L ? b.m.norm_f : layer_of(b, l).norm;
    const uint32_t *told = record(b, 0, l);
    float *r = reinterpret_cast<float *>(b.shared + b.at.norm);
    __half *u = reinterpret_cast<__half *>(b.shared + b.at.act);
    float4 w[MOST];
    uint4 v[MOST];
    uint32_t asks = 0, worst;
#pragma unroll
    for (uint32_t i = 0; i < MOST; i++) {
        uint32_t e = (threadIdx.x + i * THREADS) * 4;
        v[i] = make_uint4(0, 0, 0, 0);
        if (e >= E)
            continue;
        v[i].x = ABSENT;
        w[i] = __ldg(reinterpret_cast<const float4 *>(weights + e));
    }
    do { /* what is there is not asked for again: it would crowd the weights out of L2's ports */
        count_ask(&asks);
        worst = 0;
#pragma unroll
        for (uint32_t i = 0; i < MOST; i++)
            if (largest(v[i]) == ABSENT)
                v[i] = ask(told + (threadIdx.x + i * THREADS) * 4);
#pragma unroll
        for (uint32_t i = 0; i < MOST; i++)
            worst = max(worst, largest(v[i]));
    } while (worst == ABSENT);
#pragma unroll
    for (uint32_t i = 0; i < MOST; i++)
        if ((threadIdx.x + i * THREADS) * 4 < E)
            *reinterpret_cast<uint4 *>(r + (threadIdx.x + i * THREADS) * 4) = v[i];
    meet();
    const float rstd = row_rstd(r, E, b.m.eps);
#pragma unroll
    for (uint32_t i = 0; i < MOST; i++) {
        uint32_t e = (threadIdx.x + i * THREADS) * 4;
        if (e >= E)
            continue;
        float4 n = normed4(floats(v[i]), rstd, w[i]);
        *reinterpret_cast<uint2 *>(u + e) = to_half4(n);
        if (l == b.m.L && blockIdx.x == 0 && b.p.f)
            *reinterpret_cast<float4 *>(b.p.f + e) = n;
    }
}

/* ---- convolution ---- */

/* A thread's channel and row: index i of the block's items × rows × 8 channels. Values as loaded: what is converted is
 * waited for. */
struct place {
    float w[4], bias, x_bias, z_bias;
    uint16_t old[3];   /* of the convolution's four inputs, those from before the pass */
    uint16_t *window;  /* of the run */
    const float *sums; /* of x; z's are 8 on */
    uint32_t *to;      /* xc's word; NULL: the channel before stores it */
    uint32_t t, T;     /* row of the run */
};

static __device__ __forceinline__ void load_place(const struct block &b, uint32_t l, uint32_t i, struct place *ret)
{
    const uint32_t channel = i % ITEM, item = i / ITEM / b.rows, row = i / ITEM - item * b.rows;
    const uint32_t d = (blockIdx.x + item * gridDim.x) * ITEM + channel, D = b.m.D;
    const struct few_layer &w = layer_of(b, l);
    const struct gpu_run &run = control_of(b)->runs[control_of(b)->run_of[row]];
    ret->window = reinterpret_cast<uint16_t *>(run.slot + l * b.p.slab.conv_layer) + d;
    ret->t = row - run.row;
    ret->T = run.T;
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
        ret->w[k] = __ldg(w.conv + k * D + d);
    ret->bias = __ldg(w.conv_bias + d);
    ret->x_bias = __ldg(w.in_bias + d);
    ret->z_bias = __ldg(w.in_bias + D + d);
#pragma unroll
    for (uint32_t k = 0; k < 3; k++)
        ret->old[k] = ret->t + k < 3 ? __ldcs(ret->window + (ret->t + k) * D) : (uint16_t)0;
    ret->sums = sums_of(b, item * share(b.m.E, GPU_CHUNK)) + row * SUM_ROW + channel;
    ret->to = channel % 2 == 0 ? record(b, row, l) + b.m.E + d / 2 : NULL;
    early(ret->sums);
    early(ret->to);
}

static __device__ __forceinline__ float conv_input(const struct block &b, const struct place &at, uint32_t back,
                                                   float scale)
{
    return __half2float(
        to_half(product(total(b, at.sums - back * SUM_ROW, share(b.m.E, GPU_CHUNK)), scale, at.x_bias)));
}

/* z and xc into shared memory, the inputs of a run's last row to its window. */
static __device__ __forceinline__ void keep_place(const struct block &b, const struct place &at, uint32_t i,
                                                  float scale, const float x[4], __half xc)
{
    float z = product(total(b, at.sums + ITEM, share(b.m.E, GPU_CHUNK)), scale, at.z_bias);
    reinterpret_cast<__half *>(b.shared + b.at.x)[i] = xc;
    reinterpret_cast<__half *>(b.shared + b.at.z)[i] = to_half(z);
    if (at.t + 1 < at.T)
        return;
#pragma unroll
    for (uint32_t k = 0; k < 3; k++)
        at.window[k * b.m.D] = __half_as_ushort(__float2half_rn(x[k + 1]));
}

/* All places; `at`: this thread's first. */
static __device__ __forceinline__ void convolve(const struct block &b, uint32_t l, struct place &at)
{
    const uint32_t n = b.items * b.rows * ITEM;
    const float scale = layer_of(b, l).in_scale;
#pragma unroll 1
    for (uint32_t i = threadIdx.x, first = 0; first < n; i += THREADS, first += THREADS) {
        if (first > 0) {
            if (i < n)
                load_place(b, l, i, &at);
            meet(); /* a window is read by all of its run's rows before it is written */
        }
        float x[4] = {};
        __half xc = __ushort_as_half(0);
        if (i < n) {
            x[3] = conv_input(b, at, 0, scale);
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                x[k] = at.t + k < 3 ? __half2float(__ushort_as_half(at.old[k])) : conv_input(b, at, 3 - k, scale);
            xc = conv4(x[0], x[1], x[2], x[3], at.w, at.bias);
        }
        const uint32_t word = __half_as_ushort(xc) | __shfl_down_sync(0xffffffffu, (uint32_t)__half_as_ushort(xc), 1)
                                                         << 16;
        if (i >= n)
            continue;
        if (at.to)
            tell(at.to, word);
        keep_place(b, at, i, scale, x, xc);
    }
}

/* ---- scan: Δ = softplus(dt_proj·dt); states; gate ---- */

/* A warp takes an item's rows of one run: lane 4c + q has states 4q … 4q+3 of channel c, which is also how mma deals
 * out an eight of outputs. */
template <enum ssm_dtype S> struct scan {
    struct state4<S> state;
    uint8_t *state_at;
    float A[4], skip;
    uint32_t row, rows; /* of the run */
    uint32_t x;         /* the first row's place in shared x and z */
    uint32_t *to;       /* y's word */
};

/* An item's part of dt_proj. */
struct step {
    uint32_t w[CORES]; /* fragments of mma */
    float bias;
};

template <enum ssm_dtype S>
static __device__ __forceinline__ void load_scan(const struct block &b, uint32_t l, uint32_t job, struct scan<S> *s)
{
    const struct few_layer &w = layer_of(b, l);
    const uint32_t own = job % b.items, item = blockIdx.x + own * gridDim.x, channel = b.lane / 4, q = b.lane % 4;
    const uint32_t d = item * ITEM + channel;
    const struct gpu_run &run = control_of(b)->runs[job / b.items];
    s->state_at = state4_at<S>(run.slot + b.p.slab.ssm_at + l * b.p.slab.ssm_layer, d, q);
    s->state.load(s->state_at);
    float4 A = __ldg(reinterpret_cast<const float4 *>(w.A + (size_t)(d / 32) * 512 + q * 128 + d % 32 * 4));
    s->A[0] = A.x, s->A[1] = A.y, s->A[2] = A.z, s->A[3] = A.w;
    s->skip = __ldg(w.skip + d);
    s->row = run.row;
    s->rows = run.T;
    s->x = (own * b.rows + run.row) * ITEM + channel;
    s->to = record(b, run.row, l) + y_at(b) + d / 2;
    early(s->to);
}

static __device__ __forceinline__ void load_step(const struct block &b, uint32_t l, uint32_t job, struct step *s)
{
    const struct few_layer &w = layer_of(b, l);
    const uint32_t item = blockIdx.x + job % b.items * gridDim.x;
    const uint32_t *cores = reinterpret_cast<const uint32_t *>(w.dt) + (size_t)item * (b.m.Rp / 8) * 32 + b.lane;
    s->bias = __ldg(w.dt_bias + item * ITEM + b.lane / 4);
#pragma unroll
    for (uint32_t k = 0; k < CORES; k++)
        s->w[k] = 8 * k < b.m.Rp ? __ldg(cores + k * 32) : 0;
}

/* Δ of channel lane / 4, rows 2·(lane % 4) and the next. */
static __device__ __forceinline__ void deltas(const struct block &b, const struct step &s, float scale, float delta[2])
{
    const uint32_t row = b.lane / 4;
    const uint32_t *dt =
        reinterpret_cast<const uint32_t *>(b.shared + b.at.dt) + row * ((b.m.Rp + PAD) / 2) + b.lane % 4;
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    uint32_t v[CORES];
#pragma unroll
    for (uint32_t k = 0; k < CORES; k++)
        v[k] = 8 * k < b.m.Rp && row < b.rows ? dt[4 * k] : 0;
#pragma unroll
    for (uint32_t k = 0; k < CORES; k += 2) {
        if (8 * k >= b.m.Rp)
            break;
        const uint32_t w[4] = {s.w[k], 0, s.w[k + 1], 0};
        mma_16816(acc, w, v + k);
    }
    delta[0] = softplus(product(acc[0], scale, s.bias));
    delta[1] = softplus(product(acc[1], scale, s.bias));
}

template <enum ssm_dtype S>
static __device__ __forceinline__ void scan_run(const struct block &b, struct scan<S> &s, const float delta[2])
{
    const __half *xc = reinterpret_cast<const __half *>(b.shared + b.at.x) + s.x,
                 *z = reinterpret_cast<const __half *>(b.shared + b.at.z) + s.x;
    const float4 *bc = reinterpret_cast<const float4 *>(b.shared + b.at.bc) + s.row * 8 + b.lane % 4;
    const float *g = control_of(b)->g + s.row;
    float h[4];
    s.state.unpack(h);
#pragma unroll 1
    for (uint32_t t = 0; t < s.rows; t++, xc += ITEM, z += ITEM, bc += 8, s.to += row_words(b.m)) {
        const float B[4] = {bc[0].x, bc[0].y, bc[0].z, bc[0].w}, C[4] = {bc[4].x, bc[4].y, bc[4].z, bc[4].w};
        const uint32_t row = s.row + t;
        const float step = __shfl_sync(0xffffffffu, row % 2 ? delta[1] : delta[0], (b.lane & ~3u) | row / 2);
        const float x = __half2float(*xc);
        decay4(h, s.A, B, __fmul_rn(step, g[t]), __fmul_rn(step, x));
        s.state.pack(h);
        float y = read4(h, C);
        y = __fadd_rn(y, __shfl_xor_sync(0xffffffffu, y, 1));
        y = __fadd_rn(y, __shfl_xor_sync(0xffffffffu, y, 2));
        uint32_t word = __half_as_ushort(to_half(gate(y, s.skip, x, __half2float(*z))));
        word |= __shfl_down_sync(0xffffffffu, word, 4) << 16;
        if (b.lane % 8 == 0)
            tell(s.to, word);
    }
    s.state.store(s.state_at);
}

/* Δ's input as fp16, B and C, from whoever computed them. */
static __device__ __forceinline__ void await_select(const struct block &b, uint32_t l)
{
    const uint32_t Rp = b.m.Rp, vectors = Rp / 4 + 8;
    for (uint32_t i = threadIdx.x; i < b.rows * vectors; i += THREADS) {
        const uint32_t row = i / vectors, o = i % vectors * 4;
        const float4 v = floats(await(record(b, row, l) + select_at(b) + o));
        if (o < Rp) {
            __half2 *to = reinterpret_cast<__half2 *>(b.shared + b.at.dt + (row * (Rp + PAD) + o) * 2);
            to[0] = to_half2(v.x, v.y);
            to[1] = to_half2(v.z, v.w);
        } else {
            *reinterpret_cast<float4 *>(b.shared + b.at.bc + (row * 32 + o - Rp) * 4) = v;
        }
    }
}

template <enum ssm_dtype S> static __device__ __forceinline__ void scan_items(const struct block &b, uint32_t l)
{
    const uint32_t jobs = b.items * b.n_runs;
    const float scale = layer_of(b, l).dt_scale;
    const uint32_t first = min(b.warp, jobs - 1); /* a warp without a job loads as if */
    struct step step;
    struct scan<S> next;
    load_step(b, l, first, &step);
    load_scan(b, l, first, &next);
    await_select(b, l);
    meet();
    for (uint32_t job = b.warp; job < jobs; job += WARPS) {
        struct scan<S> s = next;
        float delta[2];
        deltas(b, step, scale, delta);
        if (job + WARPS < jobs) {
            load_step(b, l, job + WARPS, &step);
            load_scan(b, l, job + WARPS, &next);
        }
        scan_run(b, s, delta);
    }
}

/* ---- products in their turn ---- */

enum turn { IN, SELECT, OUT, HEAD };

/* Tiles (IN: items) first, first + gridDim.x, … of a matrix. */
struct product {
    uint32_t n, first, k;
    float scale;
    const float *bias;
    const uint32_t *told; /* see do_panels() */
};

/* `group`: of the head's tiles, as many at a time as `sums` holds. */
static __device__ __forceinline__ struct product product_of(const struct block &b, enum turn turn, uint32_t l,
                                                            uint32_t group)
{
    const struct few_layer &w = layer_of(b, l);
    const uint32_t *told = record(b, 0, l);
    switch (turn) {
    case IN:
        return {b.items, blockIdx.x, b.m.E, w.in_scale, w.in_bias, NULL};
    case SELECT:
        return {b.selects, b.select, b.m.D, w.x_scale, w.x_bias, told + b.m.E};
    case OUT:
        return {b.outs, b.out, b.m.D, w.out_scale, w.out_bias, told + y_at(b)};
    default: {
        const uint32_t most = heads_at_once(b), done = group * most;
        return {min(most, b.heads - done), blockIdx.x + done * gridDim.x, b.m.E, b.m.head_scale, b.m.head_bias, NULL};
    }
    }
}

/* An output of a tile: index i of tiles × rows × 16. */
struct output {
    uint32_t tile, row, o;
};

static __device__ __forceinline__ struct output output_of(const struct block &b, uint32_t i)
{
    const uint32_t tile = i / TILE / b.rows;
    return {tile, i / TILE - tile * b.rows, i % TILE};
}

/* What it takes to finish an output. */
struct finish {
    float bias;
    const float *sums;
    float *to; /* NULL: nowhere */
};

static __device__ __forceinline__ struct finish finish_of(const struct block &b, enum turn turn, uint32_t l,
                                                          const struct product &w, uint32_t i)
{
    const struct output at = output_of(b, i);
    const uint32_t o = (w.first + at.tile * gridDim.x) * TILE + at.o;
    struct finish f = {__ldg(w.bias + o), sums_of(b, at.tile * share(w.k, GPU_CHUNK)) + at.row * SUM_ROW + at.o, NULL};
    if (turn == HEAD) {
        const uint32_t pick = control_of(b)->pick[at.row];
        f.to = pick == GPU_NOT_PICKED ? NULL : b.p.out + pick * b.p.ldo + o;
    } else {
        f.to =
            reinterpret_cast<float *>(turn == SELECT ? record(b, at.row, l) + select_at(b) : record(b, at.row, l + 1)) +
            o;
    }
    early(f.sums);
    early(f.to);
    return f;
}

/* f: of this thread's first output; r: the residual of its output of out_proj. */
static __device__ __forceinline__ void finish_tiles(const struct block &b, enum turn turn, uint32_t l,
                                                    const struct product &w, struct finish &f, float *r)
{
    const uint32_t n = w.n * b.rows * TILE;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        if (i >= THREADS)
            f = finish_of(b, turn, l, w, i);
        float v = product(total(b, f.sums, share(w.k, GPU_CHUNK)), w.scale, f.bias);
        if (turn == HEAD) {
            if (f.to)
                __stcs(f.to, v);
            continue;
        }
        if (turn == OUT)
            v = *r = __fadd_rn(*r, v);
        tell(reinterpret_cast<uint32_t *>(f.to), __float_as_uint(v));
    }
}

/* One turn of the block: what it needs of others, its panels, what it tells. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void take_turn(struct block &b, enum turn turn, uint32_t l, uint32_t group, float *r)
{
    if (turn == OUT)
        scan_items<S>(b, l);
    const struct product w = product_of(b, turn, l, group);
    struct place place = {};
    struct finish finish = {};
    if (turn == IN && threadIdx.x < w.n * b.rows * ITEM)
        load_place(b, l, threadIdx.x, &place);
    if (turn != IN && threadIdx.x < w.n * b.rows * TILE)
        finish = finish_of(b, turn, l, w, threadIdx.x);
    const bool normalises = (turn == IN || turn == HEAD) && group == 0;
    const uint32_t n = w.n * share(w.k, GPU_CHUNK), panel = (b.warp - b.next) % WARPS;
    struct fragments f; /* the first panel: it is there before its activations are */
    if (panel < n) {
        await_panel(b);
        load_panel(b, &f);
    } else { /* what is defined on one path only takes registers on all */
        f = {};
    }
    if (normalises && b.rows == 1)
        normalise_alone(b, l);
    else if (normalises && b.warp < b.rows)
        normalise(b, l);
    if (n == 0)
        return;
    meet();
    if (panel < n)
        do_panels(b, panel, n, w.k, w.told, f);
    b.next = (b.next + n) % WARPS;
    meet();
    if (turn == IN)
        convolve(b, l, place);
    else
        finish_tiles(b, turn, l, w, finish, r);
}

/* ---- the kernel ---- */

/* Every word of the pass's rows is ABSENT. */
static __device__ __forceinline__ void clear_records(const struct block &b)
{
    const size_t n = b.rows * row_words(b.m) / 4;
    uint4 *at = reinterpret_cast<uint4 *>(b.p.partial);
    for (size_t i = blockIdx.x * BLOCK + threadIdx.x; i < n; i += (size_t)gridDim.x * BLOCK)
        at[i] = make_uint4(ABSENT, ABSENT, ABSENT, ABSENT);
}

static __device__ __forceinline__ void load_layers(const struct few_model &m, struct few_layer *to)
{
    for (uint32_t l = threadIdx.x; l < m.L; l += BLOCK) {
        const struct gpu_layer &w = m.layers[l];
        to[l] = {w.norm,        w.in_proj.tiled, w.x_proj.tiled,  w.dt_proj.tiled, w.out_proj.tiled, w.in_proj.bias,
                 w.x_proj.bias, w.dt_proj.bias,  w.out_proj.bias, w.conv,          w.conv_bias,      w.A,
                 w.skip,        w.in_proj.scale, w.x_proj.scale,  w.dt_proj.scale, w.out_proj.scale};
    }
}

static __device__ __forceinline__ void load_control(const struct block &b)
{
    struct control *c = control_of(b);
    const uint32_t i = threadIdx.x;
    if (i < DEPTH_MAX * WARPS) {
        mbarrier_init(shared_address(&c->full[i]), 1);
        mbarrier_init(shared_address(&c->empty[i]), 32);
    }
    if (i < 2) {
        mbarrier_init(shared_address(&c->norm_full[i]), 1);
        mbarrier_init(shared_address(&c->norm_empty[i]), 32 * b.rows);
    }
    fence_async_proxy();
    if (i < GPU_CHUNK * 2 / 16)
        c->zeros[i] = make_uint4(0, 0, 0, 0);
    if (i < b.rows) {
        c->run_of[i] = b.p.run_of[i];
        c->g[i] = b.p.g[i];
        c->pick[i] = b.heads > 0 ? b.p.pick[i] : GPU_NOT_PICKED;
    }
    if (i < b.n_runs)
        c->runs[i] = b.p.runs[i];
}

/* Of n things, dealt out from the `first`th block on: how many come to this one. */
static __device__ __forceinline__ uint32_t dealt(uint32_t n, uint32_t first)
{
    return n > first ? share(n - first, gridDim.x) : 0;
}

/* The thread's output of out_proj before the first layer. */
static __device__ __forceinline__ float first_residual(const struct block &b)
{
    if (threadIdx.x >= b.outs * b.rows * TILE)
        return 0.0f;
    const struct output at = output_of(b, threadIdx.x);
    const size_t e = (b.out + at.tile * gridDim.x) * TILE + at.o;
    return b.p.tokens ? embedded(b.m.embedding, b.m.dtype, (size_t)b.p.tokens[at.row] * b.m.E + e)
                      : b.p.r[at.row * b.m.E + e];
}

static __device__ __forceinline__ void tell_residual(const struct block &b, float r)
{
    if (threadIdx.x >= b.outs * b.rows * TILE)
        return;
    const struct output at = output_of(b, threadIdx.x);
    tell(record(b, at.row, 0) + (b.out + at.tile * gridDim.x) * TILE + at.o, __float_as_uint(r));
}

template <enum ssm_dtype S> static __device__ __forceinline__ void compute(struct block &b)
{
    const uint32_t seen = threadIdx.x == 0 ? arrive(b.p.sync) : 0;
    float r = first_residual(b);
    if (threadIdx.x == 0)
        await_all(b.p.sync, seen);
    meet();
    tell_residual(b, r);
    const uint32_t groups = does_head(b) ? larger(share(b.heads, heads_at_once(b)), 1) : 0;
#pragma unroll 1
    for (uint32_t turn = 0; turn < 3 * b.m.L + groups; turn++) {
        const bool head = turn >= 3 * b.m.L;
        take_turn<S>(b, head ? HEAD : (enum turn)(turn % 3), head ? b.m.L : turn / 3, head ? turn - 3 * b.m.L : 0, &r);
    }
}

template <enum ssm_dtype S>
static __global__ void __launch_bounds__(BLOCK, 1)
    few(const __grid_constant__ struct few_model m, const __grid_constant__ struct gpu_pass p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    load_layers(m, reinterpret_cast<struct few_layer *>(shared + sizeof(struct control)));
    const struct gpu_head head = *p.head;
    const uint32_t blocks = gridDim.x, last = blocks - 1 - blockIdx.x, out_tiles = m.E / TILE;
    if (head.rows == 0)
        return;
    struct block b = {m, p, lay_out(m, blocks, head.rows), shared, shared_address(shared), head.rows, head.n_runs};
    b.warp = threadIdx.x / 32;
    b.lane = threadIdx.x % 32;
    b.items = dealt(m.D / ITEM, blockIdx.x);
    b.out = last;
    b.outs = dealt(out_tiles, b.out);
    b.select = (last + blocks - out_tiles % blocks) % blocks; /* where out_proj's tiles end, x_proj's begin */
    b.selects = dealt(select_tiles(m), b.select);
    b.heads = head.n_picked > 0 ? dealt(head.n_out / TILE, blockIdx.x) : 0;
    load_control(b);
    clear_records(b);
    __syncthreads();
    if (b.warp < WARPS) {
        registers_raise<232>();
        compute<S>(b);
    } else {
        registers_lower<40>();
        if (threadIdx.x == THREADS)
            feed(b);
    }
}

/* ---- host ---- */

static const void *kernel_of(enum ssm_dtype state)
{
    return state == SSM_F32    ? (const void *)few<SSM_F32>
           : state == SSM_BF16 ? (const void *)few<SSM_BF16>
                               : (const void *)few<SSM_F16>;
}

static struct few_model few_model_of(const struct gpu_model *m)
{
    return {m->d.E,       m->d.D,           m->d.L,    m->d.Rp,       m->d.eps,     m->dtype,
            m->embedding, m->layers_device, m->norm_f, m->head.tiled, m->head.bias, m->head.scale};
}

static int attribute(enum cudaDeviceAttr which)
{
    int device, value;
    return cudaGetDevice(&device) || cudaDeviceGetAttribute(&value, which, device) ? 0 : value;
}

/* One per SM; none without an item. */
static uint32_t blocks_of(const struct few_model &m)
{
    return std::min((uint32_t)attribute(cudaDevAttrMultiProcessorCount), m.D / ITEM);
}

bool gpu_few_open(const struct gpu_model *model)
{
    const struct few_model m = few_model_of(model);
    const uint32_t blocks = blocks_of(m);
    if (!model->fast || m.Rp > 8 * CORES || blocks == 0 || !attribute(cudaDevAttrCooperativeLaunch) ||
        attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) < SHARED_BYTES)
        return false;
    if (share(m.E / TILE, blocks) * TILE * GPU_FEW_ROWS > THREADS || lay_out(m, blocks, GPU_FEW_ROWS).depth == 0)
        return false;
    const enum ssm_dtype states[] = {SSM_F32, SSM_BF16, SSM_F16};
    for (enum ssm_dtype state : states)
        if (cudaFuncSetAttribute(kernel_of(state), cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES))
            return false;
    return true;
}

size_t gpu_few_scratch(const struct gpu_model *model)
{
    const struct few_model m = few_model_of(model);
    return GPU_FEW_ROWS * row_words(m) * sizeof(uint32_t);
}

void gpu_few(const struct gpu_model *model, const struct gpu_pass *p, enum ssm_dtype state, cudaStream_t stream)
{
    struct few_model m = few_model_of(model);
    struct gpu_pass pass = *p;
    void *arguments[] = {&m, &pass};
    cudaLaunchCooperativeKernel(kernel_of(state), dim3(blocks_of(m)), dim3(BLOCK), arguments, SHARED_BYTES, stream);
}
