/* zmq_endpoint.c: which addresses are allowed, and opening sockets on them.
 *
 * Until CURVE exists, whoever can reach a TCP port can feed or read it, so anything but loopback has to be asked for.
 * The check looks at the text only: no name is resolved, and a name other than localhost counts as elsewhere. */
#include "io/zmq_endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

enum { HOST_BYTES = 256 };

static bool loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return !strcmp(host, "localhost") || !strcmp(host, "lo");
}

/* "host:port" or "[v6]:port" → host without brackets. */
static int split_tcp(const char *text, char host[HOST_BYTES])
{
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    char *end;
    unsigned long port;

    if (!colon || len == 0 || len >= HOST_BYTES || colon[1] < '0' || colon[1] > '9')
        return -EINVAL;
    port = strtoul(colon + 1, &end, 10);
    if (*end || port < 1 || port > 65535)
        return -EINVAL;
    if (text[0] == '[' && colon[-1] == ']') {
        text++;
        len -= 2;
    }
    memcpy(host, text, len);
    host[len] = '\0';
    return strpbrk(host, "[]; \t/") ? -EINVAL : 0;
}

static int check_address(const char *address, bool insecure, char *reterr)
{
    char host[HOST_BYTES];

    if (!strncmp(address, "ipc://", 6) && address[6])
        return 0;
    if (strncmp(address, "tcp://", 6)) {
        snprintf(reterr, IO_ERR, "\"%s\" is neither tcp://HOST:PORT nor ipc://PATH", address);
        return -EINVAL;
    }
    if (split_tcp(address + 6, host)) {
        snprintf(reterr, IO_ERR, "\"%s\" is not tcp://HOST:PORT with a port from 1 to 65535", address);
        return -EINVAL;
    }
    if (!insecure && !loopback(host)) {
        snprintf(reterr, IO_ERR,
                 "\"%s\" reaches beyond this machine without encryption: say insecure: true if that is meant "
                 "(CURVE is not supported yet)",
                 address);
        return -EINVAL;
    }
    return 0;
}

static int check_list(const struct io_strings *list, bool insecure, char *reterr)
{
    int r = 0;

    for (unsigned i = 0; i < list->n && !r; i++)
        r = check_address(list->v[i], insecure, reterr);
    return r;
}

int io_zmq_ends_check(const struct io_zmq_ends *ends, const char **ret_key, char *reterr)
{
    if (!ends->bind.n && !ends->connect.n) {
        *ret_key = "connect";
        snprintf(reterr, IO_ERR, "bind or connect is needed");
        return -EINVAL;
    }
    *ret_key = "bind";
    if (check_list(&ends->bind, ends->insecure, reterr))
        return -EINVAL;
    *ret_key = "connect";
    return check_list(&ends->connect, ends->insecure, reterr);
}

int io_zmq_open(struct io_zmq *z, int type, char *reterr)
{
    z->context = zmq_ctx_new();
    z->socket = z->context ? zmq_socket(z->context, type) : NULL;
    if (z->socket)
        return 0;
    snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(errno));
    return -errno;
}

/* libzmq unlinks whatever stands at an ipc path before it binds, and so would take a running peer's address away in
 * silence. A file that nobody answers at is what a killed process left. */
static int bind_address(void *socket_, const char *address)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = address + strlen("ipc://");
    int fd, served = 0;

    if (!strncmp(address, "ipc://", 6) && strlen(path) < sizeof at.sun_path) {
        memcpy(at.sun_path, path, strlen(path));
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        served = fd >= 0 && (connect(fd, (const struct sockaddr *)&at, sizeof at) == 0 || errno == EAGAIN);
        if (fd >= 0)
            close(fd);
    }
    if (!served)
        return zmq_bind(socket_, address);
    errno = EADDRINUSE;
    return -1;
}

static int each(struct io_zmq *z, const struct io_strings *list, int (*call)(void *, const char *), const char *verb,
                char *reterr)
{
    for (unsigned i = 0; i < list->n; i++) {
        int v6 = strchr(list->v[i], '[') != NULL, keepalive = 1, idle_s = 60;
        zmq_setsockopt(z->socket, ZMQ_IPV6, &v6, sizeof v6);
        zmq_setsockopt(z->socket, ZMQ_TCP_KEEPALIVE, &keepalive, sizeof keepalive); /* a peer that lost its power */
        zmq_setsockopt(z->socket, ZMQ_TCP_KEEPALIVE_IDLE, &idle_s, sizeof idle_s);
        if (call(z->socket, list->v[i])) {
            int e = errno;
            snprintf(reterr, IO_ERR, "%s %s: %s", verb, list->v[i], zmq_strerror(e));
            return -e;
        }
    }
    return 0;
}

int io_zmq_attach(struct io_zmq *z, const struct io_zmq_ends *ends, char *reterr)
{
    int retry_max_ms = 5000;
    int r;

    zmq_setsockopt(z->socket, ZMQ_RECONNECT_IVL_MAX, &retry_max_ms, sizeof retry_max_ms);
    r = each(z, &ends->bind, bind_address, "bind", reterr);
    return r ? r : each(z, &ends->connect, zmq_connect, "connect", reterr);
}

void io_zmq_close(struct io_zmq *z, int64_t linger_ns)
{
    int linger_ms = linger_ns <= 0                             ? 0
                    : linger_ns < (int64_t)INT32_MAX * 1000000 ? (int)(linger_ns / 1000000)
                                                               : INT32_MAX;

    if (z->socket) {
        zmq_setsockopt(z->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_close(z->socket);
    }
    while (z->context && zmq_ctx_term(z->context) && errno == EINTR)
        ;
    *z = (struct io_zmq){0};
}
