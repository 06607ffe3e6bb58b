/* notify.h: what the service manager is told (systemd's sd_notify protocol: datagrams to NOTIFY_SOCKET), and how often it
 * wants to hear that the daemon is alive. One thread. */
#ifndef MD_NOTIFY_H
#define MD_NOTIFY_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct md_notify {
    int fd; /* −1: nobody wants to hear */
    struct sockaddr_un to;
    socklen_t to_len;
    int64_t watchdog_ns; /* it gives the daemon up after so long without WATCHDOG=1; 0: it does not watch */
};

/* From the environment. What is wrong there counts as not there. */
void md_notify_open(struct md_notify *n);
void md_notify_close(struct md_notify *n);
/* Assignments, one a line: "READY=1\nSTATUS=…". Never waits; a manager that does not listen misses it. */
void md_notify(const struct md_notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
