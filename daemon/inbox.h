/* inbox.h: what waits for one engine: every stream's bounded queue of blocks, and the list of streams that have
 * something, in the order in which they got it. One short lock for all of it; sources push, the engine thread collects.
 */
#ifndef MD_INBOX_H
#define MD_INBOX_H

#include "daemon/stream.h"

struct md_inbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct io_stream *head, *tail; /* ready streams */
    struct io_pool *pool;
    int64_t oldest_ns; /* when the head became ready */
    uint32_t n_ready, n_live;
    uint32_t slots, cells;          /* channels that the engine has room for, and the disk beside it (spill.h) */
    uint32_t taken;                 /* channels of live streams */
    uint32_t widest;                /* channels of one, of all so far */
    uint32_t wake_at;               /* ready streams that the sleeping engine waits for; UINT32_MAX: it does not wait */
    bool pressed;                   /* a queue is full: do not wait for more */
    bool draining;                  /* no more pushes; the engine stops when all is done */
    bool stopping;                  /* give up what is queued */
    bool called;                    /* the engine is to look, though not for rows */
    uint32_t cut;                   /* number of the cut that is asked for */
    const struct io_stream *errand; /* errand.h: whose state is asked for; NULL: nobody's */
};

int md_inbox_init(struct md_inbox *in, uint32_t slots, struct io_pool *pool);
void md_inbox_done(struct md_inbox *in);

/* Source side. Reserves room for the stream: −ENOSPC, also at the input's max_streams. A live stream keeps its own. */
int md_inbox_enter(struct md_inbox *in, struct io_stream *s);
/* In these `from` is the input whose handle it is. An id that the daemon has ended may have gone to another input
 * since: then the handle is stale, and nothing is done with it but to take it back. 0: taken or dropped by policy, and
 * place.next is `next`, unless that is IO_SEQ_NONE; −EAGAIN: full, the caller keeps the block; −ESTALE: the stream is
 * not live, or not from's. */
int md_inbox_push(struct md_input *from, struct io_stream *s, struct io_block *b, int64_t next);
/* Rows of so many channels that the input's limit turned away. The flags pass to the stream's next block. */
void md_inbox_drop(struct md_input *from, struct io_stream *s, uint32_t rows, uint32_t channels, uint32_t flags);
/* Rows that were dropped last stand before no block: an empty one tells of them. Also once no source pushes any more.
 */
void md_inbox_tell_lost(struct md_input *from, struct io_stream *s);
void md_inbox_end(struct md_input *from, struct io_stream *s);
/* Once no source pushes any more: the stream ends, and its source keeps the handle until it is closed. */
void md_inbox_cut_off(struct io_stream *s);
/* The place of its rows and how it stands; false: the handle is stale. */
bool md_inbox_place(struct md_input *from, struct io_stream *s, struct io_place *ret);
/* Its source says end(), or is about to: *ret is where its replay stood, which is over; none where the handle is stale.
 */
void md_inbox_last(struct md_input *from, struct io_stream *s, struct md_replay *ret);
/* The handle goes back if the stream is not live, or not from's, or `always`. False: it is. */
bool md_inbox_let_go(struct md_input *from, struct io_stream *s, bool always);
/* A stream of which nothing has come, and nothing will, is not live after all. False: something has come. */
bool md_inbox_retract(struct md_input *from, struct io_stream *s);

/* Engine side. Waits until a batch is worth while: `full` streams ready, the oldest ready for max_delay_ns, all live
 * ones ready, a queue full, draining, another cut or errand asked for than in *ret, a call, or until_ns. */
struct md_wake {
    enum md_cut cut; /* what closed the batch */
    bool due;        /* it is to be closed: the wait did not end by its time or for a cut */
    uint32_t ready;  /* streams, now */
    bool draining, stopping;
    uint32_t line;                  /* number of the snapshot's cut that is asked for; in: the last one drawn */
    const struct io_stream *errand; /* is asked for; in: is known to be */
};
void md_inbox_wait(struct md_inbox *in, uint32_t full, int64_t max_delay_ns, int64_t until_ns, struct md_wake *ret);

/* Takes up to n ready streams out of the list and moves up to `rows` rows of each from its queue to course.mine, or
 * sets course.end_due where the stream's end stands before the rows that are left. */
uint32_t md_inbox_collect(struct md_inbox *in, struct io_stream **ret, uint32_t n, uint32_t rows);
/* Puts streams back into the list where they have more, else lets them rest. */
void md_inbox_return(struct md_inbox *in, struct io_stream *const *streams, uint32_t n);
/* The engine has closed the stream. True: it was left (its slots are free); false: more has come, it begins again. */
bool md_inbox_leave(struct md_inbox *in, struct io_stream *s);
/* For a stream that is to end by itself: takes it out of rest. False: something has come meanwhile. */
bool md_inbox_claim(struct md_inbox *in, struct io_stream *s);

/* Any thread. The next rows that the engine judges of a live stream begin a new epoch, as where their sender asks for
 * it; they may be in the queue already. False: not live. */
bool md_inbox_reset(struct md_inbox *in, struct io_stream *s);

/* Any thread. Has the engine look at what else it has to do. */
void md_inbox_call(struct md_inbox *in);
/* Engine side. The rows that a discarded block lost, and its flags, stand before the stream's next rows. */
void md_inbox_lost(struct md_inbox *in, struct io_stream *s, const struct io_block *b);

void md_inbox_drain(struct md_inbox *in, bool stop);
/* Asks the engine for a cut, soon. */
void md_inbox_cut(struct md_inbox *in, uint32_t number);

#endif
