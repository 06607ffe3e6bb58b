/* course.c: from blocks to rows, one stream at a time. What the timeline says is done here: rows are staged, discards
 * counted and announced, slots reset, blocks held back for late ones. Engine thread.
 *
 * Trap: an entry belongs to one epoch. A reset that comes after rows ends the entry's share of the batch; the rest of
 * the block waits in course.mine for the next one. */
#include "daemon/course.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/cut.h"
#include "daemon/input.h"
#include "daemon/publisher.h"
#include "daemon/reorder.h"
#include "daemon/restore.h"

enum outcome { BLOCK_DONE, BLOCK_HELD, BLOCK_LEFT }; /* LEFT: the batch has no room for more of it */

static void event(struct md_batch *b, const struct md_entry *e, const struct md_event *what)
{
    const struct md_course *c = &e->stream->course;
    const struct md_timeline *t = &c->time;
    size_t i = md_arena_add(&b->events, 1, sizeof(struct md_event));
    struct md_event *to;

    if (strcmp(what->event, "gap") == 0)
        md_bump(&e->stream->input->counters.gaps, 1);
    if (i == SIZE_MAX) {
        md_add(&b->owner->publisher->notices_lost, 1);
        return;
    }
    to = md_batch_event(b, i);
    *to = *what;
    to->at = e->carried + e->rows;
    to->epoch = t->epoch;
    to->seq = t->next == IO_SEQ_NONE ? 0 : t->next;
    to->t_ns = c->rules.irregular ? t->last_t : md_timeline_ns(&c->rules, t->anchor_seq, t->anchor_t, to->seq);
}

static void plain_event(struct md_batch *b, const struct md_entry *e, const char *name)
{
    event(b, e, &(struct md_event){.event = name, .from = IO_SEQ_NONE, .to = IO_SEQ_NONE, .count = -1});
}

/* Said once the first block has its number, so that `start` tells the number and the time of the first row. */
static void greet(struct md_batch *b, const struct md_entry *e)
{
    struct md_course *c = &e->stream->course;

    if (!c->greeted)
        plain_event(b, e, c->resumed ? "restore" : "start");
    if (c->lost != IO_SEQ_NONE)
        event(b, e,
              &(struct md_event){.event = "gap", .reason = "restart", .from = c->lost, .to = IO_SEQ_NONE, .count = -1});
    c->greeted = true;
    c->resumed = false;
    c->lost = IO_SEQ_NONE;
}

/* An epoch is over; `tail` rows of its last patch gave no step. */
static void closing_event(struct md_batch *b, const struct md_entry *e, const char *name, const char *reason,
                          uint32_t tail)
{
    struct io_stream *s = e->stream;

    md_add(&s->input->counters.discarded[IO_R_TAIL], (uint64_t)tail * s->channels);
    event(b, e,
          &(struct md_event){
              .event = name, .reason = reason, .from = IO_SEQ_NONE, .to = IO_SEQ_NONE, .count = tail, .closes = true});
}

static void verdict_event(struct md_batch *b, const struct md_entry *e, const struct md_verdict *v, const char *name,
                          const char *reason)
{
    event(b, e,
          &(struct md_event){
              .event = name, .reason = reason, .from = v->from, .to = v->to, .count = v->count, .bridged = v->bridged});
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

/* The inbox has reserved the slots; the device may have no memory for them all the same. */
static int take_slots(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;
    uint32_t n = 0;

    c->slots = calloc(s->channels, sizeof *c->slots);
    while (c->slots && n < s->channels && !md_scheduler_heard(sch, ssm_slot_take(sch->engine, &c->slots[n])))
        n++;
    if (n == s->channels) {
        sch->spill.resident += n;
        return 0;
    }
    while (n > 0)
        ssm_slot_give(sch->engine, c->slots[--n]);
    free(c->slots);
    c->slots = NULL;
    return -ENOMEM;
}

/* What waits of a stream that can have no slots is discarded; it is tried again with its next block. *ret_lost: what
 * stands before that, a block without rows; *ret_end: its end was among it. */
static void discard_waiting(struct md_scheduler *sch, struct io_stream *s, enum io_reason why,
                            struct io_block *ret_lost, bool *ret_end)
{
    struct md_course *c = &s->course;
    uint32_t rows = 0;

    *ret_lost = (struct io_block){0};
    *ret_end = c->end_due;
    while (c->mine) {
        struct io_block *block = c->mine;
        rows += block->n - c->at;
        if (block->flags & IO_START)
            ret_lost->lost = (struct io_lost){0}; /* those of before have no numbers in what begins */
        struct io_lost more = {.rows = block->n - c->at};
        *(why == IO_R_MEMORY ? &more.memory : &more.streams) = more.rows;
        io_lost_add(&ret_lost->lost, &block->lost);
        io_lost_add(&ret_lost->lost, &more);
        ret_lost->flags |= block->flags;
        c->at = 0;
        *ret_end |= (block->flags & IO_END) != 0;
        md_add(&sch->publisher->notices_lost, (block->flags & MD_NOTE) != 0);
        c->mine = block->next;
        io_block_put(sch->inbox.pool, block);
    }
    md_add(&s->input->counters.discarded[why], (uint64_t)rows * s->channels);
    md_add(&s->seen.discarded, rows);
    if (!c->refused)
        md_publisher_notice(sch->publisher, s->id, sch->model,
                            atomic_load(&sch->failed) ? "device" : io_reason_name(why));
    c->refused = !*ret_end;
}

/* 1: it has ended. */
static int refuse_stream(struct md_scheduler *sch, struct io_stream *s)
{
    struct io_block lost;
    bool end;

    discard_waiting(sch, s, IO_R_MEMORY, &lost, &end);
    s->course.end_due = false;
    if (end)
        md_inbox_leave(&sch->inbox, s);
    else
        md_inbox_lost(&sch->inbox, s, &lost);
    return end;
}

void md_course_refuse(struct md_scheduler *sch, struct io_stream *s)
{
    struct io_block lost;
    bool end;

    discard_waiting(sch, s, IO_R_STREAMS, &lost, &end);
    s->course.end_due = end && s->course.away; /* which needs no slots */
    if (end && !s->course.away) {
        md_inbox_leave(&sch->inbox, s);
        return;
    }
    md_inbox_lost(&sch->inbox, s, &lost);
    md_inbox_return(&sch->inbox, &s, 1);
}

/* Runs of `rows` rows. */
static int keep_runs(struct md_course *c, const struct md_run *runs, uint32_t n, uint64_t rows)
{
    struct md_run *to;

    for (uint32_t i = 0; i < n; i++)
        rows -= runs[i].n;
    if (rows)
        return -EBADMSG;
    to = n > c->cap_runs ? realloc(c->runs, n * sizeof *to) : c->runs;
    if (n && !to)
        return -ENOMEM;
    c->runs = to;
    c->cap_runs = n > c->cap_runs ? n : c->cap_runs;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = runs[i];
        to[i].arrived_ns = (uint64_t)md_now_ns(); /* the clock of then is gone */
    }
    c->n_runs = n;
    return 0;
}

/* Slots, timeline and unfinished patch from the snapshot. */
static int resume_stream(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;
    char reterr[SSM_ERR] = "";
    struct md_saved_parts parts;
    int r = md_restored_parts(&c->restored, &parts);
    bool all_exact = r == 0 && !c->restored.inexact && !c->restored.saved->inexact;

    for (uint32_t i = 0; i < s->channels && r == 0 && c->restored.saved->slot_bytes > 0; i++) {
        bool exact = false;
        r = md_scheduler_heard(sch, ssm_slot_restore(sch->engine, c->slots[i], parts.slots + i * parts.slot_stride,
                                                     (size_t)c->restored.saved->slot_bytes, &exact, reterr));
        all_exact &= exact;
    }
    if (r == 0)
        r = keep_runs(c, parts.runs, c->restored.saved->n_runs, c->restored.saved->time.rows % s->plan->info->patch);
    if (r == 0) {
        c->time = c->restored.saved->time;
        c->inexact = !all_exact;
        return 0;
    }
    if (!reterr[0])
        snprintf(reterr, sizeof reterr, "%s", strerror(-r));
    md_log_stream(MD_WARN, s->id, reterr, "cannot go on from the snapshot: %s", reterr);
    for (uint32_t i = 0; i < s->channels; i++)
        ssm_slot_reset(sch->engine, c->slots[i]);
    return r;
}

static void begin_stream(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;

    c->n_runs = 0;
    c->inexact = false;
    c->resumed = c->restored.open && resume_stream(sch, s) == 0;
    if (c->restored.open && !c->resumed)
        c->lost = c->time.next;
    if (!c->resumed)
        md_timeline_start(&c->time, c->returning);
    md_restored_drop(&c->restored);
    c->returning = true;
}

static void list_add(struct md_stream_list *l, struct io_stream *s)
{
    s->course.prev_open = NULL;
    s->course.next_open = l->head;
    *(l->head ? &l->head->course.prev_open : &l->tail) = s;
    l->head = s;
}

static void list_remove(struct md_stream_list *l, struct io_stream *s)
{
    const struct md_course *c = &s->course;

    *(c->prev_open ? &c->prev_open->course.next_open : &l->head) = c->next_open;
    *(c->next_open ? &c->next_open->course.prev_open : &l->tail) = c->prev_open;
}

int md_course_open(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;

    md_cut_touch(sch, s); /* it may have waited since before the line */
    if (take_slots(sch, s))
        return -ENOMEM;
    c->refused = false;
    begin_stream(sch, s);
    c->silent = c->greeted = false; /* an end may be due already */
    c->last_ns = c->since_ns = md_now_ns();
    list_add(&sch->open, s);
    atomic_store_explicit(&s->seen.waits, false, memory_order_relaxed);
    atomic_store_explicit(&s->seen.open, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&sch->open_streams, 1, memory_order_relaxed);
    md_bump(&s->input->counters.starts, 1);
    sch->next_sweep_ns = 0;
    return 0;
}

void md_course_ran(struct md_scheduler *sch, struct io_stream *s)
{
    if (sch->open.head == s)
        return;
    md_cut_leaves(sch, s);
    list_remove(&sch->open, s);
    list_add(&sch->open, s);
}

static void give_slots(struct md_scheduler *sch, struct io_stream *s)
{
    if (!s->course.slots)
        return;
    for (uint32_t i = 0; i < s->channels; i++)
        ssm_slot_give(sch->engine, s->course.slots[i]);
    sch->spill.resident -= s->channels;
    free(s->course.slots);
    s->course.slots = NULL;
}

void md_course_away(struct md_scheduler *sch, struct io_stream *s, uint32_t *cells)
{
    md_cut_touch(sch, s); /* in the other list no sweep under way comes by */
    md_cut_leaves(sch, s);
    list_remove(&sch->open, s);
    list_add(&sch->away, s);
    s->course.cells = cells;
    s->course.away = true;
    give_slots(sch, s);
    atomic_store_explicit(&s->seen.away, true, memory_order_relaxed);
}

void md_course_close(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_course *c = &s->course;

    md_cut_leaves(sch, s);
    list_remove(c->slots ? &sch->open : &sch->away, s);
    c->n_runs = 0;
    c->end_due = false;
    pthread_mutex_lock(&s->input->registry->lock); /* from here on that is whose lock guards it */
    give_slots(sch, s);
    md_spill_drop(sch, s);
    c->away = false;
    pthread_mutex_unlock(&s->input->registry->lock);
    atomic_store_explicit(&s->seen.away, false, memory_order_relaxed);
    atomic_fetch_sub_explicit(&sch->open_streams, 1, memory_order_relaxed);
    md_bump(&s->input->counters.ends, 1);
    md_inbox_leave(&sch->inbox, s);
}

static void end_stream(struct md_batch *b, struct md_entry *e, const char *reason)
{
    closing_event(b, e, "end", reason, (e->carried + e->rows) % e->stream->plan->info->patch);
    e->closing = true;
}

static void reset_slots(struct md_scheduler *sch, struct io_stream *s)
{
    for (uint32_t i = 0; s->course.slots && i < s->channels; i++)
        ssm_slot_reset(sch->engine, s->course.slots[i]);
    s->course.n_runs = 0;
    s->course.inexact = false;
}

static void reset_stream(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e, enum md_reset why)
{
    struct io_stream *s = e->stream;
    uint32_t tail = e->carried;

    reset_slots(sch, s);
    md_bump(&s->input->counters.resets[why], 1);
    for (size_t i = e->first_event; i < b->events.n; i++)
        md_batch_event(b, i)->at = 0; /* no rows stand before them in this epoch's entry */
    e->epoch = s->course.time.epoch;
    e->carried = e->n_runs = 0;
    b->runs.n = e->first_run; /* runs of an entry follow each other */
    e->first_step = 0;
    closing_event(b, e, "reset", md_reset_name(why), tail);
}

void md_course_fail(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e, enum md_reset why,
                    const char *reason)
{
    struct io_stream *s = e->stream;

    reset_slots(sch, s);
    md_bump(&s->input->counters.resets[why], 1);
    md_add(&s->input->counters.discarded[IO_R_RESET], (uint64_t)(e->carried + e->rows) * s->channels);
    md_timeline_reset(&s->course.time);
    e->steps = 0;
    e->failed = reason;
}

/* ---- one block --------------------------------------------------------------------------------------------------- */

/* How many more rows this entry may take: a bounded share of the batch, in rows and in results. */
static uint32_t room(const struct md_entry *e)
{
    const struct md_plan *p = e->stream->plan;
    size_t C = e->stream->channels, patch = p->info->patch;
    size_t per_step = C * ((p->every[IO_PREDICTION] ? (size_t)p->horizon * p->n_q / p->every[IO_PREDICTION] : 0) +
                           (p->every[IO_EMBEDDING] ? p->info->embedding / p->every[IO_EMBEDDING] : 0) +
                           (p->anomaly_every ? 3 * patch / p->anomaly_every : 0)) +
                      (p->joint ? 3 * patch : 0) + 1;
    size_t rows = p->info->bytes ? MD_LOGITS_MAX / p->info->vocab : MD_OUT_MAX / per_step * patch;

    if (rows > MD_ROWS_MAX)
        rows = MD_ROWS_MAX;
    if (rows < patch)
        rows = patch;
    return e->rows < rows ? (uint32_t)(rows - e->rows) : 0;
}

static void count_discard(struct md_batch *b, const struct md_entry *e, const struct md_verdict *v)
{
    struct io_stream *s = e->stream;

    md_add(&s->input->counters.discarded[v->why], (uint64_t)v->n * s->channels);
    md_add(&s->seen.discarded, v->n);
    verdict_event(b, e, v, "drop", io_reason_name(v->why));
}

/* "2026-01-31T12:00:00Z" */
static const char *utc(int64_t t_ns, char text[32])
{
    time_t t = (time_t)(t_ns / 1000000000);
    struct tm tm;

    text[0] = '\0';
    if (gmtime_r(&t, &tm))
        strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}

/* One number or time far ahead makes all rows after it old ones, until they have come as far: whoever looks for them
 * has to find that one. */
static void say_old(const struct io_stream *s, struct io_block *block, const struct md_verdict *v)
{
    const struct md_course *c = &s->course;
    const struct md_timeline *t = &c->time;
    const char *why = io_reason_name(v->why), *input = s->input->conf->id;
    int64_t newest = t->last_t, t_ns = IO_T_NONE;
    char when[32];

    if (!c->rules.irregular) {
        newest = md_timeline_ns(&c->rules, t->anchor_seq, t->anchor_t, t->next - 1);
        t_ns = md_timeline_ns(&c->rules, t->anchor_seq, t->anchor_t, v->seq);
    } else if (block->timed) {
        t_ns = io_block_times(block)[c->at];
    }
    if (newest == IO_T_NONE || t_ns == IO_T_NONE)
        md_log_stream(MD_WARN, s->id, input, "input %s: %s, dropped: row %" PRId64 ", which comes after row %" PRId64,
                      input, why, v->seq, t->next - 1);
    else
        md_log_stream(MD_WARN, s->id, input,
                      "input %s: %s, dropped: row %" PRId64 " of t_ns %" PRId64 ", which comes after row %" PRId64
                      " of t_ns %" PRId64 ", %s",
                      input, why, v->seq, t_ns, t->next - 1, newest, utc(newest, when));
}

/* Takes rows; where memory is out they are discarded, counted, and a hole for the timeline. */
static uint32_t take(struct md_batch *b, struct md_entry *e, struct io_block *block, struct md_verdict *v)
{
    struct io_stream *s = e->stream;
    uint32_t missing = 0, left = room(e), n = v->n < left ? v->n : left;

    if (n > 0 && md_batch_rows(b, e, block, s->course.at, n, &missing)) {
        v->why = IO_R_MEMORY;
        v->from = v->seq;
        v->to = v->seq + n - 1;
        v->count = v->n = n;
        count_discard(b, e, v);
        return n;
    }
    md_bump(&s->input->counters.accepted, (uint64_t)n * s->channels);
    md_bump(&s->seen.rows, n);
    if (missing)
        md_add(&s->input->counters.discarded[IO_R_NAN], missing);
    return n;
}

static enum outcome run_block(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e, struct io_block *block)
{
    struct io_stream *s = e->stream;
    struct md_course *c = &s->course;
    struct md_verdict v;

    for (;;) {
        uint32_t n = 0;
        md_timeline_next(&c->time, &c->rules, block, c->at, e->rows == 0, &v);
        greet(b, e);
        if (v.clock)
            md_bump(&s->input->counters.clock, 1);
        switch (v.kind) {
        case MD_ROWS:
            n = take(b, e, block, &v);
            if (n == 0)
                return BLOCK_LEFT;
            break;
        case MD_DISCARD:
            count_discard(b, e, &v);
            if (v.why == IO_R_LATE || v.why == IO_R_DUPLICATE)
                say_old(s, block, &v);
            n = v.n;
            break;
        case MD_EVENT:
            verdict_event(b, e, &v, v.event, v.reason);
            break;
        case MD_RESET:
            reset_stream(sch, b, e, v.reset);
            break;
        case MD_STOP:
            return BLOCK_LEFT;
        case MD_HOLD:
            return BLOCK_HELD;
        case MD_DONE:
            return BLOCK_DONE;
        }
        c->at += n;
    }
}

static void heard(struct md_batch *b, struct md_entry *e, const struct io_block *block)
{
    struct md_course *c = &e->stream->course;

    if ((int64_t)block->arrived_ns > c->last_ns)
        c->last_ns = (int64_t)block->arrived_ns;
    if (c->silent && block->n > 0) {
        c->silent = false;
        plain_event(b, e, "resumed");
    }
}

/* What a block of its kind says, after what stands before it as before any other: rows that were dropped, flags. */
static void note(struct md_batch *b, struct md_entry *e, struct io_block *block)
{
    const struct md_note *n = (const struct md_note *)(const void *)block->data;

    event(b, e,
          &(struct md_event){
              .event = n->event, .reason = n->reason[0] ? n->reason : NULL, .from = n->from, .to = n->to, .count = -1});
}

/* The first block is used up. Returns true where the stream ends here. */
static bool drop_first(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s)
{
    struct md_course *c = &s->course;
    struct io_block *block = c->mine;
    bool end = block->flags & IO_END;

    c->at = 0;
    if (block->seq != IO_SEQ_NONE && block->n > 0)
        md_trail_add(&c->trail, block, block->n);
    if (end && c->held) { /* what waits comes before the end */
        block->n = 0;
        block->lost = (struct io_lost){0};
        return false;
    }
    c->mine = block->next;
    if (block->flags & MD_NOTE) {
        block->next = b->spent;
        b->spent = block;
    } else {
        io_block_put(sch->inbox.pool, block);
    }
    return end;
}

static bool only_the_end_is_left(const struct md_course *c)
{
    return c->mine ? c->mine->n == 0 && c->mine->flags & IO_END : c->end_due;
}

/* Judges blocks until none is left, the entry is full, or the stream ends (true). */
static bool run_blocks(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e)
{
    struct io_stream *s = e->stream;
    struct md_course *c = &s->course;

    for (;;) {
        struct io_block *block;
        enum outcome done;
        md_reorder_release(sch, s, only_the_end_is_left(c));
        block = c->mine;
        if (!block)
            return c->end_due;
        heard(b, e, block);
        done = run_block(sch, b, e, block);
        if (done == BLOCK_DONE && block->flags & MD_NOTE)
            note(b, e, block);
        if (done == BLOCK_LEFT)
            return false;
        if (done == BLOCK_HELD)
            md_reorder_hold(sch, s);
        else if (drop_first(sch, b, s))
            return true;
    }
}

static void show(struct io_stream *s)
{
    const struct md_course *c = &s->course;

    atomic_store_explicit(&s->seen.next, c->time.next, memory_order_relaxed);
    atomic_store_explicit(&s->seen.epoch, c->time.epoch, memory_order_relaxed);
    atomic_store_explicit(&s->seen.last_ns, c->last_ns, memory_order_relaxed);
}

static void hand_over(struct md_entry *e)
{
    e->inexact = e->stream->course.inexact;
    atomic_fetch_add_explicit(&e->stream->in_flight, 1, memory_order_relaxed);
    show(e->stream);
}

static void finish(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e)
{
    if (md_batch_end(b, e))
        md_course_fail(sch, b, e, MD_RESET_DEVICE, "memory");
    hand_over(e);
}

int md_course_back(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s, const uint8_t *bytes,
                   size_t stride)
{
    struct md_course *c = &s->course;
    char reterr[SSM_ERR] = "";
    struct md_entry *e;
    int r = bytes || !c->cells ? 0 : -EIO;
    bool exact = true;

    md_cut_touch(sch, s); /* as in md_course_away() */
    if (take_slots(sch, s))
        return -ENOMEM;
    md_cut_leaves(sch, s);
    list_remove(&sch->away, s);
    list_add(&sch->open, s);
    c->away = c->refused = false;
    c->since_ns = md_now_ns();
    atomic_store_explicit(&s->seen.away, false, memory_order_relaxed);
    for (uint32_t i = 0; c->cells && i < s->channels && r == 0; i++) {
        r = md_scheduler_heard(sch,
                               ssm_slot_restore(sch->engine, c->slots[i], bytes + i * stride, stride, &exact, reterr));
        c->inexact |= !exact;
    }
    if (r == 0)
        return 0;
    if (reterr[0])
        md_log_stream(MD_ERROR, s->id, reterr, "its state on the disk is not what was written, it begins anew: %s",
                      reterr);
    if (md_batch_begin(b, s, &e) == 0) {
        md_course_fail(sch, b, e, MD_RESET_SPILL, "spill");
        hand_over(e);
    } else {
        reset_slots(sch, s);
        md_timeline_reset(&c->time);
    }
    return r == -ENOMEM ? -EIO : r;
}

/* A reset that was asked for stands before all rows that are not judged yet, queued ones too, as a snapshot has it
 * (cut.c): so it is not tied to a block. */
static void take_reset(struct io_stream *s)
{
    if (atomic_load_explicit(&s->queue.reset, memory_order_relaxed) &&
        atomic_exchange_explicit(&s->queue.reset, false, memory_order_relaxed) && s->course.time.rows > 0)
        s->course.time.reset = MD_RESET_SENDER;
}

int md_course_run(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s)
{
    struct md_entry *e;
    bool end;

    md_cut_touch(sch, s);
    if (md_spill_parks(sch, s))
        return 1;
    if (!md_course_is_open(&s->course) && md_course_open(sch, s))
        return refuse_stream(sch, s);
    take_reset(s);
    if (md_batch_begin(b, s, &e))
        return -ENOMEM;
    end = run_blocks(sch, b, e);
    greet(b, e);
    if (end)
        end_stream(b, e, NULL);
    finish(sch, b, e);
    return e->closing;
}

int md_course_anew(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s)
{
    struct md_entry *e;

    if (md_batch_begin(b, s, &e))
        return -ENOMEM;
    md_bump(&s->input->counters.resets[MD_RESET_MODEL], 1);
    closing_event(b, e, "reset", md_reset_name(MD_RESET_MODEL), s->course.anew - 1);
    s->course.anew = 0;
    finish(sch, b, e);
    return 0;
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

/* An entry without rows for a stream that rests: it ends by itself, or is silent. */
static int announce(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s, bool idle)
{
    struct md_entry *e;

    md_cut_touch(sch, s);
    if (md_batch_begin(b, s, &e))
        return -ENOMEM;
    if (idle) {
        end_stream(b, e, "idle");
    } else {
        s->course.silent = true;
        plain_event(b, e, "silent");
    }
    finish(sch, b, e);
    return e->closing;
}

int64_t md_course_timers(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s, int64_t now_ns)
{
    const struct md_course *c = &s->course;
    const struct md_policy *p = &s->plan->policy;
    int64_t silent = p->silence_ns < 0 || c->silent ? INT64_MAX : md_add_sat(c->last_ns, p->silence_ns);
    int64_t held = sch->draining && c->held ? 0 : md_reorder_due(c);
    int64_t idle = p->idle_ns < 0 ? INT64_MAX : md_add_sat(c->last_ns, p->idle_ns);
    int64_t due;
    int closing;

    if (c->held && idle < held)
        idle = held; /* what waits comes before the end */
    due = silent < idle ? silent : idle;
    due = due < held ? due : held;
    if (due > now_ns)
        return due;
    if (!md_inbox_claim(&sch->inbox, s))
        return now_ns; /* it is ready: a batch will see to it */
    closing = held <= now_ns ? md_course_run(sch, b, s) : announce(sch, b, s, idle <= now_ns);
    if (closing <= 0)
        md_inbox_return(&sch->inbox, &s, 1);
    return now_ns;
}
