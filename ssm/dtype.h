/* dtype.h: bf16 and fp16 as 16-bit patterns, converted without hardware help so that every compiler and CPU agrees.
 * Rounding is to nearest, ties to even. Pure functions. */
#ifndef SSM_DTYPE_H
#define SSM_DTYPE_H

#include <string.h>

#include "ssm/ssm.h"

static inline size_t ssm_dtype_bytes(enum ssm_dtype d)
{
    return d == SSM_F32 ? 4 : 2;
}

static inline const char *ssm_dtype_name(enum ssm_dtype d)
{
    return d == SSM_F32 ? "fp32" : d == SSM_BF16 ? "bf16" : "fp16";
}

static inline float ssm_float_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t ssm_bits_of_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float ssm_from_bf16(uint16_t b)
{
    return ssm_float_of_bits((uint32_t)b << 16);
}

/* Finite values only: a NaN's payload could round to infinity. */
static inline uint16_t ssm_to_bf16(float f)
{
    uint32_t u = ssm_bits_of_float(f);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* Multiplying by 2^112 moves the exponent's bias from 15 to 127; subnormals come out right by themselves. */
static inline float ssm_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float f = (h & 0x7c00) == 0x7c00 ? ssm_float_of_bits(rest | 0x7f800000u) : ssm_float_of_bits(rest) * 0x1p112f;
    return ssm_float_of_bits(ssm_bits_of_float(f) | sign);
}

/* Above 65504 the result is infinity. */
static inline uint16_t ssm_to_f16(float f)
{
    uint32_t u = ssm_bits_of_float(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a >= 0x47800000u) /* 2^16 and more, infinities, NaN */
        return (uint16_t)(sign | (a > 0x7f800000u ? 0x7e00u : 0x7c00u));
    if (a < 0x38800000u) { /* below 2^-14: adding 2^-1 leaves the rounded subnormal in the low bits */
        float tiny = ssm_float_of_bits(a) + 0.5f;
        return (uint16_t)(sign | (ssm_bits_of_float(tiny) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a + 0xfffu + (a >> 13 & 1)) - 0x38000000u) >> 13);
}

/* The value of `f` after a round trip through `d`. */
static inline float ssm_rounded(enum ssm_dtype d, float f)
{
    return d == SSM_F32 ? f : d == SSM_BF16 ? ssm_from_bf16(ssm_to_bf16(f)) : ssm_from_f16(ssm_to_f16(f));
}

#endif
