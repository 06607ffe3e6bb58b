/* joint.c: see joint.h. Everything is scalar double in one order; what is stored as float is rounded once.
 *
 * A channel's section holds its slow mean and scale, its deviations smoothed over each of SCALES time spans, samples of
 * an unfinished patch, and an area. In the first slot the area is the stream's own part and the sketches of its terms;
 * in slot c it is the rows of channel c in the lower triangles of each span's covariance and of its Cholesky factor. So
 * the section has one size, and a stream's covariance grows with its slots. Channels are taken in blocks of BLOCK: what
 * lies in different blocks counts as uncorrelated.
 *
 * Traps: what is learnt decides what will be called normal, so while an anomaly is under way all is learnt at HOLD of
 * its weight, and nothing counts as larger than usual; after HOLD_MAX rows it is the new normal. A deviation is learnt
 * in units of its own scale after this row, so that it stays below √n however wild the sample, and floats hold it. */
#include "ssm/joint.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "ssm/notice.h"

enum { SCORE, P_VALUE, SURPRISE, COLUMNS };
enum { SCALES = 2, FORECAST = SCALES, TERMS };
enum { BLOCK = 128, PAIR = SCALES * 2 };
enum { REFIT = 32, REFIT_EARLY = 8 };
enum { RATE_START = 200 }; /* samples that the first estimate of a rate is worth */
enum { HOLD_MAX = 2000 };
enum { BANDS = 20 };

static const double span[SCALES] = {1.0, 5.0}; /* rows over which deviations are smoothed */

#define HOLD 0.01       /* part of a row that is learnt while an anomaly is under way */
#define RUN_MEMORY 32.0 /* rows over which −ln p is averaged … */
#define RUN_NORMAL 2.5  /* … and its mean, 1 where nothing is wrong, above which one is */
#define RUN_MAX 10.0
#define RUN_STEP 20.0
#define RUN_EVIDENCE 0.5 /* what of that mean beyond 1 raises a row's own −ln p */
#define RATE_LEVEL 0.01  /* p-values below this should be that frequent; where they are not, p is raised … */
#define RATE_MEMORY 2000.0
#define RARE 1e-3       /* rows with a p below this begin a spell */
#define REPEATED 1.1e-3 /* what p of a spell's row stays above that is no news: not rarer than the rarest so far, … */
#define NEWS 100.0      /* … from the third one on this many times */
#define CALM 0.1        /* p of rows that, CALM_ROWS on end, part one spell from the next */
#define CALM_ROWS 16.0
#define RIDGE 0.01      /* added to correlations' diagonals, … */
#define RIDGE_EARLY 1.0 /* … and this times channels per row learnt */
#define FLOOR 1e-4      /* least scale, relative to the mean */
#define DEVIATION_MAX 1e3
#define P_MOST 0.99   /* of a term: 1 would outweigh all others */
#define P_LEAST 1e-37 /* a float has it */
#define SAMPLE_MAX 1e150
#define PI 3.14159265358979323846

/* Of a channel. Index k: span. */
struct channel {
    double n; /* weight of the samples learnt */
    double mean, var;
    double level[SCALES];                /* smoothed deviation */
    double size[SCALES];                 /* its mean square */
    double self[SCALES];                 /* covariance with itself in units of √size: about 1 */
    double factor[SCALES], unit[SCALES]; /* at the last factoring: diagonal of the factor, 1/√size */
    struct ssm_watch watch;
};

/* Of the stream. */
struct stream {
    uint64_t rows, held, fill; /* fill: samples of the unfinished patch */
    double n;                  /* weight of the rows learnt */
    double run;
    double rate[TERMS];
    double band[BANDS]; /* share of the combined p-values in each BANDS-th of [0, 1] */
    uint64_t scored[TERMS];
    double told, most; /* of a spell: rows with p ≤ RARE, evidence of the rarest */
    double calm;       /* rows on end with p > CALM */
};

/* A stream in work. */
struct work {
    const struct ssm_calibration *c;
    uint32_t patch, channels;
    void *const *sections;
    struct stream *s;
    uint32_t start;                /* rows learnt before deviations are scored */
    struct ssm_calibration sketch; /* of the terms */
    double *deviation;             /* of this row; 0: missing */
    double distance[SCALES];
};

/* ---- layout ------------------------------------------------------------------------------------------------------ */

static size_t pending_at(void)
{
    return sizeof(struct channel);
}

static size_t area_at(uint32_t patch)
{
    return pending_at() + patch * sizeof(double);
}

size_t ssm_joint_bytes(uint32_t patch)
{
    size_t own = sizeof(struct stream) + TERMS * ssm_calibrate_bytes(), rows = (BLOCK - 1) * PAIR * sizeof(float);
    return area_at(patch) + (own > rows ? own : (rows + 7) / 8 * 8);
}

static struct channel *channel_at(const struct work *w, uint32_t c)
{
    return w->sections[c];
}

static void *sketch_at(const struct work *w, int term)
{
    return (uint8_t *)(w->s + 1) + (size_t)term * ssm_calibrate_bytes();
}

/* Row of channel c, less its diagonal, in span k's covariance and, BLOCK − 1 floats on, in its factor. */
static float *row_at(const struct work *w, uint32_t c, int k)
{
    return (float *)((uint8_t *)w->sections[c] + area_at(w->patch)) + (size_t)k * 2 * (BLOCK - 1);
}

void ssm_joint_reset(uint32_t patch, void *state)
{
    memset(state, 0, ssm_joint_bytes(patch));
}

/* ---- distance ---------------------------------------------------------------------------------------------------- */

static double least_scale(const struct channel *ch)
{
    return FLOOR * fabs(ch->mean) + 1e-30;
}

static double bounded(double d, double scale, double times)
{
    return fmax(-times * scale, fmin(times * scale, d));
}

/* Four sums, so that an addition does not wait for the one before it. */
static double dot(const float *a, const double *b, uint32_t n)
{
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (uint32_t k = 0; k < 4; k++)
            sum[k] += (double)a[i + k] * b[i + k];
    for (; i < n; i++)
        sum[0] += (double)a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Correlations of a block, Cholesky. */
static void factor_block(const struct work *w, uint32_t from, uint32_t to, int k, double ridge)
{
    for (uint32_t i = from; i < to; i++) {
        struct channel *ch = channel_at(w, i);
        double least = least_scale(ch);
        ch->unit[k] = ch->n < w->start ? 0.0 : 1.0 / sqrt(ch->size[k] + least * least);
        const float *cov = i > from ? row_at(w, i, k) : NULL;
        float *own = i > from ? row_at(w, i, k) + BLOCK - 1 : NULL;
        double rest = 1.0 + ridge, done[BLOCK];
        for (uint32_t j = from; j < i; j++) {
            const struct channel *other = channel_at(w, j);
            const float *theirs = j > from ? row_at(w, j, k) + BLOCK - 1 : NULL;
            double sum = (double)cov[j - from] / sqrt(fmax(ch->self[k] * other->self[k], 1e-30));
            done[j - from] = (sum - dot(theirs, done, j - from)) / other->factor[k];
            own[j - from] = (float)done[j - from];
            rest -= done[j - from] * done[j - from];
        }
        ch->factor[k] = sqrt(fmax(rest, 0.1 * RIDGE));
    }
}

static void factor(const struct work *w)
{
    for (uint32_t from = 0; from < w->channels; from += BLOCK) {
        uint32_t to = from + BLOCK < w->channels ? from + BLOCK : w->channels;
        double ridge = RIDGE + RIDGE_EARLY * (to - from) / (w->s->n + 1.0);
        for (int k = 0; k < SCALES; k++)
            factor_block(w, from, to, k, ridge);
    }
}

/* Mahalanobis: squared length of the solution of factor·t = deviations. */
static double block_distance(const struct work *w, uint32_t from, uint32_t to, int k)
{
    double t[BLOCK], sum = 0.0;
    for (uint32_t i = from; i < to; i++) {
        const struct channel *ch = channel_at(w, i);
        double u = bounded(ch->level[k] * ch->unit[k], 1.0, DEVIATION_MAX);
        u -= i > from ? dot(row_at(w, i, k) + BLOCK - 1, t, i - from) : 0.0;
        t[i - from] = u / ch->factor[k];
        sum += t[i - from] * t[i - from];
    }
    return sum;
}

/* Mean square deviation per channel, 1 or so where nothing is wrong. */
static double distance(const struct work *w, int k)
{
    double sum = 0.0;
    for (uint32_t from = 0; from < w->channels; from += BLOCK)
        sum += block_distance(w, from, from + BLOCK < w->channels ? from + BLOCK : w->channels, k);
    return sum / w->channels;
}

/* ---- learning ---------------------------------------------------------------------------------------------------- */

/* A sample against what was seen before it; a wild one as no more than DEVIATION_MAX scales, once there is a scale. */
static double deviation_of(const struct work *w, const struct channel *ch, double x)
{
    double least = least_scale(ch), scale = sqrt(ch->var) + least, d = x - ch->mean;
    if (ch->n == 0.0)
        return 0.0;
    if (ch->n < w->start || !(ch->var > least * least))
        return d;
    return fmax(-DEVIATION_MAX * scale, fmin(DEVIATION_MAX * scale, d));
}

/* One sample at most doubles the variance, unless there was none. */
static void learn_channel(const struct work *w, struct channel *ch, double x, double d, double share, bool held)
{
    double rate = share / fmin(ch->n + share, w->c->memory), scale = sqrt(ch->var);
    bool moved = ch->n >= w->start && scale > least_scale(ch);
    if (ch->n == 0.0) {
        ch->mean = x;
        ch->n = share;
        return;
    }
    if (moved)
        d = bounded(d, scale, sqrt(ch->n + 1.0));
    ch->mean += rate * d;
    if (moved && held)
        d = bounded(d, scale, 1.0);
    ch->var = (1.0 - rate) * (ch->var + rate * d * d);
    ch->n = fmin(ch->n + share, w->c->memory);
}

/* `weight`: of this row among the rows. */
static void learn_covariance(const struct work *w, int k, double share, double weight)
{
    double rate = share / fmin(w->s->n + share, w->c->memory);
    double u[BLOCK];
    for (uint32_t i = 0; i < w->channels; i++) {
        struct channel *ch = channel_at(w, i);
        uint32_t at = i % BLOCK;
        double least = least_scale(ch), scale = sqrt(ch->size[k]), y = ch->level[k];
        if (ch->n >= w->start && scale > least)
            y = bounded(y, scale, sqrt(ch->n + 1.0));
        if (ch->n > 0.0)
            ch->size[k] += share / ch->n * (weight * y * y - ch->size[k]);
        u[at] = y / (sqrt(ch->size[k]) + least);
        ch->self[k] += rate * (weight * u[at] * u[at] - ch->self[k]);
        float *row = at > 0 ? row_at(w, i, k) : NULL;
        for (uint32_t j = 0; j < at; j++)
            row[j] = (float)((double)row[j] + rate * (weight * u[at] * u[j] - (double)row[j]));
    }
}

static void learn(const struct work *w, const double *x, double share, bool held)
{
    for (uint32_t i = 0; i < w->channels; i++)
        if (!isnan(x[i]))
            learn_channel(w, channel_at(w, i), x[i], w->deviation[i], share, held);
    for (int k = 0; k < SCALES; k++)
        learn_covariance(w, k, share, held ? fmin(1.0, 1.0 / (w->distance[k] + 1e-9)) : 1.0);
    w->s->n = fmin(w->s->n + share, w->c->memory);
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */

/* Šidák: the chance that the least of n independent p-values is this small. In logarithms, or p below 1e-16 is lost. */
static double corrected(double p, double n)
{
    return -expm1(n * log1p(-p));
}

/* p of the channels' forecasts, NaN where there is none; the sum of their surprises. */
static double forecast_p(const struct work *w, const struct ssm_item *items, uint32_t row, double *ret_surprise)
{
    uint32_t scored = 0, surprised = 0;
    double least = 1.0, surprise = 0.0;
    for (uint32_t c = 0; c < w->channels; c++) {
        const float *v = items[c].out.anomaly + row * items[c].out.anomaly_stride;
        if (!isnan(v[P_VALUE])) {
            least = fmin(least, (double)v[P_VALUE]);
            scored++;
        }
        if (!isnan(v[SURPRISE])) {
            surprise += (double)v[SURPRISE];
            surprised++;
        }
    }
    *ret_surprise = surprised ? surprise : (double)NAN;
    return scored ? fmax(P_LEAST, corrected(least, scored)) : (double)NAN;
}

/* What calibrates a term that has a p-value: its rate of small ones. */
static double rated(const struct stream *s, int term, double p)
{
    return isnan(p) ? p : fmin(P_MOST, p * fmax(1.0, s->rate[term] / RATE_LEVEL));
}

static void learn_rate(struct stream *s, int term, double p, double share)
{
    double memory = fmin(RATE_MEMORY, (double)++s->scored[term] + RATE_START);
    s->rate[term] += share * ((p < RATE_LEVEL ? 1.0 : 0.0) - s->rate[term]) / memory;
}

/* What a term's p adds to the combination; NaN where there is no p. */
static double cauchy(double p)
{
    return 1.0 / tan(PI * p);
}

/* Cauchy combination (Liu and Xie 2020): valid where the terms depend on each other. t: cauchy(p). */
static double combined(const double *p, const double *t, int n)
{
    double sum = 0.0, least = 1.0;
    int terms = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(p[i]))
            continue;
        least = fmin(least, p[i]);
        sum += t[i];
        terms++;
    }
    if (terms == 0)
        return (double)NAN;
    double p_all = least < 1e-12 ? least * terms : atan2(1.0, sum / terms) / PI;
    return fmin(1.0, fmax(P_LEAST, p_all));
}

/* Dependent terms make the bulk of the combined p uneven, not its tail: beyond the first band, where it falls among
 * those before it. */
static double evened(const struct stream *s, double p)
{
    int at = (int)fmin(BANDS - 1, p * BANDS);
    double below = 0.0;
    if (at == 0)
        return p;
    for (int i = 1; i < at; i++)
        below += s->band[i];
    below += (p * BANDS - at) * s->band[at];
    return fmin(1.0, 1.0 / BANDS + (1.0 - 1.0 / BANDS) * below / (1.0 - s->band[0]));
}

static void learn_band(struct stream *s, double p, double share)
{
    double rate = share / fmin(RATE_MEMORY, (double)s->rows + RATE_START);
    int at = (int)fmin(BANDS - 1, p * BANDS);
    for (int i = 0; i < BANDS; i++)
        s->band[i] += rate * ((i == at ? 1.0 : 0.0) - s->band[i]);
}

/* A row's p among rows that have been strange for long: what is a little strange and lasts is stranger than one row.
 * What is not strange is left as it is, or an alarm would outlast its anomaly by RUN_MEMORY. */
static double sustained(const struct stream *s, double p)
{
    return p > CALM ? p : fmax(P_LEAST, fmin(CALM, corrected(p, exp(-RUN_EVIDENCE * (s->run - 1.0)))));
}

/* Rows of an anomaly say the same thing many times over. Single rows are as rare as their p; so that all rows are, and
 * a normal stretch that is a little strange for long does not count as many surprises, one that is not news stays
 * above REPEATED: the nearer to it the stranger it is, so that the rows of a spell keep their order. A spell lasts as
 * long as an alarm that its first rare row starts (daemon/alarm.c). The second may still start one, where a crowded
 * stream's alarm did not hear the first. */
static double tempered(struct stream *s, double p)
{
    s->calm = p > CALM ? s->calm + 1.0 : 0.0;
    if (s->calm >= CALM_ROWS)
        s->most = s->told = 0.0;
    if (p >= RATE_LEVEL)
        return p;
    double evidence = log(RATE_LEVEL / p), limit = log(RATE_LEVEL / REPEATED);
    if (s->told > 0.0 && evidence <= s->most + (s->told > 1.0 ? log(NEWS) : 0.0))
        return evidence < limit / 2 ? p : RATE_LEVEL * exp(limit * limit / 4 / evidence - limit);
    if (p <= RARE) {
        s->most = fmax(s->most, evidence);
        s->told += 1.0;
    }
    return p;
}

/* Follows −ln p of the deviations; true while an anomaly is under way. */
static bool follow_run(struct stream *s, const double *p, const double *t)
{
    double joint = combined(p, t, SCALES);
    if (!isnan(joint))
        s->run = fmin(RUN_MAX, s->run + (fmin(RUN_STEP, -log(joint)) - s->run) / RUN_MEMORY);
    s->held = s->run > RUN_NORMAL ? s->held + 1 : 0;
    return s->held > 0;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static bool refits(const struct work *w)
{
    uint64_t t = w->s->rows;
    return t % REFIT == 0 || t == w->start || (t < 4 * (uint64_t)w->start && t % REFIT_EARLY == 0);
}

static void smooth(struct work *w, const double *x)
{
    for (uint32_t i = 0; i < w->channels; i++) {
        struct channel *ch = channel_at(w, i);
        w->deviation[i] = isnan(x[i]) ? 0.0 : deviation_of(w, ch, x[i]);
        for (int k = 0; k < SCALES; k++)
            ch->level[k] += (w->deviation[i] - ch->level[k]) / span[k];
    }
}

/* p-values of the terms before they are learnt, and what their sketches learn (< 0: nothing). */
static void score_terms(struct work *w, double by_forecast, double *p, double *a)
{
    bool ready = w->s->rows >= w->start;
    if (ready && refits(w))
        factor(w);
    for (int k = 0; k < SCALES; k++) {
        w->distance[k] = ready ? distance(w, k) : 0.0;
        a[k] = ready ? 4.0 * log1p(w->distance[k]) : -1.0;
        p[k] = ready ? ssm_calibrate_p(&w->sketch, sketch_at(w, k), a[k]) : (double)NAN;
    }
    a[FORECAST] = -1.0;
    p[FORECAST] = by_forecast;
    if (w->channels > 1 && !isnan(by_forecast)) { /* one channel's p is calibrated */
        a[FORECAST] = fmax(0.0, -log(by_forecast));
        p[FORECAST] = ssm_calibrate_p(&w->sketch, sketch_at(w, FORECAST), a[FORECAST]);
    }
}

/* One row of samples, NaN: missing. Returns its p-value. */
static double score_row(struct work *w, const double *x, double by_forecast)
{
    struct stream *s = w->s;
    double p[TERMS], a[TERMS], raised[TERMS], t[TERMS];
    smooth(w, x);
    score_terms(w, by_forecast, p, a);
    for (int i = 0; i < TERMS; i++) {
        raised[i] = rated(s, i, p[i]);
        t[i] = cauchy(raised[i]);
    }
    bool held = follow_run(s, raised, t);
    double share = held && s->held < HOLD_MAX ? HOLD : 1.0;
    for (int i = 0; i < TERMS; i++) {
        if (a[i] >= 0.0)
            ssm_calibrate_learn(&w->sketch, sketch_at(w, i), a[i], share);
        if (!isnan(p[i]))
            learn_rate(s, i, p[i], share);
    }
    learn(w, x, share, held);
    double all = combined(raised, t, TERMS);
    if (!isnan(all)) {
        double row = sustained(s, all);
        all = tempered(s, evened(s, row));
        learn_band(s, row, share);
    }
    s->rows++;
    return all;
}

/* The row's samples: those of an unfinished patch first. Returns whether there is one at all. */
static bool gather(const struct work *w, const struct ssm_item *items, uint32_t row, double *x)
{
    bool some = false;
    for (uint32_t c = 0; c < w->channels; c++) {
        const double *pending = (const double *)((const uint8_t *)w->sections[c] + pending_at());
        double v = row < w->s->fill ? pending[row] : items[c].x[(row - w->s->fill) * items[c].x_stride];
        x[c] = isfinite(v) ? fmax(-SAMPLE_MAX, fmin(SAMPLE_MAX, v)) : (double)NAN;
        some = some || isfinite(v);
    }
    return some;
}

static void notice(const struct work *w, const double *x, struct ssm_notice *ret)
{
    struct ssm_notice found = {0};
    for (uint32_t c = 0; c < w->channels; c++)
        if (!isnan(x[c]))
            ssm_watch_sample(&channel_at(w, c)->watch, x[c], &found);
    if (ret)
        *ret = found;
}

static void keep_rest(const struct work *w, const struct ssm_item *items, uint32_t done, uint32_t total)
{
    for (uint32_t c = 0; c < w->channels; c++) {
        double *pending = (double *)((uint8_t *)w->sections[c] + pending_at());
        for (uint32_t row = done; row < total; row++)
            if (row >= w->s->fill)
                pending[row - done] = items[c].x[(row - w->s->fill) * items[c].x_stride];
        memset(pending + (total - done), 0, (w->patch - (total - done)) * sizeof *pending);
    }
    w->s->fill = total - done;
}

/* In the first slot only: elsewhere the area has rows in it, which begin as zeros. */
static void begin(const struct work *w)
{
    w->s->run = 1.0;
    for (int i = 0; i < BANDS; i++)
        w->s->band[i] = 1.0 / BANDS;
    for (int i = 0; i < TERMS; i++) {
        w->s->rate[i] = RATE_LEVEL;
        ssm_calibrate_reset(&w->sketch, sketch_at(w, i));
    }
}

static void write_row(float *out, double p, double surprise)
{
    out[SCORE] = isnan(p) ? NAN : (float)fmin(1.0, 0.0 - log10(p) / 10.0);
    out[P_VALUE] = (float)p;
    out[SURPRISE] = (float)surprise;
}

void ssm_joint_run(const struct ssm_calibration *c, uint32_t patch, const struct ssm_item *items, void *const *sections)
{
    double x[SSM_CHANNELS_MAX], deviation[SSM_CHANNELS_MAX];
    struct work w = {.c = c, .patch = patch, .channels = items->channels, .sections = sections, .deviation = deviation};
    assert(w.channels >= 1 && w.channels <= SSM_CHANNELS_MAX);
    w.s = (struct stream *)((uint8_t *)sections[0] + area_at(patch));
    w.start = 1 + c->warmup / 5;
    w.sketch = (struct ssm_calibration){.warmup = c->warmup - c->warmup / 5, .memory = c->memory};
    if (w.s->rows == 0)
        begin(&w);
    uint32_t total = (uint32_t)w.s->fill + items->n, done = total / patch * patch;
    for (uint32_t row = 0; row < done; row++) {
        double surprise, by_forecast = forecast_p(&w, items, row, &surprise);
        bool some = gather(&w, items, row, x);
        notice(&w, x, items->notices ? &items->notices[row] : NULL);
        write_row(items->joint + (size_t)row * COLUMNS, some ? score_row(&w, x, by_forecast) : (double)NAN, surprise);
    }
    keep_rest(&w, items, done, total);
}
