/* eval_metrics.c: rankings, detections at one threshold, and what forecasts are scored with. See eval_metrics.h. */
#include "tools/eval_metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* ---- rankings --------------------------------------------------------------------------------------------- */

struct ranked {
    double score;
    size_t row;
};

static int descending(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Rows by falling score; to be freed. */
static struct ranked *rank_rows(const double *score, size_t n)
{
    struct ranked *order = malloc((n ? n : 1) * sizeof *order);
    for (size_t i = 0; order && i < n; i++)
        order[i] = (struct ranked){score[i], i};
    if (order)
        qsort(order, n, sizeof *order, descending);
    return order;
}

int eval_rank(const double *score, const uint8_t *label, size_t n, struct eval_ranking *ret)
{
    struct eval_ranking r = {.best_threshold = INFINITY};
    size_t positives = 0, tp = 0, fp = 0;
    double area = 0;
    struct ranked *order = rank_rows(score, n);
    if (!order)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        positives += label[i] != 0;
    for (size_t i = 0; i < n;) {
        size_t tp_before = tp, fp_before = fp, first = i;
        for (; i < n && order[i].score == order[first].score; i++)
            *(label[order[i].row] ? &tp : &fp) += 1;
        r.auprc += (double)(tp - tp_before) * (double)tp / (double)(tp + fp);
        area += (double)(fp - fp_before) * 0.5 * (double)(tp + tp_before);
        double f1 = eval_f1((double)tp, (double)fp, (double)(positives - tp));
        if (f1 > r.best_f1) {
            r.best_f1 = f1;
            r.best_threshold = order[first].score;
        }
    }
    free(order);
    r.auprc = positives ? r.auprc / (double)positives : NAN;
    r.auroc = positives && positives < n ? area / ((double)positives * (double)(n - positives)) : NAN;
    r.best_f1 = positives ? r.best_f1 : NAN;
    *ret = r;
    return 0;
}

/* ---- volume under the surface ----------------------------------------------------------------------------- */

enum { VUS_THRESHOLDS = 250 };

struct segment {
    size_t first, last;
};

struct vus {
    const double *score;
    const uint8_t *label;
    size_t n, positives, n_segments;
    struct ranked *order;
    struct segment *segments;
    double *extended, *best; /* labels with buffers; highest scores of the buffered segments, falling */
};

static size_t find_segments(const uint8_t *label, size_t n, struct segment *ret)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        if (!label[i])
            continue;
        size_t first = i;
        while (i + 1 < n && label[i + 1])
            i++;
        if (ret)
            ret[found] = (struct segment){first, i};
        found++;
    }
    return found;
}

/* Labels fall off as √(1 − distance/window) over half a window on either side of a segment. */
static void extend_labels(struct vus *v, unsigned window)
{
    for (size_t i = 0; i < v->n; i++)
        v->extended[i] = v->label[i] ? 1.0 : 0.0;
    for (size_t k = 0; k < v->n_segments; k++) {
        struct segment s = v->segments[k];
        for (size_t d = 1; d <= window / 2; d++) {
            double weight = sqrt(1.0 - (double)d / window);
            if (s.last + d < v->n)
                v->extended[s.last + d] += weight;
            if (d <= s.first)
                v->extended[s.first - d] += weight;
        }
    }
    for (size_t i = 0; i < v->n; i++)
        v->extended[i] = fmin(v->extended[i], 1.0);
}

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* The highest score within each buffered segment, those that touch being one. */
static size_t buffered_maxima(struct vus *v, size_t half)
{
    size_t n = 0;
    for (size_t k = 0; k < v->n_segments; n++) {
        size_t from = v->segments[k].first > half ? v->segments[k].first - half : 0;
        while (k + 1 < v->n_segments && v->segments[k].last + half + half >= v->segments[k + 1].first)
            k++;
        size_t to = v->segments[k].last + half;
        v->best[n] = -INFINITY;
        for (size_t i = from; i <= to && i < v->n; i++)
            v->best[n] = fmax(v->best[n], v->score[i]);
        k++;
    }
    qsort(v->best, n, sizeof *v->best, falling);
    return n;
}

static double range_precision(struct vus *v, unsigned window)
{
    extend_labels(v, window);
    size_t buffered = buffered_maxima(v, window / 2), i = 0, hit = 0;
    double tp = 0, extra = 0, recall_before = 0, area = 0, step = (double)(v->n - 1) / (VUS_THRESHOLDS - 1);
    for (size_t k = 0; k < VUS_THRESHOLDS; k++) {
        size_t at = k == VUS_THRESHOLDS - 1 ? v->n - 1 : (size_t)((double)k * step);
        double threshold = v->order[at].score;
        for (; i < v->n && v->order[i].score >= threshold; i++) {
            double weight = v->extended[v->order[i].row];
            tp += weight;
            extra += v->label[v->order[i].row] ? 0 : weight;
        }
        while (hit < buffered && v->best[hit] >= threshold)
            hit++;
        double wanted = (double)v->positives + 0.5 * extra;
        double recall = fmin(tp / wanted, 1.0) * (double)hit / (double)buffered;
        area += (recall - recall_before) * tp / (double)i;
        recall_before = recall;
    }
    return area;
}

int eval_vus_pr(const double *score, const uint8_t *label, size_t n, unsigned window, double *ret)
{
    struct vus v = {.score = score, .label = label, .n = n, .n_segments = find_segments(label, n, NULL)};
    double sum = 0;
    if (v.n_segments == 0) {
        *ret = NAN;
        return 0;
    }
    v.order = rank_rows(score, n);
    v.segments = malloc(v.n_segments * sizeof *v.segments);
    v.extended = malloc(n * sizeof *v.extended);
    v.best = malloc(v.n_segments * sizeof *v.best);
    bool room = v.order && v.segments && v.extended && v.best;
    if (room) {
        find_segments(label, n, v.segments);
        for (size_t i = 0; i < n; i++)
            v.positives += label[i] != 0;
        for (unsigned w = 0; w <= window; w++)
            sum += range_precision(&v, w);
        *ret = sum / (window + 1.0);
    }
    free(v.order);
    free(v.segments);
    free(v.extended);
    free(v.best);
    return room ? 0 : -ENOMEM;
}

/* ---- one threshold ---------------------------------------------------------------------------------------- */

void eval_count_points(const double *score, const uint8_t *label, size_t n, double threshold, struct eval_points *sum)
{
    for (size_t i = 0; i < n; i++) {
        bool detected = score[i] >= threshold;
        *(label[i] ? detected ? &sum->tp : &sum->fn : detected ? &sum->fp : &sum->tn) += 1;
    }
}

void eval_count_events(const uint8_t *detected, const uint8_t *label, size_t n, struct eval_events *sum)
{
    bool found = false, overlaps = false;
    size_t first = 0;
    for (size_t i = 0; i < n; i++) {
        if (label[i] && (i == 0 || !label[i - 1])) {
            sum->segments++;
            first = i;
            found = false;
        }
        if (label[i] && detected[i] && !found) {
            sum->found++;
            sum->delay += (double)(i - first);
            found = true;
        }
        overlaps = detected[i] && ((i > 0 && detected[i - 1] && overlaps) || label[i]);
        if (detected[i] && (i + 1 == n || !detected[i + 1])) {
            sum->alarms++;
            sum->false_alarms += !overlaps;
        }
    }
}

double eval_f1(double tp, double fp, double fn)
{
    return tp + fp + fn > 0 ? 2 * tp / (2 * tp + fp + fn) : NAN;
}

/* ---- forecasts -------------------------------------------------------------------------------------------- */

const double eval_levels[EVAL_LEVELS] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
const double eval_normal[EVAL_LEVELS] = {
    -1.2815515655446004, -0.8416212335729143, -0.5244005127080409, -0.2533471031357997, 0,
    0.2533471031357997,  0.5244005127080409,  0.8416212335729143,  1.2815515655446004};

double eval_pinball(double y, double quantile, double level)
{
    double e = y - quantile;
    return e >= 0 ? level * e : (level - 1) * e;
}

void eval_seasonal_advance(struct eval_seasonal *s, const double *y, size_t stride, size_t at)
{
    for (; s->at < at; s->at++) {
        double d = s->at < s->season ? NAN : y[s->at * stride] - y[(s->at - s->season) * stride];
        if (isnan(d))
            continue;
        double delta = d - s->mean;
        s->count++;
        s->mean += delta / (double)s->count;
        s->m2 += delta * (d - s->mean);
        s->abs_sum += fabs(d);
    }
}

double eval_seasonal_sigma(const struct eval_seasonal *s)
{
    return s->count ? sqrt(s->m2 / (double)s->count) : NAN;
}

double eval_seasonal_mae(const struct eval_seasonal *s)
{
    return s->count ? s->abs_sum / (double)s->count : NAN;
}

double eval_seasonal_at(const struct eval_seasonal *s, const double *y, size_t stride, size_t h, double *ret_sigma)
{
    size_t cycles = (h + s->season - 1) / s->season, row = s->at - 1 + h;
    *ret_sigma = eval_seasonal_sigma(s) * sqrt((double)cycles);
    return row < cycles * s->season ? NAN : y[(row - cycles * s->season) * stride];
}
