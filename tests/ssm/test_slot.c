/* test_slot.c: slots: save, restore and copy are bitwise and go on bitwise, damaged bytes are refused and leave the
 * slot alone, stale handles are caught, unused slots cost no memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER true
#elif defined(__has_feature)
#define THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define THREAD_SANITIZER false
#endif

enum { N = 700, CUT = 333, HORIZON = 7, Q = 5, E_MAX = 768 };
static struct rng rng;
static const char *size;
static struct ssm_model *model;
static double x[N];

struct rows {
    float forecast[N * HORIZON * Q], anomaly[N * 3], embedding[(N / 3 + 1) * E_MAX];
};

static void feed(struct ssm_engine *e, struct ssm_slot slot, uint32_t from, uint32_t to, struct rows *r)
{
    struct ssm_item item = {
        .slot = slot, .n = to - from, .x = x + from, .x_stride = 1, .interval = 1, .nan = SSM_NAN_MASK};
    item.out = (struct ssm_out){.forecast = r->forecast,
                                .forecast_stride = HORIZON * Q,
                                .horizon = HORIZON,
                                .n_q = Q,
                                .q = {0, 1, 2, 3, 4},
                                .anomaly = r->anomaly,
                                .anomaly_stride = 3,
                                .embedding = r->embedding,
                                .embedding_stride = ssm_model_info(model)->embedding};
    poison(r->forecast, N * HORIZON * Q);
    poison(r->anomaly, N * 3);
    poison(r->embedding, (N / 3 + 1) * E_MAX);
    ssm_advance(e, &item, 1);
}

static int set_up(void **state)
{
    model = folder_sized_model(size, 3, HORIZON, Q, true);
    for (unsigned i = 0; i < N; i++)
        x[i] = 1e6 + 50.0 * sin(i * 0.2) + rig_normal(&rng);
    x[200] = NAN;
    return 0;
}

static int tear_down(void **state)
{
    ssm_model_close(&model);
    rig_sweep();
    return 0;
}

/* Cut inside a patch, restored into another engine with other threads and another slot: not a bit differs. */
static void goes_on_bitwise(void **state)
{
    struct rows *whole = malloc(sizeof *whole), *rest = malloc(sizeof *rest);
    struct rig_variant v;
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *a = rig_engine(model, &v, 1, 4), *b = rig_engine(model, &v, 2, 4);
        struct ssm_slot sa = rig_slot(a), sb = (rig_slot(b), rig_slot(b));
        printf("%s on %s\n", size, rig_name(&v));
        size_t bytes = ssm_slot_bytes(a);
        uint8_t *cut = malloc(bytes), *again = malloc(bytes), *end = malloc(bytes);
        bool exact = false;
        feed(a, sa, 0, CUT, whole);
        ssm_slot_save(a, sa, cut);
        feed(a, sa, CUT, N, whole);
        ssm_slot_save(a, sa, end);
        assert_int_equal(ssm_slot_restore(b, sb, cut, bytes, &exact, NULL), 0);
        assert_true(exact);
        ssm_slot_save(b, sb, again);
        assert_memory_equal(cut, again, bytes);
        ssm_slot_save_unsealed(b, sb, again);
        assert_int_equal(ssm_slot_restore(b, sb, again, bytes, NULL, NULL), -EBADMSG);
        ssm_slot_seal(again, bytes);
        assert_memory_equal(cut, again, bytes);
        feed(b, sb, CUT, N, rest);
        assert_memory_equal(whole->forecast, rest->forecast, (N / 3 - CUT / 3) * HORIZON * Q * sizeof(float));
        assert_memory_equal(whole->anomaly, rest->anomaly, (N / 3 - CUT / 3) * 9 * sizeof(float));
        ssm_slot_save(b, sb, again);
        assert_memory_equal(end, again, bytes);
        free(cut);
        free(again);
        free(end);
        ssm_engine_close(&a);
        ssm_engine_close(&b);
    }
    free(whole);
    free(rest);
}

/* A copy, over a slot that had gone another way, is the slot: it goes on with the same bits, and the first is
 * untouched. */
static void copies_go_on_bitwise(void **state)
{
    struct rows *whole = malloc(sizeof *whole), *rest = malloc(sizeof *rest);
    struct rig_variant v;
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *e = rig_engine(model, &v, 3, 4);
        struct ssm_slot one = (rig_slot(e), rig_slot(e)), other = rig_slot(e);
        size_t bytes = ssm_slot_bytes(e), rows = N / 3 - CUT / 3;
        uint8_t *saved = malloc(bytes), *again = malloc(bytes);
        feed(e, other, 7, N, rest);
        feed(e, one, 0, CUT, whole);
        assert_int_equal(ssm_slot_copy(e, one, other), 0);
        ssm_slot_save(e, one, saved);
        feed(e, other, CUT, N, rest);
        ssm_slot_save(e, one, again);
        assert_memory_equal(saved, again, bytes);
        feed(e, one, CUT, N, whole);
        assert_memory_equal(whole->forecast, rest->forecast, rows * HORIZON * Q * sizeof(float));
        assert_memory_equal(whole->anomaly, rest->anomaly, rows * 9 * sizeof(float));
        ssm_slot_save(e, one, saved);
        ssm_slot_save(e, other, again);
        assert_memory_equal(saved, again, bytes);
        free(saved);
        free(again);
        ssm_engine_close(&e);
    }
    free(whole);
    free(rest);
}

static void sections_tile_the_bytes(void **state)
{
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 1);
    unsigned n;
    size_t at = 0;
    const struct ssm_section *s = ssm_slot_sections(e, &n);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(s[i].offset, at);
        assert_true(s[i].bytes > 0);
        assert_true(strcmp(s[i].name, "calibrator") || s[i].bytes <= 4096);
        at += s[i].bytes;
    }
    assert_string_equal(s[0].name, "header");
    assert_int_equal(at, ssm_slot_bytes(e));
    ssm_engine_close(&e);
}

static void refuse(struct ssm_engine *e, struct ssm_slot slot, const uint8_t *bytes, size_t n, const char *reason)
{
    size_t all = ssm_slot_bytes(e);
    uint8_t *before = malloc(all), *after = malloc(all);
    char why[SSM_ERR] = "";
    bool exact = true;
    ssm_slot_save(e, slot, before);
    assert_int_equal(ssm_slot_restore(e, slot, bytes, n, &exact, why), -EBADMSG);
    ssm_slot_save(e, slot, after);
    assert_memory_equal(before, after, all);
    assert_non_null(strstr(why, reason));
    free(before);
    free(after);
}

static void damaged_bytes_are_refused(void **state)
{
    struct rows *r = malloc(sizeof *r);
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 2);
    struct ssm_slot slot = rig_slot(e), other = rig_slot(e);
    size_t bytes = ssm_slot_bytes(e);
    uint8_t *saved = malloc(bytes);
    feed(e, slot, 0, CUT, r);
    ssm_slot_save(e, slot, saved);
    for (unsigned i = 0; i < 400; i++) {
        size_t at = i < 64 ? i % bytes : rig_below(&rng, (uint32_t)bytes);
        uint8_t bit = (uint8_t)(1u << rig_below(&rng, 8));
        saved[at] ^= bit;
        refuse(e, other, saved, bytes, "saved slot");
        saved[at] ^= bit;
    }
    refuse(e, other, saved, bytes - 1, "bytes where");
    refuse(e, other, saved, 0, "not a saved slot");
    refuse(e, other, saved, 8, "not a saved slot");
    assert_int_equal(ssm_slot_restore(e, other, saved, bytes, NULL, NULL), 0);
    free(saved);
    free(r);
    ssm_engine_close(&e);
}

static void another_model_is_refused(void **state)
{
    struct ssm_model *wider = rig_random("24x2,5,0");
    struct rig_variant v = rig_common();
    struct ssm_engine *a = rig_engine(wider, &v, 1, 1), *b = rig_engine(model, &v, 1, 1);
    uint8_t *saved = malloc(ssm_slot_bytes(a));
    ssm_slot_save(a, rig_slot(a), saved);
    refuse(b, rig_slot(b), saved, ssm_slot_bytes(a), "another shape");
    free(saved);
    ssm_engine_close(&a);
    ssm_engine_close(&b);
    ssm_model_close(&wider);
}

static void another_arithmetic_is_said(void **state)
{
    struct rig_variant v;
    struct ssm_engine *ref = rig_engine(model, &rig_ref, 1, 1);
    struct ssm_slot slot = rig_slot(ref);
    uint8_t *saved = malloc(ssm_slot_bytes(ref));
    ssm_slot_save(ref, slot, saved);
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        bool exact, same = v.ops && !strcmp(v.ops, "ref") && v.weights == SSM_F32;
        struct ssm_engine *e = rig_engine(model, &v, 1, 1);
        assert_int_equal(ssm_slot_restore(e, rig_slot(e), saved, ssm_slot_bytes(e), &exact, NULL), 0);
        assert_int_equal(exact, same);
        ssm_engine_close(&e);
    }
    free(saved);
    ssm_engine_close(&ref);
}

/* Feeds [0, CUT) on `from`, restores into `to` and goes on there; the state after that, and the rows since in r. */
static void feed_across(const struct rig_variant *from, const struct rig_variant *to, struct rows *r, uint8_t *saved)
{
    struct ssm_engine *a = rig_engine(model, from, 1, 1), *b = rig_engine(model, to, 1, 1);
    struct ssm_slot sa = rig_slot(a), sb = rig_slot(b);
    size_t bytes = ssm_slot_bytes(a);
    assert_int_equal(bytes, ssm_slot_bytes(b));
    feed(a, sa, 0, CUT, r);
    ssm_slot_save(a, sa, saved);
    assert_int_equal(ssm_slot_restore(b, sb, saved, bytes, NULL, NULL), 0);
    feed(b, sb, CUT, N, r);
    ssm_slot_save(b, sb, saved);
    ssm_engine_close(&a);
    ssm_engine_close(&b);
}

static void check_close(const struct rig_variant *v, const struct rows *got, const uint8_t *got_state,
                        const struct rows *want, const uint8_t *want_state)
{
    double bound = bound_of(v, 2);
    size_t rows = N / 3 - CUT / 3;
    double error = relative_error(got->embedding, want->embedding, rows * ssm_model_info(model)->embedding);
    if (!within(error, bound))
        fail_msg("%s, %s: embeddings across devices differ by %.3g > %.3g", size, rig_name(v), error, bound);
    struct ssm_engine *e = rig_engine(model, &rig_ref, 1, 1);
    unsigned n;
    const struct ssm_section *s = ssm_slot_sections(e, &n);
    for (unsigned i = n - 2; i < n; i++) { /* "conv", "ssm" */
        error = relative_error((const float *)(const void *)(got_state + s[i].offset),
                               (const float *)(const void *)(want_state + s[i].offset), s[i].bytes / sizeof(float));
        if (!within(error, bound))
            fail_msg("%s, %s: %s across devices differs by %.3g > %.3g", size, rig_name(v), s[i].name, error, bound);
    }
    ssm_engine_close(&e);
}

/* A stream that moves from the scalar table to a device, or back, goes on within that device's tolerance. */
static void streams_move_between_devices(void **state)
{
    struct rows *stays = malloc(sizeof *stays), *moves = malloc(sizeof *moves);
    struct rig_variant v;
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct rig_variant truth = rig_truth(v.weights);
        struct ssm_engine *e = rig_engine(model, &truth, 1, 1);
        uint8_t *want = malloc(ssm_slot_bytes(e)), *got = malloc(ssm_slot_bytes(e));
        ssm_engine_close(&e);
        feed_across(&truth, &truth, stays, want);
        feed_across(&truth, &v, moves, got);
        check_close(&v, moves, got, stays, want);
        feed_across(&v, &truth, moves, got);
        check_close(&v, moves, got, stays, want);
        free(want);
        free(got);
    }
    free(stays);
    free(moves);
}

static void slots_are_recycled_fresh(void **state)
{
    struct rows *r = malloc(sizeof *r);
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 2);
    struct ssm_slot a = rig_slot(e), b = rig_slot(e), c;
    size_t bytes = ssm_slot_bytes(e);
    uint8_t *fresh = malloc(bytes), *now = malloc(bytes);
    assert_int_equal(ssm_slot_take(e, &c), -ENOSPC);
    assert_int_equal(ssm_slots_used(e), 2);
    ssm_slot_save(e, a, fresh);
    feed(e, a, 0, CUT, r);
    ssm_slot_reset(e, a);
    ssm_slot_save(e, a, now);
    assert_memory_equal(fresh, now, bytes);
    feed(e, a, 0, CUT, r);
    ssm_slot_give(e, a);
    assert_int_equal(ssm_slots_used(e), 1);
    c = rig_slot(e);
    assert_int_equal(c.index, a.index);
    assert_int_not_equal(c.generation, a.generation);
    ssm_slot_save(e, c, now);
    assert_memory_equal(fresh, now, bytes);
    ssm_slot_give(e, b);
    free(fresh);
    free(now);
    free(r);
    ssm_engine_close(&e);
}

/* A child that uses the handle must die of an assertion. */
static bool dies(struct ssm_engine *e, struct ssm_slot slot)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        fclose(stderr);
        ssm_slot_reset(e, slot);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void stale_handles_are_caught(void **state)
{
    struct ssm_engine *e = rig_engine(model, &rig_ref, 1, 2);
    struct ssm_slot a = rig_slot(e);
    assert_false(dies(e, a));
    ssm_slot_give(e, a);
    assert_true(dies(e, a));
    struct ssm_slot again = rig_slot(e);
    assert_int_equal(again.index, a.index);
    assert_true(dies(e, a));
    assert_false(dies(e, again));
    assert_true(dies(e, (struct ssm_slot){0, 0}));
    assert_true(dies(e, (struct ssm_slot){7, 1}));
    ssm_engine_close(&e);
}

static size_t resident(void)
{
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*u %zu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void untouched_slots_cost_nothing(void **state)
{
    if (THREAD_SANITIZER) /* whose shadow memory counts as resident too */
        skip();
    enum { SLOTS = 100000, TAKEN = 1000 };
    struct ssm_slot slot;
    struct ssm_engine *e = rig_engine(model, &rig_ref, 1, SLOTS);
    size_t before = resident();
    for (unsigned i = 0; i < TAKEN; i++)
        assert_int_equal(ssm_slot_take(e, &slot), 0);
    size_t grown = resident() - before, live = TAKEN * (ssm_slot_bytes(e) * 3 / 2 + 4096);
    assert_true(before > 0 && grown <= live);
    ssm_engine_close(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_bitwise),
        cmocka_unit_test(copies_go_on_bitwise),
        cmocka_unit_test(streams_move_between_devices),
        cmocka_unit_test(sections_tile_the_bytes),
        cmocka_unit_test(damaged_bytes_are_refused),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(another_arithmetic_is_said),
        cmocka_unit_test(slots_are_recycled_fresh),
        cmocka_unit_test(stale_handles_are_caught),
        cmocka_unit_test(untouched_slots_cost_nothing),
    };
    int failed = 0, code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("slot");
    for (unsigned i = 0; (size = rig_signal_size(i)); i++)
        failed += cmocka_run_group_tests_name(size, tests, set_up, tear_down);
    return failed;
}
