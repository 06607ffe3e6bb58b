/* feed_stream.h: the daemon's side for the sources of `mambactl feed`: what they push becomes `array` messages, one
 * block a stream at a time, when it is due. One thread. */
#ifndef TOOLS_FEED_STREAM_H
#define TOOLS_FEED_STREAM_H

#include "io/source.h"

struct feed_stream;

struct feed {
    struct io_host host; /* for the sources */
    bool realtime;       /* rows leave at their stream's rate, or by their times; else as fast as the peer takes them */
    uint32_t chunk;      /* most rows in a message */
    struct feed_stream **streams; /* live ones */
    unsigned n_streams, capacity, next;
    uint64_t started, ended, rows, messages, bytes;
    int code; /* exit code of the first thing that was refused */
};

struct feed_message { /* borrowed from the stream until feed_sent() */
    struct feed_stream *stream;
    const char *id;
    char header[1024];
    size_t header_bytes;
    const void *payload, *times; /* times: of irregular streams, else NULL */
    size_t payload_bytes, times_bytes;
    uint32_t rows;
    bool last;
};

int feed_init(struct feed *f, const char *input); /* -ENOMEM */
void feed_done(struct feed *f);

/* The next message that is due; false: none before *wake_ns (lowered to that time, CLOCK_MONOTONIC). */
bool feed_next(struct feed *f, int64_t now_ns, struct feed_message *m, int64_t *wake_ns);
void feed_sent(struct feed *f, const struct feed_message *m);

/* What is held back is dropped; every live stream ends. */
void feed_cut(struct feed *f);

#endif
