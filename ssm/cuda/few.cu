/* few.cu: large models, few rows: a pass of up to 8 rows through the whole model in one launch. One block per SM, all
 * resident (cooperative launch). Weights flow through a ring of panels in shared memory without a pause, across phases
 * and layers and into the head; activations go from block to block through L2.
 *
 * Here are the turns that a block takes, the kernel and its launch. few_block.cuh says where things lie and how blocks
 * tell each other words, few_load.cuh feeds the ring, few_layer.cuh is what computes.
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
#include <algorithm>

#include "ssm/cuda/few_layer.cuh"
#include "ssm/cuda/few_load.cuh"

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
    if (!model->fast || m.Rp > 8 * CORES || m.E > 4 * MOST * THREADS || blocks == 0 ||
        !attribute(cudaDevAttrCooperativeLaunch) || attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) < SHARED_BYTES)
        return false;
    if (share(m.E / TILE, blocks) * TILE * GPU_FEW_ROWS > THREADS || lay_out(m, blocks, GPU_FEW_ROWS).depth == 0)
        return false;
    const enum ssm_dtype states[] = {SSM_F32, SSM_BF16, SSM_F16};
    for (enum ssm_dtype state : states)
        if (cudaFuncSetAttribute(kernel_of(state), cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES)) {
            cudaGetLastError();
            return false;
        }
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
