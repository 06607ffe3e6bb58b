/* calibrate.h: from a nonconformity value to a p-value that means what it says on this stream. A streaming estimate of
 * the tail (an exponentially weighted quantile sketch, a generalised Pareto fit beyond it; SPOT, Siffer et al. 2017)
 * that lives in the slot. docs/signal-model.md has the formulas. */
#ifndef SSM_CALIBRATE_H
#define SSM_CALIBRATE_H

#include "ssm/ssm.h"

struct ssm_calibration { /* from config.json */
    uint32_t warmup;     /* scored samples before it is warm */
    double memory;       /* samples */
};

size_t ssm_calibrate_bytes(void); /* of a state; a multiple of 8 */
void ssm_calibrate_reset(const struct ssm_calibration *c, void *state);
bool ssm_calibrate_warm(const struct ssm_calibration *c, const void *state);
/* p-value of nonconformity `a` (≥ 0, larger is stranger) under what was seen before it. NaN until warm. */
double ssm_calibrate_p(const struct ssm_calibration *c, void *state, double a);
/* Learns `a` as `share` of a sample. */
void ssm_calibrate_learn(const struct ssm_calibration *c, void *state, double a, double share);
/* Both; what is learnt while p-values stay small is a part of one. */
double ssm_calibrate_update(const struct ssm_calibration *c, void *state, double a);

#endif
