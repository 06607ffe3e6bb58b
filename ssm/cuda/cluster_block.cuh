/* cluster_block.cuh: a block of cluster.cu: what a warp knows of its place, where in shared memory it finds things,
 * what it waits for, and how it sends to the cluster's blocks. */
#ifndef SSM_CUDA_CLUSTER_BLOCK_CUH
#define SSM_CUDA_CLUSTER_BLOCK_CUH

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/cluster_layout.cuh"
#include "ssm/cuda/ptx.cuh"

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

/* ---- exchanges and weights ---- */

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

#endif
