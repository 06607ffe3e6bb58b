/* control.h: the control socket: ROUTER on server.control (ipc, mode 0600), one JSON request, one JSON reply.
 *   {"command":"status"}                          {"ok":true, …}
 *   {"command":"streams","glob":"*","limit":1000} {"ok":true,"streams":[…]}
 *   {"command":"snapshot"}                        {"ok":true,"number":n}
 *   {"command":"snapshot","stream":ID}            {"ok":true,"state":BASE64}: a file that holds this stream
 *   {"command":"restore","state":BASE64,"as":ID,"input":ID,"renumber":false}
 *                                                 {"ok":true,"stream":ID,"exact":true}: it waits for its source
 *   {"command":"reset","glob":"*"}                {"ok":true,"streams":n}: the next rows of n live ones begin new
 * epochs
 *   {"command":"reload"}                          {"ok":true,"number":n}: done or refused when reload.answered is n
 *   {"command":"drain"}                           {"ok":true}: the daemon ends, as by SIGTERM
 *   anything else                                 {"ok":false,"error":"…"}
 * A thread of its own. */
#ifndef MD_CONTROL_H
#define MD_CONTROL_H

#include "daemon/daemon.h"

struct md_control;

/* −EADDRINUSE where another process serves the endpoint; a socket file that nobody serves is replaced. */
int md_control_open(const char *endpoint, struct md_daemon *daemon, struct md_control **ret, char *reterr);
/* Nothing is answered any more; before the daemon stops. Whoever looks still finds the socket until it is closed. */
void md_control_mute(struct md_control *control); /* NULL: does nothing */
void md_control_close(struct md_control **control);

#endif
