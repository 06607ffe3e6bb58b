/* timeline.c: the rules of time. Runs on the engine thread that owns the stream; everything here is a function of the
 * stream's own blocks, in their order, so outputs cannot depend on pace or on neighbours.
 *
 * Trap: senders may claim any number and any time. Sums saturate, and numbers beyond ±2^61 are refused, so that no
 * difference of two accepted ones overflows. */
#include "daemon/timeline.h"

#include <math.h>
#include <string.h>

static const int64_t seq_limit = INT64_C(1) << 61;
static const int64_t dt_limit = INT64_C(1) << 55; /* ticks told to the model at once: 416 days in ns */

const char *md_reset_name(enum md_reset r)
{
    static const char *const names[MD_RESETS] = {"", "gap", "nan", "start", "sender", "device", "model", "spill"};
    return names[r];
}

void md_timeline_start(struct md_timeline *t, bool returning)
{
    int64_t next = returning ? t->next : IO_SEQ_NONE;
    uint32_t epoch = returning ? t->epoch + 1 : 0;
    memset(t, 0, sizeof *t);
    t->next = next;
    t->returned = returning;
    t->epoch = epoch;
    t->last_t = t->anchor_t = IO_T_NONE;
}

void md_timeline_reset(struct md_timeline *t)
{
    t->epoch++;
    t->rows = 0;
    t->owed = 0;
    t->reset = MD_RESET_NONE;
}

int64_t md_timeline_ns(const struct md_time_rules *r, int64_t anchor_seq, int64_t anchor_t, int64_t seq)
{
    if (anchor_t == IO_T_NONE || seq == anchor_seq) {
        return anchor_t;
    }
    return r->rate.num > 0 ? md_add_sat(anchor_t, md_rate_ns(r->rate, seq - anchor_seq)) : IO_T_NONE;
}

static void remember_hole(struct md_timeline *t, int64_t from, int64_t to)
{
    if (t->n_holes == MD_HOLES) {
        memmove(t->holes, t->holes + 1, (MD_HOLES - 1) * sizeof t->holes[0]);
        t->n_holes--;
    }
    t->holes[t->n_holes].from = from;
    t->holes[t->n_holes++].to = to;
}

/* The sender says: a new beginning. Numbers and times of before mean nothing any more. */
static void renumber(struct md_timeline *t, struct io_block *b)
{
    if (b->seq == IO_SEQ_NONE) {
        b->seq = b->lost.rows; /* dropped rows keep their numbers */
    }
    t->next = b->seq - b->lost.rows;
    t->n_holes = 0;
    t->owed = 0;
    t->last_t = t->anchor_t = IO_T_NONE;
}

/* A given time moves the anchor only where it is off by more than a quarter sample: rounded or slightly jittering times
 * do not make a row's t_ns depend on how messages were cut, and a drifting clock is still followed. */
static void anchor(struct md_timeline *t, const struct md_time_rules *r, int64_t seq, int64_t t_ns)
{
    if (t->anchor_t != IO_T_NONE && r->rate.num > 0) {
        int64_t off = md_sub_sat(t_ns, md_timeline_ns(r, t->anchor_seq, t->anchor_t, seq));
        if (off < 0) {
            off = -off;
        }
        if (off <= md_rate_ns(r->rate, 1) / 4) {
            return;
        }
    }
    t->anchor_seq = seq;
    t->anchor_t = t_ns;
}

/* Gives the block's first row its number, once per block (its t_ns is used up). Returns true where seq and t_ns
 * disagree. */
static bool number(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b)
{
    int64_t t_ns = r->irregular ? IO_T_NONE : b->t_ns;
    bool given = b->seq != IO_SEQ_NONE, clock = false;
    int64_t off = 0; /* whole samples that t_ns is ahead of the next row's time */

    if (t->next == IO_SEQ_NONE || (t->returned && given)) {
        t->next = given ? b->seq : 0;
    }
    t->returned = false;
    bool judge = t_ns != IO_T_NONE && t->anchor_t != IO_T_NONE && r->rate.num > 0;
    if (judge) {
        off = md_rate_rows(r->rate, md_sub_sat(t_ns, md_timeline_ns(r, t->anchor_seq, t->anchor_t, t->next)));
        off = off > seq_limit ? seq_limit : off < -seq_limit ? -seq_limit : off;
    }
    if (given) {
        clock = judge && (off - (b->seq - t->next) > 1 || off - (b->seq - t->next) < -1);
    } else {
        b->seq = t->next + (judge ? off : b->lost.rows);
    }
    if (t_ns != IO_T_NONE) {
        anchor(t, r, b->seq, t_ns);
    }
    b->t_ns = IO_T_NONE;
    return clock;
}

static bool row_missing(const struct io_block *b, uint32_t row)
{
    size_t first = (size_t)row * b->channels;
    for (size_t i = first; i < first + b->channels; i++) {
        if (b->type == IO_F32 ? !isfinite(((const float *)(const void *)b->data)[i])
                              : b->type == IO_F64 && !isfinite(((const double *)(const void *)b->data)[i])) {
            return true;
        }
    }
    return false;
}

static void discard(struct md_verdict *v, enum io_reason why, uint32_t n)
{
    v->kind = MD_DISCARD;
    v->why = why;
    v->n = n;
    v->from = v->seq;
    v->to = v->seq + n - 1;
    v->count = n;
}

static void reset(struct md_timeline *t, enum md_reset why, bool fresh, struct md_verdict *v)
{
    if (!fresh) {
        v->kind = MD_STOP;
        t->reset = (uint8_t)why;
        return;
    }
    md_timeline_reset(t);
    v->kind = MD_RESET;
    v->reset = why;
}

static void announce(struct md_verdict *v, const char *event, const char *reason, int64_t from, int64_t to)
{
    v->kind = MD_EVENT;
    v->event = event;
    v->reason = reason;
    v->from = from;
    v->to = to;
    v->count = to - from + 1;
}

/* A gap in which no row has a number: it lies before the event's own seq. */
static void announce_between(struct md_verdict *v, const char *reason)
{
    announce(v, "gap", reason, IO_SEQ_NONE, IO_SEQ_NONE);
    v->count = -1;
}

/* Rows below `next`: late where they fill a hole that was given up, else duplicates. */
static void judge_old(const struct md_timeline *t, uint32_t left, struct md_verdict *v)
{
    int64_t end = t->next;
    enum io_reason why = IO_R_DUPLICATE;
    for (uint32_t i = 0; i < t->n_holes; i++) {
        if (v->seq >= t->holes[i].from && v->seq < t->holes[i].to) {
            why = IO_R_LATE;
            end = t->holes[i].to;
            break;
        }
        if (v->seq < t->holes[i].from && t->holes[i].from < end) {
            end = t->holes[i].from;
        }
    }
    int64_t n = end - v->seq;
    discard(v, why, n < left ? (uint32_t)n : left);
}

static void judge_hole(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, struct md_verdict *v)
{
    int64_t hole = v->seq - t->next;
    if (r->reorder && t->rows > 0 && !(b->flags & MD_NO_WAIT)) {
        v->kind = MD_HOLD;
        return;
    }
    bool regular = !r->irregular && r->rate.num > 0;
    bool bridged = !(regular && r->gap_max_ns >= 0 && md_rate_ns(r->rate, hole) > r->gap_max_ns);
    announce(v, "gap", b->flags & IO_GAP ? "sender" : "missing", t->next, v->seq - 1);
    v->bridged = bridged;
    b->flags &= ~(uint32_t)IO_GAP;
    remember_hole(t, t->next, v->seq);
    t->next = v->seq;
    if (t->rows == 0) {
        return; /* nothing to decay yet */
    }
    if (!bridged) {
        t->reset = MD_RESET_GAP;
    } else if (!r->irregular) {
        t->owed = md_add_sat(t->owed, hole);
    }
}

/* How many rows from `at` on can be taken in one go, by their times; 0 with a verdict where the first cannot. */
static uint32_t judge_times(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at,
                            uint32_t left, struct md_verdict *v)
{
    const int64_t *times = io_block_times(b) + at;
    int64_t last = t->last_t;
    for (uint32_t i = 0; i < left; i++) {
        int64_t dt = last == IO_T_NONE ? 0 : md_sub_sat(times[i], last);
        bool late = dt < 0, gap = r->gap_max_ns >= 0 && dt > r->gap_max_ns && t->rows + i > 0;
        if (i > 0 && (late || gap)) {
            return i;
        }
        if (late) {
            uint32_t n = 1;
            while (n < left && times[n] < last) {
                n++;
            }
            discard(v, IO_R_LATE, n);
            return 0;
        }
        if (gap) {
            announce_between(v, "time");
            t->last_t = IO_T_NONE;
            t->reset = MD_RESET_GAP;
            return 0;
        }
        last = times[i];
    }
    return left;
}

/* nan: reset. Rows with a missing value are discarded; the first whole row after them begins a new epoch. */
static uint32_t judge_missing(struct md_timeline *t, struct io_block *b, uint32_t at, uint32_t left,
                              struct md_verdict *v)
{
    bool missing = row_missing(b, at);
    uint32_t n = 1;
    while (n < left && row_missing(b, at + n) == missing) {
        n++;
    }
    if (!missing) {
        return n;
    }
    discard(v, IO_R_NAN, n);
    t->next = v->seq + n; /* a dropped row keeps its number */
    if (t->rows > 0) {
        t->reset = MD_RESET_NAN;
    }
    return 0;
}

static bool numbers_sane(const struct io_block *b)
{
    return b->seq == IO_SEQ_NONE || (b->seq > -seq_limit && b->seq < seq_limit - b->n);
}

/* The sender's word that the state is to begin anew. */
static bool judge_flags(struct md_timeline *t, struct io_block *b, bool fresh, struct md_verdict *v)
{
    bool start = b->flags & IO_START, live = t->rows > 0;
    if (!(b->flags & (IO_START | IO_RESET))) {
        return false;
    }
    if (live && !fresh) {
        v->kind = MD_STOP;
        return true;
    }
    b->flags &= ~(uint32_t)(IO_START | IO_RESET);
    if (start && t->next != IO_SEQ_NONE) {
        renumber(t, b);
    }
    if (live) {
        reset(t, start ? MD_RESET_START : MD_RESET_SENDER, fresh, v);
    }
    return live;
}

/* One reason's share of what was dropped: their numbers are shared out as if it had been one after the other. */
static enum io_reason take_lost(struct io_lost *lost)
{
    int64_t *share[] = {&lost->limit, &lost->streams, &lost->memory, &lost->rows};
    static const enum io_reason why[] = {IO_R_LIMIT, IO_R_STREAMS, IO_R_MEMORY, IO_R_QUEUE_FULL};
    unsigned i = 0;

    while (*share[i] == 0)
        i++;
    lost->rows -= *share[i];
    if (share[i] != &lost->rows)
        *share[i] = 0;
    return why[i];
}

/* What is said of the block as a whole: flags, its number, rows that were dropped here before it. */
static bool judge_block(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, bool fresh,
                        struct md_verdict *v)
{
    bool sane = numbers_sane(b);
    if (sane && judge_flags(t, b, fresh, v)) {
        return true;
    }
    if (sane) {
        v->clock = number(t, r, b);
    }
    if (!sane || !numbers_sane(b)) {
        discard(v, IO_R_MALFORMED, b->n);
        v->from = v->to = IO_SEQ_NONE;
        b->lost = (struct io_lost){0};
        b->flags &= ~(uint32_t)(IO_START | IO_RESET);
        return true;
    }
    if (b->lost.rows > 0) {
        int64_t from = b->seq - b->lost.rows;
        enum io_reason why = take_lost(&b->lost);
        announce(v, "drop", io_reason_name(why), from, b->seq - b->lost.rows - 1);
        b->flags |= MD_NO_WAIT;
        return true;
    }
    return false;
}

/* The sender knows of a loss that shows in no number. */
static void announce_loss(const struct md_timeline *t, struct io_block *b, struct md_verdict *v)
{
    b->flags &= ~(uint32_t)IO_GAP;
    announce_between(v, "sender");
    v->bridged = true;
}

static void judge_rows(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at,
                       bool fresh, struct md_verdict *v)
{
    uint32_t left = b->n - at;
    v->seq = b->seq + at;
    if (v->seq < t->next) {
        judge_old(t, left, v);
        return;
    }
    if (v->seq > t->next) {
        judge_hole(t, r, b, v);
        return;
    }
    if (b->flags & IO_GAP) {
        announce_loss(t, b, v);
        return;
    }
    if (r->nan_reset) {
        left = judge_missing(t, b, at, left, v);
    }
    if (left > 0 && t->reset) {
        reset(t, (enum md_reset)t->reset, fresh, v);
        return;
    }
    if (left > 0 && r->irregular && b->timed) {
        left = judge_times(t, r, b, at, left, v);
    }
    if (left > 0) {
        v->kind = MD_ROWS;
        v->n = left;
    }
}

void md_timeline_next(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at, bool fresh,
                      struct md_verdict *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->from = ret->to = IO_SEQ_NONE;
    ret->count = -1;
    ret->seq = t->next;
    if (at == 0 && (b->n > 0 || b->lost.rows > 0 || b->flags & (IO_START | IO_RESET)) &&
        judge_block(t, r, b, fresh, ret))
        return;
    if (at < b->n) {
        judge_rows(t, r, b, at, fresh, ret);
        return;
    }
    if (b->n == 0 && b->flags & IO_GAP) {
        announce_loss(t, b, ret);
        return;
    }
    ret->kind = MD_DONE;
    if (b->n == 0 && b->flags & MD_NO_WAIT && b->seq > t->next) { /* nothing came after rows that were dropped: */
        t->owed = r->irregular || t->rows == 0 ? t->owed : md_add_sat(t->owed, b->seq - t->next);
        t->next = b->seq; /* they keep their numbers */
    }
}

static void take_times(struct md_timeline *t, const int64_t *times, uint32_t n, int64_t *dt)
{
    for (uint32_t i = 0; i < n; i++) {
        int64_t d = t->last_t == IO_T_NONE ? 0 : md_sub_sat(times[i], t->last_t);
        if (d > 0 && t->interval == 0) {
            t->interval = d;
        }
        dt[i] = d < dt_limit ? d : dt_limit;
        t->last_t = times[i];
    }
}

void md_timeline_take(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at, uint32_t n,
                      int64_t *dt)
{
    if (r->irregular && t->interval == 0 && r->interval_ns > 0) {
        t->interval = r->interval_ns;
    }
    if (r->irregular && b->timed) {
        take_times(t, io_block_times(b) + at, n, dt);
    } else if (dt) {
        for (uint32_t i = 0; i < n; i++) {
            dt[i] = r->irregular && t->interval > 0 ? t->interval : 1;
        }
        dt[0] = t->owed < dt_limit ? dt[0] + t->owed : dt_limit;
    }
    t->owed = 0;
    t->next = b->seq + at + n;
    t->rows += n;
}
