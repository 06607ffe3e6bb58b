/* reorder.c: late: reorder. A block whose predecessors are missing waits for them, a second at most, and no more rows
 * of a stream than its queue may hold. Engine thread. */
#include "daemon/reorder.h"

#include "daemon/input.h"

static const int64_t hold_ns = 1000000000;

int64_t md_reorder_due(const struct md_course *c)
{
    return c->held ? (int64_t)c->held->arrived_ns + hold_ns : INT64_MAX;
}

void md_reorder_hold(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;
    struct io_block *b = c->mine, **at = &c->held;

    c->mine = b->next;
    while (*at && (*at)->seq <= b->seq)
        at = &(*at)->next;
    b->next = *at;
    *at = b;
    if (c->held_rows == 0)
        sch->holding++;
    c->held_rows += b->n;
    if (sch->next_sweep_ns > md_reorder_due(c))
        sch->next_sweep_ns = md_reorder_due(c);
}

bool md_reorder_release(struct md_scheduler *sch, struct io_stream *s, bool force)
{
    struct md_course *c = &s->course;
    struct io_block *b = c->held;

    if (!b || c->at > 0 ||
        !(force || sch->draining || b->seq <= c->time.next || c->held_rows > s->input->conf->queue ||
          md_now_ns() >= md_reorder_due(c)))
        return false;
    c->held = b->next;
    c->held_rows -= b->n;
    if (c->held_rows == 0)
        sch->holding--;
    b->flags |= MD_NO_WAIT;
    b->next = c->mine;
    if (!c->mine)
        c->mine_tail = b;
    c->mine = b;
    return true;
}
