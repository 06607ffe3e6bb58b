/* test_eval_metrics.c: the figures of `mambactl eval` against cases worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tools/eval_metrics.h"

static void close_to(double got, double wanted)
{
    if (!(fabs(got - wanted) <= 1e-12 * fmax(1, fabs(wanted))))
        fail_msg("%.17g, wanted %.17g", got, wanted);
}

/* ---- rankings --------------------------------------------------------------------------------------------- */

/* By falling score: + − + −. AP = ½·1 + ½·⅔; of 4 pairs 3 are in order. F1 at the third row: 2·2/(2·2+1+0). */
static void ranking(void **state)
{
    const double score[] = {1, 4, 2, 3};
    const uint8_t label[] = {0, 1, 1, 0};
    struct eval_ranking r;
    assert_int_equal(eval_rank(score, label, 4, &r), 0);
    close_to(r.auprc, 0.5 + 0.5 * 2 / 3);
    close_to(r.auroc, 0.75);
    close_to(r.best_f1, 0.8);
    close_to(r.best_threshold, 2);
}

/* Two rows of equal score, one of each label, count as one step: AP = 1·½; a tied pair is half in order. */
static void ranking_with_ties(void **state)
{
    const double tied[] = {5, 5}, mixed[] = {9, 5, 5, 1};
    const uint8_t label[] = {1, 0}, labels[] = {1, 1, 0, 0};
    struct eval_ranking r;
    assert_int_equal(eval_rank(tied, label, 2, &r), 0);
    close_to(r.auprc, 0.5);
    close_to(r.auroc, 0.5);
    assert_int_equal(eval_rank(mixed, labels, 4, &r), 0);
    close_to(r.auprc, 0.5 * 1 + 0.5 * 2 / 3);
    close_to(r.auroc, (2 + 0.5 + 1) / 4);
}

static void ranking_of_one_kind(void **state)
{
    const double score[] = {1, 2, 3};
    const uint8_t none[] = {0, 0, 0}, all[] = {1, 1, 1};
    struct eval_ranking r;
    assert_int_equal(eval_rank(score, none, 3, &r), 0);
    assert_true(isnan(r.auprc) && isnan(r.auroc) && isnan(r.best_f1));
    assert_int_equal(eval_rank(score, all, 3, &r), 0);
    close_to(r.auprc, 1);
    assert_true(isnan(r.auroc));
    close_to(r.best_f1, 1);
}

/* ---- volume under the surface ----------------------------------------------------------------------------- */

/* Without buffers it is the average precision times the share of segments found so far. */
static void vus_without_buffer(void **state)
{
    const double score[] = {0, 9, 0, 0, 8, 7};
    const uint8_t label[] = {0, 1, 0, 0, 1, 0};
    double vus;
    assert_int_equal(eval_vus_pr(score, label, 6, 0, &vus), 0);
    /* thresholds 9: recall ½ · 1 of 2 segments, precision 1; 8: recall 1, precision 1 */
    close_to(vus, 0.25 * 1 + 0.75 * 1);
}

/* One anomalous row of 4; window 2 reaches one row to either side with weight √½. The score is highest on the row
 * before it. Windows 0 and 1 have no buffer: order 1 2 3 0, the anomalous row is second: precision ½, area ½.
 * Window 2: at the first threshold TP = √½, wanted 1 + ½√½, precision √½; at the second TP = 1 + √½, which is more
 * than is wanted, so recall 1, precision (1 + √½)/2; nothing after adds recall. */
static void vus_with_buffer(void **state)
{
    const double score[] = {1, 9, 8, 7};
    const uint8_t label[] = {0, 0, 1, 0};
    const double w = sqrt(0.5), recall = w / (1 + 0.5 * w);
    double vus;
    assert_int_equal(eval_vus_pr(score, label, 4, 2, &vus), 0);
    close_to(vus, (0.5 + 0.5 + recall * w + (1 - recall) * (1 + w) / 2) / 3);
    assert_int_equal(eval_vus_pr(score, (const uint8_t[]){0, 0, 0, 0}, 4, 2, &vus), 0);
    assert_true(isnan(vus));
}

/* ---- one threshold ---------------------------------------------------------------------------------------- */

static void points(void **state)
{
    const double score[] = {3, 2.9, 5, 0};
    const uint8_t label[] = {1, 1, 0, 0};
    struct eval_points p = {0};
    eval_count_points(score, label, 4, 3, &p);
    assert_int_equal(p.tp, 1);
    assert_int_equal(p.fn, 1);
    assert_int_equal(p.fp, 1);
    assert_int_equal(p.tn, 1);
    close_to(eval_f1(1, 1, 1), 0.5);
    assert_true(isnan(eval_f1(0, 0, 0)));
}

/* Segments at 2–4, 7 and 9–10; alarms at 0, 3–6 (overlaps the first, one row late), 8–9 (reaches into the third). */
static void events(void **state)
{
    const uint8_t label[] = {0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1}, detected[] = {1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0};
    struct eval_events e = {0};
    eval_count_events(detected, label, 11, &e);
    assert_int_equal(e.segments, 3);
    assert_int_equal(e.found, 2);
    assert_int_equal(e.alarms, 3);
    assert_int_equal(e.false_alarms, 1);
    close_to(e.delay, 1);
}

/* ---- NAB -------------------------------------------------------------------------------------------------- */

enum { N = 100 }; /* rows; the first 15 are probation */

static double sigma(double x)
{
    return 2 / (1 + exp(5 * x)) - 1;
}

static double nab(const double *score, const size_t (*windows)[2], size_t n_windows, int profile, double *ret_threshold)
{
    const struct eval_nab_file f = {score, N, n_windows, windows};
    double result;
    assert_int_equal(eval_nab(&f, 1, &eval_nab_profiles[profile], &result, ret_threshold), 0);
    return result;
}

static void nab_single_cases(void **state)
{
    static const size_t window[][2] = {{40, 49}};
    double score[N] = {0}, at;
    score[40] = 1;
    close_to(nab(score, window, 1, 0, &at), 100); /* found at its left edge */
    close_to(at, 1);
    memset(score, 0, sizeof score);
    close_to(nab(score, window, 1, 0, &at), 0); /* found nowhere: to detect every row is worse */
    assert_true(isinf(at));
    score[49] = 1; /* at its right edge: position −1/10; null is −1, perfect 1 */
    close_to(nab(score, window, 1, 0, &at), 100 * (sigma(-0.1) / sigma(-1) + 1) / 2);
    close_to(nab(score, window, 1, 2, &at), 100 * (sigma(-0.1) / sigma(-1) + 2) / 3);
    score[5] = 9; /* in the probation: not scored */
    close_to(nab(score, window, 1, 0, &at), 100 * (sigma(-0.1) / sigma(-1) + 1) / 2);
}

static void nab_false_positives(void **state)
{
    static const size_t window[][2] = {{40, 49}};
    double score[N] = {0}, at;
    score[40] = 1;
    score[20] = 2; /* before any window, and above: it comes along */
    close_to(nab(score, window, 1, 0, &at), 100 * (1 - 0.11 + 1) / 2);
    close_to(nab(score, window, 1, 1, &at), 100 * (1 - 0.22 + 1) / 2);
    score[20] = 0;
    score[52] = 2; /* three rows behind a window of ten: position 3/9 */
    close_to(nab(score, window, 1, 0, &at), 100 * (1 + 0.11 * sigma(3.0 / 9) + 1) / 2);
    score[52] = 0;
    score[90] = 2; /* more than three widths behind */
    close_to(nab(score, window, 1, 0, &at), 100 * (1 - 0.11 + 1) / 2);
    score[90] = 0.5; /* below the best threshold: it costs nothing */
    close_to(nab(score, window, 1, 0, &at), 100);
}

/* Two detections in a window: the better one counts. Two files share the threshold. */
static void nab_files(void **state)
{
    static const size_t window[][2] = {{40, 49}};
    double first[N] = {0}, second[N] = {0}, result, at;
    const struct eval_nab_file files[] = {{first, N, 1, window}, {second, N, 1, window}};
    first[45] = first[42] = 3;
    second[44] = 2;
    second[80] = 2.5;
    assert_int_equal(eval_nab(files, 2, &eval_nab_profiles[0], &result, &at), 0);
    double raw = sigma(-0.8) / sigma(-1) + sigma(-0.6) / sigma(-1) - 0.11; /* 31 rows behind a window of 10 */
    close_to(result, 100 * (raw + 2) / 4);
    close_to(at, 2);
    assert_int_equal(eval_nab_probation(4032), 604);
    assert_int_equal(eval_nab_probation(22695), 750);
}

/* ---- forecasts -------------------------------------------------------------------------------------------- */

static void pinball(void **state)
{
    close_to(eval_pinball(10, 8, 0.9), 1.8);
    close_to(eval_pinball(8, 10, 0.9), 0.2);
    close_to(eval_pinball(3, 3, 0.5), 0);
    for (int l = 0; l < EVAL_LEVELS; l++)
        close_to(0.5 * erfc(-eval_normal[l] / sqrt(2)), eval_levels[l]);
}

/* Season 2 over 1 5 2 7 4 9: differences 1 2 2 2, mean 7/4, variance 3/16. The sixth row is not known yet. */
static void seasonal(void **state)
{
    const double y[] = {1, 5, 2, 7, 4, 9};
    struct eval_seasonal s = {.season = 2};
    double sigma_h;
    eval_seasonal_advance(&s, y, 1, 5);
    close_to(eval_seasonal_mae(&s), 5.0 / 3);
    close_to(eval_seasonal_at(&s, y, 1, 1, &sigma_h), 7);
    close_to(sigma_h, sqrt(2.0 / 9));
    eval_seasonal_advance(&s, y, 1, 6);
    close_to(eval_seasonal_mae(&s), 7.0 / 4);
    close_to(eval_seasonal_sigma(&s), sqrt(3.0 / 16));
    close_to(eval_seasonal_at(&s, y, 1, 1, &sigma_h), 4);
    close_to(eval_seasonal_at(&s, y, 1, 2, &sigma_h), 9);
    close_to(eval_seasonal_at(&s, y, 1, 3, &sigma_h), 4); /* two cycles on */
    close_to(sigma_h, sqrt(2 * 3.0 / 16));
}

static void seasonal_before_its_first_season(void **state)
{
    const double y[] = {1, 2, NAN, 4};
    struct eval_seasonal s = {.season = 3};
    double sigma_h;
    eval_seasonal_advance(&s, y, 1, 2);
    assert_true(isnan(eval_seasonal_at(&s, y, 1, 1, &sigma_h)));
    assert_true(isnan(sigma_h));
    eval_seasonal_advance(&s, y, 1, 4);
    close_to(eval_seasonal_mae(&s), 3);
    close_to(eval_seasonal_sigma(&s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranking),
        cmocka_unit_test(ranking_with_ties),
        cmocka_unit_test(ranking_of_one_kind),
        cmocka_unit_test(vus_without_buffer),
        cmocka_unit_test(vus_with_buffer),
        cmocka_unit_test(points),
        cmocka_unit_test(events),
        cmocka_unit_test(nab_single_cases),
        cmocka_unit_test(nab_false_positives),
        cmocka_unit_test(nab_files),
        cmocka_unit_test(pinball),
        cmocka_unit_test(seasonal),
        cmocka_unit_test(seasonal_before_its_first_season),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
