/* eval_baseline.h: what models are compared with, under the same protocols. Any thread. */
#ifndef TOOLS_EVAL_BASELINE_H
#define TOOLS_EVAL_BASELINE_H

#include "tools/eval_metrics.h"
#include "tools/eval_stream.h"

/* −log10 p of each row of `test`, `train` (NULL: none) having come before it. -ENOMEM. */
int eval_gauss(const struct eval_table *train, const struct eval_table *test, double *score);

/* Forecasts of the baseline `name` (naive, seasonal, linear) to a listener, as if it were a model of that patch. */
int eval_stream_baseline(const char *name, uint32_t patch, const struct eval_listener *l, void *ctx, char *reterr);

/* A table's values with missing ones replaced by the last seen before them; to be freed. NULL: no memory. */
double *eval_carried(const struct eval_table *t);

/* Online linear regression: an autoregression over 32 lags by recursive least squares, iterated, with Gaussian bands.
 * One channel; values as they come, without missing ones. */
enum { EVAL_LAGS = 32 };
struct eval_linear;
struct eval_linear *eval_linear_new(void);
void eval_linear_free(struct eval_linear *l);
void eval_linear_reset(struct eval_linear *l);
void eval_linear_learn(struct eval_linear *l, double x);
void eval_linear_forecast(struct eval_linear *l, uint32_t horizon, float *ret); /* [horizon][EVAL_LEVELS] */

#endif
