/* cublas.cu: products by cuBLASLt. Used by the engine's thread. The library is opened at run time, when a model first
 * asks for it, and stays.
 *
 * In its column-major terms a product is Y[n_out × rows] = scale·Wᵀ·X: W [kp × np] is the matrix with rows as they are
 * counted here, made of the tiled one at open; X [ldx × rows] the activations. What cuBLASLt picks for a shape is kept
 * in a table of plans, so that a step only looks it up; a shape that was not seen asks for it once.
 *
 * Traps: cuBLASLt rounds to fp16 without clipping, and an infinite activation would stay in a slot's state for good:
 * only matrices whose outputs are proven to fit give fp16, by |W·(n∘x)| ≤ ‖W∘n‖·√E for a normed row x. Workspace is a
 * stream's own, for slices overlap. While a stream is captured, a kernel that was not loaded yet is loaded now: the
 * thread is relaxed meanwhile. */
#include "ssm/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_fp16.h>
#include <dlfcn.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "ssm/fail.h"

#define LIBRARY "libcublasLt.so.13"

enum {
    ALIGN = 256,
    LANES = 8, /* streams that products may come on */
    WORKSPACE = 32 << 20,
    PLANS = 512,
    PROBES = 8
};
static const float half_max = 65000.0f; /* less what roundings add */

/* The library's functions. */
struct lt {
#define FUNCTIONS(F)                                                                                                   \
    F(cublasLtCreate)                                                                                                  \
    F(cublasLtDestroy)                                                                                                 \
    F(cublasLtGetStatusName)                                                                                           \
    F(cublasLtMatmul)                                                                                                  \
    F(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    F(cublasLtMatmulDescInit_internal)                                                                                 \
    F(cublasLtMatmulDescSetAttribute)                                                                                  \
    F(cublasLtMatmulPreferenceInit_internal)                                                                           \
    F(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    F(cublasLtMatrixLayoutInit_internal)
#define DECLARE(name) decltype(&::name) name;
    FUNCTIONS(DECLARE)
#undef DECLARE
};

struct gpu_cublas_matrix {
    struct gpu_cublas *owner;
    uint16_t *weights;   /* device, fp16 [np][kp] */
    const float *bias;   /* device; NULL: none */
    uint16_t *half_bias; /* device, fp16; NULL likewise */
    bool half;           /* outputs are known to fit into fp16 */
};

/* All that a choice depends on; words only, compared as bytes. */
struct shape {
    uint32_t rows, n_out, k, kp, ldx, ldy, end, bias, align;
};

struct plan {
    struct shape shape; /* rows = 0: none yet */
    bool usable;        /* else cuBLASLt has nothing for it */
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct gpu_cublas {
    struct lt lt;
    cublasLtHandle_t handle;
    uint8_t *block; /* device: a workspace for each lane, then the matrices */
    struct gpu_cublas_matrix *matrices;
    cudaStream_t lanes[LANES];
    uint32_t n_lanes;
    struct plan plans[PLANS];
};

/* ---- open and close ---- */

static int load(struct lt *ret, const char *model, char *reterr)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return ssm_fail(reterr, -ELIBACC, "%s: deterministic: false needs cuBLASLt: %s", model, dlerror());
#define RESOLVE(name)                                                                                                  \
    if (!(ret->name = (decltype(ret->name))dlsym(library, #name)))                                                     \
        return ssm_fail(reterr, -ELIBACC, "%s: " LIBRARY " has no " #name, model);
    FUNCTIONS(RESOLVE)
#undef RESOLVE
    return 0;
}

static uint32_t count_matrices(const struct gpu_model *m)
{
    return 2 * m->d.L + (m->head.n ? 1 : 0);
}

static struct gpu_matrix *matrix_at(struct gpu_model *m, uint32_t i)
{
    if (i == 2 * m->d.L)
        return &m->head;
    return i % 2 ? &m->layers[i / 2].out_proj : &m->layers[i / 2].in_proj;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t weight_bytes(const struct gpu_matrix *w)
{
    return aligned((size_t)w->np * w->kp * sizeof(uint16_t));
}

static size_t bias_bytes(const struct gpu_matrix *w)
{
    return aligned(w->np * sizeof(uint16_t));
}

static size_t block_bytes(struct gpu_model *m)
{
    size_t bytes = (size_t)LANES * WORKSPACE;
    for (uint32_t i = 0; i < count_matrices(m); i++)
        bytes += weight_bytes(matrix_at(m, i)) + bias_bytes(matrix_at(m, i));
    return bytes;
}

/* From core matrices to rows, 8 k's at a time: rows[j][k8] of [np][kp/8], n of them in all. */
__global__ void untile(const uint4 *tiled, uint4 *rows, uint32_t k8, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        const size_t j = i / k8, k = i % k8;
        rows[i] = tiled[(j / 8 * k8 + k) * 8 + j % 8];
    }
}

/* The most that a normed row can make of an output, by one warp each: √k·‖W_j∘norm‖. */
__global__ void reaches(const __half *weights, const float *norm, uint32_t k, uint32_t kp, uint32_t np, float *ret)
{
    const uint32_t j = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (j >= np)
        return;
    float s = 0.0f;
    for (uint32_t i = lane; i < k; i += 32) {
        const float v = __half2float(weights[(size_t)j * kp + i]) * norm[i];
        s += v * v;
    }
    for (int m = 16; m > 0; m >>= 1)
        s += __shfl_xor_sync(0xffffffffu, s, m);
    if (lane == 0)
        ret[j] = sqrtf(s * (float)k);
}

/* bias and half_bias of `ret` where there is one; leaves the bias in host[np]. */
static cudaError_t copy_bias(struct gpu_cublas_matrix *ret, const struct gpu_matrix *w, uint16_t *at, float *host,
                             uint16_t *halves)
{
    cudaError_t e = cudaMemcpy(host, w->bias, w->np * sizeof *host, cudaMemcpyDeviceToHost);
    for (uint32_t j = 0; j < w->np && !e; j++)
        halves[j] = __half_as_ushort(__float2half_rn(host[j]));
    if (e || !w->biased)
        return e;
    ret->bias = w->bias;
    ret->half_bias = at;
    return cudaMemcpy(at, halves, w->np * sizeof *halves, cudaMemcpyHostToDevice);
}

/* Whether W·(norm∘x) + bias fits into fp16 for every normed row x. `scratch`: device [np]. */
static cudaError_t prove(struct gpu_cublas_matrix *ret, const struct gpu_matrix *w, const float *norm,
                         const float *bias, float *scratch, float *reach)
{
    reaches<<<(w->np + 7) / 8, 256>>>((const __half *)ret->weights, norm, w->k, w->kp, w->np, scratch);
    cudaError_t e = cudaMemcpy(reach, scratch, w->np * sizeof *reach, cudaMemcpyDeviceToHost);
    ret->half = !e;
    for (uint32_t j = 0; j < w->np && ret->half; j++)
        ret->half = w->scale * reach[j] + fabsf(bias[j]) <= half_max; /* false for NaN */
    return e;
}

/* Copy i at `at`; host: room for three vectors of np floats. */
static cudaError_t copy_matrix(struct gpu_cublas *c, struct gpu_model *m, uint32_t i, uint8_t *at, float *host)
{
    const struct gpu_matrix *w = matrix_at(m, i);
    struct gpu_cublas_matrix *ret = &c->matrices[i];
    ret->owner = c;
    ret->weights = (uint16_t *)at;
    untile<<<1024, 256>>>((const uint4 *)w->tiled, (uint4 *)at, w->kp / 8, (size_t)w->np * w->kp / 8);
    cudaError_t e = copy_bias(ret, w, (uint16_t *)(at + weight_bytes(w)), host, (uint16_t *)(host + 2 * w->np));
    if (!e && i < 2 * m->d.L && i % 2 == 0) /* in_proj: its input is normed, its output fp16 */
        e = prove(ret, w, m->layers[i / 2].norm, host, (float *)c->block, host + w->np);
    return e;
}

static cudaError_t copy_matrices(struct gpu_cublas *c, struct gpu_model *m, float *host)
{
    uint8_t *at = c->block + (size_t)LANES * WORKSPACE;
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < count_matrices(m) && !e; i++) {
        e = copy_matrix(c, m, i, at, host);
        at += weight_bytes(matrix_at(m, i)) + bias_bytes(matrix_at(m, i));
    }
    if (!e)
        e = gpu_sync_default();
    return e ? e : cudaGetLastError();
}

static int fill(struct gpu_cublas *c, struct gpu_model *m, float *host, char *reterr)
{
    const char *name = m->model->name;
    int err = load(&c->lt, name, reterr);
    if (err)
        return err;
    cublasStatus_t status = c->lt.cublasLtCreate(&c->handle);
    if (status)
        return ssm_fail(reterr, -EIO, "%s: cuBLASLt: %s", name, c->lt.cublasLtGetStatusName(status));
    cudaError_t e = cudaMalloc(&c->block, block_bytes(m));
    if (e)
        return gpu_fail(reterr, name, "memory for cuBLASLt's copy of the weights", e);
    e = copy_matrices(c, m, host);
    return e ? gpu_fail(reterr, name, "copying weights for cuBLASLt", e) : 0;
}

int gpu_cublas_open(struct gpu_model *m, char *reterr)
{
    if (!m->fast)
        return 0;
    uint32_t most = 0, n = count_matrices(m);
    for (uint32_t i = 0; i < n; i++)
        most = matrix_at(m, i)->np > most ? matrix_at(m, i)->np : most;
    struct gpu_cublas *c = (struct gpu_cublas *)calloc(1, sizeof *c);
    float *host = (float *)calloc(most, 3 * sizeof *host);
    int err = 0;
    m->cublas = c;
    if (!c || !host || !(c->matrices = (struct gpu_cublas_matrix *)calloc(n, sizeof *c->matrices)))
        err = ssm_fail(reterr, -ENOMEM, "%s: no memory for the tables of cuBLASLt", m->model->name);
    if (!err)
        err = fill(c, m, host, reterr);
    free(host);
    for (uint32_t i = 0; i < n && !err; i++)
        matrix_at(m, i)->cublas = &c->matrices[i];
    if (err)
        gpu_cublas_close(m);
    return err;
}

void gpu_cublas_close(struct gpu_model *m)
{
    struct gpu_cublas *c = m->cublas;
    if (!c)
        return;
    for (uint32_t i = 0; i < count_matrices(m); i++)
        matrix_at(m, i)->cublas = NULL;
    m->cublas = NULL;
    if (c->handle)
        c->lt.cublasLtDestroy(c->handle);
    cudaFree(c->block);
    free(c->matrices);
    free(c);
}

/* ---- plans ---- */

static cublasStatus_t describe(const struct lt *lt, struct plan *p, const void *bias)
{
    const struct shape *s = &p->shape;
    const cudaDataType_t y = s->end == GPU_GEMM_HALF ? CUDA_R_16F : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t e =
        lt->cublasLtMatmulDescInit_internal(&p->product, sizeof p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!e)
        e = lt->cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                               sizeof transposed);
    if (!e)
        e = lt->cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!e && s->bias)
        e = lt->cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (!e)
        e = lt->cublasLtMatrixLayoutInit_internal(&p->w, sizeof p->w, CUDA_R_16F, s->k, s->n_out, s->kp);
    if (!e)
        e = lt->cublasLtMatrixLayoutInit_internal(&p->x, sizeof p->x, CUDA_R_16F, s->k, s->rows, s->ldx);
    if (!e)
        e = lt->cublasLtMatrixLayoutInit_internal(&p->y, sizeof p->y, y, s->n_out, s->rows, s->ldy);
    return e;
}

/* Parts of a product over k are added in fp32. */
static cublasStatus_t limit(const struct lt *lt, cublasLtMatmulPreferenceOpaque_t *ret, const struct shape *s)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = WORKSPACE;
    uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (s->end != GPU_GEMM_HALF)
        sums |= CUBLASLT_REDUCTION_SCHEME_INPLACE;
    cublasStatus_t e = lt->cublasLtMatmulPreferenceInit_internal(ret, sizeof *ret);
    if (!e)
        e = lt->cublasLtMatmulPreferenceSetAttribute(ret, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                     sizeof workspace);
    if (!e)
        e = lt->cublasLtMatmulPreferenceSetAttribute(ret, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums,
                                                     sizeof sums);
    for (int i = 0; i < 3 && !e; i++)
        e = lt->cublasLtMatmulPreferenceSetAttribute(ret, alignments[i], &s->align, sizeof s->align);
    return e;
}

static void make_plan(const struct gpu_cublas *c, struct plan *p, const struct shape *s, const void *bias)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t best;
    int n = 0;
    p->shape = *s;
    cublasStatus_t e = describe(&c->lt, p, bias);
    if (!e)
        e = limit(&c->lt, &preference, s);
    if (!e)
        e = c->lt.cublasLtMatmulAlgoGetHeuristic(c->handle, &p->product, &p->w, &p->x, &p->y, &p->y, &preference, 1,
                                                 &best, &n);
    p->usable = !e && n == 1 && !best.state;
    if (p->usable)
        p->algo = best.algo;
}

/* The plan for a shape. Where its places are taken, another's is made anew. */
static struct plan *plan_of(struct gpu_cublas *c, const struct shape *s, const void *bias)
{
    uint32_t words[sizeof *s / sizeof(uint32_t)], hash = 2166136261u;
    memcpy(words, s, sizeof *s);
    for (uint32_t word : words)
        hash = (hash ^ word) * 16777619u;
    hash ^= hash >> 16;
    struct plan *p = &c->plans[hash % PLANS];
    for (uint32_t i = 0; i < PROBES; i++) {
        struct plan *other = &c->plans[(hash + i) % PLANS];
        if (!memcmp(&other->shape, s, sizeof *s))
            return other;
        if (!other->shape.rows) {
            p = other;
            break;
        }
    }
    make_plan(c, p, s, bias);
    return p;
}

/* ---- a product ---- */

/* NULL: products come on more streams than there are lanes. */
static uint8_t *workspace_of(struct gpu_cublas *c, cudaStream_t stream)
{
    uint32_t lane = 0;
    while (lane < c->n_lanes && c->lanes[lane] != stream)
        lane++;
    if (lane == LANES)
        return NULL;
    if (lane == c->n_lanes)
        c->lanes[c->n_lanes++] = stream;
    return c->block + (size_t)lane * WORKSPACE;
}

/* Of both addresses, up to ALIGN. */
static uint32_t alignment_of(const void *a, const void *b)
{
    const uintptr_t bits = (uintptr_t)a | (uintptr_t)b | ALIGN;
    return (uint32_t)(bits & -bits);
}

static cublasStatus_t multiply(struct gpu_cublas *c, const struct gpu_gemm *g, const struct shape *s, const uint16_t *x,
                               void *y, uint8_t *workspace, cudaStream_t stream)
{
    const struct gpu_cublas_matrix *w = g->matrix->cublas;
    const void *bias = s->end == GPU_GEMM_HALF ? (const void *)w->half_bias : w->bias;
    const float alpha = g->matrix->scale, beta = s->end == GPU_GEMM_ADD ? 1.0f : 0.0f;
    struct plan *p = plan_of(c, s, bias);
    if (!p->usable)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (s->bias) /* the last one was for another layer, perhaps */
        c->lt.cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    return c->lt.cublasLtMatmul(c->handle, &p->product, &alpha, w->weights, &p->w, x, &p->x, &beta, y, &p->y, y, &p->y,
                                &p->algo, workspace, WORKSPACE, stream);
}

bool gpu_cublas_run(const struct gpu_gemm *g, enum gpu_gemm_end end, void *y, size_t ldy, uint32_t n_out,
                    uint32_t rows_bound, cudaStream_t stream)
{
    const struct gpu_cublas_matrix *w = g->matrix->cublas;
    uint8_t *workspace = workspace_of(w->owner, stream);
    if (!workspace || (end == GPU_GEMM_HALF && !w->half))
        return false;
    const uint16_t *x = g->activations + g->begin * g->ldx;
    const uint32_t room = g->capacity - g->begin;
    struct shape s = {};
    s.rows = rows_bound < room ? rows_bound : room;
    s.n_out = n_out;
    s.k = g->matrix->k;
    s.kp = g->matrix->kp;
    s.ldx = (uint32_t)g->ldx;
    s.ldy = (uint32_t)ldy;
    s.end = end;
    s.bias = w->bias != NULL;
    s.align = alignment_of(x, y);
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    cublasStatus_t e = multiply(w->owner, g, &s, x, y, workspace, stream);
    cudaThreadExchangeStreamCaptureMode(&mode);
    return !e;
}
