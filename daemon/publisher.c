/* publisher.c: the publisher thread. Takes batches in the order in which they were advanced, has their messages made,
 * and gives them back; in between it beats once a second and flushes what it wrote while nothing waits.
 *
 * Trap: it may be held up by a file sink's queue, never by a subscriber. What waits for it is bounded by the batches
 * there are. */
#include "daemon/publisher.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cut.h"

enum { FLUSH_NS = 1000000000, BEAT_NS = 1000000000, FORGET_BEATS = 60 };

void md_publisher_push(struct md_publisher *p, struct md_batch *b)
{
    pthread_mutex_lock(&p->lock);
    b->next = NULL;
    if (p->tail)
        p->tail->next = b;
    else
        p->head = b;
    p->tail = b;
    if (p->asleep)
        pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void md_publisher_notice(struct md_publisher *p, const char *id, const char *model, const char *reason)
{
    pthread_mutex_lock(&p->lock);
    if (p->n_notices < MD_NOTICES) {
        struct md_notice *n = &p->notices[p->n_notices++];
        strncpy(n->id, id, IO_ID_MAX);
        n->id[IO_ID_MAX] = '\0';
        n->model = model;
        n->reason = reason;
        if (p->asleep)
            pthread_cond_signal(&p->wake);
    } else {
        md_add(&p->notices_lost, 1);
    }
    pthread_mutex_unlock(&p->lock);
}

static void publish_notice(struct md_publisher *p, const struct md_notice *n)
{
    struct io_message m = {.family = IO_EVENT,
                           .stream = n->id,
                           .model = n->model,
                           .run = p->run,
                           .seq = IO_SEQ_NONE,
                           .t_ns = IO_T_NONE,
                           .exact = true,
                           .event = "error",
                           .reason = n->reason,
                           .from_seq = IO_SEQ_NONE,
                           .to_seq = IO_SEQ_NONE,
                           .count = -1};

    md_publish(p, &m);
}

static void forget(struct md_publisher *p, int64_t now)
{
    uint64_t early = md_registry_forget(p->registry, now - p->forget_ns, p->remember);

    md_bump(&p->forgotten, early);
    if (early)
        md_log(MD_WARN, NULL,
               "ended streams that are forgotten before their time, for no more than %u are remembered: %" PRIu64,
               p->remember, early);
}

static void beat(struct md_publisher *p, int64_t now)
{
    struct io_message m = {.family = IO_SYS,
                           .stream = "heartbeat",
                           .run = p->run,
                           .seq = IO_SEQ_NONE,
                           .t_ns = IO_T_NONE,
                           .exact = true,
                           .from_seq = IO_SEQ_NONE,
                           .to_seq = IO_SEQ_NONE,
                           .count = -1,
                           .uptime_s = 1e-9 * (double)(now - p->started_ns),
                           .last_out_seq = p->totals};

    if (now < p->beat_ns)
        return;
    p->beat_ns = now - p->beat_ns > BEAT_NS ? now + BEAT_NS : p->beat_ns + BEAT_NS;
    md_publish(p, &m);
    if ((++p->beats % FORGET_BEATS == 0 || md_registry_crowded(p->registry, p->remember)) &&
        !(p->cut && atomic_load(&p->cut->under_way)))
        forget(p, now);
}

static void flush_all(struct md_publisher *p)
{
    for (unsigned i = 0; i < p->n_outputs; i++)
        if (p->outputs[i]->wake_fd < 0)
            md_output_flush(p->outputs[i]);
}

/* Everything that waits; sleeps until the next heartbeat where nothing does. */
static struct md_batch *next_batches(struct md_publisher *p, struct md_notice *notices, unsigned *ret_notices)
{
    struct timespec until = {p->beat_ns / 1000000000, p->beat_ns % 1000000000};
    struct md_batch *b;

    pthread_mutex_lock(&p->lock);
    if (!p->head && !p->n_notices) {
        p->asleep = true;
        pthread_cond_timedwait(&p->wake, &p->lock, &until);
        p->asleep = false;
    }
    b = p->head;
    p->head = p->tail = NULL;
    *ret_notices = p->n_notices;
    memcpy(notices, p->notices, p->n_notices * sizeof *notices);
    p->n_notices = 0;
    pthread_mutex_unlock(&p->lock);
    return b;
}

static void publish_batch(struct md_publisher *p, struct md_batch *b)
{
    for (size_t i = 0; i < b->entries.n; i++)
        md_publish_entry(p, b, md_batch_entry(b, i));
    p->n_engines -= b->last;
    md_scheduler_give(b->owner, b);
}

/* ---- cuts: what is behind a line waits until every engine has drawn its own ------------------------------------ */

static bool copy_voice(struct io_stream *s, void *arg)
{
    s->cut_voice = s->voice;
    return true;
}

/* All that was published so far, and nothing else, belongs to the cut. */
static void draw_line(struct md_publisher *p)
{
    unsigned marks = 0;

    md_registry_each(p->registry, copy_voice, NULL);
    for (unsigned i = 0; i < p->n_outputs; i++)
        marks += md_output_mark(p->outputs[i]);
    p->lines = 0;
    pthread_mutex_lock(&p->cut->lock);
    p->cut->voiced = true;
    p->cut->outputs_left += marks; /* marks that are there already have taken theirs away */
    pthread_cond_signal(&p->cut->wake);
    pthread_mutex_unlock(&p->cut->lock);
}

static void release(struct md_publisher *p)
{
    struct md_batch *b = p->held, *next;

    p->held = NULL;
    p->held_last = &p->held;
    for (; b; b = next) {
        next = b->next;
        b->owner->past_line = false;
        publish_batch(p, b);
    }
}

/* In the order in which they came. */
static void take_batch(struct md_publisher *p, struct md_batch *b)
{
    if (b->cut) {
        b->owner->past_line = true;
        p->lines++;
    }
    if (!b->owner->past_line) {
        publish_batch(p, b);
        return;
    }
    b->next = NULL;
    *p->held_last = b;
    p->held_last = &b->next;
    if (p->lines < p->all_engines)
        return;
    draw_line(p);
    release(p);
}

static void *run(void *arg)
{
    struct md_publisher *p = arg;
    struct md_notice *notices = p->spare_notices;
    int64_t flushed = md_now_ns();

    while (p->n_engines > 0) {
        unsigned n_notices;
        struct md_batch *b = next_batches(p, notices, &n_notices), *next;
        int64_t now;
        bool idle = !b || !b->next;
        for (unsigned i = 0; i < n_notices; i++)
            publish_notice(p, &notices[i]);
        for (; b; b = next) {
            next = b->next;
            take_batch(p, b);
        }
        now = md_now_ns();
        beat(p, now);
        if (idle || now - flushed > FLUSH_NS) {
            flush_all(p);
            flushed = now;
        }
    }
    for (unsigned i = 0; i < p->n_outputs; i++)
        md_output_sync(p->outputs[i]);
    atomic_store(&p->finished, true);
    (void)!write(p->finished_fd, &(uint64_t){1}, sizeof(uint64_t));
    return NULL;
}

int md_publisher_init(struct md_publisher *p)
{
    pthread_condattr_t clock;

    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&p->lock, NULL);
    p->beat_ns = p->started_ns;
    p->held_last = &p->held;
    p->all_engines = p->n_engines;
    p->times = malloc(MD_MESSAGE_FLOATS * sizeof *p->times); /* pages that no irregular stream needs stay untouched */
    return p->times ? 0 : -ENOMEM;
}

int md_publisher_start(struct md_publisher *p)
{
    int r = -pthread_create(&p->thread, NULL, run, p);

    p->running = r == 0;
    if (p->running)
        pthread_setname_np(p->thread, "publisher");
    return r;
}

void md_publisher_join(struct md_publisher *p)
{
    if (p->running)
        pthread_join(p->thread, NULL);
    p->running = false;
}

void md_publisher_done(struct md_publisher *p)
{
    free(p->times);
    p->times = NULL;
}
