/* batch.h: one batch: what the engine is given for every stream in it, and everything the publisher needs to know of
 * the results. It owns its arenas, which grow to their peak and stay. A batch is in one thread's hands at a time: the
 * scheduler fills and advances it, the publisher reads it and gives it back. */
#ifndef MD_BATCH_H
#define MD_BATCH_H

#include "daemon/stream.h"

struct md_event {
    uint32_t at; /* stands before row `at` of its entry, counted with the carried rows */
    uint32_t epoch;
    const char *event, *reason;
    int64_t seq, t_ns, from, to, count;
    bool bridged;
    bool closes; /* what came before it was the end of an epoch */
};

/* One stream's share. Rows are counted from the first of the unfinished patch that earlier batches left: `carried`,
 * then `rows`. */
struct md_entry {
    struct io_stream *stream;
    uint32_t epoch, carried, rows;
    uint64_t first_step; /* steps of the epoch before this batch */
    uint32_t steps;      /* that end in this batch */
    uint32_t first_run, n_runs, first_event, n_events;
    int64_t interval;                                          /* irregular streams */
    size_t x, dt;                                              /* into the arenas; dt SIZE_MAX: regular throughout */
    size_t forecast, embedding, anomaly, joint, notices, warm; /* of the results; SIZE_MAX: none */
    size_t logits, surprise, records, ends;                    /* likewise, of a byte stream */
    uint32_t n_records;                                        /* that ended; set by the engine */
    const char *failed;                                        /* its results are lost: why */
    bool closing;                                              /* the stream ends with this entry */
    bool inexact; /* its states are not bitwise those of a run that never stopped */
};

struct md_arena {
    void *p;
    size_t n, cap; /* elements */
};

struct md_batch {
    struct md_batch *next;
    struct md_scheduler *owner;
    struct md_arena entries, items, x, tokens, dt, runs, events, out, notices, warm,
        ends;               /* md_entry ssm_item double int32 int64 md_run md_event float ssm_notice u8 uint32 */
    struct md_arena texts;  /* struct md_text *, in the order of the last items */
    struct io_block *spent; /* blocks whose payload events point into */
    int64_t started_ns, advanced_ns; /* when the engine got it, and its results were there */
    bool sent;                       /* the engine has it, or had it */
    bool failed;                     /* the engine did not advance it */
    bool last;                       /* nothing comes after it: the engine has drained */
    uint32_t cut;                    /* the line of this cut lies just before it; 0: none */
};

void md_batch_done(struct md_batch *b);
void md_batch_clear(struct md_batch *b);

/* n more elements of `size` bytes; their index, or SIZE_MAX when memory is out (the arena stays as it was). */
size_t md_arena_add(struct md_arena *a, size_t n, size_t size);

static inline struct md_entry *md_batch_entry(const struct md_batch *b, size_t i)
{
    return (struct md_entry *)b->entries.p + i;
}

static inline struct md_run *md_batch_run(const struct md_batch *b, size_t i)
{
    return (struct md_run *)b->runs.p + i;
}

static inline struct md_event *md_batch_event(const struct md_batch *b, size_t i)
{
    return (struct md_event *)b->events.p + i;
}

/* Samples in it, or bytes. */
static inline size_t md_batch_samples(const struct md_batch *b)
{
    return b->x.n + b->tokens.n;
}

static inline float *md_batch_out(const struct md_batch *b, size_t i)
{
    return (float *)b->out.p + i;
}

static inline struct ssm_notice *md_batch_notices(const struct md_batch *b, size_t i)
{
    return (struct ssm_notice *)b->notices.p + i;
}

/* Steps among [first, first + n) of an epoch that `every` chooses: the k-th, 2k-th, … */
static inline uint32_t md_chosen(uint64_t first, uint64_t n, uint32_t every)
{
    return every == 0 ? 0 : (uint32_t)((first + n) / every - first / every);
}

/* Opens an entry for a stream: its carried rows. −ENOMEM. */
int md_batch_begin(struct md_batch *b, struct io_stream *s, struct md_entry **ret);
/* Appends n rows of a block from `at` on, which the stream's timeline takes. −ENOMEM: nothing was taken. */
int md_batch_rows(struct md_batch *b, struct md_entry *e, struct io_block *block, uint32_t at, uint32_t n,
                  uint32_t *ret_missing);
/* Closes the entry: reserves its results, keeps the rows of the unfinished patch in the stream. −ENOMEM. */
int md_batch_end(struct md_batch *b, struct md_entry *e);
/* The engine's items for all entries; their number. */
uint32_t md_batch_items(struct md_batch *b);

#endif
