/* zmq_guard.h: who may speak to a socket with CURVE: a thread of its own that answers libzmq's question about each
 * client's key (ZAP, RFC 27) and hears from the socket's monitor which handshakes failed. */
#ifndef IO_ZMQ_GUARD_H
#define IO_ZMQ_GUARD_H

#include "io/source.h"

struct io_zmq_guard;

/* Before the socket binds or connects. `clients`: file of the keys that are let in, read anew for each of them, so that a
 * key that is added or taken out counts at once; NULL on the side that connects. Strings are borrowed until close. */
int io_zmq_guard_open(void *context, void *socket, const char *clients, const struct io_door *door,
                      struct io_zmq_guard **ret, char *reterr);
void io_zmq_guard_close(struct io_zmq_guard **guard); /* after the socket, before its context */

#endif
