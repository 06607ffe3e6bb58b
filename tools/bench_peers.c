/* bench_peers.c: see bench_peers.h. A peer ends when it is told so: its pipe's other end is inherited by peers forked
 * later, so that closing it says nothing. */
#include "tools/bench_peers.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

struct order {
    uint64_t messages; /* 0: the end */
    double per_second;
};

static int peer_start(struct bench_peer *p, int *ret_in, int *ret_out)
{
    int to[2], from[2];

    if (pipe(to) || pipe(from))
        return -errno;
    fflush(NULL);
    p->pid = fork();
    if (p->pid < 0)
        return -errno;
    if (p->pid == 0) {
        close(to[1]);
        close(from[0]);
        *ret_in = to[0];
        *ret_out = from[1];
        return 1;
    }
    close(to[0]);
    close(from[1]);
    p->to = to[1];
    p->from = from[0];
    return 0;
}

void bench_peer_stop(struct bench_peer *p)
{
    if (p->pid <= 0)
        return;
    (void)!write(p->to, &(struct order){0}, sizeof(struct order));
    close(p->to);
    close(p->from);
    waitpid(p->pid, NULL, 0);
    p->pid = 0;
}

/* ---- sender ------------------------------------------------------------------------------------------------------ */

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_until(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void send_all(void *socket, const struct order *o, uint32_t streams, const float *x, uint32_t samples,
                     unsigned burst, uint64_t *sent)
{
    int64_t start = now_ns();
    char header[160];

    for (uint64_t i = 0; i < o->messages; i++, ++*sent) {
        int len = snprintf(header, sizeof header,
                           "{\"dtype\":\"float32\",\"shape\":[%u],\"stream\":\"bench/%05u\",\"seq\":%llu}", samples,
                           (unsigned)(*sent % streams), (unsigned long long)(*sent / streams * samples));
        if (o->per_second > 0 && i % burst == 0)
            wait_until(start + (int64_t)((double)i * 1e9 / o->per_second));
        zmq_send(socket, header, (size_t)len, ZMQ_SNDMORE);
        zmq_send(socket, x, samples * sizeof *x, 0);
    }
}

static void sender(int in, const char *endpoint, uint32_t streams, uint32_t samples, unsigned burst)
{
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_PUSH);
    float *x = calloc(samples, sizeof *x);
    uint64_t sent = 0;
    struct order o;
    int linger = 0;

    for (uint32_t i = 0; i < samples; i++)
        x[i] = (float)(i % 17) * 0.25f;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_connect(socket, endpoint);
    while (read(in, &o, sizeof o) == sizeof o && o.messages > 0)
        send_all(socket, &o, streams, x, samples, burst, &sent);
    zmq_close(socket);
    zmq_ctx_term(context);
    free(x);
}

int bench_sender_start(struct bench_peer *p, const char *endpoint, uint32_t streams, uint32_t samples, unsigned burst)
{
    int in, out, r = peer_start(p, &in, &out);

    if (r != 1)
        return r;
    sender(in, endpoint, streams, samples, burst);
    _exit(0);
}

void bench_sender_send(struct bench_peer *p, uint64_t messages, double per_second)
{
    struct order o = {messages, per_second};

    (void)!write(p->to, &o, sizeof o);
}

/* ---- subscriber
 * ------------------------------------------------------------------------------------------------------- */

struct heard {
    uint64_t messages, heartbeats;
};

static void receive_some(void *socket, struct heard *heard)
{
    zmq_msg_t m;
    bool heartbeat = false;
    int more;

    zmq_msg_init(&m);
    for (unsigned part = 0; zmq_msg_recv(&m, socket, ZMQ_DONTWAIT) >= 0; part++) {
        more = zmq_msg_more(&m);
        if (part == 0)
            heartbeat = zmq_msg_size(&m) > 4 && memcmp(zmq_msg_data(&m), "sys/", 4) == 0;
        if (!more) {
            *(heartbeat ? &heard->heartbeats : &heard->messages) += 1;
            part = UINT32_MAX;
        }
    }
    zmq_msg_close(&m);
}

static void subscriber(int in, int out, const char *endpoint)
{
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_SUB);
    zmq_pollitem_t items[] = {{socket, 0, ZMQ_POLLIN, 0}, {NULL, in, ZMQ_POLLIN, 0}};
    struct order o;
    struct heard heard = {0};
    int hwm = 0;

    zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm, sizeof hwm);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    zmq_connect(socket, endpoint);
    while (zmq_poll(items, 2, -1) >= 0) {
        receive_some(socket, &heard);
        if (!items[1].revents)
            continue;
        if (read(in, &o, sizeof o) != sizeof o || o.messages == 0)
            break;
        (void)!write(out, &heard, sizeof heard);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
}

int bench_subscriber_start(struct bench_peer *p, const char *endpoint)
{
    int in, out, r = peer_start(p, &in, &out);

    if (r != 1)
        return r;
    subscriber(in, out, endpoint);
    _exit(0);
}

static struct heard ask(struct bench_peer *p)
{
    struct order order = {1, 0};
    struct heard heard;

    if (write(p->to, &order, sizeof order) != sizeof order || read(p->from, &heard, sizeof heard) != sizeof heard)
        return (struct heard){0};
    return heard;
}

uint64_t bench_subscriber_count(struct bench_peer *p)
{
    return ask(p).messages;
}

bool bench_subscriber_joined(struct bench_peer *p)
{
    return ask(p).heartbeats > 0;
}
