/* feed_socket.c: PUSH, or XPUB, which hears of its first subscriber (a PUB drops what nobody has subscribed to yet) and
 * which a full queue holds back instead of making it drop. One thread.
 *
 * Trap: ZMQ_IMMEDIATE, by which a PUSH tells that it has a peer, must not be set on a DEALER: where the peer dies
 * between the two frames of an answer libzmq 4.3.4 forgets the second, and aborts (fq.cpp: !_more). The monitor tells
 * there.
 *
 * Trap: when a local peer's queue is full and the sender ends, libzmq loses what lies in the kernel's buffer: the
 * hang-up overtakes the data. So the sender stays until its peers have read all; the monitor tells which descriptors to
 * ask. */
#include "tools/feed_socket.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <zmq.h>

enum { DRAIN_MS = 10, DRAIN_CHECKS = 5 /* libzmq refills the kernel's buffer well within this many */ };

static const char monitor_address[] = "inproc://feed-monitor";

static int failed(char *reterr)
{
    int e = errno;
    snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(e));
    return -e;
}

static int open_monitor(struct feed_socket *s, char *reterr)
{
    if (zmq_socket_monitor(s->zmq.socket, monitor_address,
                           ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) < 0)
        return failed(reterr);
    s->monitor = zmq_socket(s->zmq.context, ZMQ_PAIR);
    return s->monitor && zmq_connect(s->monitor, monitor_address) == 0 ? 0 : failed(reterr);
}

int feed_socket_open(struct feed_socket *s, const struct io_zmq_ends *ends, long wait_ms, int wake_fd, char *reterr)
{
    int one = 1, hwm = 1000;
    int r = io_zmq_open(&s->zmq, s->dealer ? ZMQ_DEALER : s->pub ? ZMQ_XPUB : ZMQ_PUSH, reterr);
    if (r)
        return r;
    zmq_setsockopt(s->zmq.socket, ZMQ_SNDHWM, &hwm, sizeof hwm);
    if (!s->dealer)
        zmq_setsockopt(s->zmq.socket, ZMQ_IMMEDIATE, &one, sizeof one);
    if (s->pub)
        zmq_setsockopt(s->zmq.socket, ZMQ_XPUB_NODROP, &one, sizeof one);
    r = open_monitor(s, reterr);
    if (r == 0)
        r = io_zmq_attach(&s->zmq, ends, &(struct io_door){0}, reterr); /* whose monitor would take ours away */
    if (r)
        return r;
    zmq_pollitem_t items[] = {
        {.socket = s->dealer ? s->monitor : s->zmq.socket, .events = s->dealer || s->pub ? ZMQ_POLLIN : ZMQ_POLLOUT},
        {.fd = wake_fd, .events = ZMQ_POLLIN}};
    zmq_poll(items, 2, wait_ms);
    if (items[0].revents)
        return 0;
    snprintf(reterr, IO_ERR, s->pub ? "no subscriber" : "no peer takes messages");
    return items[1].revents ? -EINTR : -ETIMEDOUT;
}

/* ---- messages --------------------------------------------------------------------------------------------- */

/* Later subscriptions are of no use here, but unread they would pile up. */
static void drop_subscriptions(struct feed_socket *s)
{
    char byte;
    while (s->pub && zmq_recv(s->zmq.socket, &byte, 1, ZMQ_DONTWAIT) >= 0)
        ;
}

static bool send_frame(struct feed_socket *s, const void *bytes, size_t n, bool more)
{
    return zmq_send(s->zmq.socket, bytes, n, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) >= 0;
}

/* Once its first frame is taken, so are the others: libzmq counts whole messages. */
bool feed_socket_send(struct feed_socket *s, const struct feed_message *m)
{
    char topic[IO_ID_MAX + 2];
    snprintf(topic, sizeof topic, "%s/", m->id);
    const char *text = s->topic ? s->topic : s->pub ? topic : NULL;
    drop_subscriptions(s);
    return (!text || send_frame(s, text, strlen(text), true)) && send_frame(s, m->header, m->header_bytes, true) &&
           send_frame(s, m->payload, m->payload_bytes, m->times != NULL) &&
           (!m->times || send_frame(s, m->times, m->times_bytes, false));
}

bool feed_socket_receive(struct feed_socket *s, zmq_msg_t verb_and_text[2])
{
    unsigned n = 0;
    do {
        zmq_msg_t *frame = &verb_and_text[n < 2 ? n : 1];
        if (zmq_msg_recv(frame, s->zmq.socket, ZMQ_DONTWAIT) < 0)
            return false;
        n++;
        if (!zmq_msg_more(frame))
            break;
    } while (true);
    return n == 2 || feed_socket_receive(s, verb_and_text); /* anything else is not meant for us */
}

/* ---- the end ---------------------------------------------------------------------------------------------- */

/* Reads one event of the monitor: [u16 event, i32 descriptor][address]. False: there is none. */
static bool take_event(struct feed_socket *s)
{
    unsigned char what[6], address[256];
    uint16_t event;
    int32_t fd;
    if (zmq_recv(s->monitor, what, sizeof what, ZMQ_DONTWAIT) < 0)
        return false;
    zmq_recv(s->monitor, address, sizeof address, ZMQ_DONTWAIT);
    memcpy(&event, what, sizeof event);
    memcpy(&fd, what + 2, sizeof fd);
    unsigned i = 0;
    while (i < s->n_connections && s->connections[i] != fd)
        i++;
    if (event == ZMQ_EVENT_DISCONNECTED && i < s->n_connections)
        s->connections[i] = s->connections[--s->n_connections];
    else if (event != ZMQ_EVENT_DISCONNECTED && i == s->n_connections &&
             i < sizeof s->connections / sizeof *s->connections)
        s->connections[s->n_connections++] = fd;
    return true;
}

static bool all_read(struct feed_socket *s)
{
    while (take_event(s))
        ;
    for (unsigned i = 0; i < s->n_connections; i++) {
        int bytes = 0;
        if (ioctl(s->connections[i], SIOCOUTQ, &bytes) == 0 && bytes > 0)
            return false;
    }
    return true;
}

void feed_socket_drain(struct feed_socket *s, int wake_fd)
{
    zmq_pollitem_t item = {.fd = wake_fd, .events = ZMQ_POLLIN};
    for (int checks = 0; checks < DRAIN_CHECKS; checks = all_read(s) ? checks + 1 : 0)
        if (zmq_poll(&item, 1, DRAIN_MS) > 0)
            return;
}

void feed_socket_close(struct feed_socket *s, int64_t linger_ns)
{
    if (s->monitor)
        zmq_close(s->monitor);
    io_zmq_close(&s->zmq, linger_ns);
}
