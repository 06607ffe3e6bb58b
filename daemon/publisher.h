/* publisher.h: the publisher thread: batches in, messages out, in order; heartbeats; notices that belong to no stream.
 */
#ifndef MD_PUBLISHER_H
#define MD_PUBLISHER_H

#include "daemon/output.h"
#include "daemon/scheduler.h"

enum { MD_NOTICES = 64, MD_MESSAGE_FLOATS = 1 << 18 /* of payload; longer messages are cut */ };
enum { MD_MESSAGE_RECORDS = 128 /* of a byte stream: a header has the length of each */ };

struct md_notice { /* an error about an id that has no stream here */
    char id[IO_ID_MAX + 1];
    const char *model, *reason; /* constant strings */
};

struct md_publisher {
    /* set by the owner */
    uint64_t run;
    int64_t started_ns;
    struct md_output **outputs;
    unsigned n_outputs;
    struct md_registry *registry;
    struct md_snapshot_cut *cut; /* NULL: no snapshots are made */
    int64_t forget_ns;
    uint32_t remember;  /* ended streams */
    unsigned n_engines; /* that will say their last batch */
    int finished_fd;    /* eventfd: all engines have drained and all is flushed */
    /* queue of batches, and of notices */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct md_batch *head, *tail;
    bool asleep;
    struct md_notice notices[MD_NOTICES];
    unsigned n_notices;
    /* its own */
    pthread_t thread;
    bool running;
    struct md_notice spare_notices[MD_NOTICES];
    _Atomic bool finished;
    int64_t beat_ns; /* of the next heartbeat */
    uint64_t beats;
    uint64_t totals[IO_FAMILIES];       /* rows published */
    struct md_batch *held, **held_last; /* behind the line of a cut that other engines have not drawn yet */
    unsigned lines;                     /* engines that have */
    unsigned all_engines;               /* n_engines at the start */
    int64_t *times;                     /* [MD_MESSAGE_FLOATS] of the rows of an irregular stream's message */
    uint32_t spans[MD_MESSAGE_RECORDS];
    md_count notices_lost;
    md_count forgotten;     /* streams, for want of room */
    struct md_hist latency; /* arrival of a message's first row's last sample to hand-over */
};

int md_publisher_init(struct md_publisher *p); /* before any engine runs; also again */
int md_publisher_start(struct md_publisher *p);
void md_publisher_join(struct md_publisher *p); /* returns after the last batch of every engine */
void md_publisher_done(struct md_publisher *p);

/* Engine threads: b comes back by md_scheduler_give(). Never waits. */
void md_publisher_push(struct md_publisher *p, struct md_batch *b);
/* Any thread. Where too many wait, it is dropped and counted. */
void md_publisher_notice(struct md_publisher *p, const char *id, const char *model, const char *reason);

/* messages.c: all messages of one entry, in order. */
void md_publish_entry(struct md_publisher *p, const struct md_batch *b, const struct md_entry *e);
void md_publish(struct md_publisher *p, const struct io_message *m);

#endif
