/* eval_linear.c: online linear regression, the baseline that a model has to beat: y[t] − y[t−1] as a linear map of the
 * 31 differences before it and of the distance to the running mean, by recursive least squares with forgetting,
 * iterated to the horizon. Bands are Gaussian, their width from the map's own impulse response. Prior: a random walk.
 *
 * Forecasts are held within the range of the values seen, widened by itself on both sides, for an iterated map may be
 * unstable. */
#include "tools/eval_baseline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS = EVAL_LAGS }; /* EVAL_LAGS − 1 differences and the mean's distance */

static const double memory = 4096; /* samples that the regression looks back on */
static const double prior = 10;    /* weight of the random walk, in samples */

struct eval_linear {
    size_t n;
    bool started;           /* P is set */
    double last[EVAL_LAGS]; /* newest first */
    double mean, low, high;
    double noise, noise_weight; /* sum of squared errors, and how many they are worth */
    double power;               /* mean square of a difference */
    double w[INPUTS], P[INPUTS][INPUTS];
};

struct eval_linear *eval_linear_new(void)
{
    struct eval_linear *l = malloc(sizeof *l);
    if (l)
        eval_linear_reset(l);
    return l;
}

void eval_linear_free(struct eval_linear *l)
{
    free(l);
}

void eval_linear_reset(struct eval_linear *l)
{
    memset(l, 0, sizeof *l);
}

static void fill_inputs(const double *last, double mean, double *u)
{
    for (int k = 0; k + 1 < EVAL_LAGS; k++)
        u[k] = last[k] - last[k + 1];
    u[INPUTS - 1] = mean - last[0];
}

static double predict(const struct eval_linear *l, const double *last)
{
    double u[INPUTS], d = 0;
    fill_inputs(last, l->mean, u);
    for (int k = 0; k < INPUTS; k++)
        d += l->w[k] * u[k];
    return last[0] + d;
}

/* The prior is scaled by the differences seen so far. */
static void start(struct eval_linear *l)
{
    for (int i = 0; i < INPUTS; i++)
        l->P[i][i] = 1 / (prior * l->power);
    l->started = true;
}

static void regress(struct eval_linear *l, double x)
{
    const double keep = 1 - 1 / memory;
    double u[INPUTS], g[INPUTS], scale = keep, error = x - predict(l, l->last);
    fill_inputs(l->last, l->mean, u);
    for (int i = 0; i < INPUTS; i++) {
        g[i] = 0;
        for (int k = 0; k < INPUTS; k++)
            g[i] += l->P[i][k] * u[k];
        scale += u[i] * g[i];
    }
    double largest = 0;
    for (int i = 0; i < INPUTS; i++) {
        l->w[i] += g[i] / scale * error;
        largest = fmax(largest, l->P[i][i]);
    }
    /* Nothing is forgotten where nothing new comes in, or P would grow without end. */
    double forget = largest * prior * l->power < 1 ? keep : 1;
    for (int i = 0; i < INPUTS; i++)
        for (int k = 0; k <= i; k++)
            l->P[i][k] = l->P[k][i] = (l->P[i][k] - g[i] * g[k] / scale) / forget;
    l->noise = keep * l->noise + error * error;
    l->noise_weight = keep * l->noise_weight + 1;
}

void eval_linear_learn(struct eval_linear *l, double x)
{
    if (l->n == 0) {
        l->low = l->high = l->mean = x;
        for (int k = 0; k < EVAL_LAGS; k++)
            l->last[k] = x;
    }
    if (!l->started && l->n >= EVAL_LAGS && l->power > 0)
        start(l);
    if (l->started)
        regress(l, x);
    double d = x - l->last[0], share = fmax(1 / ((double)l->n + 1), 1 / memory);
    l->power += share * (d * d - l->power);
    l->mean += share * (x - l->mean);
    l->low = fmin(l->low, x);
    l->high = fmax(l->high, x);
    memmove(l->last + 1, l->last, (EVAL_LAGS - 1) * sizeof *l->last);
    l->last[0] = x;
    l->n++;
}

/* One step on: the response of step h to a unit error of step 1, with the mean at 0. */
static double respond(const struct eval_linear *l, double *last)
{
    double u[INPUTS], d = 0;
    fill_inputs(last, 0, u);
    for (int k = 0; k < INPUTS; k++)
        d += l->w[k] * u[k];
    return last[0] + d;
}

static void push(double *last, double x)
{
    memmove(last + 1, last, (EVAL_LAGS - 1) * sizeof *last);
    last[0] = x;
}

void eval_linear_forecast(struct eval_linear *l, uint32_t horizon, float *ret)
{
    double path[EVAL_LAGS], response[EVAL_LAGS] = {1}, sum = 0, range = l->high - l->low;
    double noise = l->noise_weight > 0 ? l->noise / l->noise_weight : l->power;
    memcpy(path, l->last, sizeof path);
    for (uint32_t h = 0; h < horizon; h++) {
        double y = fmin(fmax(predict(l, path), l->low - range), l->high + range);
        sum += response[0] * response[0];
        double sigma = fmin(sqrt(noise * sum), range);
        for (int q = 0; q < EVAL_LEVELS; q++)
            ret[h * EVAL_LEVELS + (uint32_t)q] = (float)(y + eval_normal[q] * sigma);
        push(path, y);
        push(response, fmin(fmax(respond(l, response), -1e3), 1e3));
    }
}
