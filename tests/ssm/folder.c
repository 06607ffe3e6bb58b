/* folder.c: see folder.h. A tensor goes into the file in the order in which the model binds it. */
#include "tests/ssm/folder.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/dtype.h"
#include "tests/ssm/rig.h"

struct writer {
    char *header;
    size_t header_bytes;
    uint8_t *data;
    size_t data_bytes;
    enum ssm_dtype dtype;
};

static void write_shape(const struct ssm_tensor *t, char *text, size_t size)
{
    if (strstr(t->name, "conv1d.weight"))
        snprintf(text, size, "[%u,1,%u]", t->rows, t->cols);
    else if (t->rows == 1 && !strstr(t->name, "proj.weight") && !strstr(t->name, "A_log"))
        snprintf(text, size, "[%u]", t->cols);
    else
        snprintf(text, size, "[%u,%u]", t->rows, t->cols);
}

static void write_tensor(struct writer *w, const struct ssm_tensor *t)
{
    static const char *const names[] = {"F32", "BF16", "F16"};
    char shape[64], why[SSM_ERR];
    size_t n = (size_t)t->rows * t->cols, width = ssm_dtype_bytes(w->dtype);
    if (n == 0)
        return;
    float *values = malloc(n * sizeof *values);
    int err = ssm_tensor_read(t, 0, t->rows, values, why);
    assert(!err);
    write_shape(t, shape, sizeof shape);
    w->header_bytes += (size_t)sprintf(
        w->header + w->header_bytes, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
        w->header_bytes ? ',' : '{', t->name, names[w->dtype], shape, w->data_bytes, w->data_bytes + n * width);
    for (size_t i = 0; i < n; i++, w->data_bytes += width) {
        uint16_t half = w->dtype == SSM_BF16 ? ssm_to_bf16(values[i]) : ssm_to_f16(values[i]);
        memcpy(w->data + w->data_bytes, w->dtype == SSM_F32 ? (void *)&values[i] : &half, width);
    }
    free(values);
}

static void write_tensors(struct writer *w, const struct ssm_model *m)
{
    write_tensor(w, m->config.input == SSM_TOKENS ? &m->embedding : &m->input);
    write_tensor(w, &m->input_bias);
    for (uint32_t l = 0; l < m->config.L; l++) {
        const struct ssm_tensor *t = (const struct ssm_tensor *)&m->layers[l];
        for (size_t i = 0; i < sizeof m->layers[l] / sizeof *t; i++)
            write_tensor(w, &t[i]);
    }
    write_tensor(w, &m->norm_f);
    if (m->config.input == SSM_SAMPLES || !m->config.tied)
        write_tensor(w, &m->head);
    write_tensor(w, &m->head_bias);
}

static void write_file(const char *dir, const char *header, size_t header_bytes, const uint8_t *data, size_t data_bytes)
{
    uint8_t *file = malloc(8 + header_bytes + data_bytes);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    memcpy(file + 8 + header_bytes, data, data_bytes);
    rig_write(dir, "model.safetensors", file, 8 + header_bytes + data_bytes);
    free(file);
}

static size_t token_config(const struct ssm_config *c, char *text, size_t size)
{
    return (size_t)snprintf(
        text, size,
        "{\"model_type\": \"mamba\", \"hidden_size\": %u, \"num_hidden_layers\": %u, \"state_size\": %u,"
        " \"conv_kernel\": %u, \"intermediate_size\": %u, \"time_step_rank\": %u, \"vocab_size\": %u,"
        " \"use_bias\": false, \"use_conv_bias\": true, \"tie_word_embeddings\": true}\n",
        c->E, c->L, c->N, c->K, c->D, c->R, c->vocab);
}

static size_t signal_config(const struct ssm_config *c, char *text, size_t size)
{
    size_t at = (size_t)snprintf(
        text, size,
        "{\"model_type\": \"mambad\", \"version\": 1,\n \"input\": {\"kind\": \"samples\", \"patch\": %u, \"mask\": %s,"
        " \"normaliser\": {\"memory\": %.17g, \"diff_memory\": %.17g}},\n \"backbone\": {\"arch\": \"mamba\","
        " \"d_model\": %u, \"n_layer\": %u, \"d_state\": %u, \"d_conv\": %u, \"expand\": %.17g, \"dt_rank\": %u},\n"
        " \"heads\": {\"forecast\": {\"horizon\": %u, \"quantiles\": [",
        c->front.patch, c->front.mask ? "true" : "false", c->front.memory, c->front.diff_memory, c->E, c->L, c->N, c->K,
        (double)c->D / c->E, c->R, c->horizon);
    for (uint32_t q = 0; q < c->n_quantiles; q++)
        at += (size_t)snprintf(text + at, size - at, "%s%.9g", q ? ", " : "", (double)c->quantiles[q]);
    return at + (size_t)snprintf(text + at, size - at,
                                 "]}, \"embedding\": {}, \"anomaly\": {}},\n \"calibration\": {\"warmup\": %u,"
                                 " \"memory\": %.17g}, \"card\": {\"made\": \"by a test\"}}\n",
                                 c->calibration.warmup, c->calibration.memory);
}

void folder_write(const char *dir, const struct ssm_model *m, enum ssm_dtype dtype)
{
    char config[4096];
    struct writer w = {.dtype = dtype};
    w.header = malloc(1 << 20);
    w.data = malloc(m->info.n_params * sizeof(float) + 1);
    write_tensors(&w, m);
    w.header[w.header_bytes++] = '}';
    write_file(dir, w.header, w.header_bytes, w.data, w.data_bytes);
    size_t n = m->config.input == SSM_TOKENS ? token_config(&m->config, config, sizeof config)
                                             : signal_config(&m->config, config, sizeof config);
    rig_write(dir, "config.json", config, n);
    free(w.header);
    free(w.data);
}

bool folder_edit(const char *dir, const char *file, const char *from, const char *to)
{
    size_t bytes, head = strstr(file, ".safetensors") ? 8 : 0;
    uint8_t *old = rig_read(dir, file, &bytes);
    size_t text = head ? (size_t)old[0] | (size_t)old[1] << 8 | (size_t)old[2] << 16 : bytes;
    uint8_t *at = memmem(old + head, text, from, strlen(from));
    if (at) {
        size_t before = (size_t)(at - old), after = before + strlen(from);
        uint8_t *new = malloc(bytes + strlen(to));
        memcpy(new, old, before);
        memcpy(new + before, to, strlen(to));
        memcpy(new + before + strlen(to), old + after, bytes - after);
        text = text - strlen(from) + strlen(to);
        for (size_t i = 0; i < head; i++)
            new[i] = (uint8_t)(text >> 8 * i);
        rig_write(dir, file, new, bytes - strlen(from) + strlen(to));
        free(new);
    }
    free(old);
    return at != NULL;
}

struct ssm_model *folder_sized_model(const char *size, uint32_t patch, uint32_t horizon, uint32_t n_quantiles,
                                     bool mask)
{
    struct ssm_model *random = rig_random(size), *m = NULL;
    struct ssm_config c = random->config;
    char why[SSM_ERR] = "";
    const char *dir = rig_folder();
    c.front.patch = patch;
    c.front.mask = mask;
    c.front.features = (mask ? 3 : 2) * patch + 2;
    c.horizon = horizon;
    c.n_quantiles = n_quantiles;
    c.calibration = (struct ssm_calibration){.warmup = 100, .memory = 1000};
    for (uint32_t q = 0; q < n_quantiles; q++)
        c.quantiles[q] = (float)(q + 1) / (float)(n_quantiles + 1);
    ssm_model_close(&random);
    int err = ssm_model_random_of(&c, "signal", 1, &random, why);
    assert(!err);
    folder_write(dir, random, SSM_F32);
    ssm_model_close(&random);
    err = ssm_model_open(dir, &m, why);
    if (err)
        fprintf(stderr, "%s\n", why);
    assert(!err);
    return m;
}

struct ssm_model *folder_signal_model(uint32_t patch, uint32_t horizon, uint32_t n_quantiles, bool mask)
{
    return folder_sized_model("20x2,5,0", patch, horizon, n_quantiles, mask);
}
