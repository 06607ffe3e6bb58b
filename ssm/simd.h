/* simd.h: exp, softplus and silu on a vector of floats, of the instruction family that the including file is built for.
 *
 * Both exp's split their argument into a whole number and a fraction in [−½, ½], take 2^fraction from a minimax
 * polynomial that is exact at 0, and scale by the whole. simd_exp is within 1.1 ulp where its result is a normal
 * number, softplus and silu within 3.1; simd_exp2 is as exact as its argument. Trap: simd_exp rounds by adding 1.5·2²³;
 * beyond 2²² that leaves garbage as the fraction, which is cut to ±½: scaling by so large a whole gives 0 or ∞ all the
 * same. */
#ifndef SSM_SIMD_H
#define SSM_SIMD_H

#ifdef __AVX512F__
#include "ssm/simd_avx512.h"
#else
#include "ssm/simd_avx2.h"
#endif

#define LOG2E_HI 1.4426950216293335f /* log2(e) in two floats */
#define LOG2E_LO 1.9259629891e-8f

SIMD_INLINE simd_f simd_exp2_parts(simd_f whole, simd_f f)
{
    simd_f p = simd_set1(0.00015353362f);
    p = simd_fma(p, f, simd_set1(0.0013398875f));
    p = simd_fma(p, f, simd_set1(0.009618437f));
    p = simd_fma(p, f, simd_set1(0.055503324f));
    p = simd_fma(p, f, simd_set1(0.24022648f));
    p = simd_fma(p, f, simd_set1(0.6931472f));
    p = simd_fma(p, f, simd_set1(1.0f));
    return simd_scale(p, whole);
}

/* 2^u */
SIMD_INLINE simd_f simd_exp2(simd_f u)
{
    simd_f f = simd_fraction(u);
    return simd_exp2_parts(simd_sub(u, f), f);
}

/* As 2^(x·log2(e)), the product to more digits than a float has. */
SIMD_INLINE simd_f simd_exp(simd_f x)
{
    const simd_f magic = simd_set1(12582912.0f), hi = simd_set1(LOG2E_HI);
    simd_f whole = simd_sub(simd_fma(x, hi, magic), magic);
    simd_f f = simd_fma(x, simd_set1(LOG2E_LO), simd_fms(x, hi, whole));
    return simd_exp2_parts(whole, simd_cut_half(f));
}

/* log(1 + e^x) = max(x, 0) + log1p(e^−|x|), with log1p(e) = 2·atanh(e/(2 + e)): no overflow, no cancellation. The
 * second term vanishes beside an x above 20, which makes it the identity there. */
SIMD_INLINE simd_f simd_softplus(simd_f x)
{
    simd_f e = simd_exp(simd_minus_abs(x));
    simd_f s = simd_div(e, simd_add(simd_set1(2.0f), e));
    simd_f z = simd_mul(s, s);
    simd_f p = simd_set1(0.2801199f);
    p = simd_fma(p, z, simd_set1(0.28001806f));
    p = simd_fma(p, z, simd_set1(0.40021527f));
    p = simd_fma(p, z, simd_set1(0.6666642f));
    p = simd_fma(p, z, simd_set1(2.0f));
    return simd_fma(p, s, simd_max(x, simd_set1(0.0f)));
}

SIMD_INLINE simd_f simd_silu(simd_f x)
{
    simd_f e = simd_exp(simd_sub(simd_set1(0.0f), x));
    return simd_div(x, simd_add(simd_set1(1.0f), e));
}

#endif
