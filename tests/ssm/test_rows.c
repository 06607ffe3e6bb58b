/* test_rows.c: how many rows go through a model together, and in runs of what length, leaves no trace: from one stream
 * to thousands, from one step to thousands, every stream has the bits that it has alone. On a GPU each number of rows
 * takes the way that is fastest for it, and this is where they meet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/play.h"

enum { STEPS = 2, RUNS = 10, SAVED = 24 };
static struct rng rng;

static const char *const shapes[] = {"30x2,5,77", "sig-64x4", "sig-128x4", "768x2,16,100"};

/* Every shape on every variant; on CPU tables one of ref and the best, on the smaller shapes. */
static void for_each(void (*check)(const struct ssm_model *, const char *, const struct rig_variant *))
{
    struct rig_variant v;
    unsigned n = !rig_cuda() || rig_light() ? 2 : 4;
    for (unsigned s = 0; s < n; s++) {
        struct ssm_model *m = rig_vivid(shapes[s]);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            if (v.ops && strcmp(v.ops, rig_truth(v.weights).ops) && strcmp(v.ops, "amx"))
                continue;
            printf("%s on %s\n", shapes[s], rig_name(&v));
            check(m, shapes[s], &v);
        }
        ssm_model_close(&m);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

struct crowd {
    struct play alone, now;
    struct ssm_slot *slots;
    struct ssm_item *items;
    uint32_t n;
};

/* n streams, of which the first `alone` are played alone. */
static void crowd_open(struct crowd *c, const struct ssm_model *m, struct ssm_engine *e, uint32_t n, uint32_t alone)
{
    uint32_t *T = malloc(n * sizeof *T);
    for (uint32_t i = 0; i < n; i++)
        T[i] = STEPS;
    c->n = n;
    play_new(&c->alone, m, T, n, &rng);
    c->alone.n = alone;
    play_alone(&c->alone, e, 1);
    c->alone.n = n;
    play_again(&c->now, &c->alone);
    c->slots = malloc(n * sizeof *c->slots);
    c->items = malloc(n * sizeof *c->items);
    for (uint32_t i = 0; i < n; i++)
        c->slots[i] = rig_slot(e);
    free(T);
}

static void crowd_close(struct crowd *c)
{
    play_done(&c->now);
    play_done(&c->alone);
    free(c->slots);
    free(c->items);
}

/* The first `rows` streams, a few of which are saved at the end. */
static void step_together(struct crowd *c, struct ssm_engine *e, uint32_t rows)
{
    for (uint32_t i = 0; i < rows; i++)
        ssm_slot_reset(e, c->slots[i]);
    for (uint32_t t = 0; t < STEPS; t++) {
        for (uint32_t i = 0; i < rows; i++)
            c->items[i] = play_item(&c->now, i, t, 1, c->slots[i]);
        assert_int_equal(ssm_advance(e, c->items, rows), 0);
    }
}

static void check_together(struct crowd *c, struct ssm_engine *e, uint32_t rows, const char *shape,
                           const struct rig_variant *v)
{
    char place[160];
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t t = 0; t < STEPS; t++) {
            const float *got = c->now.streams[i].logits + t * c->now.V,
                        *want = c->alone.streams[i].logits + t * c->now.V;
            if (first_difference(got, want, c->now.V, place, sizeof place))
                fail_msg("%s on %s: %u rows, stream %u, step %u: logits %s", shape, rig_name(v), rows, i, t, place);
        }
    for (uint32_t k = 0; k < SAVED && k < rows; k++) {
        uint32_t i = k == 0 ? rows - 1 : k == 1 ? 0 : rig_below(&rng, rows);
        ssm_slot_save(e, c->slots[i], saved);
        if (memcmp(saved, c->alone.streams[i].saved, ssm_slot_bytes(e)))
            fail_msg("%s on %s: %u rows, stream %u: saved slot differs", shape, rig_name(v), rows, i);
    }
    free(saved);
}

static void check_rows(const struct ssm_model *m, const char *shape, const struct rig_variant *v)
{
    static const uint32_t rows[] = {3000, 1, 2, 7, 8, 9, 31, 64, 65, 129, 200, 256, 257, 333, 1000, 1024, 3000};
    uint32_t most = !rig_cuda() ? 200 : rig_light() ? 9 : 3000;
    struct ssm_engine *e = rig_engine(m, v, 2, most);
    struct crowd c;
    crowd_open(&c, m, e, most, most);
    for (unsigned k = 0; k < sizeof rows / sizeof *rows; k++) {
        if (rows[k] > most)
            continue;
        step_together(&c, e, rows[k]);
        check_together(&c, e, rows[k], shape, v);
    }
    crowd_close(&c);
    ssm_engine_close(&e);
}

static void any_number_of_rows(void **state)
{
    for_each(check_rows);
}

/* ---- runs ------------------------------------------------------------------------------------------------ */

static void check_runs(const struct ssm_model *m, const char *shape, const struct rig_variant *v)
{
    static const uint32_t lengths[RUNS] = {63, 1, 600, 2, 3000, 3, 5, 64, 8, 65};
    char why[PLAY_WHY];
    uint32_t T[RUNS], n = rig_light() ? RUNS / 2 : RUNS, longest = rig_light() ? 9 : rig_cuda() ? 3000 : 600;
    struct ssm_engine *e = rig_engine(m, v, 2, n);
    struct play alone, mixed;
    for (unsigned i = 0; i < n; i++)
        T[i] = lengths[i] < longest ? lengths[i] : longest;
    play_new(&alone, m, T, n, &rng);
    play_alone(&alone, e, 1);
    for (unsigned k = 0; k < 3; k++) {
        static const uint32_t chunks[] = {UINT32_MAX, 64, 7};
        play_again(&mixed, &alone);
        play_together(&mixed, e, chunks[k]);
        if (!play_same(&mixed, &alone, why))
            fail_msg("%s on %s: runs in chunks of %u: %s", shape, rig_name(v), chunks[k], why);
        play_done(&mixed);
    }
    play_done(&alone);
    ssm_engine_close(&e);
}

static void runs_of_any_length(void **state)
{
    for_each(check_runs);
}

/* On a GPU: streams of T[i] steps in one batch, and alone, some steps at a time. */
static void check_lengths(const uint32_t *T, uint32_t n, uint32_t chunk)
{
    struct rig_variant v = rig_common();
    char why[PLAY_WHY];
    if (!rig_cuda())
        skip();
    struct ssm_model *m = rig_vivid("768x2,16,100");
    struct ssm_engine *e = rig_engine(m, &v, 2, n);
    struct play alone, together;
    play_new(&alone, m, T, n, &rng);
    play_alone(&alone, e, chunk);
    play_again(&together, &alone);
    play_together(&together, e, UINT32_MAX);
    if (!play_same(&together, &alone, why))
        fail_msg("%s: %s", rig_name(&v), why);
    play_done(&together);
    play_done(&alone);
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

/* Rows that a GPU cuts into slices, which wait for each other where a run goes from one into the next: at 4096, 8192
 * and 14163, but not at 12013, where the last run begins. The third has the end of a run and four whole ones. */
static void runs_across_slices(void **state)
{
    static const uint32_t T[] = {8999, 1000, 1100, 64, 850, 4300};
    if (rig_light())
        skip();
    check_lengths(T, sizeof T / sizeof *T, 1000);
}

/* Two slices, cut wherever the middle is: short runs may go across. */
static void short_runs_in_slices(void **state)
{
    enum { N = 200 };
    uint32_t T[N];
    if (rig_light())
        skip();
    for (uint32_t i = 0; i < N; i++)
        T[i] = 20 + i % 8;
    check_lengths(T, N, UINT32_MAX);
}

/* Too many for the kernel that takes runs, and each too long for the one that takes rows: that one finds nothing. */
static void runs_between_short_and_long(void **state)
{
    enum { N = 40 };
    uint32_t T[N];
    for (uint32_t i = 0; i < N; i++)
        T[i] = 17 + i % 8;
    check_lengths(T, rig_light() ? N / 2 : N, rig_light() ? UINT32_MAX : 1);
}

static void step_many(const char *shape, uint32_t n)
{
    enum { ALONE = 5 };
    struct rig_variant v = rig_common();
    struct ssm_model *m = rig_vivid(shape);
    struct ssm_engine *e = rig_engine(m, &v, 2, n);
    struct crowd c;
    crowd_open(&c, m, e, n, ALONE);
    step_together(&c, e, n);
    check_together(&c, e, ALONE, shape, &v);
    crowd_close(&c);
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

/* As many as make a GPU take its larger tiles; 1088: more channels than it selects from in one round. */
static void many_at_once(void **state)
{
    if (!rig_cuda())
        skip();
    step_many("768x1,16,100", 820);
    step_many("768x1,16,100", 1200);
    step_many("1088x1,16,100", 1200);
}

/* ---- crowds ---------------------------------------------------------------------------------------------- */

/* Of the streams that are not at their end, `left` of them, some in any order go on, first all: by one step, or each by
 * one or two. */
static uint32_t pick_items(const struct play *p, const struct ssm_slot *slots, uint32_t *streams, uint32_t left,
                           const uint32_t *at, bool one, struct ssm_item *items)
{
    uint32_t n = at[streams[0]] == 0 || rig_below(&rng, 2) ? left : 1 + rig_below(&rng, left);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i + rig_below(&rng, left - i), stream = streams[k];
        uint32_t steps = one || p->streams[stream].T - at[stream] < 2 ? 1 : 1 + rig_below(&rng, 2);
        streams[k] = streams[i];
        streams[i] = stream;
        items[i] = play_item(p, stream, at[stream], steps, slots[stream]);
    }
    return n;
}

static void play_in_any_order(struct play *p, struct ssm_engine *e)
{
    struct ssm_slot *slots = malloc(p->n * sizeof *slots);
    struct ssm_item *items = malloc(p->n * sizeof *items);
    uint32_t *streams = malloc(p->n * sizeof *streams), *at = calloc(p->n, sizeof *at), left = p->n;
    for (uint32_t i = 0; i < p->n; i++) {
        slots[i] = rig_slot(e);
        streams[i] = i;
    }
    for (uint32_t call = 0; left > 0; call++) {
        uint32_t n = pick_items(p, slots, streams, left, at, call % 3 < 2, items), to = 0;
        assert_int_equal(ssm_advance(e, items, n), 0);
        for (uint32_t i = 0; i < n; i++)
            at[streams[i]] += items[i].n;
        for (uint32_t i = 0; i < left; i++)
            if (at[streams[i]] < p->streams[streams[i]].T)
                streams[to++] = streams[i];
        left = to;
    }
    for (uint32_t i = 0; i < p->n; i++)
        play_save(p, i, e, slots[i]);
    free(slots);
    free(items);
    free(streams);
    free(at);
}

/* A model that is large for a GPU and has no round sizes, as many streams as it takes to go its own way through it. */
static void crowds_in_any_order(void **state)
{
    const char *shape = rig_cuda() ? "352x5,16,40" : shapes[0];
    const uint32_t n = !rig_cuda() ? 40 : rig_light() ? 16 : 700;
    struct ssm_model *m = rig_vivid(shape);
    struct rig_variant v;
    uint32_t *T = malloc(n * sizeof *T);
    char why[PLAY_WHY];
    for (uint32_t i = 0; i < n; i++)
        T[i] = rig_light() ? 1 : 2 + i % 3;
    for (unsigned i = rig_light(); rig_variant(i, &v) && !(rig_light() && i > 1); i++) {
        struct ssm_engine *e = rig_engine(m, &v, 2, n + 1);
        struct play alone, mixed;
        play_new(&alone, m, T, n, &rng);
        play_alone(&alone, e, UINT32_MAX);
        play_again(&mixed, &alone);
        play_in_any_order(&mixed, e);
        if (!play_same(&mixed, &alone, why))
            fail_msg("%s on %s: in any order: %s", shape, rig_name(&v), why);
        play_done(&mixed);
        play_done(&alone);
        ssm_engine_close(&e);
    }
    free(T);
    ssm_model_close(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_rows),          cmocka_unit_test(runs_of_any_length),
        cmocka_unit_test(runs_across_slices),          cmocka_unit_test(short_runs_in_slices),
        cmocka_unit_test(runs_between_short_and_long), cmocka_unit_test(many_at_once),
        cmocka_unit_test(crowds_in_any_order)};
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("rows");
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
