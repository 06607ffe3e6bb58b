/* model_config.c: config.json to struct ssm_config. Runs at open, any thread. What would change the arithmetic and is
 * not known here is refused by name: a model that runs but computes something else is worse than one that does not
 * open. */
#include "ssm/model_config.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "ssm/fail.h"

enum { REQUIRED = 0 }; /* as a default: the key must be there */
enum {
    E_MAX = 1 << 15,
    L_MAX = 1 << 10,
    N_MAX = 1 << 10,
    VOCAB_MAX = 1 << 24,
    PATCH_MAX = 1 << 12,
    HEAD_MAX = 1 << 20
};

struct reader {
    const char *path;
    char *reterr;
};

/* "config.json: backbone.d_model …": `where` is "" or "backbone.". */
static int get_u32(const struct reader *r, const json_t *map, const char *where, const char *key, uint32_t min,
                   uint32_t max, uint32_t otherwise, uint32_t *ret)
{
    const json_t *value = json_object_get(map, key);
    *ret = otherwise;
    if (!value && otherwise != REQUIRED)
        return 0;
    if (!value)
        return ssm_fail(r->reterr, -EINVAL, "%s: %s%s is missing", r->path, where, key);
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return ssm_fail(r->reterr, -EINVAL, "%s: %s%s must be an integer from %u to %u", r->path, where, key, min, max);
    *ret = (uint32_t)json_integer_value(value);
    return 0;
}

static int get_double(const struct reader *r, const json_t *map, const char *where, const char *key, double min,
                      double max, double otherwise, double *ret)
{
    const json_t *value = json_object_get(map, key);
    *ret = otherwise;
    if (!value && !isnan(otherwise))
        return 0;
    if (!value)
        return ssm_fail(r->reterr, -EINVAL, "%s: %s%s is missing", r->path, where, key);
    if (!json_is_number(value) || !(json_number_value(value) >= min && json_number_value(value) <= max))
        return ssm_fail(r->reterr, -EINVAL, "%s: %s%s must be a number from %g to %g", r->path, where, key, min, max);
    *ret = json_number_value(value);
    return 0;
}

/* `otherwise` where the key is absent or null. */
static int get_bool(const struct reader *r, const json_t *map, const char *where, const char *key, int otherwise,
                    int *ret)
{
    const json_t *value = json_object_get(map, key);
    *ret = value && !json_is_null(value) ? json_is_true(value) : otherwise;
    if (value && !json_is_boolean(value) && !json_is_null(value))
        return ssm_fail(r->reterr, -EINVAL, "%s: %s%s must be true or false", r->path, where, key);
    return 0;
}

/* The key must be absent or `want`; anything else is named. */
static int expect_word(const struct reader *r, const json_t *map, const char *where, const char *key, const char *want)
{
    const json_t *value = json_object_get(map, key);
    const char *word = json_string_value(value);
    if (!value || json_is_null(value) || (word && !strcmp(word, want)))
        return 0;
    return ssm_fail(r->reterr, -EINVAL, "%s: %s%s '%s' is not supported (this version has '%s')", r->path, where, key,
                    word ? word : "?", want);
}

static int only_known(const struct reader *r, const json_t *map, const char *where, const char *const *known)
{
    const char *key;
    json_t *value;
    if (!json_is_object(map))
        return ssm_fail(r->reterr, -EINVAL, "%s: %.*s must be a map", r->path, (int)strlen(where) - 1, where);
    json_object_foreach((json_t *)map, key, value)
    {
        unsigned i = 0;
        while (known[i] && strcmp(known[i], key))
            i++;
        if (!known[i])
            return ssm_fail(r->reterr, -EINVAL, "%s: %s%s is not supported by this version", r->path, where, key);
    }
    return 0;
}

/* d_inner = expand·d_model; expand may be a fraction (1.5) as long as the product is whole. */
static int get_inner(const struct reader *r, const json_t *map, const char *where, struct ssm_config *c)
{
    double expand;
    int err = get_double(r, map, where, "expand", 1.0 / 64, 64, 2.0, &expand);
    double inner = expand * c->E;
    if (err)
        return err;
    if (inner != floor(inner) || inner < 1 || inner > 4.0 * E_MAX)
        return ssm_fail(r->reterr, -EINVAL, "%s: %sexpand: %g times d_model %u is no usable width", r->path, where,
                        expand, c->E);
    c->D = (uint32_t)inner;
    return 0;
}

static int get_rank(const struct reader *r, const json_t *map, const char *where, const char *key, struct ssm_config *c)
{
    const char *word = json_string_value(json_object_get(map, key));
    c->R = (c->E + 15) / 16;
    return word && !strcmp(word, "auto") ? 0 : get_u32(r, map, where, key, 1, E_MAX, c->R, &c->R);
}

static enum ssm_bias bias_of(int value)
{
    return value < 0 ? SSM_BIAS_BY_FILE : value ? SSM_BIAS_YES : SSM_BIAS_NO;
}

/* ---- Hugging Face's MambaConfig -------------------------------------------------------------------------- */

static int read_hf(const struct reader *r, const json_t *root, struct ssm_config *c)
{
    int err, bias, conv_bias, tied;
    uint32_t inner;
    double eps;
    if ((err = get_u32(r, root, "", "hidden_size", 1, E_MAX, REQUIRED, &c->E)) ||
        (err = get_u32(r, root, "", "num_hidden_layers", 1, L_MAX, REQUIRED, &c->L)) ||
        (err = get_u32(r, root, "", "state_size", 1, N_MAX, 16, &c->N)) ||
        (err = get_u32(r, root, "", "conv_kernel", 2, 4, 4, &c->K)) ||
        (err = get_u32(r, root, "", "vocab_size", 1, VOCAB_MAX, REQUIRED, &c->vocab)) ||
        (err = get_inner(r, root, "", c)) || (err = get_rank(r, root, "", "time_step_rank", c)) ||
        (err = get_u32(r, root, "", "intermediate_size", 1, 4 * E_MAX, c->D, &inner)) ||
        (err = get_double(r, root, "", "layer_norm_epsilon", 0, 1, 1e-5, &eps)) ||
        (err = get_bool(r, root, "", "use_bias", -1, &bias)) ||
        (err = get_bool(r, root, "", "use_conv_bias", -1, &conv_bias)) ||
        (err = get_bool(r, root, "", "tie_word_embeddings", 1, &tied)) ||
        (err = expect_word(r, root, "", "hidden_act", "silu")))
        return err;
    c->D = inner;
    c->eps = (float)eps;
    c->bias = bias_of(bias);
    c->conv_bias = bias_of(conv_bias);
    c->tied = tied;
    return 0;
}

/* ---- the original config --------------------------------------------------------------------------------- */

/* What the original code base can build and this one does not. */
static int refuse_variants(const struct reader *r, const json_t *root, const json_t *ssm)
{
    int err, rms;
    uint32_t mlp;
    if ((err = expect_word(r, ssm, "ssm_cfg.", "layer", "Mamba1")) ||
        (err = get_bool(r, root, "", "rms_norm", 1, &rms)) ||
        (err = get_u32(r, root, "", "d_intermediate", 0, E_MAX, E_MAX, &mlp)))
        return err;
    if (!rms)
        return ssm_fail(r->reterr, -EINVAL, "%s: rms_norm: false (LayerNorm) is not supported", r->path);
    if (json_object_get(root, "d_intermediate") && mlp)
        return ssm_fail(r->reterr, -EINVAL, "%s: d_intermediate: MLP blocks are not supported", r->path);
    if (json_array_size(json_object_get(root, "attn_layer_idx")))
        return ssm_fail(r->reterr, -EINVAL, "%s: attn_layer_idx: attention layers are not supported", r->path);
    return 0;
}

static int read_original(const struct reader *r, const json_t *root, struct ssm_config *c)
{
    int err, bias, conv_bias, tied;
    uint32_t multiple;
    double eps;
    const json_t *ssm = json_object_get(root, "ssm_cfg");
    if ((err = refuse_variants(r, root, ssm)) || (err = get_u32(r, root, "", "d_model", 1, E_MAX, REQUIRED, &c->E)) ||
        (err = get_u32(r, root, "", "n_layer", 1, L_MAX, REQUIRED, &c->L)) ||
        (err = get_u32(r, ssm, "ssm_cfg.", "d_state", 1, N_MAX, 16, &c->N)) ||
        (err = get_u32(r, ssm, "ssm_cfg.", "d_conv", 2, 4, 4, &c->K)) ||
        (err = get_u32(r, root, "", "vocab_size", 1, VOCAB_MAX, REQUIRED, &c->vocab)) ||
        (err = get_u32(r, root, "", "pad_vocab_size_multiple", 1, 1 << 16, 8, &multiple)) ||
        (err = get_inner(r, ssm, "ssm_cfg.", c)) || (err = get_rank(r, ssm, "ssm_cfg.", "dt_rank", c)) ||
        (err = get_double(r, root, "", "norm_epsilon", 0, 1, 1e-5, &eps)) ||
        (err = get_bool(r, ssm, "ssm_cfg.", "bias", -1, &bias)) ||
        (err = get_bool(r, ssm, "ssm_cfg.", "conv_bias", -1, &conv_bias)) ||
        (err = get_bool(r, root, "", "tie_embeddings", 1, &tied)))
        return err;
    c->vocab = (c->vocab + multiple - 1) / multiple * multiple;
    c->eps = (float)eps;
    c->bias = bias_of(bias);
    c->conv_bias = bias_of(conv_bias);
    c->tied = tied;
    return 0;
}

/* ---- signal models --------------------------------------------------------------------------------------- */

static int read_normaliser(const struct reader *r, const json_t *input, struct ssm_config *c)
{
    static const char *const keys[] = {"memory", "diff_memory", NULL};
    static const char where[] = "input.normaliser.";
    const json_t *map = json_object_get(input, "normaliser");
    int err;
    if (!map)
        return ssm_fail(r->reterr, -EINVAL, "%s: input.normaliser is missing", r->path);
    if ((err = only_known(r, map, where, keys)) ||
        (err = get_double(r, map, where, "memory", 1, 1e12, NAN, &c->front.memory)) ||
        (err = get_double(r, map, where, "diff_memory", 1, 1e12, NAN, &c->front.diff_memory)))
        return err;
    return 0;
}

static int read_input(const struct reader *r, const json_t *input, struct ssm_config *c)
{
    static const char *const keys[] = {"kind", "patch", "mask", "rate", "normaliser", NULL};
    int err, mask;
    if (!json_object_get(input, "kind"))
        return ssm_fail(r->reterr, -EINVAL, "%s: input.kind is missing", r->path);
    if ((err = expect_word(r, input, "input.", "kind", "samples")) || (err = only_known(r, input, "input.", keys)) ||
        (err = read_normaliser(r, input, c)) ||
        (err = get_u32(r, input, "input.", "patch", 1, PATCH_MAX, REQUIRED, &c->front.patch)) ||
        (err = get_bool(r, input, "input.", "mask", 0, &mask)) ||
        (err = get_double(r, input, "input.", "rate", 0, 1e12, 0, &c->rate)))
        return err;
    c->front.mask = mask;
    c->front.features = (mask ? 3 : 2) * c->front.patch + 2;
    return 0;
}

static int read_backbone(const struct reader *r, const json_t *backbone, struct ssm_config *c)
{
    static const char *const keys[] = {"arch",   "d_model", "n_layer",  "d_state", "d_conv",
                                       "expand", "dt_rank", "norm_eps", NULL};
    int err;
    double eps;
    if (!json_object_get(backbone, "arch"))
        return ssm_fail(r->reterr, -EINVAL, "%s: backbone.arch is missing", r->path);
    if ((err = expect_word(r, backbone, "backbone.", "arch", "mamba")) ||
        (err = only_known(r, backbone, "backbone.", keys)) ||
        (err = get_u32(r, backbone, "backbone.", "d_model", 1, E_MAX, REQUIRED, &c->E)) ||
        (err = get_u32(r, backbone, "backbone.", "n_layer", 1, L_MAX, REQUIRED, &c->L)) ||
        (err = get_u32(r, backbone, "backbone.", "d_state", 1, N_MAX, 16, &c->N)) ||
        (err = get_u32(r, backbone, "backbone.", "d_conv", 2, 4, 4, &c->K)) ||
        (err = get_inner(r, backbone, "backbone.", c)) || (err = get_rank(r, backbone, "backbone.", "dt_rank", c)) ||
        (err = get_double(r, backbone, "backbone.", "norm_eps", 0, 1, 1e-5, &eps)))
        return err;
    c->eps = (float)eps;
    c->bias = c->conv_bias = SSM_BIAS_BY_FILE;
    return 0;
}

static int read_quantiles(const struct reader *r, const json_t *list, struct ssm_config *c)
{
    size_t n = json_array_size(list);
    double previous = 0.0;
    if (n < 2 || n > SSM_QUANTILES_MAX)
        return ssm_fail(r->reterr, -EINVAL, "%s: heads.forecast.quantiles must be a list of 2 to %d levels", r->path,
                        SSM_QUANTILES_MAX);
    for (size_t i = 0; i < n; i++) {
        double level = json_number_value(json_array_get(list, i));
        c->quantiles[i] = (float)level;
        if (!(level > previous && level < 1.0) || (i && !(c->quantiles[i] > c->quantiles[i - 1])))
            return ssm_fail(r->reterr, -EINVAL, "%s: heads.forecast.quantiles must rise between 0 and 1", r->path);
        previous = level;
    }
    c->n_quantiles = (uint32_t)n;
    return 0;
}

static int read_heads(const struct reader *r, const json_t *heads, struct ssm_config *c)
{
    static const char *const keys[] = {"forecast", "embedding", "anomaly", NULL};
    static const char *const forecast_keys[] = {"horizon", "quantiles", NULL};
    static const char *const none[] = {NULL};
    const json_t *forecast = json_object_get(heads, "forecast"), *embedding = json_object_get(heads, "embedding");
    const json_t *anomaly = json_object_get(heads, "anomaly");
    int err = only_known(r, heads, "heads.", keys);
    c->embedding = embedding != NULL;
    c->anomaly = anomaly != NULL;
    if (!err && embedding)
        err = only_known(r, embedding, "heads.embedding.", none);
    if (!err && anomaly)
        err = only_known(r, anomaly, "heads.anomaly.", none);
    if (!err && forecast &&
        ((err = only_known(r, forecast, "heads.forecast.", forecast_keys)) ||
         (err = get_u32(r, forecast, "heads.forecast.", "horizon", 1, HEAD_MAX, REQUIRED, &c->horizon))))
        return err;
    if (!err && forecast)
        err = read_quantiles(r, json_object_get(forecast, "quantiles"), c);
    if (!err && (uint64_t)c->horizon * c->n_quantiles > HEAD_MAX)
        err = ssm_fail(r->reterr, -EINVAL, "%s: heads.forecast: horizon times quantiles exceeds %d", r->path, HEAD_MAX);
    if (!err && anomaly && !forecast)
        err = ssm_fail(r->reterr, -EINVAL, "%s: heads.anomaly needs heads.forecast", r->path);
    if (!err && !forecast && !embedding)
        err = ssm_fail(r->reterr, -EINVAL, "%s: heads: none that gives an output", r->path);
    return err;
}

static int read_signal(const struct reader *r, const json_t *root, struct ssm_config *c)
{
    static const char *const keys[] = {"model_type", "version",     "input", "backbone",
                                       "heads",      "calibration", "card",  NULL};
    static const char *const calibration_keys[] = {"warmup", "memory", NULL};
    const json_t *calibration = json_object_get(root, "calibration");
    uint32_t version;
    int err;
    c->input = SSM_SAMPLES;
    if ((err = get_u32(r, root, "", "version", 0, UINT32_MAX, REQUIRED, &version)))
        return err;
    if (version != 1)
        return ssm_fail(r->reterr, -EINVAL, "%s: version %u is not supported (this version reads 1)", r->path, version);
    if ((err = only_known(r, root, "", keys)) || (err = read_input(r, json_object_get(root, "input"), c)) ||
        (err = read_backbone(r, json_object_get(root, "backbone"), c)) ||
        (err = read_heads(r, json_object_get(root, "heads"), c)))
        return err;
    if (!c->anomaly && !calibration)
        return 0;
    if ((err = only_known(r, calibration, "calibration.", calibration_keys)) ||
        (err = get_u32(r, calibration, "calibration.", "warmup", 1, 1 << 30, REQUIRED, &c->calibration.warmup)) ||
        (err = get_double(r, calibration, "calibration.", "memory", 1, 1e12, NAN, &c->calibration.memory)))
        return err;
    return 0;
}

static int read_root(const struct reader *r, const json_t *root, struct ssm_config *c)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (!json_is_object(root))
        return ssm_fail(r->reterr, -EINVAL, "%s: not a JSON object", r->path);
    if (type && !strcmp(type, "mambad"))
        return read_signal(r, root, c);
    if (type && !strcmp(type, "mamba"))
        return read_hf(r, root, c);
    if (type)
        return ssm_fail(r->reterr, -EINVAL, "%s: model_type '%s' is not supported (mamba, mambad)", r->path, type);
    if (json_object_get(root, "d_model"))
        return read_original(r, root, c);
    return ssm_fail(r->reterr, -EINVAL, "%s: model_type is missing", r->path);
}

int ssm_config_read(const char *path, struct ssm_config *ret, char *reterr)
{
    struct reader r = {path, reterr};
    struct ssm_config c = {.tied = true};
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!root && json_error_code(&why) == json_error_cannot_open_file)
        return ssm_fail(reterr, -errno, "%s: %s", path, strerror(errno));
    if (!root)
        return ssm_fail(reterr, -EINVAL, "%s:%d:%d: %s", path, why.line, why.column, why.text);
    int err = read_root(&r, root, &c);
    json_decref(root);
    if (!err)
        *ret = c;
    return err;
}
