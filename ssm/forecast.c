/* forecast.c: quantiles in the stream's unit and the density between them (docs/signal-model.md, sec. 4 and 5). Pure
 * functions of their arguments, in double. Trap: the tail is worked out as a logarithm, from its own side; as
 * 1 − CDF it would saturate at 36 nats and every strong anomaly would look the same. */
#include "ssm/forecast.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#define Z_MAX 20.0        /* sinh(20) = 2.4e8 steps */
#define WIDTH_MIN 1e-4    /* between neighbouring quantiles, in scales: well above what rounding moves them by (1e-6) */
#define DISTANCE_MAX 1e6  /* into a tail, in its e-foldings: surprise stays a sane float */

static double clip(double x, double lo, double hi)
{
    return fmin(hi, fmax(lo, x));
}

/* To 2e-16 absolute for small z, relative for large, at half libm's price: it is most of what a forecast costs. */
static double sinh_of(double z)
{
    double e = exp(z);
    return 0.5 * (e - 1.0 / e);
}

void ssm_forecast_quantiles(const struct ssm_frame *frame, uint32_t h, const float *z, uint32_t Q, double *out)
{
    double step = frame->step * sqrt((double)h);
    for (uint32_t q = 0; q < Q; q++) {
        double y = clip(frame->last + step * sinh_of(clip((double)z[q], -Z_MAX, Z_MAX)), -(double)FLT_MAX, (double)FLT_MAX);
        uint32_t i = q; /* insertion: the head's outputs are nearly always in order */
        for (; i > 0 && out[i - 1] > y; i--)
            out[i] = out[i - 1];
        out[i] = y;
    }
}

/* The quantiles as distances from the middle one, neighbours at least `width` apart. Distances, because next to a
 * large level the smallest widths are below one ulp. */
static void spread(const double *q, uint32_t Q, double width, double *knots)
{
    uint32_t mid = Q / 2;
    knots[mid] = 0.0;
    for (uint32_t i = mid + 1; i < Q; i++)
        knots[i] = fmax(q[i] - q[mid], knots[i - 1] + width);
    for (uint32_t i = mid; i-- > 0;)
        knots[i] = fmin(q[i] - q[mid], knots[i + 1] - width);
}

/* Beyond the outermost quantile of level `level` (seen from its tail): CDF = level·exp(−distance/τ), τ such that the
 * density meets that of the neighbouring piece. */
static void score_tail(double level, double piece_density, double scale, double distance, double *ret_tail,
                       double *ret_surprise)
{
    double folds = fmin(distance * piece_density / level, DISTANCE_MAX);
    *ret_tail = folds - log(2.0 * level);
    *ret_surprise = folds - log(piece_density * scale);
}

void ssm_forecast_score(const double *q, const float *levels, uint32_t Q, double scale, double x, double *ret_u,
                        double *ret_tail, double *ret_surprise)
{
    double knots[SSM_QUANTILES_MAX], tail;
    assert(Q >= 2 && Q <= SSM_QUANTILES_MAX && scale > 0.0);
    spread(q, Q, WIDTH_MIN * scale, knots);
    double d = x - q[Q / 2];

    if (d < knots[0]) {
        double density = (double)(levels[1] - levels[0]) / (knots[1] - knots[0]);
        score_tail((double)levels[0], density, scale, knots[0] - d, &tail, ret_surprise);
        *ret_u = 0.5 * exp(-tail);
    } else if (d > knots[Q - 1]) {
        double density = (double)(levels[Q - 1] - levels[Q - 2]) / (knots[Q - 1] - knots[Q - 2]);
        score_tail(1.0 - (double)levels[Q - 1], density, scale, d - knots[Q - 1], &tail, ret_surprise);
        *ret_u = 1.0 - 0.5 * exp(-tail);
    } else {
        uint32_t i = 0;
        while (i + 2 < Q && d >= knots[i + 1])
            i++;
        double rise = (double)(levels[i + 1] - levels[i]), run = knots[i + 1] - knots[i];
        *ret_u = (double)levels[i] + rise * (d - knots[i]) / run;
        *ret_surprise = -log(rise / run * scale);
        tail = -log(2.0 * fmin(*ret_u, 1.0 - *ret_u));
    }
    *ret_tail = fmax(tail, 0.0);
}
