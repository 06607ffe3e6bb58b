/* timeline.h: one stream's clock: which rows of a block are taken, what the model is told of the time before them, and
 * what has to be announced. Pure: no locks, no allocation, no clock; its state is plain data, saved as it stands.
 *
 * A block is judged piece by piece. md_timeline_next() looks at the rows from `at` on and returns one verdict; the
 * caller acts on it, moves `at` by v.n after DISCARD and by what it took after ROWS, and asks again until DONE. Every
 * verdict but ROWS takes its own cause away (a flag is cleared, a hole is closed), so the judging can stop anywhere and
 * go on later.
 *
 * Words: `next` is the number the next row should have; a hole is rows between `next` and what came; a tick is a row in
 * regular streams and a nanosecond in irregular ones. */
#ifndef MD_TIMELINE_H
#define MD_TIMELINE_H

#include <stdbool.h>

#include "daemon/clock.h"
#include "daemon/config.h"
#include "io/block.h"

/* What the rules depend on; fixed while a stream lives. */
struct md_time_rules {
    bool irregular;      /* every row has its own time */
    struct md_rate rate; /* regular; num 0: unknown, then holes are judged by seq only */
    int64_t interval_ns; /* irregular: reference step; −1: the first positive difference */
    int64_t gap_max_ns;  /* −1: every gap is bridged */
    bool nan_reset;      /* nan: reset */
    bool reorder;        /* late: reorder */
};

enum { MD_HOLES = 4 };

/* Private block flag: do not wait for what is missing before this block. It was dropped here, or waited for long
 * enough. */
enum { MD_NO_WAIT = 1 << 16 };

enum md_reset {
    MD_RESET_NONE,
    MD_RESET_GAP,
    MD_RESET_NAN,
    MD_RESET_START,
    MD_RESET_SENDER,
    MD_RESET_DEVICE,
    MD_RESET_MODEL,
    MD_RESET_SPILL,
    MD_RESETS
};
const char *md_reset_name(enum md_reset r);

/* One stream's state. Zero it, then md_timeline_start(). */
struct md_timeline {
    int64_t next;                 /* IO_SEQ_NONE before the first row of a stream never seen */
    int64_t owed;                 /* ticks of bridged holes not yet told to the model; regular streams */
    int64_t interval;             /* irregular: ticks of the reference step; 0: not known yet */
    int64_t last_t;               /* irregular: time of the last row taken, or IO_T_NONE */
    int64_t anchor_seq, anchor_t; /* regular: one row whose time is known; anchor_t IO_T_NONE: none */
    uint64_t rows;                /* taken since the epoch began */
    uint32_t epoch;
    uint8_t reset;        /* enum md_reset: one is due */
    bool returned;        /* an id came back: the sender's number stands, whatever it was before */
    uint32_t n_holes;     /* bridged or not, the newest MD_HOLES are remembered: rows that fill them are late, */
    struct {              /* other old rows are duplicates */
        int64_t from, to; /* [from, to) */
    } holes[MD_HOLES];
};

enum md_verdict_kind {
    MD_ROWS,    /* n rows can be taken: md_timeline_take() */
    MD_DISCARD, /* n rows are not taken, because of `why`; from … to are their numbers */
    MD_EVENT,   /* `event` is to be announced before the rows that follow */
    MD_RESET,   /* the state is to be reset: a new epoch began, because of `reset` */
    MD_STOP,    /* a reset is due, but the caller has rows of the old epoch in hand: ask again with fresh = true */
    MD_HOLD,    /* late: reorder: the block is to wait for what is missing before it */
    MD_DONE     /* nothing left of the block */
};

struct md_verdict {
    enum md_verdict_kind kind;
    uint32_t n;
    int64_t seq; /* of the row at `at` */
    enum io_reason why;
    enum md_reset reset;
    bool clock; /* the message's seq and t_ns disagree by more than one sample; once per block */
    const char *event, *reason;
    int64_t from, to, count; /* inclusive; count −1: unknown */
    bool bridged;
};

/* A stream begins (epoch 0) or an id returns (epoch + 1, numbers counted on). */
void md_timeline_start(struct md_timeline *t, bool returning);

/* fresh: the caller holds no rows of the epoch's current batch. */
void md_timeline_next(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at, bool fresh,
                      struct md_verdict *ret);

/* Takes n rows from `at` on, as the last verdict allowed. dt (may be NULL for a regular stream that owes nothing)
 * receives the ticks from row to row. */
void md_timeline_take(struct md_timeline *t, const struct md_time_rules *r, struct io_block *b, uint32_t at, uint32_t n,
                      int64_t *dt);

/* The epoch ends by another cause (device failure, another model): the next one begins. */
void md_timeline_reset(struct md_timeline *t);

/* Time of a regular stream's row, or IO_T_NONE. */
int64_t md_timeline_ns(const struct md_time_rules *r, int64_t anchor_seq, int64_t anchor_t, int64_t seq);

#endif
