/* eval_anomaly.c: `mambactl eval anomaly`: detection figures of a model, of the baseline, or of scores made elsewhere.
 * One thread. Scores are −log10 p throughout; a row without one counts as 0. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "daemon/alarm.h"
#include "tools/eval.h"
#include "tools/eval_baseline.h"
#include "tools/eval_stream.h"

/* Float p-values end here: smaller ones are told apart by the surprise, which adds less than 1. */
static const double p_least = 1e-38;

struct figures {
    struct eval_ranking ranking;
    double vus_pr, step_s; /* step_s NaN: unknown */
    struct eval_points rows, alarm_rows;
    struct eval_events events;
};

struct detection {
    const struct eval_series *s;
    struct eval_table test, train; /* while it is streamed */
    bool trained;                  /* there is a train table */
    uint8_t *label;
    double *score; /* [rows]; unscored ones too */
    size_t rows;
    struct figures f;
    bool done;
};

struct run {
    struct eval_options *o;
    struct detection *v;
    size_t n, next, rows;
    int err;
    char *reterr;
};

/* ---- series ----------------------------------------------------------------------------------------------- */

static int load_series(struct detection *d, bool with_train, char *reterr)
{
    int err = eval_table_load(d->s->path, &d->s->columns, &d->test, reterr);
    if (err)
        return err;
    d->rows = d->test.rows;
    double step = eval_table_step(&d->test);
    d->f.step_s = d->s->step_s > 0 ? d->s->step_s : step;
    err = eval_labels_load(d->s, &d->test, &d->label, reterr);
    if (err == 0 && d->s->train && with_train) {
        err = eval_table_load(d->s->train, &d->s->columns, &d->train, reterr);
        d->trained = err == 0;
        if (d->trained && d->train.channels != d->test.channels) {
            snprintf(reterr, EVAL_ERR, "%s: %u channels, but %u in %s", d->s->train, d->train.channels,
                     d->test.channels, d->s->path);
            err = -EBADMSG;
        }
    }
    d->score = calloc(d->rows, sizeof *d->score);
    return err ? err : d->score ? 0 : -ENOMEM;
}

static void unload_tables(struct detection *d)
{
    eval_table_done(&d->test);
    eval_table_done(&d->train);
}

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

static int measure(const struct eval_options *o, struct detection *d)
{
    size_t skip = d->s->nab ? eval_nab_probation(d->rows) : d->s->unscored < d->rows ? d->s->unscored : d->rows;
    size_t n = d->rows - skip;
    const double *score = d->score + skip;
    const uint8_t *label = d->label + skip;
    uint8_t *alarm = malloc(n + 1);
    double *held = malloc((n + 1) * sizeof *held);
    int err = alarm && held ? eval_rank(score, label, n, &d->f.ranking) : -ENOMEM;
    if (err == 0)
        err = eval_vus_pr(score, label, n, o->vus_window, &d->f.vus_pr);
    if (err == 0) {
        eval_count_points(score, label, n, o->threshold, &d->f.rows);
        mark_alarms(score, n, o->threshold, alarm);
        for (size_t i = 0; i < n; i++)
            held[i] = alarm[i];
        eval_count_points(held, label, n, 1, &d->f.alarm_rows);
        eval_count_events(alarm, label, n, &d->f.events);
        d->done = true;
    }
    free(alarm);
    free(held);
    return err;
}

/* ---- pictures --------------------------------------------------------------------------------------------- */

static int draw(const struct eval_options *o, const struct detection *d, char *reterr)
{
    json_t *value = json_array(), *score = json_array(), *label = json_array();
    for (size_t i = 0; i < d->rows; i++) {
        json_array_append_new(value, eval_number(d->test.x[i * d->test.channels]));
        json_array_append_new(score, eval_number(d->score[i]));
        json_array_append_new(label, json_integer(d->label[i]));
    }
    json_t *doc = json_pack("{s:s, s:o, s:o, s:o, s:f}", "title", d->s->name, "value", value, "score", score, "label",
                            label, "threshold", o->threshold);
    return eval_plot(o, d->s->name, doc, reterr);
}

static int finish_series(struct run *r, struct detection *d, char *reterr)
{
    int err = measure(r->o, d);
    if (err)
        snprintf(reterr, EVAL_ERR, "out of memory");
    if (err == 0 && r->o->plot)
        err = draw(r->o, d, reterr);
    unload_tables(d);
    return err;
}

/* ---- scores of a model ------------------------------------------------------------------------------------ */

static int open_series(void *ctx, struct eval_job *ret, char *reterr)
{
    struct run *r = ctx;
    if (r->err) {
        snprintf(reterr, EVAL_ERR, "%s", r->reterr);
        return r->err;
    }
    if (r->next == r->n)
        return 0;
    struct detection *d = &r->v[r->next++];
    int err = load_series(d, true, reterr);
    if (err)
        return err;
    *ret = (struct eval_job){.series = d, .n_parts = d->trained ? 2 : 1};
    ret->parts[0] = d->trained ? &d->train : &d->test;
    ret->parts[1] = &d->test;
    return 1;
}

static double score_of(const float *row)
{
    double p = (double)row[1], surprise = (double)row[2];
    if (isnan(p))
        return 0;
    return p > p_least ? 0.0 - log10(p) : 0.5 - log10(p_least) + (isnan(surprise) ? 0 : atan(surprise * 0.01) * M_1_PI);
}

static void take_anomaly(void *ctx, void *series, size_t at, size_t n, const float *rows)
{
    struct detection *d = series;
    size_t before = d->trained ? d->train.rows : 0;
    for (size_t i = 0; i < n; i++)
        if (at + i >= before)
            d->score[at + i - before] = score_of(rows + 3 * i);
}

static void close_series(void *ctx, void *series)
{
    struct run *r = ctx;
    if (r->err == 0)
        r->err = finish_series(r, series, r->reterr);
    r->o->series_done++;
}

static void show(void *ctx, size_t rows)
{
    eval_progress(((struct run *)ctx)->o, rows);
}

static int score_by_model(struct run *r, char *reterr)
{
    const struct eval_listener l = {
        .open = open_series, .anomaly = take_anomaly, .close = close_series, .progress = show};
    struct eval_model *m = NULL;
    int err = eval_model_open(r->o->model, r->o->device, r->o->threads, &m, reterr);
    if (err == 0 && !eval_model_info(m)->anomaly) {
        snprintf(reterr, EVAL_ERR, "%s: the model has no anomaly head", r->o->model);
        err = -EINVAL;
    }
    if (err == 0)
        err = eval_stream(m, &l, r, reterr);
    eval_model_close(&m);
    return err;
}

/* ---- other scores ----------------------------------------------------------------------------------------- */

/* DIR/NAME.txt, packed or not: a number a row. */
static int read_scores(const char *folder, struct detection *d, char *reterr)
{
    static const char *const endings[] = {"txt", "txt.xz", "txt.gz"};
    struct eval_table t = {0};
    int err = -ENOENT;
    for (int i = 0; i < 3 && err == -ENOENT; i++) {
        char *path = NULL;
        if (asprintf(&path, "%s/%s.%s", folder, d->s->name, endings[i]) < 0)
            return -ENOMEM;
        err = eval_table_load(path, &(struct eval_columns){0}, &t, reterr);
        free(path);
    }
    if (err)
        return err;
    if (t.channels != 1 || t.rows != d->rows) {
        snprintf(reterr, EVAL_ERR, "%s/%s.txt: %zu rows of %u scores, where the series has %zu rows", folder,
                 d->s->name, t.rows, t.channels, d->rows);
        err = -EBADMSG;
    }
    for (size_t i = 0; i < d->rows && err == 0; i++)
        d->score[i] = isnan(t.x[i]) ? 0 : t.x[i];
    eval_table_done(&t);
    return err;
}

static int score_otherwise(struct run *r, char *reterr)
{
    int err = 0;
    for (size_t i = 0; i < r->n && err == 0; i++) {
        struct detection *d = &r->v[i];
        err = load_series(d, !r->o->scores, reterr);
        if (err == 0)
            err = r->o->scores ? read_scores(r->o->scores, d, reterr)
                               : eval_gauss(d->trained ? &d->train : NULL, &d->test, d->score);
        if (err == 0)
            err = finish_series(r, d, reterr);
        r->rows += d->rows;
        r->o->series_done++;
        eval_progress(r->o, r->rows);
    }
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
    struct eval_points rows, alarm_rows;
    struct eval_events events;
};

static void add_to_pool(struct pool *p, const struct figures *f)
{
    size_t n = f->rows.tp + f->rows.fp + f->rows.fn + f->rows.tn;
    p->series++;
    if (f->rows.tp + f->rows.fn && f->rows.fp + f->rows.tn) {
        double f1 = eval_f1((double)f->rows.tp, (double)f->rows.fp, (double)f->rows.fn);
        p->auprc += f->ranking.auprc;
        p->auroc += f->ranking.auroc;
        p->vus_pr += f->vus_pr;
        p->best_f1 += f->ranking.best_f1;
        p->f1 += f1;
        p->ranked++;
    }
    add_points(&p->rows, &f->rows);
    add_points(&p->alarm_rows, &f->alarm_rows);
    p->events.segments += f->events.segments;
    p->events.found += f->events.found;
    p->events.alarms += f->events.alarms;
    p->events.false_alarms += f->events.false_alarms;
    p->events.delay += f->events.delay;
    p->days += (double)n * f->step_s / 86400;
    p->delay_s += f->events.delay * f->step_s;
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
    double n = (double)p->ranked, normal = (double)(p->rows.fp + p->rows.tn);
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"auprc", ratio(p->auprc, n)},
        {"auroc", ratio(p->auroc, n)},
        {"vus_pr", ratio(p->vus_pr, n)},
        {"best_f1", ratio(p->best_f1, n)},
        {"f1", f1_of(&p->rows)},
        {"false_row_rate", ratio((double)p->rows.fp, normal)},
        {"missed_row_rate", ratio((double)p->rows.fn, (double)(p->rows.fn + p->rows.tp))},
        {"alarm_f1", f1_of(&p->alarm_rows)},
        {"alarm_false_row_rate", ratio((double)p->alarm_rows.fp, normal)},
        {"alarm_missed_row_rate", ratio((double)p->alarm_rows.fn, (double)(p->alarm_rows.fn + p->alarm_rows.tp))},
        {"event_f1", eval_f1((double)e->found, (double)e->false_alarms, (double)(e->segments - e->found))},
        {"false_alarms_per_day", ratio((double)e->false_alarms, p->days)},
        {"delay_rows", ratio(e->delay, (double)e->found)},
        {"delay_s", ratio(p->delay_s, (double)e->found)},
    };
    json_t *out = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", name, "series", (json_int_t)p->series,
                            "rows", (json_int_t)(p->rows.tp + p->rows.fn) + (json_int_t)normal, "segments",
                            (json_int_t)e->segments, "found", (json_int_t)e->found, "alarms", (json_int_t)e->alarms,
                            "false_alarms", (json_int_t)e->false_alarms);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        json_object_set_new(out, figures[i].key, eval_number(figures[i].value));
    return out;
}

/* NAB's three scores over all files that are scored so; NULL: there are none. */
static json_t *nab_json(const struct run *r)
{
    struct eval_nab_file *files = calloc(r->n, sizeof *files);
    size_t n = 0;
    for (size_t i = 0; files && i < r->n; i++) {
        const struct detection *d = &r->v[i];
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
        if (eval_nab(files, n, &eval_nab_profiles[p], &score, &threshold) == 0)
            json_object_set_new(
                out, eval_nab_profiles[p].name,
                json_pack("{s:o, s:o}", "score", eval_number(score), "threshold", eval_number(threshold)));
    }
    for (size_t i = 0; i < n; i++)
        free((void *)(uintptr_t)files[i].windows);
    free(files);
    return out;
}

static json_t *report(const struct run *r)
{
    json_t *series = json_array(), *families = json_array();
    struct pool all = {0};
    for (size_t i = 0; i < r->n; i++) {
        struct pool one = {0}, family = {0};
        bool first = true;
        add_to_pool(&one, &r->v[i].f);
        add_to_pool(&all, &r->v[i].f);
        json_array_append_new(series, pool_json(&one, r->v[i].s->name));
        for (size_t k = 0; k < r->n; k++) {
            bool same = strcmp(r->v[k].s->family, r->v[i].s->family) == 0;
            first = first && !(same && k < i);
            if (same)
                add_to_pool(&family, &r->v[k].f);
        }
        if (first)
            json_array_append_new(families, pool_json(&family, r->v[i].s->family));
    }
    json_array_append_new(families, pool_json(&all, "all"));
    json_t *doc = json_pack("{s:f, s:i, s:o, s:o}", "threshold", r->o->threshold, "vus_window", r->o->vus_window,
                            "series", series, "families", families);
    json_t *nab = nab_json(r);
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

static void print_report(const json_t *doc)
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
        printf("NAB score, %-9s", key);
        eval_print_figure(profile, "score", 6, 1);
        printf("   at");
        eval_print_figure(profile, "threshold", 6, 3);
        putchar('\n');
    }
}

/* ---- the command ------------------------------------------------------------------------------------------ */

int eval_anomaly(struct eval_options *o)
{
    char reterr[EVAL_ERR] = "out of memory", why[EVAL_ERR] = "out of memory";
    struct run r = {.o = o, .n = o->series.n, .v = calloc(o->series.n, sizeof *r.v), .reterr = why};
    int err = r.v ? 0 : -ENOMEM;
    for (size_t i = 0; r.v && i < r.n; i++)
        r.v[i].s = &o->series.v[i];
    if (err == 0)
        err = o->model ? score_by_model(&r, reterr) : score_otherwise(&r, reterr);
    if (err == 0 && r.err) {
        err = r.err;
        memcpy(reterr, why, sizeof reterr);
    }
    eval_progress(o, 0);
    if (err == 0) {
        json_t *doc = report(&r);
        if (o->json)
            eval_print_json(doc);
        else
            print_report(doc);
        if (!o->json)
            json_decref(doc);
    }
    for (size_t i = 0; r.v && i < r.n; i++) {
        unload_tables(&r.v[i]);
        free(r.v[i].label);
        free(r.v[i].score);
    }
    free(r.v);
    return err ? eval_fail(err, reterr) : EX_OK;
}
