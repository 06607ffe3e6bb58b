/* weights.h: a model's weights packed for one op table and one dtype, in one block of memory. Made once, when a CPU
 * engine opens; read-only afterwards, shared by its workers. */
#ifndef SSM_WEIGHTS_H
#define SSM_WEIGHTS_H

#include "ssm/model.h"
#include "ssm/ops.h"

/* The letters of ops.h as this model has them; p: padded to SSM_LANES. */
struct ssm_dims {
    uint32_t E, D, N, K, R, L, F;
    size_t Ep, Dp, Np, Rp, Fp;
    size_t unit;      /* channels are shared out in multiples of this: of SSM_LANES and of the GEMM's n_step */
    size_t z_at;      /* in_proj's outputs: x at 0, z at z_at, a multiple of unit */
    uint32_t outputs; /* of the head: vocab or horizon·quantiles; 0: none */
    size_t Op;
    float eps;
};

struct ssm_layer_weights {
    const float *norm;          /* [Ep] */
    struct ssm_weight in_proj;  /* [z_at + D][E] */
    const float *conv;          /* [K][Dp] */
    const float *conv_bias;     /* [Dp] */
    struct ssm_weight x_proj;   /* [Rp + Np + N][D]: Δ's rank at 0, B at Rp, C at Rp + Np */
    struct ssm_weight dt_proj;  /* [D][R] */
    const float *A;             /* [N][Dp], −exp(A_log) */
    const float *skip;          /* [Dp], the paper's D */
    struct ssm_weight out_proj; /* [E][D] */
};

struct ssm_weights {
    const struct ssm_ops *ops;
    enum ssm_dtype dtype;
    struct ssm_dims dims;
    const void *embedding;   /* [vocab][E] in `dtype`; tokens */
    struct ssm_weight input; /* [E][F]; samples */
    struct ssm_layer_weights *layers;
    const float *norm_f;
    struct ssm_weight head; /* [outputs][E] */
    uint8_t *block;
    size_t bytes;
};

int ssm_weights_pack(const struct ssm_model *model, const struct ssm_ops *ops, enum ssm_dtype dtype,
                     struct ssm_weights *ret, char *reterr);
void ssm_weights_done(struct ssm_weights *w);

/* Row `token` of the embedding as fp32. */
void ssm_weights_embed(const struct ssm_weights *w, int32_t token, float *dst);

#endif
