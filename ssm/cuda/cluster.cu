/* cluster.cu: signal-sized models, few rows: a whole pass in one launch, a cluster of blocks for every chain of tiles
 * of up to 8 rows. Made for latency: block `rank` owns D/blocks channels in every layer, all products are mma with 8
 * rows as N, and blocks meet three times a layer, through each other's shared memory:
 *
 *   x  after the convolution, into every block: x_proj needs all channels, and every block computes it whole
 *   y  gated, into every block, for out_proj, whose outputs are shared out in tiles of 16
 *   r  the new residuals, into every block: every block norms for itself
 *
 * Eight warps compute, a ninth loads. In a layer warp i norms row i; the first `tiles` warps do in_proj's x and the
 * convolution of 16 channels, the next z; x_proj starts at warp 4, out_proj at warp 7; in the scan four lanes share a
 * channel. Weights come in three pieces a layer, by bulk copies into rings of buffers that the loader refills as soon
 * as the block is through with one. Programmatic launch: weights, the same for every pass, are on their way while the
 * pass before this one still runs; nothing else is touched before griddepcontrol.wait.
 *
 * Exchanges are st.async: a store that counts its bytes on an mbarrier of the destination, which has one phase a layer
 * and is told beforehand how many to expect. Every buffer is single. Nobody can write it too early, for a block sends
 *
 *   x(l+1) after r(l) has come: some block had all of y(l) then, so every block had sent y(l), and that is after its
 *          barrier behind x_proj(l), the reader of x(l);
 *   y(l+1) after x(l+1) has come from all, which every block sends after its barrier behind norm(l+1), which its
 *          out_proj warps enter when they are done with y(l), and its loader when it has seen y(l) complete;
 *   r(l+1) after y(l+1) has come from all, which is after their norms have read r(l); out_proj itself reads only
 *          elements that no other block writes.
 *
 * The same holds from a tile to the next. Bytes that come before they are expected do no harm: a phase also waits for
 * the loader's arrival, and the loader arrives for layer l+1 when all three phases of layer l are over. A block ends
 * when all that is sent to it has come; so nothing is ever sent to a block that is gone. Any new reader of x, y or r
 * must fit these three sentences.
 *
 * Rows of a tile beyond its last are computed with whatever the buffers hold and go nowhere: a column of B reaches only
 * its own column of D.
 *
 * Critical path of a layer at B = 1, in clocks, for E 128 / 256 (mma m16n8k16 into the same accumulator: 33):
 *   norm        300   load, 4 fma, 5 shuffles, division, rsqrt, store, barrier
 *   in_proj     310 / 575   E/16 mma
 *   conv        200   through shared memory to lanes that own a channel and back, SiLU
 *   x           250   DSMEM and the mbarrier
 *   x_proj      620   16 mma, two chunks side by side where D = 512; barrier
 *   dt_proj     170   1 mma, softplus
 *   scan        250
 *   y           250
 *   out_proj    620   16 mma
 *   r           250
 *   sum        3220 / 3480 = 1.63 / 1.76 µs at 1.98 GHz, so 6.5 µs for 4 layers and 14.1 µs for 8; the start of a pass
 *   (counts and tile, token, embedding: three dependent loads), the head and the end of the launch add about 3 µs.
 *
 * Ladder (µs; sig-128x4, sig-256x8, B = 1, back to back, H100):
 *   20.0, 41.4   weights in three rings, st.async exchanges
 *   12.0, 27.6   known widths compiled in, x_proj's piece asked for first */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/plan.cuh"
#include "ssm/cuda/ptx.cuh"

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
enum piece { FRONT, SELECT, BACK, HEAD, PIECES };

enum { BARRIERS = EXCHANGES + PIECES * DEPTH_MAX };

/* What follows from a model's width; for some widths the compiler knows it. Offsets are bytes of shared memory, the
 * same in every block. */
struct dims {
    uint32_t E, D, Rp;
    uint32_t blocks;                  /* of a cluster */
    uint32_t channels, tiles, shares; /* of a block; in tiles of 16; warps to a tile in the scan */
    uint32_t ldu, ldx, ldc, lddt;     /* halfs from row to row; odd multiples of 16 bytes, for ldmatrix */
    uint32_t info;                    /* struct info [2], by parity of the tile */
    uint32_t u, dt, bc;               /* fp16 [8][E], fp16 [8][Rp], fp32 [8][2N] */
    uint32_t x, y, r;                 /* exchanged: fp16 [8][D], fp16 [8][D], fp32 [8][E] */
    uint32_t own_in, own_x;           /* this block's channels, fp16 [8][channels]: before the convolution, after it */
    uint32_t own_y, own_z;
    uint32_t stage; /* fp32 [WARPS][8][16]: r on its way out */
    uint32_t rows_end;
    uint32_t norm, in_x, in_z, conv, conv_bias, bias_x, bias_z; /* in a FRONT buffer */
    uint32_t x_proj, x_bias;                                    /* SELECT */
    uint32_t dt_proj, dt_bias, A, skip, out_proj, out_bias;     /* BACK */
    uint32_t norm_f, head;                                      /* HEAD */
    uint32_t front_bytes, select_bytes, back_bytes;
};

struct args {
    struct dims d;
    uint32_t L;
    uint32_t head_tiles, head_bias; /* of all blocks; where in HEAD */
    uint32_t layers_at;             /* in shared memory */
    struct ring {
        uint32_t at, bytes, depth;
    } ring[PIECES];
    uint32_t bytes; /* of shared memory */
    struct gpu_pass p;
    struct gpu_carried carried;
    const struct gpu_layer *layers;
    const void *embedding;
    enum ssm_dtype dtype;
    const float *norm_f;
    struct gpu_matrix head;
    float eps;
};

/* A tile's rows and runs. */
struct info {
    uint8_t *slot[ROWS];                     /* by run */
    uint32_t first[ROWS], T[ROWS];           /* by run; first: row of the tile */
    uint32_t run[ROWS], t[ROWS], left[ROWS]; /* by row: its run, rows of that before it and after it */
    uint32_t pick[ROWS];
    float g[ROWS];
};

/* What a warp knows of its place and of the tile at hand. */
struct block {
    struct dims d;
    uint8_t *shared;
    uint32_t base; /* the same as an address */
    uint32_t rank, warp, lane;
    uint32_t to;                          /* base of the block that this lane sends to */
    uint32_t item, stride;                /* and which of the things to send */
    uint32_t out_first, out_n;            /* tiles of out_proj */
    uint32_t tile, half, run, run_stride; /* of the scan: this warp's channels and the runs it takes */
    const struct info *info;
    uint32_t row, rows, n_runs;
};

/* The buffer of a ring that is next, and the parity of its barrier's phase. */
struct cursor {
    uint32_t slot, parity;
};

/* ---- layout ---- */

static __host__ __device__ constexpr uint32_t take(uint32_t *at, uint32_t bytes)
{
    uint32_t from = *at;
    *at += GPU_PADDED(bytes);
    return from;
}

/* As many blocks as leave each a multiple of 32 channels, whole groups of a state's layout. */
static __host__ __device__ constexpr uint32_t cluster_blocks(uint32_t D)
{
    uint32_t groups = D / 32, n = groups < BLOCKS_MAX ? groups : BLOCKS_MAX;
    while (groups % n)
        n--;
    return n;
}

static __host__ __device__ constexpr void lay_rows(struct dims *d)
{
    uint32_t at = GPU_PADDED(BARRIERS * 8u);
    d->ldu = d->E + 8;
    d->ldx = d->D + 8;
    d->ldc = d->channels + 8;
    d->lddt = d->Rp + 8;
    d->info = take(&at, 2 * sizeof(struct info));
    d->u = take(&at, ROWS * d->ldu * 2);
    d->dt = take(&at, ROWS * d->lddt * 2);
    d->bc = take(&at, ROWS * LDBC * 4);
    d->x = take(&at, ROWS * d->ldx * 2);
    d->y = take(&at, ROWS * d->ldx * 2);
    d->r = take(&at, ROWS * d->E * 4);
    d->own_in = take(&at, ROWS * d->ldc * 2);
    d->own_x = take(&at, ROWS * d->ldc * 2);
    d->own_y = take(&at, ROWS * d->ldc * 2);
    d->own_z = take(&at, ROWS * d->ldc * 2);
    d->stage = take(&at, WARPS * ROWS * LDSTAGE * 4);
    d->rows_end = at;
}

static __host__ __device__ constexpr void lay_pieces(struct dims *d)
{
    uint32_t front = 0, select = 0, back = 0, head = 0, c = d->channels;
    uint32_t out = (d->E / 16 + d->blocks - 1) / d->blocks;
    d->norm = take(&front, d->E * 4);
    d->in_x = take(&front, c * d->E * 2);
    d->in_z = take(&front, c * d->E * 2);
    d->conv = take(&front, c * 4 * 4);
    d->conv_bias = take(&front, c * 4);
    d->bias_x = take(&front, c * 4);
    d->bias_z = take(&front, c * 4);
    d->front_bytes = front;
    d->x_proj = take(&select, (d->Rp + 32) * d->D * 2);
    d->x_bias = take(&select, (d->Rp + 32) * 4);
    d->select_bytes = select;
    d->dt_proj = take(&back, c * d->Rp * 2);
    d->dt_bias = take(&back, c * 4);
    d->A = take(&back, c * 64);
    d->skip = take(&back, c * 4);
    d->out_proj = take(&back, out * 16 * d->D * 2);
    d->out_bias = take(&back, out * 64);
    d->back_bytes = back;
    d->norm_f = take(&head, d->E * 4);
    d->head = head;
}

static __host__ __device__ constexpr struct dims dims_of(uint32_t E, uint32_t D, uint32_t Rp)
{
    struct dims d = {};
    d.E = E;
    d.D = D;
    d.Rp = Rp;
    d.blocks = cluster_blocks(D);
    d.channels = D / d.blocks;
    d.tiles = d.channels / 16;
    d.shares = WARPS / d.tiles;
    lay_rows(&d);
    lay_pieces(&d);
    return d;
}

/* ---- instructions ---- */

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

/* ---- barriers and buffers ---- */

static __device__ __forceinline__ uint32_t exchange_barrier(enum exchange e)
{
    return e * 8;
}

static __device__ __forceinline__ uint32_t full_barrier(enum piece piece, uint32_t slot)
{
    return (EXCHANGES + piece * DEPTH_MAX + slot) * 8;
}

static __device__ __forceinline__ void wait_exchange(const struct block &b, enum exchange e, uint32_t parity)
{
    mbarrier_wait(b.base + exchange_barrier(e), parity);
}

static __device__ __forceinline__ uint32_t buffer_at(const struct args &a, const struct dims &d, enum piece piece,
                                                     uint32_t slot)
{
    uint32_t bytes = piece == FRONT ? d.front_bytes : piece == SELECT ? d.select_bytes : d.back_bytes;
    return a.ring[piece].at + (piece == HEAD ? 0 : slot * bytes);
}

/* Waits for the next piece of its kind. */
static __device__ __forceinline__ const uint8_t *acquire(const struct args &a, const struct block &b, enum piece piece,
                                                         struct cursor c)
{
    mbarrier_wait(b.base + full_barrier(piece, c.slot), c.parity);
    return b.shared + buffer_at(a, b.d, piece, c.slot);
}

static __device__ __forceinline__ void advance(const struct args &a, enum piece piece, struct cursor *c)
{
    if (++c->slot == a.ring[piece].depth) {
        c->slot = 0;
        c->parity ^= 1;
    }
}

/* The first of n tiles that block `rank` has; the next block's is the end. */
static __device__ __forceinline__ uint32_t first_tile(const struct dims &d, uint32_t n, uint32_t rank)
{
    return n * rank / d.blocks;
}

static __device__ __forceinline__ const struct gpu_layer &layer_of(const struct args &a, const struct block &b,
                                                                   uint32_t l)
{
    return reinterpret_cast<const struct gpu_layer *>(b.shared + a.layers_at)[l];
}

static __device__ __forceinline__ __half *halfs(const struct block &b, uint32_t at)
{
    return reinterpret_cast<__half *>(b.shared + at);
}

static __device__ __forceinline__ float *floats(const struct block &b, uint32_t at)
{
    return reinterpret_cast<float *>(b.shared + at);
}

static __device__ __forceinline__ const float *floats_at(const uint8_t *piece, uint32_t at)
{
    return reinterpret_cast<const float *>(piece + at);
}

/* ---- loading ---- */

struct copy {
    const void *from;
    uint32_t to, bytes;
};

static __device__ __forceinline__ struct copy tiles_copy(const struct gpu_matrix &m, uint32_t first, uint32_t n,
                                                         uint32_t to)
{
    return {m.fragments + (size_t)first * m.kp * 16, to, n * m.kp * 32};
}

/* Each lane's copy for a piece; lanes beyond the last: 0 bytes. */
static __device__ __forceinline__ struct copy front_copy(const struct block &b, const struct gpu_layer &l)
{
    const struct dims &d = b.d;
    uint32_t c = b.rank * d.channels, bytes = d.channels * 4, i = b.lane;
    switch (i) {
    case 0:
        return {l.norm, d.norm, d.E * 4};
    case 1:
        return tiles_copy(l.in_proj, b.rank * d.tiles, d.tiles, d.in_x);
    case 2:
        return tiles_copy(l.in_proj, d.D / 16 + b.rank * d.tiles, d.tiles, d.in_z);
    case 3:
    case 4:
    case 5:
    case 6:
        return {l.conv + (i - 3) * d.D + c, d.conv + (i - 3) * bytes, bytes};
    case 7:
        return {l.conv_bias + c, d.conv_bias, bytes};
    case 8:
        return {l.in_proj.bias + c, d.bias_x, bytes};
    case 9:
        return {l.in_proj.bias + d.D + c, d.bias_z, bytes};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ __forceinline__ struct copy select_copy(const struct block &b, const struct gpu_layer &l)
{
    switch (b.lane) {
    case 0:
        return tiles_copy(l.x_proj, 0, l.x_proj.np / 16, b.d.x_proj);
    case 1:
        return {l.x_proj.bias, b.d.x_bias, l.x_proj.np * 4};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ __forceinline__ struct copy back_copy(const struct block &b, const struct gpu_layer &l)
{
    const struct dims &d = b.d;
    uint32_t c = b.rank * d.channels, bytes = d.channels * 4;
    switch (b.lane) {
    case 0:
        return tiles_copy(l.dt_proj, b.rank * d.tiles, d.tiles, d.dt_proj);
    case 1:
        return {l.dt_proj.bias + c, d.dt_bias, bytes};
    case 2:
        return {l.A + c * 16, d.A, d.channels * 64};
    case 3:
        return {l.skip + c, d.skip, bytes};
    case 4:
        return tiles_copy(l.out_proj, b.out_first, b.out_n, d.out_proj);
    case 5:
        return {l.out_proj.bias + b.out_first * 16, d.out_bias, b.out_n * 64};
    default:
        return {NULL, 0, 0};
    }
}

static __device__ __forceinline__ struct copy head_copy(const struct args &a, const struct block &b)
{
    uint32_t first = first_tile(b.d, a.head_tiles, b.rank), n = first_tile(b.d, a.head_tiles, b.rank + 1) - first;
    switch (b.lane) {
    case 0:
        return {a.norm_f, b.d.norm_f, b.d.E * 4};
    case 1:
        return tiles_copy(a.head, first, n, b.d.head);
    case 2:
        return {a.head.bias + first * 16, a.head_bias, n * 64};
    default:
        return {NULL, 0, 0};
    }
}

/* By a whole warp: buffer `slot` of a ring is to hold layer l's piece. */
static __device__ __forceinline__ void fill(const struct args &a, const struct block &b, enum piece piece, uint32_t l,
                                            uint32_t slot)
{
    const struct gpu_layer &layer = layer_of(a, b, l);
    struct copy c = piece == FRONT    ? front_copy(b, layer)
                    : piece == SELECT ? select_copy(b, layer)
                    : piece == BACK   ? back_copy(b, layer)
                                      : head_copy(a, b);
    uint32_t bar = b.base + full_barrier(piece, slot), bytes = __reduce_add_sync(0xffffffffu, c.bytes);
    if (b.lane == 0)
        mbarrier_expect(bar, bytes);
    __syncwarp();
    if (c.bytes)
        bulk_load(b.base + buffer_at(a, b.d, piece, slot) + c.to, c.from, c.bytes, bar);
    __syncwarp();
}

/* All buffers of all rings, the first needed first. */
static __device__ __forceinline__ void fill_all(const struct args &a, const struct block &b)
{
#pragma unroll 1
    for (uint32_t slot = 0; slot < DEPTH_MAX; slot++) {
        if (slot < a.ring[FRONT].depth)
            fill(a, b, FRONT, slot, slot);
        if (slot < a.ring[SELECT].depth)
            fill(a, b, SELECT, slot, slot);
        if (slot < a.ring[BACK].depth)
            fill(a, b, BACK, slot, slot);
        if (slot == 0)
            fill(a, b, HEAD, 0, 0);
    }
}

/* Buffer `slot`, which held stage n, is free: the stage that is next to use it, if there will be one. */
static __device__ __forceinline__ void refill(const struct args &a, const struct block &b, enum piece piece, uint32_t n,
                                              uint32_t stages, uint32_t slot)
{
    uint32_t next = n + a.ring[piece].depth;
    if (next < stages)
        fill(a, b, piece, next % a.L, slot);
}

/* What is to come in this layer. */
static __device__ __forceinline__ void expect_exchanges(const struct block &b, uint32_t rows)
{
    if (b.lane == 0) {
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_X), rows * b.d.D * 2);
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_Y), rows * b.d.D * 2);
        mbarrier_expect(b.base + exchange_barrier(EXCHANGE_R), rows * b.d.E * 4);
    }
    __syncwarp();
}

/* The ninth warp: keeps step with the block's barriers. A stage is a layer of a tile. */
static __device__ __forceinline__ void load(const struct args &a, const struct block &b, struct gpu_chain chain,
                                            struct gpu_tile tile)
{
    struct cursor front = {}, select = {}, back = {};
    uint32_t stages = chain.n * a.L, n = 0, freed = 0; /* freed: of BACK, the last stage's buffer */
    cluster_wait();
    for (uint32_t i = 0; i < chain.n; i++) {
        uint32_t rows = i == 0 ? tile.rows : planned(a.p, a.carried, a.p.tiles)[chain.tile + i].rows;
        block_barrier();
#pragma unroll 1
        for (uint32_t l = 0; l < a.L; l++, n++) {
            block_barrier();
            expect_exchanges(b, rows);
            if (l > 0)
                refill(a, b, BACK, n - 1, stages, freed);
            block_barrier();
            refill(a, b, SELECT, n, stages, select.slot); /* first: often the only buffer of its kind */
            refill(a, b, FRONT, n, stages, front.slot);
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
#pragma unroll 1
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
    uint32_t rows = rows_address(b, at, ld), steps = k / 16, pairs = steps / (2 * CHUNK_STEPS), done = 0;
    for (uint32_t p = 0; p < pairs; p++, done += 2 * CHUNK_STEPS) {
        float sum[2][4];
        multiply_chunks<2>(sum, fragments + done * 32, rows + done * 32, CHUNK_STEPS);
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[i] = __fadd_rn(p == 0 ? sum[0][i] : __fadd_rn(total[i], sum[0][i]), sum[1][i]);
    }
    for (; done < steps; done += CHUNK_STEPS) {
        float sum[1][4];
        multiply_chunks<1>(sum, fragments + done * 32, rows + done * 32, min(steps - done, (uint32_t)CHUNK_STEPS));
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[i] = done == 0 ? sum[0][i] : __fadd_rn(total[i], sum[0][i]);
    }
}

/* ---- a tile's beginning ---- */

static __device__ __forceinline__ void read_info(const struct args &a, struct gpu_tile tile, uint32_t lane,
                                                 struct info *info)
{
    if (lane < tile.n_runs) {
        struct gpu_run run = planned(a.p, a.carried, a.p.runs)[tile.run + lane];
        uint32_t first = run.row - tile.row;
        info->slot[lane] = run.slot;
        info->first[lane] = first;
        info->T[lane] = run.T;
#pragma unroll 1
        for (uint32_t t = 0; t < run.T; t++) {
            info->run[first + t] = lane;
            info->t[first + t] = t;
            info->left[first + t] = run.T - 1 - t;
        }
    }
    if (lane < tile.rows) {
        info->g[lane] = planned(a.p, a.carried, a.p.g)[tile.row + lane];
        info->pick[lane] = planned(a.p, a.carried, a.p.pick)[tile.row + lane];
    }
}

/* r of row `warp`, as it enters the first layer. */
static __device__ __forceinline__ void read_row(const struct args &a, const struct block &b)
{
    size_t row = b.row + b.warp;
    float *r = floats(b, b.d.r) + b.warp * b.d.E;
    if (a.p.tokens) {
        size_t at = (size_t)planned(a.p, a.carried, a.p.tokens)[row] * b.d.E;
#pragma unroll 4
        for (uint32_t e = b.lane; e < b.d.E; e += 32)
            r[e] = embedded(a.embedding, a.dtype, at + e);
    } else {
#pragma unroll 4
        for (uint32_t e = b.lane; e < b.d.E; e += 32)
            r[e] = a.p.r[row * b.d.E + e];
    }
    __syncwarp();
}

/* ---- the steps of a layer ---- */

/* Four elements of a row, normed: to u as fp16, to f unless that is NULL. */
static __device__ __forceinline__ void put_normed(float4 r, float rstd, float4 w, __half *u, float *f)
{
    float4 v =
        make_float4(normed(r.x, rstd, w.x), normed(r.y, rstd, w.y), normed(r.z, rstd, w.z), normed(r.w, rstd, w.w));
    const __half2 h[2] = {to_half2(v.x, v.y), to_half2(v.z, v.w)};
    *reinterpret_cast<uint2 *>(u) = *reinterpret_cast<const uint2 *>(h);
    if (f)
        *reinterpret_cast<float4 *>(f) = v;
}

/* u = RMSNorm(r) of row `warp`, and f, unless that is NULL. Known widths stay in registers. */
static __device__ __forceinline__ void normalise(const struct args &a, const struct block &b, const float *weights,
                                                 float *f)
{
    const float4 *r = reinterpret_cast<const float4 *>(floats(b, b.d.r) + b.warp * b.d.E) + b.lane;
    const float4 *w = reinterpret_cast<const float4 *>(weights) + b.lane;
    __half *u = halfs(b, b.d.u) + b.warp * b.d.ldu + b.lane * 4;
    f = f ? f + b.lane * 4 : f;
    if (b.d.E == 128) {
        float4 v = r[0], q = w[0];
        put_normed(v, rstd_of(add_squares(0.0f, v), b.d.E, a.eps), q, u, f);
    } else if (b.d.E == 256) {
        float4 v[2] = {r[0], r[32]}, q[2] = {w[0], w[32]};
        float rstd = rstd_of(add_squares(add_squares(0.0f, v[0]), v[1]), b.d.E, a.eps);
        put_normed(v[0], rstd, q[0], u, f);
        put_normed(v[1], rstd, q[1], u + 128, f ? f + 128 : f);
    } else {
        float rstd = row_rstd(floats(b, b.d.r) + b.warp * b.d.E, b.d.E, a.eps);
        for (uint32_t i = 0; b.lane * 4 + i * 128 < b.d.E; i++)
            put_normed(r[i * 32], rstd, w[i * 32], u + i * 128, f ? f + i * 128 : f);
    }
}

/* A lane's share of the convolution of 16 channels: channel lane % 16 of rows lane / 16 + 2i. */
struct taps {
    uint32_t t[ROWS / 2], left[ROWS / 2];
    __half x[ROWS / 2][3]; /* inputs of the three steps before the row: from before the run, where it sees that far,
                              then all; after the convolution those of the step after the row */
};

static __device__ __forceinline__ uint32_t taps_row(const struct block &b, uint32_t i)
{
    return b.lane / 16 + 2 * i;
}

static __device__ __forceinline__ __half *window_at(const struct args &a, const struct block &b, uint32_t l,
                                                    uint32_t row)
{
    uint8_t *window = b.info->slot[b.info->run[row]] + l * a.p.slab.conv_layer;
    return reinterpret_cast<__half *>(window) + b.rank * b.d.channels + b.warp * 16 + b.lane % 16;
}

static __device__ __forceinline__ void load_taps(const struct args &a, const struct block &b, uint32_t l,
                                                 struct taps *taps)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows) {
            const __half *window = window_at(a, b, l, row);
            taps->t[i] = b.info->t[row];
            taps->left[i] = b.info->left[row];
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                if (taps->t[i] + k < 3)
                    taps->x[i][k] = __ldcs(window + (taps->t[i] + k) * b.d.D);
        }
    }
}

/* x ← silu(conv1d(x)) of the 16 channels of this warp. */
static __device__ __forceinline__ void convolve(const struct block &b, const uint8_t *front, struct taps *taps)
{
    uint32_t c = b.warp * 16 + b.lane % 16;
    const float *w = floats_at(front, b.d.conv) + c;
    const float of[4] = {w[0], w[b.d.channels], w[2 * b.d.channels], w[3 * b.d.channels]};
    float bias = floats_at(front, b.d.conv_bias)[c];
    const __half *in = halfs(b, b.d.own_in) + c;
    __half *out = halfs(b, b.d.own_x) + c;
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows) {
            __half *x = taps->x[i], now = in[row * b.d.ldc];
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                if (taps->t[i] + k >= 3)
                    x[k] = in[(row + k - 3) * b.d.ldc];
            out[row * b.d.ldc] =
                conv4(__half2float(x[0]), __half2float(x[1]), __half2float(x[2]), __half2float(now), of, bias);
            x[0] = x[1], x[1] = x[2], x[2] = now;
        }
    }
}

/* The last row of a run leaves its window for the next. */
static __device__ __forceinline__ void store_taps(const struct args &a, const struct block &b, uint32_t l,
                                                  const struct taps &taps)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows && taps.left[i] == 0) {
            __half *window = window_at(a, b, l, row);
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                __stcs(window + k * b.d.D, taps.x[i][k]);
        }
    }
}

/* Channels [c, c + 8·vectors) of rows [first, first + n), fp16, to the same place in every block. */
static __device__ __forceinline__ void send_rows(const struct block &b, uint32_t from, uint32_t to, uint32_t first,
                                                 uint32_t n, uint32_t c, uint32_t vectors, enum exchange e)
{
#pragma unroll 1
    for (uint32_t i = b.item; i < n * vectors; i += b.stride) {
        uint32_t row = first + i / vectors, at = c + i % vectors * 8;
        send16(b.to + to + (row * b.d.ldx + b.rank * b.d.channels + at) * 2, halfs(b, from) + row * b.d.ldc + at,
               b.to + exchange_barrier(e));
    }
}

/* A tile of in_proj: fragments, biases and outputs at these offsets. */
static __device__ __forceinline__ void in_proj_tile(const struct block &b, const uint8_t *front, float scale,
                                                    uint32_t tile, uint32_t fragments, uint32_t biases, uint32_t to)
{
    const struct dims &d = b.d;
    uint32_t c = tile * 16 + b.lane / 4;
    const float *v = floats_at(front, biases) + c, bias[2] = {v[0], v[8]};
    __half *out = halfs(b, to) + b.lane % 4 * 2 * d.ldc + c;
    float total[4];
    multiply(b, total, front + fragments + tile * d.E * 32, d.u, d.ldu, d.E);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        out[i % 2 * d.ldc + i / 2 * 8] = to_half(product(total[i], scale, bias[i / 2]));
}

/* x, z = in_proj·u of this block's channels, a tile of x to each of the first warps, of z to those after them; x goes
 * on through the convolution and to all blocks. */
static __device__ __forceinline__ void in_proj(const struct args &a, const struct block &b, const uint8_t *front,
                                               uint32_t l, struct taps *taps)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).in_proj.scale;
    if (b.warp < d.tiles) {
        in_proj_tile(b, front, scale, b.warp, d.in_x, d.bias_x, d.own_in);
        __syncwarp();
        convolve(b, front, taps);
        __syncwarp();
        send_rows(b, d.own_x, d.x, 0, b.rows, b.warp * 16, 2, EXCHANGE_X);
        store_taps(a, b, l, *taps);
    } else if (b.warp < 2 * d.tiles) {
        in_proj_tile(b, front, scale, b.warp - d.tiles, d.in_z, d.bias_z, d.own_z);
    }
    if (b.warp + WARPS < 2 * d.tiles)
        in_proj_tile(b, front, scale, b.warp + WARPS - d.tiles, d.in_z, d.bias_z, d.own_z);
}

/* dt, B, C = x_proj·x, whole. */
static __device__ __forceinline__ void x_proj(const struct args &a, const struct block &b, struct cursor select,
                                              uint32_t l, uint32_t parity)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).x_proj.scale;
    for (uint32_t job = (b.warp + WARPS / 2) % WARPS; job < d.Rp / 16 + 2; job += WARPS) {
        const uint8_t *piece = acquire(a, b, SELECT, select);
        uint32_t o = job * 16 + b.lane / 4, row = b.lane % 4 * 2;
        const float *biases = floats_at(piece, d.x_bias) + o, bias[2] = {biases[0], biases[8]};
        float total[4];
        wait_exchange(b, EXCHANGE_X, parity);
        multiply(b, total, piece + d.x_proj + job * d.D * 32, d.x, d.ldx, d.D);
        if (job * 16 < d.Rp) {
            __half *dt = halfs(b, d.dt) + row * d.lddt + o;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                dt[i % 2 * d.lddt + i / 2 * 8] = to_half(product(total[i], scale, bias[i / 2]));
        } else {
            float *bc = floats(b, d.bc) + row * LDBC + o - d.Rp;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                bc[i % 2 * LDBC + i / 2 * 8] = product(total[i], scale, bias[i / 2]);
        }
    }
}

/* In the scan a warp has 8 of the channels of a tile (or, where there is but one warp to a tile, one 8 after the
 * other): lane / 4 is the channel, lane % 4 the quarter of its states. */
static __device__ __forceinline__ uint32_t scan_channel(const struct block &b, uint32_t half)
{
    return b.tile * 16 + half * 8 + b.lane / 4;
}

template <enum ssm_dtype S>
static __device__ __forceinline__ uint8_t *scan_state(const struct args &a, const struct block &b, uint32_t l,
                                                      uint32_t half, uint32_t run)
{
    return state4_at<S>(b.info->slot[run] + a.p.slab.ssm_at + l * a.p.slab.ssm_layer,
                        b.rank * b.d.channels + scan_channel(b, half), b.lane % 4);
}

/* GROUP runs, run_stride apart; T = 0: there is none. */
template <enum ssm_dtype S> struct group {
    uint32_t first[GROUP], T[GROUP];
    struct state4<S> state[GROUP];
};

template <enum ssm_dtype S>
static __device__ __forceinline__ void load_group(const struct args &a, const struct block &b, uint32_t l,
                                                  uint32_t half, uint32_t run, struct group<S> *ret)
{
#pragma unroll
    for (uint32_t j = 0; j < GROUP; j++, run += b.run_stride) {
        bool is = run < b.n_runs;
        ret->first[j] = is ? b.info->first[run] : 0;
        ret->T[j] = is ? b.info->T[run] : 0;
        if (is)
            ret->state[j].load(scan_state<S>(a, b, l, half, run));
    }
}

/* What the scan knows of a lane's channel. */
struct lane_channel {
    uint32_t c;
    float A[4], skip;
    float delta[2]; /* of rows 2·(lane % 4) and the next */
};

/* Δ = softplus(dt_proj·dt + bias) for half the channels of a tile. */
static __device__ __forceinline__ struct lane_channel prepare_channel(const struct args &a, const struct block &b,
                                                                      const uint8_t *back, float scale, uint32_t half)
{
    const struct dims &d = b.d;
    uint32_t c = scan_channel(b, half), steps = d.Rp / 16, rows = rows_address(b, d.dt, d.lddt);
    float4 A = reinterpret_cast<const float4 *>(back + d.A)[c / 32 * 128 + b.lane % 4 * 32 + c % 32];
    float bias = floats_at(back, d.dt_bias)[c], sum[4] = {};
    const uint4 *fragments = reinterpret_cast<const uint4 *>(back + d.dt_proj) + b.tile * steps * 32 + b.lane;
    struct lane_channel ret = {c, {A.x, A.y, A.z, A.w}, floats_at(back, d.skip)[c]};
    for (uint32_t i = 0; i < steps; i++)
        multiply_step(sum, fragments + i * 32, rows + i * 32);
    ret.delta[0] = softplus(product(half ? sum[2] : sum[0], scale, bias));
    ret.delta[1] = softplus(product(half ? sum[3] : sum[1], scale, bias));
    return ret;
}

/* h ← exp(Δ·g·A)·h + Δ·B·x;  y = (C·h + D·x)·silu(z) of COUNT runs side by side, each in time order. A run that is over
 * before the others repeats its last row and drops it. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_rows(const struct block &b, const struct lane_channel &c,
                                                 struct group<S> *g)
{
    const struct dims &d = b.d;
    uint32_t q = b.lane % 4, steps = 0;
    float h[COUNT][4];
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        steps = max(steps, g->T[j]);
        g->state[j].unpack(h[j]);
    }
#pragma unroll 1
    for (uint32_t t = 0; t < steps; t++) {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            uint32_t row = g->first[j] + (COUNT == 1 || t < g->T[j] ? t : max(g->T[j], 1u) - 1);
            float delta = __shfl_sync(0xffffffffu, row % 2 ? c.delta[1] : c.delta[0], b.lane / 4 * 4 + row / 2);
            float x = __half2float(halfs(b, d.own_x)[row * d.ldc + c.c]);
            float z = __half2float(halfs(b, d.own_z)[row * d.ldc + c.c]);
            const float4 *bc = reinterpret_cast<const float4 *>(floats(b, d.bc) + row * LDBC);
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
            if (COUNT == 1 || t < g->T[j]) {
                g->state[j] = next;
                h[j][0] = n[0], h[j][1] = n[1], h[j][2] = n[2], h[j][3] = n[3];
                if (q == 0)
                    halfs(b, d.own_y)[row * d.ldc + c.c] = y;
            }
        }
    }
}

/* The first COUNT runs of a group, which begins at `run`: y to all blocks, states back to their slots. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_group(const struct args &a, const struct block &b,
                                                  const struct lane_channel &c, uint32_t l, uint32_t half, uint32_t run,
                                                  struct group<S> *g)
{
    scan_rows<S, COUNT>(b, c, g);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        send_rows(b, b.d.own_y, b.d.y, g->first[j], g->T[j], b.tile * 16 + half * 8, 1, EXCHANGE_Y);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        if (g->T[j] > 0)
            g->state[j].store(scan_state<S>(a, b, l, half, run + j * b.run_stride));
}

/* `g`: the first group, loaded early. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void scan(const struct args &a, const struct block &b, const uint8_t *back,
                                            uint32_t l, struct group<S> *g)
{
    float scale = layer_of(a, b, l).dt_proj.scale;
    bool early = true;
#pragma unroll 1
    for (uint32_t half = b.half; half < 2 && b.run < b.n_runs; half += b.d.shares == 1 ? 1 : 2) {
        struct lane_channel c = prepare_channel(a, b, back, scale, half);
#pragma unroll 1
        for (uint32_t run = b.run; run < b.n_runs; run += GROUP * b.run_stride, early = false) {
            if (!early)
                load_group<S>(a, b, l, half, run, g);
            if (run + b.run_stride >= b.n_runs)
                scan_group<S, 1>(a, b, c, l, half, run, g);
            else
                scan_group<S, GROUP>(a, b, c, l, half, run, g);
        }
    }
}

/* r += out_proj·y, this block's outputs, to all blocks. */
static __device__ __forceinline__ void out_proj(const struct args &a, const struct block &b, const uint8_t *back,
                                                uint32_t l, uint32_t parity)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).out_proj.scale, *stage = floats(b, d.stage) + b.warp * ROWS * LDSTAGE;
#pragma unroll 1
    for (uint32_t job = WARPS - 1 - b.warp; job < b.out_n; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2, at = (b.out_first + job) * 16;
        const float *biases = floats_at(back, d.out_bias) + job * 16 + o, *r = floats(b, d.r) + row * d.E + at + o;
        const float bias[2] = {biases[0], biases[8]}, before[4] = {r[0], r[d.E], r[8], r[d.E + 8]};
        float total[4];
        wait_exchange(b, EXCHANGE_Y, parity);
        multiply(b, total, back + d.out_proj + job * d.D * 32, d.y, d.ldx, d.D);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            stage[(row + i % 2) * LDSTAGE + o + i / 2 * 8] =
                __fadd_rn(before[i], product(total[i], scale, bias[i / 2]));
        __syncwarp();
#pragma unroll 1
        for (uint32_t i = b.item; i < b.rows * 4; i += b.stride)
            send16(b.to + d.r + (i / 4 * d.E + at + i % 4 * 4) * 4, stage + i / 4 * LDSTAGE + i % 4 * 4,
                   b.to + exchange_barrier(EXCHANGE_R));
        __syncwarp();
    }
}

/* Outputs [0, n_out) of the picked rows. */
static __device__ __forceinline__ void head(const struct args &a, const struct block &b, const uint8_t *piece,
                                            uint32_t n_out)
{
    uint32_t first = first_tile(b.d, a.head_tiles, b.rank), n = first_tile(b.d, a.head_tiles, b.rank + 1) - first;
#pragma unroll 1
    for (uint32_t job = b.warp; job < n && (first + job) * 16 < n_out; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2;
        const float *biases = floats_at(piece, a.head_bias) + job * 16 + o, bias[2] = {biases[0], biases[8]};
        float total[4];
        multiply(b, total, piece + b.d.head + job * b.d.E * 32, b.d.u, b.d.ldu, b.d.E);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t to = row + i < b.rows ? b.info->pick[row + i] : GPU_NOT_PICKED;
            if (to != GPU_NOT_PICKED) {
                float *out = a.p.out + (size_t)to * a.p.ldo + (first + job) * 16 + o;
                out[0] = product(total[i], a.head.scale, bias[0]);
                out[8] = product(total[i + 2], a.head.scale, bias[1]);
            }
        }
    }
}

/* ---- the kernel ---- */

/* One layer; `parity` of the exchanges' phases. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void layer(const struct args &a, const struct block &b, uint32_t l, uint32_t parity,
                                             struct cursor front, struct cursor select, struct cursor back)
{
    struct taps taps = {};
    struct group<S> group = {
    };
    if (b.warp < b.d.tiles)
        load_taps(a, b, l, &taps);
    load_group<S>(a, b, l, b.half, b.run, &group);
    const uint8_t *piece = acquire(a, b, FRONT, front);
    if (l > 0)
        wait_exchange(b, EXCHANGE_R, parity ^ 1);
    if (b.warp < b.rows)
        normalise(a, b, floats_at(piece, b.d.norm), NULL);
    block_barrier();
    in_proj(a, b, piece, l, &taps);
    piece = acquire(a, b, BACK, back);
    x_proj(a, b, select, l, parity);
    block_barrier();
    scan<S>(a, b, piece, l, &group);
    out_proj(a, b, piece, l, parity);
}

/* The first eight warps. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void compute(const struct args &a, struct block b, struct gpu_chain chain,
                                               struct gpu_tile tile, uint32_t n_out)
{
    struct cursor front = {}, select = {}, back = {};
    uint32_t parity = 0;
    __builtin_assume(b.warp < WARPS);
#pragma unroll 1
    for (uint32_t i = 0; i < chain.n; i++) {
        if (i > 0)
            tile = planned(a.p, a.carried, a.p.tiles)[chain.tile + i];
        struct info *info = reinterpret_cast<struct info *>(b.shared + b.d.info) + i % 2;
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
#pragma unroll 1
        for (uint32_t l = 0; l < a.L; l++, parity ^= 1) {
            layer<S>(a, b, l, parity, front, select, back);
            advance(a, FRONT, &front);
            advance(a, SELECT, &select);
            advance(a, BACK, &back);
        }
        const uint8_t *piece = acquire(a, b, HEAD, cursor{0, 0});
        wait_exchange(b, EXCHANGE_R, parity ^ 1);
        if (b.warp < b.rows)
            normalise(a, b, floats_at(piece, b.d.norm_f),
                      a.p.f && b.warp % b.d.blocks == b.rank ? a.p.f + (size_t)(b.row + b.warp) * b.d.E : NULL);
        block_barrier();
        head(a, b, piece, n_out);
    }
}

/* What must have landed before a block without work may end. */
static __device__ __forceinline__ void drain(const struct args &a, const struct block &b)
{
#pragma unroll
    for (uint32_t piece = 0; piece < PIECES; piece++)
        for (uint32_t slot = 0; slot < a.ring[piece].depth; slot++)
            mbarrier_wait(b.base + full_barrier((enum piece)piece, slot), 0);
    cluster_wait();
}

static __device__ __forceinline__ struct block this_block(const struct dims &d, uint8_t *shared)
{
    struct block b = {};
    b.d = d;
    b.shared = shared;
    b.base = shared_address(shared);
    b.rank = cluster_rank();
    b.warp = uniform(threadIdx.x / 32);
    b.lane = __shfl_sync(0xffffffffu, threadIdx.x % 32, threadIdx.x % 32); /* kept: a special register is slow */
    b.stride = 32 / d.blocks;
    b.item = b.lane < b.stride * d.blocks ? b.lane / d.blocks : 0xffffffffu;
    b.to = address_in(b.base, b.lane % d.blocks);
    b.out_first = first_tile(d, d.E / 16, b.rank);
    b.out_n = first_tile(d, d.E / 16, b.rank + 1) - b.out_first;
    uint32_t share = b.warp / d.tiles;
    b.tile = b.warp % d.tiles;
    b.half = share % 2;
    b.run = share < d.shares ? share / 2 : ROWS; /* beyond all runs: a warp too many */
    b.run_stride = max(d.shares / 2, 1u);
    return b;
}

static __device__ __forceinline__ void copy_layers(const struct args &a, const struct block &b)
{
    const uint64_t *from = reinterpret_cast<const uint64_t *>(a.layers);
    uint64_t *to = reinterpret_cast<uint64_t *>(b.shared + a.layers_at);
    for (uint32_t i = threadIdx.x; i < a.L * (uint32_t)(sizeof *a.layers / 8); i += THREADS)
        to[i] = __ldg(from + i);
}

/* E, D, Rp: as in a.d; E = 0: any. Chain i mostly begins with tile i, so that is read beside the chain. */
template <enum ssm_dtype S, uint32_t E, uint32_t D, uint32_t Rp>
static __global__ void __launch_bounds__(THREADS, 1) cluster_kernel(const __grid_constant__ struct args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    constexpr struct dims known = dims_of(E ? E : 16, D ? D : 64, Rp ? Rp : 16);
    struct block b = this_block(E ? known : a.d, shared);
    start_next();
    copy_layers(a, b);
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < BARRIERS; i++)
            mbarrier_init(b.base + i * 8, 1);
        mbarrier_init_fence();
    }
    block_barrier();
    cluster_arrive_relaxed();
    if (b.warp == WARPS)
        fill_all(a, b);
    after_previous();
    const struct gpu_head *plan = planned(a.p, a.carried, a.p.head);
    const struct gpu_tile *tiles = planned(a.p, a.carried, a.p.tiles);
    uint32_t cluster = blockIdx.x / b.d.blocks, n_chains = plan->n_chains, n_out = plan->n_out;
    struct gpu_chain chain = planned(a.p, a.carried, a.p.chains)[cluster];
    struct gpu_tile tile = tiles[cluster];
    if (cluster >= n_chains) {
        drain(a, b);
        return;
    }
    if (chain.tile != cluster)
        tile = tiles[chain.tile];
    if (b.warp == WARPS)
        load(a, b, chain, tile);
    else
        compute<S>(a, b, chain, tile, n_out);
}

/* ---- host ---- */

/* One buffer of each kind, then one more of each in turn while there is room. */
static bool lay_rings(struct args *a)
{
    static const enum piece order[] = {FRONT, BACK, SELECT};
    for (struct args::ring &r : a->ring) {
        r.depth = 1;
        a->bytes += r.bytes;
    }
    if (a->bytes > SHARED_MAX)
        return false;
    for (bool grown = true; grown;) {
        grown = false;
        for (enum piece piece : order) {
            struct args::ring *r = &a->ring[piece];
            if (r->depth < a->L && r->depth < DEPTH_MAX && a->bytes + r->bytes <= SHARED_MAX) {
                r->depth++;
                a->bytes += r->bytes;
                grown = true;
            }
        }
    }
    uint32_t at = a->bytes;
    for (int piece = PIECES - 1; piece >= 0; piece--)
        a->ring[piece].at = at -= a->ring[piece].depth * a->ring[piece].bytes;
    return true;
}

/* All but the pass. False: not for this regime. */
static bool args_of(const struct gpu_model *m, struct args *ret)
{
    struct args a = {};
    if (!m->resident)
        return false;
    a.d = dims_of(m->d.E, m->d.D, m->d.Rp);
    if (a.d.tiles > WARPS)
        return false;
    a.L = m->d.L;
    a.head_tiles = m->head.np / 16;
    a.layers = m->layers_device;
    a.embedding = m->embedding;
    a.dtype = m->dtype;
    a.norm_f = m->norm_f;
    a.head = m->head;
    a.eps = m->d.eps;
    uint32_t tiles = (a.head_tiles + a.d.blocks - 1) / a.d.blocks, head = a.d.head;
    take(&head, tiles * 16 * a.d.E * 2);
    a.head_bias = take(&head, tiles * 64);
    a.ring[FRONT].bytes = a.d.front_bytes;
    a.ring[SELECT].bytes = a.d.select_bytes;
    a.ring[BACK].bytes = a.d.back_bytes;
    a.ring[HEAD].bytes = head;
    a.bytes = a.d.rows_end;
    a.layers_at = take(&a.bytes, a.L * (uint32_t)sizeof *a.layers);
    *ret = a;
    return lay_rings(ret);
}

template <uint32_t E, uint32_t D, uint32_t Rp> static const void *kernel_for(enum ssm_dtype state)
{
    switch (state) {
    case SSM_BF16:
        return (const void *)cluster_kernel<SSM_BF16, E, D, Rp>;
    case SSM_F16:
        return (const void *)cluster_kernel<SSM_F16, E, D, Rp>;
    default:
        return (const void *)cluster_kernel<SSM_F32, E, D, Rp>;
    }
}

static const void *kernel_of(const struct dims *d, enum ssm_dtype state)
{
    if (d->E == 128 && d->D == 256 && d->Rp == 16)
        return kernel_for<128, 256, 16>(state);
    if (d->E == 256 && d->D == 512 && d->Rp == 16)
        return kernel_for<256, 512, 16>(state);
    return kernel_for<0, 0, 0>(state);
}

static cudaLaunchConfig_t config_of(const struct args *a, uint32_t clusters, cudaStream_t stream,
                                    cudaLaunchAttribute attributes[2])
{
    cudaLaunchConfig_t c = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = a->d.blocks;
    attributes[0].val.clusterDim.y = 1;
    attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = dim3(clusters * a->d.blocks);
    c.blockDim = dim3(THREADS);
    c.dynamicSmemBytes = a->bytes;
    c.stream = stream;
    c.attrs = attributes;
    c.numAttrs = 2;
    return c;
}

/* Clusters that run at the same time; 0: none ever. */
static uint32_t clusters_at_once(const struct args *a)
{
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t c = config_of(a, 1, NULL, attributes);
    int n = 0;
    c.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&n, kernel_of(&a->d, SSM_F32), &c) == cudaSuccess && n > 0)
        return (uint32_t)n;
    cudaGetLastError();
    return 0;
}

bool gpu_cluster_open(const struct gpu_model *m)
{
    static const enum ssm_dtype states[] = {SSM_F32, SSM_BF16, SSM_F16};
    struct args a;
    if (!args_of(m, &a))
        return false;
    for (enum ssm_dtype state : states) {
        const void *kernel = kernel_of(&a.d, state);
        if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX) ||
            cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) {
            cudaGetLastError();
            return false;
        }
    }
    return clusters_at_once(&a) > 0;
}

/* As many as the clusters take that run at once. Measured (µs, here and by resident.cu): sig-128x4 64 rows 25.6
 * and 48.5, 132 rows 49.8 and 48.9; sig-256x8 64 rows 102 and 181. */
uint32_t gpu_cluster_rows(const struct gpu_model *m)
{
    struct args a;
    return args_of(m, &a) ? clusters_at_once(&a) * ROWS : 0;
}

void gpu_cluster(const struct gpu_model *m, const struct gpu_pass *p, const struct gpu_carried *plan,
                 enum ssm_dtype state, uint32_t n_chains, cudaStream_t stream)
{
    struct args a;
    cudaLaunchAttribute attributes[2];
    if (!args_of(m, &a))
        return;
    a.p = *p;
    a.carried = *plan;
    cudaLaunchConfig_t c = config_of(&a, n_chains, stream, attributes);
    void *params[] = {&a};
    cudaLaunchKernelExC(&c, kernel_of(&a.d, state), params);
}
