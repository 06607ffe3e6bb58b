/* input.h: one configured input: its source, and the daemon's side of it (struct io_host): streams, queues, discards,
 * notes. The host functions run on the source's thread. */
#ifndef MD_INPUT_H
#define MD_INPUT_H

#include "daemon/door.h"
#include "daemon/inbox.h"

struct md_publisher; /* publisher.h */

/* Log lines about what is discarded: one a second for each reason, saying how many more there were. */
struct md_hush {
    int64_t said_ns[IO_R_COUNT];
    uint64_t more[IO_R_COUNT];
};

struct md_input {
    const struct md_input_conf *conf;
    struct md_registry *registry;
    struct md_inbox *inbox;
    struct md_publisher *publisher;
    const char *model; /* id */
    const struct ssm_model_info *info;
    struct io_host host;
    void *source;      /* of conf->class_; NULL: closed */
    int wake_fd;       /* of the thread that runs it */
    uint32_t live;     /* streams, under the inbox's lock */
    bool blocked;      /* under the inbox's lock: wake the source when there is room */
    _Atomic bool room; /* a queue that was full has room */
    _Atomic bool done; /* finite, and consumed */
    bool finite;       /* --once waits for it */
    _Atomic int *code; /* raised to EX_DATAERR when a file cannot be read on */
    int64_t notice_ns; /* of refused streams: when this second began, */
    unsigned notices;  /* and how many events it has seen */
    struct md_hush hush;
    struct md_door door;
    struct md_input_counters counters;
};

/* A block without rows that carries an event to its place among the rows; private block flag MD_NOTE. */
enum { MD_NOTE = 1 << 17 };
struct md_note {
    int64_t from, to;
    char event[32], reason[160];
};

/* Fills in the host of an input whose other fields are set. */
void md_input_init(struct md_input *in, struct io_pool *pool);
void md_input_wake(struct md_input *in); /* any thread: a full queue got room */

#endif
