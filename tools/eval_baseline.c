/* eval_baseline.c: baseline forecasts, channel by channel. See eval_baseline.h. */
#include "tools/eval_baseline.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

double *eval_carried(const struct eval_table *t)
{
    size_t n = t->rows * t->channels;
    double *y = malloc(n * sizeof *y);
    for (size_t i = 0; y && i < n; i++)
        y[i] = isfinite(t->x[i]) ? t->x[i] : i >= t->channels ? y[i - t->channels] : NAN;
    return y;
}

/* Where the bands are unknown, as before a first season, they have no width. */
static void seasonal_forecast(const struct eval_seasonal *s, const double *y, size_t stride, uint32_t horizon,
                              float *ret)
{
    for (uint32_t h = 0; h < horizon; h++) {
        double sigma, middle = eval_seasonal_at(s, y, stride, h + 1, &sigma);
        for (int q = 0; q < EVAL_LEVELS; q++)
            ret[h * EVAL_LEVELS + (uint32_t)q] = (float)(middle + (isnan(sigma) ? 0 : sigma * eval_normal[q]));
    }
}

/* One channel y[0], y[stride], … */
static void forecast_channel(const struct eval_listener *l, void *ctx, const struct eval_job *job,
                             struct eval_linear *lin, size_t season, uint32_t patch, const double *y, uint32_t channel,
                             float *rows)
{
    const struct eval_table *t = job->parts[0];
    struct eval_seasonal s = {.season = season};
    size_t learnt = 0, origin = 0;
    eval_linear_reset(lin);
    while ((origin = l->next_origin(ctx, job->series, origin + 1, patch)) <= t->rows) {
        eval_seasonal_advance(&s, y, t->channels, origin);
        for (; learnt < origin && !season; learnt++)
            if (!isnan(y[learnt * t->channels]))
                eval_linear_learn(lin, y[learnt * t->channels]);
        if (season)
            seasonal_forecast(&s, y, t->channels, job->horizon, rows);
        else
            eval_linear_forecast(lin, job->horizon, rows);
        l->forecast(ctx, job->series, origin, channel, rows, job->horizon);
    }
}

int eval_stream_baseline(const char *name, uint32_t patch, const struct eval_listener *l, void *ctx, char *reterr)
{
    struct eval_linear *lin = eval_linear_new();
    struct eval_job job = {0};
    size_t rows = 0;
    int err = lin ? 0 : -ENOMEM;
    while (err == 0 && (err = l->open(ctx, &job, reterr)) > 0) {
        const struct eval_table *t = job.parts[0];
        double *y = eval_carried(t);
        float *quantiles = malloc((size_t)job.horizon * EVAL_LEVELS * sizeof *quantiles);
        size_t season = strcmp(name, "naive") == 0 ? 1 : strcmp(name, "seasonal") == 0 ? job.season : 0;
        err = y && quantiles ? 0 : -ENOMEM;
        for (uint32_t c = 0; c < t->channels && err == 0; c++)
            forecast_channel(l, ctx, &job, lin, season, patch, y + c, c, quantiles);
        rows += t->rows;
        free(y);
        free(quantiles);
        if (err == 0)
            l->close(ctx, job.series);
        if (l->progress)
            l->progress(ctx, rows);
    }
    if (err == -ENOMEM)
        memcpy(reterr, "out of memory", sizeof "out of memory");
    eval_linear_free(lin);
    return err;
}
