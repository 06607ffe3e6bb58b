/* byte_model.c: see byte_model.h. */
#include "tools/byte_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "daemon/sampler.h"

int byte_model_open(struct byte_model *m, uint32_t slots)
{
    const struct ssm_engine_opts opts = {
        .device = m->device, .weights = m->weights, .deterministic = true, .slots = slots, .threads = m->threads};
    char why[SSM_ERR];
    int code = EX_OK;
    if (ssm_model_open(m->dir, &m->model, why)) {
        code = EX_CONFIG;
    } else if (ssm_model_info(m->model)->input != SSM_TOKENS || ssm_model_info(m->model)->vocab != MD_BYTES) {
        snprintf(why, sizeof why, "%.400s: no model of bytes: that has a vocabulary of 256", m->dir);
        code = EX_CONFIG;
    } else if (ssm_engine_open(m->model, &opts, &m->engine, why)) {
        code = EX_UNAVAILABLE;
    }
    if (code)
        fprintf(stderr, "mambactl %s: %s\n", m->command, why);
    return code;
}

void byte_model_close(struct byte_model *m)
{
    ssm_engine_close(&m->engine);
    ssm_model_close(&m->model);
}

bool byte_model_count(const char *text, uint64_t least, uint64_t most, uint64_t *ret, char why[BYTE_MODEL_WHY])
{
    char *end;
    if (most == UINT64_MAX)
        snprintf(why, BYTE_MODEL_WHY, " is no integer from %llu on", (unsigned long long)least);
    else
        snprintf(why, BYTE_MODEL_WHY, " is no integer from %llu to %llu", (unsigned long long)least,
                 (unsigned long long)most);
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!*text || *text == '-' || *end || errno || v < least || v > most)
        return false;
    *ret = v;
    return true;
}

bool byte_model_weights(const char *text, enum ssm_dtype *ret)
{
    static const char *const names[] = {[SSM_F32] = "fp32", [SSM_BF16] = "bf16", [SSM_F16] = "fp16"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0)
            return *ret = (enum ssm_dtype)i, true;
    return false;
}
