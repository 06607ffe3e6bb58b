/* eval_accuracy.h: relative CRPS, MASE and coverage of one series' forecasts, and of many. Any thread. */
#ifndef TOOLS_EVAL_ACCURACY_H
#define TOOLS_EVAL_ACCURACY_H

#include "tools/eval.h"
#include "tools/eval_metrics.h"

enum { EVAL_LOWEST = 0, EVAL_MEDIAN = 4, EVAL_HIGHEST = 8 }; /* of the levels: the 80 % band and its middle */

/* What has been scored of a channel; begins as {.seasonal.season = m}. */
struct eval_channel {
    struct eval_seasonal seasonal;
    double loss, base_loss; /* sums over points and levels */
    size_t points, missing, covered, scaled;
    double scaled_error; /* Σ |y − median| / MAE of the seasonal naive before the origin */
};

/* One point: the truth, the baseline's middle and deviation, and the forecast's quantiles; NULL: there is none. */
void eval_channel_score(struct eval_channel *ch, double y, double base, double sigma, const float *q);

struct eval_accuracy {
    const struct eval_series *s;
    size_t season, horizon, points;
    uint32_t channels, left_out;
    double ratio, mase, coverage, missing, loss; /* NaN: no channel is left; loss: mean pinball, over channels */
};

/* From all channels of a series. */
void eval_accuracy_sum(struct eval_accuracy *a, const struct eval_channel *channels, const struct eval_table *t);

/* {"series": […], "families": […], "total": {…}} */
json_t *eval_accuracy_report(const struct eval_accuracy *v, size_t n);
void eval_accuracy_print(const json_t *report);

#endif
