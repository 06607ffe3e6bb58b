/* feed_stream.h: the daemon's side for the sources of `mambactl feed`: what they push becomes `array` messages, one
 * block a stream at a time, when it is due. One thread. */
#ifndef TOOLS_FEED_STREAM_H
#define TOOLS_FEED_STREAM_H

#include "io/source.h"

struct feed_kept; /* feed_reliable.c */

/* --reliable: what the receiver says of a stream, and what it may ask for again. */
struct feed_reliable {
    bool asking;                  /* nothing is sent before the receiver has said where the stream goes on */
    bool told;                    /* it has at least once */
    bool refused, failed;         /* for now, and said so; for good */
    bool end_sent, ended;         /* the stream's end was sent, is taken */
    int64_t taken, durable, sent; /* rows before these are */
    int64_t ask_ns, heard_ns;
    int64_t back, back_ns;                  /* where it wanted the stream to go on last, and when */
    struct feed_kept *kept, **last, *again; /* messages in order; from `again` on they are to be sent anew */
};

struct feed_stream {
    char id[IO_ID_MAX + 1];
    uint32_t channels;
    double rate;
    bool irregular, begun, ending;
    uint32_t flags;         /* that the next message is to carry */
    struct io_block *block; /* being sent; NULL: none */
    uint32_t at;            /* its first row not sent */
    uint64_t sent;          /* rows */
    int64_t seq;            /* of the next row */
    int64_t base;           /* number of the source's first row */
    int64_t began_ns;       /* CLOCK_MONOTONIC of the first row; 0: not yet */
    int64_t first_t_ns;     /* time of the first row */
    struct feed_reliable again;
};

struct feed {
    struct io_host host; /* for the sources */
    bool realtime;       /* rows leave at their stream's rate, or by their times; else as fast as the peer takes them */
    uint32_t chunk;      /* most rows in a message */
    bool reliable;       /* rows are sent again until the receiver has them: feed_reliable.h */
    bool durable;        /* and until they are durable there */
    bool keep;           /* the sources cannot begin anew: messages are kept, */
    size_t kept, kept_max;        /* so many bytes of them at most */
    bool rewind;                  /* the sources are to begin anew: feed_rewind() */
    bool moved;                   /* rows were sent or passed over since this was cleared: their source may go on */
    bool broken;                  /* the receiver understands nothing of this */
    int64_t heard_ns;             /* when it last said something */
    struct feed_stream **streams; /* live ones */
    unsigned n_streams, capacity, next;
    uint64_t started, ended, rows, messages, bytes;
    int code; /* exit code of the first thing that was refused */
};

struct feed_message { /* borrowed from the stream until feed_sent() */
    struct feed_stream *stream;
    const char *id;
    char header[1024];
    size_t header_bytes, bare_bytes; /* all; up to its flags */
    const void *payload, *times;     /* times: of irregular streams, else NULL */
    size_t payload_bytes, times_bytes;
    int64_t seq;
    uint32_t rows, flags;
    bool last;
    struct feed_kept *again; /* one that was sent before */
    bool question;           /* says nothing, and is to be answered */
    int64_t question_ns;     /* when it was made */
};

/* Completes the header behind its bare_bytes. */
void feed_flags(struct feed_message *m, uint32_t flags);
/* An empty message: how does the stream stand? */
void feed_question(struct feed_stream *s, struct feed_message *m);

int feed_init(struct feed *f, const char *input); /* -ENOMEM */
void feed_done(struct feed *f);

/* The next message that is due; false: none before *wake_ns (lowered to that time, CLOCK_MONOTONIC). */
bool feed_next(struct feed *f, int64_t now_ns, struct feed_message *m, int64_t *wake_ns);
void feed_sent(struct feed *f, const struct feed_message *m);

/* What is held back is dropped; every live stream ends. */
void feed_cut(struct feed *f);

/* All streams are forgotten: their sources are closed. */
void feed_rewind(struct feed *f);
void feed_drop(struct feed *f, struct feed_stream *s);
/* The next rows of the stream's block are sent, or need not be. */
void feed_used(struct feed *f, struct feed_stream *s, uint32_t rows);

#endif
