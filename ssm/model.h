/* model.h: what stands behind struct ssm_model: the config and a descriptor per tensor. Immutable after open, any
 * thread. A tensor's bytes stay in the mapped file, or, in a random model, do not exist until they are read: backends
 * pull every tensor once, at open, through ssm_tensor_read(). */
#ifndef SSM_MODEL_H
#define SSM_MODEL_H

#include "ssm/model_config.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ssm_fill { SSM_FILL_NONE, SSM_FILL_CONST, SSM_FILL_UNIFORM, SSM_FILL_A_LOG, SSM_FILL_DT_BIAS };

/* [rows][cols]; vectors have rows = 1, depthwise convolutions [D][K]. An optional tensor that is absent has rows = 0.
 */
struct ssm_tensor {
    char name[64];
    uint32_t rows, cols;
    enum ssm_dtype dtype;
    const void *data; /* mapped, possibly unaligned; NULL: generated from the three below */
    enum ssm_fill fill;
    float scale; /* CONST: the value; UNIFORM: ± */
    uint64_t key;
};

struct ssm_layer_tensors {
    struct ssm_tensor norm, in_proj, in_bias, conv, conv_bias, x_proj, dt_proj, dt_bias, A_log, D, out_proj, out_bias;
};

struct ssm_checkpoint;

struct ssm_model {
    struct ssm_model_info info;
    struct ssm_config config;
    struct ssm_tensor embedding;         /* [vocab][E]; tokens */
    struct ssm_tensor input, input_bias; /* [E][F], [E]; samples */
    struct ssm_layer_tensors *layers;    /* [L] */
    struct ssm_tensor norm_f;            /* [E] */
    struct ssm_tensor head, head_bias;   /* [vocab][E], equal to embedding where tied; or [H·Q][E], [H·Q] */
    struct ssm_checkpoint *files;        /* NULL for random models */
    char name[64];
};

/* Declares every tensor of a config with its shape and checkpoint name, calling `bind` for each in file order. */
typedef int ssm_bind(void *ctx, struct ssm_tensor *t, bool optional, char *reterr);
int ssm_model_bind(struct ssm_model *m, ssm_bind *bind, void *ctx, char *reterr);

/* Fills m->info from m->config and the bound tensors; 0 or -ENOMEM before binding allocates the layers. */
int ssm_model_new(const struct ssm_config *config, const char *name, struct ssm_model **ret);
void ssm_model_describe(struct ssm_model *m, uint64_t file_bytes);

/* Random weights for any config. */
int ssm_model_random_of(const struct ssm_config *config, const char *name, uint64_t seed, struct ssm_model **ret,
                        char *reterr);

/* Rows [row, row + n) as fp32. -EBADMSG and the tensor's name where a value is not finite. */
int ssm_tensor_read(const struct ssm_tensor *t, uint32_t row, uint32_t n, float *dst, char *reterr);

#ifdef __cplusplus
}
#endif
#endif
