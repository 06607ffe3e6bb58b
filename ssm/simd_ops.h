/* simd_ops.h: the operations beside the GEMM, from simd_rows.c and simd_scan.c, which are built once per vector
 * instruction family. See ops.h for what they compute. */
#ifndef SSM_SIMD_OPS_H
#define SSM_SIMD_OPS_H

#include "ssm/ops.h"

void ssm_avx2_rmsnorm(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E,
                      float eps);
void ssm_avx2_conv(const struct ssm_conv *c, size_t d0, size_t d1);
void ssm_avx2_scan(const struct ssm_scan *s, size_t d0, size_t d1);

void ssm_avx512_rmsnorm(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E,
                        float eps);
void ssm_avx512_conv(const struct ssm_conv *c, size_t d0, size_t d1);
void ssm_avx512_scan(const struct ssm_scan *s, size_t d0, size_t d1);

#endif
