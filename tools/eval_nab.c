/* eval_nab.c: the score of the Numenta Anomaly Benchmark (Lavin & Ahmad 2015, arXiv 1510.03336). See eval_metrics.h.
 *
 * Every detected row outside windows costs; of those in a window the best one counts. Rows of all files are walked
 * through by falling score, so that each threshold's total is known. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "tools/eval_metrics.h"

const struct eval_nab_profile eval_nab_profiles[EVAL_NAB_PROFILES] = {
    {"standard", 1.0, 0.11, 1.0}, {"low_fp", 1.0, 0.22, 1.0}, {"low_fn", 1.0, 0.11, 2.0}};

struct row {
    double score, gain; /* what its detection is worth, weighted */
    size_t window;      /* of all files' windows, or NONE */
};

enum { NONE = -1 };

size_t eval_nab_probation(size_t n)
{
    size_t part = (size_t)(0.15 * (double)n);
    return part < 750 ? part : 750;
}

/* 1 far to the left of the window's right edge, 0 at it, −1 far behind. */
static double sigmoid(double position)
{
    return position > 3.0 ? -1.0 : 2.0 / (1.0 + exp(5.0 * position)) - 1.0;
}

/* Fills the scored rows of one file, whose windows are numbered from `base`. Returns how many. */
static size_t grade_rows(const struct eval_nab_file *f, const struct eval_nab_profile *p, size_t base, struct row *rows)
{
    size_t probation = eval_nab_probation(f->n), w = 0, n = 0;
    for (size_t i = 0; i < f->n; i++) {
        while (w < f->n_windows && i > f->windows[w][1])
            w++;
        bool inside = w < f->n_windows && i >= f->windows[w][0];
        struct row r = {.score = f->score[i], .window = inside ? base + w : (size_t)NONE};
        if (inside) {
            double width = (double)(f->windows[w][1] - f->windows[w][0] + 1);
            r.gain = p->tp * sigmoid(-(double)(f->windows[w][1] - i + 1) / width) / sigmoid(-1.0);
        } else if (w == 0) {
            r.gain = -p->fp;
        } else {
            double width = (double)(f->windows[w - 1][1] - f->windows[w - 1][0]);
            r.gain = p->fp * sigmoid((double)(i - f->windows[w - 1][1]) / width);
        }
        if (i >= probation)
            rows[n++] = r;
    }
    return n;
}

static int descending(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return x->score > y->score ? -1 : x->score < y->score;
}

/* The best total over all thresholds; best[window] is scratch. */
static double sweep(const struct row *rows, size_t n, double *best, size_t windows, double fn, double *ret_threshold)
{
    double total = -fn * (double)windows, highest = total;
    *ret_threshold = INFINITY;
    for (size_t w = 0; w < windows; w++)
        best[w] = -fn;
    for (size_t i = 0; i < n; i++) {
        double before = rows[i].window == (size_t)NONE ? 0 : best[rows[i].window];
        double gain = rows[i].window == (size_t)NONE ? rows[i].gain : fmax(0, rows[i].gain - before);
        total += gain;
        if (rows[i].window != (size_t)NONE)
            best[rows[i].window] = before + gain;
        if ((i + 1 == n || rows[i + 1].score != rows[i].score) && total > highest) {
            highest = total;
            *ret_threshold = rows[i].score;
        }
    }
    return highest;
}

int eval_nab(const struct eval_nab_file *files, size_t n_files, const struct eval_nab_profile *profile,
             double *ret_score, double *ret_threshold)
{
    size_t n = 0, windows = 0;
    for (size_t f = 0; f < n_files; f++) {
        n += files[f].n;
        windows += files[f].n_windows;
    }
    struct row *rows = malloc((n + 1) * sizeof *rows);
    double *best = malloc((windows + 1) * sizeof *best);
    if (rows && best) {
        n = windows = 0;
        for (size_t f = 0; f < n_files; f++) {
            n += grade_rows(&files[f], profile, windows, rows + n);
            windows += files[f].n_windows;
        }
        qsort(rows, n, sizeof *rows, descending);
        double none = -profile->fn * (double)windows, perfect = profile->tp * (double)windows;
        double raw = sweep(rows, n, best, windows, profile->fn, ret_threshold);
        *ret_score = windows ? 100 * (raw - none) / (perfect - none) : NAN;
    }
    bool room = rows && best;
    free(rows);
    free(best);
    return room ? 0 : -ENOMEM;
}
