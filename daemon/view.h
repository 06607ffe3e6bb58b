/* view.h: what the two halves of making messages share: an entry looked at row by row, and rows on their way into a
 * message. Publisher thread. */
#ifndef MD_VIEW_H
#define MD_VIEW_H

#include "daemon/publisher.h"

/* A walk along the rows of an entry. */
struct md_cursor {
    uint32_t run, row; /* the run, and the row at which it begins */
};

struct md_view {
    struct md_publisher *p;
    const struct md_batch *b;
    const struct md_entry *e;
    struct io_stream *s;
    const struct md_plan *plan;
    struct io_message m; /* what all messages of the entry have in common */
};

/* Rows that will make one message. */
struct md_group {
    enum io_family family;
    int64_t stride, next_seq;
    uint32_t row_floats;
    bool warm;
    struct io_message m;
};

struct md_rows { /* n rows that follow each other */
    const float *data;
    int64_t seq, t_ns;
    uint64_t arrived_ns;
    uint32_t n;
    bool warm;
};

static inline const struct md_run *md_view_run(const struct md_view *v, struct md_cursor *at, uint32_t row)
{
    const struct md_run *r = md_batch_run(v->b, v->e->first_run + at->run);

    while (row >= at->row + r->n) {
        at->row += r->n;
        at->run++;
        r++;
    }
    return r;
}

static inline int64_t md_view_time(const struct md_view *v, const struct md_run *r, int64_t seq)
{
    return md_timeline_ns(&v->s->course.rules, r->anchor_seq, r->anchor_t, seq);
}

static inline bool md_view_warming(const struct md_view *v, uint32_t step)
{
    const uint8_t *w = (const uint8_t *)v->b->warm.p + v->e->warm + step;
    bool any = false;

    for (uint32_t c = 0; c < v->s->channels; c++)
        any |= w[(size_t)c * v->e->steps];
    return any;
}

static inline bool md_view_chosen(const struct md_view *v, uint32_t step, uint32_t every)
{
    return every && (v->e->first_step + step + 1) % every == 0;
}

/* Of the sample ahead of a run's row, in an irregular stream. */
static inline int64_t md_view_ahead(const struct md_run *r)
{
    return r->interval && r->anchor_t != IO_T_NONE ? md_add_sat(r->anchor_t, r->interval) : IO_T_NONE;
}

static inline struct md_group md_group_of(const struct md_view *v, enum io_family f, int64_t stride, int64_t span)
{
    struct md_group g = {.family = f, .stride = stride, .m = v->m};

    g.m.family = f;
    g.m.stride = stride;
    g.m.span = span;
    return g;
}

/* Rows join the group's message, which is sent first where they do not fit it; *arrived_ns is that of its first row. */
void md_group_add(struct md_view *v, struct md_group *g, uint64_t *arrived_ns, const struct md_rows *rows);
void md_group_send(struct md_view *v, struct md_group *g, uint64_t arrived_ns);

/* The stream's alarm starts, or has ended. */
void md_publish_alarm(struct md_view *v, bool start, uint32_t epoch, const char *reason, int64_t t_ns);

/* messages_bytes.c: of a byte stream, steps [from, to) of the entry; and what an epoch's end leaves of a record. */
void md_publish_bytes(struct md_view *v, uint32_t from, uint32_t to);
void md_drop_record(struct md_view *v, int64_t *ret_tail);

#endif
