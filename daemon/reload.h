/* reload.h: another configuration for a running daemon. Inputs, outputs and models that it leaves as they are keep
 * their sockets, files and states: all threads come to rest between two batches, the parts change places, the threads
 * start again. Main thread. */
#ifndef MD_RELOAD_H
#define MD_RELOAD_H

#include "daemon/daemon.h"

/* Takes the configuration over where it returns 0. −EINVAL: refused, or what is new in it could not be opened; all is
 * as it was, and `reterr` (IO_ERR) says why. −EINTR: SIGTERM or SIGINT is pending and an output held everything up;
 * −EIO: what was closed for it could not be opened again. After those two the daemon can only be stopped. */
int md_daemon_reload(struct md_daemon *d, struct md_config *config, char *reterr);

/* What the control socket asks of the main thread. Any thread. */
uint64_t md_daemon_ask_reload(struct md_daemon *d); /* its number, which the status' reload.answered reaches */
void md_daemon_ask_drain(struct md_daemon *d);

int md_daemon_asked_fd(const struct md_daemon *d); /* readable (eventfd) when something was asked for */
bool md_daemon_drain_asked(const struct md_daemon *d);
/* The last number asked for, to be taken before the file is read; all up to it are answered then: `text` says why they
 * were refused, in a line or in several that end with a newline each; NULL: they were done. */
uint64_t md_daemon_reload_asked(struct md_daemon *d);
void md_daemon_answer_reload(struct md_daemon *d, uint64_t number, const char *text);

#endif
