/* eval_detection.h: the figures of one series' anomaly scores, and of many. Any thread. */
#ifndef TOOLS_EVAL_DETECTION_H
#define TOOLS_EVAL_DETECTION_H

#include "tools/eval.h"
#include "tools/eval_metrics.h"

struct eval_detection {
    const struct eval_series *s;
    size_t rows;
    uint8_t *label; /* [rows], owned */
    double *score;  /* [rows], −log10 p, owned */
    double step_s;  /* between rows; NaN: unknown */

    struct eval_ranking ranking;
    double vus_pr;
    struct eval_points points, alarm_points; /* at the threshold; under an alarm */
    struct eval_events events;
};

/* All figures from labels and scores. -ENOMEM. */
int eval_detection_measure(const struct eval_options *o, struct eval_detection *d);

/* {"threshold", "vus_window", "series": […], "families": […], "nab": {…}} */
json_t *eval_detection_report(const struct eval_options *o, const struct eval_detection *v, size_t n);
void eval_detection_print(const json_t *report);

#endif
