/* simd_rows.c: RMSNorm and the short convolution, built once per vector instruction family. Each row, and each channel,
 * is computed by itself in one order. Worker threads; pure. */
#include "ssm/simd_ops.h"

#include <assert.h>

#include "ssm/simd.h"

enum { K_MAX = 4 };

/* 1/sqrt(mean(x²) + eps): two chains per lane, then the lanes' sum */
static float row_scale(const float *x, uint32_t E, float eps)
{
    simd_f a = simd_set1(0.0f), b = a;
    uint32_t e = 0;
    for (; e + 2 * SIMD_LANES <= E; e += 2 * SIMD_LANES) {
        simd_f x0 = simd_load(x + e), x1 = simd_load(x + e + SIMD_LANES);
        a = simd_fma(x0, x0, a);
        b = simd_fma(x1, x1, b);
    }
    for (; e < E; e += SIMD_LANES) {
        simd_f v = simd_load_first(x + e, E - e);
        a = simd_fma(v, v, a);
    }
    return 1.0f / __builtin_sqrtf(simd_sum(simd_add(a, b)) / (float)E + eps);
}

/* Pads become 0. */
void SIMD_NAME(rmsnorm)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E,
                        float eps)
{
    for (uint32_t m = 0; m < M; m++, x += ldx, y += ldy) {
        simd_f scale = simd_set1(row_scale(x, E, eps));
        for (uint32_t e = 0; e < SSM_PADDED(E); e += SIMD_LANES) {
            uint32_t left = e < E ? E - e : 0;
            simd_f v = simd_mul(simd_load_first(x + e, left), scale);
            simd_store(y + e, simd_mul(v, simd_load_first(w + e, left)));
        }
    }
}

/* y[t] = silu(b + Σ_w w[w]·x[t−(K−1)+w]), one vector of channels; the last K − 1 inputs stay in registers */
SIMD_INLINE void conv_lanes(const struct ssm_conv *c, size_t d, uint32_t K)
{
    const float *next = (c->window_next ? c->window_next : c->w) + d; /* w: something that is near anyway */
    simd_f weight[K_MAX], past[K_MAX], bias = simd_load(c->b + d);
    SIMD_UNROLL
    for (uint32_t k = 0; k < K; k++)
        weight[k] = simd_load(c->w + k * c->Dp + d);
    SIMD_UNROLL
    for (uint32_t k = 0; k + 1 < K; k++) {
        past[k] = simd_load(c->window + k * c->Dp + d);
        _mm_prefetch((const char *)(next + k * c->Dp), _MM_HINT_T1);
    }
    for (uint32_t t = 0; t < c->T; t++) {
        past[K - 1] = simd_load(c->x + t * c->ldx + d);
        simd_f sum = bias;
        SIMD_UNROLL
        for (uint32_t k = 0; k < K; k++)
            sum = simd_fma(weight[k], past[k], sum);
        simd_store(c->y + t * c->ldy + d, simd_silu(sum));
        SIMD_UNROLL
        for (uint32_t k = 0; k + 1 < K; k++)
            past[k] = past[k + 1];
    }
    SIMD_UNROLL
    for (uint32_t k = 0; k + 1 < K; k++)
        simd_store(c->window + k * c->Dp + d, past[k]);
}

void SIMD_NAME(conv)(const struct ssm_conv *c, size_t d0, size_t d1)
{
    assert(c->K >= 1 && c->K <= K_MAX);
    for (size_t d = d0; d < d1; d += SIMD_LANES) {
        if (c->K == 4)
            conv_lanes(c, d, 4);
        else if (c->K == 3)
            conv_lanes(c, d, 3);
        else if (c->K == 2)
            conv_lanes(c, d, 2);
        else
            conv_lanes(c, d, 1);
    }
}
