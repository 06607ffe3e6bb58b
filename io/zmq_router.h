/* zmq_router.h: senders that can send again (pattern router): which rows of a message are next, whose a stream is, and
 * what senders are told. One thread, the source's.
 *
 * A stream is taken without holes and without doubles: what was taken before is dropped, what lies beyond a hole is
 * asked for again and not taken before the hole is filled, or before the sender says (flag `gap` or `start`) that it
 * cannot be. It belongs to the connection that sent its last rows, until that is gone. */
#ifndef IO_ZMQ_ROUTER_H
#define IO_ZMQ_ROUTER_H

#include "io/zmq_delivery.h"

struct io_zmq_router {
    void *socket;
    struct io_zmq_delivery *delivery;
    zmq_msg_t sender; /* of the message at hand: its connection's identity */
    struct { /* the last message that was taken; not answered yet, for the next one may be of the same stream */
        bool is;
        char stream[IO_ID_MAX + 1];
        uint8_t bytes, sender[255];
    } due;
    uint64_t sent, dropped; /* not yet told to the host */
};

/* Options of the socket, before it is bound. */
int io_zmq_router_init(struct io_zmq_router *r, void *socket, struct io_zmq_delivery *d);
void io_zmq_router_done(struct io_zmq_router *r);

/* As io_zmq_message_receive() into the delivery's message. */
int io_zmq_router_receive(struct io_zmq_router *r);
/* Judges it; the delivery is busy afterwards, or the sender was answered. */
void io_zmq_router_accept(struct io_zmq_router *r, int64_t now_ns);
/* The delivery is done with the message; not taken: it was refused at last. */
void io_zmq_router_delivered(struct io_zmq_router *r, bool taken);
/* Answers what is due; at the end of a turn. */
void io_zmq_router_flush(struct io_zmq_router *r);

#endif
