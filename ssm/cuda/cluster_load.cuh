/* cluster_load.cuh: what cluster.cu's ninth warp does: it loads weights into the rings, each piece as soon as a buffer
 * is free, and tells the exchanges' barriers how many bytes to expect. */
#ifndef SSM_CUDA_CLUSTER_LOAD_CUH
#define SSM_CUDA_CLUSTER_LOAD_CUH

#include "ssm/cuda/cluster_block.cuh"
#include "ssm/cuda/plan.cuh"

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

#endif
