/* select.cu: the convolution and the selection: xc = silu(conv1d(x)), then dt, B, C = x_proj·xc.
 *
 * A cluster of blocks takes a tile of 8, 16 or 32 rows, each block one GPU_CHUNK of the channels at a time: it fetches
 * its piece of x_proj with the copy engine while it convolves, multiplies what it convolved, and sends the chunk's
 * totals to the shared memory of the block that owns those 16 outputs, where an mbarrier counts them. When all are
 * there the owner adds them in ascending order of the chunks, which is what arith.cuh asks for. More chunks than
 * blocks: rounds.
 *
 * Bytes, mamba-130m, per row of a run of one: 3 KB x, 9 KB window in and out, 3 KB xc; x_proj's 246 KB per tile from
 * L2. 4096 rows: 75 MB of windows are 26 µs of memory; 128 tiles × 6 blocks, 3 blocks per SM.
 *
 * Ladder (mamba-130m, 4096 one-row runs / 2048 rows of one run):
 *   1. a cluster of chunks, 4 channels × 8 rows a thread, every row's four inputs loaded: 67 / 26.5 µs
 *   2. inputs of consecutive rows loaded once, no lookups between them, windows on their way before in_proj has ended:
 *      51.9 / 17; 1024 one-row runs 19.5 (17.1 on one H200)
 *   3. parts of sums counted by an mbarrier where they arrive, four rows of a thread convolved side by side: one H200,
 *      42.5 / –; 1024 one-row runs 13.9
 *
 * Traps: a window is read by every row of its segment that has fewer than three before it, so it is taken on here only
 * where the segment is one row, by the thread that has read it; the scan does the others. Every thread of a cluster
 * reaches every cluster barrier; a tile beyond the last row is left by all its blocks. A release at cluster scope waits
 * for all that a thread has stored, windows too: in the last round there is none. */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"
#include "ssm/cuda/wide.h"

enum {
    THREADS = 256,
    ROWS_MAX = 32,
    CLUSTER_MAX = 8,
    TILE_LD = GPU_CHUNK + 8, /* halves; 8 rows of 16 bytes hit all banks */
    SHARED_MAX = 226 * 1024  /* of 227 KB; the table is beside it */
};

/* What the kernel keeps in shared memory, in this order. `owned`: tiles of 16 outputs that one block adds up. */
struct plan {
    uint32_t rows, cluster, rounds, owned;
    uint32_t tile_at, sums_at, totals_at, bytes;
};

struct tile_row {
    uint16_t *window; /* the slot's, of this layer */
    uint32_t before;  /* rows of the segment before this one */
    bool alone;
};

/* ---- convolution: a warp has half of the chunk's channels of consecutive rows, a lane 4 channels ---- */

/* [i]: tap i of a lane's channels, oldest first; [4] is the bias. */
struct conv_weights {
    float w[5][4];
};

__device__ __forceinline__ void load_weights(struct conv_weights *k, const struct gpu_layer &l, uint32_t D, uint32_t c)
{
#pragma unroll
    for (int i = 0; i < 5; i++) {
        const float *from = i < 4 ? l.conv + (size_t)i * D : l.conv_bias;
        float4 v = __ldg(reinterpret_cast<const float4 *>(from + c));
        k->w[i][0] = v.x;
        k->w[i][1] = v.y;
        k->w[i][2] = v.z;
        k->w[i][3] = v.w;
    }
}

/* Inputs of two neighbours c, c + 1; `t` is the oldest. */
__device__ __forceinline__ uint32_t convolved2(uint32_t t, uint32_t u, uint32_t v, uint32_t x,
                                               const struct conv_weights &k, int c)
{
    const float2 f[4] = {to_float2(t), to_float2(u), to_float2(v), to_float2(x)};
    const float w0[4] = {k.w[0][c], k.w[1][c], k.w[2][c], k.w[3][c]};
    const float w1[4] = {k.w[0][c + 1], k.w[1][c + 1], k.w[2][c + 1], k.w[3][c + 1]};
    return bits(__halves2half2(conv4(f[0].x, f[1].x, f[2].x, f[3].x, w0, k.w[4][c]),
                               conv4(f[0].y, f[1].y, f[2].y, f[3].y, w1, k.w[4][c + 1])));
}

__device__ __forceinline__ uint2 convolved4(uint2 t, uint2 u, uint2 v, uint2 x, const struct conv_weights &k)
{
    return make_uint2(convolved2(t.x, u.x, v.x, x.x, k, 0), convolved2(t.y, u.y, v.y, x.y, k, 2));
}

/* A lane's part of the tile: its channels of xz, xc and windows begin `c` elements into a row, and `tile` is at its
 * part of the chunk. */
struct lane_rows {
    const struct tile_row *table;
    const uint16_t *x;
    uint16_t *xc, *tile;
    uint32_t D, c, n; /* n: rows there are */
};

__device__ __forceinline__ uint2 load_input(const struct lane_rows &r, uint32_t row)
{
    return *reinterpret_cast<const uint2 *>(r.x + row * 2 * r.D);
}

__device__ __forceinline__ uint2 load_window(const struct lane_rows &r, const uint16_t *window, uint32_t i)
{
    return __ldcs(reinterpret_cast<const uint2 *>(window + i * r.D + r.c));
}

__device__ __forceinline__ void take_on(const struct lane_rows &r, uint16_t *window, uint2 t, uint2 u, uint2 x)
{
    __stcs(reinterpret_cast<uint2 *>(window + r.c), t);
    __stcs(reinterpret_cast<uint2 *>(window + r.D + r.c), u);
    __stcs(reinterpret_cast<uint2 *>(window + 2 * r.D + r.c), x);
}

__device__ __forceinline__ void put_row(const struct lane_rows &r, uint32_t row, uint2 y)
{
    *reinterpret_cast<uint2 *>(r.xc + row * r.D) = y;
    *reinterpret_cast<uint2 *>(r.tile + row * TILE_LD) = y;
}

/* Rows [from, from + N), each a segment of its own: windows are nobody else's. Of those that the tile lacks its last
 * one's are read, for loads without a condition are all in flight together. */
template <int N>
__device__ __forceinline__ void convolve_singles(const struct lane_rows &r, uint32_t from, const struct conv_weights &k)
{
    if (from >= r.n)
        return;
    uint2 t[N][4];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint16_t *window = r.table[min(from + i, r.n - 1)].window;
#pragma unroll
        for (int j = 0; j < 3; j++)
            t[i][j] = load_window(r, window, j);
    }
    after_previous();
#pragma unroll
    for (int i = 0; i < N; i++)
        t[i][3] = load_input(r, min(from + i, r.n - 1));
#pragma unroll
    for (int i = 0; i < N; i++)
        t[i][0] = convolved4(t[i][0], t[i][1], t[i][2], t[i][3], k);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (from + i < r.n) {
            put_row(r, from + i, t[i][0]);
            take_on(r, r.table[from + i].window, t[i][1], t[i][2], t[i][3]);
        }
}

/* The input j rows back from a row with `before` rows of its segment before it. */
__device__ __forceinline__ uint2 load_back(const struct lane_rows &r, uint32_t row, uint32_t before, uint32_t j)
{
    if (before < j)
        return load_window(r, r.table[row].window, 3 - j + before);
    return *reinterpret_cast<const uint2 *>(r.x + ((ptrdiff_t)row - j) * 2 * r.D);
}

/* Rows [from, from + N) of any segments: a row's inputs become the next one's past. */
template <int N>
__device__ __forceinline__ void convolve_rows(const struct lane_rows &r, uint32_t from, const struct conv_weights &k)
{
    if (from >= r.n)
        return;
    uint2 t, u, v, x[N];
    const uint32_t before = r.table[from].before;
    t = load_back(r, from, before, 3);
    u = load_back(r, from, before, 2);
    v = load_back(r, from, before, 1);
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = load_input(r, min(from + i, r.n - 1));
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (from + i >= r.n)
            return;
        const struct tile_row row = r.table[from + i];
        if (i > 0 && row.before == 0) {
            t = load_window(r, row.window, 0);
            u = load_window(r, row.window, 1);
            v = load_window(r, row.window, 2);
        }
        put_row(r, from + i, convolved4(t, u, v, x[i], k));
        if (row.alone)
            take_on(r, row.window, u, v, x[i]);
        t = u;
        u = v;
        v = x[i];
    }
}

/* Rows beyond the tile's `n` are left as they are: they are multiplied, and nobody asks for it. */
template <int NT>
__device__ __forceinline__ void convolve(const struct gpu_pass &p, const struct gpu_layer &l,
                                         const struct tile_row *table, bool singles, size_t row0, uint32_t n,
                                         uint32_t D, uint32_t chunk, uint16_t *tile)
{
    enum { ROWS = 2 * NT, BATCH = NT == 1 ? 2 : 4 };
    const uint32_t at = threadIdx.x % 64 * 4, c = chunk * GPU_CHUNK + at, from = threadIdx.x / 64 * ROWS;
    if (c >= D)
        return;
    const struct lane_rows r = {table, p.xz + row0 * 2 * D + c, p.xc + row0 * D + c, tile + at, D, c, n};
    struct conv_weights k;
    load_weights(&k, l, D, c);
    if (singles) {
#pragma unroll 1
        for (uint32_t i = from; i < from + ROWS; i += BATCH)
            convolve_singles<BATCH>(r, i, k);
    } else {
        after_previous();
        convolve_rows<ROWS>(r, from, k);
    }
}

/* ---- x_proj ---- */

/* The chunk's columns of all outputs: groups of 8 outputs, each 32 core matrices apart. */
__device__ __forceinline__ void fetch_weights(const struct gpu_matrix &w, uint32_t chunk, uint32_t to, uint32_t bar)
{
    uint32_t cores = w.kp / 8, first = chunk * (GPU_CHUNK / 8), bytes = min(cores - first, GPU_CHUNK / 8u) * 128;
    mbarrier_expect(bar, bytes * (w.np / 8));
    for (uint32_t group = 0; group < w.np / 8; group++)
        bulk_load(to + group * GPU_CHUNK * 16, w.tiled + ((size_t)group * cores + first) * 64, bytes, bar);
}

/* acc[j]: 16 outputs of the tile's rows 8j …, over the chunk's first `steps` 16 k's. */
template <int NT>
__device__ __forceinline__ void multiply(float acc[NT][4], uint32_t weights, uint32_t tile, uint32_t steps)
{
    uint32_t matrix = threadIdx.x % 32 / 8, r = threadIdx.x % 8;
    uint32_t a_at = weights + matrix % 2 * GPU_CHUNK * 16 + matrix / 2 * 128 + r * 16;
    uint32_t b_at = tile + ((NT == 1 ? 0 : matrix / 2 * 8) + r) * TILE_LD * 2 + matrix % 2 * 16;
#pragma unroll
    for (int j = 0; j < NT; j++)
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0.0f;
#pragma unroll 4
    for (uint32_t k = 0; k < steps; k++) {
        uint32_t a[4], b[2 * NT];
        ldmatrix_x4(a, a_at + k * 256);
        if (NT == 1) {
            ldmatrix_x2(b, b_at + k * 32);
        } else {
#pragma unroll
            for (int j = 0; j < NT; j += 2)
                ldmatrix_x4(b + 2 * j, b_at + j * 8 * TILE_LD * 2 + k * 32);
        }
#pragma unroll
        for (int j = 0; j < NT; j++)
            mma_16816(acc[j], a, b + 2 * j);
    }
}

/* A part of the sums: 16 outputs × rows, two floats apart so that outputs are in distinct banks. */
__host__ __device__ __forceinline__ constexpr uint32_t part_ld(uint32_t rows)
{
    return rows + 2;
}

/* To the owner of output tile `tile`, as the part of chunk `rank` of this round. */
template <int NT>
__device__ __forceinline__ void hand_over(const float acc[NT][4], uint32_t sums, uint32_t tile, uint32_t cluster,
                                          uint32_t rank, uint32_t bar)
{
    enum { LD = part_ld(8 * NT) };
    const uint32_t lane = threadIdx.x % 32, owner = tile % cluster;
    const uint32_t output = (tile / cluster * cluster + rank) * 16 + lane / 4;
    const uint32_t at = address_in(sums, owner) + (output * LD + lane % 4 * 2) * 4, counted = address_in(bar, owner);
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            send8(at + (i * 8 * LD + j * 8) * 4, acc[j][2 * i], acc[j][2 * i + 1], counted);
}

__device__ __forceinline__ void write_output(const struct gpu_pass &p, const struct gpu_matrix &w,
                                             const struct gpu_dims &d, size_t row, uint32_t o, float total)
{
    float v = product(total, w.scale, 0.0f); /* x_proj has no bias */
    if (o < d.Rp)
        p.dt[row * d.Rp + o] = __half_as_ushort(to_half(v));
    else
        p.bc[row * 32 + o - d.Rp] = v;
}

/* ---- the kernel ---- */

template <int NT>
static __global__ void __launch_bounds__(THREADS, 3)
    select_rows(const struct gpu_pass p, const struct gpu_slice s, const struct gpu_layer l, const struct gpu_dims d,
                const struct plan plan, uint32_t layer)
{
    enum { ROWS = 8 * NT, LD = part_ld(ROWS) };
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ struct tile_row table[ROWS];
    __shared__ __align__(8) uint64_t bars[2];
    const struct gpu_matrix &w = l.x_proj;
    const uint32_t first = blockIdx.x * ROWS, rank = blockIdx.y, n_blocks = plan.cluster;
    uint32_t run = 0; /* on its way together with the count */
    if (threadIdx.x < ROWS)
        run = p.run_of[s.begin + min(first + threadIdx.x, s.bound - 1)];
    const uint32_t all = slice_rows(s);
    if (first >= all)
        return;
    const uint32_t n = min(all - first, (uint32_t)ROWS), chunks = (d.D + GPU_CHUNK - 1) / GPU_CHUNK;
    const uint32_t tiles = w.np / 16, mine = tiles > rank ? (tiles - rank + n_blocks - 1) / n_blocks : 0;
    const size_t row0 = (size_t)s.begin + first;
    uint16_t *tile = reinterpret_cast<uint16_t *>(shared + plan.tile_at);
    float *sums = reinterpret_cast<float *>(shared + plan.sums_at);
    float *totals = reinterpret_cast<float *>(shared + plan.totals_at);
    const uint32_t weights = shared_address(shared), loaded = shared_address(bars), handed_over = loaded + 8;

    if (threadIdx.x == THREADS - 32) { /* of another warp than those that look rows up */
        mbarrier_init(loaded, 1);
        mbarrier_init(handed_over, 1);
        mbarrier_init_fence();
        fence_async_proxy();
        fetch_weights(w, rank, weights, loaded);
    }
    __syncwarp();
    cluster_arrive_relaxed(); /* this block's sums may be written */
    if (threadIdx.x < n) {
        const struct segment seg = segment_in(p.runs[run], s, all);
        struct tile_row row;
        row.window = reinterpret_cast<uint16_t *>(seg.slot + layer * p.slab.conv_layer);
        row.before = first + threadIdx.x - seg.begin;
        row.alone = seg.end - seg.begin == 1;
        table[threadIdx.x] = row;
    }
    const bool singles = __syncthreads_and(threadIdx.x >= n || table[threadIdx.x].alone);

    for (uint32_t round = 0; round < plan.rounds; round++) {
        const uint32_t chunk = round * n_blocks + rank, parts = min(chunks - round * n_blocks, n_blocks);
        const bool last = round + 1 == plan.rounds;
        if (threadIdx.x == 0)
            mbarrier_expect(handed_over, mine * parts * ROWS * 16 * 4);
        if (chunk < chunks) {
            convolve<NT>(p, l, table, singles, row0, n, d.D, chunk, tile);
            mbarrier_wait(loaded, round % 2);
        }
        after_previous();
        start_next();
        __syncthreads();
        cluster_wait();
        if (chunk < chunks)
            for (uint32_t t = threadIdx.x / 32; t < tiles; t += THREADS / 32) {
                float acc[NT][4];
                multiply<NT>(acc, weights + t * 2 * GPU_CHUNK * 16, shared_address(tile),
                             min(d.D - chunk * GPU_CHUNK, (uint32_t)GPU_CHUNK) / 16);
                hand_over<NT>(acc, shared_address(sums), t, n_blocks, rank, handed_over);
            }
        mbarrier_wait(handed_over, round % 2);
        if (!last) {
            fence_async_proxy();
            __syncthreads(); /* nobody reads tile and weights any more */
            if (threadIdx.x == 0 && chunk + n_blocks < chunks)
                fetch_weights(w, chunk + n_blocks, weights, loaded);
        }
        for (uint32_t i = threadIdx.x; i < mine * ROWS * 16; i += THREADS) {
            const uint32_t owned = i / (ROWS * 16), r = i / 16 % ROWS, o = i % 16;
            const float *part = sums + (owned * n_blocks * 16 + o) * LD + r;
            float total = round == 0 ? part[0] : __fadd_rn(totals[i], part[0]);
            for (uint32_t c = 1; c < parts; c++)
                total = __fadd_rn(total, part[c * 16 * LD]);
            if (!last)
                totals[i] = total;
            else if (r < n)
                write_output(p, w, d, row0 + r, (owned * n_blocks + rank) * 16 + o, total);
        }
        if (!last)
            cluster_arrive();
    }
}

/* ---- host ---- */

static struct plan plan_of(const struct gpu_model *m, uint32_t rows)
{
    struct plan plan = {};
    uint32_t chunks = (m->d.D + GPU_CHUNK - 1) / GPU_CHUNK, np = m->layers[0].x_proj.np;
    plan.rows = rows;
    plan.rounds = (chunks + CLUSTER_MAX - 1) / CLUSTER_MAX;
    plan.cluster = (chunks + plan.rounds - 1) / plan.rounds;
    plan.owned = (np / 16 + plan.cluster - 1) / plan.cluster;
    plan.tile_at = np * GPU_CHUNK * 2;
    plan.sums_at = plan.tile_at + rows * TILE_LD * 2;
    plan.totals_at = plan.sums_at + plan.owned * plan.cluster * 16 * part_ld(rows) * 4;
    plan.bytes = plan.totals_at + (plan.rounds > 1 ? plan.owned * rows * 16 * 4 : 0);
    return plan;
}

/* As few rows a tile as keep the chip busy at once, then as shared memory allows. */
static struct plan plan_for(const struct gpu_model *m, uint32_t rows, uint32_t sms)
{
    struct plan plan = plan_of(m, 8);
    while (plan.rows < ROWS_MAX && (rows + plan.rows - 1) / plan.rows * plan.cluster > 3 * sms) {
        struct plan larger = plan_of(m, plan.rows * 2);
        if (larger.bytes > SHARED_MAX)
            break;
        plan = larger;
    }
    return plan;
}

cudaError_t gpu_select_open(void)
{
    const void *kernels[] = {(const void *)select_rows<1>, (const void *)select_rows<2>, (const void *)select_rows<4>};
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 3 && !e; i++) {
        e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX);
        if (!e)
            e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
    }
    return e;
}

void gpu_select(const struct gpu_model *m, const struct gpu_pass *p, uint32_t layer, struct gpu_slice s, uint32_t sms,
                cudaStream_t stream)
{
    struct plan plan = plan_for(m, s.bound, sms);
    auto *kernel = plan.rows == 8 ? select_rows<1> : plan.rows == 16 ? select_rows<2> : select_rows<4>;
    launch_chained(kernel, dim3((s.bound + plan.rows - 1) / plan.rows, plan.cluster), THREADS, plan.bytes,
                   dim3(1, plan.cluster), s.chained, stream, *p, s, m->layers[layer], m->d, plan, layer);
}
