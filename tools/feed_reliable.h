/* feed_reliable.h: `mambactl feed --reliable`: the receiver (pattern router) says of each stream what it has taken and
 * what is durable there. Rows are sent again where it has lost them: from the files, which are read anew, or, where the
 * input is a pipe, from what was kept. One thread. */
#ifndef TOOLS_FEED_RELIABLE_H
#define TOOLS_FEED_RELIABLE_H

#include "tools/feed_stream.h"

void feed_reliable_begin(struct feed *f, struct feed_stream *s);
void feed_reliable_done(struct feed *f, struct feed_stream *s);

enum feed_step {
    FEED_ROWS,    /* the next rows, as they are due */
    FEED_MESSAGE, /* *m is to be sent first */
    FEED_NOTHING  /* nothing of this stream now */
};
enum feed_step feed_reliable_next(struct feed *f, struct feed_stream *s, int64_t now_ns, struct feed_message *m);
/* True: it had rows or the end of the stream for the first time. */
bool feed_reliable_sent(struct feed *f, const struct feed_message *m);

/* An answer: [verb][text]. */
void feed_reliable_hear(struct feed *f, int64_t now_ns, const char *verb, size_t verb_bytes, const char *text,
                        size_t text_bytes);
/* Drops the streams of which all has arrived. */
void feed_reliable_sweep(struct feed *f);

#endif
