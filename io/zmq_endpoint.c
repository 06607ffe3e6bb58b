/* zmq_endpoint.c: which addresses are allowed, and opening sockets on them, with CURVE where keys are given.
 *
 * Whoever can reach a TCP port without CURVE can feed or read it, so anything but loopback has to be asked for.
 * The check looks at the text only: no name is resolved, and a name other than localhost counts as elsewhere. */
#include "io/zmq_endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "io/zmq_key.h"

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

static int check_address(const char *address, bool anywhere, char *reterr)
{
    char host[HOST_BYTES];

    if (!strncmp(address, "ipc://", 6) && strlen(address + 6) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
        snprintf(reterr, IO_ERR, "\"%.300s\": the path is too long for a socket", address);
        return -EINVAL;
    }
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
    if (!anywhere && !loopback(host)) {
        snprintf(reterr, IO_ERR,
                 "\"%s\" reaches beyond this machine without encryption: give it a curve_key, or say insecure: true "
                 "if that is meant",
                 address);
        return -EINVAL;
    }
    return 0;
}

static int bad(const char **ret_key, const char *key, char *reterr, const char *text)
{
    *ret_key = key;
    snprintf(reterr, IO_ERR, "%s", text);
    return -EINVAL;
}

/* A socket is a server or a client of CURVE as a whole: here who binds is the server. */
static int check_curve(const struct io_zmq_ends *e, const char **ret_key, char *reterr)
{
    if (!e->curve_key && e->curve_clients)
        return bad(ret_key, "curve_clients", reterr, "needs curve_key, this end's secret key");
    if (!e->curve_key && e->curve_server)
        return bad(ret_key, "curve_server", reterr, "needs curve_key, this end's secret key");
    if (!e->curve_key)
        return 0;
    if (e->bind.n && e->connect.n)
        return bad(ret_key, "curve_key", reterr, "a socket with CURVE either binds or connects");
    if (e->bind.n && e->curve_server)
        return bad(ret_key, "curve_server", reterr, "is for connect; bind needs curve_clients");
    if (e->connect.n && e->curve_clients)
        return bad(ret_key, "curve_clients", reterr, "is for bind; connect needs curve_server");
    if (e->bind.n && !e->curve_clients)
        return bad(ret_key, "curve_key", reterr, "with bind, curve_clients must say whose keys are let in");
    if (e->connect.n && !e->curve_server)
        return bad(ret_key, "curve_key", reterr, "with connect, curve_server must name the other end's public key");
    return 0;
}

static int check_list(const struct io_strings *list, bool anywhere, char *reterr)
{
    int r = 0;

    for (unsigned i = 0; i < list->n && !r; i++)
        r = check_address(list->v[i], anywhere, reterr);
    return r;
}

int io_zmq_ends_check(const struct io_zmq_ends *ends, const char **ret_key, char *reterr)
{
    bool anywhere = ends->insecure || ends->curve_key;

    if (!ends->bind.n && !ends->connect.n)
        return bad(ret_key, "connect", reterr, "bind or connect is needed");
    if (check_curve(ends, ret_key, reterr))
        return -EINVAL;
    *ret_key = "bind";
    if (check_list(&ends->bind, anywhere, reterr))
        return -EINVAL;
    *ret_key = "connect";
    return check_list(&ends->connect, anywhere, reterr);
}

int io_zmq_ends_keys(const struct io_zmq_ends *ends, char *reterr)
{
    char key[IO_ZMQ_KEY];
    int r = ends->curve_key ? io_zmq_key_secret(ends->curve_key, key, reterr) : 0;

    explicit_bzero(key, sizeof key);
    if (r == 0 && ends->curve_clients)
        r = io_zmq_key_listed(ends->curve_clients, "", reterr);
    if (r == 0 && ends->curve_server)
        r = io_zmq_key_public(ends->curve_server, key, reterr);
    return r;
}

int io_zmq_room(void)
{
    enum { NEEDED = 8 }; /* two for the context, two for each of its threads, one for a socket, and one */
    int fds[NEEDED], r = 0;
    unsigned n = 0;

    while (n < NEEDED && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
        n++;
    if (n < NEEDED)
        r = -errno;
    while (n > 0)
        close(fds[--n]);
    return r;
}

int io_zmq_open(struct io_zmq *z, int type, char *reterr)
{
    int r = io_zmq_room();

    if (r == 0) {
        z->context = zmq_ctx_new();
        z->socket = z->context ? zmq_socket(z->context, type) : NULL;
        r = z->socket ? 0 : -errno;
    }
    if (r)
        snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(-r));
    return r;
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

static bool set_key(void *socket, int option, const char *key)
{
    return zmq_setsockopt(socket, option, key, IO_ZMQ_KEY) == 0;
}

static int use_keys(void *socket, const struct io_zmq_ends *ends, char *reterr)
{
    char secret[IO_ZMQ_KEY], own[IO_ZMQ_KEY], other[IO_ZMQ_KEY];
    int server = ends->curve_clients != NULL, r;
    bool set;

    r = io_zmq_key_secret(ends->curve_key, secret, reterr);
    if (r == 0 && !server)
        r = io_zmq_key_public(ends->curve_server, other, reterr);
    if (r == 0) {
        set = server ? zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &server, sizeof server) == 0
                     : set_key(socket, ZMQ_CURVE_SERVERKEY, other) && zmq_curve_public(own, secret) == 0 &&
                           set_key(socket, ZMQ_CURVE_PUBLICKEY, own);
        if (!set || !set_key(socket, ZMQ_CURVE_SECRETKEY, secret)) {
            r = errno == EINVAL ? -EOPNOTSUPP : -errno; /* a libzmq without libsodium */
            snprintf(reterr, IO_ERR, "CURVE: %s", zmq_strerror(-r));
        }
    }
    explicit_bzero(secret, sizeof secret);
    return r;
}

int io_zmq_attach(struct io_zmq *z, const struct io_zmq_ends *ends, const struct io_door *door, char *reterr)
{
    int retry_max_ms = 5000, handshake_ms = 10000; /* of a peer that says nothing */
    int r = 0;

    zmq_setsockopt(z->socket, ZMQ_RECONNECT_IVL_MAX, &retry_max_ms, sizeof retry_max_ms);
    zmq_setsockopt(z->socket, ZMQ_HANDSHAKE_IVL, &handshake_ms, sizeof handshake_ms);
    if (ends->curve_key)
        r = use_keys(z->socket, ends, reterr);
    if (r == 0 && ends->curve_key)
        r = io_zmq_guard_open(z->context, z->socket, ends->curve_clients, door, &z->guard, reterr);
    if (r)
        return r;
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
    io_zmq_guard_close(&z->guard);
    while (z->context && zmq_ctx_term(z->context) && errno == EINTR)
        ;
    *z = (struct io_zmq){0};
}
