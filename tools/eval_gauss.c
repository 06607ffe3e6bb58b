/* eval_gauss.c: the windowed Gaussian of NAB as a baseline of detection: the tail probability of a value under the mean
 * and deviation of the last 6400 values, renewed every 100 (Lavin & Ahmad 2015 and NAB's own settings). */
#include "tools/eval_baseline.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 6400, STEP = 100 };

struct window {
    double value[WINDOW + STEP];
    size_t n, fresh; /* values, those not in the statistics yet */
    double mean, squares, deviation;
};

static void set_deviation(struct window *w)
{
    w->deviation = sqrt(fmax(w->squares, 0) / (double)w->n);
    if (w->deviation == 0)
        w->deviation = 1e-6;
}

static void slide(struct window *w)
{
    double sum = 0;
    memmove(w->value, w->value + STEP, WINDOW * sizeof *w->value);
    w->fresh = 0;
    for (size_t i = 0; i < WINDOW; i++)
        sum += w->value[i];
    w->mean = sum / WINDOW;
    w->squares = 0;
    for (size_t i = 0; i < WINDOW; i++)
        w->squares += (w->value[i] - w->mean) * (w->value[i] - w->mean);
    set_deviation(w);
}

/* While the window fills, the statistics are those of all values so far. */
static void learn(struct window *w, double x)
{
    w->value[w->n + w->fresh] = x;
    if (w->n < WINDOW) {
        double delta = x - w->mean;
        w->mean += delta / (double)++w->n;
        w->squares += delta * (x - w->mean);
        set_deviation(w);
    } else if (++w->fresh == STEP) {
        slide(w);
    }
}

/* Two-sided p. Beyond 8 deviations NAB's 1 − Q rounds to 1; it is kept so, for the published score has these ties. */
static double tail(const struct window *w, double x)
{
    double q = 0.5 * erfc(fabs(x - w->mean) / w->deviation / M_SQRT2), score = 1 - q;
    return fmax(2 * (1 - score), 0x1p-54);
}

static void score_channel(struct window *w, const struct eval_table *t, uint32_t channel, double *least)
{
    for (size_t i = 0; i < t->rows; i++) {
        double x = t->x[i * t->channels + channel];
        if (isnan(x))
            continue;
        if (w->n && least)
            least[i] = fmin(least[i], tail(w, x));
        learn(w, x);
    }
}

int eval_gauss(const struct eval_table *train, const struct eval_table *test, double *score)
{
    struct window *w = malloc(sizeof *w);
    if (!w)
        return -ENOMEM;
    for (size_t i = 0; i < test->rows; i++)
        score[i] = 1;
    for (uint32_t c = 0; c < test->channels; c++) {
        w->n = w->fresh = 0;
        w->mean = w->squares = 0;
        if (train)
            score_channel(w, train, c, NULL);
        score_channel(w, test, c, score);
    }
    free(w);
    for (size_t i = 0; i < test->rows; i++) /* Šidák over the channels */
        score[i] = -log10(-expm1(test->channels * log1p(-fmin(score[i], 1 - 0x1p-53))));
    return 0;
}
