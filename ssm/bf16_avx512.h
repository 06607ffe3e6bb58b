/* bf16_avx512.h: what the two tables with native bf16 arithmetic (avx512bf16, amx) share: rows of x as pairs of bf16
 * in the calling thread's scratch, each value as a sum high + low of two, which holds 16 of fp32's 24 bits. Rounding to
 * one bf16 costs up to 1.4e-2 in the logits of some models; the sum costs nothing that can be measured, and the second
 * product reads no weights. Include from files built for AVX512-BF16. */
#ifndef SSM_BF16_AVX512_H
#define SSM_BF16_AVX512_H

#include "ssm/panels.h"
#include "ssm/simd.h"

enum { K_STEP = 32 }; /* k is padded to it with zeros, in weights and rows: what one tdpbf16ps takes */

/* pairs in the high part of a row, and in the low part, which follows it */
static inline size_t bf16_row_pairs(uint32_t k)
{
    return ((size_t)k + K_STEP - 1) / K_STEP * (K_STEP / 2);
}

static inline void bf16_split_rows(uint32_t *pairs, const float *x, size_t ldx, uint32_t M, uint32_t k)
{
    size_t row_pairs = bf16_row_pairs(k);
    for (uint32_t m = 0; m < M; m++, x += ldx, pairs += 2 * row_pairs) {
        for (size_t p = 0; p < row_pairs; p += SSM_LANES / 2) {
            size_t at = 2 * p, left = at < k ? k - at : 0;
            __mmask16 mask = left < SSM_LANES ? (__mmask16)((1u << left) - 1) : 0xffff;
            __m512 v = _mm512_maskz_loadu_ps(mask, x + at);
            __m256i high = (__m256i)_mm512_cvtneps_pbh(v);
            __m512 held = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
            __m256i low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(v, held));
            _mm256_store_si256((__m256i *)(pairs + p), high);
            _mm256_store_si256((__m256i *)(pairs + row_pairs + p), low);
        }
    }
}

static inline bool bf16_takes(enum ssm_dtype dtype)
{
    return dtype == SSM_BF16;
}

static inline size_t bf16_packed_bytes(enum ssm_dtype dtype, uint32_t n, uint32_t k)
{
    return ssm_panels_bytes(dtype, n, k, K_STEP);
}

static inline size_t bf16_scratch_bytes(uint32_t M, uint32_t k)
{
    return 2 * M * bf16_row_pairs(k) * sizeof(uint32_t);
}

#endif
