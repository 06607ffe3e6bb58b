/* scheduler.h: the engine thread of one model. It sleeps until a batch is worth while, takes what is ready, oldest
 * first and a bounded share of each stream, judges it (timeline.h), has the engine advance it while it fills the next,
 * and hands it to the publisher. It alone touches the engine and the courses of its streams. */
#ifndef MD_SCHEDULER_H
#define MD_SCHEDULER_H

#include "daemon/composer.h"
#include "daemon/errand.h"
#include "daemon/inbox.h"
#include "daemon/spill.h"

struct md_publisher;

struct md_stream_list { /* by course.prev_open, next_open */
    struct io_stream *head, *tail;
};

enum { MD_BATCHES = 4 }; /* one is filled, one is advanced, one is published, one waits for that */

struct md_scheduler {
    /* set by the owner */
    const char *model; /* id */
    struct ssm_engine *engine;
    bool exact; /* ssm_engine_exact() */
    struct md_publisher *publisher;
    struct md_registry *registry;
    struct md_snapshot_cut *cut; /* NULL: no snapshots are made */
    _Atomic int *code;           /* the daemon's exit code */
    int64_t max_delay_ns;
    uint32_t max_streams;
    /* its own */
    struct md_inbox inbox;
    struct md_composer composer;
    struct md_engine_counters counters;
    _Atomic uint32_t open_streams, slots_used;
    _Atomic uint64_t rounds;    /* how often the thread has rested, or gone on from that, or a batch has landed */
    _Atomic bool resting;       /* waits for rows, or for the publisher */
    _Atomic bool failed;        /* the device has, for good */
    struct md_stream_list open; /* streams with slots; those that ran last first where some may be away: */
    struct md_stream_list away; /* open ones without */
    struct md_spill spill;
    int64_t next_sweep_ns;   /* when a timer or a hold of some stream may be due */
    uint32_t holding;        /* streams that wait for late rows */
    uint64_t busy_before_ns; /* of other devices */
    bool anew;               /* streams of the list begin new epochs, which is still to be said */
    bool draining;
    struct md_batch *flying; /* under way on the device */
    uint32_t cut_number;     /* of the last cut drawn here */
    struct io_stream *sweep_at, *sweep_away;
    int64_t swept_ns; /* end of the last portion */
    bool sweeping;    /* streams from sweep_at on, then those from sweep_away on, are still to be copied for it */
    struct md_errand errand;
    const struct io_stream *asked_for; /* by the errand; it stays out of batches until that is done */
    bool past_line; /* the publisher's: batches come from behind the line of the cut that it waits for */
    pthread_t thread;
    bool running;
    /* batches that the publisher has given back */
    pthread_mutex_t spare_lock;
    pthread_cond_t spare_wake;
    struct md_batch *spare;
    struct md_batch batches[MD_BATCHES];
};

int md_scheduler_init(struct md_scheduler *s, uint32_t slots, struct io_pool *pool);
/* Another engine, or NULL, in the place of the one, which is still open. No thread runs. */
void md_scheduler_exchange(struct md_scheduler *s, struct ssm_engine *engine);
int md_scheduler_start(struct md_scheduler *s);
/* After md_inbox_drain() and md_scheduler_join(): ready to be started again, with what is queued. */
void md_scheduler_again(struct md_scheduler *s);
/* The thread has ended: after md_inbox_drain() only. */
void md_scheduler_join(struct md_scheduler *s);
void md_scheduler_done(struct md_scheduler *s);

/* r, which a call of the engine has returned. -EIO: the device has failed; its streams' rows are lost from now on, so
 * no snapshot may take them as done. The engine thread, or who comes after its end. */
int md_scheduler_heard(struct md_scheduler *s, int r);

/* Whether the thread rests, or has come round since it was asked last (*seen, the caller's): one that hangs in a batch
 * has not, nor has one whose device failed. Any thread. */
bool md_scheduler_moves(struct md_scheduler *s, uint64_t *seen);

/* Publisher: a batch comes back. */
void md_scheduler_give(struct md_scheduler *s, struct md_batch *b);

#endif
