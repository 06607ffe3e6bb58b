/* stream.h: one stream, and the registry that finds it by id.
 *
 * A stream's record lives from the first time its id is seen until it is forgotten; its slots only while it is live.
 * The record is what is remembered of an ended stream: an id that returns goes on with the next epoch. Each group of
 * fields has one owner; nothing else guards them:
 *
 *   identity   written under the registry's lock while the stream is not live and not in flight; then read by all
 *   queue      the lock of its inbox (inbox.h)
 *   course     the engine thread (scheduler.h)
 *   voice      the publisher thread; cut_voice: its copy at the last cut, read by the snapshot's thread
 *   replay     the source's thread, under the lock of its inbox: whose source it is may change
 *   place      as it says
 *   seen       relaxed atomics, for the status */
#ifndef MD_STREAM_H
#define MD_STREAM_H

#include <pthread.h>

#include "daemon/alarm.h"
#include "daemon/counters.h"
#include "daemon/plan.h"
#include "daemon/timeline.h"

struct md_input; /* input.h */
struct md_inbox; /* inbox.h */

struct md_queue {
    struct io_block *head, *tail;
    struct io_stream *next_ready;
    uint32_t rows;
    struct io_lost lost;    /* since the last block: they stand before the next one */
    uint32_t flags;         /* of dropped blocks, for the next one */
    bool ready;             /* in the ready list or in the engine's hands */
    bool live;              /* slots are reserved */
    bool held;              /* the source has not said end() since it asked */
    _Atomic uint32_t stale; /* as many inputs that had the stream before this one still have handles of it */
    _Atomic bool reset;     /* is asked for: by any thread, taken by the engine's */
    bool ending;            /* end() came while the queue was empty: the end stands before whatever is queued now */
};

/* Consecutive rows of one block. The time of a row follows from one whose time is known. */
struct md_run {
    int64_t seq, anchor_seq, anchor_t;
    int64_t interval; /* irregular streams: the reference step as it was known at this row; 0: not yet */
    uint64_t arrived_ns;
    uint32_t n;
};

/* How far a source's blocks have been judged, and by what their data is known again after a restart: its last row, of
 * bytes the last MD_TRAIL in a row of one file. */
enum { MD_TRAIL = 32 };
struct md_trail {
    int64_t next;   /* the row behind the last one, by the source's numbers, or IO_SEQ_NONE; */
    int64_t origin; /* the first one of its file */
    uint64_t mark;  /* of the last `rows` */
    uint32_t rows;
    uint8_t last[MD_TRAIL]; /* of a byte stream: those */
};

/* What a snapshot has of a stream that has not begun again; points into the file's map, or to `own`. */
struct md_restored {
    const struct md_saved_stream *saved; /* cut.h; NULL: nothing */
    size_t bytes;
    bool open;    /* its slots go on where they were; false: what is remembered of an ended stream */
    void *own;    /* for free(); NULL: the map's */
    bool inexact; /* under other weights */
};

struct md_course {
    struct md_timeline time;
    struct md_time_rules rules;
    struct ssm_slot *slots; /* [channels]; it is open where it has these, or is away: */
    uint32_t *cells;        /* [channels] of the spill file, where its slots lie then; NULL: it is as after a reset */
    struct io_block *mine;  /* taken from the queue, in order; the first is being judged from row `at` on */
    struct io_block *mine_tail;
    struct io_block *held;                   /* late: reorder: waiting for missing rows, by seq */
    struct io_stream *prev_open, *next_open; /* list of the engine's open streams, or of those away */
    struct io_stream *next_spill;            /* spill.h */
    int64_t since_ns;                        /* it has had its slots, or waits for some */
    struct md_run *runs;                     /* rows of the unfinished patch */
    int64_t last_ns;                         /* when the last block came */
    struct md_restored restored;
    int64_t lost; /* a snapshot that ends here could not be gone on from: that is said as a gap; or IO_SEQ_NONE */
    struct md_trail trail; /* of finished blocks */
    uint32_t at, held_rows, n_runs, cap_runs;
    uint32_t cut;  /* number of the last cut that this stream was copied for */
    uint32_t anew; /* 1 + rows of the unfinished patch of the epoch that a reload ended, which is still to be said */
    bool silent;
    bool end_due;   /* after what is in `mine` */
    bool greeted;   /* `start` was announced */
    bool refused;   /* could not be opened: its error was announced */
    bool returning; /* the id has been live before */
    bool resumed;   /* it goes on from a snapshot: that is said instead of `start` */
    bool away;      /* open, without slots: spill.h */
    bool to_leave;  /* its slots are wanted by others: spill.h */
    bool inexact;   /* of states that another op table made; until they are reset */
};

static inline bool md_course_is_open(const struct md_course *c)
{
    return c->slots || c->away;
}

/* A replayable source that begins again from its first row: rows up to where the snapshot was are let through
 * unseen. */
struct md_replay {
    int64_t from;   /* first row that is wanted, or IO_SEQ_NONE: all */
    int64_t passed; /* rows let through unseen so far */
    int64_t origin; /* of its file */
    uint64_t mark;  /* of the `rows` before `from` */
    uint32_t rows;
    bool met;   /* they were there */
    bool quiet; /* the stream had ended; unless more rows come its end is none */
};

static inline struct md_replay md_replay_from(const struct md_trail *t, bool quiet)
{
    return (struct md_replay){.from = t->next, .origin = t->origin, .mark = t->mark, .rows = t->rows, .quiet = quiet};
}

/* For senders that can send again, by their numbers. */
struct md_place {
    int64_t next;            /* source's thread: behind the last row taken, or IO_SEQ_NONE */
    bool ended;              /* likewise: it has said end() since */
    bool durable_end;        /* registry's lock: the newest snapshot on the disk knows that it has ended, */
    _Atomic int64_t durable; /* and goes on here */
    int64_t cut;             /* at the last cut: the thread that copies, then the snapshot's */
    bool cut_end;
};

struct md_voice {
    uint64_t out_seq[IO_EVENT];
    struct md_alarm alarm;
    uint32_t epoch; /* of what was published last */
    /* byte streams */
    uint64_t record_bytes;        /* of the unfinished record; more than 0: */
    int64_t record_seq, record_t; /* its first byte, and when that was */
    uint64_t records;             /* that ended in this epoch */
};

struct md_seen {
    _Atomic int64_t next, last_ns;
    _Atomic uint32_t epoch;
    md_count rows, discarded, out_rows[IO_EVENT];
    _Atomic float p; /* of the last scored row; −1 until there is one, NaN while that has none */
    _Atomic bool warm, alarm, open, away;
    _Atomic bool waits; /* with a state for its source's next rows */
};

struct io_stream {
    /* identity */
    struct io_stream *chain; /* of the registry's bucket */
    char *id;
    uint64_t hash;
    struct md_input *_Atomic input; /* who has a stale handle (inbox.h) looks at no more than this */
    struct md_inbox *inbox;
    const struct md_plan *plan;
    double rate;
    uint32_t channels;
    bool irregular;
    int32_t delimiter;          /* of a byte stream's records; −1: none; */
    uint32_t record_max;        /* the most bytes of one */
    bool replan;                /* part of its policy waits until it begins anew */
    _Atomic uint32_t in_flight; /* batch entries not yet published */

    struct md_queue queue;
    struct md_course course;
    struct md_voice voice, cut_voice;
    struct md_replay replay;
    struct md_place place;
    struct md_seen seen;
};

struct md_registry {
    pthread_mutex_t lock;
    struct io_stream **table;
    size_t mask, n;
    size_t kept; /* of n, the last time that some were forgotten */
    uint64_t seed;
    struct md_plan *plans;
    const struct md_config *config;
};

void md_restored_drop(struct md_restored *r);

int md_registry_init(struct md_registry *r, const struct md_config *config);
void md_registry_done(struct md_registry *r); /* frees all streams; their slots are given back or their engine closed */

/* The stream of `desc` for an input: found, or made, and given its place in the inbox. 0; −EEXIST: live under another
 * input, or twice in a replayable one; −EINVAL: unlike the live one; −ENOSPC: no slots; −ENOMEM. */
int md_registry_open(struct md_registry *r, struct md_input *input, const struct io_stream_desc *desc,
                     struct io_stream **ret);

/* A stream that a snapshot remembers: a record, not live. Before the daemon's threads, or under the lock. −EEXIST;
 * −EINVAL; −ENOMEM. */
int md_registry_restore(struct md_registry *r, struct md_input *input, const struct io_stream_desc *desc,
                        struct io_stream **ret);
/* Or NULL. Before the threads, or under the lock. */
struct io_stream *md_registry_find(struct md_registry *r, const char *id, uint32_t len);

/* What a stream that is not live is from now on; nothing of it is remembered. Under the lock. −EBUSY: it is live, or
 * the last of it is on its way; −EINVAL; −ENOMEM. */
int md_registry_turn(struct md_registry *r, struct io_stream *s, struct md_input *input,
                     const struct io_stream_desc *desc);

/* All plans that the streams need under another configuration, with the models that are loaded. −ENOMEM. */
int md_registry_plans(const struct md_registry *r, const struct md_config *config, struct md_plan **ret);
/* That configuration. Of a live stream's policy nan, late and adapt, and alarm during an alarm, stay until it begins
 * anew. While no thread runs. */
void md_registry_replan(struct md_registry *r, const struct md_config *config, struct md_plan *plans);

/* Frees the records of streams that ended before that time and that no source holds; and of more than `most` that
 * ended, but for those that wait with their states, those that ended first: returns how many. */
uint64_t md_registry_forget(struct md_registry *r, int64_t before_ns, uint32_t most);
/* Whether there may be more than `most`: many have come since the last time. */
bool md_registry_crowded(struct md_registry *r, uint32_t most);

/* Calls fn for every stream, under the lock, until it returns false. */
void md_registry_each(struct md_registry *r, bool (*fn)(struct io_stream *s, void *arg), void *arg);

#endif
