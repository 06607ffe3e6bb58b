/* test_overlap.c: ssm_advance in two halves: with one batch on the device while the next is filled, the outputs are
 * those of batches one after the other, to the bit; slots may be moved while batches are under way. */
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

enum { STREAMS = 40, STEPS = 60 };
static struct rng rng;

/* What a caller may not touch while a batch is under way is its own copy here, spoilt after the wait. */
struct flight {
    struct ssm_item items[STREAMS];
    int32_t tokens[STREAMS][STEPS];
    int64_t dt[STREAMS][STEPS];
    float *logits[STREAMS]; /* [STEPS][V] */
    uint32_t n, stream[STREAMS], at[STREAMS];
};

static void flight_open(struct flight *f, uint32_t V)
{
    for (unsigned i = 0; i < STREAMS; i++)
        f->logits[i] = malloc((size_t)STEPS * V * sizeof(float));
}

static void flight_close(struct flight *f)
{
    for (unsigned i = 0; i < STREAMS; i++)
        free(f->logits[i]);
}

static void board(struct flight *f, const struct play *p, uint32_t stream, uint32_t at, uint32_t n,
                  struct ssm_slot slot)
{
    struct ssm_item item = play_item(p, stream, at, n, slot);
    uint32_t i = f->n++;
    memcpy(f->tokens[i], item.tokens, n * sizeof *f->tokens[i]);
    item.tokens = f->tokens[i];
    if (item.dt) {
        memcpy(f->dt[i], item.dt, n * sizeof *f->dt[i]);
        item.dt = f->dt[i];
    }
    item.out.logits = f->logits[i];
    poison(f->logits[i], (size_t)n * p->V);
    f->items[i] = item;
    f->stream[i] = stream;
    f->at[i] = at;
}

static void land(struct flight *f, struct play *p)
{
    for (uint32_t i = 0; i < f->n; i++) {
        memcpy(p->streams[f->stream[i]].logits + (size_t)f->at[i] * p->V, f->logits[i],
               (size_t)f->items[i].n * p->V * sizeof(float));
        memset(f->tokens[i], 0x7f, sizeof f->tokens[i]);
        memset(f->dt[i], 0x7f, sizeof f->dt[i]);
        poison(f->logits[i], (size_t)f->items[i].n * p->V);
    }
    memset(f->items, 0x7f, sizeof f->items);
    f->n = 0;
}

/* A slot that a batch has, saved, given back, taken anew and restored: the stream goes on in another slot. */
static void move_slot(struct ssm_engine *e, struct ssm_slot *slot)
{
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    assert_int_equal(ssm_slot_save(e, *slot, saved), 0);
    ssm_slot_reset(e, *slot);
    ssm_slot_give(e, *slot);
    *slot = rig_slot(e);
    assert_int_equal(ssm_slot_restore(e, *slot, saved, ssm_slot_bytes(e), NULL, NULL), 0);
    free(saved);
}

/* Batches of random streams and lengths, `depth` of them under way at a time. */
static void play_overlapping(struct play *p, struct ssm_engine *e, unsigned depth, bool moving)
{
    struct flight *flights = calloc(2, sizeof *flights);
    struct ssm_slot slots[STREAMS];
    uint32_t at[STREAMS] = {0}, left = STREAMS;
    unsigned started = 0, landed = 0;
    flight_open(&flights[0], p->V);
    flight_open(&flights[1], p->V);
    for (unsigned i = 0; i < STREAMS; i++)
        slots[i] = rig_slot(e);
    while (left > 0 || landed < started) {
        struct flight *f = &flights[started % 2];
        left = 0;
        for (unsigned i = 0; i < STREAMS; i++) {
            uint32_t n = 1 + rig_below(&rng, rig_below(&rng, 3) ? 2 : 20), rest = p->streams[i].T - at[i];
            n = n < rest ? n : rest;
            if (n > 0 && rig_below(&rng, 4)) {
                board(f, p, i, at[i], n, slots[i]);
                at[i] += n;
            }
            left += at[i] < p->streams[i].T;
        }
        if (f->n > 0) {
            assert_int_equal(ssm_advance_start(e, f->items, f->n), 0);
            started++;
        }
        if (moving && rig_below(&rng, 3) == 0)
            move_slot(e, &slots[rig_below(&rng, STREAMS)]);
        while (started - landed >= depth || (left == 0 && landed < started)) {
            assert_int_equal(ssm_advance_wait(e), 0);
            land(&flights[landed++ % 2], p);
        }
    }
    assert_true(ssm_advance_done(e));
    assert_int_equal(ssm_advance_wait(e), 0);
    for (unsigned i = 0; i < STREAMS; i++) {
        play_save(p, i, e, slots[i]);
        ssm_slot_give(e, slots[i]);
    }
    flight_close(&flights[0]);
    flight_close(&flights[1]);
    free(flights);
}

static void run(unsigned depth, bool moving)
{
    static const char *const shapes[] = {"64x2,16,50", "30x2,5,77", "768x1,16,100"};
    char why[PLAY_WHY];
    struct rig_variant v;
    uint32_t T[STREAMS];
    for (unsigned i = 0; i < STREAMS; i++)
        T[i] = rig_light() ? STEPS / 4 : STEPS;
    if (rig_light() && (depth == 1 || moving))
        skip();
    for (unsigned s = 0; s < (rig_cuda() && !rig_light() ? 3 : 1); s++) {
        struct ssm_model *m = rig_vivid(shapes[s]);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            if (v.ops && strcmp(v.ops, rig_truth(v.weights).ops))
                continue; /* the CPU is done when start returns, on every table */
            struct ssm_engine *e = rig_engine(m, &v, 1, STREAMS);
            struct play plain, overlapping;
            printf("%s on %s\n", shapes[s], rig_name(&v));
            play_new(&plain, m, T, STREAMS, &rng);
            play_together(&plain, e, 7);
            play_again(&overlapping, &plain);
            play_overlapping(&overlapping, e, depth, moving);
            if (!play_same(&overlapping, &plain, why))
                fail_msg("%s on %s, %u under way: %s", shapes[s], rig_name(&v), depth, why);
            play_done(&overlapping);
            play_done(&plain);
            ssm_engine_close(&e);
        }
        ssm_model_close(&m);
    }
}

static void one_under_way(void **state)
{
    run(1, false);
}

static void two_under_way(void **state)
{
    run(2, false);
}

static void slots_move_meanwhile(void **state)
{
    run(2, true);
}

/* An engine that is closed with batches under way completes them first. */
static void closing_completes(void **state)
{
    struct rig_variant v;
    struct ssm_model *m = rig_random("64x2,16,50");
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *e = rig_engine(m, &v, 1, 1);
        int32_t tokens[STEPS] = {0};
        static float logits[STEPS * 50];
        struct ssm_item item = {.slot = rig_slot(e), .n = STEPS, .tokens = tokens, .interval = 1};
        item.out = (struct ssm_out){.logits = logits, .logits_stride = 50};
        assert_int_equal(ssm_advance_start(e, &item, 1), 0);
        ssm_engine_close(&e);
    }
    ssm_model_close(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_under_way),
        cmocka_unit_test(two_under_way),
        cmocka_unit_test(slots_move_meanwhile),
        cmocka_unit_test(closing_completes),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("overlap");
    return cmocka_run_group_tests_name("overlap", tests, NULL, NULL);
}
