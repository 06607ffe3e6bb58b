/* messages_bytes.c: see messages.c: what is said of byte streams, whose steps are bytes and whose anomaly rows are
 * records. Trap: a record may have begun in an earlier entry, or before a restart; where, the stream's voice knows. */
#include <string.h>

#include "daemon/input.h"
#include "daemon/view.h"

/* Rows of the chosen bytes, `data` holding one of every byte: those chosen move together. Row k is about the byte
 * `ahead` of byte k. */
static void publish_bytes(struct md_view *v, struct md_group *g, float *data, uint32_t from, uint32_t to,
                          uint32_t ahead)
{
    uint32_t every = v->plan->every[g->family];
    struct md_cursor at = {0};
    uint64_t arrived = 0;

    for (uint32_t k = from; k < to; k++) {
        if (!md_view_chosen(v, k, every))
            continue;
        const struct md_run *r = md_view_run(v, &at, k);
        int64_t seq = r->seq + (k - at.row) + ahead;
        float *row = data + (size_t)md_chosen(v->e->first_step, k, every) * g->row_floats;
        memmove(row, data + (size_t)k * g->row_floats, g->row_floats * sizeof *row);
        int64_t t = ahead && v->s->irregular ? md_view_ahead(r) : md_view_time(v, r, seq);
        md_group_add(v, g, &arrived, &(struct md_rows){row, seq, t, r->arrived_ns, 1, md_view_warming(v, k)});
    }
    md_group_send(v, g, arrived);
}

static void publish_surprises(struct md_view *v, uint32_t from, uint32_t to)
{
    struct md_group g = md_group_of(v, IO_SURPRISE, v->plan->every[IO_SURPRISE], 1);

    g.m.ndim = g.row_floats = 1;
    publish_bytes(v, &g, md_batch_out(v->b, v->e->surprise), from, to, 0);
}

static void publish_next_bytes(struct md_view *v, uint32_t from, uint32_t to)
{
    struct md_group g = md_group_of(v, IO_PREDICTION, v->plan->every[IO_PREDICTION], 1);

    g.m.ndim = 2;
    g.m.shape[1] = g.row_floats = v->plan->info->vocab;
    publish_bytes(v, &g, md_batch_out(v->b, v->e->logits), from, to, 1);
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

/* Rows [from, to) are a record's; it may have begun before. */
static void grow_record(struct md_view *v, struct md_cursor *at, uint32_t from, uint32_t to)
{
    struct md_voice *voice = &v->s->voice;
    bool new = voice->record_bytes == 0 && to > from;

    voice->record_bytes += to - from;
    if (!new)
        return;
    const struct md_run *r = md_view_run(v, at, from);
    voice->record_seq = r->seq + (from - at->row);
    voice->record_t = md_view_time(v, r, voice->record_seq);
}

static void watch_record(struct md_view *v, int64_t span, float p)
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
        md_publish_alarm(v, turn == MD_ALARM_START, v->e->epoch, NULL, voice->record_t);
    atomic_store_explicit(&v->s->seen.p, p, memory_order_relaxed);
}

/* The record that ended with row `last` of the entry. */
static void publish_record(struct md_view *v, struct md_group *g, uint64_t *arrived, const float *columns,
                           const struct md_run *r, int64_t last, bool warm)
{
    struct md_voice *voice = &v->s->voice;
    int64_t span = last - voice->record_seq + 1;
    uint32_t every = v->plan->every[IO_ANOMALY];

    if (every && ++voice->records % every == 0) {
        if (g->m.shape[0] == MD_MESSAGE_RECORDS)
            md_group_send(v, g, *arrived);
        md_group_add(v, g, arrived,
                     &(struct md_rows){columns, voice->record_seq, voice->record_t, r->arrived_ns, 1, warm});
        v->p->spans[g->m.shape[0] - 1] = (uint32_t)span;
        g->next_seq = last + 1;
    }
    watch_record(v, span, columns[1]);
    voice->record_bytes = 0;
}

static bool is_delimiter(const struct md_view *v, uint32_t row)
{
    return ((const int32_t *)v->b->tokens.p)[v->e->x + row] == v->s->delimiter;
}

/* Whose last byte is one of the rows [from, to). Alarms stand behind the message of their records. */
static void publish_records(struct md_view *v, uint32_t from, uint32_t to)
{
    const uint32_t *ends = (const uint32_t *)v->b->ends.p + v->e->ends;
    struct md_group g = md_group_of(v, IO_ANOMALY, 0, 0);
    struct md_cursor first = {0}, last = {0};
    uint64_t arrived = 0;

    g.m.ndim = 2;
    g.m.shape[1] = g.row_floats = 3;
    g.m.spans = v->p->spans;
    for (uint32_t i = 0; i < v->e->n_records && ends[i] < to; i++) {
        if (ends[i] < from)
            continue;
        grow_record(v, &first, from, ends[i] + 1);
        const struct md_run *r = md_view_run(v, &last, ends[i]);
        publish_record(v, &g, &arrived, md_batch_out(v->b, v->e->records) + 3 * (size_t)i, r,
                       r->seq + (ends[i] - last.row), md_view_warming(v, ends[i]));
        md_bump(&v->s->input->counters.records, 1);
        if (v->s->delimiter >= 0 && !is_delimiter(v, ends[i]))
            md_bump(&v->s->input->counters.records_cut, 1);
        from = ends[i] + 1;
    }
    md_group_send(v, &g, arrived);
    grow_record(v, &first, from, to);
}

/* At the end of an epoch the bytes of the unfinished record give no row. */
void md_drop_record(struct md_view *v, int64_t *ret_tail)
{
    struct md_voice *voice = &v->s->voice;

    *ret_tail = (int64_t)voice->record_bytes;
    md_add(&v->s->input->counters.discarded[IO_R_TAIL], voice->record_bytes);
    voice->record_bytes = voice->records = 0;
}

void md_publish_bytes(struct md_view *v, uint32_t from, uint32_t to)
{
    if (v->plan->every[IO_SURPRISE])
        publish_surprises(v, from, to);
    if (v->plan->every[IO_PREDICTION])
        publish_next_bytes(v, from, to);
    publish_records(v, from, to);
}
