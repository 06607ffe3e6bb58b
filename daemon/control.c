/* control.c: the control socket's thread: receives requests, has them answered (control_request.c), sends the replies.
 */
#include "daemon/control.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/control_request.h"
#include "daemon/socket_file.h"
#include "io/zmq_endpoint.h"

enum { PARTS = 3, QUEUED = 16 };

struct md_control {
    struct md_daemon *daemon;
    struct md_socket_file file;
    void *context, *router;
    int stop; /* eventfd */
    bool running;
    pthread_t thread;
};

static const char name[] = "control socket";

static int fail(char *reterr, int rc, const char *path, const char *what)
{
    snprintf(reterr, IO_ERR, "%s %s: %s", name, path, what);
    return rc;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static void send_reply(struct md_control *c, zmq_msg_t *envelope, unsigned n, json_t *reply)
{
    char *text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;

    for (unsigned i = 0; text && i < n; i++)
        if (zmq_msg_send(&envelope[i], c->router, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
            goto out; /* the client is gone */
    if (text)
        zmq_send(c->router, text, strlen(text), ZMQ_DONTWAIT);
out:
    free(text);
}

/* [identity] [empty, from REQ] [request] */
static void serve_one(struct md_control *c)
{
    zmq_msg_t parts[PARTS], extra;
    unsigned n = 0, envelope;
    json_t *reply;
    bool more = true;

    zmq_msg_init(&extra);
    while (more) {
        zmq_msg_t *part = n < PARTS ? &parts[n] : &extra;

        if (n < PARTS)
            zmq_msg_init(part);
        n += n < PARTS;
        if (zmq_msg_recv(part, c->router, ZMQ_DONTWAIT) < 0)
            goto out;
        more = zmq_msg_more(part);
    }
    if (n < 2)
        goto out;
    envelope = n == PARTS && zmq_msg_size(&parts[1]) == 0 ? 2 : 1;
    reply = md_control_answer(c->daemon, zmq_msg_data(&parts[envelope]), zmq_msg_size(&parts[envelope]));
    send_reply(c, parts, envelope, reply);
    json_decref(reply);
out:
    while (n-- > 0)
        zmq_msg_close(&parts[n]);
    zmq_msg_close(&extra);
}

static void *run(void *arg)
{
    struct md_control *c = arg;
    zmq_pollitem_t items[] = {{.socket = c->router, .events = ZMQ_POLLIN}, {.fd = c->stop, .events = ZMQ_POLLIN}};

    while (!items[1].revents) {
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            break;
        if (items[0].revents & ZMQ_POLLIN)
            serve_one(c);
    }
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static int set_option(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int bind_router(struct md_control *c, const char *endpoint, int fd, char *reterr)
{
    int64_t most = MD_RESTORE_MAX;
    int r = io_zmq_room();

    if (r) {
        close(fd);
        return fail(reterr, r, endpoint, strerror(-r));
    }
    c->context = zmq_ctx_new();
    c->router = c->context ? zmq_socket(c->context, ZMQ_ROUTER) : NULL;
    if (!c->router || set_option(c->router, ZMQ_USE_FD, fd) < 0 || set_option(c->router, ZMQ_LINGER, 100) < 0 ||
        set_option(c->router, ZMQ_RCVHWM, QUEUED) < 0 || set_option(c->router, ZMQ_SNDHWM, QUEUED) < 0 ||
        zmq_setsockopt(c->router, ZMQ_MAXMSGSIZE, &most, sizeof most) < 0 || zmq_bind(c->router, endpoint) < 0) {
        close(fd);
        return fail(reterr, -errno, endpoint, zmq_strerror(errno));
    }
    return 0;
}

static int start(struct md_control *c, const char *endpoint, char *reterr)
{
    const char *path = endpoint + strlen("ipc://");
    int fd, rc = md_socket_file_make(&c->file, name, path, &fd, reterr);

    if (rc < 0)
        return rc;
    rc = bind_router(c, endpoint, fd, reterr);
    if (rc < 0)
        return rc;
    c->stop = eventfd(0, EFD_CLOEXEC);
    if (c->stop < 0)
        return fail(reterr, -errno, path, strerror(errno));
    rc = -pthread_create(&c->thread, NULL, run, c);
    c->running = rc == 0;
    return rc < 0 ? fail(reterr, rc, path, strerror(-rc)) : 0;
}

int md_control_open(const char *endpoint, struct md_daemon *daemon, struct md_control **ret, char *reterr)
{
    struct md_control *c = calloc(1, sizeof *c);
    int rc;

    if (!c)
        return fail(reterr, -ENOMEM, endpoint, "out of memory");
    c->daemon = daemon;
    c->stop = -1;
    rc = start(c, endpoint, reterr);
    if (rc < 0) {
        md_control_close(&c);
        return rc;
    }
    *ret = c;
    return 0;
}

void md_control_mute(struct md_control *c)
{
    if (!c || !c->running)
        return;
    eventfd_write(c->stop, 1);
    pthread_join(c->thread, NULL);
    c->running = false;
}

void md_control_close(struct md_control **control)
{
    struct md_control *c = *control;

    *control = NULL;
    if (!c)
        return;
    md_control_mute(c);
    md_socket_file_remove(&c->file);
    if (c->router)
        zmq_close(c->router);
    if (c->context)
        zmq_ctx_term(c->context);
    if (c->stop >= 0)
        close(c->stop);
    free(c);
}
