/* zmq_source.c: samples from ZeroMQ peers (type `zmq`, patterns pull and sub). docs/protocol.md has the messages.
 *
 * A turn reads messages until there are none, a number is reached, or a stream's queue is full. What could not be
 * handed over stays in the delivery, and no further message is read: ZeroMQ's own high-water mark then holds the
 * senders back (PULL) or makes them drop (SUB).
 *
 * Trap: ZMQ_FD is edge-triggered. It tells only that ZMQ_EVENTS may have changed, so a turn ends in WAIT only after
 * ZMQ_EVENTS was read: that takes the signal back, and otherwise the daemon's poll() would spin or sleep for ever. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/stream_id.h"
#include "io/zmq_delivery.h"
#include "io/zmq_endpoint.h"

enum { PULL, SUB, ROUTER };
enum { TURN_MESSAGES = 256, MEMORY_RETRY_NS = 2000000 };

struct conf {
    struct io_common common; /* first */
    int pattern, format, dtype;
    struct io_zmq_ends ends;
    struct io_strings subscribe;
    bool topic;
    int64_t channels, max_message;
};

static const char *const patterns[] = {"pull", "sub", "router", NULL};
static const char *const formats[] = {"array", "raw", "bytes", "gnuradio", NULL};
static const char *const dtypes[] = {"float32", "float64", "int16", "int32", "int64", "uint8", "int8", NULL};

#define AT(field) offsetof(struct conf, field)
static const struct io_option options[] = {
    {"pattern", "pull: senders share the work; sub: subscribe to publishers", IO_OPT_ENUM, AT(pattern),
     .required = true, .names = patterns},
    {"format", "array: JSON header and payload; raw: samples only; bytes: a byte stream", IO_OPT_ENUM, AT(format),
     "array", .names = formats},
    IO_ZMQ_ENDS_OPTIONS(struct conf, ends, "1000"),
    {"subscribe", "topic prefixes (sub; default: everything)", IO_OPT_STRINGS, AT(subscribe)},
    {"topic", "raw and bytes: a topic frame precedes the payload", IO_OPT_BOOL, AT(topic), "false"},
    {"dtype", "raw: type of the samples", IO_OPT_ENUM, AT(dtype), "float32", .names = dtypes},
    {"channels", "raw: samples per row (default 1)", IO_OPT_INT, AT(channels), .min = 0, .max = 1024},
    {"max_message", "a peer that sends a longer frame is disconnected", IO_OPT_SIZE, AT(max_message), "16MiB", .min = 1,
     .max = 1 << 30},
    {0},
};

struct source {
    const struct conf *conf;
    const struct io_host *host;
    struct io_zmq zmq;
    struct io_zmq_delivery delivery;
};

static int bad(const char **ret_key, const char *key, char *reterr, const char *text)
{
    *ret_key = key;
    snprintf(reterr, IO_ERR, "%s", text);
    return -EINVAL;
}

static int check(const void *config, const char **ret_key, char *reterr)
{
    static const struct io_id_parts usable = {.input = "", .topic = "", .stream = ""};
    const struct conf *c = config;
    int r;

    if (c->pattern == ROUTER)
        return bad(ret_key, "pattern", reterr, "router is not supported yet (pull and sub are)");
    if (c->format == IO_ZMQ_GNURADIO)
        return bad(ret_key, "format", reterr, "gnuradio is not supported yet (array, raw and bytes are)");
    if (c->subscribe.n && c->pattern != SUB)
        return bad(ret_key, "subscribe", reterr, "only pattern sub subscribes");
    if (c->topic && c->format == IO_ZMQ_ARRAY)
        return bad(ret_key, "topic", reterr, "only raw and bytes need it: in array messages a topic is seen");
    if (c->channels && c->format != IO_ZMQ_RAW)
        return bad(ret_key, "channels", reterr, "only raw messages need it");
    if (c->format == IO_ZMQ_BYTES && (c->common.scale != 1 || c->common.offset != 0))
        return bad(ret_key, c->common.scale != 1 ? "scale" : "offset", reterr, "bytes are taken as they are");
    if (c->common.resample && c->format != IO_ZMQ_ARRAY)
        return bad(ret_key, "resample", reterr, "only array messages tell their own rate");
    r = io_zmq_ends_check(&c->ends, ret_key, reterr);
    if (r || !c->common.stream)
        return r;
    *ret_key = "stream";
    return io_id_check(c->common.stream, &usable, reterr);
}

static int set_options(struct source *s, char *reterr)
{
    int hwm = (int)s->conf->ends.hwm;
    int64_t max = s->conf->max_message;
    int r = zmq_setsockopt(s->zmq.socket, ZMQ_RCVHWM, &hwm, sizeof hwm);

    r |= zmq_setsockopt(s->zmq.socket, ZMQ_MAXMSGSIZE, &max, sizeof max);
    for (unsigned i = 0; i < s->conf->subscribe.n; i++) {
        const char *prefix = s->conf->subscribe.v[i];
        r |= zmq_setsockopt(s->zmq.socket, ZMQ_SUBSCRIBE, prefix, strlen(prefix));
    }
    if (s->conf->pattern == SUB && !s->conf->subscribe.n)
        r |= zmq_setsockopt(s->zmq.socket, ZMQ_SUBSCRIBE, "", 0);
    if (r)
        snprintf(reterr, IO_ERR, "ZeroMQ socket: %s", zmq_strerror(errno));
    return r ? -EINVAL : 0;
}

static void close_source(void *self)
{
    struct source *s = self;

    io_zmq_delivery_done(&s->delivery);
    io_zmq_close(&s->zmq, 0);
    free(s);
}

static int open_source(const void *config, const struct io_host *host, void **ret_self, char *reterr)
{
    const struct conf *c = config;
    struct source *s = calloc(1, sizeof *s);
    int r;

    if (!s) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    s->conf = c;
    s->host = host;
    s->delivery.common = &c->common;
    s->delivery.host = host;
    s->delivery.layout = (struct io_zmq_layout){(enum io_zmq_format)c->format, (enum io_dtype)c->dtype,
                                                c->channels ? (uint32_t)c->channels : 1, c->topic};
    r = io_zmq_delivery_init(&s->delivery);
    if (r)
        snprintf(reterr, IO_ERR, "out of memory");
    if (!r)
        r = io_zmq_open(&s->zmq, c->pattern == PULL ? ZMQ_PULL : ZMQ_SUB, reterr);
    if (!r)
        r = set_options(s, reterr);
    if (!r)
        r = io_zmq_attach(&s->zmq, &c->ends, &host->door, reterr);
    if (r)
        close_source(s);
    else
        *ret_self = s;
    return r;
}

/* No block to be had. Senders of PULL are held back; a SUB's would drop in silence, so the message goes, counted. */
static void out_of_blocks(struct source *s, int64_t now_ns, int64_t *ret_wake_ns)
{
    if (s->conf->pattern == PULL)
        *ret_wake_ns = now_ns + MEMORY_RETRY_NS;
    else
        io_zmq_give_up(&s->delivery, IO_R_MEMORY, "no memory for blocks");
}

static bool readable(struct source *s)
{
    int events = 0;
    size_t size = sizeof events;

    return zmq_getsockopt(s->zmq.socket, ZMQ_EVENTS, &events, &size) == 0 && events & ZMQ_POLLIN;
}

static enum io_turn turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct io_zmq_delivery *d = &s->delivery;
    uint64_t messages = 0, bytes = 0;
    bool more = true;

    *ret_wake_ns = INT64_MAX;
    while (messages < TURN_MESSAGES && more) {
        if (!d->busy) {
            if (io_zmq_message_receive(&d->message, s->zmq.socket)) {
                more = readable(s);
                continue;
            }
            messages++;
            bytes += d->message.bytes;
            io_zmq_accept(d);
        }
        if (d->busy && io_zmq_deliver(d, now_ns) == -ENOMEM)
            out_of_blocks(s, now_ns, ret_wake_ns);
        more = !d->busy;
    }
    if (messages)
        s->host->received(s->host->self, messages, bytes);
    if (d->busy)
        readable(s);
    return more ? IO_TURN_MORE : IO_TURN_WAIT;
}

static int descriptor(void *self)
{
    struct source *s = self;
    int fd = -1;
    size_t size = sizeof fd;

    zmq_getsockopt(s->zmq.socket, ZMQ_FD, &fd, &size);
    return fd;
}

static bool blocks(const void *config)
{
    return ((const struct conf *)config)->pattern == PULL;
}

static int keys(const void *config, char *reterr)
{
    return io_zmq_ends_keys(&((const struct conf *)config)->ends, reterr);
}

const struct io_source_class io_source_zmq = {
    .type = "zmq",
    .help = "samples from ZeroMQ peers",
    .options = options,
    .conf_bytes = sizeof(struct conf),
    .check = check,
    .open = open_source,
    .turn = turn,
    .close = close_source,
    .fd = descriptor,
    .keys = keys,
    .blocks = blocks,
};
