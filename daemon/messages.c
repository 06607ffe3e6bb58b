/* messages.c: from an entry's results to messages. Steps and events come out in the order of the rows they belong to;
 * the rows of a family go into one message as long as they are evenly spaced and alike. Publisher thread.
 *
 * Trap: rows and keys must not depend on how a stream was cut into batches. Everything here is computed per row, from
 * what the entry says about that row; only the grouping into messages is free. */
#include <math.h>
#include <stdlib.h>

#include "daemon/view.h"

void md_publish(struct md_publisher *p, const struct io_message *m)
{
    for (unsigned i = 0; i < p->n_outputs; i++)
        if (p->outputs[i]->conf->families & 1u << m->family)
            md_output_write(p->outputs[i], m);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

void md_group_send(struct md_view *v, struct md_group *g, uint64_t arrived_ns)
{
    uint32_t n = g->m.shape[0];
    int64_t now = md_now_ns();

    if (n == 0)
        return;
    g->m.out_seq = v->s->voice.out_seq[g->family];
    v->s->voice.out_seq[g->family] += n;
    v->p->totals[g->family] += n;
    md_bump(&v->s->seen.out_rows[g->family], n);
    now -= (int64_t)arrived_ns;
    g->m.latency_us = now > 0 ? now / 1000 : 0;
    g->m.times = v->s->irregular ? v->p->times : NULL;
    md_hist_add(&v->p->latency, now > 0 ? (uint64_t)now : 0);
    md_publish(v->p, &g->m);
    g->m.shape[0] = 0;
}

void md_group_add(struct md_view *v, struct md_group *g, uint64_t *arrived_ns, const struct md_rows *rows)
{
    uint32_t n = g->m.shape[0];

    if (n && (rows->seq != g->next_seq || rows->warm != g->m.warmup ||
              (size_t)(n + rows->n) * g->row_floats > MD_MESSAGE_FLOATS))
        md_group_send(v, g, *arrived_ns);
    if (g->m.shape[0] == 0) {
        *arrived_ns = rows->arrived_ns;
        g->m.seq = rows->seq;
        g->m.t_ns = rows->t_ns;
        g->m.data = rows->data;
        g->m.warmup = rows->warm;
    }
    for (uint32_t i = 0; v->s->irregular && i < rows->n; i++)
        v->p->times[g->m.shape[0] + i] = i ? IO_T_NONE : rows->t_ns;
    g->m.shape[0] += rows->n;
    g->next_seq = rows->seq + rows->n * g->stride;
}

/* ---- families: steps [from, to) of the entry --------------------------------------------------------------------- */

static void publish_predictions(struct md_view *v, uint32_t from, uint32_t to)
{
    const struct md_plan *p = v->plan;
    uint32_t patch = p->info->patch, every = p->every[IO_PREDICTION], C = v->s->channels;
    struct md_group g = md_group_of(v, IO_PREDICTION, (int64_t)every * patch, p->horizon);
    struct md_cursor at = {0};
    uint64_t arrived = 0;

    g.m.ndim = 4;
    g.m.shape[1] = C;
    g.m.shape[2] = p->horizon;
    g.m.shape[3] = g.m.n_quantiles = p->n_q;
    g.m.quantiles = p->quantiles;
    g.row_floats = C * p->horizon * p->n_q;
    for (uint32_t k = from; k < to; k++) {
        if (!md_view_chosen(v, k, every))
            continue;
        uint32_t last = (k + 1) * patch - 1;
        const struct md_run *r = md_view_run(v, &at, last);
        int64_t seq = r->seq + (last - at.row) + 1, t = v->s->irregular ? md_view_ahead(r) : md_view_time(v, r, seq);
        size_t i = md_chosen(v->e->first_step, k, every);
        md_group_add(v, &g, &arrived,
                     &(struct md_rows){md_batch_out(v->b, v->e->forecast + i * g.row_floats), seq, t, r->arrived_ns, 1,
                                       md_view_warming(v, k)});
    }
    md_group_send(v, &g, arrived);
}

static void publish_embeddings(struct md_view *v, uint32_t from, uint32_t to)
{
    const struct md_plan *p = v->plan;
    uint32_t patch = p->info->patch, every = p->every[IO_EMBEDDING], C = v->s->channels;
    struct md_group g = md_group_of(v, IO_EMBEDDING, (int64_t)every * patch, patch);
    struct md_cursor first = {0}, last = {0};
    uint64_t arrived = 0;

    g.m.ndim = 3;
    g.m.shape[1] = C;
    g.m.shape[2] = p->info->embedding;
    g.row_floats = C * p->info->embedding;
    for (uint32_t k = from; k < to; k++) {
        if (!md_view_chosen(v, k, every))
            continue;
        const struct md_run *r = md_view_run(v, &first, k * patch);
        int64_t seq = r->seq + (k * patch - first.row);
        size_t i = md_chosen(v->e->first_step, k, every);
        md_group_add(v, &g, &arrived,
                     &(struct md_rows){md_batch_out(v->b, v->e->embedding + i * g.row_floats), seq,
                                       md_view_time(v, r, seq), md_view_run(v, &last, (k + 1) * patch - 1)->arrived_ns,
                                       1, md_view_warming(v, k)});
    }
    md_group_send(v, &g, arrived);
}

/* Rows of samples: `data` holds the rows of the steps that the engine was asked for, row_floats each. */
static void publish_samples(struct md_view *v, struct md_group *g, const float *data, uint32_t from, uint32_t to)
{
    uint32_t patch = v->plan->info->patch, every = v->plan->every[g->family];
    struct md_cursor at = {0}, last = {0};
    uint64_t arrived = 0;

    for (uint32_t k = from; k < to; k++) {
        if (!md_view_chosen(v, k, every))
            continue;
        const float *step =
            data + (size_t)md_chosen(v->e->first_step, k, v->plan->anomaly_every) * patch * g->row_floats;
        uint64_t arrived_k = md_view_run(v, &last, (k + 1) * patch - 1)->arrived_ns;
        bool warm = md_view_warming(v, k);
        for (uint32_t row = k * patch, n; row < (k + 1) * patch; row += n) {
            const struct md_run *r = md_view_run(v, &at, row);
            int64_t seq = r->seq + (row - at.row);
            uint32_t run_left = at.row + r->n - row, patch_left = (k + 1) * patch - row;
            n = run_left < patch_left ? run_left : patch_left;
            md_group_add(v, g, &arrived,
                         &(struct md_rows){step + (size_t)(row - k * patch) * g->row_floats, seq,
                                           md_view_time(v, r, seq), arrived_k, n, warm});
        }
    }
    md_group_send(v, g, arrived);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void publish_event(struct md_view *v, const struct md_event *ev)
{
    struct io_message m = v->m;

    m.family = IO_EVENT;
    m.epoch = ev->epoch;
    m.seq = ev->seq;
    m.stride = 1;
    m.t_ns = ev->t_ns;
    m.event = ev->event;
    m.reason = ev->reason;
    m.from_seq = ev->from;
    m.to_seq = ev->to;
    m.count = ev->count;
    m.bridged = ev->bridged;
    md_publish(v->p, &m);
}

void md_publish_alarm(struct md_view *v, bool start, uint32_t epoch, const char *reason, int64_t t_ns)
{
    const struct md_alarm *a = &v->s->voice.alarm;

    publish_event(v, &(struct md_event){.epoch = epoch,
                                        .event = start ? "anomaly_start" : "anomaly_end",
                                        .reason = reason,
                                        .seq = start ? a->from : a->last,
                                        .t_ns = t_ns,
                                        .from = a->from,
                                        .to = start ? IO_SEQ_NONE : a->last,
                                        .count = start ? -1 : (int64_t)a->count});
    atomic_store_explicit(&v->s->seen.alarm, start, memory_order_relaxed);
}

/* from_seq as if none of the rows were missing. */
static void publish_notice(struct md_view *v, const char *event, const char *reason, uint32_t rows, int64_t seq,
                           int64_t t_ns)
{
    if (rows)
        publish_event(v, &(struct md_event){.epoch = v->e->epoch,
                                            .event = event,
                                            .reason = reason,
                                            .seq = seq,
                                            .t_ns = t_ns,
                                            .from = seq - (int64_t)rows + 1,
                                            .to = seq,
                                            .count = rows});
}

/* Of n rows of a run. */
static void publish_notices(struct md_view *v, const struct md_run *r, int64_t seq, const struct ssm_notice *notices,
                            uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int64_t t_ns = md_view_time(v, r, seq + i);
        publish_notice(v, "flatline", NULL, notices[i].flatline, seq + i, t_ns);
        publish_notice(v, "level_shift", "up", notices[i].level_up, seq + i, t_ns);
        publish_notice(v, "level_shift", "down", notices[i].level_down, seq + i, t_ns);
    }
}

/* Every row is looked at, whatever is published. */
static void watch(struct md_view *v, const float *rows, uint32_t from, uint32_t to)
{
    uint32_t end = to * v->plan->info->patch;
    struct md_cursor at = {0};

    for (uint32_t row = from * v->plan->info->patch, n; row < end; row += n) {
        const struct md_run *r = md_view_run(v, &at, row);
        int64_t seq = r->seq + (row - at.row);
        uint32_t left = at.row + r->n - row;
        enum md_alarm_turn turn = MD_ALARM_NONE;
        n = left < end - row ? left : end - row;
        if (v->plan->alarm)
            n = md_alarm_rows(&v->s->voice.alarm, v->plan->policy.alarm_p, seq, rows + (size_t)row * 3 + 1, 3, n,
                              &turn);
        publish_notices(v, r, seq, md_batch_notices(v->b, v->e->notices) + row, n);
        if (turn != MD_ALARM_NONE)
            md_publish_alarm(v, turn == MD_ALARM_START, v->e->epoch, NULL, md_view_time(v, r, seq + n - 1));
    }
}

/* An epoch's alarm does not outlive it. */
static void end_alarm(struct md_view *v, uint32_t epoch, const char *reason, int64_t t_ns)
{
    struct md_alarm *a = &v->s->voice.alarm;

    if (a->active)
        md_publish_alarm(v, false, epoch, reason, t_ns);
    *a = (struct md_alarm){0};
}

/* ---- an entry ---------------------------------------------------------------------------------------------------- */

static void publish_anomalies(struct md_view *v, const float *joint, uint32_t from, uint32_t to)
{
    struct md_group g = md_group_of(v, IO_ANOMALY, 1, 1);

    if (joint && v->plan->every[IO_ANOMALY]) {
        g.m.ndim = 2;
        g.m.shape[1] = g.row_floats = 3;
        publish_samples(v, &g, joint, from, to);
    }
    if (v->plan->every[IO_CHANNEL_ANOMALY]) {
        g = md_group_of(v, IO_CHANNEL_ANOMALY, 1, 1);
        g.m.ndim = 3;
        g.m.shape[1] = v->s->channels;
        g.m.shape[2] = 3;
        g.row_floats = 3 * v->s->channels;
        publish_samples(v, &g, md_batch_out(v->b, v->e->anomaly), from, to);
    }
    if (joint)
        watch(v, joint, from, to);
}

static void publish_steps(struct md_view *v, const float *joint, uint32_t from, uint32_t to)
{
    if (from >= to)
        return;
    v->s->voice.epoch = v->e->epoch;
    if (v->plan->info->bytes)
        md_publish_bytes(v, from, to);
    if (v->e->forecast != SIZE_MAX)
        publish_predictions(v, from, to);
    if (v->e->embedding != SIZE_MAX)
        publish_embeddings(v, from, to);
    if (v->e->anomaly != SIZE_MAX)
        publish_anomalies(v, joint, from, to);
    atomic_store_explicit(&v->s->seen.warm, !md_view_warming(v, to - 1), memory_order_relaxed);
    if (joint && v->plan->alarm)
        atomic_store_explicit(&v->s->seen.p, joint[((size_t)to * v->plan->info->patch - 1) * 3 + 1],
                              memory_order_relaxed);
}

static void publish_failure(struct md_view *v)
{
    struct md_event ev = {.epoch = v->e->epoch,
                          .event = "error",
                          .reason = v->e->failed,
                          .t_ns = IO_T_NONE,
                          .from = IO_SEQ_NONE,
                          .to = IO_SEQ_NONE,
                          .count = v->e->carried + v->e->rows};

    publish_event(v, &ev);
    end_alarm(v, ev.epoch, "reset", IO_T_NONE);
    if (v->plan->info->bytes)
        md_drop_record(v, &(int64_t){0});
    ev.event = "reset";
    ev.epoch++;
    publish_event(v, &ev);
}

void md_publish_entry(struct md_publisher *p, const struct md_batch *b, const struct md_entry *e)
{
    struct io_stream *s = e->stream;
    struct md_view v = {p, b, e, s, s->plan, {0}};
    const float *joint = e->joint != SIZE_MAX ? md_batch_out(b, e->joint) : NULL;
    uint32_t done = 0;

    v.m = (struct io_message){.stream = s->id,
                              .model = b->owner->model,
                              .run = p->run,
                              .epoch = e->epoch,
                              .rate = s->irregular ? 0 : s->rate,
                              .exact = b->owner->exact && !e->inexact,
                              .from_seq = IO_SEQ_NONE,
                              .to_seq = IO_SEQ_NONE,
                              .count = -1};
    for (uint32_t i = 0; i < e->n_events; i++) {
        struct md_event *ev = md_batch_event(b, e->first_event + i);
        uint32_t steps = ev->at / s->plan->info->patch;
        publish_steps(&v, joint, done, steps < e->steps ? steps : e->steps);
        done = steps > done ? steps : done;
        if (ev->closes)
            end_alarm(&v, s->voice.epoch, ev->event, ev->t_ns);
        if (ev->closes && s->plan->info->bytes)
            md_drop_record(&v, &ev->count);
        s->voice.epoch = ev->epoch;
        publish_event(&v, ev);
    }
    publish_steps(&v, joint, done, e->steps);
    if (e->failed)
        publish_failure(&v);
    atomic_fetch_sub_explicit(&s->in_flight, 1, memory_order_release);
}
