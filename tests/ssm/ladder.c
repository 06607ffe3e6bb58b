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
                                           const struct rig_variant *v)
{
    static const char *const names[] = {"logits", "logits.bf16", "logits.f16"};
    const struct ssm_st_tensor *tokens = ssm_safetensors_find(expected, "tokens");
    const struct ssm_st_tensor *want = ssm_safetensors_find(expected, names[v->weights]);
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
    if (v->weights == SSM_F32 && v->state == SSM_F32) {
        errors.conv = state_error(e, saved, "conv", expected);
        errors.ssm = state_error(e, saved, "ssm", expected);
    }
    free(ids);
    free(logits);
    free(theirs);
    free(saved);
    return errors;
}

struct golden_errors golden_run(const char *dir, const struct rig_variant *v)
{
    char path[4096], why[SSM_ERR] = "";
    struct ssm_model *m = NULL;
    struct ssm_safetensors *expected = NULL;
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    if (ssm_model_open(dir, &m, why) || ssm_safetensors_open(path, &expected, why))
        fprintf(stderr, "%s\n", why);
    assert(m && expected);
    struct ssm_engine *e = rig_engine(m, v, 1, 1);
    struct golden_errors errors = compare_golden(e, expected, v);
    ssm_engine_close(&e);
    ssm_safetensors_close(&expected);
    ssm_model_close(&m);
    return errors;
}

/* ---- bitwise --------------------------------------------------------------------------------------------- */

/* Small and large chunks in turn, so that short steps, long scans and all ways of sharing work come up. */
static uint32_t chunk(struct rng *r, uint32_t left)
{
    uint32_t most = rig_below(r, 3) ? 4 : STEPS, n = 1 + rig_below(r, most);
    return n < left ? n : left;
}

static void play_mixed(struct play *p, struct ssm_engine *e, struct rng *r)
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
            items[n++] = play_item(p, i, at[i], c, slots[i]);
            at[i] += c;
        }
        ssm_advance(e, items, n);
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        play_save(p, i, e, slots[i]);
        ssm_slot_give(e, slots[i]);
    }
}

bool bitwise_run(const char *preset, const struct rig_variant *v, struct rng *r, char *why)
{
    static const uint32_t threads[SCHEDULES] = {1, 2, 3, 5};
    uint32_t T[STREAMS];
    struct ssm_model *m = rig_vivid(preset);
    struct ssm_engine *e = rig_engine(m, v, 1, STREAMS);
    struct play alone, mixed;
    for (unsigned i = 0; i < STREAMS; i++)
        T[i] = STEPS;
    play_new(&alone, m, T, STREAMS, r);
    play_alone(&alone, e, 1);
    bool ok = play_finite(&alone, why);
    ssm_engine_close(&e);
    for (unsigned k = 0; k < SCHEDULES && ok; k++) {
        e = rig_engine(m, v, threads[k], STREAMS);
        play_again(&mixed, &alone);
        play_mixed(&mixed, e, r);
        ok = play_same(&mixed, &alone, why);
        play_done(&mixed);
        ssm_engine_close(&e);
    }
    play_done(&alone);
    ssm_model_close(&m);
    return ok;
}
