/* panels.h: the packed layout of weights that the vector tables share. W [n][k] is cut into panels of `width` outputs
 * (the last one narrower, a multiple of SSM_LANES); a panel stores its outputs side by side, k in order:
 *
 *   fp32, fp16   [k][width] values
 *   bf16         [⌈k/2⌉][width] words, even k in the low half, odd k in the high half: a word shifted or masked is an
 *                fp32 weight, and the words are what vdpbf16ps and tdpbf16ps take
 *
 * All panels but the last are full, so panel p starts at p·width·(bytes of one output). Outputs and k beyond the matrix
 * are zeros. Pure functions. */
#ifndef SSM_PANELS_H
#define SSM_PANELS_H

#include "ssm/ops.h"

/* Bytes of one output, with k padded to a multiple of k_step (even, or 1). */
size_t ssm_panels_output_bytes(enum ssm_dtype dtype, uint32_t k, uint32_t k_step);
size_t ssm_panels_bytes(enum ssm_dtype dtype, uint32_t n, uint32_t k, uint32_t k_step);
void ssm_panels_pack(struct ssm_weight *w, const float *rows, uint32_t width, uint32_t k_step);

#endif
