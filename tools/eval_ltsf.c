/* eval_ltsf.c: `mambactl eval forecast --protocol ltsf`: squared and absolute error of the median on values that are
 * z-scored by the train part, over all windows of the test part whose origin is a patch end, all channels pooled (Zhou
 * et al. 2021, as in all papers since). The model is streamed from the first row on. One thread. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/eval.h"
#include "tools/eval_baseline.h"

enum { HORIZONS_MAX = 8, MEDIAN = 4 };

struct window_sums {
    size_t horizon, windows, points; /* windows: of all channels */
    double squares, absolutes;
};

struct split {
    const struct eval_series *s;
    struct eval_table table;
    size_t test[2], n;
    struct window_sums sums[HORIZONS_MAX]; /* by rising horizon */
    double *mean, *scale;                  /* of channels, over the train part */
};

struct run {
    struct eval_options *o;
    struct split *v;
    size_t n, next;
};

/* ---- series ----------------------------------------------------------------------------------------------- */

static int refuse(const struct eval_series *s, const char *why, char *reterr)
{
    snprintf(reterr, EVAL_ERR, "%s: %s", s->path, why);
    return -EINVAL;
}

/* Rows of the parts, and horizons. */
static int read_split(struct split *v, size_t *ret_train, char *reterr)
{
    size_t rows = v->table.rows, i;
    const struct eval_series *s = v->s;
    json_t *h;
    *ret_train = s->train_rows ? s->train_rows : (size_t)((double)rows * s->train_share);
    v->test[0] = s->train_rows ? s->test_rows[0] : rows - (size_t)((double)rows * s->test_share);
    v->test[1] = s->train_rows ? s->test_rows[1] : rows;
    if (*ret_train < 2 || *ret_train > v->test[0] || v->test[0] >= v->test[1] || v->test[1] > rows)
        return refuse(s, "no train_rows and test_rows within the file", reterr);
    json_array_foreach((json_t *)s->horizons, i, h)
    {
        size_t horizon = json_is_integer(h) ? (size_t)json_integer_value(h) : 0;
        if (i == HORIZONS_MAX || horizon < 1 || (i && horizon <= v->sums[i - 1].horizon))
            return refuse(s, "horizons are up to 8 rising numbers", reterr);
        v->sums[v->n++].horizon = horizon;
    }
    return v->n ? 0 : refuse(s, "no horizons", reterr);
}

static void standardise(struct split *v, size_t train)
{
    uint32_t C = v->table.channels;
    for (uint32_t c = 0; c < C; c++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < train; i++)
            sum += v->table.x[i * C + c];
        v->mean[c] = sum / (double)train;
        for (size_t i = 0; i < train; i++)
            squares += (v->table.x[i * C + c] - v->mean[c]) * (v->table.x[i * C + c] - v->mean[c]);
        v->scale[c] = squares > 0 ? sqrt(squares / (double)train) : 1;
    }
}

static int open_series(void *ctx, struct eval_job *ret, char *reterr)
{
    struct run *r = ctx;
    size_t train;
    if (r->next == r->n)
        return 0;
    struct split *v = &r->v[r->next++];
    int err = eval_table_load(v->s->path, &v->s->columns, &v->table, reterr);
    if (err == 0)
        err = read_split(v, &train, reterr);
    if (err)
        return err;
    v->mean = calloc(v->table.channels, sizeof *v->mean);
    v->scale = calloc(v->table.channels, sizeof *v->scale);
    if (!v->mean || !v->scale)
        return -ENOMEM;
    standardise(v, train);
    *ret = (struct eval_job){.series = v,
                             .n_parts = 1,
                             .horizon = (uint32_t)v->sums[v->n - 1].horizon,
                             .season = v->s->season ? v->s->season : 1};
    ret->parts[0] = &v->table;
    return 1;
}

static size_t next_origin(void *ctx, void *series, size_t at, uint32_t patch)
{
    const struct split *v = series;
    size_t from = at > v->test[0] ? at : v->test[0], origin = (from + patch - 1) / patch * patch;
    return origin + v->sums[0].horizon <= v->test[1] ? origin : SIZE_MAX;
}

static void take_forecast(void *ctx, void *series, size_t origin, uint32_t channel, const float *q, uint32_t horizon)
{
    struct split *v = series;
    const double *x = v->table.x + origin * v->table.channels + channel;
    double squares = 0, absolutes = 0;
    size_t h = 0;
    for (size_t i = 0; i < v->n; i++) {
        struct window_sums *w = &v->sums[i];
        if (w->horizon > horizon || origin + w->horizon > v->test[1])
            return;
        for (; h < w->horizon; h++) {
            double e = (x[h * v->table.channels] - (double)q[h * EVAL_LEVELS + MEDIAN]) / v->scale[channel];
            squares += e * e;
            absolutes += fabs(e);
        }
        w->squares += squares;
        w->absolutes += absolutes;
        w->points += w->horizon;
        w->windows++;
    }
}

static void unload(struct split *v)
{
    eval_table_done(&v->table);
    free(v->mean);
    free(v->scale);
    v->mean = v->scale = NULL;
}

static void close_series(void *ctx, void *series)
{
    ((struct run *)ctx)->o->series_done++;
    unload(series);
}

static void show(void *ctx, size_t rows)
{
    eval_progress(((struct run *)ctx)->o, rows);
}

/* ---- the command ------------------------------------------------------------------------------------------ */

static json_t *report(const struct run *r)
{
    json_t *series = json_array();
    for (size_t i = 0; i < r->n; i++) {
        json_t *list = json_array();
        for (size_t k = 0; k < r->v[i].n; k++) {
            const struct window_sums *w = &r->v[i].sums[k];
            double n = w->points ? (double)w->points : NAN;
            json_array_append_new(list, json_pack("{s:I, s:I, s:o, s:o}", "horizon", (json_int_t)w->horizon, "windows",
                                                  (json_int_t)w->windows, "mse", eval_number(w->squares / n), "mae",
                                                  eval_number(w->absolutes / n)));
        }
        json_array_append_new(series, json_pack("{s:s, s:o}", "name", r->v[i].s->name, "horizons", list));
    }
    return json_pack("{s:o}", "series", series);
}

static void print_report(const json_t *doc)
{
    size_t i, k;
    json_t *series, *row;
    printf("%-*s %8s %9s %8s %8s\n", EVAL_NAME, "series", "horizon", "windows", "MSE", "MAE");
    json_array_foreach(json_object_get(doc, "series"), i, series)
    {
        const char *name = json_string_value(json_object_get(series, "name"));
        json_array_foreach(json_object_get(series, "horizons"), k, row)
        {
            printf("%-*s", EVAL_NAME, k ? "" : name);
            eval_print_figure(row, "horizon", 8, 0);
            eval_print_figure(row, "windows", 9, 0);
            eval_print_figure(row, "mse", 8, 4);
            eval_print_figure(row, "mae", 8, 4);
            puts(json_is_null(json_object_get(row, "mse")) ? "  beyond the model's horizon" : "");
        }
    }
}

int eval_ltsf(struct eval_options *o)
{
    const struct eval_listener l = {.open = open_series,
                                    .next_origin = next_origin,
                                    .forecast = take_forecast,
                                    .close = close_series,
                                    .progress = show};
    char reterr[EVAL_ERR] = "out of memory";
    struct run r = {.o = o, .n = o->series.n, .v = calloc(o->series.n, sizeof *r.v)};
    struct eval_model *m = NULL;
    int err = r.v ? 0 : -ENOMEM;
    for (size_t i = 0; r.v && i < r.n; i++)
        r.v[i].s = &o->series.v[i];
    if (err == 0 && o->baseline)
        err = eval_stream_baseline(o->baseline, o->patch, &l, &r, reterr);
    else if (err == 0 && (err = eval_model_open(o->model, o->device, o->threads, o->adapt, &m, reterr)) == 0)
        err = eval_stream(m, &l, &r, reterr);
    eval_model_close(&m);
    eval_progress(o, 0);
    if (err == 0)
        eval_print(o, report(&r), print_report);
    for (size_t i = 0; r.v && i < r.n; i++)
        unload(&r.v[i]);
    free(r.v);
    return err ? eval_fail(err, reterr) : EX_OK;
}
