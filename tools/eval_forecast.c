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

#include "tools/eval.h"
#include "tools/eval_baseline.h"

static const double ratio_least = 0.05, ratio_most = 5; /* of a channel's loss; a missing forecast counts as the most */
static const double flat = 1e-3; /* channels whose baseline loss is below this share of their deviation are left out */

enum { LOWEST = 0, MEDIAN = 4, HIGHEST = 8 }; /* of the levels: the 80 % band and its middle */

struct channel {
    struct eval_seasonal seasonal;
    double loss, base_loss; /* sums over points and levels */
    size_t points, missing, covered, scaled;
    double scaled_error; /* Σ |y − median| / MAE of the seasonal naive before the origin */
};

struct outlook {
    const struct eval_series *s;
    struct eval_table table; /* while it is streamed */
    double *carried;
    struct channel *channels;
    size_t season, horizon, first; /* first: of the origins, before it is moved up */
    uint32_t n_channels, left_out;
    double ratio, mase, coverage, missing, loss; /* NaN: no channel is left; loss: mean pinball, over channels */
    size_t points;
    json_t *drawn; /* forecasts of the first channel for a picture */
};

struct run {
    struct eval_options *o;
    struct outlook *v;
    size_t n, next;
    int err;
    char *reterr;
};

/* ---- series ----------------------------------------------------------------------------------------------- */

/* Season and horizon by the seconds between rows: those of the step that is within a hundredth, else of "else". */
static void by_step(const json_t *table, double step_s, struct outlook *v)
{
    const char *key;
    json_t *pair, *chosen = json_object_get(table, "else");
    json_object_foreach((json_t *)table, key, pair)
    {
        double s = strtod(key, NULL);
        if (s > 0 && fabs(step_s - s) < 0.01 * s)
            chosen = pair;
    }
    v->season = (size_t)json_integer_value(json_array_get(chosen, 0));
    v->horizon = (size_t)json_integer_value(json_array_get(chosen, 1));
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
    int err = eval_table_load(v->s->path, &v->s->columns, &v->table, reterr);
    if (err)
        return err;
    if (v->s->returns)
        take_returns(&v->table);
    v->season = v->s->season ? v->s->season : 1;
    v->horizon = v->s->horizon ? v->s->horizon : 32;
    double step_s = eval_table_step(&v->table);
    if (v->s->by_step)
        by_step(v->s->by_step, v->s->step_s > 0 ? v->s->step_s : step_s, v);
    size_t rows = v->table.rows, tenth = rows / 10;
    v->first = rows < 1024 ? rows / 2 : tenth > 512 ? tenth : 512;
    v->n_channels = v->table.channels;
    v->carried = eval_carried(&v->table);
    v->channels = calloc(v->n_channels, sizeof *v->channels);
    v->drawn = r->o->plot ? json_array() : NULL;
    if (!v->carried || !v->channels || !v->season || !v->horizon) {
        snprintf(reterr, EVAL_ERR, "%s: %s", v->s->path,
                 v->season && v->horizon ? "out of memory" : "no season or horizon");
        return v->season && v->horizon ? -ENOMEM : -EINVAL;
    }
    for (uint32_t c = 0; c < v->n_channels; c++)
        v->channels[c].seasonal.season = v->season;
    *ret = (struct eval_job){.series = v, .n_parts = 1, .horizon = (uint32_t)v->horizon, .season = v->season};
    ret->parts[0] = &v->table;
    return 1;
}

static size_t next_origin(void *ctx, void *series, size_t at, uint32_t patch)
{
    const struct outlook *v = series;
    size_t k = at > v->first + v->horizon ? (at - v->first) / v->horizon - 1 : 0;
    for (;; k++) {
        size_t origin = (v->first + k * v->horizon + patch - 1) / patch * patch;
        if (origin + v->horizon > v->table.rows)
            return SIZE_MAX;
        if (origin >= at)
            return origin;
    }
}

/* ---- losses ----------------------------------------------------------------------------------------------- */

/* One point; q NULL: there is no forecast for it. */
static void score_point(struct channel *ch, double y, double base, double sigma, const float *q)
{
    double loss = 0, base_loss = 0;
    bool missing = !q;
    for (int l = 0; l < EVAL_LEVELS; l++) {
        base_loss += eval_pinball(y, base + sigma * eval_normal[l], eval_levels[l]);
        missing = missing || !isfinite((double)q[l]);
        loss += missing ? 0 : eval_pinball(y, (double)q[l], eval_levels[l]);
    }
    ch->points++;
    ch->base_loss += base_loss;
    ch->loss += missing ? ratio_most * base_loss : loss;
    if (missing) {
        ch->missing++;
        return;
    }
    double mae = eval_seasonal_mae(&ch->seasonal);
    ch->covered += y >= (double)q[LOWEST] && y <= (double)q[HIGHEST];
    if (mae > 0) {
        ch->scaled_error += fabs(y - (double)q[MEDIAN]) / mae;
        ch->scaled++;
    }
}

static void remember(struct outlook *v, size_t origin, const float *q, uint32_t horizon)
{
    json_t *low = json_array(), *middle = json_array(), *high = json_array();
    for (uint32_t h = 0; h < horizon; h++, q += EVAL_LEVELS) {
        json_array_append_new(low, eval_number((double)q[LOWEST]));
        json_array_append_new(middle, eval_number((double)q[MEDIAN]));
        json_array_append_new(high, eval_number((double)q[HIGHEST]));
    }
    json_array_append_new(v->drawn, json_pack("[I, o, o, o]", (json_int_t)origin, low, middle, high));
}

static void take_forecast(void *ctx, void *series, size_t origin, uint32_t channel, const float *q, uint32_t horizon)
{
    struct outlook *v = series;
    struct channel *ch = &v->channels[channel];
    const double *y = v->carried + channel;
    uint32_t C = v->n_channels;
    eval_seasonal_advance(&ch->seasonal, y, C, origin);
    for (uint32_t h = 0; h < v->horizon; h++) {
        double truth = v->table.x[(origin + h) * C + channel], sigma;
        double base = eval_seasonal_at(&ch->seasonal, y, C, h + 1, &sigma);
        if (isfinite(truth) && !isnan(base + sigma)) /* before a first season nothing is measured */
            score_point(ch, truth, base, sigma, h < horizon ? q + h * EVAL_LEVELS : NULL);
    }
    if (v->drawn && channel == 0)
        remember(v, origin, q, horizon);
}

/* Mean distance of a channel's values from their mean. */
static double deviation(const struct eval_table *t, uint32_t channel)
{
    double sum = 0, distance = 0;
    size_t n = 0;
    for (size_t i = channel; i < t->rows * t->channels; i += t->channels)
        if (isfinite(t->x[i])) {
            sum += t->x[i];
            n++;
        }
    for (size_t i = channel; i < t->rows * t->channels; i += t->channels)
        if (isfinite(t->x[i]))
            distance += fabs(t->x[i] - sum / (double)n);
    return n ? distance / (double)n : 0;
}

static void sum_up(struct outlook *v)
{
    double ratio = 0, mase = 0, loss = 0;
    size_t covered = 0, predicted = 0, missing = 0, counted = 0, scaled = 0;
    for (uint32_t c = 0; c < v->n_channels; c++) {
        const struct channel *ch = &v->channels[c];
        double per_level = ch->points ? ch->base_loss / ((double)ch->points * EVAL_LEVELS) : 0;
        if (!(per_level > 0) || per_level < flat * deviation(&v->table, c))
            continue;
        ratio += fmin(fmax(ch->loss / ch->base_loss, ratio_least), ratio_most);
        loss += ch->loss / ((double)ch->points * EVAL_LEVELS);
        counted++;
        v->points += ch->points;
        missing += ch->missing;
        covered += ch->covered;
        predicted += ch->points - ch->missing;
        if (ch->scaled) {
            mase += ch->scaled_error / (double)ch->scaled;
            scaled++;
        }
    }
    v->left_out = v->n_channels - (uint32_t)counted;
    v->ratio = counted ? ratio / (double)counted : NAN;
    v->loss = counted ? loss / (double)counted : NAN;
    v->mase = scaled ? mase / (double)scaled : NAN;
    v->coverage = predicted ? (double)covered / (double)predicted : NAN;
    v->missing = v->points ? (double)missing / (double)v->points : NAN;
}

static int draw(const struct eval_options *o, struct outlook *v, char *reterr)
{
    json_t *value = json_array();
    for (size_t i = 0; i < v->table.rows; i++)
        json_array_append_new(value, eval_number(v->table.x[i * v->n_channels]));
    json_t *doc = json_pack("{s:s, s:o, s:O}", "title", v->s->name, "value", value, "forecasts", v->drawn);
    return eval_plot(o, v->s->name, doc, reterr);
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
    sum_up(v);
    if (r->o->plot && r->err == 0)
        r->err = draw(r->o, v, r->reterr);
    unload(v);
    r->o->series_done++;
}

static void show(void *ctx, size_t rows)
{
    eval_progress(((struct run *)ctx)->o, rows);
}

/* ---- report ----------------------------------------------------------------------------------------------- */

struct mean {
    double log_ratio, mase, coverage, missing, loss;
    size_t n;
};

static void add(struct mean *m, double ratio, double mase, double coverage, double missing, double loss)
{
    if (isnan(ratio))
        return;
    m->log_ratio += log(ratio);
    m->mase += mase;
    m->coverage += isnan(coverage) ? 0 : coverage;
    m->missing += missing;
    m->loss += loss;
    m->n++;
}

static json_t *mean_json(const struct mean *m, const char *name)
{
    double n = m->n ? (double)m->n : NAN;
    return json_pack("{s:s, s:I, s:o, s:o, s:o, s:o}", "name", name, "members", (json_int_t)m->n, "relative_crps",
                     eval_number(exp(m->log_ratio / n)), "mase", eval_number(m->mase / n), "coverage",
                     eval_number(m->coverage / n), "missing", eval_number(m->missing / n));
}

static void add_to_total(struct mean *total, const struct mean *family)
{
    double n = (double)family->n;
    if (family->n)
        add(total, exp(family->log_ratio / n), family->mase / n, family->coverage / n, family->missing / n, 0);
}

static json_t *report(const struct run *r)
{
    json_t *series = json_array(), *families = json_array();
    struct mean total = {0};
    for (size_t i = 0; i < r->n; i++) {
        const struct outlook *v = &r->v[i];
        struct mean family = {0};
        bool first = true;
        json_array_append_new(series, json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "name",
                                                v->s->name, "family", v->s->family, "season", (json_int_t)v->season,
                                                "horizon", (json_int_t)v->horizon, "points", (json_int_t)v->points,
                                                "channels", (int)v->n_channels, "left_out", (int)v->left_out,
                                                "relative_crps", eval_number(v->ratio), "mase", eval_number(v->mase),
                                                "coverage", eval_number(v->coverage), "missing",
                                                eval_number(v->missing), "loss", eval_number(v->loss)));
        for (size_t k = 0; k < r->n; k++) {
            const struct outlook *w = &r->v[k];
            bool same = strcmp(w->s->family, v->s->family) == 0;
            first = first && !(same && k < i);
            if (same)
                add(&family, w->ratio, w->mase, w->coverage, w->missing, w->loss);
        }
        if (!first)
            continue;
        json_array_append_new(families, mean_json(&family, v->s->family));
        add_to_total(&total, &family);
    }
    return json_pack("{s:o, s:o, s:o}", "series", series, "families", families, "total", mean_json(&total, "total"));
}

static void print_row(const json_t *row, bool series)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    size_t n = strlen(name);
    printf("%-*s", EVAL_NAME, n > EVAL_NAME ? name + (n - EVAL_NAME) : name);
    if (series) {
        eval_print_figure(row, "season", 6, 0);
        eval_print_figure(row, "horizon", 7, 0);
        eval_print_figure(row, "points", 9, 0);
    } else {
        printf(" %24s", "");
    }
    eval_print_figure(row, "relative_crps", 8, 4);
    eval_print_figure(row, "mase", 8, 3);
    eval_print_figure(row, "coverage", 8, 3);
    eval_print_figure(row, "missing", 7, 3);
    if (series)
        printf(" %11.5g", json_number_value(json_object_get(row, "loss")));
    putchar('\n');
}

static void print_report(const json_t *doc)
{
    size_t i;
    json_t *row;
    printf("%-*s %6s %7s %9s %8s %8s %8s %7s %11s\n", EVAL_NAME, "series", "season", "horizon", "points", "rel.CRPS",
           "MASE", "in 80 %", "missing", "pinball");
    json_array_foreach(json_object_get(doc, "series"), i, row) print_row(row, true);
    printf("\n%-*s (relative CRPS: geometric mean)\n", EVAL_NAME, "family");
    json_array_foreach(json_object_get(doc, "families"), i, row) print_row(row, false);
    print_row(json_object_get(doc, "total"), false);
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
    if (r->o->baseline)
        return eval_stream_baseline(r->o->baseline, r->o->patch, &l, r, reterr);
    int err = eval_model_open(r->o->model, r->o->device, r->o->threads, &m, reterr);
    if (err == 0)
        err = eval_stream(m, &l, r, reterr);
    eval_model_close(&m);
    return err;
}

int eval_forecast(struct eval_options *o)
{
    char reterr[EVAL_ERR] = "out of memory", why[EVAL_ERR] = "out of memory";
    struct run r = {.o = o, .n = o->series.n, .v = calloc(o->series.n, sizeof *r.v), .reterr = why};
    for (size_t i = 0; r.v && i < r.n; i++)
        r.v[i].s = &o->series.v[i];
    int err = r.v ? run_series(&r, reterr) : -ENOMEM;
    if (err == 0 && r.err) {
        err = r.err;
        memcpy(reterr, why, sizeof reterr);
    }
    eval_progress(o, 0);
    if (err == 0) {
        json_t *doc = report(&r);
        if (!o->json)
            print_report(doc);
        if (o->json)
            eval_print_json(doc);
        else
            json_decref(doc);
    }
    for (size_t i = 0; r.v && i < r.n; i++)
        unload(&r.v[i]);
    free(r.v);
    return err ? eval_fail(err, reterr) : EX_OK;
}
