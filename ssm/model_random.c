/* model_random.c: models of random weights, for benchmarks and tests. Any thread. The sizes are those of published
 * models and of the measured peers (docs/performance.md); the weights are a hash of seed and tensor, made when they are
 * read. */
#include "ssm/model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/checksum.h"
#include "ssm/fail.h"

struct preset {
    const char *name;
    uint32_t E, L, N, V; /* V = 0: a signal model */
    uint32_t P;          /* … of patches of P samples; 0: of 16 */
};

static const struct preset presets[] = {
    {"sig-64x4", 64, 4, 16, 256},          {"sig-128x4", 128, 4, 16, 256},        {"sig-256x8", 256, 8, 16, 256},
    {"mamba-130m", 768, 24, 16, 50280},    {"mamba-370m", 1024, 48, 16, 50280},   {"mamba-790m", 1536, 48, 16, 50280},
    {"mamba-1.4b", 2048, 48, 16, 50280},   {"mamba-2.8b", 2560, 64, 16, 50280},   {"mambabyte-353m", 1024, 53, 16, 256},
    {"mambabyte-972m", 1792, 48, 16, 256}, {"mambabyte-1.6b", 2304, 48, 16, 256}, {"forecast-64x2", 64, 2, 16, 0},
    {"forecast-128x4", 128, 4, 16, 0},
};

const char *ssm_preset_name(unsigned i)
{
    return i < sizeof presets / sizeof *presets ? presets[i].name : NULL;
}

/* "D×L[,N[,V[,P]]]", the sign being × or x. */
static int parse_size(const char *text, struct preset *ret)
{
    *ret = (struct preset){.N = 16, .V = 256};
    uint32_t *const rest[] = {&ret->N, &ret->V, &ret->P};
    int used = 0, n = sscanf(text, "%u%*[x\xc3\x97]%u%n", &ret->E, &ret->L, &used);
    const char *at = text + used;
    for (unsigned i = 0; i < 3 && n == 2 && *at == ',' && sscanf(at, ",%u%n", rest[i], &used) == 1; i++)
        at += used;
    bool sane = ret->E >= 1 && ret->E <= 1 << 14 && ret->L >= 1 && ret->L <= 1 << 10 && ret->N >= 1 &&
                ret->N <= 1 << 10 && ret->V <= 1 << 24 && ret->P <= 1 << 10;
    return n == 2 && !*at && sane ? 0 : -EINVAL;
}

static int find_preset(const char *name, struct preset *ret)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (!strcmp(presets[i].name, name)) {
            *ret = presets[i];
            return 0;
        }
    }
    return parse_size(name, ret);
}

static struct ssm_config config_of(const struct preset *p)
{
    struct ssm_config c = {
        .input = p->V ? SSM_TOKENS : SSM_SAMPLES,
        .E = p->E,
        .L = p->L,
        .D = 2 * p->E,
        .N = p->N,
        .K = 4,
        .R = (p->E + 15) / 16,
        .eps = 1e-5f,
        .bias = SSM_BIAS_NO,
        .conv_bias = SSM_BIAS_YES,
        .vocab = p->V,
        .tied = true,
    };
    if (p->V)
        return c;
    uint32_t patch = p->P ? p->P : 16;
    c.front = (struct ssm_front){
        .patch = patch, .mask = true, .features = 3 * patch + 2, .memory = 2048, .diff_memory = 512};
    c.horizon = 64;
    c.n_quantiles = 9;
    for (uint32_t q = 0; q < c.n_quantiles; q++)
        c.quantiles[q] = (float)(q + 1) / 10.0f;
    c.embedding = c.anomaly = true;
    c.calibration = (struct ssm_calibration){.warmup = 512, .memory = 8192};
    return c;
}

static bool ends_in(const char *name, const char *suffix)
{
    size_t n = strlen(name), s = strlen(suffix);
    return n >= s && !strcmp(name + n - s, suffix);
}

/* The initialisation of the paper's own code, so that activations and Δ are of the usual size. */
static int bind_random(void *ctx, struct ssm_tensor *t, bool optional, char *reterr)
{
    uint64_t seed = *(const uint64_t *)ctx;
    t->key = ssm_checksum(seed, t->name, strlen(t->name));
    t->dtype = SSM_F32;
    t->fill = SSM_FILL_UNIFORM;
    t->scale = 1.0f / sqrtf((float)t->cols);
    if (ends_in(t->name, "norm.weight") || ends_in(t->name, "norm_f.weight") || ends_in(t->name, "mixer.D")) {
        t->fill = SSM_FILL_CONST;
        t->scale = 1.0f;
    } else if (ends_in(t->name, "A_log")) {
        t->fill = SSM_FILL_A_LOG;
    } else if (ends_in(t->name, "dt_proj.bias")) {
        t->fill = SSM_FILL_DT_BIAS;
    } else if (ends_in(t->name, "conv1d.bias") || ends_in(t->name, "forecast.bias")) {
        t->scale = 0.5f;
    } else if (optional) {
        t->rows = 0;
    }
    return 0;
}

int ssm_model_random_of(const struct ssm_config *config, const char *name, uint64_t seed, struct ssm_model **ret,
                        char *reterr)
{
    struct ssm_model *m;
    int err = ssm_model_new(config, name, &m);
    if (err)
        return ssm_fail(reterr, err, "%s: out of memory", name);
    ssm_model_bind(m, bind_random, &seed, reterr); /* cannot fail: nothing is missing in a random model */
    ssm_model_describe(m, 0);
    *ret = m;
    return 0;
}

int ssm_model_random(const char *preset, uint64_t seed, struct ssm_model **ret, char *reterr)
{
    struct preset p;
    if (find_preset(preset, &p))
        return ssm_fail(reterr, -EINVAL, "'%s' is neither a preset nor of the form D×L[,N[,V[,P]]]", preset);
    struct ssm_config config = config_of(&p);
    return ssm_model_random_of(&config, preset, seed, ret, reterr);
}
