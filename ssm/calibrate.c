/* calibrate.c: streaming p-values of nonconformities (formulas: docs/signal-model.md, sec. 6). One state per slot, no
 * pointers in it, scalar double, so bitwise the same everywhere. Cost: a few additions; a fit every REFIT samples.
 *
 * The body is a histogram with linear pieces of octaves as bins, two levels deep so that a rank costs ≤ 26 additions.
 * Newer samples weigh more: instead of decaying all bins, the weight of the next sample grows. The tail beyond the
 * 98 % quantile is a generalised Pareto distribution, fitted by probability-weighted moments of the same histogram.
 *
 * Trap: what is learnt decides what will be called normal. While p-values stay tiny for many samples on end, an
 * anomaly is under way, and its samples are learnt at a fraction of their weight (§ sustained). Single ones are
 * learnt in full: leaving out what is rare would make the tail thinner than it is, and each fit thinner yet. */
#include "ssm/calibrate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { SUB = 8, OCTAVES = 20, BINS = SUB * OCTAVES, GROUP = 16, GROUPS = BINS / GROUP };
enum { EXPONENT_MIN = -9 }; /* the bins reach from 2⁻⁹, the first one from 0, to 2¹¹ */
enum { REFIT = 64 };

#define TAIL 0.02      /* mass beyond the threshold */
#define TAIL_CLIP 16.0 /* excesses above this many median ones count as this many: one spike is not a heavy tail */
#define SHAPE_MIN (-0.4)
#define SHAPE_MAX 0.7
#define SHAPE_PRIOR 25.0 /* excesses' worth of belief in an exponential tail */
#define P_MIN 1e-300
#define RUN_MEMORY 32.0   /* samples over which −ln p is averaged */
#define RUN_NORMAL 2.5    /* its mean is 1 when nothing is wrong; above this … */
#define RUN_WEIGHT 0.0625 /* … a sample is learnt as this part of one */
#define WEIGHT_MAX 1e20   /* bins are floats */

struct calibrator {
    double weight; /* of the next sample */
    double total;  /* of all samples */
    double run;    /* running mean of −ln p */
    double threshold, sigma, shape;
    uint64_t n;      /* samples seen */
    uint64_t fit_at; /* n at which the tail is fitted next */
    double group[GROUPS];
    float bin[BINS];
};
_Static_assert(sizeof(struct calibrator) <= 1024, "a slot has up to four");

size_t ssm_calibrate_bytes(void)
{
    return sizeof(struct calibrator);
}

void ssm_calibrate_reset(const struct ssm_calibration *c, void *state)
{
    struct calibrator *s = state;
    memset(s, 0, sizeof *s);
    s->weight = 1.0;
    s->run = 1.0;
}

bool ssm_calibrate_warm(const struct ssm_calibration *c, const void *state)
{
    const struct calibrator *s = state;
    return s->n >= c->warmup;
}

/* ---- bins ------------------------------------------------------------------------------------------------- */

/* A double's exponent and the first bits of its fraction, as one number, count bins. */
enum { BIN_SHIFT = 52 - 3, BIN_ZERO = (1023 + EXPONENT_MIN) * SUB };
_Static_assert(SUB == 1 << (52 - BIN_SHIFT), "the bits that count pieces of octaves");

static double bin_start(int i)
{
    uint64_t bits = i == 0 ? 0 : (uint64_t)(BIN_ZERO + i) << BIN_SHIFT;
    double start;
    memcpy(&start, &bits, sizeof start);
    return start;
}

static int bin_of(double a)
{
    if (a < bin_start(1)) /* −0 too */
        return 0;
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    int i = (int)(bits >> BIN_SHIFT) - BIN_ZERO;
    return i < BINS ? i : BINS - 1;
}

/* Share of the weight at or above `a`. */
static double survival(const struct calibrator *s, double a)
{
    int i = bin_of(a), g = i / GROUP;
    double above = 0.0;
    for (int k = GROUPS - 1; k > g; k--)
        above += s->group[k];
    for (int k = (g + 1) * GROUP - 1; k > i; k--)
        above += (double)s->bin[k];
    double start = bin_start(i), end = bin_start(i + 1);
    double part = fmin(1.0, (end - fmin(a, end)) / (end - start));
    return fmin(1.0, (above + part * (double)s->bin[i]) / s->total);
}

/* The value above which `mass` of the weight lies. */
static double upper_quantile(const struct calibrator *s, double mass)
{
    double want = mass * s->total, above = 0.0;
    int g = GROUPS - 1;
    for (; g > 0 && above + s->group[g] < want; g--)
        above += s->group[g];
    int i = (g + 1) * GROUP - 1;
    for (; i > 0 && above + (double)s->bin[i] < want; i--)
        above += (double)s->bin[i];
    double start = bin_start(i), end = bin_start(i + 1);
    return s->bin[i] > 0.0f ? end - (end - start) * fmin(1.0, (want - above) / (double)s->bin[i]) : start;
}

static void scale_back(struct calibrator *s)
{
    double down = 1.0 / s->weight;
    for (int k = 0; k < BINS; k++)
        s->bin[k] = (float)((double)s->bin[k] * down);
    for (int k = 0; k < GROUPS; k++)
        s->group[k] *= down;
    s->total *= down;
    s->weight = 1.0;
}

void ssm_calibrate_learn(const struct ssm_calibration *c, void *state, double a, double share)
{
    struct calibrator *s = state;
    int i = bin_of(a);
    double w = share * s->weight;
    s->n++;
    s->bin[i] = (float)((double)s->bin[i] + w);
    s->group[i / GROUP] += w;
    s->total += w;
    s->weight *= 1.0 + share / fmin((double)s->n, c->memory);
    if (s->weight > WEIGHT_MAX)
        scale_back(s);
}

/* ---- tail ------------------------------------------------------------------------------------------------- */

/* Excesses x over the threshold: b0 = E[x], b1 = E[x·(1 − F(x))], weight spread evenly within a bin, hence the twelfth;
 * then (Hosking and Wallis 1987) shape = 2 − b0/(b0 − 2·b1), and sigma from the mean b0 = sigma/(1 − shape). */
static void fit(struct calibrator *s, double memory)
{
    double t = upper_quantile(s, TAIL), want = TAIL * s->total;
    double clip = TAIL_CLIP * (upper_quantile(s, TAIL / 2) - t);
    double above = 0.0, b0 = 0.0, b1 = 0.0;
    for (int i = BINS - 1; i >= 0 && above < want; i--) {
        double w = fmin((double)s->bin[i], want - above);
        if (w <= 0.0)
            continue;
        double start = fmax(bin_start(i), t), width = bin_start(i + 1) - start, share = w / want;
        double x = fmin(start + 0.5 * width - t, clip);
        b0 += share * x;
        b1 += share * (x * (above + 0.5 * w) / want - fmin(width, clip) * share / 12.0);
        above += w;
    }
    s->threshold = t;
    s->shape = 0.0;
    s->sigma = fmax(b0, 1e-9 + 1e-6 * t);
    if (b0 > 2.0 * b1 && b1 > 0.0) {
        double excesses = TAIL * fmin(0.75 * (double)s->n, 2.0 * memory);
        double shape = (2.0 - b0 / (b0 - 2.0 * b1)) * excesses / (excesses + SHAPE_PRIOR);
        s->shape = fmin(SHAPE_MAX, fmax(SHAPE_MIN, shape));
        s->sigma = fmax(b0 * (1.0 - s->shape), s->sigma * 1e-3); /* keeps the mean excess */
    }
}

static double tail_p(const struct calibrator *s, double a)
{
    double x = (a - s->threshold) / s->sigma;
    double log_p = -x;
    if (fabs(s->shape) > 1e-6)
        log_p = 1.0 + s->shape * x > 0.0 ? -log1p(s->shape * x) / s->shape : -INFINITY;
    return fmax(TAIL * exp(log_p), P_MIN);
}

double ssm_calibrate_p(const struct ssm_calibration *c, void *state, double a)
{
    struct calibrator *s = state;
    assert(a >= 0.0);
    if (s->n < c->warmup || s->n == 0)
        return (double)NAN;
    if (s->n >= s->fit_at) {
        fit(s, c->memory);
        s->fit_at = s->n + REFIT;
    }
    return a > s->threshold ? tail_p(s, a) : fmax(survival(s, a), TAIL);
}

double ssm_calibrate_update(const struct ssm_calibration *c, void *state, double a)
{
    struct calibrator *s = state;
    double p = ssm_calibrate_p(c, state, a);
    if (!isnan(p)) {
        s->run += (-log(p) - s->run) / RUN_MEMORY;
        s->run = fmin(s->run, 4.0 * RUN_NORMAL); /* so that the end of an anomaly is noticed soon */
    }
    ssm_calibrate_learn(c, state, a, s->run > RUN_NORMAL ? RUN_WEIGHT : 1.0);
    return p;
}
