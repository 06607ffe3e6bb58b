/* backend_null.c: a device that computes nothing, so that everything around a model can be measured. It keeps the books
 * of a real one: steps end where they would, every chosen row is written (zeros), states can be saved and restored.
 * Runs on the engine's thread. */
#include "ssm/backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/fail.h"

struct null {
    const struct ssm_model_info *info;
    uint64_t *samples; /* [slots], since the reset */
};

static const struct ssm_section section = {"steps", 0, sizeof(uint64_t)};

static void null_close(void *self)
{
    struct null *n = self;
    if (n)
        free(n->samples);
    free(n);
}

static int null_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr)
{
    struct null *n = calloc(1, sizeof *n);
    if (!n || !(n->samples = calloc(opts->slots, sizeof *n->samples))) {
        null_close(n);
        return ssm_fail(reterr, -ENOMEM, "out of memory for %u slots", opts->slots);
    }
    n->info = ssm_model_info(model);
    *ret_self = n;
    return 0;
}

static const char *null_name(const void *self)
{
    return "null";
}

static int null_reset(void *self, uint32_t slot)
{
    ((struct null *)self)->samples[slot] = 0;
    return 0;
}

static int null_copy(void *self, uint32_t from, uint32_t to)
{
    uint64_t *samples = ((struct null *)self)->samples;
    samples[to] = samples[from];
    return 0;
}

/* Rows of the steps (from, to] that `every` chooses. */
static void zero_rows(float *buf, size_t stride, size_t width, uint32_t every, uint64_t from, uint64_t to,
                      uint32_t rows)
{
    uint64_t k = every ? every : 1, n = buf ? (to / k - from / k) * rows : 0;
    for (uint64_t i = 0; i < n; i++)
        memset(buf + i * stride, 0, width * sizeof *buf);
}

static int null_start(void *self, const struct ssm_item *items, uint32_t n_items)
{
    struct null *n = self;
    uint32_t P = n->info->patch;
    for (uint32_t i = 0; i < n_items; i++) {
        const struct ssm_out *out = &items[i].out;
        uint64_t *samples = &n->samples[items[i].slot.index];
        uint64_t from = *samples / P, to = (*samples += items[i].n) / P;
        zero_rows(out->forecast, out->forecast_stride, (size_t)out->horizon * out->n_q, out->forecast_every, from, to,
                  1);
        zero_rows(out->embedding, out->embedding_stride, n->info->embedding, out->embedding_every, from, to, 1);
        zero_rows(out->anomaly, out->anomaly_stride, 3, out->anomaly_every, from, to, P);
        zero_rows(out->logits, out->logits_stride, n->info->vocab, 1, from, to, 1);
        if (out->warmup)
            memset(out->warmup, 0, to - from);
    }
    return 0;
}

static const struct ssm_section *null_sections(const void *self, unsigned *ret_n)
{
    *ret_n = 1;
    return &section;
}

static int null_save(void *self, uint32_t slot, void *buf)
{
    memcpy(buf, &((const struct null *)self)->samples[slot], section.bytes);
    return 0;
}

static int null_restore(void *self, uint32_t slot, const void *buf)
{
    memcpy(&((struct null *)self)->samples[slot], buf, section.bytes);
    return 0;
}

const struct ssm_backend ssm_backend_null = {
    .abi = SSM_BACKEND_ABI,
    .name = "null",
    .open = null_open,
    .close = null_close,
    .ops = null_name,
    .device = null_name,
    .reset = null_reset,
    .copy = null_copy,
    .start = null_start,
    .sections = null_sections,
    .save = null_save,
    .restore = null_restore,
};
