/* still.c: see still.h. A HAR model of absolute deviations with a leverage term (Corsi 2009), its coefficients by
 * recursive ridge regression towards a mean over all spans. Pairs are learnt in the unit that was expected, so that
 * bouts do not outweigh all else, and the normal equations have no unit. */
#include "ssm/still.h"

#include <math.h>

#include "ssm/cholesky.h"

enum { SPANS = SSM_STILL_SPANS, D = SSM_STILL_FEATURES, WARM = 8 };

static const double span[SPANS] = {1.0, 4.0, 16.0, 64.0, 4096.0}; /* samples */
static const double prior[D] = {0.05, 0.2, 0.3, 0.3, 0.15, 0.0};  /* coefficients: of the sizes, of `fall` */

#define USUAL (SPANS - 1)
#define FALL_SPAN 4.0
#define PRIOR 100.0 /* samples' worth of belief in the prior */
#define PAIR_MEMORY 5000.0
#define WEIGHT_MAX 1e100
#define SIZE_MAX_USUAL 32.0 /* a deviation counts as at most this many usual ones … */
#define SIZE_MAX_UNIT 4.0   /* … and as a target as this many expected ones */
#define UNIT_MIN 0.1        /* of the usual size */
#define SHAPE_FIRST 5.0     /* step of a quantile, over the number of samples … */
#define SHAPE_PRIOR 20.0
#define SHAPE_STEP 0.002 /* … and what it never falls below */
#define CALMING 0.98     /* part of a bout that is left a sample later */

static void features(const struct ssm_still *s, double *f)
{
    for (int i = 0; i < SPANS; i++)
        f[i] = s->size[i];
    f[SPANS] = s->fall;
}

static void learn_pair(struct ssm_still *s, double size)
{
    double f[D], target = fmin(size / s->unit, SIZE_MAX_UNIT), *a = s->a;
    features(s, f);
    for (int i = 0; i < D; a += ++i) {
        f[i] /= s->unit;
        for (int j = 0; j <= i; j++)
            a[j] += s->weight * f[i] * f[j];
        s->b[i] += s->weight * f[i] * target;
    }
    s->weight *= 1.0 + 1.0 / PAIR_MEMORY;
    if (s->weight < WEIGHT_MAX)
        return;
    for (int i = 0; i < D * (D + 1) / 2; i++)
        s->a[i] /= WEIGHT_MAX;
    for (int i = 0; i < D; i++)
        s->b[i] /= WEIGHT_MAX;
    s->weight /= WEIGHT_MAX;
}

static double expected(const struct ssm_still *s)
{
    double f[D], theta[D], l[D * (D + 1) / 2], add = PRIOR * s->weight, sum = 0.0;
    for (int i = 0; i < D; i++)
        theta[i] = s->b[i] + add * prior[i];
    ssm_cholesky_solve(D, s->a, add, 1e-12 * add, l, theta);
    features(s, f);
    for (int i = 0; i < D; i++)
        sum += theta[i] * f[i];
    return fmax(sum, UNIT_MIN * s->size[USUAL]);
}

static void learn_shape(struct ssm_still *s, const float *levels, uint32_t n_quantiles, double z)
{
    double step = SHAPE_FIRST / (s->n + SHAPE_PRIOR) + SHAPE_STEP;
    for (uint32_t i = 0; i < n_quantiles; i++)
        s->shape[i] += (float)(step * ((double)levels[i] - (z < (double)s->shape[i] ? 1.0 : 0.0)));
}

void ssm_still_learn(struct ssm_still *s, const float *levels, uint32_t n_quantiles, double y)
{
    double d = y - s->mean, size = fabs(d), young = 1.0 / ++s->n;
    if (s->n == 1.0)
        s->weight = 1.0;
    if (s->n > WARM && s->unit > 0.0) {
        learn_shape(s, levels, n_quantiles, d / s->unit);
        size = fmin(size, SIZE_MAX_USUAL * s->size[USUAL]);
        learn_pair(s, size);
    }
    s->mean += d * fmax(young, 1.0 / span[USUAL]);
    for (int i = 0; i < SPANS; i++)
        s->size[i] += (size - s->size[i]) * fmax(young, 1.0 / span[i]);
    s->fall -= (copysign(size, d) + s->fall) / FALL_SPAN;
    s->unit = expected(s);
}

double ssm_still_unit(const struct ssm_still *s, double h)
{
    return s->size[USUAL] + (s->unit - s->size[USUAL]) * pow(CALMING, h - 1.0);
}
