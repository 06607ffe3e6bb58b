/* zmq_guard.c: see zmq_guard.h. A key that is not listed is reported by the answer to ZAP, where the peer's address is
 * known; the monitor reports all else. Trap: without a handler on the ZAP address libzmq lets every client in, so the
 * handler is there before the socket binds, and until after it is closed. */
#include "io/zmq_guard.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "io/zmq_key.h"

static const char zap_address[] = "inproc://zeromq.zap.01", monitor_address[] = "inproc://guard";
static const char domain[] = "mambad";

struct io_zmq_guard {
    const char *clients;
    struct io_door door;
    void *zap, *monitor; /* zap NULL: the socket connects; monitor NULL: nobody wants to hear */
    int stop;            /* eventfd */
    bool running;
    pthread_t thread;
};

static void refuse(struct io_zmq_guard *g, enum io_refusal why, const char *text)
{
    if (g->door.refused)
        g->door.refused(g->door.self, why, text);
}

/* ---- ZAP: [version][request id][domain][address][identity][mechanism][client's key, 32 bytes] -------------------- */

enum { VERSION, REQUEST, DOMAIN, ADDRESS, IDENTITY, MECHANISM, CREDENTIALS, ZAP_FRAMES };

static bool frame_is(zmq_msg_t *frame, const char *text)
{
    return zmq_msg_size(frame) == strlen(text) && !memcmp(zmq_msg_data(frame), text, strlen(text));
}

static bool admit(struct io_zmq_guard *g, zmq_msg_t *frames, unsigned n)
{
    char key[IO_ZMQ_KEY], why[IO_ERR], text[IO_ERR + 256];
    int r;

    if (n != ZAP_FRAMES || !frame_is(&frames[VERSION], "1.0") || !frame_is(&frames[MECHANISM], "CURVE") ||
        zmq_msg_size(&frames[CREDENTIALS]) != 32)
        return false;
    zmq_z85_encode(key, zmq_msg_data(&frames[CREDENTIALS]), 32);
    r = io_zmq_key_listed(g->clients, key, why);
    if (r > 0)
        return true;
    if (r == 0)
        snprintf(why, sizeof why, "key %s is not in %.300s", key, g->clients);
    snprintf(text, sizeof text, "%.*s: %s", (int)zmq_msg_size(&frames[ADDRESS]),
             (const char *)zmq_msg_data(&frames[ADDRESS]), why);
    refuse(g, IO_PEER_KEY, text);
    return false;
}

static void answer(struct io_zmq_guard *g)
{
    zmq_msg_t frames[ZAP_FRAMES];
    unsigned n = 0;
    bool more = true, yes;

    for (unsigned i = 0; i < ZAP_FRAMES; i++)
        zmq_msg_init(&frames[i]);
    while (more && n < ZAP_FRAMES && zmq_msg_recv(&frames[n], g->zap, 0) >= 0)
        more = zmq_msg_more(&frames[n++]);
    if (n > REQUEST) {
        yes = !more && admit(g, frames, n);
        zmq_send(g->zap, "1.0", 3, ZMQ_SNDMORE);
        zmq_msg_send(&frames[REQUEST], g->zap, ZMQ_SNDMORE);
        zmq_send(g->zap, yes ? "200" : "400", 3, ZMQ_SNDMORE);
        zmq_send(g->zap, "", 0, ZMQ_SNDMORE); /* status text, user id, metadata */
        zmq_send(g->zap, "", 0, ZMQ_SNDMORE);
        zmq_send(g->zap, "", 0, 0);
    }
    for (unsigned i = 0; i < ZAP_FRAMES; i++)
        zmq_msg_close(&frames[i]);
}

/* ---- monitor: [u16 event, u32 value][endpoint] ------------------------------------------------------------------- */

static void hear(struct io_zmq_guard *g)
{
    unsigned char what[6];
    char endpoint[256] = "", text[IO_ERR];
    uint16_t event = 0;
    uint32_t value = 0;
    const char *said;
    enum io_refusal why = IO_PEER_PROTOCOL;

    if (zmq_recv(g->monitor, what, sizeof what, 0) != sizeof what ||
        zmq_recv(g->monitor, endpoint, sizeof endpoint - 1, 0) < 0)
        return;
    memcpy(&event, what, sizeof event);
    memcpy(&value, what + sizeof event, sizeof value);
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
        if (g->zap)
            return; /* told by its key */
        why = IO_PEER_KEY;
        said = "it does not let this key in";
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
        why = IO_PEER_HANDSHAKE;
        said = "it went away, or fell silent, during the handshake";
    } else if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
        said = "it does not speak CURVE";
    } else if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) {
        said = "it has another key for this end";
    } else {
        said = "its handshake is malformed";
    }
    snprintf(text, sizeof text, "peer at %s: %s", endpoint, said);
    refuse(g, why, text);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct io_zmq_guard *g = arg;
    zmq_pollitem_t items[3] = {{.fd = g->stop, .events = ZMQ_POLLIN}};
    int n = 1;

    if (g->zap)
        items[n++] = (zmq_pollitem_t){.socket = g->zap, .events = ZMQ_POLLIN};
    if (g->monitor)
        items[n++] = (zmq_pollitem_t){.socket = g->monitor, .events = ZMQ_POLLIN};
    while (!items[0].revents) {
        if (zmq_poll(items, n, -1) < 0 && errno != EINTR)
            break;
        if (g->zap && items[1].revents)
            answer(g);
        if (g->monitor && items[n - 1].revents)
            hear(g);
    }
    return NULL;
}

static int attach(struct io_zmq_guard *g, void *context, void *socket)
{
    int linger = 0;

    if (g->clients) {
        g->zap = zmq_socket(context, ZMQ_REP);
        if (!g->zap || zmq_setsockopt(g->zap, ZMQ_LINGER, &linger, sizeof linger) || zmq_bind(g->zap, zap_address) ||
            zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)))
            return -errno;
    }
    if (!g->door.refused)
        return 0;
    if (zmq_socket_monitor(socket, monitor_address,
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_AUTH))
        return -errno;
    g->monitor = zmq_socket(context, ZMQ_PAIR);
    return g->monitor && zmq_connect(g->monitor, monitor_address) == 0 ? 0 : -errno;
}

int io_zmq_guard_open(void *context, void *socket, const char *clients, const struct io_door *door,
                      struct io_zmq_guard **ret, char *reterr)
{
    struct io_zmq_guard *g = calloc(1, sizeof *g);
    int r = 0;

    if (!g) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    g->clients = clients;
    g->door = *door;
    g->stop = eventfd(0, EFD_CLOEXEC);
    if (clients)
        r = io_zmq_key_listed(clients, "", reterr);
    if (r == 0) {
        r = g->stop < 0 ? -errno : attach(g, context, socket);
        if (r == 0)
            r = -pthread_create(&g->thread, NULL, run, g);
        if (r)
            snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(-r));
        g->running = r == 0;
    }
    if (r)
        io_zmq_guard_close(&g);
    else
        *ret = g;
    return r;
}

void io_zmq_guard_close(struct io_zmq_guard **guard)
{
    struct io_zmq_guard *g = *guard;

    *guard = NULL;
    if (!g)
        return;
    if (g->running) {
        eventfd_write(g->stop, 1);
        pthread_join(g->thread, NULL);
    }
    if (g->zap)
        zmq_close(g->zap);
    if (g->monitor)
        zmq_close(g->monitor);
    if (g->stop >= 0)
        close(g->stop);
    free(g);
}
