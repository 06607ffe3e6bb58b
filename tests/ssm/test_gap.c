/* test_gap.c: time. g = 1 is the plain model bit for bit; a hole of a then one of b is a hole of a + b; only ratios of
 * ticks matter; and a hole does what the formula says. Runs on every variant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

enum { T = 48, PATCH = 4, HORIZON = 6, Q = 3 };
static struct rng rng;

struct run {
    float rows[T * HORIZON * Q];
    uint8_t *state;
};

/* Feeds T samples with their dt; the outputs and the state after them. */
static struct run signal_run(struct ssm_engine *e, const double *x, const int64_t *dt, int64_t interval,
                             enum ssm_nan policy)
{
    struct run r;
    struct ssm_item item = {
        .slot = rig_slot(e), .n = T, .x = x, .x_stride = 1, .dt = dt, .interval = interval, .nan = policy};
    item.out = (struct ssm_out){
        .forecast = r.rows, .forecast_stride = HORIZON * Q, .horizon = HORIZON, .n_q = Q, .q = {0, 1, 2}};
    poison(r.rows, T * HORIZON * Q);
    ssm_advance(e, &item, 1);
    r.state = malloc(ssm_slot_bytes(e));
    ssm_slot_save(e, item.slot, r.state);
    ssm_slot_give(e, item.slot);
    return r;
}

static bool same_rows(const struct run *a, const struct run *b, unsigned from, unsigned to)
{
    size_t row = HORIZON * Q;
    return !memcmp(a->rows + from * row, b->rows + from * row, (to - from) * row * sizeof(float));
}

static void for_each_variant(void (*check)(const struct ssm_model *, struct ssm_engine *, const double *))
{
    struct rig_variant v;
    const char *size;
    double x[T];
    for (unsigned i = 0; i < T; i++)
        x[i] = 3.0 + rig_normal(&rng);
    for (unsigned k = 0; (size = rig_signal_size(k)); k++) {
        struct ssm_model *m = folder_sized_model(size, PATCH, HORIZON, Q, true);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            struct ssm_engine *e = rig_engine(m, &v, 1, 2);
            printf("%s on %s\n", size, rig_name(&v));
            check(m, e, x);
            ssm_engine_close(&e);
        }
        ssm_model_close(&m);
    }
}

static void compare(struct ssm_engine *e, struct run a, struct run b, bool want_same)
{
    bool same = same_rows(&a, &b, 0, T / PATCH) && !memcmp(a.state, b.state, ssm_slot_bytes(e));
    free(a.state);
    free(b.state);
    assert_int_equal(same, want_same);
}

static void check_unit(const struct ssm_model *m, struct ssm_engine *e, const double *x)
{
    int64_t ones[T], micro[T];
    for (unsigned i = 0; i < T; i++) {
        ones[i] = 1;
        micro[i] = 12345678901;
    }
    compare(e, signal_run(e, x, NULL, 1, SSM_NAN_MASK), signal_run(e, x, ones, 1, SSM_NAN_MASK), true);
    compare(e, signal_run(e, x, NULL, 1, SSM_NAN_MASK), signal_run(e, x, micro, 12345678901, SSM_NAN_MASK), true);
}

static void unit_factor_is_the_plain_model(void **state)
{
    for_each_variant(check_unit);
}

/* Inside one patch, before one sample or spread over several: one hole. */
static void check_sum(const struct ssm_model *m, struct ssm_engine *e, const double *x)
{
    int64_t once[T], twice[T], none[T];
    for (unsigned i = 0; i < T; i++)
        once[i] = twice[i] = none[i] = 1000;
    once[20] += 7919 + 104729;
    twice[20] += 7919;
    twice[22] += 104729;
    compare(e, signal_run(e, x, once, 1000, SSM_NAN_MASK), signal_run(e, x, twice, 1000, SSM_NAN_MASK), true);
    compare(e, signal_run(e, x, once, 1000, SSM_NAN_MASK), signal_run(e, x, none, 1000, SSM_NAN_MASK), false);
}

static void holes_add_up(void **state)
{
    for_each_variant(check_sum);
}

/* A patch that is skipped is a hole as long as itself. */
static void check_skip(const struct ssm_model *m, struct ssm_engine *e, const double *x)
{
    double holed[T], closed[T];
    int64_t dt[T];
    memcpy(holed, x, sizeof holed);
    for (unsigned i = 8; i < 8 + PATCH; i++)
        holed[i] = NAN;
    memcpy(closed, x, 8 * sizeof *x);
    memcpy(closed + 8, x + 8 + PATCH, (T - 8 - PATCH) * sizeof *x);
    memcpy(closed + T - PATCH, x, PATCH * sizeof *x);
    for (unsigned i = 0; i < T; i++)
        dt[i] = i == 8 ? 1 + PATCH : 1;
    struct run a = signal_run(e, holed, NULL, 1, SSM_NAN_SKIP), b = signal_run(e, closed, dt, 1, SSM_NAN_SKIP);
    size_t row = HORIZON * Q, skipped = 8 / PATCH, rows = T / PATCH - 1 - skipped;
    assert_true(isnan(a.rows[skipped * row]));
    assert_memory_equal(a.rows + (skipped + 1) * row, b.rows + skipped * row, rows * row * sizeof(float));
    free(a.state);
    free(b.state);
}

static void a_skipped_patch_is_a_hole(void **state)
{
    for_each_variant(check_skip);
}

/* Tokens step one by one, so the state after one step of factor g is known: h' = exp(Δ·A·g)·h + (what came in). What
 * came in, h'(g → ∞), and h'(0) = h + what came in then give h'(g) for every g: h'(2) decays h twice as long as h'(1).
 */
static void token_step(struct ssm_engine *e, const uint8_t *before, int64_t dt, uint8_t *after)
{
    struct ssm_slot slot = rig_slot(e);
    int32_t token = 5;
    struct ssm_item item = {.slot = slot, .n = 1, .tokens = &token, .dt = &dt, .interval = 1000};
    assert_int_equal(ssm_slot_restore(e, slot, before, ssm_slot_bytes(e), NULL, NULL), 0);
    ssm_advance(e, &item, 1);
    ssm_slot_save(e, slot, after);
    ssm_slot_give(e, slot);
}

static void check_decay(struct ssm_engine *e, const struct rig_variant *v)
{
    enum { FACTORS = 4 };
    static const int64_t dts[FACTORS] = {0, 1000, 2000, INT64_MAX};
    static const double rounding[] = {[SSM_F32] = 2e-6, [SSM_BF16] = 0x1p-6, [SSM_F16] = 0x1p-9};
    const double least = v->state == SSM_F16 ? 0x1p-22 : 0.0; /* a few of fp16's smallest steps */
    const struct ssm_model_info *info = ssm_model_info(ssm_engine_model(e));
    int32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct ssm_item item = {.slot = rig_slot(e), .n = 9, .tokens = tokens, .interval = 1};
    size_t bytes = ssm_slot_bytes(e), n = (size_t)info->d_inner * info->d_state;
    uint8_t *before = malloc(bytes), *after = malloc(bytes);
    float *h[FACTORS];
    ssm_advance(e, &item, 1);
    ssm_slot_save(e, item.slot, before);
    for (unsigned i = 0; i < FACTORS; i++) {
        h[i] = malloc(n * sizeof(float));
        token_step(e, before, dts[i], after);
        memcpy(h[i], after + bytes - n * sizeof(float), n * sizeof(float)); /* section "ssm" is the last */
    }
    for (size_t i = 0; i < n; i++) {
        double old = (double)h[0][i] - (double)h[3][i], one = (double)h[1][i] - (double)h[3][i];
        double two = (double)h[2][i] - (double)h[3][i], scale = fabs((double)h[3][i]) + fabs(old);
        if (!(fabs(two * old - one * one) <= (rounding[v->state] * scale + least) * (fabs(old) + scale)))
            fail_msg("%s: state %zu after g = 0, 1, 2, inf: %.9g %.9g %.9g %.9g", rig_name(v), i, (double)h[0][i],
                     (double)h[1][i], (double)h[2][i], (double)h[3][i]);
    }
    for (unsigned i = 0; i < FACTORS; i++)
        free(h[i]);
    free(before);
    free(after);
}

static void decay_follows_the_formula(void **state)
{
    static const char *const sizes[] = {"20x1,5,40", "64x1,16,40"};
    struct rig_variant v;
    for (unsigned k = 0; k < 2; k++) {
        struct ssm_model *m = rig_random(sizes[k]);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            struct ssm_engine *e = rig_engine(m, &v, 1, 2);
            check_decay(e, &v);
            ssm_engine_close(&e);
        }
        ssm_model_close(&m);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_factor_is_the_plain_model),
        cmocka_unit_test(holes_add_up),
        cmocka_unit_test(a_skipped_patch_is_a_hole),
        cmocka_unit_test(decay_follows_the_formula),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("gap");
    int failed = cmocka_run_group_tests_name("gap", tests, NULL, NULL);
    rig_sweep();
    return failed;
}
