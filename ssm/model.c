/* model.c: opens a model folder and binds every tensor that its config calls for. Any thread; the model owns the mapped
 * files and its tensor descriptors, and is immutable afterwards. Trap: whether biases exist is known from the config,
 * the file or both, and the two are known to disagree in the wild (ssm_bias). */
#include "ssm/model.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/bytes.h"
#include "ssm/checkpoint.h"
#include "ssm/checksum.h"
#include "ssm/dtype.h"
#include "ssm/fail.h"

static struct ssm_tensor shaped(uint32_t rows, uint32_t cols, const char *name)
{
    struct ssm_tensor t = {.rows = rows, .cols = cols};
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static struct ssm_tensor of_layer(uint32_t rows, uint32_t cols, uint32_t layer, const char *suffix)
{
    struct ssm_tensor t = {.rows = rows, .cols = cols};
    snprintf(t.name, sizeof t.name, "backbone.layers.%u.%s", layer, suffix);
    return t;
}

/* An optional tensor that the config rules out is not asked for. */
static int bind_bias(enum ssm_bias want, ssm_bind *bind, void *ctx, struct ssm_tensor *t, char *reterr)
{
    return bind(ctx, t, want != SSM_BIAS_YES, reterr);
}

static int bind_layer(struct ssm_model *m, uint32_t i, ssm_bind *bind, void *ctx, char *reterr)
{
    const struct ssm_config *c = &m->config;
    struct ssm_layer_tensors *l = &m->layers[i];
    int err;
    l->norm = of_layer(1, c->E, i, "norm.weight");
    l->in_proj = of_layer(2 * c->D, c->E, i, "mixer.in_proj.weight");
    l->in_bias = of_layer(1, 2 * c->D, i, "mixer.in_proj.bias");
    l->conv = of_layer(c->D, c->K, i, "mixer.conv1d.weight");
    l->conv_bias = of_layer(1, c->D, i, "mixer.conv1d.bias");
    l->x_proj = of_layer(c->R + 2 * c->N, c->D, i, "mixer.x_proj.weight");
    l->dt_proj = of_layer(c->D, c->R, i, "mixer.dt_proj.weight");
    l->dt_bias = of_layer(1, c->D, i, "mixer.dt_proj.bias");
    l->A_log = of_layer(c->D, c->N, i, "mixer.A_log");
    l->D = of_layer(1, c->D, i, "mixer.D");
    l->out_proj = of_layer(c->E, c->D, i, "mixer.out_proj.weight");
    l->out_bias = of_layer(1, c->E, i, "mixer.out_proj.bias");

    struct ssm_tensor *needed[] = {&l->norm,    &l->in_proj, &l->conv, &l->x_proj,  &l->dt_proj,
                                   &l->dt_bias, &l->A_log,   &l->D,    &l->out_proj};
    for (size_t k = 0; k < sizeof needed / sizeof *needed; k++)
        if ((err = bind(ctx, needed[k], false, reterr)))
            return err;
    if ((err = bind_bias(c->bias, bind, ctx, &l->in_bias, reterr)) ||
        (err = bind_bias(c->bias, bind, ctx, &l->out_bias, reterr)) ||
        (err = bind_bias(c->conv_bias, bind, ctx, &l->conv_bias, reterr)))
        return err;
    return 0;
}

static int bind_tokens(struct ssm_model *m, ssm_bind *bind, void *ctx, char *reterr)
{
    const struct ssm_config *c = &m->config;
    m->embedding = shaped(c->vocab, c->E, "backbone.embeddings.weight");
    int err = bind(ctx, &m->embedding, false, reterr);
    m->head = m->embedding;
    if (err || c->tied)
        return err;
    m->head = shaped(c->vocab, c->E, "lm_head.weight");
    return bind(ctx, &m->head, false, reterr);
}

static int bind_samples(struct ssm_model *m, ssm_bind *bind, void *ctx, char *reterr)
{
    const struct ssm_config *c = &m->config;
    uint32_t outputs = c->horizon * c->n_quantiles;
    int err;
    m->input = shaped(c->E, c->front.features, "input.weight");
    m->input_bias = shaped(1, c->E, "input.bias");
    if ((err = bind(ctx, &m->input, false, reterr)) || (err = bind(ctx, &m->input_bias, false, reterr)) || !outputs)
        return err;
    m->head = shaped(outputs, c->E, "heads.forecast.weight");
    m->head_bias = shaped(1, outputs, "heads.forecast.bias");
    if ((err = bind(ctx, &m->head, false, reterr)) || (err = bind(ctx, &m->head_bias, false, reterr)))
        return err;
    return 0;
}

int ssm_model_bind(struct ssm_model *m, ssm_bind *bind, void *ctx, char *reterr)
{
    int err = m->config.input == SSM_TOKENS ? bind_tokens(m, bind, ctx, reterr) : bind_samples(m, bind, ctx, reterr);
    for (uint32_t i = 0; !err && i < m->config.L; i++)
        err = bind_layer(m, i, bind, ctx, reterr);
    if (err)
        return err;
    m->norm_f = shaped(1, m->config.E, "backbone.norm_f.weight");
    return bind(ctx, &m->norm_f, false, reterr);
}

int ssm_model_new(const struct ssm_config *config, const char *name, struct ssm_model **ret)
{
    struct ssm_model *m = calloc(1, sizeof *m);
    if (!m || !(m->layers = calloc(config->L, sizeof *m->layers))) {
        free(m);
        return -ENOMEM;
    }
    m->config = *config;
    snprintf(m->name, sizeof m->name, "%s", name);
    *ret = m;
    return 0;
}

/* Absent tensors have no rows. */
static uint64_t count_params(const struct ssm_model *m)
{
    const struct ssm_tensor *ends[] = {
        &m->embedding, &m->input,     &m->input_bias,
        &m->norm_f,    &m->head_bias, m->config.input == SSM_TOKENS && m->config.tied ? NULL : &m->head};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        sum += ends[i] ? (uint64_t)ends[i]->rows * ends[i]->cols : 0;
    for (uint32_t l = 0; l < m->config.L; l++) {
        const struct ssm_tensor *t = (const struct ssm_tensor *)&m->layers[l];
        for (size_t i = 0; i < sizeof m->layers[l] / sizeof *t; i++)
            sum += (uint64_t)t[i].rows * t[i].cols;
    }
    return sum;
}

void ssm_model_describe(struct ssm_model *m, uint64_t file_bytes)
{
    const struct ssm_config *c = &m->config;
    bool samples = c->input == SSM_SAMPLES;
    m->info = (struct ssm_model_info){
        .name = m->name,
        .type = samples ? "mambad" : "mamba",
        .input = c->input,
        .stored = m->layers[0].in_proj.dtype,
        .d_model = c->E,
        .n_layer = c->L,
        .d_inner = c->D,
        .d_state = c->N,
        .d_conv = c->K,
        .dt_rank = c->R,
        .vocab = c->vocab,
        .patch = samples ? c->front.patch : 1,
        .mask = c->front.mask,
        .rate = c->rate,
        .horizon = c->horizon,
        .n_quantiles = c->n_quantiles,
        .embedding = c->embedding ? c->E : 0,
        .anomaly = c->anomaly,
        .bytes = ssm_reads_bytes(c),
        .warmup = ssm_reads_bytes(c) ? SSM_RECORDS_WARM : c->calibration.warmup,
        .n_params = count_params(m),
        .file_bytes = file_bytes,
    };
    memcpy(m->info.quantiles, c->quantiles, sizeof c->quantiles);
}

/* ---- from files ------------------------------------------------------------------------------------------ */

static int dtype_of(const char *name, enum ssm_dtype *ret)
{
    *ret = !strcmp(name, "F32") ? SSM_F32 : !strcmp(name, "BF16") ? SSM_BF16 : SSM_F16;
    return *ret == SSM_F16 && strcmp(name, "F16") ? -EBADMSG : 0;
}

/* Vectors are [cols]; a depthwise convolution is [D][1][K] in the file. */
static bool shape_fits(const struct ssm_st_tensor *file, const struct ssm_tensor *t)
{
    const uint64_t *s = file->shape;
    if (t->rows == 1 && file->n_dims == 1)
        return s[0] == t->cols;
    if (file->n_dims == 3)
        return strstr(t->name, ".conv1d.weight") && s[0] == t->rows && s[1] == 1 && s[2] == t->cols;
    return file->n_dims == 2 && s[0] == t->rows && s[1] == t->cols;
}

static void shape_text(const struct ssm_st_tensor *file, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < file->n_dims && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)file->shape[i]);
}

/* The original code base says "embedding" where Hugging Face says "embeddings". */
static const struct ssm_st_tensor *find_named(const struct ssm_checkpoint *files, const char *name)
{
    const struct ssm_st_tensor *file = ssm_checkpoint_find(files, name);
    if (!file && !strcmp(name, "backbone.embeddings.weight"))
        file = ssm_checkpoint_find(files, "backbone.embedding.weight");
    return file;
}

static int bind_file(void *ctx, struct ssm_tensor *t, bool optional, char *reterr)
{
    const struct ssm_model *m = ctx;
    const struct ssm_st_tensor *file = find_named(m->files, t->name);
    char shape[128];
    if (!file && optional) {
        t->rows = 0;
        return 0;
    }
    if (!file)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' is missing", m->name, t->name);
    shape_text(file, shape, sizeof shape);
    if (!shape_fits(file, t))
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' has shape [%s]; the config makes it [%u, %u]", m->name,
                        t->name, shape, t->rows, t->cols);
    if (dtype_of(file->dtype, &t->dtype))
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' has dtype %s; F32, BF16 or F16 is needed", m->name, t->name,
                        file->dtype);
    t->data = file->data;
    return 0;
}

static int check_bias(const struct ssm_model *m, enum ssm_bias want, const struct ssm_tensor *t,
                      const struct ssm_tensor *first, char *reterr)
{
    if (t->rows && want == SSM_BIAS_NO)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' is there, but the config says there is no such bias",
                        m->name, t->name);
    if (!t->rows != !first->rows)
        return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s': some layers have this bias and some do not", m->name,
                        t->name);
    return 0;
}

static int check_biases(const struct ssm_model *m, char *reterr)
{
    const struct ssm_config *c = &m->config;
    const struct ssm_layer_tensors *first = &m->layers[0];
    for (uint32_t i = 0; i < c->L; i++) {
        const struct ssm_layer_tensors *l = &m->layers[i];
        int err;
        if ((err = check_bias(m, c->bias, &l->in_bias, &first->in_bias, reterr)) ||
            (err = check_bias(m, c->bias, &l->out_bias, &first->in_bias, reterr)) ||
            (err = check_bias(m, c->conv_bias, &l->conv_bias, &first->conv_bias, reterr)))
            return err;
    }
    return 0;
}

/* The last component of the path, trailing slashes aside. */
static void name_of(const char *dir, char *name, size_t size)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && dir[begin - 1] != '/')
        begin--;
    snprintf(name, size, "%.*s", (int)(end - begin), dir + begin);
}

int ssm_model_open(const char *dir, struct ssm_model **ret, char *reterr)
{
    struct ssm_model *m = NULL;
    struct ssm_config config;
    char path[PATH_MAX], name[64];
    name_of(dir, name, sizeof name);
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return ssm_fail(reterr, -ENAMETOOLONG, "%.64s…: path too long", dir);
    int err = ssm_config_read(path, &config, reterr);
    if (err)
        return err;
    if ((err = ssm_model_new(&config, name, &m)))
        return ssm_fail(reterr, err, "%s: out of memory", dir);
    if ((err = ssm_checkpoint_open(dir, &m->files, reterr)) || (err = ssm_model_bind(m, bind_file, m, reterr)) ||
        (err = check_biases(m, reterr))) {
        ssm_model_close(&m);
        return err;
    }
    ssm_model_describe(m, ssm_checkpoint_bytes(m->files));
    *ret = m;
    return 0;
}

void ssm_model_close(struct ssm_model **model)
{
    struct ssm_model *m = *model;
    if (!m)
        return;
    ssm_checkpoint_close(&m->files);
    free(m->layers);
    free(m);
    *model = NULL;
}

const struct ssm_model_info *ssm_model_info(const struct ssm_model *model)
{
    return &model->info;
}

uint64_t ssm_model_shape_hash(const struct ssm_model *m)
{
    const struct ssm_config *c = &m->config;
    double shape[] = {c->input,
                      c->E,
                      c->L,
                      c->D,
                      c->N,
                      c->K,
                      c->R,
                      c->vocab,
                      c->front.patch,
                      c->front.mask,
                      c->front.memory,
                      c->front.diff_memory,
                      c->rate,
                      c->horizon,
                      c->n_quantiles,
                      c->anomaly,
                      c->calibration.warmup,
                      c->calibration.memory};
    uint64_t hash = ssm_checksum(0, shape, sizeof shape);
    return ssm_checksum(hash, c->quantiles, sizeof c->quantiles);
}

static uint64_t hash_tensor(uint64_t hash, const struct ssm_tensor *t)
{
    uint64_t made[] = {t->key, t->fill, t->rows, t->cols, t->dtype};
    hash = ssm_checksum(hash, made, sizeof made);
    return t->data ? ssm_checksum(hash, t->data, (size_t)t->rows * t->cols * ssm_dtype_bytes(t->dtype)) : hash;
}

uint64_t ssm_model_hash(const struct ssm_model *m)
{
    const struct ssm_tensor *ends[] = {&m->embedding, &m->input, &m->input_bias, &m->norm_f, &m->head, &m->head_bias};
    double more[] = {(double)m->config.eps, m->config.embedding};
    uint64_t hash = ssm_checksum(ssm_model_shape_hash(m), more, sizeof more);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        hash = hash_tensor(hash, ends[i]);
    for (uint32_t l = 0; l < m->config.L; l++) {
        const struct ssm_tensor *t = (const struct ssm_tensor *)&m->layers[l];
        for (size_t i = 0; i < sizeof m->layers[l] / sizeof *t; i++)
            hash = hash_tensor(hash, &t[i]);
    }
    return hash;
}
