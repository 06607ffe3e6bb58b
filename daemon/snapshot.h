/* snapshot.h: the thread that makes snapshots: at an interval, when asked, and once more at a clean end. */
#ifndef MD_SNAPSHOT_H
#define MD_SNAPSHOT_H

#include <jansson.h>

#include "daemon/cut.h"

struct md_daemon;
struct md_output;

struct md_snapshot_counters {
    md_count written, failed, corrupt; /* generations; files set aside at the start */
    md_count bytes, streams;           /* of the last one */
    _Atomic int64_t taken_ns;          /* when the last one was begun, monotonic; 0: never */
    struct md_hist seconds;            /* from the cut to the disk */
};

struct md_snapshots {
    struct md_daemon *d; /* NULL: no snapshots are made */
    struct md_snapshot_cut cut;
    struct md_snapshot_writer *writer;
    uint64_t generation;
    uint32_t number; /* of the last cut */
    int lock_fd;     /* DIR/lock: one daemon at a time */
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool asked, ending, drained; /* drained: the engines answer no more */
    uint64_t asked_n, answered;  /* requests, and up to which they are answered */
    char text[MD_SNAPSHOT_ERR];  /* what went wrong with the last one, or "" */
};

/* The folder, made where it is missing, becomes this daemon's: −EAGAIN where another has it. Before anything of it is
 * read. */
int md_snapshots_lock(struct md_snapshots *s, const char *dir, char *reterr);
/* 0; −ENOMEM. Before the threads. */
int md_snapshots_init(struct md_snapshots *s, struct md_daemon *d, char *reterr);
/* Before it is opened: an output tells how far it is in a cut. */
void md_snapshots_attach(struct md_snapshots *s, struct md_output *o);
/* Where there was none: one of nothing but what the outputs held before the first row. All is open, nothing runs. */
int md_snapshots_first(struct md_snapshots *s, char *reterr);
int md_snapshots_start(struct md_snapshots *s);
/* Any thread. One is made soon. Its number, by which the status tells that it is answered; 0: no state folder. */
uint64_t md_snapshots_ask(struct md_snapshots *s);
/* NULL where no snapshots are made. */
json_t *md_snapshots_json(struct md_snapshots *s);
/* The engines are about to end: no more cuts. */
void md_snapshots_drained(struct md_snapshots *s);
/* Ends the thread after the snapshot that it is making. */
void md_snapshots_stop(struct md_snapshots *s);
/* The engines and the publisher have ended and everything queued was consumed. 0 or what went wrong. */
int md_snapshots_last(struct md_snapshots *s, char *reterr);
void md_snapshots_done(struct md_snapshots *s);

#endif
