/* messages.c: from an entry's results to messages. Steps and events come out in the order of the rows they belong to;
 * the rows of a family go into one message as long as they are evenly spaced and alike. Publisher thread.
 *
 * Trap: rows and keys must not depend on how a stream was cut into batches. Everything here is computed per row, from
 * what the entry says about that row; only the grouping into messages is free. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/input.h"
#include "daemon/publisher.h"

/* A walk along the rows of an entry. */
struct cursor {
    uint32_t run, row; /* the run, and the row at which it begins */
};

struct view {
    struct md_publisher *p;
    const struct md_batch *b;
    const struct md_entry *e;
    struct io_stream *s;
    const struct md_plan *plan;
    struct io_message m; /* what all messages of the entry have in common */
};

/* Rows that will make one message. */
struct group {
    enum io_family family;
    int64_t stride, next_seq;
    uint32_t row_floats;
    bool warm;
    struct io_message m;
};

static const struct md_run *run_of(const struct view *v, struct cursor *at, uint32_t row)
{
    const struct md_run *r = md_batch_run(v->b, v->e->first_run + at->run);

    while (row >= at->row + r->n) {
        at->row += r->n;
        at->run++;
        r++;
    }
    return r;
}

static int64_t row_time(const struct view *v, const struct md_run *r, int64_t seq)
{
    return md_timeline_ns(&v->s->course.rules, r->anchor_seq, r->anchor_t, seq);
}

static bool warming(const struct view *v, uint32_t step)
{
    const uint8_t *w = (const uint8_t *)v->b->warm.p + v->e->warm + step;
    bool any = false;

    for (uint32_t c = 0; c < v->s->channels; c++)
        any |= w[(size_t)c * v->e->steps];
    return any;
}

static bool chosen(const struct view *v, uint32_t step, uint32_t every)
{
    return every && (v->e->first_step + step + 1) % every == 0;
}

void md_publish(struct md_publisher *p, const struct io_message *m)
{
    for (unsigned i = 0; i < p->n_outputs; i++)
        if (p->outputs[i]->conf->families & 1u << m->family)
            md_output_write(p->outputs[i], m);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static void send_group(struct view *v, struct group *g, uint64_t arrived_ns)
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

struct rows { /* n rows that follow each other */
    const float *data;
    int64_t seq, t_ns;
    uint64_t arrived_ns;
    uint32_t n;
    bool warm;
};

static void add_rows(struct view *v, struct group *g, uint64_t *arrived_ns, const struct rows *rows)
{
    uint32_t n = g->m.shape[0];

    if (n && (rows->seq != g->next_seq || rows->warm != g->m.warmup ||
              (size_t)(n + rows->n) * g->row_floats > MD_MESSAGE_FLOATS))
        send_group(v, g, *arrived_ns);
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

static struct group group_of(const struct view *v, enum io_family f, int64_t stride, int64_t span)
{
    struct group g = {.family = f, .stride = stride, .m = v->m};

    g.m.family = f;
    g.m.stride = stride;
    g.m.span = span;
    return g;
}

/* Of the sample ahead of a run's row, in an irregular stream. */
static int64_t time_ahead(const struct md_run *r)
{
    return r->interval && r->anchor_t != IO_T_NONE ? md_add_sat(r->anchor_t, r->interval) : IO_T_NONE;
}

/* ---- families: steps [from, to) of the entry --------------------------------------------------------------------- */

static void publish_predictions(struct view *v, uint32_t from, uint32_t to)
{
    const struct md_plan *p = v->plan;
    uint32_t patch = p->info->patch, every = p->every[IO_PREDICTION], C = v->s->channels;
    struct group g = group_of(v, IO_PREDICTION, (int64_t)every * patch, p->horizon);
    struct cursor at = {0};
    uint64_t arrived = 0;

    g.m.ndim = 4;
    g.m.shape[1] = C;
    g.m.shape[2] = p->horizon;
    g.m.shape[3] = g.m.n_quantiles = p->n_q;
    g.m.quantiles = p->quantiles;
    g.row_floats = C * p->horizon * p->n_q;
    for (uint32_t k = from; k < to; k++) {
        if (!chosen(v, k, every))
            continue;
        uint32_t last = (k + 1) * patch - 1;
        const struct md_run *r = run_of(v, &at, last);
        int64_t seq = r->seq + (last - at.row) + 1, t = v->s->irregular ? time_ahead(r) : row_time(v, r, seq);
        size_t i = md_chosen(v->e->first_step, k, every);
        add_rows(v, &g, &arrived,
                 &(struct rows){md_batch_out(v->b, v->e->forecast + i * g.row_floats), seq, t, r->arrived_ns, 1,
                                warming(v, k)});
    }
    send_group(v, &g, arrived);
}

static void publish_embeddings(struct view *v, uint32_t from, uint32_t to)
{
    const struct md_plan *p = v->plan;
    uint32_t patch = p->info->patch, every = p->every[IO_EMBEDDING], C = v->s->channels;
    struct group g = group_of(v, IO_EMBEDDING, (int64_t)every * patch, patch);
    struct cursor first = {0}, last = {0};
    uint64_t arrived = 0;

    g.m.ndim = 3;
    g.m.shape[1] = C;
    g.m.shape[2] = p->info->embedding;
    g.row_floats = C * p->info->embedding;
    for (uint32_t k = from; k < to; k++) {
        if (!chosen(v, k, every))
            continue;
        const struct md_run *r = run_of(v, &first, k * patch);
        int64_t seq = r->seq + (k * patch - first.row);
        size_t i = md_chosen(v->e->first_step, k, every);
        add_rows(v, &g, &arrived,
                 &(struct rows){md_batch_out(v->b, v->e->embedding + i * g.row_floats), seq, row_time(v, r, seq),
                                run_of(v, &last, (k + 1) * patch - 1)->arrived_ns, 1, warming(v, k)});
    }
    send_group(v, &g, arrived);
}

/* Rows of samples: `data` holds the rows of the steps that the engine was asked for, row_floats each. */
static void publish_samples(struct view *v, struct group *g, const float *data, uint32_t from, uint32_t to)
{
    uint32_t patch = v->plan->info->patch, every = v->plan->every[g->family];
    struct cursor at = {0}, last = {0};
    uint64_t arrived = 0;

    for (uint32_t k = from; k < to; k++) {
        if (!chosen(v, k, every))
            continue;
        const float *step =
            data + (size_t)md_chosen(v->e->first_step, k, v->plan->anomaly_every) * patch * g->row_floats;
        uint64_t arrived_k = run_of(v, &last, (k + 1) * patch - 1)->arrived_ns;
        bool warm = warming(v, k);
        for (uint32_t row = k * patch, n; row < (k + 1) * patch; row += n) {
            const struct md_run *r = run_of(v, &at, row);
            int64_t seq = r->seq + (row - at.row);
            uint32_t run_left = at.row + r->n - row, patch_left = (k + 1) * patch - row;
            n = run_left < patch_left ? run_left : patch_left;
            add_rows(v, g, &arrived,
                     &(struct rows){step + (size_t)(row - k * patch) * g->row_floats, seq, row_time(v, r, seq),
                                    arrived_k, n, warm});
        }
    }
    send_group(v, g, arrived);
}

/* ---- families of byte streams: a step is a byte ------------------------------------------------------------------ */

/* Rows of the chosen bytes, `data` holding one of every byte: those chosen move together. Row k is about the byte
 * `ahead` of byte k. */
static void publish_bytes(struct view *v, struct group *g, float *data, uint32_t from, uint32_t to, uint32_t ahead)
{
    uint32_t every = v->plan->every[g->family];
    struct cursor at = {0};
    uint64_t arrived = 0;

    for (uint32_t k = from; k < to; k++) {
        if (!chosen(v, k, every))
            continue;
        const struct md_run *r = run_of(v, &at, k);
        int64_t seq = r->seq + (k - at.row) + ahead;
        float *row = data + (size_t)md_chosen(v->e->first_step, k, every) * g->row_floats;
        memmove(row, data + (size_t)k * g->row_floats, g->row_floats * sizeof *row);
        int64_t t = ahead && v->s->irregular ? time_ahead(r) : row_time(v, r, seq);
        add_rows(v, g, &arrived, &(struct rows){row, seq, t, r->arrived_ns, 1, warming(v, k)});
    }
    send_group(v, g, arrived);
}

static void publish_surprises(struct view *v, uint32_t from, uint32_t to)
{
    struct group g = group_of(v, IO_SURPRISE, v->plan->every[IO_SURPRISE], 1);

    g.m.ndim = g.row_floats = 1;
    publish_bytes(v, &g, md_batch_out(v->b, v->e->surprise), from, to, 0);
}

static void publish_next_bytes(struct view *v, uint32_t from, uint32_t to)
{
    struct group g = group_of(v, IO_PREDICTION, v->plan->every[IO_PREDICTION], 1);

    g.m.ndim = 2;
    g.m.shape[1] = g.row_floats = v->plan->info->vocab;
    publish_bytes(v, &g, md_batch_out(v->b, v->e->logits), from, to, 1);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void publish_event(struct view *v, const struct md_event *ev)
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

static void publish_alarm(struct view *v, bool start, uint32_t epoch, const char *reason, int64_t t_ns)
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
static void publish_notice(struct view *v, const char *event, const char *reason, uint32_t rows, int64_t seq, int64_t t_ns)
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
static void publish_notices(struct view *v, const struct md_run *r, int64_t seq, const struct ssm_notice *notices,
                            uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int64_t t_ns = row_time(v, r, seq + i);
        publish_notice(v, "flatline", NULL, notices[i].flatline, seq + i, t_ns);
        publish_notice(v, "level_shift", "up", notices[i].level_up, seq + i, t_ns);
        publish_notice(v, "level_shift", "down", notices[i].level_down, seq + i, t_ns);
    }
}

/* Every row is looked at, whatever is published. */
static void watch(struct view *v, const float *rows, uint32_t from, uint32_t to)
{
    uint32_t end = to * v->plan->info->patch;
    struct cursor at = {0};

    for (uint32_t row = from * v->plan->info->patch, n; row < end; row += n) {
        const struct md_run *r = run_of(v, &at, row);
        int64_t seq = r->seq + (row - at.row);
        uint32_t left = at.row + r->n - row;
        enum md_alarm_turn turn = MD_ALARM_NONE;
        n = left < end - row ? left : end - row;
        if (v->plan->alarm)
            n = md_alarm_rows(&v->s->voice.alarm, v->plan->policy.alarm_p, seq, rows + (size_t)row * 3 + 1, 3, n, &turn);
        publish_notices(v, r, seq, md_batch_notices(v->b, v->e->notices) + row, n);
        if (turn != MD_ALARM_NONE)
            publish_alarm(v, turn == MD_ALARM_START, v->e->epoch, NULL, row_time(v, r, seq + n - 1));
    }
}

/* An epoch's alarm does not outlive it. */
static void end_alarm(struct view *v, uint32_t epoch, const char *reason, int64_t t_ns)
{
    struct md_alarm *a = &v->s->voice.alarm;

    if (a->active)
        publish_alarm(v, false, epoch, reason, t_ns);
    *a = (struct md_alarm){0};
}

/* ---- records of bytes -------------------------------------------------------------------------------------------- */

/* Rows [from, to) are a record's; it may have begun before. */
static void grow_record(struct view *v, struct cursor *at, uint32_t from, uint32_t to)
{
    struct md_voice *voice = &v->s->voice;
    bool new = voice->record_bytes == 0 && to > from;

    voice->record_bytes += to - from;
    if (!new)
        return;
    const struct md_run *r = run_of(v, at, from);
    voice->record_seq = r->seq + (from - at->row);
    voice->record_t = row_time(v, r, voice->record_seq);
}

static void watch_record(struct view *v, int64_t span, float p)
{
    const struct md_voice *voice = &v->s->voice;
    struct md_alarm *a = &v->s->voice.alarm;
    enum md_alarm_turn turn = MD_ALARM_NONE;

    if (!v->plan->alarm)
        return;
    md_alarm_rows(a, v->plan->policy.alarm_p, voice->record_seq, &p, 1, 1, &turn);
    if (a->last == voice->record_seq)
        a->last += span - 1; /* its last byte */
    if (turn != MD_ALARM_NONE)
        publish_alarm(v, turn == MD_ALARM_START, v->e->epoch, NULL, voice->record_t);
    atomic_store_explicit(&v->s->seen.p, p, memory_order_relaxed);
}

/* The record that ended with row `last` of the entry. */
static void publish_record(struct view *v, struct group *g, uint64_t *arrived, const float *columns,
                           const struct md_run *r, int64_t last, bool warm)
{
    struct md_voice *voice = &v->s->voice;
    int64_t span = last - voice->record_seq + 1;
    uint32_t every = v->plan->every[IO_ANOMALY];

    if (every && ++voice->records % every == 0) {
        if (g->m.shape[0] == MD_MESSAGE_RECORDS)
            send_group(v, g, *arrived);
        add_rows(v, g, arrived, &(struct rows){columns, voice->record_seq, voice->record_t, r->arrived_ns, 1, warm});
        v->p->spans[g->m.shape[0] - 1] = (uint32_t)span;
        g->next_seq = last + 1;
    }
    watch_record(v, span, columns[1]);
    voice->record_bytes = 0;
}

static bool is_delimiter(const struct view *v, uint32_t row)
{
    return ((const int32_t *)v->b->tokens.p)[v->e->x + row] == v->s->delimiter;
}

/* Whose last byte is one of the rows [from, to). Alarms stand behind the message of their records. */
static void publish_records(struct view *v, uint32_t from, uint32_t to)
{
    const uint32_t *ends = (const uint32_t *)v->b->ends.p + v->e->ends;
    struct group g = group_of(v, IO_ANOMALY, 0, 0);
    struct cursor first = {0}, last = {0};
    uint64_t arrived = 0;

    g.m.ndim = 2;
    g.m.shape[1] = g.row_floats = 3;
    g.m.spans = v->p->spans;
    for (uint32_t i = 0; i < v->e->n_records && ends[i] < to; i++) {
        if (ends[i] < from)
            continue;
        grow_record(v, &first, from, ends[i] + 1);
        const struct md_run *r = run_of(v, &last, ends[i]);
        publish_record(v, &g, &arrived, md_batch_out(v->b, v->e->records) + 3 * (size_t)i, r,
                       r->seq + (ends[i] - last.row), warming(v, ends[i]));
        md_bump(&v->s->input->counters.records, 1);
        if (v->s->delimiter >= 0 && !is_delimiter(v, ends[i]))
            md_bump(&v->s->input->counters.records_cut, 1);
        from = ends[i] + 1;
    }
    send_group(v, &g, arrived);
    grow_record(v, &first, from, to);
}

/* At the end of an epoch the bytes of the unfinished record give no row. */
static void drop_record(struct view *v, int64_t *ret_tail)
{
    struct md_voice *voice = &v->s->voice;

    *ret_tail = (int64_t)voice->record_bytes;
    md_add(&v->s->input->counters.discarded[IO_R_TAIL], voice->record_bytes);
    voice->record_bytes = voice->records = 0;
}

/* ---- an entry ---------------------------------------------------------------------------------------------------- */

static void publish_anomalies(struct view *v, const float *joint, uint32_t from, uint32_t to)
{
    struct group g = group_of(v, IO_ANOMALY, 1, 1);

    if (joint && v->plan->every[IO_ANOMALY]) {
        g.m.ndim = 2;
        g.m.shape[1] = g.row_floats = 3;
        publish_samples(v, &g, joint, from, to);
    }
    if (v->plan->every[IO_CHANNEL_ANOMALY]) {
        g = group_of(v, IO_CHANNEL_ANOMALY, 1, 1);
        g.m.ndim = 3;
        g.m.shape[1] = v->s->channels;
        g.m.shape[2] = 3;
        g.row_floats = 3 * v->s->channels;
        publish_samples(v, &g, md_batch_out(v->b, v->e->anomaly), from, to);
    }
    if (joint)
        watch(v, joint, from, to);
}

static void publish_steps(struct view *v, const float *joint, uint32_t from, uint32_t to)
{
    if (from >= to)
        return;
    v->s->voice.epoch = v->e->epoch;
    if (v->e->surprise != SIZE_MAX && v->plan->every[IO_SURPRISE])
        publish_surprises(v, from, to);
    if (v->e->logits != SIZE_MAX && v->plan->every[IO_PREDICTION])
        publish_next_bytes(v, from, to);
    if (v->e->records != SIZE_MAX)
        publish_records(v, from, to);
    if (v->e->forecast != SIZE_MAX)
        publish_predictions(v, from, to);
    if (v->e->embedding != SIZE_MAX)
        publish_embeddings(v, from, to);
    if (v->e->anomaly != SIZE_MAX)
        publish_anomalies(v, joint, from, to);
    atomic_store_explicit(&v->s->seen.warm, !warming(v, to - 1), memory_order_relaxed);
    if (joint && v->plan->alarm)
        atomic_store_explicit(&v->s->seen.p, joint[((size_t)to * v->plan->info->patch - 1) * 3 + 1],
                              memory_order_relaxed);
}

static void publish_failure(struct view *v)
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
        drop_record(v, &(int64_t){0});
    ev.event = "reset";
    ev.epoch++;
    publish_event(v, &ev);
}

void md_publish_entry(struct md_publisher *p, const struct md_batch *b, const struct md_entry *e)
{
    struct io_stream *s = e->stream;
    struct view v = {p, b, e, s, s->plan, {0}};
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
            drop_record(&v, &ev->count);
        s->voice.epoch = ev->epoch;
        publish_event(&v, ev);
    }
    publish_steps(&v, joint, done, e->steps);
    if (e->failed)
        publish_failure(&v);
    atomic_fetch_sub_explicit(&s->in_flight, 1, memory_order_release);
}
