/* ops_avx512.c: RMSNorm and the short convolution for the AVX-512 tables. Each row, and each channel, is computed by itself
 * in one order. Worker threads; pure. */
#include "ssm/ops_avx512.h"

#include <assert.h>

#include "ssm/simd_avx512.h"

enum { K_MAX = 4 };

static __mmask16 mask_below(uint32_t lanes)
{
    return (__mmask16)((1u << lanes) - 1);
}

/* rsqrt(mean(x²) + eps): two chains of 16 lanes each, then a fixed tree */
static float row_scale(const float *x, uint32_t E, float eps)
{
    __m512 a = _mm512_setzero_ps(), b = a;
    uint32_t e = 0;
    for (; e + 32 <= E; e += 32) {
        __m512 x0 = _mm512_load_ps(x + e), x1 = _mm512_load_ps(x + e + 16);
        a = _mm512_fmadd_ps(x0, x0, a);
        b = _mm512_fmadd_ps(x1, x1, b);
    }
    for (; e < E; e += 16) {
        __m512 v = _mm512_maskz_load_ps(E - e < 16 ? mask_below(E - e) : 0xffff, x + e);
        a = _mm512_fmadd_ps(v, v, a);
    }
    a = _mm512_add_ps(a, b);
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, _MM_SHUFFLE(1, 0, 3, 2)));
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, _MM_SHUFFLE(2, 3, 0, 1)));
    a = _mm512_add_ps(a, _mm512_shuffle_ps(a, a, _MM_SHUFFLE(1, 0, 3, 2)));
    a = _mm512_add_ps(a, _mm512_shuffle_ps(a, a, _MM_SHUFFLE(2, 3, 0, 1)));
    return 1.0f / __builtin_sqrtf(_mm512_cvtss_f32(a) / (float)E + eps);
}

void ssm_avx512_rmsnorm(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E,
                        float eps)
{
    for (uint32_t m = 0; m < M; m++, x += ldx, y += ldy) {
        __m512 scale = _mm512_set1_ps(row_scale(x, E, eps));
        for (uint32_t e = 0; e < E; e += 16) {
            __mmask16 mask = E - e < 16 ? mask_below(E - e) : 0xffff;
            __m512 v = _mm512_mul_ps(_mm512_maskz_load_ps(mask, x + e), scale);
            _mm512_store_ps(y + e, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, w + e)));
        }
    }
}

/* y[t] = silu(b + Σ_w w[w]·x[t−(K−1)+w]), for 16 channels; the last K − 1 inputs stay in registers */
SIMD_INLINE void conv_lanes(const struct ssm_conv *c, size_t d, uint32_t K)
{
    __m512 weight[K_MAX], past[K_MAX], bias = _mm512_load_ps(c->b + d);
    SIMD_UNROLL
    for (uint32_t k = 0; k < K; k++)
        weight[k] = _mm512_load_ps(c->w + k * c->Dp + d);
    SIMD_UNROLL
    for (uint32_t k = 0; k + 1 < K; k++)
        past[k] = _mm512_load_ps(c->window + k * c->Dp + d);
    for (uint32_t t = 0; t < c->T; t++) {
        past[K - 1] = _mm512_load_ps(c->x + t * c->ldx + d);
        __m512 sum = bias;
        SIMD_UNROLL
        for (uint32_t k = 0; k < K; k++)
            sum = _mm512_fmadd_ps(weight[k], past[k], sum);
        _mm512_store_ps(c->y + t * c->ldy + d, simd_silu(sum));
        SIMD_UNROLL
        for (uint32_t k = 0; k + 1 < K; k++)
            past[k] = past[k + 1];
    }
    SIMD_UNROLL
    for (uint32_t k = 0; k + 1 < K; k++)
        _mm512_store_ps(c->window + k * c->Dp + d, past[k]);
}

void ssm_avx512_conv(const struct ssm_conv *c, size_t d0, size_t d1)
{
    assert(c->K >= 1 && c->K <= K_MAX);
    for (size_t d = d0; d < d1; d += SSM_LANES) {
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
