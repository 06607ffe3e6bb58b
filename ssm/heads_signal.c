/* heads_signal.c: what a signal model says about its rows, in time order per entry (docs/signal-model.md, sec. 4–8). A
 * patch is scored under the model's forecast of the step before it, then learnt by the online adaptation, where that is
 * on; then the step's own forecast takes its place in the slot. Runs on the worker that has the entry; the slot's
 * forecast and calibrator are touched here only. Trap: after a step that was not taken there is no forecast for the
 * next patch, which stays unscored. */
#include "ssm/heads.h"

#include <float.h>
#include <math.h>

#include "ssm/forecast.h"

enum { SCORE, P_VALUE, SURPRISE, COLUMNS };

/* A row of a tile on its way out. */
struct step {
    const struct ssm_config *c;
    const struct ssm_frame *frame;
    const double *patch; /* [P] */
    const float *near;   /* head outputs of the first `near` samples ahead, … */
    const float *far;    /* … of all; valid beyond the near ones, and everywhere if there are none */
    const float *f;
    uint64_t number;    /* counted from the reset, from 1 */
    uint64_t call_step; /* steps before the call */
    const struct ssm_out *out;
    struct ssm_carried *carried;
    void *calibrator;
    void *adapt; /* NULL: the model's forecasts as they are */
    const struct ssm_adapt_shape *shape;
    uint32_t n_model; /* steps ahead that the head computed */
};

bool ssm_signal_wants_far(const struct ssm_tile *t, const struct ssm_entry *e, uint32_t k)
{
    const struct ssm_out *out = &e->item->out;
    const struct ssm_frame *frame = &t->frames[e->row + k];
    uint64_t step = e->step + k + 1;
    bool published =
        out->forecast && out->horizon > ssm_near(&t->layout->model->config) && ssm_chosen(step, out->forecast_every);
    return frame->taken && !frame->blank && (published || (e->item->adapt && ssm_adapt_wants_model(step)));
}

uint32_t ssm_signal_far(const struct ssm_config *c, const struct ssm_item *item)
{
    return item->adapt || item->out.horizon > c->horizon ? c->horizon : item->out.horizon;
}

/* Where this step's row goes, or NULL if the step is not chosen. */
static float *row_of(const struct step *s, float *buf, size_t stride, uint32_t every, uint32_t rows_per_step)
{
    uint64_t k = every ? every : 1;
    if (!buf || !ssm_chosen(s->number, every))
        return NULL;
    return buf + (s->number / k - s->call_step / k - 1) * rows_per_step * stride;
}

static void fill_nan(float *row, size_t n)
{
    for (size_t i = 0; i < n; i++)
        row[i] = NAN;
}

/* One sample under quantiles q; learns it. row: NULL if nobody listens. */
static void score_sample(const struct step *s, const double *q, double x, float *row)
{
    double u, strangeness, surprise;
    ssm_forecast_score(q, s->c->quantiles, s->c->n_quantiles, s->carried->scale, x, &u, &strangeness, &surprise);
    double p = ssm_calibrate_update(&s->c->calibration, s->calibrator, strangeness);
    if (!row)
        return;
    row[SCORE] = (float)fmin(1.0, 0.0 - log10(p) / 10.0); /* 0 − …: p = 1 gives 0, not −0 */
    row[P_VALUE] = (float)p;
    row[SURPRISE] = (float)surprise;
    if (isnan(p))
        row[SCORE] = NAN; /* fmin would say 1 */
}

static void score_patch(const struct step *s)
{
    const struct ssm_out *out = s->out;
    uint32_t near = ssm_near(s->c), P = s->c->front.patch;
    float *rows = row_of(s, out->anomaly, out->anomaly_stride, out->anomaly_every, P);
    for (uint32_t i = 0; i < P; i++) {
        float *row = rows ? rows + i * out->anomaly_stride : NULL;
        if (row)
            fill_nan(row, COLUMNS);
        if (i < near && s->frame->taken && s->carried->valid && isfinite(s->patch[i]))
            score_sample(s, s->carried->q + (size_t)i * s->c->n_quantiles, s->patch[i], row);
    }
}

/* The model's own of samples from … to ahead, counted from 0; at least one. */
static void model_quantiles(const struct step *s, uint32_t from, uint32_t to, double *out)
{
    uint32_t near = ssm_near(s->c), Q = s->c->n_quantiles;
    uint32_t h = from;
    do {
        ssm_forecast_quantiles(s->frame, h + 1, (h < near ? s->near : s->far) + h * Q, Q, out);
        out += Q;
    } while (++h < to);
}

/* Beyond the model's horizon: its last quantiles about their median, spreading as those of a random walk. */
static void quantiles_beyond(const struct step *s, uint32_t h, const double *last, double *out)
{
    double median = last[s->c->n_quantiles / 2], wider = sqrt((h + 1.0) / s->c->horizon);
    for (uint32_t i = 0; i < s->c->n_quantiles; i++)
        out[i] = fmax(-(double)FLT_MAX, fmin((double)FLT_MAX, median + (last[i] - median) * wider));
}

static void learn_patch(const struct step *s)
{
    double model[SSM_HORIZON_MAX * SSM_QUANTILES_MAX];
    if (s->number == 1)
        ssm_adapt_reset(s->shape, s->adapt);
    ssm_adapt_learn(s->shape, s->adapt, s->frame->missing, s->patch);
    if (!ssm_adapt_wants_model(s->number) || !s->frame->taken || s->frame->blank)
        return;
    model_quantiles(s, 0, s->c->horizon, model);
    ssm_adapt_note_model(s->shape, s->adapt, model);
}

/* The model's own, whatever is published: what learns from the stream would learn the anomaly. */
static void carry_forecast(const struct step *s)
{
    s->carried->valid = s->frame->taken && !s->frame->blank;
    s->carried->scale = s->frame->scale;
    if (s->carried->valid)
        model_quantiles(s, 0, ssm_near(s->c), s->carried->q);
}

static void write_quantiles(const struct ssm_out *out, const double *q, float **row)
{
    for (uint32_t i = 0; i < out->n_q; i++)
        *(*row)++ = (float)q[out->q[i]];
}

static void write_adapted(const struct step *s, float *row)
{
    double model[SSM_HORIZON_MAX * SSM_QUANTILES_MAX], q[SSM_HORIZON_MAX * SSM_QUANTILES_MAX];
    uint32_t near = ssm_near(s->c), H = s->out->horizon;
    model_quantiles(s, 0, H <= near ? near : s->c->horizon, model);
    ssm_adapt_forecast(s->shape, s->adapt, model, H, q);
    for (uint32_t h = 0; h < H; h++)
        write_quantiles(s->out, q + (size_t)h * s->c->n_quantiles, &row);
}

static void write_forecast(const struct step *s)
{
    const struct ssm_out *out = s->out;
    float *row = row_of(s, out->forecast, out->forecast_stride, out->forecast_every, 1);
    double own[SSM_QUANTILES_MAX], beyond[SSM_QUANTILES_MAX];
    if (!row)
        return;
    if (!s->frame->taken || s->frame->blank) {
        fill_nan(row, (size_t)out->horizon * out->n_q);
        return;
    }
    if (s->adapt) {
        write_adapted(s, row);
        return;
    }
    for (uint32_t h = 0; h < out->horizon; h++) {
        if (h < s->c->horizon)
            model_quantiles(s, h, h + 1, own);
        else
            quantiles_beyond(s, h, own, beyond);
        write_quantiles(out, h < s->c->horizon ? own : beyond, &row);
    }
}

static void write_embedding(const struct step *s)
{
    float *row = row_of(s, s->out->embedding, s->out->embedding_stride, s->out->embedding_every, 1);
    bool some = s->frame->taken && !s->frame->blank;
    for (uint32_t e = 0; row && e < s->c->E; e++)
        row[e] = some ? s->f[e] : NAN;
}

static void write_step(const struct step *s)
{
    bool warming = s->c->anomaly && !ssm_calibrate_warm(&s->c->calibration, s->calibrator); /* so its rows are NaN */
    if (s->c->anomaly)
        score_patch(s);
    if (s->adapt)
        learn_patch(s);
    if (s->c->anomaly)
        carry_forecast(s);
    write_forecast(s);
    write_embedding(s);
    if (s->out->warmup)
        s->out->warmup[s->number - s->call_step - 1] = warming && !s->frame->blank;
}

void ssm_signal_write(struct ssm_tile *t, const struct ssm_entry *e)
{
    const struct ssm_config *c = &t->layout->model->config;
    uint32_t picked = e->picked;
    struct step s = {
        .c = c,
        .call_step = e->call_step,
        .out = &e->item->out,
        .carried = (struct ssm_carried *)(e->slot + t->layout->at[SSM_PART_FORECAST]),
        .calibrator = e->slot + t->layout->at[SSM_PART_CALIBRATOR],
        .adapt = e->item->adapt ? e->slot + t->layout->at[SSM_PART_ADAPT] : NULL,
        .shape = &t->layout->adapt,
    };
    for (uint32_t k = 0; k < e->T; k++) {
        uint32_t row = e->row + k, line = t->lines ? t->lines[row] : row;
        s.frame = &t->frames[row];
        s.patch = t->patches + (size_t)row * c->front.patch;
        s.near = t->near + line * t->ldnear;
        s.far = t->out + (t->lines ? line : picked) * t->ldo;
        s.f = t->f + line * t->ldr;
        s.number = e->step + k + 1;
        if (ssm_signal_wants_far(t, e, k))
            picked++;
        write_step(&s);
    }
}
