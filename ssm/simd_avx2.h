/* simd_avx2.h: the vector that simd.h builds on: 8 floats of AVX2 with FMA. */
#ifndef SSM_SIMD_AVX2_H
#define SSM_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

/* before a loop with a constant count: the arrays it walks then live in registers */
#ifdef __clang__
#define SIMD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#endif

#define SIMD_NAME(name) ssm_avx2_##name

enum {
    SIMD_LANES = 8,
    SIMD_STATES = 4 /* states that a scan keeps in registers */
};

typedef __m256 simd_f;

SIMD_INLINE simd_f simd_load(const float *p)
{
    return _mm256_load_ps(p);
}

/* the first n lanes, the others 0; n may exceed SIMD_LANES */
SIMD_INLINE simd_f simd_load_first(const float *p, uint32_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane));
}

SIMD_INLINE void simd_store(float *p, simd_f v)
{
    _mm256_store_ps(p, v);
}

SIMD_INLINE simd_f simd_set1(float f)
{
    return _mm256_set1_ps(f);
}

SIMD_INLINE simd_f simd_add(simd_f a, simd_f b)
{
    return _mm256_add_ps(a, b);
}

SIMD_INLINE simd_f simd_sub(simd_f a, simd_f b)
{
    return _mm256_sub_ps(a, b);
}

SIMD_INLINE simd_f simd_mul(simd_f a, simd_f b)
{
    return _mm256_mul_ps(a, b);
}

SIMD_INLINE simd_f simd_div(simd_f a, simd_f b)
{
    return _mm256_div_ps(a, b);
}

/* a·b + c */
SIMD_INLINE simd_f simd_fma(simd_f a, simd_f b, simd_f c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* a·b − c */
SIMD_INLINE simd_f simd_fms(simd_f a, simd_f b, simd_f c)
{
    return _mm256_fmsub_ps(a, b, c);
}

SIMD_INLINE simd_f simd_max(simd_f a, simd_f b)
{
    return _mm256_max_ps(a, b);
}

/* −|a| */
SIMD_INLINE simd_f simd_minus_abs(simd_f a)
{
    return _mm256_or_ps(a, _mm256_set1_ps(-0.0f));
}

/* u less the nearest whole number, exactly; 0 for ±∞ */
SIMD_INLINE simd_f simd_fraction(simd_f u)
{
    u = _mm256_max_ps(_mm256_min_ps(u, _mm256_set1_ps(0x1p24f)), _mm256_set1_ps(-0x1p24f));
    return _mm256_sub_ps(u, _mm256_round_ps(u, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* a cut to [−½, ½] */
SIMD_INLINE simd_f simd_cut_half(simd_f a)
{
    return _mm256_max_ps(_mm256_min_ps(a, _mm256_set1_ps(0.5f)), _mm256_set1_ps(-0.5f));
}

/* p·2^whole by way of the exponent's bits: 0 from 2^−127 down, ∞ from 2^128 up */
SIMD_INLINE simd_f simd_scale(simd_f p, simd_f whole)
{
    whole = _mm256_min_ps(_mm256_max_ps(whole, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(128.0f));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

/* the lanes' sum, halves first */
SIMD_INLINE float simd_sum(simd_f a)
{
    a = _mm256_add_ps(a, _mm256_permute2f128_ps(a, a, 1));
    a = _mm256_add_ps(a, _mm256_shuffle_ps(a, a, _MM_SHUFFLE(1, 0, 3, 2)));
    a = _mm256_add_ps(a, _mm256_shuffle_ps(a, a, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm256_cvtss_f32(a);
}

#endif
