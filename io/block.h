/* block.h: what carries samples from a source to the scheduler, and the pool it comes from.
 *
 * A block has one owner at a time and moves by queue: source → stream queue → scheduler → pool. An idle stream holds
 * none. The pool hands out power-of-two size classes from free lists and takes memory from the system only while it
 * grows to its peak (never above `limit`), so the steady state allocates nothing. Any thread. */
#ifndef IO_BLOCK_H
#define IO_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum io_sample { IO_F32, IO_F64, IO_U8 }; /* float64 and integers wider than 24 bit travel as IO_F64, bytes as IO_U8 */

static inline size_t io_sample_bytes(enum io_sample t)
{
    return t == IO_F64 ? 8 : t == IO_F32 ? 4 : 1;
}

#define IO_T_NONE INT64_MIN /* no time known */
#define IO_SEQ_NONE INT64_MIN

enum {               /* block flags */
       IO_START = 1, /* the sender says: first samples of the stream */
       IO_END = 2,   /* last samples (n may be 0) */
       IO_RESET = 4, /* the stream's state is to be reset before these samples */
       IO_GAP = 8    /* the sender says that samples before these are lost */
};

/* Rows that were dropped, and how many of them not because a queue was full. */
struct io_lost {
    int64_t rows, limit, streams, memory;
};

struct io_block {
    struct io_block *next;
    int64_t seq;          /* of the first row, as the sender or the file has it; IO_SEQ_NONE: count on */
    int64_t t_ns;         /* of the first row, ns since the Unix epoch, or IO_T_NONE */
    uint64_t arrived_ns;  /* CLOCK_MONOTONIC when the source had it */
    uint32_t n, channels; /* rows, and samples per row */
    uint32_t flags;
    enum io_sample type;
    bool timed;           /* int64 ns per row at io_block_times() */
    uint32_t class_;      /* of the pool */
    uint32_t capacity;    /* bytes of payload */
    int64_t origin;       /* number of the first row of the file that these are from */
    struct io_lost lost;  /* the daemon's: just before these rows */
    unsigned char data[]; /* rows [n][channels], then, 8-aligned, int64 t_ns[n] where timed */
};

static inline void io_lost_add(struct io_lost *to, const struct io_lost *more)
{
    to->rows += more->rows;
    to->limit += more->limit;
    to->streams += more->streams;
    to->memory += more->memory;
}

/* Bytes of payload that n rows need. */
static inline size_t io_block_need(size_t n, size_t channels, enum io_sample type, bool timed)
{
    size_t rows = n * channels * io_sample_bytes(type);
    return timed ? (rows + 7) / 8 * 8 + n * 8 : rows;
}

static inline int64_t *io_block_times(struct io_block *b)
{
    size_t rows = (size_t)b->n * b->channels * io_sample_bytes(b->type);
    return (int64_t *)(void *)(b->data + (rows + 7) / 8 * 8);
}

enum { IO_BLOCK_MAX = 1 << 20 }; /* bytes of payload of the largest block; longer messages are cut into several */

struct io_pool;
int io_pool_new(size_t limit, struct io_pool **ret);
void io_pool_free(struct io_pool **pool);
struct io_block *io_block_get(struct io_pool *pool,
                              size_t payload); /* header zeroed but for next/class; NULL: pool at its limit */
void io_block_put(struct io_pool *pool, struct io_block *block);
void io_pool_usage(struct io_pool *pool, size_t *ret_used, size_t *ret_held, size_t *ret_peak);

#endif
