/* eval_metrics.h: the figures of `mambactl eval`, as pure functions of scores, labels and forecasts. Any thread. What
 * is undefined (no anomaly at all, nothing but anomalies) is NaN. Functions return 0 or -ENOMEM.
 *
 * A row is detected at a threshold if its score is at or above it; rows of equal score are never told apart. */
#ifndef TOOLS_EVAL_METRICS_H
#define TOOLS_EVAL_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- detection: rankings ---------------------------------------------------------------------------------- */

/* auprc: average precision Σ (Rₖ − Rₖ₋₁)·Pₖ; auroc: the chance that an anomalous row is above a normal one, ties half;
 * best_f1: over all thresholds. Point by point, no adjustment. */
struct eval_ranking {
    double auprc, auroc, best_f1, best_threshold;
};
int eval_rank(const double *score, const uint8_t *label, size_t n, struct eval_ranking *ret);

/* Volume under the range-PR surface (Paparrizos et al., VLDB 2022) over buffers of 0 … window rows, 250 thresholds, as
 * the authors' library computes it for TSB-AD. */
int eval_vus_pr(const double *score, const uint8_t *label, size_t n, unsigned window, double *ret);

/* ---- detection: one threshold ----------------------------------------------------------------------------- */

struct eval_points {
    size_t tp, fp, fn, tn;
};
void eval_count_points(const double *score, const uint8_t *label, size_t n, double threshold, struct eval_points *sum);

/* Events: segments are runs of labelled rows, alarms runs of detected ones. A segment that an alarm overlaps is found,
 * delay rows after its start at the first detected row; an alarm that overlaps none is false. */
struct eval_events {
    size_t segments, found, alarms, false_alarms;
    double delay; /* rows, summed over the segments found */
};
void eval_count_events(const uint8_t *detected, const uint8_t *label, size_t n, struct eval_events *sum);

double eval_f1(double tp, double fp, double fn); /* NaN: nothing to find and nothing detected */

/* ---- NAB -------------------------------------------------------------------------------------------------- */

struct eval_nab_profile {
    const char *name;
    double tp, fp, fn;
};
enum { EVAL_NAB_PROFILES = 3 };
extern const struct eval_nab_profile eval_nab_profiles[EVAL_NAB_PROFILES]; /* standard, low FP, low FN */

/* Windows are [first, last] rows, ascending and disjoint. */
struct eval_nab_file {
    const double *score;
    size_t n, n_windows;
    const size_t (*windows)[2];
};

/* The best score over all thresholds, the same for all files, and that threshold (+∞: no detection is best). */
int eval_nab(const struct eval_nab_file *files, size_t n_files, const struct eval_nab_profile *profile,
             double *ret_score, double *ret_threshold);
size_t eval_nab_probation(size_t n); /* rows at a file's beginning that are never scored */

/* ---- forecasts -------------------------------------------------------------------------------------------- */

enum { EVAL_LEVELS = 9 };
extern const double eval_levels[EVAL_LEVELS]; /* .1 … .9 */
extern const double eval_normal[EVAL_LEVELS]; /* the standard normal distribution's quantiles at them */

double eval_pinball(double y, double quantile, double level);

/* Seasonal naive of season m as samples come, in order. sigma and mae are of y[i] − y[i−m] over the rows before `at`.
 */
struct eval_seasonal {
    size_t at, count, season;
    double mean, m2, abs_sum;
};
void eval_seasonal_advance(struct eval_seasonal *s, const double *y, size_t stride, size_t at);
double eval_seasonal_sigma(const struct eval_seasonal *s);
double eval_seasonal_mae(const struct eval_seasonal *s);
/* Its forecast for row at + h − 1, h ≥ 1; *ret_sigma: of the Gaussian band. */
double eval_seasonal_at(const struct eval_seasonal *s, const double *y, size_t stride, size_t h, double *ret_sigma);

#endif
