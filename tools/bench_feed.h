/* bench_feed.h: the sender of bench_peers.h as a thread of the daemon's process: blocks straight into the queues, in place
 * of the input's source. */
#ifndef TOOLS_BENCH_FEED_H
#define TOOLS_BENCH_FEED_H

#include <pthread.h>
#include <stdbool.h>

#include "io/source.h"

struct bench_feed {
    const struct io_host *host; /* NULL: not started */
    uint32_t n_streams, samples;
    unsigned burst;
    struct io_stream **streams; /* [n_streams]; NULL: not opened yet */
    uint64_t sent;              /* blocks */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint64_t messages; /* ordered and not taken up yet */
    double per_second;
    _Atomic bool quit;
};

int bench_feed_start(struct bench_feed *f, const struct io_host *host, uint32_t streams, uint32_t samples,
                     unsigned burst);
void bench_feed_send(struct bench_feed *f, uint64_t messages, double per_second); /* as bench_sender_send() */
void bench_feed_stop(struct bench_feed *f);

#endif
