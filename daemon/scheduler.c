/* scheduler.c: the loop of an engine thread: sleep, fill, start, land. Owns its batches in turn with the publisher.
 *
 * A device works by itself: while a batch is under way on it (`flying`), the next one is filled when it is due, in
 * small portions, so that the batch lands and is published as soon as it is done. If it is not by then, the next one is
 * sent after it first, so that the device has work while the host makes rows of its results. A device that is quick
 * does not get smaller batches for that: they are closed as without one. On the CPU a batch is done when it has been
 * started.
 *
 * Trap: a batch may be filled, and sent, on top of one that then fails. It fails too, as does all that comes after. */
#include "daemon/scheduler.h"

#include <errno.h>
#include <sysexits.h>

#include "daemon/course.h"
#include "daemon/cut.h"
#include "daemon/exit_code.h"
#include "daemon/log.h"
#include "daemon/publisher.h"

enum {
    COLLECT = 64,            /* streams taken from the inbox at a time, so that its lock is short */
    BATCH_SAMPLES = 1 << 20, /* of all streams in a batch */
    BATCH_OUT = 1 << 23,     /* floats of results of all streams */
    SWEEP_STREAM_NS = 10000, /* least time between sweeps per open stream: they cost at most 1 % of a core */
    SWEEP_MIN_NS = 5000000,
    LOOK_NS = 100000,       /* between looks at a device that is at work, while no batch is due */
    SWEEP_PAUSE_NS = 200000 /* between portions of a cut's copies while nothing else is to do */
};

int md_scheduler_init(struct md_scheduler *s, uint32_t slots, struct io_pool *pool)
{
    pthread_mutex_init(&s->spare_lock, NULL);
    pthread_cond_init(&s->spare_wake, NULL);
    for (unsigned i = 0; i < MD_BATCHES; i++) {
        s->batches[i].owner = s;
        s->batches[i].next = s->spare;
        s->spare = &s->batches[i];
    }
    md_errand_init(&s->errand);
    md_composer_init(&s->composer);
    md_spill_init(&s->spill);
    return md_inbox_init(&s->inbox, slots, pool);
}

void md_scheduler_done(struct md_scheduler *s)
{
    for (unsigned i = 0; i < MD_BATCHES; i++)
        md_batch_done(&s->batches[i]);
    md_composer_done(&s->composer);
    md_inbox_done(&s->inbox);
    md_errand_done(&s->errand);
    md_spill_done(&s->spill);
    pthread_cond_destroy(&s->spare_wake);
    pthread_mutex_destroy(&s->spare_lock);
}

void md_scheduler_give(struct md_scheduler *s, struct md_batch *b)
{
    while (b->spent) {
        struct io_block *next = b->spent->next;
        io_block_put(s->inbox.pool, b->spent);
        b->spent = next;
    }
    pthread_mutex_lock(&s->spare_lock);
    b->next = s->spare;
    s->spare = b;
    pthread_cond_signal(&s->spare_wake);
    pthread_mutex_unlock(&s->spare_lock);
}

/* A round with a batch under way is none: looking at the device goes on however long that hangs. */
static void rest(struct md_scheduler *s, bool resting)
{
    atomic_store(&s->resting, resting);
    atomic_fetch_add_explicit(&s->rounds, !s->flying, memory_order_relaxed);
}

bool md_scheduler_moves(struct md_scheduler *s, uint64_t *seen)
{
    uint64_t rounds = atomic_load_explicit(&s->rounds, memory_order_relaxed), before = *seen;

    *seen = rounds;
    return !atomic_load(&s->failed) && (rounds != before || atomic_load(&s->resting));
}

static struct md_batch *take_spare(struct md_scheduler *s)
{
    struct md_batch *b;

    rest(s, true);
    pthread_mutex_lock(&s->spare_lock);
    while (!s->spare)
        pthread_cond_wait(&s->spare_wake, &s->spare_lock);
    b = s->spare;
    s->spare = b->next;
    pthread_mutex_unlock(&s->spare_lock);
    rest(s, false);
    md_batch_clear(b);
    return b;
}

/* The open streams are in two lists. */
static const struct md_stream_list *next_list(const struct md_scheduler *s, const struct md_stream_list *list)
{
    return list == &s->open ? &s->away : NULL;
}

/* Timers of all open streams, at most as often as their number allows. */
static void sweep(struct md_scheduler *s, struct md_batch *b)
{
    int64_t now = md_now_ns(), due = INT64_MAX, pause;
    uint32_t n = 0;

    if (now < s->next_sweep_ns && !(s->draining && s->holding))
        return;
    for (const struct md_stream_list *list = &s->open; list; list = next_list(s, list))
        for (struct io_stream *i = list->head, *next; i; i = next) {
            int64_t t;
            next = i->course.next_open;
            t = md_course_timers(s, b, i, now);
            due = t < due ? t : due;
            n++;
        }
    pause = (int64_t)n * SWEEP_STREAM_NS;
    pause = now + (pause > SWEEP_MIN_NS ? pause : SWEEP_MIN_NS);
    s->next_sweep_ns = due > pause ? due : pause;
}

static void fill_some(struct md_scheduler *s, struct md_batch *b, uint32_t n)
{
    struct io_stream *streams[COLLECT], *idle[COLLECT];
    uint32_t got = md_inbox_collect(&s->inbox, streams, n, MD_ROWS_MAX), resting = 0;

    for (uint32_t i = 0; i < got; i++)
        if (streams[i] == s->asked_for || md_course_run(s, b, streams[i]) <= 0)
            idle[resting++] = streams[i];
    md_inbox_return(&s->inbox, idle, resting);
}

/* That the engine's device has worked since it was opened, where it knows. */
static uint64_t worked_ns(const struct md_scheduler *s)
{
    double busy = s->engine ? ssm_engine_busy(s->engine) : 0.0;

    return busy > 0.0 ? (uint64_t)(1e9 * busy) : 0;
}

static void read_busy(struct md_scheduler *s)
{
    atomic_store_explicit(&s->counters.busy_ns, s->busy_before_ns + worked_ns(s), memory_order_relaxed);
}

void md_scheduler_exchange(struct md_scheduler *s, struct ssm_engine *engine)
{
    read_busy(s);
    s->engine = engine;
    s->busy_before_ns = md_read(&s->counters.busy_ns) - worked_ns(s); /* it may have been here before */
}

int md_scheduler_heard(struct md_scheduler *s, int r)
{
    if (r != -EIO || atomic_exchange(&s->failed, true))
        return r;
    md_log(MD_ERROR, s->model,
           "the device failed: %s; until a restart this model's rows are lost, and no snapshots are made",
           ssm_engine_failure(s->engine));
    md_end_with(s->code, EX_UNAVAILABLE);
    return r;
}

/* Waits for the oldest batch under way and hands it to the publisher. */
static void land_oldest(struct md_scheduler *s, struct md_batch *b)
{
    if (b->items.n) {
        read_busy(s); /* with the batches before: this one's results may be there before its clock has stopped */
        int r = b->sent ? ssm_advance_wait(s->engine) : -EIO;
        b->advanced_ns = md_now_ns();
        md_hist_add(&s->counters.step, (uint64_t)(b->advanced_ns - b->started_ns));
        if (r || b->failed) {
            md_scheduler_heard(s, -EIO);
            md_bump(&s->counters.failures, 1);
            b->failed = true;
        }
    }
    for (size_t i = 0; i < b->entries.n; i++) {
        struct md_entry *e = md_batch_entry(b, i);
        if (b->failed && e->rows)
            md_course_fail(s, b, e, MD_RESET_DEVICE, "device");
        md_bump(&s->counters.steps, (uint64_t)e->steps * e->stream->channels);
        if (e->closing)
            md_course_close(s, e->stream);
    }
    md_composer_land(s, b);
    atomic_store_explicit(&s->slots_used, ssm_slots_used(s->engine), memory_order_relaxed);
    if (b->entries.n || b->cut || b->last)
        md_publisher_push(s->publisher, b);
    else
        md_scheduler_give(s, b);
}

static void land(struct md_scheduler *s)
{
    struct md_batch *b = s->flying;

    s->flying = NULL;
    if (!b)
        return;
    land_oldest(s, b);
    atomic_fetch_add_explicit(&s->rounds, 1, memory_order_relaxed);
}

static void start(struct md_scheduler *s, struct md_batch *b)
{
    md_batch_items(b);
    uint32_t n = md_composer_items(b);

    b->started_ns = b->advanced_ns = md_now_ns();
    b->sent = n && !atomic_load(&s->failed) && !ssm_advance_start(s->engine, b->items.p, n);
    land(s);
    b->failed = n && (atomic_load(&s->failed) || !b->sent);
    s->flying = b;
    if (b->failed || ssm_advance_done(s->engine))
        land(s);
}

/* No more than were ready at the start: a stream stands once in a batch. */
static void fill(struct md_scheduler *s, struct md_batch *b, uint32_t ready)
{
    uint32_t left = ready < s->max_streams ? ready : s->max_streams;

    while (left > 0 && md_batch_samples(b) < BATCH_SAMPLES && b->out.n < BATCH_OUT) {
        uint32_t n = left < COLLECT ? left : COLLECT;
        fill_some(s, b, n);
        left -= n;
        if (s->flying && ssm_advance_done(s->engine))
            land(s);
    }
}

static void count(struct md_scheduler *s, const struct md_batch *b, enum md_cut cut)
{
    md_bump(&s->counters.batches, 1);
    md_bump(&s->counters.streams, b->entries.n);
    md_bump(&s->counters.samples, md_batch_samples(b));
    md_bump(&s->counters.cut[cut], 1);
}

/* When the engine is to look again although nothing has come. A text that can go on is never waited with. */
static int64_t look_again(const struct md_scheduler *s)
{
    bool busy = s->sweeping || s->asked_for || md_spill_busy(&s->spill);

    if (s->composer.ready || (s->flying && s->flying->texts.n))
        return 0;
    return s->flying ? md_now_ns() + LOOK_NS : busy ? md_now_ns() + SWEEP_PAUSE_NS : s->next_sweep_ns;
}

/* A reload stops engines, the end has them drained. */
static const char *reason_of(const struct md_wake *wake)
{
    return wake->stopping ? "reload" : "shutdown";
}

static bool is_empty(const struct md_batch *b)
{
    return b->entries.n == 0 && b->texts.n == 0;
}

/* Fills `b` from what is ready; with a batch under way it returns soon. */
static void gather(struct md_scheduler *s, struct md_batch *b, struct md_wake *wake)
{
    wake->line = s->cut_number;
    wake->errand = s->asked_for;
    rest(s, !s->flying);
    md_inbox_wait(&s->inbox, s->max_streams, s->max_delay_ns, look_again(s), wake);
    rest(s, false);
    s->draining = wake->draining;
    s->asked_for = wake->errand;
    if (wake->line != s->cut_number && is_empty(b)) {
        land(s);
        md_cut_line(s, wake->line);
        b->cut = wake->line;
    }
    if (wake->stopping)
        return;
    if (!s->flying)
        sweep(s, b);
    if (!s->flying || wake->due)
        fill(s, b, wake->ready);
    if (wake->draining)
        md_composer_end(s, reason_of(wake));
    else
        md_composer_fill(s, b);
}

/* Nothing is to be sent on top of the batch under way: whether there is nothing else to wait for than the device. */
static bool lands(struct md_scheduler *s, const struct md_wake *wake)
{
    return wake->due || wake->draining || (s->flying && s->flying->texts.n) || ssm_advance_done(s->engine);
}

/* What a reload did to streams is said before anything else comes of them. */
static void say_anew(struct md_scheduler *s)
{
    struct md_batch *b;
    int r = 0;

    if (!s->anew)
        return;
    b = take_spare(s);
    for (const struct md_stream_list *list = &s->open; list; list = next_list(s, list))
        for (struct io_stream *i = list->head; i && r == 0; i = i->course.next_open)
            if (i->course.anew)
                r = md_course_anew(s, b, i);
    s->anew = r != 0;
    start(s, b);
}

static void *run(void *arg)
{
    struct md_scheduler *s = arg;
    bool last = false;

    say_anew(s);
    while (!last) {
        struct md_batch *b = take_spare(s);
        struct md_wake wake;
        do {
            gather(s, b, &wake);
            bool idle = is_empty(b) && !s->flying, spills = md_spill_busy(&s->spill);
            if (s->sweeping || s->asked_for || spills || (is_empty(b) && lands(s, &wake)))
                land(s);
            bool swept = md_cut_sweep(s, b->entries.n > 0);
            if (s->asked_for)
                md_errand_run(s);
            if (spills)
                md_spill_step(s, b);
            last = wake.stopping ||
                   (wake.draining && wake.ready == 0 && idle && swept && !spills && wake.line == s->cut_number);
            if (last)
                md_spill_settle(s, b);
        } while (is_empty(b) && !last && !b->cut);
        b->last = last;
        if (b->entries.n)
            count(s, b, wake.cut);
        start(s, b);
        if (last) {
            land(s);
            md_composer_end(s, reason_of(&wake));
        }
    }
    md_errand_cancel(s);
    return NULL;
}

int md_scheduler_start(struct md_scheduler *s)
{
    int r = -pthread_create(&s->thread, NULL, run, s);

    s->running = r == 0;
    if (s->running)
        pthread_setname_np(s->thread, "engine");
    return r;
}

void md_scheduler_join(struct md_scheduler *s)
{
    if (s->running)
        pthread_join(s->thread, NULL);
    s->running = false;
}

void md_scheduler_again(struct md_scheduler *s)
{
    s->inbox.draining = s->inbox.stopping = false;
    s->draining = false;
    s->next_sweep_ns = 0;
}
