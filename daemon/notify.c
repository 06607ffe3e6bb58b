/* notify.c: see notify.h. A name that begins with @ is in Linux' abstract namespace: its first byte is NUL, and it has no
 * terminator. */
#include "daemon/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t watchdog_ns(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    long long v = usec ? strtoll(usec, NULL, 10) : 0;

    if (pid && strtoll(pid, NULL, 10) != getpid())
        return 0; /* it is meant for another process */
    return v > 0 && v < INT64_MAX / 1000 ? v * 1000 : 0;
}

void md_notify_open(struct md_notify *n)
{
    const char *name = getenv("NOTIFY_SOCKET");
    size_t len = name ? strlen(name) : 0;

    *n = (struct md_notify){.fd = -1, .to.sun_family = AF_UNIX};
    if (len < 2 || len >= sizeof n->to.sun_path || (*name != '/' && *name != '@'))
        return;
    memcpy(n->to.sun_path, name, len);
    n->to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (*name == '/'));
    if (*name == '@')
        n->to.sun_path[0] = '\0';
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    n->watchdog_ns = n->fd < 0 ? 0 : watchdog_ns();
}

void md_notify_close(struct md_notify *n)
{
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

void md_notify(const struct md_notify *n, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    int len;

    if (n->fd < 0)
        return;
    va_start(args, fmt);
    len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (len > (int)sizeof text - 1)
        len = sizeof text - 1;
    (void)!sendto(n->fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&n->to, n->to_len);
}
