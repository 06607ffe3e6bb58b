/* plain.cu: the general regime: any shape, any weight dtype, all arithmetic in fp32, layer by layer. What the other
 * regimes do not take comes here, and what must be fp32. Called by the engine's thread; all on one stream.
 *
 * Every number has one order of operations, whatever shares the pass. Kernels take their counts from device memory, for
 * a captured graph serves smaller passes too, and stride over the work.
 *
 * Trap: x's half of xz holds in_proj's x up to the convolution and dt_proj's output after it.
 *
 * No ladder: this regime is for what the others do not take, and was not tuned. */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/product32.cuh"

enum {
    BLOCK = 256,
    SCAN_BLOCK = 128,
    GROUP = 16 /* states in registers at a time */
};

/* ---- rows ---- */

static __global__ void __launch_bounds__(BLOCK)
    embed(const void *table, enum ssm_dtype dtype, uint32_t E, struct gpu_pass p)
{
    for (uint32_t row = blockIdx.x; row < p.head->rows; row += gridDim.x)
        for (uint32_t e = threadIdx.x; e < E; e += BLOCK)
            p.r[(size_t)row * E + e] = embedded(table, dtype, (size_t)p.tokens[row] * E + e);
}

/* 1/sqrt(mean(r²) + eps), by a whole block: thread i sums elements i, i + BLOCK, …, a butterfly per warp, then the
 * warps in order. */
static __device__ __forceinline__ float block_rstd(const float *r, uint32_t E, float eps)
{
    __shared__ float warps[BLOCK / 32];
    float s = 0.0f;
    for (uint32_t e = threadIdx.x; e < E; e += BLOCK)
        s = __fmaf_rn(r[e], r[e], s);
    for (int m = 16; m > 0; m >>= 1)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, m));
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = s;
    __syncthreads();
    s = warps[0];
#pragma unroll
    for (int w = 1; w < BLOCK / 32; w++)
        s = __fadd_rn(s, warps[w]);
    __syncthreads(); /* the next row writes `warps` again */
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(s, (float)E), eps)));
}

/* u and f = RMSNorm(r), either may be NULL. With `pick`, row i's u goes to row pick[i], if any. */
static __global__ void __launch_bounds__(BLOCK)
    normalise(const float *r, const float *w, uint32_t E, float eps, const uint32_t *rows, const uint32_t *pick,
              float *u, float *f)
{
    for (uint32_t row = blockIdx.x; row < *rows; row += gridDim.x) {
        const float *from = r + (size_t)row * E;
        uint32_t to = pick ? pick[row] : row;
        bool wants_u = u && to != GPU_NOT_PICKED;
        if (!wants_u && !f)
            continue;
        float rstd = block_rstd(from, E, eps);
        for (uint32_t e = threadIdx.x; e < E; e += BLOCK) {
            float v = normed(from[e], rstd, __ldg(w + e));
            if (wants_u)
                u[(size_t)to * E + e] = v;
            if (f)
                f[(size_t)row * E + e] = v;
        }
    }
}

/* ---- convolution and scan ---- */

static __device__ __forceinline__ float silu32(float v)
{
    return __fdiv_rn(v, __fadd_rn(1.0f, expf(-v)));
}

static __device__ __forceinline__ float softplus32(float v)
{
    return v > 20.0f ? v : log1pf(expf(v));
}

/* One channel of one run. */
struct conv_of {
    const float *x; /* [T] apart by ldx */
    size_t ldx;
    float *y;       /* [T] apart by D */
    float *window;  /* [K−1] apart by D, oldest first */
    const float *w; /* [K] apart by D */
    float bias;
    size_t D;
    int past; /* K − 1 */
};

/* Input t, from −(K−1): the window, then the run's rows. */
static __device__ __forceinline__ float input(const struct conv_of &c, int t)
{
    return t < 0 ? c.window[(t + c.past) * c.D] : c.x[t * c.ldx];
}

static __device__ __forceinline__ void convolve_row(const struct conv_of &c, int t)
{
    float a = c.bias;
    for (int w = 0; w <= c.past; w++)
        a = __fmaf_rn(c.w[w * c.D], input(c, t - c.past + w), a);
    c.y[t * c.D] = silu32(a);
}

/* The rows that see the window, and the window after the run: oldest first, each is read before it is overwritten. */
static __device__ __forceinline__ void convolve_first(const struct conv_of &c, int T)
{
    for (int t = 0; t < c.past && t < T; t++)
        convolve_row(c, t);
    for (int w = 0; w < c.past; w++)
        c.window[w * c.D] = input(c, T - c.past + w);
}

/* A thread per row and channel; a run's first row does all that touches the window. */
static __global__ void __launch_bounds__(BLOCK)
    convolve(struct gpu_layer l, uint32_t layer, uint32_t D, uint32_t K, struct gpu_pass p)
{
    uint32_t across = ceil_div(D, BLOCK), items = p.head->rows * across;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        uint32_t row = item / across, d = item % across * BLOCK + threadIdx.x;
        if (d >= D)
            continue;
        struct gpu_run run = p.runs[p.run_of[row]];
        struct conv_of c;
        c.x = reinterpret_cast<const float *>(p.xz) + (size_t)run.row * 2 * D + d;
        c.ldx = 2 * (size_t)D;
        c.y = reinterpret_cast<float *>(p.xc) + (size_t)run.row * D + d;
        c.window = reinterpret_cast<float *>(run.slot + layer * p.slab.conv_layer) + d;
        c.w = l.conv + d;
        c.bias = l.conv_bias[d];
        c.D = D;
        c.past = (int)K - 1;
        int t = (int)(row - run.row);
        if (t >= c.past)
            convolve_row(c, t);
        else if (t == 0)
            convolve_first(c, (int)run.T);
    }
}

/* One channel of one run: what its scan reads and writes, rows 2D, D, 2N and 1 apart. */
struct scan_of {
    const float *x, *z, *dt, *B, *C, *g;
    float *y;
    float skip;
    uint32_t D, N, T;
};

struct scan_row {
    float x, z, dt, g;
};

static __device__ __forceinline__ struct scan_row load_row(const struct scan_of &c, uint32_t t)
{
    struct scan_row v;
    v.x = c.x[(size_t)t * c.D];
    v.z = c.z[(size_t)t * 2 * c.D];
    v.dt = c.dt[(size_t)t * 2 * c.D];
    v.g = __ldg(c.g + t);
    return v;
}

/* One step of up to GROUP states: Σ h·C, four chains of four as in arith.cuh. */
template <enum ssm_dtype S>
static __device__ __forceinline__ float step_group(state16<S> &state, float h[GROUP], const float A[GROUP],
                                                   const float *B, const float *C, uint32_t n, float dg, float dx)
{
    float s[4] = {};
#pragma unroll
    for (uint32_t i = 0; i < GROUP; i++)
        if (i < n)
            h[i] = __fmaf_rn(exp2f(__fmul_rn(dg, A[i])), h[i], __fmul_rn(dx, __ldg(B + i)));
    state.pack(h);
#pragma unroll
    for (uint32_t i = 0; i < GROUP; i++)
        if (i < n)
            s[i / 4] = __fmaf_rn(h[i], __ldg(C + i), s[i / 4]);
    return __fadd_rn(__fadd_rn(s[0], s[1]), __fadd_rn(s[2], s[3]));
}

/* States [n0, n0 + GROUP) of a channel over the whole run; y gathers the groups' sums, the last group gates it. `left`:
 * vectors of 16 bytes from n0 on. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void scan_group(const struct scan_of &c, uint32_t n0, uint8_t *at, uint32_t left,
                                                  const float A[GROUP])
{
    state16<S> state;
    float h[GROUP];
#pragma unroll
    for (uint32_t i = 0; i < state16<S>::VECTORS; i++)
        state.raw[i] = i < left ? *reinterpret_cast<const uint4 *>(at + i * 512) : make_uint4(0, 0, 0, 0);
    state.unpack(h);
    uint32_t n = min((uint32_t)GROUP, c.N - n0);
    struct scan_row next = load_row(c, 0);
    for (uint32_t t = 0; t < c.T; t++) {
        struct scan_row v = next;
        if (t + 1 < c.T)
            next = load_row(c, t + 1);
        float delta = softplus32(v.dt), *y = c.y + (size_t)t * c.D;
        size_t bc = (size_t)t * 2 * c.N + n0;
        float sum = step_group(state, h, A, c.B + bc, c.C + bc, n, __fmul_rn(delta, v.g), __fmul_rn(delta, v.x));
        if (n0 > 0)
            sum = __fadd_rn(*y, sum);
        *y = n0 + GROUP < c.N ? sum : __fmul_rn(__fmaf_rn(c.skip, v.x, sum), silu32(v.z));
    }
#pragma unroll
    for (uint32_t i = 0; i < state16<S>::VECTORS; i++)
        if (i < left)
            *reinterpret_cast<uint4 *>(at + i * 512) = state.raw[i];
}

/* A thread per run and channel. */
template <enum ssm_dtype S>
static __global__ void __launch_bounds__(SCAN_BLOCK)
    scan(struct gpu_layer l, uint32_t layer, uint32_t D, uint32_t N, struct gpu_pass p)
{
    uint32_t across = ceil_div(D, SCAN_BLOCK), items = p.head->n_runs * across;
    uint32_t vectors = ceil_div(N, state16<S>::PER), quads = ceil_div(N, 4);
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        uint32_t d = item % across * SCAN_BLOCK + threadIdx.x;
        struct gpu_run run = p.runs[item / across];
        if (d >= D)
            continue;
        const float *xz = reinterpret_cast<const float *>(p.xz) + (size_t)run.row * 2 * D + d;
        const float *bc = p.bc + (size_t)run.row * 2 * N;
        struct scan_of c;
        c.x = reinterpret_cast<const float *>(p.xc) + (size_t)run.row * D + d;
        c.dt = xz;
        c.z = xz + D;
        c.B = bc;
        c.C = bc + N;
        c.g = p.g + run.row;
        c.y = reinterpret_cast<float *>(p.y) + (size_t)run.row * D + d;
        c.skip = l.skip[d];
        c.D = D;
        c.N = N;
        c.T = run.T;
        uint8_t *state = run.slot + p.slab.ssm_at + layer * p.slab.ssm_layer;
        for (uint32_t n0 = 0; n0 < N; n0 += GROUP) {
            uint32_t first = n0 / state16<S>::PER;
            float A[GROUP];
#pragma unroll
            for (uint32_t i = 0; i < GROUP; i++)
                A[i] = n0 + i < N ? l.A[((size_t)(d / 32) * quads + (n0 + i) / 4) * 128 + d % 32 * 4 + i % 4] : 0.0f;
            scan_group<S>(c, n0, state + ((size_t)(d / 32) * vectors + first) * 512 + d % 32 * 16, vectors - first, A);
        }
    }
}

/* ---- a pass ---- */

static void launch_scan(const struct gpu_layer *l, uint32_t layer, const struct gpu_dims *d, const struct gpu_pass *p,
                        enum ssm_dtype state, uint32_t n_runs, cudaStream_t stream)
{
    uint32_t grid = n_runs * ceil_div(d->D, SCAN_BLOCK);
    if (state == SSM_F32)
        scan<SSM_F32><<<grid, SCAN_BLOCK, 0, stream>>>(*l, layer, d->D, d->N, *p);
    else if (state == SSM_BF16)
        scan<SSM_BF16><<<grid, SCAN_BLOCK, 0, stream>>>(*l, layer, d->D, d->N, *p);
    else
        scan<SSM_F16><<<grid, SCAN_BLOCK, 0, stream>>>(*l, layer, d->D, d->N, *p);
}

/* r += out_proj(scan(silu(conv(x)), Δ, B, C) · silu(z))     with x, z = in_proj(norm(r)) */
static void run_layer(const struct gpu_model *m, uint32_t layer, const struct gpu_pass *p, enum ssm_dtype state,
                      uint32_t rows, uint32_t n_runs, cudaStream_t stream)
{
    const struct gpu_dims *d = &m->d;
    const struct gpu_layer *l = &m->layers[layer];
    const uint32_t *count = &p->head->rows;
    float *u = (float *)p->u, *xz = (float *)p->xz, *xc = (float *)p->xc, *dt = (float *)p->dt, *y = (float *)p->y;
    size_t E = d->E, D = d->D;

    normalise<<<rows, BLOCK, 0, stream>>>(p->r, l->norm, d->E, d->eps, count, NULL, u, NULL);
    struct product32 in = whole_product(&l->in_proj, count, u, E, xz, 2 * D);
    multiply(&in, rows, in.n, stream);
    convolve<<<rows * ceil_div(d->D, BLOCK), BLOCK, 0, stream>>>(*l, layer, d->D, d->K, *p);

    struct product32 select = whole_product(&l->x_proj, count, xc, D, dt, d->Rp);
    select.split = d->Rp;
    select.y2 = p->bc;
    select.ldy2 = 2 * (size_t)d->N;
    multiply(&select, rows, select.n, stream);
    struct product32 delta = whole_product(&l->dt_proj, count, dt, d->Rp, xz, 2 * D);
    multiply(&delta, rows, delta.n, stream);
    launch_scan(l, layer, d, p, state, n_runs, stream);

    struct product32 out = whole_product(&l->out_proj, count, y, D, p->r, E);
    out.add = true;
    multiply(&out, rows, out.n, stream);
}

void gpu_plain(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t rows,
               uint32_t n_runs, uint32_t n_picked, uint32_t n_out, cudaStream_t stream)
{
    const struct gpu_dims *d = &m->d;
    const uint32_t *count = &p->head->rows;
    bool wants_head = n_picked > 0 && n_out > 0;
    float *u = (float *)p->u;
    if (p->tokens) {
        embed<<<rows, BLOCK, 0, stream>>>(m->embedding, m->dtype, d->E, *p);
    } else {
        struct product32 input = whole_product(&m->input, count, p->features, GPU_PADDED(d->F), p->r, d->E);
        multiply(&input, rows, input.n, stream);
    }
    for (uint32_t i = 0; i < d->L; i++)
        run_layer(m, i, p, state, rows, n_runs, stream);
    if (wants_head || p->f)
        normalise<<<rows, BLOCK, 0, stream>>>(p->r, m->norm_f, d->E, d->eps, count, p->pick, wants_head ? u : NULL,
                                              p->f);
    if (wants_head) {
        struct product32 head = whole_product(&m->head, &p->head->n_picked, u, d->E, p->out, p->ldo);
        head.wanted = &p->head->n_out;
        multiply(&head, n_picked, n_out, stream);
    }
}
