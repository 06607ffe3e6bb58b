/* zmq_delivery.h: from one received message to blocks in the hands of the daemon. One thread, the source's. */
#ifndef IO_ZMQ_DELIVERY_H
#define IO_ZMQ_DELIVERY_H

#include "io/stream_cache.h"
#include "io/zmq_message.h"
#include "io/zmq_resample.h"

struct io_zmq_delivery {
    /* the input's, fixed */
    const struct io_common *common;
    const struct io_host *host;
    struct io_zmq_layout layout;
    size_t max_frame; /* bytes */
    bool resent;      /* what is not taken comes again, and so is not lost */
    struct io_zmq_plans plans;
    struct io_stream_cache cache;
    /* the message at hand; handed over piece by piece while `busy` */
    bool busy;
    struct io_zmq_message message;
    char id[IO_ID_MAX + 1];  /* "" where the message gives none */
    struct io_cached *entry; /* of its stream; NULL: none, or no more */
    double rate;             /* of its rows; 0: irregular or unknown */
    uint64_t row;            /* rows of it that are in blocks already */
    struct io_block *block;  /* refused by a full queue */
    enum io_reason why;      /* it was refused */
    const char *text;
};

/* Zeroed, with the fixed members set. -ENOMEM. */
int io_zmq_delivery_init(struct io_zmq_delivery *d);
void io_zmq_delivery_done(struct io_zmq_delivery *d); /* what is still at hand is counted as lost */

/* Looks at the message just received into d->message; d->busy afterwards: io_zmq_deliver() is to be called. */
void io_zmq_accept(struct io_zmq_delivery *d);
/* Instead: it is over the input's limit. Its rows go, counted; an end does not. */
void io_zmq_turn_away(struct io_zmq_delivery *d);
/* io_zmq_accept() in two steps: what the message says, with d->id; and its rows from `row` on to its stream. Negative
 * errno: refused, counted; d->why and d->text say it. */
int io_zmq_read(struct io_zmq_delivery *d);
int io_zmq_admit(struct io_zmq_delivery *d, uint64_t row);

/* 0: done with the message; -EAGAIN: its stream's queue is full; -ENOMEM: no block to be had. Call again after those.
 * -ECANCELED: done with it, but its stream had ended meanwhile and could not be had again, as d->why and d->text say.
 */
int io_zmq_deliver(struct io_zmq_delivery *d, int64_t now_ns);

/* Gives the rest of the message up, counted. */
void io_zmq_give_up(struct io_zmq_delivery *d, enum io_reason why, const char *text);

#endif
