/* feed_socket.h: the sending end of `mambactl feed`: PUSH, PUB that waits for its subscribers, or DEALER, which hears
 * answers. One thread. */
#ifndef TOOLS_FEED_SOCKET_H
#define TOOLS_FEED_SOCKET_H

#include <zmq.h>

#include "io/zmq_endpoint.h"
#include "tools/feed_stream.h"

struct feed_socket {
    bool pub, dealer;
    const char *topic; /* NULL: with pub the stream's id and a slash, else none */
    struct io_zmq zmq;
    void *monitor; /* PAIR: connections made and broken */
    int connections[64];
    unsigned n_connections;
};

/* Opens and attaches; then waits up to wait_ms for a peer that takes messages, or until wake_fd is readable. 0,
 * -ETIMEDOUT (nobody), -EINTR (wake_fd), others; reterr (IO_ERR) says it. */
int feed_socket_open(struct feed_socket *s, const struct io_zmq_ends *ends, long wait_ms, int wake_fd, char *reterr);

/* False: not now; then all of it is to be sent again. */
bool feed_socket_send(struct feed_socket *s, const struct feed_message *m);

/* The next answer to a DEALER, as two frames; false: none. */
bool feed_socket_receive(struct feed_socket *s, zmq_msg_t verb_and_text[2]);

/* Waits until the peers have read all that was sent, or wake_fd is readable. */
void feed_socket_drain(struct feed_socket *s, int wake_fd);
void feed_socket_close(struct feed_socket *s, int64_t linger_ns);

#endif
