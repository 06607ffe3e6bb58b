/* adapt.c: the online linear read-out (docs/signal-model.md, sec. 8). Scalar double arithmetic in a fixed order on the
 * slot's own state, by whichever thread has the slot; nothing is allocated.
 *
 * The history is a ring of the last samples. From it, for any origin in it, come a few features: the last samples,
 * means over windows, and values one or more seasons before the target. At each of a few horizons ("knots") a small
 * ridge regression from features to target is kept as normal equations; in between, its coefficients are interpolated.
 * That regression at two strengths of its prior, the last value, the seasonal naive forecast, and a long mean are the
 * experts; the model is one more. Each expert's errors at each knot are tracked as quantiles, and the quantiles of all
 * of them are averaged, with shares that fall steeply with recent loss and follow the gradient of the average's own.
 * The season is looked for by comparing the history with itself at one lag a sample.
 *
 * Stability is by construction: forecasts are direct, never iterated; a pair of features and target has a bounded
 * weight however large it is; a linear forecast stays within a few times its largest feature; a jump of thousands of
 * usual moves enters the history clipped. Trap: samples are held as floats relative to an anchor that moves; whatever
 * else is held in the stream's unit moves with it (rebase). */
#include "ssm/adapt.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "ssm/cholesky.h"
#include "ssm/still.h"

enum { RING = 4096, DEPTH = RING - 64 }; /* samples held; how far back anything looks: a step's samples come at once */
enum { BLOCK = 16, BLOCKS = RING / BLOCK };
enum { KNOTS = 19, MODEL_KNOTS = 14, D = 16, TRIANGLE = D * (D + 1) / 2 };
enum { WAITING = 8 }; /* forecasts per knot whose target has not come */
enum { Q_MAX = SSM_ADAPT_QUANTILES };
enum { PHASES = 24, PHASED = 8 }; /* a season's parts whose errors differ; the shortest season that has them */
enum { GRIDS = 3, GRID_MAX = 120, LAGS = 48 + 91 + GRID_MAX };
enum { SEASONS = 14, FEW = 4, WINDOW = 64 }; /* averaged over; unit of windows where there is no season */
enum { CATCH_UP = 3 };                       /* targets learnt per sample while some are behind */
enum { SOLVE_EACH = 2000, SOLVE_EVERY = 4 }; /* samples up to which each solves a knot's regression; later: every */
enum { MIN_PAIRS = 8, WARM = 8 };
enum { NEAREST = 2 }; /* knots that the expert STILL speaks for, where forecasts of every step are judged */
enum { TRUST = 2, TRUST_MAX = 8 }; /* sweeps that do not find the season again before it is given up */

#define RIDGE_FREE 5e-3      /* prior of the regression, in parts of its features' power: all but none … */
#define RIDGE_TIED 0.1       /* … and one that only much evidence moves */
#define RIDGE_PAIRS 50.0     /* pairs, in horizons, at which the prior counts twice: those of one horizon overlap */
#define PAIR_MEMORY 20000.0  /* samples after which a pair counts e times less */
#define LEVERAGE 8.0         /* typical powers of the features beyond which a pair counts no more */
#define MISS_MAX 4.0         /* typical misses beyond which a pair's target counts no more */
#define EXTRAPOLATE 3.0      /* largest features that a linear forecast may move from the reference */
#define MEDIAN_STEP 0.015625 /* of the running medians of power and miss */
#define JUMP_MAX 1e4         /* usual moves that a sample may jump at once */
#define VALUE_MAX 1e30
#define FAST 32.0 /* samples over which restlessness is averaged … */
#define SLOW 512.0
#define LONG 8192.0
#define NEAR 16.0         /* horizon to which restlessness matters */
#define LOSS_MEMORY 100.0 /* forecasts */
#define LOSS_MAX 20.0     /* a loss counts as at most this many usual ones */
#define GAIN_STEP 0.15    /* of exponentiated gradient, in losses of the best expert … */
#define GAIN_MEMORY 100.0
#define GAIN_MEMORY_NEAREST 1000.0
#define SLOPE_MAX 2.0
#define SPREAD_MEMORY 100.0 /* independent errors */
#define SPREAD_MAX 8.0      /* an error counts as at most this many usual ones */
#define SHAPE_PRIOR 20.0    /* independent errors' worth of belief in a Gaussian shape */
#define SHAPE_FIRST 5.0     /* step of a quantile per independent error, over their number, in spreads … */
#define SHAPE_STEP 0.02     /* … and what it never falls below */
#define PHASE_STEP 0.04     /* of the errors at a phase of the season */
#define PHASE_MIN 0.01      /* of usual errors */
#define DIP_MIN 0.15        /* a season's differences are this much smaller than those at shorter lags … */
#define DIP_NOISE 0.65      /* … or this over the root of the number of seasons seen */
#define DIP_TWICE 0.9       /* so are those at two seasons, against one and a half */
#define DIP_SHARE 0.6       /* of the deepest dip, for the first one as deep as this is the season */
#define WEEK_DIP 0.15       /* as DIP_MIN, of a multiple of the season among multiples */
#define BETTER 0.93         /* a season takes another's place where its differences are this much smaller */
#define RESCALE 1e100

static const uint16_t knots[KNOTS] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768};

/* Lags that are compared: three grids, on means of `width` samples. The first half of a grid only serves as what the
 * second is compared with. */
static const struct grid {
    uint16_t width, least, from, count;
} grids[GRIDS] = {{1, 1, 4, 48}, {4, 24, 49, 91}, {16, 128, 257, GRID_MAX}};

/* Seasons of clocks and calendars: taken instead of a neighbour that repeats itself no better. */
static const uint16_t usual[] = {7,   12,  24,  30,  48,  52,  60,  72,  96,  100, 120, 144,  168,  180,  240,
                                 288, 300, 336, 365, 480, 500, 504, 600, 672, 720, 900, 1000, 1008, 1200, 1440};
enum { USUAL = sizeof usual / sizeof *usual, USUAL_FROM = 1008 }; /* longer ones are believed only if usual */

enum expert { FREE, TIED, LAST, SEASON, LEVEL, OWN, STILL = OWN, HERE, MODEL = HERE, EXPERTS };
/* Those below OWN have a point and learn spread and shape at each knot; those below HERE are there without the model.
 */

struct regression {            /* at a knot */
    double a[TRIANGLE], b[D];  /* lower triangle of Σ w·φφᵀ; Σ w·φ·y */
    double pairs, power, miss; /* running medians of |φ|² and |y − θφ| */
    float theta[2][D];         /* FREE, TIED */
};

struct forecast { /* of a knot, waiting for its target */
    uint32_t target;
    float scale, point[OWN], mean, unit; /* mean and unit: of STILL */
    bool aside;                          /* the model was not asked: only shapes and gains learn from it */
};

struct queue {
    uint32_t begin, count, next; /* no other forecast before sample `next` */
    struct forecast at[WAITING];
};

struct record { /* of the experts' accuracy at a knot */
    float seen[EXPERTS], loss[EXPERTS];
    float gain[EXPERTS];     /* logarithm of what a share is multiplied by */
    float spread[OWN];       /* mean absolute error in scales */
    float shape[OWN][Q_MAX]; /* quantiles of the error in spreads */
};

struct adapt {
    uint64_t n, step; /* samples since the first finite one; steps since the reset */
    uint64_t learnt;  /* samples that were targets of the regressions */
    double anchor;
    double limit, move; /* of a jump; mean absolute difference */
    double weight;      /* of the next pair */
    double misses;      /* of one step, seen; and their means */
    double fast, slow, longest;
    uint32_t season, week; /* 0: none; `week` is a longer season, a multiple of the first */
    uint32_t trust, doubt, lag, solved;
    double sums[BLOCKS]; /* cumulated over blocks of the ring */
    struct ssm_still still;
    struct regression at[KNOTS];
    struct queue queue[KNOTS];
    struct record record[KNOTS];
    float model[MODEL_KNOTS][WAITING][Q_MAX]; /* the model's forecasts beside those of the queues */
    float differences[LAGS];
    float phase[PHASES]; /* errors at a part of the season, in usual ones */
    float ring[RING];
    uint8_t missing[RING / 8];
};
_Static_assert(sizeof(struct adapt) <= 65536, "a slot's read-out has 64 KiB");

size_t ssm_adapt_bytes(void)
{
    return sizeof(struct adapt);
}

/* ---- history ---------------------------------------------------------------------------------------------- */

static double limited(double x)
{
    return fmax(-VALUE_MAX, fmin(VALUE_MAX, x));
}

static double value(const struct adapt *s, uint64_t i)
{
    return (double)s->ring[i % RING];
}

static bool is_missing(const struct adapt *s, uint64_t i)
{
    return s->missing[i % RING / 8] >> (i % 8) & 1;
}

static uint64_t oldest(uint64_t n)
{
    return n > DEPTH ? n - DEPTH : 0;
}

/* Sum of the samples before i, up to a constant. */
static double sum_before(const struct adapt *s, uint64_t i)
{
    double sum = i >= BLOCK ? s->sums[(i / BLOCK - 1) % BLOCKS] : 0.0;
    for (uint64_t k = i / BLOCK * BLOCK; k < i; k++)
        sum += value(s, k);
    return sum;
}

/* Mean of the w samples up to o, or of those that there are from `from` on. */
static double mean(const struct adapt *s, uint64_t from, uint64_t o, uint64_t w)
{
    double sum = 0.0;
    if (w > o + 1 - from)
        w = o + 1 - from;
    if (w > BLOCK)
        return (sum_before(s, o + 1) - sum_before(s, o + 1 - w)) / (double)w;
    for (uint64_t k = o + 1 - w; k <= o; k++)
        sum += value(s, k);
    return sum / (double)w;
}

static void shift_forecasts(struct adapt *s, double shift)
{
    s->still.mean -= shift;
    for (int k = 0; k < KNOTS; k++)
        for (int i = 0; i < WAITING; i++) {
            struct forecast *w = &s->queue[k].at[i];
            w->mean = (float)((double)w->mean - shift);
            for (int e = 0; e < OWN; e++)
                w->point[e] = (float)((double)w->point[e] - shift);
        }
    for (int k = 0; k < MODEL_KNOTS; k++)
        for (int i = 0; i < WAITING; i++)
            for (int q = 0; q < Q_MAX; q++)
                s->model[k][i][q] = (float)((double)s->model[k][i][q] - shift);
}

/* Moves the anchor into the middle of the history, and sums anew, so that neither loses digits for long. */
static void rebase(struct adapt *s)
{
    uint64_t from = s->n > RING ? s->n - RING : 0;
    double sum = 0.0;
    for (uint64_t i = from; i < s->n; i++)
        sum += value(s, i);
    double shift = sum / (double)(s->n - from);
    s->anchor += shift;
    shift_forecasts(s, shift);
    sum = 0.0;
    for (uint64_t i = from; i < s->n; i++) {
        s->ring[i % RING] = (float)(value(s, i) - shift);
        sum += value(s, i);
        if (i % BLOCK == BLOCK - 1)
            s->sums[i / BLOCK % BLOCKS] = sum;
    }
}

/* y, relative to the anchor, or what stands in for it where it jumps too far. The limit doubles with each such sample,
 * so that a new level is soon believed. */
static double tamed(struct adapt *s, double y)
{
    y = limited(y);
    if (s->n == 0)
        return y;
    double before = value(s, s->n - 1), d = y - before;
    if (s->n >= WINDOW && s->move > 0.0 && fabs(d) > s->limit) {
        s->limit *= 2.0;
        return before + copysign(0.5 * s->limit, d);
    }
    s->move += (fabs(d) - s->move) / fmin((double)s->n, SLOW);
    s->limit = fmax(s->limit * (1.0 - 1.0 / SLOW), JUMP_MAX * s->move);
    return y;
}

static void append(struct adapt *s, double x)
{
    bool missing = !isfinite(x);
    uint64_t i = s->n;
    if (i == 0)
        s->anchor = x;
    double y = !missing                      ? tamed(s, x - s->anchor)
               : s->season && i >= s->season ? value(s, i - s->season)
                                             : value(s, i - 1);
    s->ring[i % RING] = (float)y;
    uint8_t bit = (uint8_t)(1u << (i % 8)), *bits = &s->missing[i % RING / 8];
    *bits = (uint8_t)(missing ? *bits | bit : *bits & ~bit);
    s->n++;
    if (s->n % BLOCK == 0) {
        double sum = i >= BLOCK ? s->sums[(i / BLOCK - 1) % BLOCKS] : 0.0;
        for (uint64_t k = s->n - BLOCK; k < s->n; k++)
            sum += value(s, k);
        s->sums[i / BLOCK % BLOCKS] = sum;
    }
    if (s->n % RING == 0 || (s->n < RING && s->n >= BLOCK && (s->n & (s->n - 1)) == 0))
        rebase(s);
}

/* ---- features --------------------------------------------------------------------------------------------- */

/* What is known at an origin o, all but `reference` relative to it: the mean of the last season. */
struct origin {
    uint64_t o, from;
    double reference, phi[D];
};

enum {
    NOW,
    WINDOWS = 4,
    PAST = 9,
    TARGET = 12
}; /* where in phi: last samples, means, this phase, the target's phase */

static double lagged(const struct adapt *s, const struct origin *f, uint32_t lag)
{
    return value(s, f->o >= f->from + lag ? f->o - lag : f->from) - f->reference;
}

/* Values at i, i − m, …, those from `from` on: the first one or 0, the mean of four and the mean of all. */
static void same_phase(const struct adapt *s, const struct origin *f, uint64_t i, double *first, double *few,
                       double *all)
{
    double sum = 0.0;
    uint32_t j = 0;
    *first = *few = *all = 0.0;
    for (uint64_t back = 0; j < SEASONS && i >= f->from + back; back += s->season) {
        sum += value(s, i - back) - f->reference;
        j++;
        if (j == 1)
            *first = sum;
        if (j == FEW)
            *few = sum / FEW;
    }
    *all = j ? sum / j : 0.0;
    if (j < FEW)
        *few = *all;
}

static void see_origin(const struct adapt *s, uint64_t o, uint64_t from, struct origin *f)
{
    static const uint8_t older[7] = {4, 5, 6, 7, 9, 11, 15};
    uint32_t m = s->season ? s->season : WINDOW;
    const uint32_t windows[5] = {m / 8 > 2 ? m / 8 : 2, m / 4 > 2 ? m / 4 : 2, m / 2 > 2 ? m / 2 : 2, 4 * m,
                                 SEASONS * m};
    f->o = o;
    f->from = from;
    f->reference = mean(s, from, o, m);
    for (uint32_t i = 0; i < 4; i++)
        f->phi[NOW + i] = lagged(s, f, i);
    for (uint32_t i = 0; i < 5; i++)
        f->phi[WINDOWS + i] = mean(s, from, o, windows[i]) - f->reference;
    if (s->season) {
        double now;
        same_phase(s, f, o, &now, &f->phi[PAST + 1], &f->phi[PAST + 2]);
        f->phi[PAST] = o >= from + m ? value(s, o - m) - f->reference : 0.0;
        return;
    }
    for (uint32_t i = 0; i < 7; i++)
        f->phi[PAST + i] = lagged(s, f, older[i]);
}

/* The features that look at target o + h from one or more seasons before it. */
static void see_target(const struct adapt *s, const struct origin *f, uint32_t h, double *phi)
{
    memcpy(phi, f->phi, sizeof f->phi);
    if (!s->season)
        return;
    uint32_t m = s->season, back = (h + m - 1) / m * m, weeks = s->week ? (h + s->week - 1) / s->week * s->week : 0;
    uint64_t target = f->o + h;
    same_phase(s, f, target - back, &phi[TARGET], &phi[TARGET + 1], &phi[TARGET + 2]);
    phi[TARGET + 3] = 0.0;
    if (weeks && f->o >= f->from + weeks) {
        phi[TARGET + 3] = value(s, target - weeks) - f->reference;
        phi[NOW + 3] = mean(s, f->from, f->o - weeks, m) - f->reference;
    } else if (!weeks && back > h)
        phi[TARGET + 3] = value(s, target + 1 - back) - f->reference;
}

/* ---- regressions ------------------------------------------------------------------------------------------ */

static double dot(const float *theta, const double *phi)
{
    double sum = 0.0;
    for (int i = 0; i < D; i++)
        sum += (double)theta[i] * phi[i];
    return sum;
}

/* Up or down by a small part, whatever the distance: one huge value moves it no more than any other. */
static void follow_median(double *median, double x)
{
    if (*median == 0.0)
        *median = x;
    *median *= x > *median ? 1.0 + MEDIAN_STEP : 1.0 - MEDIAN_STEP;
}

static void learn_pair(struct regression *r, const double *phi, double y, double weight)
{
    double power = 0.0, miss = fabs(y - dot(r->theta[FREE], phi)), *a = r->a;
    for (int i = 0; i < D; i++)
        power += phi[i] * phi[i];
    follow_median(&r->power, power);
    follow_median(&r->miss, miss);
    double w = weight / (LEVERAGE * r->power + power + DBL_MIN);
    if (miss > MISS_MAX * r->miss && r->pairs > WINDOW)
        w *= MISS_MAX * r->miss / miss;
    for (int i = 0; i < D; a += ++i) {
        double c = w * phi[i];
        for (int j = 0; j <= i; j++)
            a[j] += c * phi[j];
        r->b[i] += c * y;
    }
    r->pairs += 1.0;
}

/* Ridge towards the mean of the last four seasons, or, where there is no season, the last value. */
static void solve(const struct adapt *s, struct regression *r, uint32_t h)
{
    static const double ridge[2] = {RIDGE_FREE, RIDGE_TIED};
    double l[TRIANGLE], x[D], trace = 0.0;
    for (int i = 0; i < D; i++)
        trace += r->a[i * (i + 3) / 2];
    if (r->pairs < MIN_PAIRS || !(trace > 0.0))
        return;
    for (int e = FREE; e <= TIED; e++) {
        double add = ridge[e] * (1.0 + RIDGE_PAIRS * h / r->pairs) * trace / D;
        memcpy(x, r->b, sizeof x);
        x[s->season ? TARGET + 1 : NOW] += add;
        ssm_cholesky_solve(D, r->a, add, 1e-12 * trace, l, x);
        for (int i = 0; i < D; i++)
            r->theta[e][i] = (float)x[i];
    }
}

static void forget_pairs(struct adapt *s)
{
    for (int k = 0; k < KNOTS; k++) {
        struct regression *r = &s->at[k];
        memset(r->a, 0, sizeof r->a);
        memset(r->b, 0, sizeof r->b);
        r->pairs = r->power = r->miss = 0.0;
    }
    for (int i = 0; i < PHASES; i++)
        s->phase[i] = 1.0f;
    s->learnt = oldest(s->n);
    s->weight = 1.0;
}

static void scale_back(struct adapt *s)
{
    for (int k = 0; k < KNOTS; k++) {
        for (int i = 0; i < TRIANGLE; i++)
            s->at[k].a[i] /= RESCALE;
        for (int i = 0; i < D; i++)
            s->at[k].b[i] /= RESCALE;
    }
    s->weight /= RESCALE;
}

/* How far off one step ahead was. */
static void learn_miss(struct adapt *s, double miss)
{
    s->misses += 1.0;
    if (s->misses > WARM)
        miss = fmin(miss, FAST * fmax(s->slow, 0.1 * s->longest));
    s->fast += (miss - s->fast) / fmin(s->misses, FAST);
    s->slow += (miss - s->slow) / fmin(s->misses, SLOW);
    s->longest += (miss - s->longest) / fmin(s->misses, LONG);
}

/* Sample T as the target of all knots that have an origin for it. */
static void learn_target(struct adapt *s, uint64_t T)
{
    uint64_t from = oldest(s->n);
    double phi[D];
    struct origin f;
    if (is_missing(s, T))
        return;
    for (int k = 0; k < KNOTS && T >= from + knots[k] + 2; k++) {
        see_origin(s, T - knots[k], from, &f);
        see_target(s, &f, knots[k], phi);
        double y = value(s, T) - f.reference;
        if (k == 0 && T + 1 == s->n)
            learn_miss(s, fabs(y - dot(s->at[0].theta[TIED], phi)));
        learn_pair(&s->at[k], phi, y, s->weight);
    }
    s->weight *= 1.0 + 1.0 / PAIR_MEMORY;
    if (s->weight > RESCALE)
        scale_back(s);
}

/* The newest sample, and up to two older ones after the season has changed; a knot's regression is solved in turn. */
static void learn_targets(struct adapt *s)
{
    for (int i = 0; i < CATCH_UP && s->learnt < s->n; i++)
        learn_target(s, s->learnt++);
    if (s->n >= SOLVE_EACH && s->n % SOLVE_EVERY != 0)
        return;
    uint32_t k = s->solved++ % KNOTS;
    solve(s, &s->at[k], knots[k]);
}

/* ---- season ----------------------------------------------------------------------------------------------- */

static double block_mean(const struct adapt *s, uint64_t i, uint32_t w)
{
    double sum = 0.0;
    if (w == BLOCK && i % BLOCK == 0) {
        uint64_t b = i / BLOCK;
        return (s->sums[b % BLOCKS] - (b ? s->sums[(b - 1) % BLOCKS] : 0.0)) / BLOCK;
    }
    for (uint32_t k = 0; k < w; k++)
        sum += value(s, i + k);
    return sum / w;
}

static uint32_t held(const struct adapt *s)
{
    return s->n < DEPTH ? (uint32_t)s->n : DEPTH;
}

/* Mean absolute difference of means of w samples a lag apart, less their drift. */
static double difference(const struct adapt *s, uint32_t lag, uint32_t w)
{
    enum { PAIRS = 512 };
    uint64_t end = s->n / w * w;
    uint32_t most = (held(s) - lag - 2 * w + 1) / w, pairs = w == 1 ? PAIRS : PAIRS / 2, stride = most / pairs;
    stride = stride > 1 ? stride | 1 : 1; /* odd: in step with fewer seasons */
    double d[PAIRS], sum = 0.0, drift = 0.0;
    uint32_t n = 0;
    for (uint64_t i = 1; i <= most && n < pairs; i += stride)
        drift += d[n++] = block_mean(s, end - i * w, w) - block_mean(s, end - i * w - lag, w);
    drift /= n;
    for (uint32_t i = 0; i < n; i++)
        sum += fabs(d[i] - drift);
    return sum / n;
}

/* Of one, two and three seasons, as far as the history goes: sharper than of one. */
static double unlikeness(const struct adapt *s, uint32_t lag)
{
    uint32_t w = lag <= grids[0].count ? 1 : grids[1].width;
    double sum = 0.0;
    for (uint32_t j = 1; j <= 3; j++)
        sum += difference(s, (j * lag + WINDOW) * 5 / 4 < held(s) ? j * lag : lag, w);
    return sum;
}

static bool is_usual(uint32_t lag)
{
    for (uint32_t i = 0; i < USUAL; i++)
        if (lag == usual[i])
            return true;
    return false;
}

/* From a grid's lag to the best one beside it. */
static uint32_t sharpened(const struct adapt *s, uint32_t lag, uint32_t width)
{
    uint32_t aside = width > 1 ? 3 * width / 4 : 0, best = lag;
    double least = INFINITY;
    for (uint32_t l = lag - aside; l <= lag + aside; l++) {
        double u = unlikeness(s, l);
        if (u < least) {
            least = u;
            best = l;
        }
    }
    for (uint32_t i = 0; i < USUAL; i++)
        if (fabs((double)best - usual[i]) <= 0.025 * best && unlikeness(s, usual[i]) < 1.03 * least)
            return usual[i];
    return best;
}

struct dip {
    uint32_t lag, width;
    double depth;
};

/* How much smaller the differences at grid lag i are than those at the lags of its own half below; 0 unless it is the
 * smallest around, and two seasons confirm it. */
static double depth_of(const struct adapt *s, const struct grid *g, const float *d, uint32_t i)
{
    uint32_t lag = g->least + i * g->width, half = (lag / 2 - g->least + g->width - 1) / g->width;
    double sum = 0.0;
    if (lag < g->from || d[i] > d[i - 1] || d[i] > d[i - 2] || d[i] > d[i + 1] || d[i] > d[i + 2])
        return 0.0;
    for (uint32_t j = half; j < i; j++)
        sum += (double)d[j];
    double depth = sum > 0.0 ? 1.0 - (double)d[i] * (i - half) / sum : 0.0;
    if (depth < fmax(DIP_MIN, DIP_NOISE * sqrt((double)lag / held(s))))
        return 0.0;
    return difference(s, 2 * lag, g->width) > DIP_TWICE * difference(s, lag + lag / 2, g->width) ? 0.0 : depth;
}

/* The first of the deep dips of the sweep's differences; 0: there is none. */
static uint32_t find_season(const struct adapt *s)
{
    struct dip dips[LAGS];
    uint32_t n = 0, begin = 0;
    double deepest = 0.0;
    for (int g = 0; g < GRIDS; begin += grids[g++].count) {
        uint32_t count = s->lag < begin ? 0 : s->lag - begin < grids[g].count ? s->lag - begin : grids[g].count;
        for (uint32_t i = 2; i + 2 < count; i++) {
            double depth = depth_of(s, &grids[g], s->differences + begin, i);
            if (depth > 0.0)
                dips[n++] = (struct dip){grids[g].least + i * grids[g].width, grids[g].width, depth};
            deepest = fmax(deepest, depth);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (dips[i].depth >= DIP_SHARE * deepest) {
            uint32_t lag = sharpened(s, dips[i].lag, dips[i].width);
            return (lag <= USUAL_FROM && lag * 3 <= s->n) || is_usual(lag) ? lag : 0;
        }
    return 0;
}

/* A multiple of the season whose differences are smaller than those of the multiples beside it and of its own half
 * below; 0: there is none. */
static uint32_t find_week(const struct adapt *s, uint32_t season)
{
    double d[SEASONS + 2];
    uint32_t n = 0, week = 0;
    double deepest = 0.0;
    while (n < SEASONS + 2 && (n + 1) * season * 3 / 2 + WINDOW < held(s)) {
        d[n] = difference(s, (n + 1) * season, season < grids[1].least ? 1 : grids[1].width);
        n++;
    }
    for (uint32_t i = 2; i + 1 < n && (i + 1) * season < DEPTH / 2; i++) {
        double sum = 0.0;
        for (uint32_t k = (i + 1) / 2; k < i; k++)
            sum += d[k];
        double depth = 1.0 - d[i] * (i - (i + 1) / 2) / sum;
        if (d[i] < d[i - 1] && d[i] < d[i + 1] && depth * DIP_SHARE > deepest &&
            depth > fmax(WEEK_DIP, DIP_NOISE * sqrt((double)((i + 1) * season) / held(s)))) {
            deepest = depth;
            week = (i + 1) * season;
        }
    }
    return week;
}

/* Only after it was found a few times on end: what was learnt with another one is of no use. */
static void note_week(struct adapt *s, uint32_t week)
{
    s->doubt = week == s->week ? 0 : s->doubt + 1;
    if (s->doubt <= (s->week ? TRUST_MAX : TRUST))
        return;
    s->week = week;
    s->doubt = 0;
    forget_pairs(s);
}

static void choose_season(struct adapt *s)
{
    uint32_t found = find_season(s), old = s->season;
    if (found && old && found != old && unlikeness(s, found) > BETTER * unlikeness(s, old))
        found = old;
    if (found == old) {
        s->trust = s->trust < TRUST_MAX ? s->trust + 1 : TRUST_MAX;
        if (found)
            note_week(s, find_week(s, found));
        return;
    }
    if (old && s->trust > 0) {
        s->trust--;
        return;
    }
    s->season = found;
    s->week = s->doubt = 0;
    s->trust = TRUST;
    forget_pairs(s);
}

/* A lag a sample, more while they are cheap; after the last one that the history allows the season is chosen. */
static void sweep(struct adapt *s)
{
    enum { WORK = 512, LEAST = 32 };
    for (uint32_t work = s->n < LEAST ? WORK : 0; work < WORK; work += s->n < WORK ? (uint32_t)s->n : WORK) {
        uint32_t g = 0, i = s->lag;
        while (g + 1 < GRIDS && i >= grids[g].count)
            i -= grids[g++].count;
        uint32_t lag = grids[g].least + i * grids[g].width;
        if (s->lag == LAGS || lag * 5 / 2 + WINDOW > held(s)) {
            choose_season(s);
            s->lag = 0;
            return;
        }
        s->differences[s->lag++] = (float)difference(s, lag, grids[g].width);
    }
}

/* ---- experts ---------------------------------------------------------------------------------------------- */

struct place { /* of a horizon: between knots k and k + 1 */
    int k;
    double part;
};

static struct place place_of(uint32_t h)
{
    int k = 0;
    while (k + 2 < KNOTS && h >= knots[k + 1])
        k++;
    return (struct place){k, fmin(1.0, (double)(h - knots[k]) / (knots[k + 1] - knots[k]))};
}

static double between(struct place p, double a, double b)
{
    return (1.0 - p.part) * a + p.part * b;
}

static double linear(const struct adapt *s, int e, struct place p, const double *phi)
{
    const float *a = s->at[p.k].theta[e], *b = s->at[p.k + 1].theta[e];
    double sum = 0.0, most = 0.0;
    for (int i = 0; i < D; i++) {
        sum += between(p, (double)a[i], (double)b[i]) * phi[i];
        most = fmax(most, fabs(phi[i]));
    }
    return fmax(-EXTRAPOLATE * most, fmin(EXTRAPOLATE * most, sum));
}

/* What each expert expects at o + h, relative to the anchor. */
static void expect(const struct adapt *s, const struct origin *f, uint32_t h, double *point)
{
    struct place p = place_of(h);
    double phi[D];
    see_target(s, f, h, phi);
    point[FREE] = f->reference + linear(s, FREE, p, phi);
    point[TIED] = f->reference + linear(s, TIED, p, phi);
    point[LAST] = f->reference + phi[NOW];
    point[SEASON] = f->reference + (s->season ? phi[TARGET] : phi[NOW]);
    point[LEVEL] = f->reference + phi[WINDOWS + 4];
}

/* The unit of errors at each knot: near ones follow how restless the last few samples were, distant ones hardly. */
static void scales(const struct adapt *s, double *scale)
{
    double least = 0.2 * s->move + 1e-12 * fabs(s->anchor) + 1e-30;
    double slow = fmax(least, fmax(s->slow, 0.1 * s->longest)), fast = fmax(s->fast, 0.1 * slow);
    double log_slow = log(slow), log_ratio = log(fast) - log_slow;
    for (int k = 0; k < KNOTS; k++) {
        double near = 1.0 / (1.0 + knots[k] / NEAR);
        scale[k] = exp(near * (log_slow + 0.5 * log_ratio));
    }
}

static uint32_t phase_of(const struct adapt *s, uint64_t i)
{
    return (uint32_t)(i % s->season * PHASES / s->season);
}

/* Of errors at sample i: half way, in proportion, from the usual to what they are at its phase of the season. */
static double phase_factor(const struct adapt *s, uint64_t i)
{
    return s->season < PHASED ? 1.0 : sqrt(fmax(PHASE_MIN, (double)s->phase[phase_of(s, i)]));
}

static void note_phase(struct adapt *s, uint64_t i, double size)
{
    if (s->season < PHASED)
        return;
    float *phase = &s->phase[phase_of(s, i)];
    *phase += (float)(PHASE_STEP * (fmin(size, SPREAD_MAX) - (double)*phase));
}

static double pinball(const struct ssm_adapt_shape *a, const double *q, double y)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < a->n_quantiles; i++) {
        double level = (double)a->levels[i];
        sum += y >= q[i] ? level * (y - q[i]) : (1.0 - level) * (q[i] - y);
    }
    return sum;
}

static void note_loss(struct record *r, int e, double loss)
{
    loss = fmin(loss, VALUE_MAX * Q_MAX);
    r->seen[e] += 1.0f;
    if (r->seen[e] > WARM)
        loss = fmin(loss, LOSS_MAX * (double)r->loss[e]);
    r->loss[e] = (float)((double)r->loss[e] + (loss - (double)r->loss[e]) / fmin((double)r->seen[e], LOSS_MEMORY));
}

/* Errors of forecasts that overlap are alike: each is only `part` of an independent one. */
static void note_error(const struct ssm_adapt_shape *a, struct record *r, int e, double error, double part)
{
    double seen = (double)r->seen[e], spread = (double)r->spread[e], size = fabs(error);
    if (seen > WARM)
        size = fmin(size, SPREAD_MAX * spread);
    spread += (size - spread) * fmax(1.0 / (seen + 1.0), part / SPREAD_MEMORY);
    r->spread[e] = (float)fmax(spread, 1e-30);
    double step = part * (SHAPE_FIRST / (part * seen + SHAPE_PRIOR) + SHAPE_STEP), z = error / (double)r->spread[e];
    float *shape = r->shape[e];
    for (uint32_t i = 0; i < a->n_quantiles; i++) {
        float q = shape[i] + (float)(step * ((double)a->levels[i] - (z < (double)shape[i] ? 1.0 : 0.0)));
        uint32_t k = i;
        for (; k > 0 && shape[k - 1] > q; k--)
            shape[k] = shape[k - 1];
        shape[k] = q;
    }
}

/* Shares of the experts at a knot: as the eighth power of the loss falls, times what the gradient has earned them. One
 * not yet seen counts as slightly worse than the best. */
static void shares(const struct record *r, bool with_model, double *share)
{
    double best = INFINITY, sum = 0.0;
    int n = with_model ? EXPERTS : HERE;
    share[MODEL] = 0.0;
    for (int e = 0; e < n; e++)
        if (r->seen[e] > 0.0f)
            best = fmin(best, (double)r->loss[e]);
    for (int e = 0; e < n; e++) {
        double x = r->seen[e] > 0.0f && r->loss[e] > 0.0f ? best / (double)r->loss[e] : r->seen[e] > 0.0f ? 1.0 : 0.9;
        x *= x;
        x *= x;
        sum += share[e] = x * x * exp((double)r->gain[e]);
    }
    for (int e = 0; e < n; e++)
        share[e] /= sum;
}

/* Exponentiated gradient of the mixture's loss in the shares: an expert gains where more of it would have been better.
 */
static void note_mixture(const struct ssm_adapt_shape *a, struct record *r, bool with_model, double memory,
                         double q[EXPERTS][Q_MAX], double y)
{
    double share[EXPERTS], slope[EXPERTS] = {0}, least = INFINITY;
    int n = with_model ? EXPERTS : HERE;
    shares(r, with_model, share);
    for (uint32_t i = 0; i < a->n_quantiles; i++) {
        double mixed = 0.0;
        for (int e = 0; e < n; e++)
            mixed += share[e] * q[e][i];
        for (int e = 0; e < n; e++)
            slope[e] += ((y < mixed ? 1.0 : 0.0) - (double)a->levels[i]) * (q[e][i] - mixed);
    }
    for (int e = 0; e < n; e++)
        least = r->seen[e] > 0.0f ? fmin(least, (double)r->loss[e]) : least;
    if (!(least > 0.0 && least <= VALUE_MAX * Q_MAX))
        return;
    for (int e = 0; e < n; e++) {
        double earned = GAIN_STEP * fmax(-SLOPE_MAX, fmin(SLOPE_MAX, slope[e] / least));
        r->gain[e] = (float)((double)r->gain[e] * (1.0 - 1.0 / memory) - earned);
    }
}

static void note_target(const struct ssm_adapt_shape *a, struct adapt *s, int k, uint32_t slot, double y)
{
    const struct forecast *w = &s->queue[k].at[slot];
    struct record *r = &s->record[k];
    double q[EXPERTS][Q_MAX], part = fmin(1.0, 2.0 * (knots[k] / WAITING + 4.0) / knots[k]);
    double scale = (double)w->scale * phase_factor(s, s->n - 1);
    bool model = k < MODEL_KNOTS && !isnan(s->model[k][slot][0]);
    if (r->spread[FREE] > 0.0f && !w->aside)
        note_phase(s, s->n - 1, fabs(y - (double)w->point[FREE]) / ((double)w->scale * (double)r->spread[FREE]));
    for (int e = 0; e < OWN; e++) {
        if (r->seen[e] == 0.0f)
            r->spread[e] = (float)fabs(limited((y - (double)w->point[e]) / scale));
        for (uint32_t i = 0; i < a->n_quantiles; i++)
            q[e][i] = (double)w->point[e] + scale * (double)r->spread[e] * (double)r->shape[e][i];
    }
    for (uint32_t i = 0; i < a->n_quantiles; i++)
        q[STILL][i] = (double)w->mean + (double)w->unit * (double)s->still.shape[i];
    for (uint32_t i = 0; model && i < a->n_quantiles; i++)
        q[MODEL][i] = (double)s->model[k][slot][i];
    note_mixture(a, r, model, k < NEAREST ? GAIN_MEMORY_NEAREST : GAIN_MEMORY, q, y);
    for (int e = 0; !w->aside && e < (model ? EXPERTS : HERE); e++)
        note_loss(r, e, pinball(a, q[e], y));
    for (int e = 0; e < OWN; e++)
        note_error(a, r, e, limited((y - (double)w->point[e]) / scale), part);
}

/* Sample i, just appended, against what was expected of it. */
static void note_sample(const struct ssm_adapt_shape *a, struct adapt *s, uint64_t i)
{
    for (int k = 0; k < KNOTS; k++) {
        struct queue *q = &s->queue[k];
        uint32_t slot = q->begin;
        if (q->count == 0 || q->at[slot].target != (uint32_t)i)
            continue;
        q->begin = (q->begin + 1) % WAITING;
        q->count--;
        if (!is_missing(s, i))
            note_target(a, s, k, slot, value(s, i));
    }
}

/* Expectations of this step at the first `n` knots, to be held against what comes. */
static void queue_forecasts(struct adapt *s, int n, bool aside)
{
    struct origin f;
    double scale[KNOTS], point[OWN];
    uint32_t o = (uint32_t)(s->n - 1);
    see_origin(s, s->n - 1, oldest(s->n), &f);
    scales(s, scale);
    for (int k = 0; k < n; k++) {
        struct queue *q = &s->queue[k];
        if (q->count == WAITING || (q->count > 0 && (int32_t)(o - q->next) < 0))
            continue;
        uint32_t slot = (q->begin + q->count++) % WAITING;
        expect(s, &f, knots[k], point);
        q->at[slot].target = o + knots[k];
        q->at[slot].aside = aside;
        q->at[slot].scale = (float)scale[k];
        q->at[slot].mean = (float)s->still.mean;
        q->at[slot].unit = (float)ssm_still_unit(&s->still, knots[k]);
        for (int e = 0; e < OWN; e++)
            q->at[slot].point[e] = (float)point[e];
        if (k < MODEL_KNOTS)
            s->model[k][slot][0] = NAN;
        q->next = o + knots[k] / WAITING + 1;
    }
}

/* ---- interface -------------------------------------------------------------------------------------------- */

/* Of the standard normal distribution; Hastings' approximation, good to 5e-4. */
static double normal_quantile(double p)
{
    double t = sqrt(-2.0 * log(fmin(p, 1.0 - p)));
    double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    return p < 0.5 ? -z : z;
}

void ssm_adapt_reset(const struct ssm_adapt_shape *a, void *state)
{
    struct adapt *s = state;
    assert(a->n_quantiles <= Q_MAX);
    memset(s, 0, sizeof *s);
    s->weight = 1.0;
    for (uint32_t i = 0; i < a->n_quantiles; i++)
        s->still.shape[i] = (float)(1.2533 * normal_quantile((double)a->levels[i]));
    for (int k = 0; k < KNOTS; k++) {
        if (k >= NEAREST)
            s->record[k].gain[STILL] = -INFINITY; /* no share, whatever it earns */
        s->at[k].theta[FREE][NOW] = s->at[k].theta[TIED][NOW] = 1.0f;
        for (int e = 0; e < OWN; e++)
            for (uint32_t i = 0; i < a->n_quantiles; i++) /* in spreads: E|x| = 0.8 σ */
                s->record[k].shape[e][i] = (float)(1.2533 * normal_quantile((double)a->levels[i]));
    }
}

/* Gaps of 4, 5 and 7 steps, so that all phases of a season come in turn. */
bool ssm_adapt_wants_model(uint64_t step)
{
    return step < 64 || (step < 256 && step % 2 == 0) || step % 16 == 0 || step % 16 == 4 || step % 16 == 9;
}

static void learn_sample(const struct ssm_adapt_shape *a, struct adapt *s, double x)
{
    if (s->n == 0 && !isfinite(x))
        return;
    append(s, x);
    note_sample(a, s, s->n - 1);
    if (!is_missing(s, s->n - 1))
        ssm_still_learn(&s->still, a->levels, a->n_quantiles, value(s, s->n - 1));
    learn_targets(s);
    sweep(s);
}

void ssm_adapt_learn(const struct ssm_adapt_shape *a, void *state, uint32_t gap, const double *x)
{
    struct adapt *s = state;
    for (uint32_t i = 0; i < gap && i < RING; i++) /* of a longer one nothing older is left */
        learn_sample(a, s, (double)NAN);
    for (uint32_t i = 0; i < a->patch; i++)
        learn_sample(a, s, x[i]);
    s->step++;
    if (s->misses >= WARM && s->move > 0.0) {
        bool asked = ssm_adapt_wants_model(s->step);
        queue_forecasts(s, asked ? KNOTS : NEAREST, !asked);
    }
}

void ssm_adapt_note_model(const struct ssm_adapt_shape *a, void *state, const double *model_q)
{
    struct adapt *s = state;
    uint32_t o = (uint32_t)(s->n - 1);
    for (int k = 0; k < MODEL_KNOTS && knots[k] <= a->horizon_model; k++) {
        const struct queue *q = &s->queue[k];
        uint32_t slot = (q->begin + q->count + WAITING - 1) % WAITING;
        if (q->count == 0 || q->at[slot].target != o + knots[k])
            continue;
        for (uint32_t i = 0; i < a->n_quantiles; i++)
            s->model[k][slot][i] = (float)limited(model_q[(size_t)(knots[k] - 1) * a->n_quantiles + i] - s->anchor);
    }
}

/* The experts' quantiles at h, and those of the model (NULL: it says nothing), averaged. */
struct mixture {
    double width[KNOTS][OWN], share[KNOTS][EXPERTS], share_own[KNOTS][EXPERTS];
};

static void mix(const struct adapt *s, struct mixture *m)
{
    double scale[KNOTS], before = fmax(s->slow, 0.2 * s->move);
    scales(s, scale);
    for (int k = 0; k < KNOTS; k++) {
        const struct record *r = &s->record[k];
        for (int e = 0; e < OWN; e++)
            m->width[k][e] = r->seen[e] > 0.0f ? (double)r->spread[e] * scale[k] : before * sqrt((double)knots[k]);
        shares(r, true, m->share[k]);
        shares(r, false, m->share_own[k]);
    }
}

static double quantile(const struct adapt *s, const struct mixture *m, struct place p, const double *point,
                       double factor, double unit, uint32_t i, const double *model_q)
{
    const struct record *r = &s->record[p.k];
    const double *a = model_q ? m->share[p.k] : m->share_own[p.k];
    const double *b = model_q ? m->share[p.k + 1] : m->share_own[p.k + 1];
    double y = model_q ? between(p, a[MODEL], b[MODEL]) * (model_q[i] - s->anchor) : 0.0;
    for (int e = 0; e < OWN; e++) {
        double error =
            between(p, m->width[p.k][e] * (double)r[0].shape[e][i], m->width[p.k + 1][e] * (double)r[1].shape[e][i]);
        y += between(p, a[e], b[e]) * (point[e] + factor * error);
    }
    y += between(p, a[STILL], b[STILL]) * (s->still.mean + unit * (double)s->still.shape[i]);
    return fmax(-(double)FLT_MAX, fmin((double)FLT_MAX, s->anchor + y));
}

bool ssm_adapt_forecast(const struct ssm_adapt_shape *a, const void *state, const double *model_q, uint32_t horizon,
                        double *out)
{
    const struct adapt *s = state;
    uint32_t Q = a->n_quantiles;
    struct origin f;
    struct mixture m;
    double point[OWN];
    assert(horizon <= SSM_HORIZON_MAX);
    if (s->n == 0)
        return false;
    see_origin(s, s->n - 1, oldest(s->n), &f);
    mix(s, &m);
    for (uint32_t h = 1; h <= horizon; h++, out += Q) {
        const double *model = model_q && h <= a->horizon_model ? model_q + (size_t)(h - 1) * Q : NULL;
        struct place p = place_of(h);
        expect(s, &f, h, point);
        double factor = phase_factor(s, s->n - 1 + h), unit = ssm_still_unit(&s->still, h);
        for (uint32_t i = 0; i < Q; i++) {
            double y = quantile(s, &m, p, point, factor, unit, i, model);
            uint32_t k = i;
            for (; k > 0 && out[k - 1] > y; k--)
                out[k] = out[k - 1];
            out[k] = y;
        }
    }
    return true;
}
