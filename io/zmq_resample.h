/* zmq_resample.h: resampling of streams that come in messages. A stream's resampler stands on an unbroken run of rows:
 * at a hole, a reset or the end it is drained, and what follows begins a new run. One thread. */
#ifndef IO_ZMQ_RESAMPLE_H
#define IO_ZMQ_RESAMPLE_H

#include "io/resample.h"
#include "io/zmq_message.h"

struct io_zmq_plans { /* one per ratio that the input has met */
    struct io_zmq_plan **v;
    unsigned n;
};
void io_zmq_plans_done(struct io_zmq_plans *plans);

struct io_zmq_run; /* one stream's */
/* -ERANGE, -EINVAL: these rates cannot be brought together; -ENOMEM. */
int io_zmq_run_new(struct io_zmq_plans *plans, double from, double to, uint32_t channels, struct io_zmq_run **ret);
void io_zmq_run_free(struct io_zmq_run **run);

/* A new message of the stream: decides whether it goes on with the run. Returns how many of its first rows were in the
 * run already and are to be left out. */
uint64_t io_zmq_run_meet(struct io_zmq_run *run, const struct io_zmq_message *m);

/* The next block of output, from the message's rows from *row on (advanced), or at the end of a run from its remains.
 * *ret NULL: all is consumed. -ENOMEM: no block to be had, nothing is changed. */
int io_zmq_run_block(struct io_zmq_run *run, struct io_pool *pool, const struct io_zmq_message *m,
                     const struct io_common *common, uint64_t *row, struct io_block **ret);

#endif
