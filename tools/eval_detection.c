/* eval_detection.c: see eval_detection.h. Alarms are the daemon's own (daemon/alarm.h), with its hysteresis. */
#include "tools/eval_detection.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/alarm.h"

/* ---- figures ---------------------------------------------------------------------------------------------- */

/* Rows that the daemon's alarm covers, from the row that starts it to the last one that holds it. */
static void mark_alarms(const double *score, size_t n, double threshold, uint8_t *ret)
{
    struct md_alarm a = {0};
    enum md_alarm_turn turn;
    for (size_t i = 0; i < n; i++) {
        float p = (float)pow(10, -score[i]);
        md_alarm_rows(&a, (double)(float)pow(10, -threshold), (int64_t)i, &p, 1, 1, &turn);
        ret[i] = 0;
        if (turn == MD_ALARM_END || (i + 1 == n && a.active))
            memset(ret + a.from, 1, (size_t)(a.last - a.from) + 1);
    }
}

int eval_detection_measure(const struct eval_options *o, struct eval_detection *d)
{
    size_t skip = d->s->nab ? eval_nab_probation(d->rows) : d->s->unscored < d->rows ? d->s->unscored : d->rows;
    size_t n = d->rows - skip;
    const double *score = d->score + skip;
    const uint8_t *label = d->label + skip;
    uint8_t *alarm = malloc(n + 1);
    double *held = malloc((n + 1) * sizeof *held);
    int err = alarm && held ? eval_rank(score, label, n, &d->ranking) : -ENOMEM;
    if (err == 0)
        err = eval_vus_pr(score, label, n, o->vus_window, &d->vus_pr);
    if (err == 0) {
        eval_count_points(score, label, n, o->threshold, &d->points);
        mark_alarms(score, n, o->threshold, alarm);
        for (size_t i = 0; i < n; i++)
            held[i] = alarm[i];
        eval_count_points(held, label, n, 1, &d->alarm_points);
        eval_count_events(alarm, label, n, &d->events);
    }
    free(alarm);
    free(held);
    return err;
}

/* ---- report ----------------------------------------------------------------------------------------------- */

static void add_points(struct eval_points *sum, const struct eval_points *p)
{
    sum->tp += p->tp;
    sum->fp += p->fp;
    sum->fn += p->fn;
    sum->tn += p->tn;
}

/* Means of what ranks, sums of what counts. Series without anomalies rank nothing. */
struct pool {
    double auprc, auroc, vus_pr, best_f1, f1, days, delay_s;
    size_t ranked, series, found_s;
    struct eval_points points, alarm_points;
    struct eval_events events;
};

static void add_to_pool(struct pool *p, const struct eval_detection *d)
{
    size_t n = d->points.tp + d->points.fp + d->points.fn + d->points.tn;
    p->series++;
    if (d->points.tp + d->points.fn && d->points.fp + d->points.tn) {
        double f1 = eval_f1((double)d->points.tp, (double)d->points.fp, (double)d->points.fn);
        p->auprc += d->ranking.auprc;
        p->auroc += d->ranking.auroc;
        p->vus_pr += d->vus_pr;
        p->best_f1 += d->ranking.best_f1;
        p->f1 += f1;
        p->ranked++;
    }
    add_points(&p->points, &d->points);
    add_points(&p->alarm_points, &d->alarm_points);
    p->events.segments += d->events.segments;
    p->events.found += d->events.found;
    p->events.alarms += d->events.alarms;
    p->events.false_alarms += d->events.false_alarms;
    p->events.delay += d->events.delay;
    p->days += (double)n * d->step_s / 86400;
    p->delay_s += d->events.delay * d->step_s;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static double f1_of(const struct eval_points *p)
{
    return eval_f1((double)p->tp, (double)p->fp, (double)p->fn);
}

static json_t *pool_json(const struct pool *p, const char *name)
{
    const struct eval_events *e = &p->events;
    double n = (double)p->ranked, normal = (double)(p->points.fp + p->points.tn);
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"auprc", ratio(p->auprc, n)},
        {"auroc", ratio(p->auroc, n)},
        {"vus_pr", ratio(p->vus_pr, n)},
        {"best_f1", ratio(p->best_f1, n)},
        {"f1", f1_of(&p->points)},
        {"false_row_rate", ratio((double)p->points.fp, normal)},
        {"missed_row_rate", ratio((double)p->points.fn, (double)(p->points.fn + p->points.tp))},
        {"alarm_f1", f1_of(&p->alarm_points)},
        {"alarm_false_row_rate", ratio((double)p->alarm_points.fp, normal)},
        {"alarm_missed_row_rate", ratio((double)p->alarm_points.fn, (double)(p->alarm_points.fn + p->alarm_points.tp))},
        {"event_f1", eval_f1((double)e->found, (double)e->false_alarms, (double)(e->segments - e->found))},
        {"false_alarms_per_day", ratio((double)e->false_alarms, p->days)},
        {"delay_rows", ratio(e->delay, (double)e->found)},
        {"delay_s", ratio(p->delay_s, (double)e->found)},
    };
    json_t *out = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", name, "series", (json_int_t)p->series,
                            "rows", (json_int_t)(p->points.tp + p->points.fn) + (json_int_t)normal, "segments",
                            (json_int_t)e->segments, "found", (json_int_t)e->found, "alarms", (json_int_t)e->alarms,
                            "false_alarms", (json_int_t)e->false_alarms);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        json_object_set_new(out, figures[i].key, eval_number(figures[i].value));
    return out;
}

/* NAB's three scores over all files that are scored so; NULL: there are none. */
/* 1 at the rows where the daemon's alarm starts, else 0. */
static void mark_starts(const struct eval_nab_file *f, double threshold, double *ret)
{
    struct md_alarm a = {0};
    enum md_alarm_turn turn;
    float limit = (float)pow(10, -threshold);
    for (size_t i = 0; i < f->n; i++) {
        float p = (float)pow(10, -f->score[i]);
        md_alarm_rows(&a, (double)limit, (int64_t)i, &p, 1, 1, &turn);
        ret[i] = turn == MD_ALARM_START;
    }
}

/* The same score, where what is detected is what the daemon says: a start of an alarm, once. One threshold for all
 * files, the best of forty. */
static json_t *nab_by_alarms(const struct eval_nab_file *files, size_t n, const struct eval_nab_profile *profile)
{
    struct eval_nab_file *starts = calloc(n, sizeof *starts);
    size_t rows = 0;
    double best = 0, best_at = INFINITY;
    for (size_t i = 0; i < n; i++)
        rows += files[i].n;
    double *marks = malloc((rows + 1) * sizeof *marks), score, ignored;
    for (int step = 0; starts && marks && step < 40; step++) {
        double threshold = 1.1 + 0.1 * step, *at = marks;
        for (size_t i = 0; i < n; i++, at += files[i - 1].n) {
            starts[i] = files[i];
            starts[i].score = at;
            mark_starts(&files[i], threshold, at);
        }
        if (eval_nab(starts, n, profile, &score, &ignored) == 0 && score > best) {
            best = score;
            best_at = threshold;
        }
    }
    free(marks);
    free(starts);
    return json_pack("{s:o, s:o}", "score", eval_number(best), "threshold", eval_number(best_at));
}

static json_t *nab_json(const struct eval_options *o, const struct eval_detection *v, size_t n_series)
{
    struct eval_nab_file *files = calloc(n_series, sizeof *files);
    size_t n = 0;
    for (size_t i = 0; files && i < n_series; i++) {
        const struct eval_detection *d = &v[i];
        if (!d->s->nab)
            continue;
        size_t(*windows)[2] = malloc((d->rows / 2 + 1) * sizeof *windows), found = 0;
        for (size_t row = 0; windows && row < d->rows; row++) {
            if (d->label[row] && (row == 0 || !d->label[row - 1]))
                windows[found++][0] = row;
            if (d->label[row])
                windows[found - 1][1] = row;
        }
        files[n++] = (struct eval_nab_file){d->score, d->rows, found, (const size_t(*)[2])windows};
    }
    json_t *out = n ? json_object() : NULL;
    for (int p = 0; p < EVAL_NAB_PROFILES && n; p++) {
        double score, threshold;
        if (eval_nab(files, n, &eval_nab_profiles[p], &score, &threshold))
            continue;
        json_t *figures = json_pack("{s:o, s:o}", "score", eval_number(score), "threshold", eval_number(threshold));
        if (o->model)
            json_object_set_new(figures, "alarms", nab_by_alarms(files, n, &eval_nab_profiles[p]));
        json_object_set_new(out, eval_nab_profiles[p].name, figures);
    }
    for (size_t i = 0; i < n; i++)
        free((void *)(uintptr_t)files[i].windows);
    free(files);
    return out;
}

json_t *eval_detection_report(const struct eval_options *o, const struct eval_detection *v, size_t n)
{
    json_t *series = json_array(), *families = json_array();
    struct pool all = {0};
    for (size_t i = 0; i < n; i++) {
        struct pool one = {0}, family = {0};
        bool first = true;
        add_to_pool(&one, &v[i]);
        add_to_pool(&all, &v[i]);
        json_t *mine = pool_json(&one, v[i].s->name);
        json_object_set_new(mine, "family", json_string(v[i].s->family));
        json_array_append_new(series, mine);
        for (size_t k = 0; k < n; k++) {
            bool same = strcmp(v[k].s->family, v[i].s->family) == 0;
            first = first && !(same && k < i);
            if (same)
                add_to_pool(&family, &v[k]);
        }
        if (first)
            json_array_append_new(families, pool_json(&family, v[i].s->family));
    }
    json_array_append_new(families, pool_json(&all, "all"));
    json_t *doc = json_pack("{s:f, s:i, s:o, s:o}", "threshold", o->threshold, "vus_window", o->vus_window, "series",
                            series, "families", families);
    json_t *nab = nab_json(o, v, n);
    if (nab)
        json_object_set_new(doc, "nab", nab);
    return doc;
}

static void print_rows(const json_t *rows)
{
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "name"));
        size_t n = strlen(name);
        printf("%-*s %8lld", EVAL_NAME, n > EVAL_NAME ? name + (n - EVAL_NAME) : name,
               (long long)json_integer_value(json_object_get(row, "rows")));
        eval_print_figure(row, "auprc", 6, 3);
        eval_print_figure(row, "auroc", 6, 3);
        eval_print_figure(row, "vus_pr", 6, 3);
        eval_print_figure(row, "best_f1", 6, 3);
        eval_print_figure(row, "f1", 6, 3);
        eval_print_figure(row, "false_row_rate", 8, 5);
        eval_print_figure(row, "alarm_f1", 6, 3);
        eval_print_figure(row, "found", 5, 0);
        printf("/%-4lld", (long long)json_integer_value(json_object_get(row, "segments")));
        eval_print_figure(row, "false_alarms", 6, 0);
        eval_print_figure(row, "event_f1", 6, 3);
        eval_print_figure(row, "false_alarms_per_day", 8, 3);
        eval_print_figure(row, "delay_rows", 8, 1);
        eval_print_figure(row, "delay_s", 8, 0);
        putchar('\n');
    }
}

static void print_nab(const char *profile, const char *of, const json_t *figures)
{
    printf("NAB score, %-9s of %-7s", profile, of);
    eval_print_figure(figures, "score", 6, 1);
    printf("   at");
    eval_print_figure(figures, "threshold", 6, 3);
    putchar('\n');
}

void eval_detection_print(const json_t *doc)
{
    const json_t *nab = json_object_get(doc, "nab");
    const char *key;
    json_t *profile;
    printf("%-*s %8s %6s %6s %6s %6s %6s %8s %6s %10s %6s %6s %8s %8s %8s\n", EVAL_NAME, "series", "rows", "AUPRC",
           "AUROC", "VUS-PR", "bestF1", "F1", "rows out", "alarmF", "events", "false", "eventF", "a day", "delay", "s");
    print_rows(json_object_get(doc, "series"));
    printf("\n%-*s (ranking figures are means over series with anomalies, counts are pooled)\n", EVAL_NAME, "family");
    print_rows(json_object_get(doc, "families"));
    if (nab)
        puts("");
    json_object_foreach((json_t *)nab, key, profile)
    {
        print_nab(key, "rows", profile);
        if (json_object_get(profile, "alarms"))
            print_nab(key, "alarms", json_object_get(profile, "alarms"));
    }
}
