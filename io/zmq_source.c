/* zmq_source.c: samples from ZeroMQ peers (type `zmq`, patterns pull and sub). docs/protocol.md has the messages.
 *
 * A turn reads messages until there are none, a number is reached, or a stream's queue is full. What could not be
 * handed over stays in `message` and `block`, and no further message is read: ZeroMQ's own high-water mark then holds
 * the senders back (PULL) or makes them drop (SUB).
 *
 * Trap: ZMQ_FD is edge-triggered. It tells only that ZMQ_EVENTS may have changed, so a turn ends in WAIT only after
 * ZMQ_EVENTS was read: that takes the signal back, and otherwise the daemon's poll() would spin or sleep for ever. */
#include "io/stream_cache.h"
#include "io/stream_id.h"
#include "io/zmq_endpoint.h"
#include "io/zmq_message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
    {"pattern", "pull: senders share the work; sub: subscribe to publishers", IO_OPT_ENUM, AT(pattern), .required = true,
     .names = patterns},
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
    struct io_zmq_layout layout;
    struct io_stream_cache cache;
    struct io_zmq_message message;
    /* the message being handed over */
    bool busy;
    char id[IO_ID_MAX + 1];
    struct io_cached *entry; /* of its stream */
    double rate;
    uint64_t row;           /* rows of it that are in blocks already */
    struct io_block *block; /* refused by a full queue */
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
    if (c->common.resample)
        return bad(ret_key, "resample", reterr, "zmq inputs are not resampled yet");
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

static void discard(struct source *s, enum io_reason why, const char *id, uint64_t rows, const char *text)
{
    s->host->discard(s->host->self, why, id, rows, text);
}

static void close_source(void *self)
{
    struct source *s = self;

    if (s->busy)
        discard(s, IO_R_QUEUE_FULL, s->id, s->message.n - s->row + (s->block ? s->block->n : 0),
                "closed while the stream's queue was full");
    io_block_put(s->host->pool, s->block);
    io_zmq_message_done(&s->message);
    io_stream_cache_done(&s->cache);
    io_zmq_close(&s->zmq, 0);
    free(s);
}

static int open_source(const void *config, const struct io_host *host, void **ret_self, char *reterr)
{
    const struct conf *c = config;
    struct source *s = calloc(1, sizeof *s);
    struct timespec now;
    int r;

    if (!s) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    s->conf = c;
    s->host = host;
    s->layout = (struct io_zmq_layout){(enum io_zmq_format)c->format, (enum io_dtype)c->dtype,
                                       c->channels ? (uint32_t)c->channels : 1, c->topic};
    io_zmq_message_init(&s->message);
    clock_gettime(CLOCK_REALTIME, &now);
    r = io_stream_cache_init(&s->cache, (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15 ^ (uint64_t)(uintptr_t)s);
    if (r)
        snprintf(reterr, IO_ERR, "out of memory");
    if (!r)
        r = io_zmq_open(&s->zmq, c->pattern == PULL ? ZMQ_PULL : ZMQ_SUB, reterr);
    if (!r)
        r = set_options(s, reterr);
    if (!r)
        r = io_zmq_attach(&s->zmq, &c->ends, reterr);
    if (r)
        close_source(s);
    else
        *ret_self = s;
    return r;
}

/* ---- which stream ---- */

/* The id by the input's template, else the sender's, else the topic, else the input's. */
static int make_id(struct source *s)
{
    const struct io_zmq_message *m = &s->message;
    const char *id = m->header.stream[0] ? m->header.stream : m->topic[0] ? m->topic : s->host->input;
    struct io_id_parts parts = {.input = s->host->input, .topic = m->topic, .stream = id};

    if (s->conf->common.stream)
        return m->topic_bad ? -EINVAL : io_id_expand(s->conf->common.stream, &parts, s->id);
    if (m->topic_bad && !m->header.stream[0])
        return -EINVAL;
    memcpy(s->id, id, strlen(id) + 1);
    return 0;
}

/* What messages are to have: the input's rate, else the model's; 0: any. */
static double input_rate(const struct source *s)
{
    return s->conf->common.rate > 0 ? s->conf->common.rate : s->host->model_rate;
}

static bool same_rate(double a, double b)
{
    double d = a - b;
    return d <= 1e-9 * b && -d <= 1e-9 * b;
}

/* The daemon's stream of s->id, from the cache where the message is like those before it. */
static int find_stream(struct source *s)
{
    struct io_zmq_message *m = &s->message;
    struct io_cached *e = io_stream_cache_find(&s->cache, s->id);
    struct io_stream_desc desc = {.id = s->id, .channels = m->channels, .irregular = m->times != NULL};
    struct io_stream *stream;
    int r;

    desc.rate = m->header.rate >= 0 ? m->header.rate : e && !e->irregular ? e->rate : input_rate(s);
    s->rate = desc.rate;
    s->entry = e;
    if (e && m->n == 0) { /* flags only: the empty shape says nothing about the stream */
        m->channels = e->channels;
        return 0;
    }
    if (e && e->channels == desc.channels && e->irregular == desc.irregular && e->rate == desc.rate)
        return 0;
    r = s->host->stream(s->host->self, &desc, &stream);
    if (!r && !e)
        r = io_stream_cache_add(&s->cache, s->id, &s->entry);
    if (r)
        return r;
    s->entry->stream = stream;
    s->entry->channels = desc.channels;
    s->entry->rate = desc.rate;
    s->entry->irregular = desc.irregular;
    return 0;
}

/* ---- from message to blocks ---- */

/* Whether the message just received is one to be handed over; whatever it is not was counted. */
static bool accept_message(struct source *s)
{
    struct io_zmq_message *m = &s->message;
    enum io_reason why;
    const char *text;

    if (io_zmq_message_read(m, &s->layout, &why, &text)) {
        discard(s, why, NULL, m->n, text);
        return false;
    }
    if (make_id(s)) {
        discard(s, IO_R_ID, NULL, m->n, "topic or template give no valid id");
        return false;
    }
    if (m->header.rate >= 0 && input_rate(s) > 0 && !same_rate(m->header.rate, input_rate(s))) {
        discard(s, IO_R_RATE, s->id, m->n, "the message's rate is not that of the input or its model");
        return false;
    }
    if (m->n == 0 && m->header.flags == 0)
        return false;
    s->row = 0;
    return find_stream(s) == 0;
}

static int64_t time_at(const struct source *s, uint64_t row)
{
    const struct io_header *h = &s->message.header;

    if (h->t_ns == IO_T_NONE || row == 0)
        return h->t_ns;
    return s->rate > 0 ? h->t_ns + (int64_t)((double)row * 1e9 / s->rate + 0.5) : IO_T_NONE;
}

/* The next rows of the message as a block, or NULL when the pool is at its limit. */
static struct io_block *cut_block(struct source *s, int64_t now_ns)
{
    const struct io_zmq_message *m = &s->message;
    enum io_sample type = s->layout.format == IO_ZMQ_BYTES ? IO_U8 : io_dtype_sample(m->header.dtype);
    size_t row_bytes = m->channels * io_sample_bytes(type) + (m->times ? 8 : 0);
    size_t n = m->n - s->row, most = (IO_BLOCK_MAX - 8) / row_bytes, item = io_dtype_bytes(m->header.dtype);
    struct io_block *b;

    n = n < most ? n : most;
    b = io_block_get(s->host->pool, io_block_need(n, m->channels, type, m->times != NULL));
    if (!b)
        return NULL;
    b->n = (uint32_t)n;
    b->channels = m->channels;
    b->type = type;
    b->seq = m->header.seq == IO_SEQ_NONE ? IO_SEQ_NONE : m->header.seq + (int64_t)s->row;
    b->t_ns = time_at(s, s->row);
    b->arrived_ns = (uint64_t)now_ns;
    b->flags = s->row == 0 ? m->header.flags & ~(uint32_t)IO_END : 0; /* the end is said by host->end() */
    b->timed = m->times != NULL;
    io_rows_convert(b->data, type, m->payload + s->row * m->channels * item, m->header.dtype, n * m->channels,
                    s->conf->common.scale, s->conf->common.offset);
    if (b->timed && n) {
        memcpy(io_block_times(b), m->times + s->row * 8, n * 8);
        b->t_ns = io_block_times(b)[0];
    }
    s->row += n;
    return b;
}

/* Hands over s->block. -EAGAIN: keep it. Other errors: the stream could not be had again, the rest is dropped. */
static int push_block(struct source *s)
{
    int r = s->host->push(s->host->self, s->entry->stream, s->block);

    if (r == -ESTALE) { /* ended by the daemon since it was cached */
        s->host->end(s->host->self, s->entry->stream);
        io_stream_cache_drop(&s->cache, s->entry);
        r = find_stream(s);
        r = r ? r : s->host->push(s->host->self, s->entry->stream, s->block);
    }
    if (r == -EAGAIN)
        return r;
    if (r)
        io_block_put(s->host->pool, s->block);
    s->block = NULL;
    return r;
}

/* Goes on with the current message: 0: done with it; -EAGAIN: its stream's queue is full; -ENOMEM: the pool is. */
static int deliver(struct source *s, int64_t now_ns)
{
    const struct io_zmq_message *m = &s->message;
    bool rows_left = s->row < m->n || (m->n == 0 && s->row == 0 && m->header.flags & ~(uint32_t)IO_END);
    int r = 0;

    while (s->block || rows_left) {
        if (!s->block)
            s->block = cut_block(s, now_ns);
        if (!s->block)
            return -ENOMEM;
        rows_left = s->row < m->n;
        r = push_block(s);
        if (r == -EAGAIN)
            return r;
        if (r)
            return 0;
    }
    if (m->header.flags & IO_END) {
        s->host->end(s->host->self, s->entry->stream);
        io_stream_cache_drop(&s->cache, s->entry);
    }
    return 0;
}

/* A turn that cannot go on: the pool is at its limit. Senders of PULL are held back; a SUB's would drop in silence. */
static bool out_of_blocks(struct source *s, int64_t now_ns, int64_t *ret_wake_ns)
{
    if (s->conf->pattern == PULL) {
        *ret_wake_ns = now_ns + MEMORY_RETRY_NS;
        return true;
    }
    discard(s, IO_R_MEMORY, s->id, s->message.n - s->row, "no memory for blocks");
    return false;
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
    uint64_t messages = 0, bytes = 0;
    bool more = true;

    *ret_wake_ns = INT64_MAX;
    while (messages < TURN_MESSAGES && more) {
        if (!s->busy) {
            if (io_zmq_message_receive(&s->message, s->zmq.socket)) {
                more = readable(s);
                continue;
            }
            messages++;
            bytes += s->message.bytes;
            s->busy = accept_message(s);
        }
        if (s->busy) {
            int r = deliver(s, now_ns);
            s->busy = r == -EAGAIN || (r == -ENOMEM && out_of_blocks(s, now_ns, ret_wake_ns));
            more = !s->busy;
        }
    }
    if (messages)
        s->host->received(s->host->self, messages, bytes);
    if (s->busy)
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
    .blocks = blocks,
};
