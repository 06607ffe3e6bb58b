/* ops_avx512.h: what the AVX-512 tables (avx512, avx512bf16, amx) share: everything but the GEMM, and the panels that
 * packed weights lie in. */
#ifndef SSM_OPS_AVX512_H
#define SSM_OPS_AVX512_H

#include "ssm/ops.h"

void ssm_avx512_rmsnorm(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E,
                        float eps);
void ssm_avx512_conv(const struct ssm_conv *c, size_t d0, size_t d1);
void ssm_avx512_scan(const struct ssm_scan *s, size_t d0, size_t d1);

#endif
