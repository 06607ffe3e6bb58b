/* generate_socket.c: see generate_socket.h. Trap: libzmq neither makes nor removes the file of an ipc socket here. */
#include "daemon/generate_socket.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { HWM = 64, HEADER_ROOM = 65536 };
static const char name[] = "generation socket";

static bool is_ipc(const struct md_generate_conf *conf)
{
    return !strncmp(conf->endpoint, "ipc://", 6);
}

static struct io_zmq_ends ends_of(const struct md_generate_conf *conf)
{
    return (struct io_zmq_ends){.bind = {(char **)&conf->endpoint, 1},
                                .insecure = conf->insecure,
                                .curve_key = conf->curve_key,
                                .curve_clients = conf->curve_clients};
}

int md_generate_check(const struct md_generate_conf *conf, const char **ret_key, char *reterr)
{
    const struct io_zmq_ends ends = ends_of(conf);

    *ret_key = "bind";
    if (!is_ipc(conf) || (!conf->curve_key && !conf->curve_clients))
        return io_zmq_ends_check(&ends, ret_key, reterr);
    snprintf(reterr, IO_ERR, "an ipc:// socket is this user's only: CURVE is for tcp://");
    return -EINVAL;
}

int md_generate_keys(const struct md_generate_conf *conf, char *reterr)
{
    const struct io_zmq_ends ends = ends_of(conf);

    return io_zmq_ends_keys(&ends, reterr);
}

static int set_options(struct md_generate_socket *s, const struct md_generate_conf *conf, char *reterr)
{
    int one = 1, hwm = HWM;
    int64_t most = conf->prompt + HEADER_ROOM;

    if (!zmq_setsockopt(s->zmq.socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one) &&
        !zmq_setsockopt(s->zmq.socket, ZMQ_SNDHWM, &hwm, sizeof hwm) &&
        !zmq_setsockopt(s->zmq.socket, ZMQ_RCVHWM, &hwm, sizeof hwm) &&
        !zmq_setsockopt(s->zmq.socket, ZMQ_MAXMSGSIZE, &most, sizeof most))
        return 0;
    snprintf(reterr, IO_ERR, "%s: %s", name, zmq_strerror(errno));
    return -errno;
}

/* The file's mode guards an ipc socket. */
static int bind_file(struct md_generate_socket *s, const struct md_generate_conf *conf, char *reterr)
{
    int fd, rc = md_socket_file_make(&s->file, name, conf->endpoint + strlen("ipc://"), &fd, reterr);

    if (rc < 0)
        return rc;
    if (!zmq_setsockopt(s->zmq.socket, ZMQ_USE_FD, &fd, sizeof fd) && !zmq_bind(s->zmq.socket, conf->endpoint))
        return 0;
    snprintf(reterr, IO_ERR, "%s %s: %s", name, conf->endpoint, zmq_strerror(errno));
    rc = -errno;
    close(fd);
    return rc;
}

int md_generate_socket_open(struct md_generate_socket *s, const struct md_generate_conf *conf, struct md_door *door,
                            char *reterr)
{
    const struct io_door guarded = md_door_open(door, "server.generate");
    const struct io_zmq_ends ends = ends_of(conf);
    int rc = io_zmq_open(&s->zmq, ZMQ_ROUTER, reterr);

    if (rc == 0)
        rc = set_options(s, conf, reterr);
    if (rc == 0)
        rc = is_ipc(conf) ? bind_file(s, conf, reterr) : io_zmq_attach(&s->zmq, &ends, &guarded, reterr);
    return rc;
}

void md_generate_socket_close(struct md_generate_socket *s, int64_t linger_ns)
{
    md_socket_file_remove(&s->file);
    io_zmq_close(&s->zmq, linger_ns);
}
