/* zmq_sink.c: messages to ZeroMQ subscribers (type `zmq`, a PUB socket): always [topic][header][payload].
 *
 * Runs on the publisher's thread: a PUB socket never blocks. A subscriber that is slower than its high-water mark loses
 * messages, which it sees by `out_seq`; the others lose nothing. */
#include "io/zmq_endpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

#include "io/wire.h"

struct conf {
    struct io_zmq_ends ends;
};

static const struct io_option options[] = {
    IO_ZMQ_ENDS_OPTIONS(struct conf, ends, "10000"),
    {0},
};

struct sink {
    struct io_zmq zmq;
    char topic[IO_TOPIC_MAX];
    char header[IO_JSON_MAX];
};

static int check(const void *config, bool resumes, const char **ret_key, char *reterr)
{
    const struct conf *c = config;

    return io_zmq_ends_check(&c->ends, ret_key, reterr);
}

static int keys(const void *config, char *reterr)
{
    return io_zmq_ends_keys(&((const struct conf *)config)->ends, reterr);
}

static int open_sink(const void *config, const struct io_sink_env *env, void **ret_self, char *reterr)
{
    const struct conf *c = config;
    struct sink *s = calloc(1, sizeof *s);
    int hwm = (int)c->ends.hwm;
    int r;

    if (!s) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    r = io_zmq_open(&s->zmq, ZMQ_PUB, reterr);
    if (!r && zmq_setsockopt(s->zmq.socket, ZMQ_SNDHWM, &hwm, sizeof hwm)) {
        r = -errno;
        snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(errno));
    }
    if (!r)
        r = io_zmq_attach(&s->zmq, &c->ends, &env->door, reterr);
    if (r) {
        io_zmq_close(&s->zmq, 0);
        free(s);
        return r;
    }
    *ret_self = s;
    return 0;
}

static int send_frame(struct sink *s, const void *data, size_t len, int flags)
{
    while (zmq_send(s->zmq.socket, data, len, flags | ZMQ_DONTWAIT) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int write_message(void *self, const struct io_message *m)
{
    struct sink *s = self;
    size_t topic = io_topic_write(s->topic, m->family, m->stream);
    size_t header = io_message_json(s->header, sizeof s->header, m);
    size_t payload = m->ndim ? sizeof *m->data : 0;
    int r;

    for (uint32_t i = 0; i < m->ndim; i++)
        payload *= m->shape[i];
    r = send_frame(s, s->topic, topic, ZMQ_SNDMORE);
    if (!r)
        r = send_frame(s, s->header, header, ZMQ_SNDMORE);
    return r ? r : send_frame(s, m->data, payload, 0);
}

static int flush(void *self)
{
    return 0; /* libzmq's I/O thread is already at it */
}

static int close_sink(void *self, int64_t linger_ns, char *reterr)
{
    struct sink *s = self;

    io_zmq_close(&s->zmq, linger_ns);
    free(s);
    return 0;
}

const struct io_sink_class io_sink_zmq = {
    .type = "zmq",
    .help = "messages to ZeroMQ subscribers",
    .options = options,
    .conf_bytes = sizeof(struct conf),
    .check = check,
    .open = open_sink,
    .keys = keys,
    .write = write_message,
    .flush = flush,
    .close = close_sink,
};
