/* eval_anomaly.c: `mambactl eval anomaly`: detection figures of a model, of the baseline, or of scores made elsewhere.
 * One thread. Scores are −log10 p throughout; a row without one counts as 0. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/eval_baseline.h"
#include "tools/eval_detection.h"
#include "tools/eval_stream.h"

/* Float p-values end here: smaller ones are told apart by the surprise, which adds less than 1. */
static const double p_least = 1e-38;

struct task {
    struct eval_detection *d;
    struct eval_table test, train; /* while it is streamed */
    bool trained;                  /* there is a train table */
};

struct run {
    struct eval_options *o;
    struct eval_detection *v;
    struct task *tasks;
    size_t n, next, rows;
    int err;
    char *reterr;
};

/* ---- series ----------------------------------------------------------------------------------------------- */

static int load_series(struct task *t, bool with_train, char *reterr)
{
    int err = eval_table_load(t->d->s->path, &t->d->s->columns, &t->test, reterr);
    if (err)
        return err;
    t->d->rows = t->test.rows;
    double step = eval_table_step(&t->test);
    t->d->step_s = t->d->s->step_s > 0 ? t->d->s->step_s : step;
    err = eval_labels_load(t->d->s, &t->test, &t->d->label, reterr);
    if (err == 0 && t->d->s->train && with_train) {
        err = eval_table_load(t->d->s->train, &t->d->s->columns, &t->train, reterr);
        t->trained = err == 0;
        if (t->trained && t->train.channels != t->test.channels) {
            snprintf(reterr, EVAL_ERR, "%s: %u channels, but %u in %s", t->d->s->train, t->train.channels,
                     t->test.channels, t->d->s->path);
            err = -EBADMSG;
        }
    }
    t->d->score = calloc(t->d->rows, sizeof *t->d->score);
    return err ? err : t->d->score ? 0 : -ENOMEM;
}

static void unload_tables(struct task *t)
{
    eval_table_done(&t->test);
    eval_table_done(&t->train);
}

/* ---- pictures --------------------------------------------------------------------------------------------- */

static int draw(const struct eval_options *o, const struct task *t, char *reterr)
{
    json_t *value = json_array(), *score = json_array(), *label = json_array();
    for (size_t i = 0; i < t->d->rows; i++) {
        json_array_append_new(value, eval_number(t->test.x[i * t->test.channels]));
        json_array_append_new(score, eval_number(t->d->score[i]));
        json_array_append_new(label, json_integer(t->d->label[i]));
    }
    json_t *doc = json_pack("{s:s, s:o, s:o, s:o, s:f}", "title", t->d->s->name, "value", value, "score", score,
                            "label", label, "threshold", o->threshold);
    return eval_plot(o, t->d->s->name, doc, reterr);
}

static int finish_series(struct run *r, struct task *t, char *reterr)
{
    int err = eval_detection_measure(r->o, t->d);
    if (err)
        snprintf(reterr, EVAL_ERR, "out of memory");
    if (err == 0 && r->o->plot)
        err = draw(r->o, t, reterr);
    unload_tables(t);
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
    struct task *t = &r->tasks[r->next++];
    int err = load_series(t, true, reterr);
    if (err)
        return err;
    *ret = (struct eval_job){.series = t, .n_parts = t->trained ? 2 : 1};
    ret->parts[0] = t->trained ? &t->train : &t->test;
    ret->parts[1] = &t->test;
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
    struct task *t = series;
    size_t before = t->trained ? t->train.rows : 0;
    for (size_t i = 0; i < n; i++)
        if (at + i >= before)
            t->d->score[at + i - before] = score_of(rows + 3 * i);
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
    int err = eval_model_open(r->o->model, r->o->device, r->o->threads, r->o->adapt, &m, reterr);
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
static int read_scores(const char *folder, struct eval_detection *d, char *reterr)
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
        struct task *t = &r->tasks[i];
        err = load_series(t, !r->o->scores, reterr);
        if (err == 0)
            err = r->o->scores ? read_scores(r->o->scores, t->d, reterr)
                               : eval_gauss(t->trained ? &t->train : NULL, &t->test, t->d->score);
        if (err == 0)
            err = finish_series(r, t, reterr);
        r->rows += t->d->rows;
        r->o->series_done++;
        eval_progress(r->o, r->rows);
    }
    return err;
}

/* ---- the command ------------------------------------------------------------------------------------------ */

static int score_all(struct run *r, char *reterr)
{
    for (size_t i = 0; i < r->n; i++) {
        r->v[i].s = &r->o->series.v[i];
        r->tasks[i].d = &r->v[i];
    }
    int err = r->o->model ? score_by_model(r, reterr) : score_otherwise(r, reterr);
    if (err == 0 && r->err)
        memcpy(reterr, r->reterr, EVAL_ERR);
    return err ? err : r->err;
}

int eval_anomaly(struct eval_options *o)
{
    char reterr[EVAL_ERR] = "out of memory", why[EVAL_ERR];
    struct run r = {.o = o, .n = o->series.n, .reterr = why};
    r.v = calloc(r.n, sizeof *r.v);
    r.tasks = calloc(r.n, sizeof *r.tasks);
    int err = r.v && r.tasks ? score_all(&r, reterr) : -ENOMEM;
    eval_progress(o, 0);
    if (err == 0)
        eval_print(o, eval_detection_report(o, r.v, r.n), eval_detection_print);
    for (size_t i = 0; r.v && r.tasks && i < r.n; i++) {
        unload_tables(&r.tasks[i]);
        free(r.v[i].label);
        free(r.v[i].score);
    }
    free(r.v);
    free(r.tasks);
    return err ? eval_fail(err, reterr) : EX_OK;
}
