/* resident.cu: all layers of a signal-sized model in one launch, many rows. A block takes a tile of M = 8, 16, 32 or 64
 * rows through the model: activations stay in shared memory, weights come from L2 in the order of mma fragments, states
 * come from memory once and go back once. Called by the engine's thread; blocks that finish take the next chain of
 * tiles from a counter in gpu_pass.sync.
 *
 * Here are a tile's way through the model, the kernel and its launch. resident_block.cuh says where things lie and how
 * rows are multiplied, resident_layer.cuh has the stretches of a layer.
 *
 * A layer has five stretches, each begun by a barrier:
 *
 *   norm         u = norm(r), a warp per row
 *   project in   x and z, 32 channels per warp and job; the convolution of those channels follows without a barrier
 *   select       dt, B, C: six jobs, or three where M = 8; they and Δ's stages lie where u was
 *   scan         a warp owns 32 channels and some of the runs. Δ of four rows at a time by mma; states of the next runs
 *                are on their way; y replaces x
 *   project out  r += 16 outputs per warp and job
 *
 * The first fragments of a product, biases and states are loaded before the barrier that activations wait for. When a
 * scan is done, conv windows and the first states of the next layer are fetched into L2, so that memory has work during
 * the products. Where there are more chains than SMs and D ≤ 256, two blocks of 8 warps share an SM, and one's products
 * overlap the other's scan; else a block has 16 warps.
 *
 * Counts per row and layer, bf16 state (E 128, D 256, R 8 | E 256, D 512, R 16): 19.5 | 38.9 KB to move, 6.5 | 13 ns of
 * a chip at 3 TB/s (fp32 35.8 | 71.7 KB); 115 | 426 thousand multiply-adds at about 1024 a clock and SM. Instructions
 * of a warp: scan 141 a row and 32 channels, 22 for its share of Δ, 62 a run; conv 39 a row of 64 channels, 24 a run.
 * Per tile and layer 245 | 885 KB of weights at 57 B/ns and SM.
 *
 *   16384 rows, T = 1   memory 425 | 1700 µs (fp32 850 | 3400), instructions 140 | 560, weights 35 | 250, mma 35 | 210
 *   1024 rows, M = 8    memory 27 µs; a layer: norm 0.4, in 2.3, conv 0.6, select 0.7, scan 2.2, out 1.2; all 35
 *   4096 runs, T = 8    memory 106 µs, instructions 240 µs at 4 a clock, MUFU 165
 *
 * Shared memory: rows are swizzled, not padded, or two blocks of E = 128, M = 64 would not fit into an SM (113 KB
 * each).
 *
 * Traps. Rows beyond the tile's last go through the products (columns of an mma do not mix) and may hold anything; they
 * touch no slot and no result. Whatever is loaded under a condition is zeroed first: a register that may be unset
 * lives, for the compiler, from the kernel's beginning.
 *
 * Ladder (µs, H100, bf16 states: sig-128x4 B = 1024, 16384, 4096 × T 8; sig-256x8 B = 16384):
 *   62.3, 604, 585, 2423   z by slices of channels
 *   63.8, 575, 496, 2357   z at once, Δ four rows at a time within the warp that scans, fewer barriers
 *   59.3, –, –, –          a small pass's states sent for at its beginning, for all layers
 *   57.8, 579, 466, 2347   bf16 states rounded in place, SiLU without its divisor's scaling (T 8: 512 with exponentials
 *                          a row ahead)
 *   56.1, 446, 468, 1891   the same on one H200
 *   54.6, 447, 444, 1890   there: softplus without range reduction, fp16 saturated by the conversion itself
 *
 * sig-128x4 B = 1024 is bound by latency (48 µs for 8 rows), T 8 by issue slots. Tried on T 8 (from 468): the
 * convolution's rows two or four at a time (476, 471), the norm's (498, 490): what they save in latency, registers
 * take. */
#include <algorithm>

#include "ssm/cuda/resident_layer.cuh"

namespace
{

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
    const uint32_t run = me.lane * k.warps + me.warp;
    if (run < tables()->tile.n_runs)
        fetch_early(k, tables()->slot[run], run, index);
    __syncwarp();
}

__device__ __forceinline__ void fetch_late(const struct args &k, uint32_t index)
{
    const struct self me = current();
    const uint32_t run = k.fetch_early + me.lane * k.warps + me.warp;
    if (run < min(tables()->tile.n_runs, k.fetch_late))
        prefetch_l2(tables()->slot[run] + k.p.slab.ssm_at + index * k.p.slab.ssm_layer, k.state_bytes);
    __syncwarp();
}

/* Four elements of a token's embedding, as embedded() has them. */
__device__ __forceinline__ float4 widened(uint2 v, enum ssm_dtype dtype)
{
    if (dtype == SSM_BF16)
        return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                           __uint_as_float(v.y & 0xffff0000u));
    const float2 lo = to_float2(v.x), hi = to_float2(v.y);
    return make_float4(lo.x, lo.y, hi.x, hi.y);
}

/* r of the tile's rows, several rows per warp at a time. Rows beyond the tile are token 0 on the way, and dropped. */
template <int NT> __device__ __forceinline__ void load_rows(const struct args &k, const struct gpu_tile tile)
{
    enum { ROWS = NT > 4 ? 4 : 2, PARTS = E_MAX / 128 };
    const struct self me = current();
    const uint32_t E = k.d.E, step = k.warps;
    for (uint32_t first = me.warp; first < tile.rows; first += ROWS * step) {
        float4 v[ROWS][PARTS];
        if (k.p.tokens) {
            size_t token[ROWS];
            uint2 raw[ROWS][PARTS];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                token[i] = first + i * step < tile.rows ? __ldg(k.p.tokens + tile.row + first + i * step) : 0;
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++) {
                const uint32_t e = me.lane * 4 + i % PARTS * 128;
                raw[i / PARTS][i % PARTS] = make_uint2(0, 0);
                if (e < E)
                    raw[i / PARTS][i % PARTS] = __ldg(reinterpret_cast<const uint2 *>(
                        static_cast<const uint16_t *>(k.embedding) + token[i / PARTS] * E + e));
            }
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++)
                v[i / PARTS][i % PARTS] = widened(raw[i / PARTS][i % PARTS], k.dtype);
        } else {
#pragma unroll
            for (int i = 0; i < ROWS * PARTS; i++) {
                const uint32_t e = me.lane * 4 + i % PARTS * 128, row = first + i / PARTS * step;
                v[i / PARTS][i % PARTS] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (e < E && row < tile.rows)
                    v[i / PARTS][i % PARTS] =
                        __ldg(reinterpret_cast<const float4 *>(k.p.r + (size_t)(tile.row + row) * E + e));
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS * PARTS; i++) {
            const uint32_t e = me.lane * 4 + i % PARTS * 128, row = first + i / PARTS * step;
            if (e < E && row < tile.rows)
                *reinterpret_cast<float4 *>(memory + k.at.r + swizzled(row, e * 4, E * 4)) = v[i / PARTS][i % PARTS];
        }
    }
}

/* Complete after a barrier. */
template <int NT> __device__ __forceinline__ void open_tile(const struct args &k, const struct gpu_tile tile)
{
    struct tables *t = tables();
    if (threadIdx.x < tile.n_runs) {
        const struct gpu_run run = k.p.runs[tile.run + threadIdx.x];
        t->slot[threadIdx.x] = run.slot;
        t->first[threadIdx.x] = run.row - tile.row;
        for (uint32_t index = 0; index < (k.fetch_all ? k.d.L : 1); index++)
            fetch_early(k, run.slot, threadIdx.x, index);
    }
    if (threadIdx.x < tile.rows)
        t->g[threadIdx.x] = k.p.g[tile.row + threadIdx.x];
    if (threadIdx.x == 0) {
        t->tile = tile;
        t->n_out = k.p.head->n_out;
        t->first[tile.n_runs] = tile.rows;
    }
    load_rows<NT>(k, tile);
}

/* Every stretch begins with the barrier that it needs; the last one of a tile is the caller's. */
template <enum ssm_dtype S, int NT> __device__ __forceinline__ void run_tile(const struct args &k, uint32_t tile)
{
    struct self me = current();
    stream<2, IN_DEPTH(NT)> in =
        started<2, IN_DEPTH(NT)>(me.warp < k.d.D / 16, k.layers[0].in_proj, 2 * me.warp, k.d.E, me.lane);
    open_tile<NT>(k, k.p.tiles[tile]);
    for (uint32_t index = 0; index < k.d.L; index++) {
        const struct layer &l = k.layers[index];
        const bool last = index + 1 == k.d.L;
        __syncthreads();
        norm<NT>(k, l.norm, NULL);
        __syncthreads();
        if (!k.fetch_all)
            fetch_late(k, index);
        project_in<NT>(k, l, index, in);
        me = current();
        stream<1, SELECT_DEPTH> x = started<1, SELECT_DEPTH>(me.warp < selection<NT>::jobs(k), l.x_proj,
                                                             me.warp / selection<NT>::SPLIT, k.d.D, me.lane);
        __syncthreads();
        scanner<S> s = {};
        if (NT == 1) /* registers allow it, and there is little else to wait behind */
            scan_begin(k, l, index, s);
        select<NT>(k, l, x);
        if (NT > 1)
            scan_begin(k, l, index, s);
        __syncthreads();
        scan<S, NT>(k, l, s);
        me = current();
        stream<1, OUT_DEPTH(NT)> out =
            started<1, OUT_DEPTH(NT)>(me.warp < k.d.E / 16, l.out_proj, me.warp, k.d.D, me.lane);
        if (!last && !k.fetch_all)
            fetch_early(k, index + 1);
        __syncthreads();
        project_out<NT>(k, l, out);
        me = current();
        in = started<2, IN_DEPTH(NT)>(!last && me.warp < k.d.D / 16, k.layers[last ? index : index + 1].in_proj,
                                      2 * me.warp, k.d.E, me.lane);
    }
    const uint32_t n_out = tables()->n_out;
    if (n_out || k.p.f) {
        me = current();
        stream<1, 4> w = started<1, 4>(me.warp < n_out / 16, k.head, me.warp, k.d.E, me.lane);
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
    for (;;) {
        const struct gpu_chain c = k.p.chains[min(chain, k.p.capacity - 1)];
        if (chain >= k.p.head->n_chains)
            break;
        if (threadIdx.x == 0) {
            tables()->chain = gridDim.x + atomicAdd(&sync[0], 1u);
            tables()->end = c.tile + c.n;
        }
        uint32_t tile = c.tile, end;
        do {
            run_tile<S, NT>(k, tile++);
            chain = tables()->chain;
            end = tables()->end;
            __syncthreads();
        } while (tile < end);
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

void gpu_resident(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t tile_rows,
                  uint32_t n_chains, cudaStream_t stream)
{
    if (!n_chains)
        return;
    const struct gpu_dims &d = m->d;
    const uint32_t sms = sms_of_device();
    const bool pairs =
        n_chains > sms && d.D <= D_MAX / 2 && places_of(d, tile_rows, THREADS_MAX / 64).bytes <= PAIR_BYTES;
    const uint32_t blocks = pairs ? 2 : 1, threads = THREADS_MAX / blocks;
    struct args k = {};
    k.p = *p;
    k.d = d;
    k.at = places_of(d, tile_rows, threads / 32);
    k.warps = threads / 32;
    k.window_bytes = 3 * d.D * sizeof(uint16_t);
    k.state_bytes = d.D * d.N * (uint32_t)ssm_dtype_bytes(state);
    const uint32_t windows = tile_rows * k.window_bytes, room = FETCH_BYTES / blocks;
    k.fetch_late = FETCH_STATES / blocks / k.state_bytes;
    k.fetch_early = room > windows ? std::min((room - windows) / k.state_bytes, k.fetch_late) : 0;
    k.fetch_all = n_chains <= sms && tile_rows <= 8 &&
                  (size_t)n_chains * tile_rows * d.L * (k.state_bytes + k.window_bytes) <= FETCH_ALL;
    if (k.fetch_all)
        k.fetch_early = tile_rows;
    k.dtype = m->dtype;
    k.embedding = m->embedding;
    k.norm_f = m->norm_f;
    k.head = weights_of(m->head);
    for (uint32_t i = 0; i < d.L; i++)
        k.layers[i] = layer_of(m->layers[i]);
    const int size = tile_rows == 64 ? 3 : tile_rows == 32 ? 2 : tile_rows == 16 ? 1 : 0;
    kernels[state][size]<<<std::min(n_chains, sms * blocks), threads, k.at.bytes, stream>>>(k);
}
