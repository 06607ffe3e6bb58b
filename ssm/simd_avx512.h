/* simd_avx512.h: the vector that simd.h builds on: 16 floats of AVX-512 (F, DQ). */
#ifndef SSM_SIMD_AVX512_H
#define SSM_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

/* before a loop with a constant count: the arrays it walks then live in registers */
#ifdef __clang__
#define SIMD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#endif

#define SIMD_NAME(name) ssm_avx512_##name

enum {
    SIMD_LANES = 16,
    SIMD_STATES = 16 /* states that a scan keeps in registers */
};

typedef __m512 simd_f;

SIMD_INLINE simd_f simd_load(const float *p)
{
    return _mm512_load_ps(p);
}

/* the first n lanes, the others 0; n may exceed SIMD_LANES */
SIMD_INLINE simd_f simd_load_first(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff, p);
}

SIMD_INLINE void simd_store(float *p, simd_f v)
{
    _mm512_store_ps(p, v);
}

SIMD_INLINE simd_f simd_set1(float f)
{
    return _mm512_set1_ps(f);
}

SIMD_INLINE simd_f simd_add(simd_f a, simd_f b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE simd_f simd_sub(simd_f a, simd_f b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE simd_f simd_mul(simd_f a, simd_f b)
{
    return _mm512_mul_ps(a, b);
}

SIMD_INLINE simd_f simd_div(simd_f a, simd_f b)
{
    return _mm512_div_ps(a, b);
}

/* a·b + c */
SIMD_INLINE simd_f simd_fma(simd_f a, simd_f b, simd_f c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* a·b − c */
SIMD_INLINE simd_f simd_fms(simd_f a, simd_f b, simd_f c)
{
    return _mm512_fmsub_ps(a, b, c);
}

SIMD_INLINE simd_f simd_max(simd_f a, simd_f b)
{
    return _mm512_max_ps(a, b);
}

/* −|a| */
SIMD_INLINE simd_f simd_minus_abs(simd_f a)
{
    return _mm512_or_ps(a, _mm512_set1_ps(-0.0f));
}

/* u less the nearest whole number, exactly; 0 for ±∞ */
SIMD_INLINE simd_f simd_fraction(simd_f u)
{
    return _mm512_reduce_ps(u, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a cut to [−½, ½] */
SIMD_INLINE simd_f simd_cut_half(simd_f a)
{
    return _mm512_range_ps(a, _mm512_set1_ps(0.5f), 2); /* the smaller magnitude, a's sign */
}

/* p·2^whole */
SIMD_INLINE simd_f simd_scale(simd_f p, simd_f whole)
{
    return _mm512_scalef_ps(p, whole);
}

/* the lanes' sum, halves first */
SIMD_INLINE float simd_sum(simd_f a)
{
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, _MM_SHUFFLE(1, 0, 3, 2)));
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, _MM_SHUFFLE(2, 3, 0, 1)));
    a = _mm512_add_ps(a, _mm512_shuffle_ps(a, a, _MM_SHUFFLE(1, 0, 3, 2)));
    a = _mm512_add_ps(a, _mm512_shuffle_ps(a, a, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm512_cvtss_f32(a);
}

#endif
