/* inbox.c: queues between sources and an engine. Everything here is done under the inbox's lock, which is held for a
 * few pointer moves at a time; blocks that are dropped go back to the pool after it.
 *
 * Trap: a dropped block may carry flags, or be the end of its stream. Flags move on to the next block; an end stays in
 * the queue without its rows. */
#include "daemon/inbox.h"

#include <errno.h>

#include "daemon/input.h"

static const uint32_t flags_kept = IO_START | IO_RESET | IO_GAP;

int md_inbox_init(struct md_inbox *in, uint32_t slots, struct io_pool *pool)
{
    pthread_condattr_t clock;
    pthread_mutexattr_t adaptive;

    *in = (struct md_inbox){.slots = slots, .pool = pool, .wake_at = UINT32_MAX};
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&in->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutexattr_init(&adaptive);
    pthread_mutexattr_settype(&adaptive, PTHREAD_MUTEX_ADAPTIVE_NP); /* spins first: the section is short */
    pthread_mutex_init(&in->lock, &adaptive);
    pthread_mutexattr_destroy(&adaptive);
    return 0;
}

void md_inbox_done(struct md_inbox *in)
{
    pthread_cond_destroy(&in->wake);
    pthread_mutex_destroy(&in->lock);
}

/* ---- source side ------------------------------------------------------------------------------------------------- */

/* With streams on the disk, room for two of the widest stays free there: a stream that comes back can always change
 * places with others. */
static bool has_room(const struct md_inbox *in, uint32_t channels)
{
    uint64_t want = (uint64_t)in->taken + channels, widest = channels > in->widest ? channels : in->widest;

    return want <= in->slots || (channels <= in->slots && want + 2 * widest <= (uint64_t)in->slots + in->cells);
}

int md_inbox_enter(struct md_inbox *in, struct io_stream *s)
{
    int r = 0;

    pthread_mutex_lock(&in->lock);
    if (!s->queue.live && (!has_room(in, s->channels) || s->input->live >= s->input->conf->max_streams)) {
        r = -ENOSPC;
    } else if (!s->queue.live) {
        in->taken += s->channels;
        in->widest = s->channels > in->widest ? s->channels : in->widest;
        in->n_live++;
        s->input->live++;
        s->queue.live = true;
    }
    if (r == 0) {
        s->queue.held = true;
        s->place.ended = false;
    }
    pthread_mutex_unlock(&in->lock);
    return r;
}

/* Not live any more. */
static void free_place(struct md_inbox *in, struct io_stream *s)
{
    s->queue.live = false;
    atomic_store_explicit(&s->queue.reset, false, memory_order_relaxed);
    in->taken -= s->channels;
    in->n_live--;
    s->input->live--;
}

static void wake_engine(struct md_inbox *in)
{
    if (in->wake_at != UINT32_MAX) {
        in->wake_at = UINT32_MAX;
        pthread_cond_signal(&in->wake);
    }
}

static void make_ready(struct md_inbox *in, struct io_stream *s)
{
    s->queue.next_ready = NULL;
    if (in->tail)
        in->tail->queue.next_ready = s;
    else
        in->head = s;
    in->tail = s;
    s->queue.ready = true;
    in->n_ready++;
    if (in->n_ready >= in->wake_at)
        wake_engine(in);
}

static void count_dropped(struct io_stream *s, enum io_reason why, uint64_t rows)
{
    md_add(&s->input->counters.discarded[why], rows * s->channels);
    md_add(&s->seen.discarded, rows);
}

/* Drops the oldest blocks until at least `over` rows are gone. Returns blocks for the pool. */
static struct io_block *drop_oldest(struct io_stream *s, uint32_t over)
{
    struct md_queue *q = &s->queue;
    struct io_block *dropped = NULL, *b, **at = &q->head, *last = NULL;
    uint32_t flags = 0, gone = 0;
    struct io_lost lost = {0};

    while ((b = *at) && gone < over) {
        bool stays = b->n == 0 || b->flags & IO_END;
        if (b->flags & IO_START)
            lost = (struct io_lost){0};
        io_lost_add(&lost, &b->lost);
        lost.rows += b->n;
        flags |= b->flags & flags_kept;
        gone += b->n;
        if (stays) {
            b->n = 0;
            b->lost = lost;
            b->flags |= flags;
            lost = (struct io_lost){0};
            flags = 0;
            last = b;
            at = &b->next;
        } else {
            *at = b->next;
            b->next = dropped;
            dropped = b;
        }
    }
    q->rows -= gone;
    if (b) {
        io_lost_add(&b->lost, &lost);
        b->flags |= flags;
    } else {
        q->tail = last;
        io_lost_add(&q->lost, &lost);
        q->flags |= flags;
    }
    count_dropped(s, IO_R_QUEUE_FULL, gone);
    return dropped;
}

/* Rows that never get into the queue. */
static void lose(struct md_queue *q, uint32_t rows, uint32_t flags)
{
    if (flags & IO_START)
        q->lost = (struct io_lost){0}; /* those of before have no numbers in what begins */
    q->lost.rows += rows;
    q->flags |= flags & flags_kept;
}

/* Makes room by the input's policy. 0: append b; 1: b itself is dropped; −EAGAIN. *ret_dropped goes back to the pool.
 */
static int make_room(struct md_inbox *in, struct io_stream *s, struct io_block *b, struct io_block **ret_dropped)
{
    struct md_queue *q = &s->queue;
    const struct md_input_conf *conf = s->input->conf;

    if (b->n == 0 || q->rows == 0 || (uint64_t)q->rows + b->n <= conf->queue)
        return 0;
    in->pressed = true;
    wake_engine(in);
    if (conf->when_full == MD_BLOCK) {
        s->input->blocked = true;
        md_bump(&s->input->counters.blocked, 1);
        return -EAGAIN;
    }
    if (conf->when_full == MD_DROP_OLDEST) {
        *ret_dropped = drop_oldest(s, (uint32_t)((uint64_t)q->rows + b->n - conf->queue));
        return 0;
    }
    count_dropped(s, IO_R_QUEUE_FULL, b->n);
    lose(q, b->n, b->flags);
    if (!(b->flags & IO_END))
        return 1;
    b->n = 0;
    return 0;
}

static void append(struct md_queue *q, struct io_block *b)
{
    b->next = NULL;
    io_lost_add(&b->lost, &q->lost);
    b->flags |= q->flags;
    q->lost = (struct io_lost){0};
    q->flags = 0;
    if (q->tail)
        q->tail->next = b;
    else
        q->head = b;
    q->tail = b;
    q->rows += b->n;
}

int md_inbox_push(struct md_input *from, struct io_stream *s, struct io_block *b, int64_t next)
{
    struct md_inbox *in = from->inbox;
    struct md_queue *q = &s->queue;
    struct io_block *dropped = NULL;
    uint64_t samples = (uint64_t)b->n * b->channels;
    uint32_t waiting;
    int r;

    pthread_mutex_lock(&in->lock);
    r = s->input == from && q->live ? make_room(in, s, b, &dropped) : -ESTALE;
    if (r == 0) {
        append(q, b);
        if (!q->ready)
            make_ready(in, s);
    }
    if (r >= 0 && next != IO_SEQ_NONE)
        s->place.next = next;
    waiting = r < 0 ? 0 : q->rows;
    pthread_mutex_unlock(&in->lock);
    while (dropped) {
        struct io_block *rest = dropped->next;
        io_block_put(in->pool, dropped);
        dropped = rest;
    }
    if (r < 0)
        return r;
    if (r == 1)
        io_block_put(in->pool, b);
    md_bump(&from->counters.samples, samples); /* of the stream behind the lock nothing is known */
    md_raise(&from->counters.queue_high_water, waiting);
    return 0;
}

void md_inbox_drop(struct md_input *from, struct io_stream *s, uint32_t rows, uint32_t channels, uint32_t flags)
{
    struct md_inbox *in = from->inbox;
    uint64_t samples = (uint64_t)rows * channels;

    pthread_mutex_lock(&in->lock);
    if (s->input == from)
        count_dropped(s, IO_R_LIMIT, rows);
    else
        md_add(&from->counters.discarded[IO_R_LIMIT], samples);
    if (s->input == from && s->queue.live) {
        lose(&s->queue, rows, flags);
        s->queue.lost.limit += rows;
    }
    pthread_mutex_unlock(&in->lock);
    md_bump(&from->counters.samples, samples);
}

void md_inbox_tell_lost(struct md_input *from, struct io_stream *s)
{
    struct md_inbox *in = from->inbox;
    uint32_t channels = 0;
    struct io_block *b;
    bool lost;

    pthread_mutex_lock(&in->lock);
    lost = s->input == from && s->queue.live && s->queue.lost.rows > 0;
    if (lost)
        channels = s->channels;
    pthread_mutex_unlock(&in->lock);
    b = lost ? io_block_get(in->pool, 0) : NULL;
    if (!b)
        return;
    b->seq = IO_SEQ_NONE;
    b->t_ns = IO_T_NONE;
    b->arrived_ns = (uint64_t)md_now_ns();
    b->channels = channels;
    if (md_inbox_push(from, s, b, IO_SEQ_NONE))
        io_block_put(in->pool, b);
}

/* Under the lock. True: the stream is from's. After it the record may be forgotten at any time. */
static bool take_back(const struct md_input *from, struct io_stream *s)
{
    bool own = s->input == from;

    if (own)
        s->queue.held = false;
    else
        atomic_fetch_sub_explicit(&s->queue.stale, 1, memory_order_release);
    return own;
}

/* Under the lock. */
static void queue_end(struct md_inbox *in, struct io_stream *s)
{
    struct md_queue *q = &s->queue;

    if (q->live && q->tail)
        q->tail->flags |= IO_END;
    else if (q->live)
        q->ending = true;
    if (q->ending && !q->ready)
        make_ready(in, s);
}

void md_inbox_end(struct md_input *from, struct io_stream *s)
{
    struct md_inbox *in = from->inbox;

    md_inbox_tell_lost(from, s);
    pthread_mutex_lock(&in->lock);
    if (take_back(from, s))
        queue_end(in, s);
    pthread_mutex_unlock(&in->lock);
}

void md_inbox_cut_off(struct io_stream *s)
{
    md_inbox_tell_lost(s->input, s);
    pthread_mutex_lock(&s->inbox->lock);
    queue_end(s->inbox, s);
    pthread_mutex_unlock(&s->inbox->lock);
}

bool md_inbox_place(struct md_input *from, struct io_stream *s, struct io_place *ret)
{
    pthread_mutex_lock(&from->inbox->lock);
    bool own = s->input == from;
    if (own)
        *ret = (struct io_place){.next = s->place.next,
                                 .durable = atomic_load_explicit(&s->place.durable, memory_order_relaxed),
                                 .channels = s->channels,
                                 .rate = s->rate,
                                 .irregular = s->irregular};
    pthread_mutex_unlock(&from->inbox->lock);
    return own;
}

void md_inbox_last(struct md_input *from, struct io_stream *s, struct md_replay *ret)
{
    *ret = (struct md_replay){.from = IO_SEQ_NONE};
    pthread_mutex_lock(&from->inbox->lock);
    if (s->input == from) {
        struct md_replay none = *ret;
        *ret = s->replay;
        s->replay = none;
        s->place.ended = true;
    }
    pthread_mutex_unlock(&from->inbox->lock);
}

bool md_inbox_let_go(struct md_input *from, struct io_stream *s, bool always)
{
    pthread_mutex_lock(&from->inbox->lock);
    bool gone = always || s->input != from || !s->queue.live;
    if (gone)
        take_back(from, s);
    pthread_mutex_unlock(&from->inbox->lock);
    return gone;
}

bool md_inbox_retract(struct md_input *from, struct io_stream *s)
{
    struct md_queue *q = &s->queue;

    pthread_mutex_lock(&from->inbox->lock);
    bool nothing = s->input == from && q->live && !q->ready && !q->head && !q->ending;
    if (nothing) {
        q->held = false;
        free_place(from->inbox, s);
    }
    pthread_mutex_unlock(&from->inbox->lock);
    return nothing;
}

/* ---- engine side ------------------------------------------------------------------------------------------------- */

static int64_t waiting_since(const struct io_stream *s)
{
    const struct io_block *b = s->course.mine ? s->course.mine : s->queue.head;

    return b ? (int64_t)b->arrived_ns : 0;
}

static void sleep_until(struct md_inbox *in, int64_t deadline_ns)
{
    struct timespec t = {deadline_ns / 1000000000, deadline_ns % 1000000000};

    if (deadline_ns == INT64_MAX)
        pthread_cond_wait(&in->wake, &in->lock);
    else
        pthread_cond_timedwait(&in->wake, &in->lock, &t);
    in->wake_at = UINT32_MAX;
}

/* Why the batch is to be closed now, or MD_CUTS. A full queue, or nobody left who could join, leaves nothing to wait
 * for. */
static enum md_cut cut_now(const struct md_inbox *in, uint32_t full, int64_t now, int64_t due)
{
    if (in->draining || (in->n_ready && in->n_ready >= in->n_live))
        return MD_CUT_IDLE;
    if (in->n_ready && (in->n_ready >= full || in->pressed))
        return MD_CUT_FULL;
    return in->n_ready && now >= due ? MD_CUT_DELAY : MD_CUTS;
}

/* Where nothing is left from the batch before, it naps for the delay in any case: under load that is one timer a batch
 * and no wake-up by a source. Only after a nap that brought nothing does it wait for the first push. */
void md_inbox_wait(struct md_inbox *in, uint32_t full, int64_t max_delay_ns, int64_t until_ns, struct md_wake *ret)
{
    enum md_cut cut;
    int64_t nap_ns;

    pthread_mutex_lock(&in->lock);
    nap_ns = in->n_ready ? 0 : md_add_sat(md_now_ns(), max_delay_ns);
    for (;;) {
        int64_t now = md_now_ns(), since = in->n_ready ? waiting_since(in->head) : now;
        int64_t due = in->n_ready ? md_add_sat(since, max_delay_ns) : INT64_MAX;
        if (since < nap_ns && nap_ns < due)
            due = nap_ns;
        cut = cut_now(in, full, now, due);
        if (cut != MD_CUTS || now >= until_ns || in->cut != ret->line || in->errand != ret->errand || in->called)
            break;
        in->wake_at = in->n_ready == 0 && now >= nap_ns ? 1 : in->n_live < full ? in->n_live : full;
        sleep_until(in, due < until_ns ? due : until_ns);
    }
    in->called = false;
    *ret = (struct md_wake){
        cut < MD_CUTS ? cut : MD_CUT_IDLE, cut < MD_CUTS, in->n_ready, in->draining, in->stopping, in->cut, in->errand};
    pthread_mutex_unlock(&in->lock);
}

/* Blocks of up to `rows` rows, and at least one, into the engine's hands. */
static void move_blocks(struct io_stream *s, uint32_t rows)
{
    struct md_course *c = &s->course;
    struct io_block *b;
    uint32_t moved = 0;

    for (b = c->mine; b; b = b->next)
        moved += b->n;
    while ((b = s->queue.head) && (moved == 0 || moved + b->n <= rows)) {
        s->queue.head = b->next;
        s->queue.rows -= b->n;
        moved += b->n;
        b->next = NULL;
        if (c->mine)
            c->mine_tail->next = b;
        else
            c->mine = b;
        c->mine_tail = b;
    }
    if (!s->queue.head)
        s->queue.tail = NULL;
}

uint32_t md_inbox_collect(struct md_inbox *in, struct io_stream **ret, uint32_t n, uint32_t rows)
{
    uint32_t got = 0;

    pthread_mutex_lock(&in->lock);
    in->pressed = false;
    while (got < n && in->head) {
        struct io_stream *s = in->head;
        in->head = s->queue.next_ready;
        if (!in->head)
            in->tail = NULL;
        in->n_ready--;
        if (s->queue.ending)
            s->course.end_due = true;
        else if (!s->course.end_due)
            move_blocks(s, rows);
        s->queue.ending = false;
        if (s->input->blocked) {
            s->input->blocked = false;
            md_input_wake(s->input);
        }
        ret[got++] = s;
    }
    pthread_mutex_unlock(&in->lock);
    return got;
}

static bool has_more(const struct io_stream *s)
{
    return s->course.mine || s->course.end_due || s->queue.head || s->queue.ending;
}

void md_inbox_return(struct md_inbox *in, struct io_stream *const *streams, uint32_t n)
{
    pthread_mutex_lock(&in->lock);
    for (uint32_t i = 0; i < n; i++) {
        streams[i]->queue.ready = false;
        if (has_more(streams[i]))
            make_ready(in, streams[i]);
    }
    pthread_mutex_unlock(&in->lock);
}

bool md_inbox_leave(struct md_inbox *in, struct io_stream *s)
{
    pthread_mutex_lock(&in->lock);
    bool left = !has_more(s);
    s->queue.ready = false;
    atomic_store_explicit(&s->seen.open, false, memory_order_relaxed); /* with its place: status.c */
    if (left) {
        free_place(in, s);
    } else {
        make_ready(in, s);
    }
    pthread_mutex_unlock(&in->lock);
    return left;
}

bool md_inbox_claim(struct md_inbox *in, struct io_stream *s)
{
    pthread_mutex_lock(&in->lock);
    bool resting = !s->queue.ready;
    s->queue.ready = true;
    pthread_mutex_unlock(&in->lock);
    return resting;
}

void md_inbox_cut(struct md_inbox *in, uint32_t number)
{
    pthread_mutex_lock(&in->lock);
    in->cut = number;
    pthread_cond_signal(&in->wake);
    pthread_mutex_unlock(&in->lock);
}

bool md_inbox_reset(struct md_inbox *in, struct io_stream *s)
{
    bool live;

    pthread_mutex_lock(&in->lock);
    live = s->queue.live;
    if (live)
        atomic_store_explicit(&s->queue.reset, true, memory_order_relaxed);
    pthread_mutex_unlock(&in->lock);
    return live;
}

void md_inbox_call(struct md_inbox *in)
{
    pthread_mutex_lock(&in->lock);
    in->called = true;
    pthread_cond_signal(&in->wake);
    pthread_mutex_unlock(&in->lock);
}

void md_inbox_lost(struct md_inbox *in, struct io_stream *s, const struct io_block *b)
{
    struct md_queue *q = &s->queue;

    pthread_mutex_lock(&in->lock);
    io_lost_add(q->head ? &q->head->lost : &q->lost, &b->lost);
    *(q->head ? &q->head->flags : &q->flags) |= b->flags & flags_kept;
    pthread_mutex_unlock(&in->lock);
}

void md_inbox_drain(struct md_inbox *in, bool stop)
{
    pthread_mutex_lock(&in->lock);
    in->draining = true;
    in->stopping = in->stopping || stop;
    pthread_cond_signal(&in->wake);
    pthread_mutex_unlock(&in->lock);
}
