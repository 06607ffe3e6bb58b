/* cluster.cu: signal-sized models, few rows: a whole pass in one launch, a cluster of blocks for every chain of tiles
 * of up to 8 rows. Made for latency: block `rank` owns D/blocks channels in every layer, all products are mma with 8
 * rows as N, and blocks meet three times a layer, through each other's shared memory:
 *
 *   x  after the convolution, into every block: x_proj needs all channels, and every block computes it whole
 *   y  gated, into every block, for out_proj, whose outputs are shared out in tiles of 16
 *   r  the new residuals, into every block: every block norms for itself
 *
 * Here are the kernel and its launch. cluster_layout.cuh says where things lie, cluster_block.cuh how a warp finds them
 * and how blocks meet; cluster_layer.cuh is what computes, cluster_load.cuh what loads.
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
#include "ssm/cuda/cluster_block.cuh"
#include "ssm/cuda/cluster_layer.cuh"
#include "ssm/cuda/cluster_load.cuh"
#include "ssm/cuda/plan.cuh"

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
    fence_async_proxy();
    block_barrier();
    scan<S>(a, b, piece, l, &group);
    out_proj(a, b, piece, l, parity);
    fence_async_proxy();
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
