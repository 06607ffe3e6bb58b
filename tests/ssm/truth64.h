/* truth64.h: the layer stack of one small language model in fp64, a step at a time, to carry beside an engine for as
 * long as it takes. The equations are those of ssm/layer.c; nothing is shared with it but the model's tensors. */
#ifndef TEST_SSM_TRUTH64_H
#define TEST_SSM_TRUTH64_H

#include <stdint.h>

#include "ssm/ssm.h"

/* The one size that it knows, so that its loops are of fixed lengths. */
#define TRUTH64_MODEL "16x2,16,16"
enum { T64_E = 16, T64_L = 2, T64_D = 32, T64_N = 16, T64_K = 4, T64_V = 16 };

struct truth64_layer {
    double norm[T64_E], in[T64_E][2 * T64_D], conv[T64_K][T64_D], conv_bias[T64_D];
    double select[T64_D][1 + 2 * T64_N]; /* x_proj: Δ's rank, which is 1 here, B, C */
    double dt[T64_D], dt_bias[T64_D], A[T64_N][T64_D], skip[T64_D], out[T64_D][T64_E];
    double window[T64_K - 1][T64_D], h[T64_N][T64_D]; /* the state */
};

struct truth64 {
    double embedding[T64_V][T64_E];
    struct truth64_layer layer[T64_L];
};

void truth64_init(struct truth64 *t, const struct ssm_model *m);
void truth64_step(struct truth64 *t, int32_t token);

#endif
