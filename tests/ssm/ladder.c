/* ladder.c: golden and bitwise runs. Outputs are poisoned with NaN before they are computed. */
#include "tests/ssm/ladder.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/safetensors.h"
#include "tests/ssm/compare.h"

enum { STREAMS = 7, STEPS = 72, SCHEDULES = 4 };

/* ---- golden ---------------------------------------------------------------------------------------------- */

static const struct ssm_section *section_of(const struct ssm_engine *e, const char *name)
{
    unsigned n;
    const struct ssm_section *s = ssm_slot_sections(e, &n);
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(s[i].name, name))
            return &s[i];
    return NULL;
}

static double state_error(const struct ssm_engine *e, const uint8_t *saved, const char *name,
                          const struct ssm_safetensors *expected)
{
    const struct ssm_section *section = section_of(e, name);
    const struct ssm_st_tensor *t = ssm_safetensors_find(expected, name);
    assert(section && t && section->bytes == t->bytes);
    float *ours = malloc(t->bytes), *theirs = malloc(t->bytes);
    memcpy(ours, saved + section->offset, t->bytes);
    memcpy(theirs, t->data, t->bytes);
    double error = relative_error(ours, theirs, t->bytes / sizeof *ours);
    free(ours);
    free(theirs);
    return error;
}

static struct golden_errors compare_golden(struct ssm_engine *e, const struct ssm_safetensors *expected,
                                           enum ssm_dtype dtype)
{
    static const char *const names[] = {"logits", "logits.bf16", "logits.f16"};
    const struct ssm_st_tensor *tokens = ssm_safetensors_find(expected, "tokens");
    const struct ssm_st_tensor *want = ssm_safetensors_find(expected, names[dtype]);
    uint32_t T = (uint32_t)tokens->shape[0], V = (uint32_t)want->shape[1];
    int32_t *ids = malloc(tokens->bytes);
    float *logits = malloc(want->bytes), *theirs = malloc(want->bytes);
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    struct golden_errors errors = {0};
    struct ssm_item item = {.slot = rig_slot(e), .n = T, .tokens = ids, .interval = 1};
    memcpy(ids, tokens->data, tokens->bytes);
    memcpy(theirs, want->data, want->bytes);
    poison(logits, (size_t)T * V);
    item.out.logits = logits;
    item.out.logits_stride = V;
    assert(V == ssm_model_info(ssm_engine_model(e))->vocab);
    ssm_advance(e, &item, 1);
    ssm_slot_save(e, item.slot, saved);
    errors.logits = relative_error(logits, theirs, (size_t)T * V);
    if (dtype == SSM_F32) {
        errors.conv = state_error(e, saved, "conv", expected);
        errors.ssm = state_error(e, saved, "ssm", expected);
    }
    free(ids);
    free(logits);
    free(theirs);
    free(saved);
    return errors;
}

struct golden_errors golden_run(const char *dir, const char *ops, enum ssm_dtype dtype)
{
    char path[4096], why[SSM_ERR] = "";
    struct ssm_model *m = NULL;
    struct ssm_safetensors *expected = NULL;
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    if (ssm_model_open(dir, &m, why) || ssm_safetensors_open(path, &expected, why))
        fprintf(stderr, "%s\n", why);
    assert(m && expected);
    struct ssm_engine *e = rig_engine(m, ops, dtype, 1, 1);
    struct golden_errors errors = compare_golden(e, expected, dtype);
    ssm_engine_close(&e);
    ssm_safetensors_close(&expected);
    ssm_model_close(&m);
    return errors;
}

/* ---- bitwise --------------------------------------------------------------------------------------------- */

struct session { /* what STREAMS streams put in and got out */
    int32_t tokens[STREAMS][STEPS];
    int64_t dt[STREAMS][STEPS];
    float *logits[STREAMS]; /* [STEPS][V] */
    uint8_t *states[STREAMS];
    size_t logits_bytes, state_bytes;
};

static void session_init(struct session *s, const struct ssm_engine *e)
{
    uint32_t V = ssm_model_info(ssm_engine_model(e))->vocab;
    s->logits_bytes = (size_t)STEPS * V * sizeof(float);
    s->state_bytes = ssm_slot_bytes(e);
    for (unsigned i = 0; i < STREAMS; i++) {
        s->logits[i] = malloc(s->logits_bytes);
        s->states[i] = malloc(s->state_bytes);
        poison(s->logits[i], (size_t)STEPS * V);
    }
}

static void session_done(struct session *s)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        free(s->logits[i]);
        free(s->states[i]);
    }
}

static struct ssm_item item_of(struct session *s, unsigned i, uint32_t at, uint32_t n, struct ssm_slot slot)
{
    size_t V = s->logits_bytes / STEPS / sizeof(float);
    struct ssm_item item = {.slot = slot, .n = n, .tokens = s->tokens[i] + at, .interval = 3};
    item.dt = i % 3 == 0 ? NULL : s->dt[i] + at; /* every third stream is regular */
    item.out.logits = s->logits[i] + at * V;
    item.out.logits_stride = V;
    return item;
}

static void run_alone(struct session *s, struct ssm_engine *e)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        struct ssm_slot slot = rig_slot(e);
        for (uint32_t t = 0; t < STEPS; t++) {
            struct ssm_item item = item_of(s, i, t, 1, slot);
            ssm_advance(e, &item, 1);
        }
        ssm_slot_save(e, slot, s->states[i]);
        ssm_slot_give(e, slot);
    }
}

/* Small and large chunks in turn, so that short steps, long scans and all ways of sharing work come up. */
static uint32_t chunk(struct rng *r, uint32_t left)
{
    uint32_t most = rig_below(r, 3) ? 4 : STEPS, n = 1 + rig_below(r, most);
    return n < left ? n : left;
}

static void run_mixed(struct session *s, struct ssm_engine *e, struct rng *r)
{
    struct ssm_item items[STREAMS];
    struct ssm_slot slots[STREAMS];
    uint32_t at[STREAMS] = {0}, left = STREAMS;
    for (unsigned i = 0; i < STREAMS; i++)
        slots[i] = rig_slot(e);
    while (left > 0) {
        uint32_t n = 0, first = rig_below(r, STREAMS);
        left = 0;
        for (unsigned k = 0; k < STREAMS; k++) {
            unsigned i = (k + first) % STREAMS;
            left += at[i] < STEPS;
            if (at[i] == STEPS || rig_below(r, 3) == 0)
                continue;
            uint32_t c = chunk(r, STEPS - at[i]);
            items[n++] = item_of(s, i, at[i], c, slots[i]);
            at[i] += c;
        }
        ssm_advance(e, items, n);
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        ssm_slot_save(e, slots[i], s->states[i]);
        ssm_slot_give(e, slots[i]);
    }
}

static bool same(const struct session *a, const struct session *b)
{
    for (unsigned i = 0; i < STREAMS; i++)
        if (memcmp(a->logits[i], b->logits[i], a->logits_bytes) || memcmp(a->states[i], b->states[i], a->state_bytes))
            return false;
    return true;
}

static bool all_finite(const struct session *s)
{
    for (unsigned i = 0; i < STREAMS; i++)
        for (size_t k = 0; k < s->logits_bytes / sizeof(float); k++)
            if (!isfinite(s->logits[i][k]))
                return false;
    return true;
}

bool bitwise_run(const char *preset, const char *ops, enum ssm_dtype dtype, struct rng *r)
{
    static const uint32_t threads[SCHEDULES] = {1, 2, 3, 5};
    struct ssm_model *m = rig_random(preset);
    struct ssm_engine *e = rig_engine(m, ops, dtype, 1, STREAMS);
    struct session *alone = calloc(1, sizeof *alone), *mixed = calloc(1, sizeof *mixed);
    uint32_t V = ssm_model_info(m)->vocab;
    for (unsigned i = 0; i < STREAMS; i++) {
        for (unsigned t = 0; t < STEPS; t++) {
            alone->tokens[i][t] = (int32_t)rig_below(r, V);
            alone->dt[i][t] = rig_below(r, 10);
        }
    }
    *mixed = *alone;
    session_init(alone, e);
    run_alone(alone, e);
    bool ok = all_finite(alone);
    ssm_engine_close(&e);
    for (unsigned k = 0; k < SCHEDULES && ok; k++) {
        e = rig_engine(m, ops, dtype, threads[k], STREAMS);
        session_init(mixed, e);
        run_mixed(mixed, e, r);
        ok = same(alone, mixed);
        session_done(mixed);
        ssm_engine_close(&e);
    }
    session_done(alone);
    free(alone);
    free(mixed);
    ssm_model_close(&m);
    return ok;
}
