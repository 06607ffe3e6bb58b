/* model_config.h: config.json of a model folder, in any of three dialects, as one flat struct. Pure functions, any
 * thread.
 *
 * The dialects: Hugging Face's MambaConfig (model_type "mamba"), the original state-spaces config (d_model, n_layer, no
 * model_type) and this project's signal models (model_type "mambad", docs/signal-model.md). */
#ifndef SSM_MODEL_CONFIG_H
#define SSM_MODEL_CONFIG_H

#include "ssm/calibrate.h"
#include "ssm/front.h"

enum ssm_bias { SSM_BIAS_BY_FILE, SSM_BIAS_NO, SSM_BIAS_YES }; /* BY_FILE: the config leaves it open */

struct ssm_config {
    enum ssm_input input;
    uint32_t E, L, D, N, K, R;
    float eps; /* of every RMSNorm */
    enum ssm_bias bias, conv_bias;

    uint32_t vocab; /* tokens: rows of the embedding, padding included */
    bool tied;

    struct ssm_front front; /* samples, from here on */
    double rate;
    uint32_t horizon, n_quantiles;
    float quantiles[SSM_QUANTILES_MAX];
    bool embedding, anomaly;
    struct ssm_calibration calibration;
};

/* Of tokens that are bytes. */
static inline bool ssm_reads_bytes(const struct ssm_config *c)
{
    return c->input == SSM_TOKENS && c->vocab == 256;
}

/* -ENOENT, or -EINVAL with file, key and reason. */
int ssm_config_read(const char *path, struct ssm_config *ret, char *reterr);

#endif
