/* cluster.cu: signal-sized models, few rows: a whole pass in one launch, a cluster of blocks for every chain of tiles of
 * up to 8 rows. Made for latency: block `rank` owns D/blocks channels in every layer, all products are mma with 8 rows
 * as N, and blocks meet three times a layer, through each other's shared memory:
 *
 *   x  after the convolution, into every block: x_proj needs all channels, and every block computes it whole
 *   y  gated, into every block, for out_proj, whose outputs are shared out in tiles of 16
 *   r  the new residuals, into every block: every block norms for itself
 *
 * Eight warps compute, a ninth loads. In a layer warp i norms row i; the first `tiles` warps do in_proj's x and the
 * convolution of 16 channels, the next z; x_proj starts at warp 4, out_proj at warp 7; in the scan four lanes share a
 * channel. Weights come in three pieces a layer, by bulk copies into rings of buffers that the loader refills as soon as
 * the block is through with one. Programmatic launch: weights, the same for every pass, are on their way while the pass
 * before this one still runs; nothing else is touched before griddepcontrol.wait.
 *
 * Exchanges are st.async: a store that counts its bytes on an mbarrier of the destination, which has one phase a layer
 * and is told beforehand how many to expect. Every buffer is single. Nobody can write it too early, for a block sends
 *   x of layer l+1 after r of layer l has come: some block had all of y(l) then, so every block had sent y(l), and that
 *                  is after the block-wide barrier behind x_proj(l), the reader of x(l);
 *   y of layer l+1 after x(l+1) has come from all, which every block sends after the barrier behind norm(l+1), which its
 *                  out_proj warps enter when they are done with y(l), and its loader when it has seen y(l) complete;
 *   r of layer l+1 after y(l+1) has come from all, which is after their norms have read r(l); out_proj itself reads only
 *                  elements that no other block writes.
 * The same holds from a tile to the next. Bytes that come before they are expected do no harm: a phase also waits for
 * the loader's arrival, and the loader arrives for layer l+1 when all three phases of layer l are known to be over. A
 * block ends when all that is sent to it has come; so nothing is ever sent to a block that is gone.
 *
 * Rows of a tile beyond its last are computed with whatever the buffers hold and go nowhere: a column of B reaches only
 * its own column of D.
 *
 * Critical path of a layer at B = 1, in clocks, for E 128 / 256 (mma m16n8k16 into the same accumulator: 33):
 *   norm        340   load, 4 fma, 5 shuffles, division, rsqrt, store, barrier
 *   in_proj     310 / 575   E/16 mma
 *   conv        215   through shared memory to lanes that own a channel and back, SiLU
 *   x           250   DSMEM and the mbarrier
 *   x_proj      620   16 mma, two chunks side by side where D = 512; barrier
 *   dt_proj     200   1 mma, softplus
 *   scan        230
 *   y           250
 *   out_proj    630   16 mma
 *   r           250
 *   sum        3300 / 3560 = 1.67 / 1.80 µs at 1.98 GHz, so 6.7 µs for 4 layers and 14.4 µs for 8; the start of a pass
 *   (counts, tile, token, embedding: four dependent loads), the head and the end of the launch add about 3 µs.
 *
 * Ladder (µs; sig-128x4, sig-256x8, B = 1, back to back): */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/mma.cuh"

enum {
    WARPS = 8, /* that compute */
    THREADS = (WARPS + 1) * 32,
    ROWS = GPU_FEW_ROWS,
    BLOCKS_MAX = 16, /* of a cluster */
    GROUP = 4,       /* runs that a warp's scan takes side by side */
    CHUNK_STEPS = GPU_CHUNK / 16,
    DEPTH_MAX = 8,
    LDBC = 36,    /* floats; 8 outputs of 4 rows in different banks */
    LDSTAGE = 20, /* likewise */
    SHARED_MAX = 227 * 1024
};

enum exchange { EXCHANGE_X, EXCHANGE_Y, EXCHANGE_R, EXCHANGES };

/* Pieces of weights: up to the convolution; x_proj; from dt_proj on; final norm and head. */
enum piece_kind { FRONT, SELECT, BACK, HEAD, KINDS };

/* Shared memory: offsets in bytes, the same in every block. */
struct shape {
    uint32_t E, D, Rp, L;
    uint32_t blocks;                   /* of a cluster */
    uint32_t channels, tiles, shares;  /* of a block; in tiles of 16; warps to a tile in the scan */
    uint32_t out_tiles, head_tiles;    /* of all blocks */
    uint32_t ldu, ldx, ldc, lddt;      /* halfs from row to row; odd multiples of 16 bytes, for ldmatrix */
    uint32_t info;                     /* struct info [2], by parity of the tile */
    uint32_t layers;                   /* struct gpu_layer [L] */
    uint32_t u, dt, bc;                /* fp16 [8][E], fp16 [8][Rp], fp32 [8][2N] */
    uint32_t x, y, r;                  /* exchanged: fp16 [8][D], fp16 [8][D], fp32 [8][E] */
    uint32_t own_in, own_x, own_y, own_z; /* this block's channels, fp16 [8][channels]: into the convolution, out of it … */
    uint32_t stage;                    /* fp32 [WARPS][8][16]: r on its way out */
    struct ring {
        uint32_t at, bytes, depth;
    } ring[KINDS];
    uint32_t norm, in_x, in_z, conv, conv_bias, bias_x, bias_z; /* in FRONT */
    uint32_t x_proj, x_bias;                                    /* in SELECT */
    uint32_t dt_proj, dt_bias, A, skip, out_proj, out_bias;     /* in BACK */
    uint32_t norm_f, head, head_bias;                           /* in HEAD */
    uint32_t bytes;
};

struct args {
    struct shape s;
    struct gpu_pass p;
    const struct gpu_layer *layers;
    const void *embedding;
    enum ssm_dtype dtype;
    const float *norm_f;
    struct gpu_matrix head;
    float eps;
};

/* A tile's rows and runs. */
struct info {
    uint8_t *slot[ROWS];             /* by run */
    uint32_t first[ROWS], T[ROWS];   /* by run; rows of the tile */
    uint32_t run[ROWS], t[ROWS];     /* by row */
    float g[ROWS];
    uint32_t pick[ROWS];
};

/* What a warp knows of its place and of the tile at hand. */
struct block {
    uint8_t *shared;
    uint32_t base; /* the same as an address */
    uint32_t rank, warp, lane;
    uint32_t to;           /* base of the block that this lane sends to */
    uint32_t item, stride; /* and which of the things to send */
    uint32_t out_first, out_n;            /* tiles of out_proj */
    uint32_t tile, half, run, run_stride; /* of the scan: this warp's channels and the runs it takes */
    const struct info *info;
    uint32_t row, rows, n_runs;
};

/* The buffer of a ring that is next, and the parity of its barrier's phase. */
struct cursor {
    uint32_t slot, parity;
};

/* ---- instructions ---- */

static __device__ __forceinline__ uint32_t cluster_rank(void)
{
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

static __device__ __forceinline__ uint32_t in_block(uint32_t address, uint32_t rank)
{
    uint32_t r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}

static __device__ __forceinline__ void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

static __device__ __forceinline__ void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void grid_launch_next(void)
{
    asm volatile("griddepcontrol.launch_dependents;");
}

static __device__ __forceinline__ void grid_wait(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* All warps of the block, from wherever they are. */
static __device__ __forceinline__ void block_barrier(void)
{
    __syncwarp();
    asm volatile("barrier.sync.aligned 1, %0;" ::"n"(+THREADS) : "memory");
}

/* The same in all lanes, and the compiler is to know it. */
static __device__ __forceinline__ uint32_t uniform(uint32_t v)
{
    return __shfl_sync(0xffffffffu, v, 0);
}

/* 16 bytes to another block's (or the own) shared memory, counted on a barrier there. */
static __device__ __forceinline__ void send(uint32_t to, const void *from, uint32_t bar)
{
    uint4 v = *static_cast<const uint4 *>(from);
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar)
                 : "memory");
}

/* ---- barriers and buffers ---- */

static __host__ __device__ __forceinline__ uint32_t exchange_barrier(enum exchange e)
{
    return e * 8;
}

static __host__ __device__ __forceinline__ uint32_t full_barrier(enum piece_kind kind, uint32_t slot)
{
    return (EXCHANGES + kind * DEPTH_MAX + slot) * 8;
}

enum { BARRIERS = EXCHANGES + KINDS * DEPTH_MAX };

static __device__ __forceinline__ void wait_exchange(const struct block &b, enum exchange e, uint32_t parity)
{
    mbarrier_wait(b.base + exchange_barrier(e), parity);
}

/* Waits for the next piece of its kind. */
static __device__ __forceinline__ const uint8_t *acquire(const struct args &a, const struct block &b,
                                                         enum piece_kind kind, struct cursor c)
{
    mbarrier_wait(b.base + full_barrier(kind, c.slot), c.parity);
    return b.shared + a.s.ring[kind].at + c.slot * a.s.ring[kind].bytes;
}

static __device__ __forceinline__ void advance(const struct args &a, enum piece_kind kind, struct cursor *c)
{
    if (++c->slot == a.s.ring[kind].depth) {
        c->slot = 0;
        c->parity ^= 1;
    }
}

/* The first of n tiles that block `rank` has; the next block's is the end. */
static __device__ __forceinline__ uint32_t first_tile(const struct shape &s, uint32_t n, uint32_t rank)
{
    return n * rank / s.blocks;
}

static __device__ __forceinline__ const struct gpu_layer *layer_of(const struct args &a, const struct block &b, uint32_t l)
{
    return reinterpret_cast<const struct gpu_layer *>(b.shared + a.s.layers) + l;
}

static __device__ __forceinline__ __half *halfs(const struct block &b, uint32_t at)
{
    return reinterpret_cast<__half *>(b.shared + at);
}

static __device__ __forceinline__ float *floats(const struct block &b, uint32_t at)
{
    return reinterpret_cast<float *>(b.shared + at);
}

/* ---- loading ---- */

struct copy {
    const void *from;
    uint32_t to, bytes;
};

static __device__ __forceinline__ struct copy tiles_copy(const struct gpu_matrix &m, uint32_t first, uint32_t n, uint32_t to)
{
    return {m.fragments + (size_t)first * m.kp * 16, to, n * m.kp * 32};
}

/* Each lane's copy for a piece; lanes beyond the last: 0 bytes. */
static __device__ struct copy front_copy(const struct shape &s, const struct gpu_layer &l, const struct block &b)
{
    uint32_t d = b.rank * s.channels, bytes = s.channels * 4, i = b.lane;
    switch (i) {
    case 0:
        return {l.norm, s.norm, s.E * 4};
    case 1:
        return tiles_copy(l.in_proj, b.rank * s.tiles, s.tiles, s.in_x);
    case 2:
        return tiles_copy(l.in_proj, s.D / 16 + b.rank * s.tiles, s.tiles, s.in_z);
    case 3:
    case 4:
    case 5:
    case 6:
        return {l.conv + (i - 3) * s.D + d, s.conv + (i - 3) * bytes, bytes};
    case 7:
        return {l.conv_bias + d, s.conv_bias, bytes};
    case 8:
        return {l.in_proj.bias + d, s.bias_x, bytes};
    case 9:
        return {l.in_proj.bias + s.D + d, s.bias_z, bytes};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ struct copy select_copy(const struct shape &s, const struct gpu_layer &l, const struct block &b)
{
    switch (b.lane) {
    case 0:
        return tiles_copy(l.x_proj, 0, l.x_proj.np / 16, s.x_proj);
    case 1:
        return {l.x_proj.bias, s.x_bias, l.x_proj.np * 4};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ struct copy back_copy(const struct shape &s, const struct gpu_layer &l, const struct block &b)
{
    uint32_t d = b.rank * s.channels, bytes = s.channels * 4;
    switch (b.lane) {
    case 0:
        return tiles_copy(l.dt_proj, b.rank * s.tiles, s.tiles, s.dt_proj);
    case 1:
        return {l.dt_proj.bias + d, s.dt_bias, bytes};
    case 2:
        return {l.A + d * 16, s.A, s.channels * 64};
    case 3:
        return {l.skip + d, s.skip, bytes};
    case 4:
        return tiles_copy(l.out_proj, b.out_first, b.out_n, s.out_proj);
    case 5:
        return {l.out_proj.bias + b.out_first * 16, s.out_bias, b.out_n * 64};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ struct copy head_copy(const struct args &a, const struct block &b)
{
    const struct shape &s = a.s;
    uint32_t first = first_tile(s, s.head_tiles, b.rank), n = first_tile(s, s.head_tiles, b.rank + 1) - first;
    switch (b.lane) {
    case 0:
        return {a.norm_f, s.norm_f, s.E * 4};
    case 1:
        return tiles_copy(a.head, first, n, s.head);
    case 2:
        return {a.head.bias + first * 16, s.head_bias, n * 64};
    default:
        return {NULL, 0, 0};
    }
}

/* By a whole warp: buffer `slot` of a ring is to hold layer l's piece. */
static __device__ void fill(const struct args &a, const struct block &b, enum piece_kind kind, uint32_t l, uint32_t slot)
{
    const struct gpu_layer &layer = *layer_of(a, b, l);
    struct copy c;
    if (kind == FRONT)
        c = front_copy(a.s, layer, b);
    else if (kind == SELECT)
        c = select_copy(a.s, layer, b);
    else if (kind == BACK)
        c = back_copy(a.s, layer, b);
    else
        c = head_copy(a, b);
    uint32_t bar = b.base + full_barrier(kind, slot), bytes = __reduce_add_sync(0xffffffffu, c.bytes);
    if (b.lane == 0)
        mbarrier_expect(bar, bytes);
    __syncwarp();
    if (c.bytes)
        bulk_load(b.base + a.s.ring[kind].at + slot * a.s.ring[kind].bytes + c.to, c.from, c.bytes, bar);
}

/* All buffers of all rings, the first needed first. */
static __device__ void fill_all(const struct args &a, const struct block &b)
{
    for (uint32_t slot = 0; slot < DEPTH_MAX; slot++) {
        for (uint32_t kind = FRONT; kind < HEAD; kind++)
            if (slot < a.s.ring[kind].depth)
                fill(a, b, (enum piece_kind)kind, slot, slot);
        if (slot == 0)
            fill(a, b, HEAD, 0, 0);
    }
}

/* Buffer `slot`, which held stage n, is free: the stage that is next to use it, if there will be one. */
static __device__ __forceinline__ void refill(const struct args &a, const struct block &b, enum piece_kind kind,
                                              uint32_t n, uint32_t stages, uint32_t slot)
{
    uint32_t next = n + a.s.ring[kind].depth;
    if (next < stages)
        fill(a, b, kind, next % a.s.L, slot);
}

/* What is to come in this layer. */
static __device__ __forceinline__ void expect_exchanges(const struct args &a, const struct block &b, uint32_t rows)
{
    if (b.lane == 0) {
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_X), rows * a.s.D * 2);
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_Y), rows * a.s.D * 2);
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_R), rows * a.s.E * 4);
    }
    __syncwarp();
}

/* The ninth warp: keeps step with the block's barriers. */
static __device__ void load(const struct args &a, const struct block &b, struct gpu_chain chain)
{
    struct cursor front = {}, select = {}, back = {};
    uint32_t stages = chain.n * a.s.L, n = 0, freed = 0; /* freed: of BACK, the last stage's buffer */
    cluster_wait();
    for (uint32_t i = 0; i < chain.n; i++) {
        uint32_t rows = a.p.tiles[chain.tile + i].rows;
        block_barrier();
        for (uint32_t l = 0; l < a.s.L; l++, n++) {
            block_barrier();
            expect_exchanges(a, b, rows);
            if (l > 0)
                refill(a, b, BACK, n - 1, stages, freed);
            block_barrier();
            refill(a, b, FRONT, n, stages, front.slot);
            refill(a, b, SELECT, n, stages, select.slot);
            freed = back.slot;
            advance(a, FRONT, &front);
            advance(a, SELECT, &select);
            advance(a, BACK, &back);
            wait_exchange(b, EXCHANGE_Y, n & 1);
        }
        block_barrier();
        refill(a, b, BACK, n - 1, stages, freed);
    }
}

/* ---- products ---- */

/* Operands of four k steps; of two chunks, where two are summed side by side. */
template <int CHUNKS> struct operands {
    uint32_t w[CHUNKS][4][4], x[CHUNKS][2][4];

    __device__ __forceinline__ void fetch(const uint4 *fragments, uint32_t rows)
    {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            ldmatrix_x4(x[c][0], rows + c * GPU_CHUNK * 2);
            ldmatrix_x4(x[c][1], rows + c * GPU_CHUNK * 2 + 64);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint4 v = fragments[(c * CHUNK_STEPS + i) * 32];
                w[c][i][0] = v.x, w[c][i][1] = v.y, w[c][i][2] = v.z, w[c][i][3] = v.w;
            }
        }
    }
    __device__ __forceinline__ void multiply(float sum[CHUNKS][4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
                mma_16816(sum[c], w[c][i], &x[c][i / 2][i % 2 * 2]);
    }
};

/* One k step; of `rows` lanes 0 … 15 count. */
static __device__ __forceinline__ void multiply_step(float sum[4], const uint4 *fragments, uint32_t rows)
{
    uint32_t x[2];
    ldmatrix_x2(x, rows);
    uint4 v = *fragments;
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    mma_16816(sum, w, x);
}

/* Sums of chunks of `steps` k steps each, from zero. Fetches are four steps ahead. */
template <int CHUNKS>
static __device__ __forceinline__ void multiply_chunks(float sum[CHUNKS][4], const uint4 *fragments, uint32_t rows,
                                                       uint32_t steps)
{
    struct operands<CHUNKS> o[2];
    uint32_t quads = steps / 4;
#pragma unroll
    for (int i = 0; i < CHUNKS * 4; i++)
        sum[i / 4][i % 4] = 0.0f;
    if (quads > 0)
        o[0].fetch(fragments, rows);
#pragma unroll
    for (int q = 0; q < CHUNK_STEPS / 4; q++) {
        if (q + 1 < quads)
            o[(q + 1) % 2].fetch(fragments + (q + 1) * 4 * 32, rows + (q + 1) * 128);
        if (q < quads)
            o[q % 2].multiply(sum);
    }
    for (uint32_t i = quads * 4; CHUNKS == 1 && i < steps; i++)
        multiply_step(sum[0], fragments + i * 32, rows + i * 32);
}

/* This lane's row address for ldmatrix. */
static __device__ __forceinline__ uint32_t rows_address(const struct block &b, uint32_t at, uint32_t ld)
{
    return b.base + at + (b.lane % 8) * ld * 2 + b.lane / 8 * 16;
}

/* total = W·x for a tile of 16 outputs: `tile` its fragments, x the rows [8][ld] at `at`. */
static __device__ __forceinline__ void multiply(const struct block &b, float total[4], const uint8_t *tile, uint32_t at,
                                                uint32_t ld, uint32_t k)
{
    const uint4 *fragments = reinterpret_cast<const uint4 *>(tile) + b.lane;
    uint32_t rows = rows_address(b, at, ld), steps = k / 16;
    for (bool first = true; steps > 0; first = false) {
        float sum[2][4];
        bool two = steps >= 2 * CHUNK_STEPS;
        uint32_t n = two ? 2 * CHUNK_STEPS : min(steps, (uint32_t)CHUNK_STEPS);
        if (two)
            multiply_chunks<2>(sum, fragments, rows, CHUNK_STEPS);
        else
            multiply_chunks<1>(sum, fragments, rows, n);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            total[i] = first ? sum[0][i] : __fadd_rn(total[i], sum[0][i]);
            if (two)
                total[i] = __fadd_rn(total[i], sum[1][i]);
        }
        fragments += n * 32;
        rows += n * 32;
        steps -= n;
    }
}

/* ---- a tile's beginning ---- */

static __device__ __forceinline__ void read_info(const struct args &a, struct gpu_tile tile, uint32_t lane, struct info *info)
{
    if (lane < tile.n_runs) {
        struct gpu_run run = a.p.runs[tile.run + lane];
        uint32_t first = run.row - tile.row;
        info->slot[lane] = run.slot;
        info->first[lane] = first;
        info->T[lane] = run.T;
        for (uint32_t t = 0; t < run.T; t++) {
            info->run[first + t] = lane;
            info->t[first + t] = t;
        }
    }
    if (lane < tile.rows) {
        info->g[lane] = a.p.g[tile.row + lane];
        info->pick[lane] = a.p.pick[tile.row + lane];
    }
}

/* r of row `warp`, as it enters the first layer. */
static __device__ __forceinline__ void read_row(const struct args &a, const struct block &b)
{
    size_t row = b.row + b.warp, E = a.s.E;
    float *r = floats(b, a.s.r) + b.warp * E;
    if (a.p.tokens) {
        size_t at = (size_t)a.p.tokens[row] * E;
#pragma unroll 4
        for (uint32_t e = b.lane; e < E; e += 32)
            r[e] = embedded(a.embedding, a.dtype, at + e);
    } else {
#pragma unroll 4
        for (uint32_t e = b.lane; e < E; e += 32)
            r[e] = a.p.r[row * E + e];
    }
    __syncwarp();
}

/* ---- the steps of a layer ---- */

/* u = RMSNorm(r) of row `warp`, as fp16, and as fp32 to f unless that is NULL. */
static __device__ __forceinline__ void normalise(const struct args &a, const struct block &b, const float *w, float *f)
{
    const float *r = floats(b, a.s.r) + b.warp * a.s.E;
    __half *u = halfs(b, a.s.u) + b.warp * a.s.ldu;
    float rstd = row_rstd(r, a.s.E, a.eps);
    for (uint32_t e = b.lane * 4; e < a.s.E; e += 128) {
        float4 v = *reinterpret_cast<const float4 *>(r + e), q = *reinterpret_cast<const float4 *>(w + e);
        v = make_float4(normed(v.x, rstd, q.x), normed(v.y, rstd, q.y), normed(v.z, rstd, q.z), normed(v.w, rstd, q.w));
        const __half2 h[2] = {to_half2(v.x, v.y), to_half2(v.z, v.w)};
        *reinterpret_cast<uint2 *>(u + e) = *reinterpret_cast<const uint2 *>(h);
        if (f)
            *reinterpret_cast<float4 *>(f + e) = v;
    }
}

/* A lane's share of the convolution of 16 channels: channel lane % 16 of rows lane / 16 + 2i. */
struct taps {
    __half carried[ROWS / 2][3]; /* inputs from before the run, where the row still sees them */
};

static __device__ __forceinline__ __half *window_at(const struct args &a, const struct block &b, uint32_t l, uint32_t row)
{
    uint8_t *slot = b.info->slot[b.info->run[row]];
    return reinterpret_cast<__half *>(slot + l * a.p.slab.conv_layer) + b.rank * a.s.channels + b.warp * 16 + b.lane % 16;
}

static __device__ __forceinline__ void load_taps(const struct args &a, const struct block &b, uint32_t l, struct taps *taps)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2; i++) {
        uint32_t row = b.lane / 16 + 2 * i;
        if (row < b.rows) {
            uint32_t t = b.info->t[row];
            const __half *window = window_at(a, b, l, row);
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                if (t + k < 3)
                    taps->carried[i][k] = window[(t + k) * a.s.D];
        }
    }
}

/* x ← silu(conv1d(x)) of the 16 channels of this warp; the last row of a run leaves the window for the next. */
static __device__ __forceinline__ void convolve(const struct args &a, const struct block &b, const uint8_t *front, uint32_t l,
                                                const struct taps &taps)
{
    uint32_t c = b.warp * 16 + b.lane % 16;
    const float *w = reinterpret_cast<const float *>(front + a.s.conv) + c;
    const float of[4] = {w[0], w[a.s.channels], w[2 * a.s.channels], w[3 * a.s.channels]};
    float bias = reinterpret_cast<const float *>(front + a.s.conv_bias)[c];
    const __half *in = halfs(b, a.s.own_in) + c;
    __half *out = halfs(b, a.s.own_x) + c;
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2; i++) {
        uint32_t row = b.lane / 16 + 2 * i;
        if (row < b.rows) {
            uint32_t t = b.info->t[row];
            __half x[4];
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                x[k] = t + k < 3 ? taps.carried[i][k] : in[(row + k - 3) * a.s.ldc];
            x[3] = in[row * a.s.ldc];
            out[row * a.s.ldc] = conv4(__half2float(x[0]), __half2float(x[1]), __half2float(x[2]), __half2float(x[3]), of, bias);
            if (t + 1 == b.info->T[b.info->run[row]]) {
                __half *window = window_at(a, b, l, row);
                window[0] = x[1];
                window[a.s.D] = x[2];
                window[2 * a.s.D] = x[3];
            }
        }
    }
}

/* Channels [c, c + 8·vectors) of rows [first, first + n), fp16, to the same place in every block. */
static __device__ __forceinline__ void send_rows(const struct args &a, const struct block &b, uint32_t from, uint32_t to,
                                                 uint32_t first, uint32_t n, uint32_t c, uint32_t vectors,
                                                 enum exchange e)
{
    for (uint32_t i = b.item; i < n * vectors; i += b.stride) {
        uint32_t row = first + i / vectors, at = c + i % vectors * 8;
        send(b.to + to + (row * a.s.ldx + b.rank * a.s.channels + at) * 2, halfs(b, from) + row * a.s.ldc + at,
             b.to + exchange_barrier(e));
    }
}

/* x, z = in_proj·u of this block's channels; x goes on through the convolution and to all blocks. */
static __device__ __forceinline__ void in_proj(const struct args &a, const struct block &b, const uint8_t *front, uint32_t l,
                                               const struct taps &taps)
{
    const struct shape &s = a.s;
    float scale = layer_of(a, b, l)->in_proj.scale;
    for (uint32_t job = b.warp; job < 2 * s.tiles; job += WARPS) {
        bool is_x = job < s.tiles;
        uint32_t tile = is_x ? job : job - s.tiles, c = tile * 16 + b.lane / 4;
        float total[4];
        multiply(b, total, front + (is_x ? s.in_x : s.in_z) + tile * s.E * 32, s.u, s.ldu, s.E);
        const float *bias = reinterpret_cast<const float *>(front + (is_x ? s.bias_x : s.bias_z)) + c;
        __half *to = halfs(b, is_x ? s.own_in : s.own_z) + b.lane % 4 * 2 * s.ldc + c;
        to[0] = to_half(product(total[0], scale, bias[0]));
        to[s.ldc] = to_half(product(total[1], scale, bias[0]));
        to[8] = to_half(product(total[2], scale, bias[8]));
        to[s.ldc + 8] = to_half(product(total[3], scale, bias[8]));
        if (is_x) { /* and tile = warp: a block has at most WARPS tiles */
            __syncwarp();
            convolve(a, b, front, l, taps);
            __syncwarp();
            send_rows(a, b, s.own_x, s.x, 0, b.rows, tile * 16, 2, EXCHANGE_X);
        }
    }
}

/* dt, B, C = x_proj·x, whole. */
static __device__ __forceinline__ void select(const struct args &a, const struct block &b, struct cursor cursor, uint32_t l,
                                              uint32_t parity)
{
    const struct shape &s = a.s;
    float scale = layer_of(a, b, l)->x_proj.scale;
    for (uint32_t job = (b.warp + WARPS / 2) % WARPS; job < s.Rp / 16 + 2; job += WARPS) {
        const uint8_t *piece = acquire(a, b, SELECT, cursor);
        uint32_t o = job * 16 + b.lane / 4, row = b.lane % 4 * 2;
        const float *bias = reinterpret_cast<const float *>(piece + s.x_bias) + o;
        float total[4];
        wait_exchange(b, EXCHANGE_X, parity);
        multiply(b, total, piece + s.x_proj + job * s.D * 32, s.x, s.ldx, s.D);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            float v = product(total[i], scale, bias[i / 2 * 8]);
            if (job * 16 < s.Rp)
                halfs(b, s.dt)[(row + i % 2) * s.lddt + o + i / 2 * 8] = to_half(v);
            else
                floats(b, s.bc)[(row + i % 2) * LDBC + o - s.Rp + i / 2 * 8] = v;
        }
    }
}

/* In the scan a warp has 8 of the channels of a tile (or, where there is but one warp to a tile, one 8 after the other):
 * lane / 4 is the channel, lane % 4 the quarter of its states. */
static __device__ __forceinline__ uint32_t scan_channel(const struct block &b, uint32_t half)
{
    return b.tile * 16 + half * 8 + b.lane / 4;
}

template <enum ssm_dtype S>
static __device__ __forceinline__ uint8_t *scan_state(const struct args &a, const struct block &b, uint32_t l, uint32_t half,
                                                      uint32_t run)
{
    return state4_at<S>(b.info->slot[run] + a.p.slab.ssm_at + l * a.p.slab.ssm_layer,
                        b.rank * a.s.channels + scan_channel(b, half), b.lane % 4);
}

/* Of GROUP runs from `run` on. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void load_states(const struct args &a, const struct block &b, uint32_t l, uint32_t half,
                                                   uint32_t run, struct state4<S> state[GROUP])
{
#pragma unroll
    for (uint32_t j = 0; j < GROUP; j++)
        if (run + j * b.run_stride < b.n_runs)
            state[j].load(scan_state<S>(a, b, l, half, run + j * b.run_stride));
}

/* What the scan knows of a lane's channel. */
struct lane_channel {
    uint32_t c;
    float A[4], skip;
    float delta[2]; /* of rows 2·(lane % 4) and the next */
};

/* Δ = softplus(dt_proj·dt + bias) for half the channels of a tile. */
static __device__ __forceinline__ void prepare_channel(const struct args &a, const struct block &b, const uint8_t *back,
                                                       float scale, uint32_t half, struct lane_channel *ret)
{
    const struct shape &s = a.s;
    uint32_t c = scan_channel(b, half), steps = s.Rp / 16, rows = rows_address(b, s.dt, s.lddt);
    float4 A = reinterpret_cast<const float4 *>(back + s.A)[c / 32 * 128 + b.lane % 4 * 32 + c % 32];
    float bias = reinterpret_cast<const float *>(back + s.dt_bias)[c], sum[4] = {};
    const uint4 *fragments =
        reinterpret_cast<const uint4 *>(back + s.dt_proj) + b.tile * steps * 32 + b.lane;
    ret->c = c;
    ret->A[0] = A.x, ret->A[1] = A.y, ret->A[2] = A.z, ret->A[3] = A.w;
    ret->skip = reinterpret_cast<const float *>(back + s.skip)[c];
    for (uint32_t i = 0; i < steps; i++)
        multiply_step(sum, fragments + i * 32, rows + i * 32);
    ret->delta[0] = softplus(product(half ? sum[2] : sum[0], scale, bias));
    ret->delta[1] = softplus(product(half ? sum[3] : sum[1], scale, bias));
}

/* h ← exp(Δ·g·A)·h + Δ·B·x;  y = (C·h + D·x)·silu(z) of COUNT runs side by side, each in time order. A run that is over
 * before the others repeats its last row and drops it. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_runs(const struct args &a, const struct block &b, const struct lane_channel &c,
                                                 uint32_t run, struct state4<S> state[GROUP])
{
    const struct shape &s = a.s;
    uint32_t q = b.lane % 4, first[COUNT], T[COUNT], steps = 0;
    float h[COUNT][4];
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        bool is = run + j * b.run_stride < b.n_runs;
        first[j] = is ? b.info->first[run + j * b.run_stride] : 0;
        T[j] = is ? b.info->T[run + j * b.run_stride] : 0;
        steps = max(steps, T[j]);
        state[j].unpack(h[j]);
    }
    for (uint32_t t = 0; t < steps; t++) {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            uint32_t row = first[j] + (t < T[j] ? t : max(T[j], 1u) - 1);
            float delta = __shfl_sync(0xffffffffu, row % 2 ? c.delta[1] : c.delta[0], b.lane / 4 * 4 + row / 2);
            float x = __half2float(halfs(b, s.own_x)[row * s.ldc + c.c]);
            float z = __half2float(halfs(b, s.own_z)[row * s.ldc + c.c]);
            const float4 *bc = reinterpret_cast<const float4 *>(floats(b, s.bc) + row * LDBC);
            float4 B4 = bc[q], C4 = bc[4 + q];
            const float B[4] = {B4.x, B4.y, B4.z, B4.w}, C[4] = {C4.x, C4.y, C4.z, C4.w};
            struct state4<S> next;
            float n[4] = {h[j][0], h[j][1], h[j][2], h[j][3]};
            decay4(n, c.A, B, __fmul_rn(delta, b.info->g[row]), __fmul_rn(delta, x));
            next.pack(n);
            float sum = read4(n, C);
            sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
            sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
            __half y = to_half(gate(sum, c.skip, x, z));
            if (t < T[j]) {
                state[j] = next;
                h[j][0] = n[0], h[j][1] = n[1], h[j][2] = n[2], h[j][3] = n[3];
                if (q == 0)
                    halfs(b, s.own_y)[row * s.ldc + c.c] = y;
            }
        }
    }
}

/* COUNT runs from `run` on, their states back to their slots, y to all blocks. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_group(const struct args &a, const struct block &b, const struct lane_channel &c,
                                                  uint32_t l, uint32_t half, uint32_t run, struct state4<S> state[GROUP])
{
    scan_runs<S, COUNT>(a, b, c, run, state);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        uint32_t i = run + j * b.run_stride;
        if (i < b.n_runs) {
            send_rows(a, b, a.s.own_y, a.s.y, b.info->first[i], b.info->T[i], scan_channel(b, half) - b.lane / 4, 1, EXCHANGE_Y);
            state[j].store(scan_state<S>(a, b, l, half, i));
        }
    }
}

/* `state`: the first group's, loaded early. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void scan(const struct args &a, const struct block &b, const uint8_t *back, uint32_t l,
                                            struct state4<S> state[GROUP])
{
    float scale = layer_of(a, b, l)->dt_proj.scale;
    bool early = true;
    for (uint32_t half = b.half; half < 2 && b.run < b.n_runs; half += a.s.shares == 1 ? 1 : 2) {
        struct lane_channel c;
        prepare_channel(a, b, back, scale, half, &c);
        for (uint32_t run = b.run; run < b.n_runs; run += GROUP * b.run_stride, early = false) {
            if (!early)
                load_states<S>(a, b, l, half, run, state);
            if (run + b.run_stride >= b.n_runs)
                scan_group<S, 1>(a, b, c, l, half, run, state);
            else
                scan_group<S, GROUP>(a, b, c, l, half, run, state);
        }
    }
}

/* r += out_proj·y, this block's outputs, to all blocks. */
static __device__ __forceinline__ void out_proj(const struct args &a, const struct block &b, const uint8_t *back, uint32_t l,
                                                uint32_t parity)
{
    const struct shape &s = a.s;
    float scale = layer_of(a, b, l)->out_proj.scale, *stage = floats(b, s.stage) + b.warp * ROWS * LDSTAGE;
    for (uint32_t job = WARPS - 1 - b.warp; job < b.out_n; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2;
        const float *bias = reinterpret_cast<const float *>(back + s.out_bias) + job * 16 + o;
        const float *r = floats(b, s.r) + (b.out_first + job) * 16 + o;
        float total[4];
        wait_exchange(b, EXCHANGE_Y, parity);
        multiply(b, total, back + s.out_proj + job * s.D * 32, s.y, s.ldx, s.D);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            stage[(row + i % 2) * LDSTAGE + o + i / 2 * 8] =
                __fadd_rn(r[(row + i % 2) * s.E + i / 2 * 8], product(total[i], scale, bias[i / 2 * 8]));
        __syncwarp();
        for (uint32_t i = b.item; i < b.rows * 4; i += b.stride)
            send(b.to + s.r + (i / 4 * s.E + (b.out_first + job) * 16 + i % 4 * 4) * 4, stage + i / 4 * LDSTAGE + i % 4 * 4,
                 b.to + exchange_barrier(EXCHANGE_R));
        __syncwarp();
    }
}

/* Outputs [0, n_out) of the picked rows. */
static __device__ __forceinline__ void head(const struct args &a, const struct block &b, const uint8_t *piece, uint32_t n_out)
{
    const struct shape &s = a.s;
    uint32_t first = first_tile(s, s.head_tiles, b.rank), n = first_tile(s, s.head_tiles, b.rank + 1) - first;
    for (uint32_t job = b.warp; job < n && (first + job) * 16 < n_out; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2;
        const float *bias = reinterpret_cast<const float *>(piece + s.head_bias) + job * 16 + o;
        float total[4];
        multiply(b, total, piece + s.head + job * s.E * 32, s.u, s.ldu, s.E);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t to = row + i < b.rows ? b.info->pick[row + i] : GPU_NOT_PICKED;
            if (to != GPU_NOT_PICKED) {
                float *out = a.p.out + (size_t)to * a.p.ldo + (first + job) * 16 + o;
                out[0] = product(total[i], a.head.scale, bias[0]);
                out[8] = product(total[i + 2], a.head.scale, bias[8]);
            }
        }
    }
}

/* ---- the kernel ---- */

/* One layer; `parity` of the exchanges' phases. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void layer(const struct args &a, const struct block &b, uint32_t l, uint32_t parity,
                                             struct cursor front, struct cursor select_at, struct cursor back)
{
    struct taps taps = {};
    struct state4<S> state[GROUP] = {};
    if (b.warp < a.s.tiles)
        load_taps(a, b, l, &taps);
    load_states<S>(a, b, l, b.half, b.run, state);
    const uint8_t *piece = acquire(a, b, FRONT, front);
    if (l > 0)
        wait_exchange(b, EXCHANGE_R, parity ^ 1);
    if (b.warp < b.rows)
        normalise(a, b, reinterpret_cast<const float *>(piece + a.s.norm), NULL);
    block_barrier();
    in_proj(a, b, piece, l, taps);
    select(a, b, select_at, l, parity);
    piece = acquire(a, b, BACK, back);
    block_barrier();
    scan<S>(a, b, piece, l, state);
    out_proj(a, b, piece, l, parity);
}

/* The first eight warps. */
template <enum ssm_dtype S>
static __device__ void compute(const struct args &a, struct block b, struct gpu_chain chain, uint32_t n_out)
{
    struct cursor front = {}, select_at = {}, back = {};
    uint32_t parity = 0;
    struct gpu_tile tile = a.p.tiles[chain.tile];
    for (uint32_t i = 0; i < chain.n; i++) {
        if (i > 0)
            tile = a.p.tiles[chain.tile + i];
        struct info *info = reinterpret_cast<struct info *>(b.shared + a.s.info) + i % 2;
        b.info = info;
        b.row = tile.row;
        b.rows = uniform(tile.rows);
        b.n_runs = uniform(tile.n_runs);
        if (b.warp == WARPS - 1)
            read_info(a, tile, b.lane, info);
        if (b.warp < b.rows)
            read_row(a, b);
        if (i == 0)
            cluster_wait();
        block_barrier();
        for (uint32_t l = 0; l < a.s.L; l++, parity ^= 1) {
            layer<S>(a, b, l, parity, front, select_at, back);
            advance(a, FRONT, &front);
            advance(a, SELECT, &select_at);
            advance(a, BACK, &back);
        }
        const uint8_t *piece = acquire(a, b, HEAD, cursor{0, 0});
        wait_exchange(b, EXCHANGE_R, parity ^ 1);
        if (b.warp < b.rows)
            normalise(a, b, reinterpret_cast<const float *>(piece + a.s.norm_f),
                      a.p.f && b.warp % a.s.blocks == b.rank ? a.p.f + (size_t)(b.row + b.warp) * a.s.E : NULL);
        block_barrier();
        head(a, b, piece, n_out);
    }
}

/* What must have landed before a block without work may end. */
static __device__ void drain(const struct args &a, const struct block &b)
{
    for (uint32_t kind = 0; kind < KINDS; kind++)
        for (uint32_t slot = 0; slot < a.s.ring[kind].depth; slot++)
            mbarrier_wait(b.base + full_barrier((enum piece_kind)kind, slot), 0);
    cluster_wait();
}

static __device__ __forceinline__ struct block this_block(const struct args &a, uint8_t *shared)
{
    struct block b = {};
    b.shared = shared;
    b.base = shared_address(shared);
    b.rank = cluster_rank();
    b.warp = uniform(threadIdx.x / 32);
    b.lane = threadIdx.x % 32;
    b.stride = 32 / a.s.blocks;
    b.item = b.lane < b.stride * a.s.blocks ? b.lane / a.s.blocks : 0xffffffffu;
    b.to = in_block(b.base, b.lane % a.s.blocks);
    b.out_first = first_tile(a.s, a.s.out_tiles, b.rank);
    b.out_n = first_tile(a.s, a.s.out_tiles, b.rank + 1) - b.out_first;
    uint32_t share = b.warp / a.s.tiles;
    b.tile = b.warp % a.s.tiles;
    b.half = share % 2;
    b.run = share < a.s.shares ? share / 2 : ROWS; /* beyond all runs: a warp too many */
    b.run_stride = max(a.s.shares / 2, 1u);
    return b;
}

static __device__ __forceinline__ void copy_layers(const struct args &a, const struct block &b)
{
    const uint64_t *from = reinterpret_cast<const uint64_t *>(a.layers);
    uint64_t *to = reinterpret_cast<uint64_t *>(b.shared + a.s.layers);
    for (uint32_t i = threadIdx.x; i < a.s.L * (uint32_t)(sizeof *a.layers / 8); i += THREADS)
        to[i] = __ldg(from + i);
}

template <enum ssm_dtype S>
static __global__ void __launch_bounds__(THREADS, 1) cluster_kernel(const __grid_constant__ struct args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    struct block b = this_block(a, shared);
    grid_launch_next();
    copy_layers(a, b);
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < BARRIERS; i++)
            mbarrier_init(b.base + i * 8, 1);
        mbarrier_init_fence();
    }
    block_barrier();
    cluster_arrive();
    if (b.warp == WARPS)
        fill_all(a, b);
    grid_wait();
    uint32_t cluster = blockIdx.x / a.s.blocks, n_chains = a.p.head->n_chains, n_out = a.p.head->n_out;
    struct gpu_chain chain = a.p.chains[cluster];
    if (cluster >= n_chains)
        drain(a, b);
    else if (b.warp == WARPS)
        load(a, b, chain);
    else
        compute<S>(a, b, chain, n_out);
}

/* ---- host ---- */

static uint32_t take(uint32_t *at, uint32_t bytes)
{
    uint32_t from = *at;
    *at += GPU_PADDED(bytes);
    return from;
}

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* As many blocks as leave each a multiple of 32 channels, whole groups of a state's layout. */
static uint32_t cluster_blocks(uint32_t D)
{
    uint32_t groups = D / 32, n = groups < BLOCKS_MAX ? groups : BLOCKS_MAX;
    while (groups % n)
        n--;
    return n;
}

static void shape_pieces(struct shape *s)
{
    uint32_t c = s->channels, out = ceil_div(s->out_tiles, s->blocks), head = ceil_div(s->head_tiles, s->blocks);
    uint32_t *front = &s->ring[FRONT].bytes, *select = &s->ring[SELECT].bytes, *back = &s->ring[BACK].bytes;
    uint32_t *last = &s->ring[HEAD].bytes;
    s->norm = take(front, s->E * 4);
    s->in_x = take(front, c * s->E * 2);
    s->in_z = take(front, c * s->E * 2);
    s->conv = take(front, c * 4 * 4);
    s->conv_bias = take(front, c * 4);
    s->bias_x = take(front, c * 4);
    s->bias_z = take(front, c * 4);
    s->x_proj = take(select, (s->Rp + 32) * s->D * 2);
    s->x_bias = take(select, (s->Rp + 32) * 4);
    s->dt_proj = take(back, c * s->Rp * 2);
    s->dt_bias = take(back, c * 4);
    s->A = take(back, c * 64);
    s->skip = take(back, c * 4);
    s->out_proj = take(back, out * 16 * s->D * 2);
    s->out_bias = take(back, out * 64);
    s->norm_f = take(last, s->E * 4);
    s->head = take(last, head * 16 * s->E * 2);
    s->head_bias = take(last, head * 64);
}

static void shape_rows(struct shape *s)
{
    s->bytes = BARRIERS * 8;
    s->bytes = GPU_PADDED(s->bytes);
    s->ldu = s->E + 8;
    s->ldx = s->D + 8;
    s->ldc = s->channels + 8;
    s->lddt = s->Rp + 8;
    s->info = take(&s->bytes, 2 * sizeof(struct info));
    s->layers = take(&s->bytes, s->L * (uint32_t)sizeof(struct gpu_layer));
    s->u = take(&s->bytes, ROWS * s->ldu * 2);
    s->dt = take(&s->bytes, ROWS * s->lddt * 2);
    s->bc = take(&s->bytes, ROWS * LDBC * 4);
    s->x = take(&s->bytes, ROWS * s->ldx * 2);
    s->y = take(&s->bytes, ROWS * s->ldx * 2);
    s->r = take(&s->bytes, ROWS * s->E * 4);
    s->own_in = take(&s->bytes, ROWS * s->ldc * 2);
    s->own_x = take(&s->bytes, ROWS * s->ldc * 2);
    s->own_y = take(&s->bytes, ROWS * s->ldc * 2);
    s->own_z = take(&s->bytes, ROWS * s->ldc * 2);
    s->stage = take(&s->bytes, WARPS * ROWS * LDSTAGE * 4);
}

/* One buffer of each kind, then one more of each in turn while there is room. */
static bool shape_rings(struct shape *s)
{
    static const enum piece_kind order[] = {FRONT, BACK, SELECT};
    for (int kind = 0; kind < KINDS; kind++) {
        s->ring[kind].depth = 1;
        s->bytes += s->ring[kind].bytes;
    }
    if (s->bytes > SHARED_MAX)
        return false;
    for (bool grown = true; grown;) {
        grown = false;
        for (enum piece_kind kind : order) {
            struct shape::ring *r = &s->ring[kind];
            if (r->depth < s->L && r->depth < DEPTH_MAX && s->bytes + r->bytes <= SHARED_MAX) {
                r->depth++;
                s->bytes += r->bytes;
                grown = true;
            }
        }
    }
    uint32_t at = s->bytes;
    for (int kind = KINDS - 1; kind >= 0; kind--)
        s->ring[kind].at = at -= s->ring[kind].depth * s->ring[kind].bytes;
    return true;
}

/* False: not for this regime. */
static bool shape_of(const struct gpu_model *m, struct shape *ret)
{
    struct shape s = {};
    if (!m->resident)
        return false;
    s.E = m->d.E;
    s.D = m->d.D;
    s.Rp = m->d.Rp;
    s.L = m->d.L;
    s.blocks = cluster_blocks(s.D);
    s.channels = s.D / s.blocks;
    s.tiles = s.channels / 16;
    if (s.tiles > WARPS)
        return false;
    s.shares = WARPS / s.tiles;
    s.out_tiles = s.E / 16;
    s.head_tiles = m->head.np / 16;
    shape_pieces(&s);
    shape_rows(&s);
    *ret = s;
    return shape_rings(ret);
}

static const void *kernel_of(enum ssm_dtype state)
{
    switch (state) {
    case SSM_BF16:
        return (const void *)cluster_kernel<SSM_BF16>;
    case SSM_F16:
        return (const void *)cluster_kernel<SSM_F16>;
    default:
        return (const void *)cluster_kernel<SSM_F32>;
    }
}

static cudaLaunchConfig_t config_of(const struct shape *s, uint32_t clusters, cudaStream_t stream,
                                    cudaLaunchAttribute attributes[2])
{
    cudaLaunchConfig_t c = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = s->blocks;
    attributes[0].val.clusterDim.y = 1;
    attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = dim3(clusters * s->blocks);
    c.blockDim = dim3(THREADS);
    c.dynamicSmemBytes = s->bytes;
    c.stream = stream;
    c.attrs = attributes;
    c.numAttrs = 2;
    return c;
}

/* Clusters that run at the same time; 0: none ever. */
static uint32_t clusters_at_once(const struct shape *s)
{
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t c = config_of(s, 1, NULL, attributes);
    int n = 0;
    c.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&n, kernel_of(SSM_F32), &c) == cudaSuccess && n > 0)
        return (uint32_t)n;
    cudaGetLastError();
    return 0;
}

bool gpu_cluster_open(const struct gpu_model *m)
{
    static const enum ssm_dtype states[] = {SSM_F32, SSM_BF16, SSM_F16};
    struct shape s;
    if (!shape_of(m, &s))
        return false;
    for (enum ssm_dtype state : states) {
        const void *kernel = kernel_of(state);
        if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX) ||
            cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) {
            cudaGetLastError();
            return false;
        }
    }
    return clusters_at_once(&s) > 0;
}

/* A full round of clusters spends about 1.8 µs on a layer, for which resident.cu streams about 100 KB of weights into
 * every multiprocessor; a model that small is a round's worth, a larger one as many rounds. */
uint32_t gpu_cluster_rows(const struct gpu_model *m)
{
    struct shape s;
    if (!shape_of(m, &s))
        return 0;
    uint32_t layer = (3 * s.D * s.E + (2 * s.Rp + 32) * s.D) * 2, rounds = layer / (128 << 10);
    return clusters_at_once(&s) * ROWS * (rounds > 1 ? rounds : 1);
}

void gpu_cluster(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t n_chains,
                 cudaStream_t stream)
{
    struct args a = {};
    cudaLaunchAttribute attributes[2];
    if (!shape_of(m, &a.s))
        return;
    a.p = *p;
    a.layers = m->layers_device;
    a.embedding = m->embedding;
    a.dtype = m->dtype;
    a.norm_f = m->norm_f;
    a.head = m->head;
    a.eps = m->d.eps;
    cudaLaunchConfig_t c = config_of(&a.s, n_chains, stream, attributes);
    void *params[] = {&a};
    cudaLaunchKernelExC(&c, kernel_of(state), params);
}
