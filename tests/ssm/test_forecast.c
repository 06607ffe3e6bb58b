/* test_forecast.c: head outputs to quantiles, and the density between and beyond them. */
#include "ssm/forecast.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const float levels[9] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f, 0.9f};

struct scored {
    double u, tail, surprise;
};

static struct scored score(const double *q, double scale, double x)
{
    struct scored s = {NAN, NAN, NAN};
    ssm_forecast_score(q, levels, 9, scale, x, &s.u, &s.tail, &s.surprise);
    return s;
}

static void quantiles_follow_the_formula(void **state)
{
    struct ssm_frame frame = {.mean = 3.0, .scale = 2.0, .last = 100.0, .step = 0.5, .taken = true};
    const float z[4] = {-1.0f, 0.0f, 0.25f, 2.0f};
    double y[4];
    for (uint32_t h = 1; h <= 128; h *= 4) {
        ssm_forecast_quantiles(&frame, h, z, 4, y);
        for (int q = 0; q < 4; q++)
            assert_true(fabs(y[q] - (100.0 + 0.5 * sqrt((double)h) * sinh((double)z[q]))) < 1e-12);
    }
}

static void quantiles_are_sorted_and_finite(void **state)
{
    struct ssm_frame frame = {.last = -1e150, .step = 1e150};
    const float z[6] = {3.0f, -50.0f, 0.5f, 1e30f, -1e30f, 0.5f};
    double y[6];
    ssm_forecast_quantiles(&frame, 128, z, 6, y);
    for (int q = 0; q < 6; q++)
        assert_true(isfinite((float)y[q]) && (q == 0 || y[q] >= y[q - 1]));
    frame = (struct ssm_frame){.last = 1.0, .step = 1e-30};
    ssm_forecast_quantiles(&frame, 1, z, 6, y);
    for (int q = 0; q < 6; q++)
        assert_true(fabs(y[q] - 1.0) < 1e-15);
}

/* The density is that of the CDF, integrates to 1, and surprise falls back on −ln(density·scale). */
static void density_is_the_derivative_of_the_cdf(void **state)
{
    const double q[9] = {-2.0, -1.1, -0.6, -0.25, 0.0, 0.3, 0.9, 1.4, 3.0};
    const double step = 1e-3, scale = 2.5;
    double mass = 0.0, last = 0.0;
    for (double x = -40.0; x < 60.0; x += step) {
        struct scored s = score(q, scale, x + step / 2);
        mass += exp(-s.surprise) / scale * step;
        assert_true(s.u >= last && s.tail >= 0.0);
        assert_true(fabs(mass - s.u) < 2e-3);
        last = s.u;
    }
    assert_true(fabs(mass - 1.0) < 1e-5);
    for (int i = 0; i < 9; i++)
        assert_true(fabs(score(q, scale, q[i]).u - (double)levels[i]) < 1e-6);
}

static void tails_meet_and_never_saturate(void **state)
{
    const double q[9] = {-4, -3, -2, -1, 0, 1, 2, 3, 4};
    struct scored in = score(q, 1.0, 4.0 - 1e-9), out = score(q, 1.0, 4.0 + 1e-9);
    assert_true(fabs(in.surprise - out.surprise) < 1e-6 && fabs(in.tail - out.tail) < 1e-6);
    assert_true(fabs(in.tail + log(0.2)) < 1e-6);
    double last = 0.0;
    for (double x = 5.0; x < 1e5; x *= 3.0) {
        struct scored above = score(q, 1.0, x), below = score(q, 1.0, -x);
        assert_true(above.tail > last && fabs(above.tail - below.tail) < 1e-5 * above.tail);
        assert_true(above.u <= 1.0 && below.u >= 0.0 && isfinite(above.surprise));
        last = above.tail;
    }
    assert_true(isfinite((float)score(q, 1.0, 1e150).surprise));
}

static void coincident_quantiles_keep_the_density_finite(void **state)
{
    for (int kind = 0; kind < 3; kind++) {
        double level = kind == 0 ? 0.0 : kind == 1 ? 1e9 : -1e150, q[9];
        for (int i = 0; i < 9; i++)
            q[i] = level;
        for (double scale = 1e-30; scale < 1e10; scale *= 1e8) {
            struct scored s = score(q, scale, level);
            assert_true(fabs(s.u - 0.5) < 1e-6 && s.tail < 1e-5);
            assert_true(fabs(s.surprise - log(1e-3)) < 1e-3); /* density 0.1 per 1e-4 scales */
            assert_true(isfinite(score(q, scale, level + 1.0).surprise));
        }
    }
}

/* In digital silence a forecaster is sure of the next sample; its fp32 arithmetic is not, beyond 1e-6 scales. */
static void rounding_decides_nothing(void **state)
{
    const double scale = 3.0, noise = 1e-6 * scale;
    for (double x = -1e-2 * scale; x <= 1e-2 * scale; x += 1e-5 * scale) {
        double flat[9] = {0}, rough[9];
        for (int i = 0; i < 9; i++)
            rough[i] = noise * (i - 4 + sin(i)) / 4.0;
        struct scored want = score(flat, scale, x), got = score(rough, scale, x);
        assert_true(fabs(got.u - want.u) < 2e-3);
        assert_true(fabs(got.tail - want.tail) < 2e-2 * (1.0 + want.tail));
        assert_true(fabs(got.surprise - want.surprise) < 2e-2 * (1.0 + fabs(want.surprise)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_follow_the_formula),
        cmocka_unit_test(quantiles_are_sorted_and_finite),
        cmocka_unit_test(density_is_the_derivative_of_the_cdf),
        cmocka_unit_test(tails_meet_and_never_saturate),
        cmocka_unit_test(coincident_quantiles_keep_the_density_finite),
        cmocka_unit_test(rounding_decides_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
