/* zmq_message.h: one ingest message: its frames, and what they mean under the input's format. One thread. */
#ifndef IO_ZMQ_MESSAGE_H
#define IO_ZMQ_MESSAGE_H

#include <zmq.h>

#include "io/wire.h"

enum io_zmq_format { IO_ZMQ_ARRAY, IO_ZMQ_RAW, IO_ZMQ_BYTES, IO_ZMQ_GNURADIO };

enum { IO_ZMQ_FRAMES = 4 }; /* topic, header, payload, times */

struct io_zmq_layout { /* the input's, fixed */
    enum io_zmq_format format;
    enum io_dtype dtype; /* raw, gnuradio */
    uint32_t channels;   /* likewise */
    bool topic;          /* all but array: a topic frame comes first */
    bool tags;           /* gnuradio: a header of tags precedes the items */
};

struct io_zmq_message {
    zmq_msg_t frames[IO_ZMQ_FRAMES];
    unsigned n_frames;     /* as received; those beyond IO_ZMQ_FRAMES are dropped */
    size_t bytes, longest; /* of all frames; of one */
    /* filled in by io_zmq_message_read(); points into the frames */
    struct io_header header;
    char topic[IO_ID_MAX + 1]; /* less one trailing '/'; "" where there is none */
    bool topic_bad;            /* there is one, and it cannot be (part of) an id */
    const unsigned char *payload, *times;
    uint64_t n;
    uint32_t channels;
};

void io_zmq_message_init(struct io_zmq_message *m);
void io_zmq_message_done(struct io_zmq_message *m);

/* t + ns, or IO_T_NONE where that is no time (any more). */
int64_t io_zmq_later(int64_t t_ns, double ns);

/* The next message, without waiting: 0, -EAGAIN, or another negative errno. */
int io_zmq_message_receive(struct io_zmq_message *m, void *socket);

/* Checks and takes apart what was received. On failure *ret_why and *ret_text say why. */
int io_zmq_message_read(struct io_zmq_message *m, const struct io_zmq_layout *layout, enum io_reason *ret_why,
                        const char **ret_text);

#endif
