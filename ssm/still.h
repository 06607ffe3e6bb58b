/* still.h: noise about one level, whose size comes in bouts, as that of markets' returns does: one expert of the online
 * adaptation (docs/signal-model.md, sec. 8). How large the next sample's deviation will be is a regression, learnt
 * online, on how large they were over a few spans and on where the last few went. Plain state of one channel; any
 * thread. */
#ifndef SSM_STILL_H
#define SSM_STILL_H

#include <stdint.h>

#include "ssm/ssm.h"

enum { SSM_STILL_SPANS = 5, SSM_STILL_FEATURES = SSM_STILL_SPANS + 1 };

/* To begin with all 0 but `shape`. */
struct ssm_still {
    double n, mean;
    double size[SSM_STILL_SPANS]; /* mean |deviation| over each span, the longest last */
    double fall;                  /* mean deviation of late, downward positive */
    double unit;                  /* expected |deviation| of the next sample */
    double weight;                /* of the next pair in the normal equations */
    double a[SSM_STILL_FEATURES * (SSM_STILL_FEATURES + 1) / 2], b[SSM_STILL_FEATURES];
    float shape[SSM_ADAPT_QUANTILES]; /* quantiles of the deviation in units */
};

void ssm_still_learn(struct ssm_still *s, const float *levels, uint32_t n_quantiles, double y);

/* The unit h samples ahead. */
double ssm_still_unit(const struct ssm_still *s, double h);

#endif
