/* simd_avx512.h: exp, softplus and silu on 16 floats. Only for files built for AVX-512 (F, DQ).
 *
 * exp2 splits its argument u into a whole number and a fraction in [−½, ½] by adding 1.5·2²³, takes 2^fraction from a
 * minimax polynomial that is exact at 0, and puts the whole back by scalef: 0, denormals and ∞ come out as they are.
 * Below 2 ulp. Trap: |u| beyond 2²² leaves garbage as the fraction; range() cuts it to ±½, and scalef by so large a
 * whole is 0 or ∞ all the same. */
#ifndef SSM_SIMD_AVX512_H
#define SSM_SIMD_AVX512_H

#include <immintrin.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

/* before a loop with a constant count: the arrays it walks then live in registers */
#ifdef __clang__
#define SIMD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#endif

#define LOG2E_HI 1.4426950216293335f /* log2(e) in two floats */
#define LOG2E_LO 1.9259629891e-8f

/* 2^(whole + f) for a whole number `whole` and |f| ≤ ½, more or less */
SIMD_INLINE __m512 simd_exp2_parts(__m512 whole, __m512 f)
{
    f = _mm512_range_ps(f, _mm512_set1_ps(0.5f), 2); /* the smaller magnitude, f's sign */
    __m512 p = _mm512_set1_ps(0.00015353362f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0013398875f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.009618437f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.055503324f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022648f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931472f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

/* a·b to the nearest whole number */
SIMD_INLINE __m512 simd_whole(__m512 a, __m512 b)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    return _mm512_sub_ps(_mm512_fmadd_ps(a, b, magic), magic);
}

/* 2^(a·b), the product rounded only as a fraction */
SIMD_INLINE __m512 simd_exp2_product(__m512 a, __m512 b)
{
    __m512 whole = simd_whole(a, b);
    return simd_exp2_parts(whole, _mm512_fmsub_ps(a, b, whole));
}

SIMD_INLINE __m512 simd_exp(__m512 x)
{
    __m512 whole = simd_whole(x, _mm512_set1_ps(LOG2E_HI));
    __m512 f = _mm512_fmsub_ps(x, _mm512_set1_ps(LOG2E_HI), whole);
    return simd_exp2_parts(whole, _mm512_fmadd_ps(x, _mm512_set1_ps(LOG2E_LO), f));
}

/* log(1 + e^x) = max(x, 0) + log1p(e^−|x|), with log1p(e) = 2·atanh(e/(2 + e)): no overflow, no cancellation. The
 * second term vanishes beside an x above 20, which makes it the identity there. */
SIMD_INLINE __m512 simd_softplus(__m512 x)
{
    __m512 e = simd_exp(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
    __m512 s = _mm512_div_ps(e, _mm512_add_ps(_mm512_set1_ps(2.0f), e));
    __m512 z = _mm512_mul_ps(s, s);
    __m512 p = _mm512_set1_ps(0.2801199f);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0.28001806f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0.40021527f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0.6666642f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f));
    return _mm512_fmadd_ps(p, s, _mm512_max_ps(x, _mm512_setzero_ps()));
}

SIMD_INLINE __m512 simd_silu(__m512 x)
{
    __m512 e = simd_exp(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

#endif
