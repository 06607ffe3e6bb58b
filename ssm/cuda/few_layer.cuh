/* few_layer.cuh: what few.cu's warps compute in a layer: products of panels, norm, convolution, scan. */
#ifndef SSM_CUDA_FEW_LAYER_CUH
#define SSM_CUDA_FEW_LAYER_CUH

#include "ssm/cuda/few_block.cuh"

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

#endif
