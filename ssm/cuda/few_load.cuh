/* few_load.cuh: what one thread of few.cu's ninth warp does: it feeds weights into the ring, panel by panel in the
 * order in which the warps will ask for them, and the norms'. */
#ifndef SSM_CUDA_FEW_LOAD_CUH
#define SSM_CUDA_FEW_LOAD_CUH

#include "ssm/cuda/few_block.cuh"

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

#endif
