/* play.c: see play.h. A call that fails ends the test program by assertion. */
#include "tests/ssm/play.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"

static void make_outputs(struct play *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        struct play_stream *s = &p->streams[i];
        size_t n = (size_t)s->T * p->V;
        s->logits = malloc(n * sizeof(float));
        s->saved = NULL;
        assert(s->logits);
        poison(s->logits, n);
    }
}

void play_new(struct play *p, const struct ssm_model *m, const uint32_t *T, uint32_t n, struct rng *r)
{
    *p = (struct play){.n = n, .V = ssm_model_info(m)->vocab, .streams = calloc(n, sizeof *p->streams)};
    assert(p->streams);
    for (uint32_t i = 0; i < n; i++) {
        struct play_stream *s = &p->streams[i];
        s->T = T[i];
        s->tokens = malloc(T[i] * sizeof *s->tokens);
        s->dt = i % 3 == 0 ? NULL : malloc(T[i] * sizeof *s->dt);
        for (uint32_t t = 0; t < T[i]; t++) {
            s->tokens[t] = (int32_t)rig_below(r, p->V);
            if (s->dt)
                s->dt[t] = rig_below(r, 10);
        }
    }
    make_outputs(p);
}

void play_again(struct play *p, const struct play *other)
{
    *p = *other;
    p->borrows = true;
    p->streams = malloc(p->n * sizeof *p->streams);
    assert(p->streams);
    memcpy(p->streams, other->streams, p->n * sizeof *p->streams);
    make_outputs(p);
}

void play_done(struct play *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (!p->borrows) {
            free(p->streams[i].tokens);
            free(p->streams[i].dt);
        }
        free(p->streams[i].logits);
        free(p->streams[i].saved);
    }
    free(p->streams);
}

/* ---- playing --------------------------------------------------------------------------------------------- */

struct ssm_item play_item(const struct play *p, uint32_t stream, uint32_t at, uint32_t n, struct ssm_slot slot)
{
    const struct play_stream *s = &p->streams[stream];
    struct ssm_item item = {.slot = slot, .n = n, .tokens = s->tokens + at, .interval = 3};
    item.dt = s->dt ? s->dt + at : NULL;
    item.out.logits = s->logits + (size_t)at * p->V;
    item.out.logits_stride = p->V;
    return item;
}

void play_save(struct play *p, uint32_t stream, struct ssm_engine *e, struct ssm_slot slot)
{
    struct play_stream *s = &p->streams[stream];
    p->saved_bytes = ssm_slot_bytes(e);
    s->saved = malloc(p->saved_bytes);
    int err = ssm_slot_save(e, slot, s->saved);
    assert(!err);
}

static void advance(struct ssm_engine *e, const struct ssm_item *items, uint32_t n)
{
    int err = ssm_advance(e, items, n);
    if (err)
        fprintf(stderr, "ssm_advance of %u items: %s: %s\n", n, strerror(-err), ssm_engine_failure(e));
    assert(!err);
}

static uint32_t next_of(const struct play_stream *s, uint32_t at, uint32_t chunk)
{
    return s->T - at < chunk ? s->T - at : chunk;
}

void play_alone(struct play *p, struct ssm_engine *e, uint32_t chunk)
{
    for (uint32_t i = 0; i < p->n; i++) {
        struct ssm_slot slot = rig_slot(e);
        for (uint32_t at = 0, n; at < p->streams[i].T; at += n) {
            n = next_of(&p->streams[i], at, chunk);
            struct ssm_item item = play_item(p, i, at, n, slot);
            advance(e, &item, 1);
        }
        play_save(p, i, e, slot);
        ssm_slot_give(e, slot);
    }
}

void play_together(struct play *p, struct ssm_engine *e, uint32_t chunk)
{
    struct ssm_slot *slots = malloc(p->n * sizeof *slots);
    struct ssm_item *items = malloc(p->n * sizeof *items);
    uint32_t n_items = 1;
    for (uint32_t i = 0; i < p->n; i++)
        slots[i] = rig_slot(e);
    for (uint32_t at = 0; n_items > 0; at += chunk) {
        n_items = 0;
        for (uint32_t i = 0; i < p->n; i++)
            if (at < p->streams[i].T)
                items[n_items++] = play_item(p, i, at, next_of(&p->streams[i], at, chunk), slots[i]);
        advance(e, items, n_items);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        play_save(p, i, e, slots[i]);
        ssm_slot_give(e, slots[i]);
    }
    free(slots);
    free(items);
}

/* ---- comparing ------------------------------------------------------------------------------------------- */

bool play_same(const struct play *got, const struct play *want, char *why)
{
    char place[160];
    for (uint32_t i = 0; i < got->n; i++) {
        const struct play_stream *a = &got->streams[i], *b = &want->streams[i];
        if (first_difference(a->logits, b->logits, (size_t)a->T * got->V, place, sizeof place)) {
            snprintf(why, PLAY_WHY, "stream %u of %u (T = %u): logits of %u a step %s", i, got->n, a->T, got->V, place);
            return false;
        }
        for (size_t k = 0; k < got->saved_bytes; k++) {
            if (a->saved[k] == b->saved[k])
                continue;
            snprintf(why, PLAY_WHY, "stream %u of %u (T = %u): saved slot differs at byte %zu of %zu", i, got->n, a->T,
                     k, got->saved_bytes);
            return false;
        }
    }
    return true;
}

bool play_finite(const struct play *p, char *why)
{
    for (uint32_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < (size_t)p->streams[i].T * p->V; k++) {
            if (isfinite(p->streams[i].logits[k]))
                continue;
            snprintf(why, PLAY_WHY, "stream %u of %u: logit %zu of step %zu is %g", i, p->n, k % p->V, k / p->V,
                     (double)p->streams[i].logits[k]);
            return false;
        }
    return true;
}

struct sums {
    double difference, size;
};

static void add(struct sums *s, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s->difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s->size += (double)b[i] * (double)b[i];
    }
}

static double error_of(const struct sums *s)
{
    return s->difference == 0.0 ? 0.0 : sqrt(s->difference / s->size);
}

static void add_section(struct sums *s, const struct ssm_section *of, const struct play_stream *a,
                        const struct play_stream *b)
{
    add(s, (const float *)(const void *)(a->saved + of->offset), (const float *)(const void *)(b->saved + of->offset),
        of->bytes / sizeof(float));
}

struct play_errors play_compare(const struct play *got, const struct play *want, struct ssm_engine *e)
{
    struct sums logits = {0}, conv = {0}, ssm = {0};
    unsigned n;
    const struct ssm_section *s = ssm_slot_sections(e, &n);
    for (uint32_t i = 0; i < got->n; i++) {
        const struct play_stream *a = &got->streams[i], *b = &want->streams[i];
        add(&logits, a->logits, b->logits, (size_t)a->T * got->V);
        for (unsigned k = 0; k < n; k++) {
            if (!strcmp(s[k].name, "conv"))
                add_section(&conv, &s[k], a, b);
            else if (!strcmp(s[k].name, "ssm"))
                add_section(&ssm, &s[k], a, b);
        }
    }
    return (struct play_errors){error_of(&logits), error_of(&conv), error_of(&ssm)};
}
