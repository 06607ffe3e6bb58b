/* control_request.h: one request of the control protocol to its reply; no sockets. Any thread. */
#ifndef MD_CONTROL_REQUEST_H
#define MD_CONTROL_REQUEST_H

#include "daemon/daemon.h"

/* Bytes of a request; of one that carries a stream's state; of that state. */
enum { MD_REQUEST_MAX = 64 << 10, MD_RESTORE_MAX = 256 << 20, MD_STATE_MAX = MD_RESTORE_MAX / 4 * 3 - MD_REQUEST_MAX };
enum { MD_STREAMS_MAX = 100000, MD_STREAMS_DEFAULT = 1000 };

/* A reply to any bytes whatever; never NULL but for lack of memory. */
json_t *md_control_answer(struct md_daemon *daemon, const char *request, size_t len);

#endif
