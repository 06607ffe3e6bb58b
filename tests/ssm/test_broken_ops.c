/* test_broken_ops.c: tables that are wrong on purpose, each in a way that a kernel can be wrong; the comparisons behind
 * test_golden and test_bitwise must see every one. This program's own ssm_ops_pick() stands in for the library's.
 * argv[1]: the folder of golden files. */
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
#include "tests/ssm/ladder.h"

static struct ssm_ops broken;
static const struct rig_variant on_broken = {"cpu", "broken", SSM_F32, SSM_F32};
static const char *golden;
static struct rng rng;

const struct ssm_ops *ssm_ops_at(unsigned i)
{
    return i == 0 ? &broken : NULL;
}

const struct ssm_ops *ssm_ops_pick(const char *name, enum ssm_dtype dtype)
{
    return &broken;
}

static bool golden_holds(void)
{
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/plain", golden);
    struct golden_errors e = golden_run(dir, &on_broken);
    return within(e.logits, TOLERANCE_F32) && within(e.conv, TOLERANCE_F32) && within(e.ssm, TOLERANCE_F32);
}

static bool bitwise_holds(void)
{
    char why[PLAY_WHY];
    return bitwise_run("24x2,5,30", &on_broken, &rng, why);
}

static void the_truth_passes(void **state)
{
    broken = ssm_ops_ref;
    assert_true(golden_holds());
    assert_true(bitwise_holds());
}

/* ---- wrong in value: the golden files see it ------------------------------------------------------------- */

static void gemm_drops_last_output(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y,
                                   size_t ldy, bool add, uint32_t n0, uint32_t n1, void *scratch)
{
    ssm_ops_ref.gemm(w, x, ldx, M, y, ldy, add, n0, n1 - (n1 == w->n && n1 > n0), scratch);
}

static void gemm_ignores_bias(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy,
                              bool add, uint32_t n0, uint32_t n1, void *scratch)
{
    struct ssm_weight plain = *w;
    plain.bias = NULL;
    ssm_ops_ref.gemm(&plain, x, ldx, M, y, ldy, add, n0, n1, scratch);
}

static void gemm_gives_nan(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy,
                           bool add, uint32_t n0, uint32_t n1, void *scratch)
{
    ssm_ops_ref.gemm(w, x, ldx, M, y, ldy, add, n0, n1, scratch);
    y[n0] = NAN;
}

static void norm_forgets_eps_and_weight(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M,
                                        uint32_t E, float eps)
{
    float *ones = malloc(E * sizeof *ones);
    for (uint32_t i = 0; i < E; i++)
        ones[i] = 1.0f;
    ssm_ops_ref.rmsnorm(y, ldy, x, ldx, ones, M, E, 0.0f);
    free(ones);
}

static void conv_shifts_its_taps(const struct ssm_conv *c, size_t d0, size_t d1)
{
    struct ssm_conv other = *c;
    other.K = c->K - 1;
    ssm_ops_ref.conv(&other, d0, d1);
}

static void scan_drops_last_state(const struct ssm_scan *s, size_t d0, size_t d1)
{
    struct ssm_scan other = *s;
    other.N = s->N - 1;
    ssm_ops_ref.scan(&other, d0, d1);
}

static void scan_drops_last_lane(const struct ssm_scan *s, size_t d0, size_t d1)
{
    ssm_ops_ref.scan(s, d0, d1 - (d1 == s->Dp ? SSM_LANES : 0));
}

static void wrong_values_are_caught(void **state)
{
    void (*const gemms[])(const struct ssm_weight *, const float *, size_t, uint32_t, float *, size_t, bool, uint32_t,
                          uint32_t, void *) = {gemm_drops_last_output, gemm_ignores_bias, gemm_gives_nan};
    for (unsigned i = 0; i < 3; i++) {
        broken = ssm_ops_ref;
        broken.gemm = gemms[i];
        assert_false(golden_holds());
    }
    broken = ssm_ops_ref;
    broken.rmsnorm = norm_forgets_eps_and_weight;
    assert_false(golden_holds());
    broken = ssm_ops_ref;
    broken.conv = conv_shifts_its_taps;
    assert_false(golden_holds());
    broken = ssm_ops_ref;
    broken.scan = scan_drops_last_state;
    assert_false(golden_holds());
    broken.scan = scan_drops_last_lane;
    assert_false(golden_holds());
}

/* ---- right in value, but the order of sums hangs on the batch: only the bitwise runs see it --------------- */

/* Sums k from the back where there is one row: a skinny kernel and a blocked one that do not agree. */
static void gemm_sums_by_shape(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy,
                               bool add, uint32_t n0, uint32_t n1, void *scratch)
{
    const float *rows = w->packed;
    if (M > 1) {
        ssm_ops_ref.gemm(w, x, ldx, M, y, ldy, add, n0, n1, scratch);
        return;
    }
    for (uint32_t n = n0; n < n1; n++) {
        float sum = 0.0f;
        for (uint32_t k = w->k; k-- > 0;)
            sum += rows[(size_t)n * w->k + k] * x[k];
        sum += w->bias ? w->bias[n] : 0.0f;
        y[n] = add ? y[n] + sum : sum;
    }
}

/* Adds the carried state last where a scan is long. */
static void scan_orders_by_length(const struct ssm_scan *s, size_t d0, size_t d1)
{
    ssm_ops_ref.scan(s, d0, d1);
    for (uint32_t t = 0; s->T > 8 && t < s->T; t++)
        for (size_t d = d0; d < d1; d++)
            s->y[t * s->ldy + d] = nextafterf(s->y[t * s->ldy + d], 0.0f);
}

/* A window that is left as it was when the call brings fewer rows than it is long. */
static void conv_forgets_short_calls(const struct ssm_conv *c, size_t d0, size_t d1)
{
    size_t bytes = (c->K - 1) * c->Dp * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, c->window, bytes);
    ssm_ops_ref.conv(c, d0, d1);
    if (c->T < c->K - 1)
        memcpy(c->window, before, bytes);
    free(before);
}

static void batch_dependence_is_caught(void **state)
{
    broken = ssm_ops_ref;
    broken.gemm = gemm_sums_by_shape;
    assert_true(golden_holds());
    assert_false(bitwise_holds());
    broken = ssm_ops_ref;
    broken.scan = scan_orders_by_length;
    assert_true(golden_holds());
    assert_false(bitwise_holds());
    broken = ssm_ops_ref;
    broken.conv = conv_forgets_short_calls;
    assert_true(golden_holds());
    assert_false(bitwise_holds());
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_truth_passes),
        cmocka_unit_test(wrong_values_are_caught),
        cmocka_unit_test(batch_dependence_is_caught),
    };
    if (argc != 2)
        return 64;
    golden = argv[1];
    rng = rig_rng("broken_ops");
    return cmocka_run_group_tests_name("broken_ops", tests, NULL, NULL);
}
