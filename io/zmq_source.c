/* zmq_source.c: samples from ZeroMQ peers (type `zmq`, patterns pull, sub and router). docs/protocol.md has the
 * messages.
 *
 * A turn reads messages until there are none, a number is reached, or a stream's queue is full. What could not be
 * handed over stays in the delivery, and no further message is read: ZeroMQ's own high-water mark then holds the
 * senders back (PULL, ROUTER) or makes them drop (SUB).
 *
 * Trap: ZMQ_FD is edge-triggered. It tells only that ZMQ_EVENTS may have changed, and whatever is asked of the socket
 * may take that signal back. So a turn ends in WAIT only after ZMQ_EVENTS was read, with nothing asked after that: else
 * the daemon's poll() would spin, or sleep for ever beside a message that is there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/rate_limit.h"
#include "io/records.h"
#include "io/stream_id.h"
#include "io/zmq_endpoint.h"
#include "io/zmq_router.h"

enum { PULL, SUB, ROUTER };
enum { TURN_MESSAGES = 256, MEMORY_RETRY_NS = 2000000 };
enum {
    REFUSABLE = 8
}; /* libzmq hangs up at a longer frame, and tells nobody: up to so many times as long it is let in, and refused */

struct conf {
    struct io_common common; /* first */
    int pattern, format, dtype;
    struct io_zmq_ends ends;
    struct io_strings subscribe;
    bool topic, pass_tags;
    int64_t channels, max_message, messages_per_second, rows_per_second;
    struct io_records records;
};

static const char *const patterns[] = {"pull", "sub", "router", NULL};
static const char *const formats[] = {"array", "raw", "bytes", "gnuradio", NULL};
static const char *const dtypes[] = {"float32", "float64", "int16", "int32", "int64", "uint8", "int8", NULL};

#define AT(field) offsetof(struct conf, field)
static const struct io_option options[] = {
    {"pattern", "pull: senders share the work; sub: subscribe to publishers; router: senders are told what was taken",
     IO_OPT_ENUM, AT(pattern), .required = true, .names = patterns},
    {"format", "array: JSON header and payload; raw: samples only; bytes: a byte stream; gnuradio: items of gr-zeromq",
     IO_OPT_ENUM, AT(format), "array", .names = formats},
    IO_ZMQ_ENDS_OPTIONS(struct conf, ends, "1000"),
    {"subscribe", "topic prefixes (sub; default: everything)", IO_OPT_STRINGS, AT(subscribe)},
    {"topic", "all but array: a topic frame precedes the payload", IO_OPT_BOOL, AT(topic), "false"},
    {"pass_tags", "gnuradio: the sink passes tags, and so the number of a message's first item", IO_OPT_BOOL,
     AT(pass_tags), "false"},
    {"dtype", "raw, gnuradio: type of the samples", IO_OPT_ENUM, AT(dtype), "float32", .names = dtypes},
    {"channels", "raw, gnuradio: samples per row or item (default 1)", IO_OPT_INT, AT(channels), .min = 0, .max = 1024},
    {"max_message", "bytes of a frame; longer ones are refused", IO_OPT_SIZE, AT(max_message), "16MiB", .min = 1,
     .max = 1 << 30},
    {"messages_per_second", "no more than so many are taken, from all peers together", IO_OPT_INT,
     AT(messages_per_second), .min = 1, .max = 1e9},
    {"rows_per_second", "likewise", IO_OPT_INT, AT(rows_per_second), .min = 1, .max = 1e9},
    IO_RECORDS_OPTIONS(struct conf, records),
    {0},
};

struct source {
    const struct conf *conf;
    const struct io_host *host;
    struct io_zmq zmq;
    struct io_zmq_delivery delivery;
    struct io_zmq_router router; /* of its pattern; zeroed else */
    struct io_rate_limit messages, rows;
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

    if (c->pattern == ROUTER && c->format != IO_ZMQ_ARRAY)
        return bad(ret_key, "format", reterr, "pattern router needs messages that number their rows: array");
    if (c->pattern == ROUTER && c->common.resample)
        return bad(ret_key, "resample", reterr,
                   "pattern router takes rows as they are numbered: they cannot be resampled");
    if (c->pattern == ROUTER && c->common.stream)
        return bad(ret_key, "stream", reterr, "pattern router answers under the names that its senders give");
    if (c->pass_tags && c->format != IO_ZMQ_GNURADIO)
        return bad(ret_key, "pass_tags", reterr, "only gnuradio messages have tags");
    if (c->subscribe.n && c->pattern != SUB)
        return bad(ret_key, "subscribe", reterr, "only pattern sub subscribes");
    if (c->topic && c->format == IO_ZMQ_ARRAY)
        return bad(ret_key, "topic", reterr, "in array messages a topic is seen without it");
    if (c->channels && c->format != IO_ZMQ_RAW && c->format != IO_ZMQ_GNURADIO)
        return bad(ret_key, "channels", reterr, "only raw and gnuradio messages need it");
    if (c->format == IO_ZMQ_BYTES && (c->common.scale != 1 || c->common.offset != 0))
        return bad(ret_key, c->common.scale != 1 ? "scale" : "offset", reterr, "bytes are taken as they are");
    if (c->common.resample && c->format != IO_ZMQ_ARRAY)
        return bad(ret_key, "resample", reterr, "only array messages tell their own rate");
    r = io_records_check(&c->records, ret_key, reterr);
    if (!r)
        r = io_zmq_ends_check(&c->ends, ret_key, reterr);
    if (r || !c->common.stream)
        return r;
    *ret_key = "stream";
    return io_id_check(c->common.stream, &usable, reterr);
}

static int set_options(struct source *s, char *reterr)
{
    int hwm = (int)s->conf->ends.hwm;
    int64_t max = s->conf->max_message * REFUSABLE;
    int r = zmq_setsockopt(s->zmq.socket, ZMQ_RCVHWM, &hwm, sizeof hwm);

    if (s->conf->pattern == ROUTER) {
        r |= zmq_setsockopt(s->zmq.socket, ZMQ_SNDHWM, &hwm, sizeof hwm);
        r |= io_zmq_router_init(&s->router, s->zmq.socket, &s->delivery);
    }
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
    io_zmq_router_done(&s->router);
    io_zmq_close(&s->zmq, 0);
    free(s);
}

static int socket_type(int pattern)
{
    return pattern == PULL ? ZMQ_PULL : pattern == SUB ? ZMQ_SUB : ZMQ_ROUTER;
}

static uint32_t channels(const void *config)
{
    const struct conf *c = config;

    return c->format == IO_ZMQ_ARRAY ? 0 : c->channels ? (uint32_t)c->channels : 1;
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
    s->delivery.layout = (struct io_zmq_layout){(enum io_zmq_format)c->format, (enum io_dtype)c->dtype, channels(c),
                                                c->topic, c->pass_tags};
    s->delivery.max_frame = (size_t)c->max_message;
    s->messages.per_s = c->messages_per_second;
    s->rows.per_s = c->rows_per_second;
    r = io_zmq_delivery_init(&s->delivery);
    if (r)
        snprintf(reterr, IO_ERR, "out of memory");
    if (!r)
        r = io_zmq_open(&s->zmq, socket_type(c->pattern), reterr);
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

/* No block to be had. Senders of PULL and ROUTER are held back; a SUB's would drop in silence, so the message goes,
 * counted. */
static void out_of_blocks(struct source *s, int64_t now_ns, int64_t *ret_wake_ns)
{
    if (s->conf->pattern != SUB)
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

/* Over the limit: until this time nothing more is taken; INT64_MIN: it is not. */
static int64_t shut_until(const struct source *s, int64_t now_ns)
{
    int64_t messages = io_rate_limit_opens(&s->messages), rows = io_rate_limit_opens(&s->rows);
    int64_t opens = messages > rows ? messages : rows;

    return opens > now_ns ? opens : INT64_MIN;
}

static int receive(struct source *s)
{
    return s->conf->pattern == ROUTER ? io_zmq_router_receive(&s->router)
                                      : io_zmq_message_receive(&s->delivery.message, s->zmq.socket);
}

static void accept(struct source *s, bool over, int64_t now_ns)
{
    if (over) {
        io_zmq_turn_away(&s->delivery);
        return;
    }
    if (s->conf->pattern == ROUTER)
        io_zmq_router_accept(&s->router, now_ns);
    else
        io_zmq_accept(&s->delivery);
    io_rate_limit_take(&s->messages, 1, now_ns);
    io_rate_limit_take(&s->rows, s->delivery.message.n, now_ns);
}

/* What is left of the message at hand. */
static void deliver(struct source *s, int64_t now_ns, int64_t *ret_wake_ns)
{
    int r = io_zmq_deliver(&s->delivery, now_ns);

    if (r == -ENOMEM)
        out_of_blocks(s, now_ns, ret_wake_ns);
    if (!s->delivery.busy && s->conf->pattern == ROUTER)
        io_zmq_router_delivered(&s->router, r == 0);
}

/* Where there is somebody to be answered. */
static void answer(struct source *s)
{
    if (s->conf->pattern == ROUTER)
        io_zmq_router_flush(&s->router);
}

static enum io_turn turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct io_zmq_delivery *d = &s->delivery;
    bool holds = s->conf->pattern == ROUTER || s->host->blocks; /* senders back, where the limit is reached */
    uint64_t messages = 0, bytes = 0;
    bool more = true, held = false;

    *ret_wake_ns = INT64_MAX;
    while (messages < TURN_MESSAGES && more) {
        if (!d->busy) {
            int64_t shut = shut_until(s, now_ns);
            held = holds && shut != INT64_MIN;
            if (held) {
                *ret_wake_ns = shut;
                break;
            }
            if (receive(s)) {
                answer(s); /* else that would take the signal of what comes meanwhile */
                more = readable(s);
                continue;
            }
            messages++;
            bytes += d->message.bytes;
            accept(s, shut != INT64_MIN, now_ns);
        }
        if (d->busy)
            deliver(s, now_ns, ret_wake_ns);
        more = !d->busy;
    }
    if (messages)
        s->host->received(s->host->self, messages, bytes);
    answer(s);
    if (d->busy || held)
        readable(s);
    return more && !held ? IO_TURN_MORE : IO_TURN_WAIT;
}

static int descriptor(void *self)
{
    struct source *s = self;
    int fd = -1;
    size_t size = sizeof fd;

    zmq_getsockopt(s->zmq.socket, ZMQ_FD, &fd, &size);
    return fd;
}

/* What messages with headers hold is judged one by one. */
static const struct io_records *records(const void *config)
{
    const struct conf *c = config;
    bool told = c->format == IO_ZMQ_RAW || c->format == IO_ZMQ_GNURADIO;

    return told && (c->dtype != IO_D_U8 || c->channels > 1) ? NULL : &c->records;
}

static bool blocks(const void *config)
{
    return ((const struct conf *)config)->pattern != SUB;
}

static bool resent(const void *config)
{
    return ((const struct conf *)config)->pattern == ROUTER;
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
    .records = records,
    .blocks = blocks,
    .channels = channels,
    .resent = resent,
};
