/* control.h: the control socket: ROUTER on server.control (ipc, mode 0600), one JSON request, one JSON reply.
 *   {"command":"status"} → {"ok":true, …}      {"command":"streams","glob":"*","limit":1000} →
 * {"ok":true,"streams":[…]} anything else → {"ok":false,"error":"…"} A thread of its own. */
#ifndef MD_CONTROL_H
#define MD_CONTROL_H

#include "daemon/daemon.h"

struct md_control;

/* −EADDRINUSE where another process serves the endpoint; a socket file that nobody serves is replaced. */
int md_control_open(const char *endpoint, struct md_daemon *daemon, struct md_control **ret, char *reterr);
void md_control_close(struct md_control **control); /* before the daemon stops */

/* Signals that asked for what this version lacks; counted in the status as signals.NAME_refused. Any thread. */
enum md_refused { MD_REFUSED_RELOAD, MD_REFUSED_SNAPSHOT };
void md_control_count(struct md_control *control, enum md_refused which); /* NULL is allowed */

#endif
