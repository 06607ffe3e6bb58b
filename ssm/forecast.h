/* forecast.h: from the forecast head's raw outputs to quantiles in the stream's unit, and the predictive density
 * that the anomaly head scores samples under. docs/signal-model.md has the formulas. */
#ifndef SSM_FORECAST_H
#define SSM_FORECAST_H

#include "ssm/front.h"

/* z [Q]: raw head outputs for horizon step h (1 = next sample); out [Q]: quantiles in the stream's unit, ascending. */
void ssm_forecast_quantiles(const struct ssm_frame *frame, uint32_t h, const float *z, uint32_t Q, double *out);

/* x under the distribution whose quantiles at levels[Q] are q[Q], Q ≥ 2: piecewise linear CDF between them, exponential
 * tails. Gives the PIT u in [0, 1], the nonconformity tail = −ln(2·min(u, 1 − u)) ≥ 0, which goes on rising where u
 * has saturated, and surprise = −ln(density · scale). `scale` is that of the frame the forecast was made in. */
void ssm_forecast_score(const double *q, const float *levels, uint32_t Q, double scale, double x, double *ret_u,
                        double *ret_tail, double *ret_surprise);

#endif
