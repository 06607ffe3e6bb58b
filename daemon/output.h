/* output.h: one configured output: its sink, and where the sink has a thread of its own, the bounded queue before it.
 */
#ifndef MD_OUTPUT_H
#define MD_OUTPUT_H

#include <pthread.h>

#include "daemon/config.h"
#include "daemon/door.h"

enum { MD_OUTPUT_QUEUE = 4 << 20 }; /* bytes that wait for a sink on another thread */

struct md_output_side { /* messages laid out one behind the other; grows to its peak */
    unsigned char *bytes;
    size_t n, cap;
};

struct md_output {
    const struct md_output_conf *conf;
    struct io_sink_env env;
    void *sink;        /* NULL: closed */
    int wake_fd;       /* of the thread that serves it; −1: the publisher writes directly */
    _Atomic int *code; /* raised to EX_IOERR when a write fails */
    struct md_output_counters counters;
    struct md_door door;
    int64_t said_ns; /* last log line about a failure */
    bool dirty;      /* written to since the last flush; the serving thread's */
    /* queue */
    pthread_mutex_t lock;
    pthread_cond_t room;
    struct md_output_side filling, serving;
    bool sync; /* the publisher waits until all is written and flushed */
    struct io_position position; /* at the last mark, or when it was opened, by the serving thread; */
    int marked;                  /* how that went */
    void (*on_mark)(void *arg);  /* it is there; NULL: no snapshots are made */
    void *on_mark_arg;
    int64_t flushed_ns;
};

void md_output_init(struct md_output *o);
void md_output_done(struct md_output *o);

/* 0 or what the sink says. The linger is how long close may wait for a peer. */
int md_output_open(struct md_output *o, char *reterr);
void md_output_close(struct md_output *o, int64_t linger_ns);
int md_output_code(const struct md_output *o, int err); /* sysexits code of a failed open */

/* Publisher. A file sink behind in its work holds the publisher; messages that the sink itself refuses are counted. */
void md_output_write(struct md_output *o, const struct io_message *m);
/* Publisher: after what was handed over so far, o->position is taken and on_mark called, by the serving thread. False:
 * this output keeps no position. */
bool md_output_mark(struct md_output *o);
/* Publisher: waits until everything handed over has been written and flushed. */
void md_output_sync(struct md_output *o);

/* Serving thread: writes what waits. False: nothing waited. */
bool md_output_serve(struct md_output *o);
int64_t md_output_flush_due(const struct md_output *o); /* INT64_MAX: there is nothing to flush */
void md_output_flush(struct md_output *o); /* the serving thread, or the publisher where that writes directly */

#endif
