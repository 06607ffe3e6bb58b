/* eval_forecast.c: `mambactl eval forecast`: relative CRPS, MASE and coverage, by the protocol in docs/evaluation.md.
 * One thread.
 *
 * Origins lie a horizon apart from a tenth of the series on (at least 512 rows; from the half where it is shorter than
 * 1024), moved up to the model's next patch end. The loss is the pinball loss over the quantiles .1 … .9, relative to
 * that of the seasonal naive forecast with Gaussian bands from the same origins. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/eval_accuracy.h"
#include "tools/eval_baseline.h"

struct outlook {
    struct eval_accuracy *a;
    struct eval_table table; /* while it is streamed */
    double *carried;
    struct eval_channel *channels;
    size_t first;  /* of the origins, before it is moved up */
    json_t *drawn; /* forecasts of the first channel for a picture */
};

struct run {
    struct eval_options *o;
    struct eval_accuracy *a;
    struct outlook *v;
    size_t n, next;
    int err;
    char *reterr;
};

/* ---- series ----------------------------------------------------------------------------------------------- */

/* Season and horizon by the seconds between rows: those of the step that is within a hundredth, else of "else". */
static void by_step(const json_t *table, double step_s, struct eval_accuracy *a)
{
    const char *key;
    json_t *pair, *chosen = json_object_get(table, "else");
    json_object_foreach((json_t *)table, key, pair)
    {
        double s = strtod(key, NULL);
        if (s > 0 && fabs(step_s - s) < 0.01 * s)
            chosen = pair;
    }
    a->season = (size_t)json_integer_value(json_array_get(chosen, 0));
    a->horizon = (size_t)json_integer_value(json_array_get(chosen, 1));
}

static void take_returns(struct eval_table *t)
{
    size_t C = t->channels;
    for (size_t i = t->rows - 1; i > 0; i--)
        for (size_t c = 0; c < C; c++)
            t->x[i * C + c] = log(t->x[i * C + c] / t->x[(i - 1) * C + c]);
    t->rows--;
    memmove(t->x, t->x + C, t->rows * C * sizeof *t->x);
    if (t->t_ns)
        memmove(t->t_ns, t->t_ns + 1, t->rows * sizeof *t->t_ns);
}

static int open_series(void *ctx, struct eval_job *ret, char *reterr)
{
    struct run *r = ctx;
    if (r->err) {
        memcpy(reterr, r->reterr, EVAL_ERR);
        return r->err;
    }
    if (r->next == r->n)
        return 0;
    struct outlook *v = &r->v[r->next++];
    struct eval_accuracy *a = v->a;
    int err = eval_table_load(a->s->path, &a->s->columns, &v->table, reterr);
    if (err)
        return err;
    if (a->s->returns)
        take_returns(&v->table);
    a->season = a->s->season ? a->s->season : 1;
    a->horizon = a->s->horizon ? a->s->horizon : 32;
    double step_s = eval_table_step(&v->table);
    if (a->s->by_step)
        by_step(a->s->by_step, a->s->step_s > 0 ? a->s->step_s : step_s, a);
    size_t rows = v->table.rows, tenth = rows / 10;
    v->first = rows < 1024 ? rows / 2 : tenth > 512 ? tenth : 512;
    a->channels = v->table.channels;
    v->carried = eval_carried(&v->table);
    v->channels = calloc(v->table.channels, sizeof *v->channels);
    v->drawn = r->o->plot ? json_array() : NULL;
    if (!v->carried || !v->channels || !a->season || !a->horizon) {
        snprintf(reterr, EVAL_ERR, "%s: %s", a->s->path,
                 a->season && a->horizon ? "out of memory" : "no season or horizon");
        return a->season && a->horizon ? -ENOMEM : -EINVAL;
    }
    for (uint32_t c = 0; c < v->table.channels; c++)
        v->channels[c].seasonal.season = a->season;
    *ret = (struct eval_job){.series = v, .n_parts = 1, .horizon = (uint32_t)a->horizon, .season = a->season};
    ret->parts[0] = &v->table;
    return 1;
}

static size_t next_origin(void *ctx, void *series, size_t at, uint32_t patch)
{
    const struct outlook *v = series;
    size_t k = at > v->first + v->a->horizon ? (at - v->first) / v->a->horizon - 1 : 0;
    for (;; k++) {
        size_t origin = (v->first + k * v->a->horizon + patch - 1) / patch * patch;
        if (origin + v->a->horizon > v->table.rows)
            return SIZE_MAX;
        if (origin >= at)
            return origin;
    }
}

/* ---- forecasts ----------------------------------------------------------------------------------------------- */

static void remember(struct outlook *v, size_t origin, const float *q, uint32_t horizon)
{
    json_t *low = json_array(), *middle = json_array(), *high = json_array();
    for (uint32_t h = 0; h < horizon; h++, q += EVAL_LEVELS) {
        json_array_append_new(low, eval_number((double)q[EVAL_LOWEST]));
        json_array_append_new(middle, eval_number((double)q[EVAL_MEDIAN]));
        json_array_append_new(high, eval_number((double)q[EVAL_HIGHEST]));
    }
    json_array_append_new(v->drawn, json_pack("[I, o, o, o]", (json_int_t)origin, low, middle, high));
}

static void take_forecast(void *ctx, void *series, size_t origin, uint32_t channel, const float *q, uint32_t horizon)
{
    struct outlook *v = series;
    struct eval_channel *ch = &v->channels[channel];
    const double *y = v->carried + channel;
    uint32_t C = v->table.channels;
    eval_seasonal_advance(&ch->seasonal, y, C, origin);
    for (uint32_t h = 0; h < v->a->horizon; h++) {
        double truth = v->table.x[(origin + h) * C + channel], sigma;
        double base = eval_seasonal_at(&ch->seasonal, y, C, h + 1, &sigma);
        if (isfinite(truth) && !isnan(base + sigma)) /* before a first season nothing is measured */
            eval_channel_score(ch, truth, base, sigma, h < horizon ? q + h * EVAL_LEVELS : NULL);
    }
    if (v->drawn && channel == 0)
        remember(v, origin, q, horizon);
}

static int draw(const struct eval_options *o, struct outlook *v, char *reterr)
{
    json_t *value = json_array();
    for (size_t i = 0; i < v->table.rows; i++)
        json_array_append_new(value, eval_number(v->table.x[i * v->table.channels]));
    json_t *doc = json_pack("{s:s, s:o, s:O}", "title", v->a->s->name, "value", value, "forecasts", v->drawn);
    return eval_plot(o, v->a->s->name, doc, reterr);
}

static void unload(struct outlook *v)
{
    eval_table_done(&v->table);
    free(v->carried);
    free(v->channels);
    json_decref(v->drawn);
    v->carried = NULL;
    v->channels = NULL;
    v->drawn = NULL;
}

static void close_series(void *ctx, void *series)
{
    struct run *r = ctx;
    struct outlook *v = series;
    eval_accuracy_sum(v->a, v->channels, &v->table);
    if (r->o->plot && r->err == 0)
        r->err = draw(r->o, v, r->reterr);
    unload(v);
    r->o->series_done++;
}

static void show(void *ctx, size_t rows)
{
    eval_progress(((struct run *)ctx)->o, rows);
}

/* ---- the command ------------------------------------------------------------------------------------------ */

static int run_series(struct run *r, char *reterr)
{
    const struct eval_listener l = {.open = open_series,
                                    .next_origin = next_origin,
                                    .forecast = take_forecast,
                                    .close = close_series,
                                    .progress = show};
    struct eval_model *m = NULL;
    int err = r->o->model ? eval_model_open(r->o->model, r->o->device, r->o->threads, r->o->adapt, &m, reterr) : 0;
    if (err == 0)
        err = m ? eval_stream(m, &l, r, reterr) : eval_stream_baseline(r->o->baseline, r->o->patch, &l, r, reterr);
    if (err == 0 && r->err)
        memcpy(reterr, r->reterr, EVAL_ERR);
    eval_model_close(&m);
    return err ? err : r->err;
}

int eval_forecast(struct eval_options *o)
{
    char reterr[EVAL_ERR] = "out of memory", why[EVAL_ERR];
    struct run r = {.o = o, .n = o->series.n, .reterr = why};
    r.a = calloc(r.n, sizeof *r.a);
    r.v = calloc(r.n, sizeof *r.v);
    for (size_t i = 0; r.a && r.v && i < r.n; i++) {
        r.a[i].s = &o->series.v[i];
        r.v[i].a = &r.a[i];
    }
    int err = r.a && r.v ? run_series(&r, reterr) : -ENOMEM;
    eval_progress(o, 0);
    if (err == 0)
        eval_print(o, eval_accuracy_report(r.a, r.n), eval_accuracy_print);
    for (size_t i = 0; r.v && i < r.n; i++)
        unload(&r.v[i]);
    free(r.a);
    free(r.v);
    return err ? eval_fail(err, reterr) : EX_OK;
}
