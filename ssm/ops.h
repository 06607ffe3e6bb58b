/* ops.h: the table of CPU operations that an engine runs on.
 *
 * Dimension letters, here and everywhere in ssm/:
 *   B streams   T steps   M rows (ΣT of a tile)   E d_model   D d_inner   N d_state   R dt_rank   K conv width
 *
 * One table per instruction family: ref (scalar truth), avx2, avx512, avx512bf16, amx. A table fixes, per weight
 * dtype, the order in which k is summed and the rounding of activations, the same for every M, T, batch and thread
 * count: a GEMM splits outputs and rows, never k by shape. So every entry gives bitwise equal results however its
 * work is cut by rows (M, T) or by outputs (n0..n1, d0..d1).
 *
 * Activations are fp32, row-major; every leading dimension and D itself is padded to SSM_LANES floats and every
 * buffer is SSM_ALIGN-aligned, so that whole vectors may be read and written; pads hold finite values and never
 * influence a result. No entry allocates. */
#ifndef SSM_OPS_H
#define SSM_OPS_H

#include "ssm/ssm.h"

enum { SSM_LANES = 16, SSM_ALIGN = 64 };
#define SSM_PADDED(n) (((size_t)(n) + SSM_LANES - 1) / SSM_LANES * SSM_LANES)

/* A matrix W [n][k] for y = W·x (+ bias), in a table's own packed layout. */
struct ssm_weight {
    uint32_t n, k;
    enum ssm_dtype dtype;
    void *packed;      /* ops->packed_bytes(), SSM_ALIGN-aligned */
    const float *bias; /* [SSM_PADDED(n)] or NULL */
};

/* Causal depthwise convolution with carried window, then SiLU (arXiv 2312.00752 fig. 3):
 *   y[t][d] = silu(Σ_w w[w][d] · x[t−(K−1)+w][d] + b[d])
 * window [K−1][Dp] holds the previous K−1 inputs, oldest first; it is read for t < K−1 and left updated. */
struct ssm_conv {
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy;
    float *window;
    const float *window_next; /* of the call after this one, to fetch ahead from memory; NULL: none */
    const float *w; /* [K][Dp] */
    const float *b; /* [Dp] */
    uint32_t T, K;
    size_t Dp; /* padded D: stride of window and w */
};

/* Selective scan with discretisation, skip and gate (eq. 2, 4 and alg. 2 of the paper; Euler B̄ = Δ·B):
 *   Δ = softplus(dt[t][d])            (dt holds dt_proj's output with its bias; identity above 20)
 *   h[n][d] = exp(Δ·g[t]·A[n][d]) · h[n][d] + Δ·B[t][n]·x[t][d]
 *   y[t][d] = (Σ_n h[n][d]·C[t][n] + skip[d]·x[t][d]) · silu(z[t][d])
 * g NULL: 1 throughout; g[t] == 1 gives the same bits as NULL. The state is n-major, so that lanes are channels. */
struct ssm_scan {
    const float *x, *z, *dt; /* [T][ld…] */
    size_t ldx, ldz, lddt;
    const float *B, *C; /* [T][ldbc] */
    size_t ldbc;
    const float *g;
    const float *A;    /* [N][Dp], already −exp(A_log) */
    const float *skip; /* [Dp] */
    float *h;          /* [N][Dp] */
    const float *h_next; /* of the call after this one, to fetch ahead from memory; NULL: none */
    float *y;
    size_t ldy;
    uint32_t T, N;
    size_t Dp;
};

struct ssm_ops {
    const char *name;
    bool (*usable)(void);        /* this CPU and OS can run the table */
    bool (*takes)(enum ssm_dtype); /* weight dtypes the table has a GEMM for */

    /* Packs rows [n][k] of fp32 (already rounded to w->dtype) into w->packed. */
    size_t (*packed_bytes)(enum ssm_dtype dtype, uint32_t n, uint32_t k);
    void (*pack)(struct ssm_weight *w, const float *rows);

    /* y[m][n0..n1) = (add ? y : 0) + bias + Σ_k W·x[m]. n0 and n1 are multiples of n_step or n itself. `scratch`
     * belongs to the calling thread: scratch_bytes(M, k). */
    uint32_t n_step;
    size_t (*scratch_bytes)(uint32_t M, uint32_t k);
    void (*gemm)(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch);

    /* y[m] = x[m] · rsqrt(mean(x[m]²) + eps) · w, over E columns */
    void (*rmsnorm)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E, float eps);

    /* channels d0..d1, multiples of SSM_LANES */
    void (*conv)(const struct ssm_conv *c, size_t d0, size_t d1);
    void (*scan)(const struct ssm_scan *s, size_t d0, size_t d1);
};

extern const struct ssm_ops ssm_ops_ref;
extern const struct ssm_ops ssm_ops_avx2;
extern const struct ssm_ops ssm_ops_avx512;
extern const struct ssm_ops ssm_ops_avx512bf16;
extern const struct ssm_ops ssm_ops_amx;

/* The tables this build has, best first, NULL-terminated by returning NULL past the end. */
const struct ssm_ops *ssm_ops_at(unsigned i);
/* By name, or the best usable one for `dtype` when name is NULL; NULL when there is none. */
const struct ssm_ops *ssm_ops_pick(const char *name, enum ssm_dtype dtype);

#endif
