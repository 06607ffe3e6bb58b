/* test_front.c: patches, gap factors and causal normalisation: how items are cut, what missing values do, and what
 * hostile series leave behind. */
#include "ssm/front.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LEN = 1200, STEPS = LEN };

struct result {
    uint32_t steps;
    float features[STEPS * 64], g[STEPS];
    struct ssm_frame frames[STEPS];
    double patches[LEN];
    unsigned char normaliser[64], patch[512];
};

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33) % below;
}

static double gauss(void)
{
    double s = 0.0;
    for (int i = 0; i < 12; i++)
        s += rnd(1u << 30) / (double)(1u << 30);
    return s - 6.0;
}

static struct ssm_front front_of(uint32_t patch, bool mask)
{
    return (struct ssm_front){
        .patch = patch, .mask = mask, .features = (mask ? 3 : 2) * patch + 2, .memory = 200, .diff_memory = 50};
}

/* Runs x through in items of at most `cut` samples, each in turns of at most `turn` steps; 0: all at once. */
static struct result *run(const struct ssm_front *f, const double *x, uint32_t n, const int64_t *dt, int64_t interval,
                          enum ssm_nan nan, uint32_t cut, uint32_t turn)
{
    struct result *r = malloc(sizeof *r);
    size_t normaliser, patch;
    ssm_front_bytes(f, &normaliser, &patch);
    assert_true(normaliser <= sizeof r->normaliser && patch <= sizeof r->patch);
    memset(r, 0xA5, sizeof *r);
    ssm_front_reset(f, r->normaliser, r->patch);
    r->steps = 0;
    for (uint32_t done = 0, len; done < n; done += len) {
        len = cut ? 1 + rnd(cut) : n;
        len = len < n - done ? len : n - done;
        struct ssm_item item = {
            .n = len, .x = x + done, .x_stride = 1, .dt = dt ? dt + done : NULL, .interval = interval, .nan = nan};
        for (uint32_t at = 0; at < len;) {
            uint32_t k = r->steps;
            r->steps += ssm_front_run(f, r->normaliser, r->patch, &item, &at, turn ? 1 + rnd(turn) : STEPS,
                                      r->features + (size_t)k * f->features, f->features, r->g + k, r->frames + k,
                                      r->patches + (size_t)k * f->patch);
        }
    }
    return r;
}

static void assert_same(const struct ssm_front *f, const struct result *a, const struct result *b)
{
    assert_int_equal(a->steps, b->steps);
    assert_memory_equal(a->features, b->features, (size_t)a->steps * f->features * sizeof(float));
    assert_memory_equal(a->g, b->g, a->steps * sizeof(float));
    assert_memory_equal(a->patches, b->patches, (size_t)a->steps * f->patch * sizeof(double));
    assert_memory_equal(a->normaliser, b->normaliser, sizeof a->normaliser);
    assert_memory_equal(a->patch, b->patch, sizeof a->patch);
    for (uint32_t i = 0; i < a->steps; i++) {
        assert_true(a->frames[i].mean == b->frames[i].mean && a->frames[i].scale == b->frames[i].scale);
        assert_true(a->frames[i].last == b->frames[i].last && a->frames[i].step == b->frames[i].step);
        assert_true(a->frames[i].taken == b->frames[i].taken && a->frames[i].blank == b->frames[i].blank);
    }
}

static void cuts_do_not_matter(void **state)
{
    static const uint32_t patches[] = {1, 2, 3, 4, 7, 16};
    double x[LEN];
    int64_t dt[LEN];
    for (unsigned trial = 0; trial < 36; trial++) {
        struct ssm_front f = front_of(patches[trial % 6], true);
        for (uint32_t i = 0; i < LEN; i++) {
            x[i] = rnd(10) < trial % 4 ? (double)NAN : 1e6 + 3.0 * gauss();
            dt[i] = rnd(5);
        }
        struct result *whole = run(&f, x, LEN, dt, 2, (enum ssm_nan)(trial % 3), 0, 0);
        struct result *cut = run(&f, x, LEN, dt, 2, (enum ssm_nan)(trial % 3), 9, 3);
        assert_int_equal(whole->steps, LEN / f.patch);
        assert_same(&f, whole, cut);
        free(whole);
        free(cut);
    }
}

static void stride_is_honoured(void **state)
{
    struct ssm_front f = front_of(4, false);
    double apart[60], together[20];
    for (int i = 0; i < 60; i++)
        apart[i] = gauss();
    for (int i = 0; i < 20; i++)
        together[i] = apart[3 * i];
    struct result *r = run(&f, together, 20, NULL, 1, SSM_NAN_SKIP, 0, 0);
    struct ssm_item item = {.n = 20, .x = apart, .x_stride = 3, .interval = 1, .nan = SSM_NAN_SKIP};
    unsigned char normaliser[64], patch[512];
    float features[5 * 10], g[5];
    struct ssm_frame frames[5];
    double patches[20];
    uint32_t at = 0;
    ssm_front_reset(&f, normaliser, patch);
    assert_int_equal(ssm_front_run(&f, normaliser, patch, &item, &at, 5, features, 10, g, frames, patches), 5);
    assert_memory_equal(features, r->features, sizeof features);
    free(r);
}

static void gaps(void **state)
{
    struct ssm_front f = front_of(4, true);
    double x[40] = {0};
    int64_t dt[40];
    for (int i = 0; i < 40; i++)
        dt[i] = 1;
    dt[9] = 1 + 6; /* six samples missing inside step 2 */
    struct result *r = run(&f, x, 40, dt, 1, SSM_NAN_MASK, 5, 2);
    for (int k = 0; k < 10; k++)
        assert_true(r->g[k] == (k == 2 ? 1.0f + 6.0f / 4.0f : 1.0f));
    free(r);
    for (int64_t interval = 1; interval < INT64_MAX / 4; interval = interval * 7 + 3) {
        r = run(&f, x, 40, NULL, interval, SSM_NAN_MASK, 0, 0); /* regular: exactly 1 in any unit */
        for (int k = 0; k < 10; k++)
            assert_true(r->g[k] == 1.0f);
        free(r);
    }
    for (int i = 0; i < 40; i++)
        dt[i] = INT64_MAX / 2; /* saturates, stays positive and finite */
    r = run(&f, x, 40, dt, 1, SSM_NAN_MASK, 0, 0);
    for (int k = 0; k < 10; k++)
        assert_true(isfinite(r->g[k]) && r->g[k] >= 1.0f);
    free(r);
}

static void a_skipped_step_is_covered_by_the_next_gap(void **state)
{
    struct ssm_front f = front_of(4, true);
    double x[32];
    for (int i = 0; i < 32; i++)
        x[i] = gauss();
    x[9] = x[13] = (double)INFINITY; /* counts as missing: steps 2 and 3 */
    struct result *r = run(&f, x, 32, NULL, 1, SSM_NAN_SKIP, 3, 1);
    for (int k = 0; k < 8; k++) {
        assert_true(r->frames[k].taken == (k != 2 && k != 3));
        if (r->frames[k].taken)
            assert_true(r->g[k] == (k == 4 ? 3.0f : 1.0f));
    }
    assert_true(isnan(r->patches[9]) && r->frames[2].last == x[11]); /* its finite samples were learnt */
    free(r);

    x[1] = (double)NAN; /* now the first step is not taken: the first one taken has g = 1 */
    r = run(&f, x, 32, NULL, 1, SSM_NAN_SKIP, 0, 0);
    assert_true(!r->frames[0].taken && r->frames[1].taken && r->g[1] == 1.0f);
    free(r);
}

static void missing_values(void **state)
{
    struct ssm_front f = front_of(2, true);
    const double nan = (double)NAN;
    double x[8] = {nan, nan, nan, 5.0, nan, 7.0, 7.0, nan};
    struct result *r = run(&f, x, 8, NULL, 1, SSM_NAN_MASK, 0, 0);
    assert_true(r->frames[0].taken && r->frames[0].blank && !r->frames[1].blank);
    for (uint32_t i = 0; i < f.features; i++)
        assert_true(r->features[i] == 0.0f);
    const float *step2 = r->features + 2 * f.features; /* u u w w b b ratio count */
    assert_true(step2[0] == 0.0f && step2[2] == 0.0f && step2[4] == 0.0f && step2[5] == 1.0f);
    assert_true(fabsf(step2[3] - asinhf(1.0f)) < 1e-6f); /* (7 − 5)/2: over the hole to the last finite one */
    free(r);

    r = run(&f, x, 8, NULL, 1, SSM_NAN_HOLD, 0, 0);
    assert_true(!r->frames[0].taken && !r->frames[1].taken && r->frames[2].taken && r->frames[3].taken);
    assert_true(isnan(r->patches[4]) && isnan(r->patches[7])); /* held, not scored */
    assert_true(r->features[2 * f.features + 4] == 1.0f && r->frames[3].last == 7.0);
    free(r);
}

static void statistics_are_plain_averages_at_first(void **state)
{
    struct ssm_front f = front_of(4, false);
    double x[100], mean = 0.0, var = 0.0, diff2 = 0.0;
    for (int i = 0; i < 100; i++)
        x[i] = 10.0 + gauss();
    struct result *r = run(&f, x, 48, NULL, 1, SSM_NAN_SKIP, 0, 0);
    for (int i = 0; i < 48; i++)
        mean += x[i] / 48;
    for (int i = 0; i < 48; i++)
        var += (x[i] - mean) * (x[i] - mean) / 48;
    for (int i = 1; i < 48; i++)
        diff2 += (x[i] - x[i - 1]) * (x[i] - x[i - 1]) / 47;
    assert_true(fabs(r->frames[11].mean - mean) < 1e-12 && fabs(r->frames[11].scale - sqrt(var)) < 1e-12);
    assert_true(fabs(r->frames[11].step - sqrt(diff2)) < 1e-12 && r->frames[11].last == x[47]);
    free(r);
}

static void counters_keep_their_detail(void **state)
{
    struct ssm_front f = front_of(4, true);
    double x[LEN], high[LEN];
    for (int i = 0; i < LEN; i++) {
        x[i] = rint(64.0 * gauss()) / 64.0;
        high[i] = 1e9 + x[i];
    }
    struct result *a = run(&f, x, LEN, NULL, 1, SSM_NAN_MASK, 0, 0), *b = run(&f, high, LEN, NULL, 1, SSM_NAN_MASK, 0, 0);
    for (size_t i = 0; i < (size_t)a->steps * f.features; i++)
        assert_true(fabsf(a->features[i] - b->features[i]) <= 1e-5f);
    free(a);
    free(b);
}

static void hostile_series_stay_finite(void **state)
{
    struct ssm_front f = front_of(4, true);
    double x[LEN];
    for (unsigned kind = 0; kind < 8; kind++) {
        for (int i = 0; i < LEN; i++)
            x[i] = kind == 0   ? 0.0
                   : kind == 1 ? 1e9
                   : kind == 2 ? 5e-324 * i
                   : kind == 3 ? (i % 2 ? 1.7e308 : -1.7e308)
                   : kind == 4 ? (i == 700 ? 1e200 : 0.0)
                   : kind == 5 ? exp(i - 600.0)
                   : kind == 6 ? (i < 600 ? 1.0 : 1.0 + 1e-15 * (i % 2))
                               : (rnd(3) ? (double)NAN : (double)(rnd(2) ? INFINITY : -INFINITY));
        struct result *r = run(&f, x, LEN, NULL, 1, SSM_NAN_MASK, 7, 0);
        for (uint32_t k = 0; k < r->steps; k++) {
            double bound = asinh(sqrt(fmin(4.0 * (k + 1), f.memory))) + 0.05;
            for (uint32_t i = 0; i < f.features; i++)
                assert_true(fabsf(r->features[k * f.features + i]) <= fmax(bound, 10.0));
            for (uint32_t i = 0; i < 2 * f.patch; i++)
                assert_true(fabsf(r->features[k * f.features + i]) <= bound);
            assert_true(r->frames[k].scale > 0.0 && isfinite(r->frames[k].scale) && r->frames[k].step > 0.0);
            assert_true(isfinite(r->frames[k].step) && isfinite(r->frames[k].mean) && isfinite(r->frames[k].last));
        }
        free(r);
    }
}

int main(void)
{
    rng_state = 20240607;
    printf("seed %llu\n", (unsigned long long)rng_state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_do_not_matter),
        cmocka_unit_test(stride_is_honoured),
        cmocka_unit_test(gaps),
        cmocka_unit_test(a_skipped_step_is_covered_by_the_next_gap),
        cmocka_unit_test(missing_values),
        cmocka_unit_test(statistics_are_plain_averages_at_first),
        cmocka_unit_test(counters_keep_their_detail),
        cmocka_unit_test(hostile_series_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
