/* eval_stream.c: see eval_stream.h. Series are lanes; a call of the engine takes a piece of each, cut where a lane
 * wants a forecast, so that a forecast is made only there. */
#include "tools/eval_stream.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/pool.h"
#include "tools/eval_metrics.h"

enum { ROWS_MAX = 1024, LANES_MAX = 64, SLOTS = 4096, ANOMALY = 3 };

struct lane {
    struct eval_job job;
    uint32_t channels;
    size_t at, rows, n; /* rows streamed, all of them, in this call */
    bool wants;         /* a forecast at the end of this call's rows */
    bool clock;
    int64_t interval; /* ticks of the reference step */
    double *x;        /* [ROWS_MAX][channels] */
    int64_t *dt;      /* [ROWS_MAX] */
    float *anomaly;   /* [ROWS_MAX + patch][channels][3] */
    float *joint;     /* [ROWS_MAX + patch][3] */
    float *forecast;  /* [channels][horizon][levels] */
    struct ssm_slot *slots;
};

struct eval_model {
    struct ssm_model *model;
    struct ssm_engine *engine;
    const struct ssm_model_info *info;
    bool adapt;
    uint32_t horizon; /* most samples ahead */
    uint32_t parallel; /* channels worth having under way */
    uint8_t level[EVAL_LEVELS];
    struct lane lanes[LANES_MAX];
    unsigned n_lanes;
    uint32_t slots_used;
    struct ssm_item *items;
};

/* ---- model ------------------------------------------------------------------------------------------------ */

/* The model's quantiles .1 … .9. */
static int find_levels(struct eval_model *m, char *reterr)
{
    for (int l = 0; l < EVAL_LEVELS; l++) {
        uint32_t q = 0;
        while (q < m->info->n_quantiles && fabs((double)m->info->quantiles[q] - eval_levels[l]) > 1e-6)
            q++;
        if (q == m->info->n_quantiles) {
            snprintf(reterr, SSM_ERR, "the model has no quantile %g: the metrics need .1 … .9", eval_levels[l]);
            return -EINVAL;
        }
        m->level[l] = (uint8_t)q;
    }
    return 0;
}

int eval_model_open(const char *dir, const char *device, uint32_t threads, bool adapt, struct eval_model **ret,
                    char *reterr)
{
    struct eval_model *m = calloc(1, sizeof *m);
    struct ssm_engine_opts opts = {.device = device,
                                   .weights = SSM_F32,
                                   .state = SSM_F32,
                                   .deterministic = true,
                                   .adapt = adapt,
                                   .slots = SLOTS,
                                   .threads = threads};
    snprintf(reterr, SSM_ERR, "out of memory");
    if (!m)
        return -ENOMEM;
    int err = ssm_model_open(dir, &m->model, reterr);
    if (err)
        goto fail;
    m->info = ssm_model_info(m->model);
    err = m->info->input == SSM_SAMPLES && m->info->horizon ? find_levels(m, reterr) : -EINVAL;
    if (m->info->input != SSM_SAMPLES || !m->info->horizon)
        snprintf(reterr, SSM_ERR, "%s: no signal model with a forecast head", dir);
    else if (adapt && !ssm_model_adapts(m->info)) {
        snprintf(reterr, SSM_ERR, "%s: forecasts too far or too finely for adaptation", dir);
        err = -EINVAL;
    }
    m->adapt = adapt;
    m->horizon = ssm_model_farthest(m->info);
    if (!err)
        err = ssm_engine_open(m->model, &opts, &m->engine, reterr);
    if (err)
        goto fail;
    m->parallel = strcmp(ssm_engine_device(m->engine), "cpu") ? 512 : ssm_pool_size(threads, UINT32_MAX);
    m->items = calloc(SLOTS, sizeof *m->items);
    if (m->items) {
        *ret = m;
        return 0;
    }
    err = -ENOMEM;
fail:
    eval_model_close(&m);
    return err;
}

void eval_model_close(struct eval_model **model)
{
    struct eval_model *m = *model;
    if (!m)
        return;
    free(m->items);
    ssm_engine_close(&m->engine);
    ssm_model_close(&m->model);
    free(m);
    *model = NULL;
}

const struct ssm_model_info *eval_model_info(const struct eval_model *m)
{
    return m->info;
}

/* ---- time ------------------------------------------------------------------------------------------------- */

/* Row `row` of the lane: its part, and its number there. */
static const struct eval_table *part_of(const struct lane *l, size_t *row)
{
    const struct eval_table *t = l->job.parts[0];
    if (*row < t->rows)
        return t;
    *row -= t->rows;
    return l->job.parts[1];
}

static int64_t time_of(const struct lane *l, size_t row)
{
    const struct eval_table *t = part_of(l, &row);
    return t->t_ns[row];
}

/* As the daemon: irregular where there is a clock, the first positive difference being the reference step. */
static void read_clock(struct lane *l)
{
    l->clock = true;
    l->interval = 1;
    for (unsigned i = 0; i < l->job.n_parts; i++)
        l->clock = l->clock && l->job.parts[i]->t_ns && !l->job.parts[i]->steps_back;
    for (size_t row = 1; l->clock && row < l->rows && l->interval == 1; row++)
        if (time_of(l, row) > time_of(l, row - 1))
            l->interval = time_of(l, row) - time_of(l, row - 1);
}

/* A part that begins before the one before it ended follows it by one step. */
static int64_t step_before(const struct lane *l, size_t row)
{
    int64_t step = row ? time_of(l, row) - time_of(l, row - 1) : l->interval;
    return step >= 0 ? step : l->interval;
}

/* ---- lanes ------------------------------------------------------------------------------------------------ */

static void close_lane(struct eval_model *m, struct lane *l)
{
    for (uint32_t c = 0; l->slots && c < l->channels; c++)
        if (l->slots[c].generation)
            ssm_slot_give(m->engine, l->slots[c]);
    m->slots_used -= l->channels;
    free(l->x);
    free(l->dt);
    free(l->anomaly);
    free(l->joint);
    free(l->forecast);
    free(l->slots);
    *l = (struct lane){0};
}

static int open_lane(struct eval_model *m, struct lane *l, char *reterr)
{
    size_t patch = m->info->patch;
    int err = 0;
    l->channels = l->job.parts[0]->channels;
    for (unsigned i = 0; i < l->job.n_parts; i++)
        l->rows += l->job.parts[i]->rows;
    if (l->job.horizon > m->horizon)
        l->job.horizon = m->horizon;
    read_clock(l);
    l->x = malloc(ROWS_MAX * l->channels * sizeof *l->x);
    l->dt = malloc(ROWS_MAX * sizeof *l->dt);
    l->anomaly = malloc((ROWS_MAX + patch) * l->channels * ANOMALY * sizeof *l->anomaly);
    l->joint = malloc((ROWS_MAX + patch) * ANOMALY * sizeof *l->joint);
    l->forecast = malloc((size_t)l->channels * (l->job.horizon + 1) * EVAL_LEVELS * sizeof *l->forecast);
    l->slots = calloc(l->channels, sizeof *l->slots);
    m->slots_used += l->channels;
    snprintf(reterr, SSM_ERR, "out of memory");
    if (!l->x || !l->dt || !l->anomaly || !l->joint || !l->forecast || !l->slots || m->slots_used > SLOTS)
        return -ENOMEM;
    for (uint32_t c = 0; c < l->channels && err == 0; c++)
        err = ssm_slot_take(m->engine, &l->slots[c]);
    return err;
}

/* How many rows the lane goes on by: to a forecast's origin, else as many as fit. */
static void plan_lane(const struct eval_model *m, const struct eval_listener *ls, void *ctx, struct lane *l)
{
    size_t most = ROWS_MAX / m->info->patch * m->info->patch, left = l->rows - l->at;
    size_t origin = ls->next_origin ? ls->next_origin(ctx, l->job.series, l->at + 1, m->info->patch) : SIZE_MAX;
    l->n = left < most ? left : most;
    l->wants = origin - l->at <= l->n;
    if (l->wants)
        l->n = origin - l->at;
    for (size_t i = 0; i < l->n; i++) {
        size_t row = l->at + i;
        const struct eval_table *t = part_of(l, &row);
        memcpy(l->x + i * l->channels, t->x + row * l->channels, l->channels * sizeof *l->x);
        l->dt[i] = l->clock ? step_before(l, l->at + i) : 0;
    }
}

static struct ssm_item item_of(const struct eval_model *m, const struct eval_listener *ls, const struct lane *l,
                               uint32_t c)
{
    struct ssm_item item = {.slot = l->slots[c], .n = (uint32_t)l->n, .x = l->x + c, .x_stride = l->channels};
    item.dt = l->clock ? l->dt : NULL;
    item.interval = l->clock ? l->interval : 1;
    item.nan = m->info->mask ? SSM_NAN_MASK : SSM_NAN_SKIP;
    item.adapt = m->adapt;
    if (ls->anomaly) {
        item.out.anomaly = l->anomaly + (size_t)c * ANOMALY;
        item.out.anomaly_stride = (size_t)l->channels * ANOMALY;
        item.out.anomaly_every = 1;
        item.channels = c == 0 ? l->channels : 0;
        item.joint = l->joint;
    }
    if (l->wants) { /* of the steps of this call only the last one is a multiple of its own number */
        item.out.forecast = l->forecast + (size_t)c * l->job.horizon * EVAL_LEVELS;
        item.out.forecast_every = (uint32_t)((l->at + l->n) / m->info->patch);
        item.out.horizon = l->job.horizon;
        item.out.n_q = EVAL_LEVELS;
        memcpy(item.out.q, m->level, sizeof m->level);
    }
    return item;
}

/* What the call made of the lane's rows, to the listener. */
static void deliver(struct eval_model *m, const struct eval_listener *ls, void *ctx, struct lane *l)
{
    size_t patch = m->info->patch, from = l->at / patch * patch, to = (l->at + l->n) / patch * patch;
    if (ls->anomaly && to > from)
        ls->anomaly(ctx, l->job.series, from, to - from, l->joint);
    l->at += l->n;
    for (uint32_t c = 0; c < l->channels && l->wants; c++)
        ls->forecast(ctx, l->job.series, l->at, c, l->forecast + (size_t)c * l->job.horizon * EVAL_LEVELS,
                     l->job.horizon);
}

/* Opens series until as many channels are under way as are worth it. */
static int fill_lanes(struct eval_model *m, const struct eval_listener *ls, void *ctx, bool *more, char *reterr)
{
    while (*more && m->n_lanes < LANES_MAX && m->slots_used < m->parallel) {
        struct lane *l = &m->lanes[m->n_lanes];
        int got = ls->open(ctx, &l->job, reterr);
        *more = got > 0;
        if (got <= 0)
            return got;
        m->n_lanes++;
        int err = open_lane(m, l, reterr);
        if (err)
            return err;
    }
    return 0;
}

static int advance_lanes(struct eval_model *m, const struct eval_listener *ls, void *ctx, size_t *rows, char *reterr)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < m->n_lanes; i++) {
        plan_lane(m, ls, ctx, &m->lanes[i]);
        for (uint32_t c = 0; c < m->lanes[i].channels; c++)
            m->items[n++] = item_of(m, ls, &m->lanes[i], c);
    }
    int err = ssm_advance(m->engine, m->items, n);
    if (err) {
        snprintf(reterr, SSM_ERR, "the device failed: %.400s", ssm_engine_failure(m->engine));
        return err;
    }
    for (unsigned i = 0; i < m->n_lanes; i++) {
        *rows += m->lanes[i].n;
        deliver(m, ls, ctx, &m->lanes[i]);
    }
    return 0;
}

int eval_stream(struct eval_model *m, const struct eval_listener *ls, void *ctx, char *reterr)
{
    bool more = true;
    size_t rows = 0;
    int err = fill_lanes(m, ls, ctx, &more, reterr);
    while (err == 0 && m->n_lanes) {
        err = advance_lanes(m, ls, ctx, &rows, reterr);
        for (unsigned i = 0; i < m->n_lanes && err == 0; i++) {
            struct lane *l = &m->lanes[i];
            if (l->at < l->rows)
                continue;
            ls->close(ctx, l->job.series);
            close_lane(m, l);
            *l = m->lanes[--m->n_lanes];
            m->lanes[m->n_lanes] = (struct lane){0};
            i--;
        }
        if (err == 0)
            err = fill_lanes(m, ls, ctx, &more, reterr);
        if (ls->progress)
            ls->progress(ctx, rows);
    }
    while (m->n_lanes)
        close_lane(m, &m->lanes[--m->n_lanes]);
    return err;
}
