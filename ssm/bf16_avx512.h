/* bf16_avx512.h: what the two tables with native bf16 arithmetic (avx512bf16, amx) share: rows of x rounded to bf16
 * pairs, nearest even, in the calling thread's scratch. Include from files built for AVX512-BF16. */
#ifndef SSM_BF16_AVX512_H
#define SSM_BF16_AVX512_H

#include "ssm/panels.h"
#include "ssm/simd.h"

enum { K_STEP = 32 }; /* k is padded to it with zeros, in weights and rows: what one tdpbf16ps takes */

/* pairs in a rounded row */
static inline size_t bf16_row_pairs(uint32_t k)
{
    return ((size_t)k + K_STEP - 1) / K_STEP * (K_STEP / 2);
}

static inline void bf16_round_rows(uint32_t *pairs, const float *x, size_t ldx, uint32_t M, uint32_t k)
{
    size_t row_pairs = bf16_row_pairs(k);
    for (uint32_t m = 0; m < M; m++, x += ldx, pairs += row_pairs) {
        for (size_t p = 0; p < row_pairs; p += SSM_LANES / 2) {
            size_t at = 2 * p, left = at < k ? k - at : 0;
            __mmask16 mask = left < SSM_LANES ? (__mmask16)((1u << left) - 1) : 0xffff;
            __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + at));
            _mm256_store_si256((__m256i *)(pairs + p), (__m256i)rounded);
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
    return M * bf16_row_pairs(k) * sizeof(uint32_t);
}

#endif
