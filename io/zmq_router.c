/* zmq_router.c: see zmq_router.h. Nothing is remembered of a sender but the identity beside a live stream, so senders
 * without number cost nothing; how far a stream has come is the daemon's to know, across restarts too.
 *
 * Trap: nothing here may wait for a sender. Answers are sent without waiting; whoever does not read them loses them,
 * counted, and hears the same from any later one. */
#include "io/zmq_router.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/json_write.h"

enum { ANSWER_BYTES = 2048 };
static const int64_t ask_again_ns = 1000000000, seq_limit = INT64_C(1) << 61; /* beyond, no timeline goes */

struct sender {
    int64_t asked, asked_ns; /* the row that was asked for last, and when */
    uint8_t bytes, id[255];
};

/* No heartbeats: libzmq 4.3.4 aborts when one is due on a connection that broke while it was held back. */
int io_zmq_router_init(struct io_zmq_router *r, void *socket, struct io_zmq_delivery *d)
{
    static const struct {
        int option, value;
    } options[] = {{ZMQ_ROUTER_MANDATORY, 1}, /* who is gone is told from who is slow */
                   {ZMQ_ROUTER_HANDOVER, 1},  /* an identity that connects again is the same sender */
                   {ZMQ_TCP_MAXRT, 30000}};   /* ms; who does not even acknowledge an answer is gone */

    r->socket = socket;
    r->delivery = d;
    d->resent = true;
    zmq_msg_init(&r->sender);
    for (unsigned i = 0; i < sizeof options / sizeof *options; i++)
        if (zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof options[i].value))
            return -errno;
    return 0;
}

void io_zmq_router_done(struct io_zmq_router *r)
{
    if (r->socket)
        zmq_msg_close(&r->sender);
}

int io_zmq_router_receive(struct io_zmq_router *r)
{
    while (zmq_msg_recv(&r->sender, r->socket, ZMQ_DONTWAIT) < 0)
        if (errno != EINTR)
            return -errno;
    return io_zmq_message_receive(&r->delivery->message, r->socket);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* [verb][text] to a connection: 0; -EAGAIN: it does not read, -EHOSTUNREACH: it is gone; both counted. */
static int answer(struct io_zmq_router *r, const void *to, size_t to_bytes, const char *verb, const struct io_out *text,
                  const char *from)
{
    if (zmq_send(r->socket, to, to_bytes, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
        r->dropped++;
        return -errno;
    }
    zmq_send(r->socket, verb, strlen(verb), ZMQ_DONTWAIT | ZMQ_SNDMORE);
    zmq_send(r->socket, from, (size_t)(text->p - from), ZMQ_DONTWAIT);
    r->sent++;
    return 0;
}

/* Where the stream stands; `again`: the sender is to go on from there, whatever it has sent. */
static int ack(struct io_zmq_router *r, const void *to, size_t to_bytes, const char *id, const struct io_place *at,
               bool again)
{
    char text[ANSWER_BYTES];
    struct io_out o = {text, text + sizeof text, false};

    IO_OUT_LIT(&o, "{\"stream\":");
    io_out_string(&o, id, IO_ID_MAX);
    IO_OUT_LIT(&o, ",\"seq\":");
    io_out_i64(&o, at->next);
    IO_OUT_LIT(&o, ",\"durable\":");
    io_out_i64(&o, at->durable);
    if (at->ended)
        IO_OUT_LIT(&o, ",\"ended\":true");
    if (again)
        IO_OUT_LIT(&o, ",\"resend\":true");
    IO_OUT_LIT(&o, "}");
    return answer(r, to, to_bytes, "ack", &o, text);
}

static int ack_sender(struct io_zmq_router *r, const struct io_place *at, bool again)
{
    return ack(r, zmq_msg_data(&r->sender), zmq_msg_size(&r->sender), r->delivery->id, at, again);
}

/* The message at hand was refused, as the delivery knows. */
static void refuse(struct io_zmq_router *r, const char *id)
{
    char text[ANSWER_BYTES];
    struct io_out o = {text, text + sizeof text, false};
    const char *reason = io_reason_name(r->delivery->why);

    IO_OUT_LIT(&o, "{\"stream\":");
    if (id)
        io_out_string(&o, id, IO_ID_MAX);
    else
        IO_OUT_LIT(&o, "null");
    IO_OUT_LIT(&o, ",\"reason\":\"");
    io_out_bytes(&o, reason, strlen(reason));
    IO_OUT_LIT(&o, "\",\"text\":");
    io_out_string(&o, r->delivery->text, 256);
    IO_OUT_LIT(&o, "}");
    answer(r, zmq_msg_data(&r->sender), zmq_msg_size(&r->sender), "error", &o, text);
}

static void discard(struct io_zmq_router *r, enum io_reason why, const char *text)
{
    struct io_zmq_delivery *d = r->delivery;

    d->why = why;
    d->text = text;
    d->host->discard(d->host->self, why, d->id, d->message.n * d->message.channels, text);
}

/* ---- whose a stream is ------------------------------------------------------------------------------------------- */

static bool is_sender(struct io_zmq_router *r, const uint8_t *id, size_t bytes)
{
    return bytes == zmq_msg_size(&r->sender) && memcmp(id, zmq_msg_data(&r->sender), bytes) == 0;
}

/* Whether another connection has the stream, and is there. It is told how the stream stands, which shows that. */
static bool taken(struct io_zmq_router *r, struct io_cached *e, const struct io_place *at)
{
    const struct sender *s = e ? e->sender : NULL;

    return s && !is_sender(r, s->id, s->bytes) && ack(r, s->id, s->bytes, e->id, at, false) != -EHOSTUNREACH;
}

/* The stream is the sender's now. */
static int claim(struct io_zmq_router *r, struct io_cached *e)
{
    struct sender *s = e->sender;

    if (!s && !(s = e->sender = calloc(1, sizeof *s)))
        return -ENOMEM;
    if (is_sender(r, s->id, s->bytes))
        return 0;
    s->bytes = (uint8_t)zmq_msg_size(&r->sender); /* 255 at most */
    memcpy(s->id, zmq_msg_data(&r->sender), s->bytes);
    s->asked = -1;
    return 0;
}

/* ---- which rows -------------------------------------------------------------------------------------------------- */

/* Rows are missing before these: asked for once, and again when that brought nothing. */
static void ask(struct io_zmq_router *r, struct io_cached *e, const struct io_place *at, int64_t now_ns)
{
    struct sender *s = e ? e->sender : NULL;

    discard(r, IO_R_AHEAD, "rows are missing before these: asked for again");
    if (s && is_sender(r, s->id, s->bytes) && s->asked == at->next && now_ns - s->asked_ns < ask_again_ns)
        return;
    if (s) {
        s->asked = at->next;
        s->asked_ns = now_ns;
    }
    ack_sender(r, at, true);
}

/* Whether the numbers and flags can be those of a sender that sends again. */
static bool sound(const struct io_header *h, uint64_t n)
{
    if (n == 0)
        return h->flags == 0 || (h->flags == IO_END && h->seq != IO_SEQ_NONE);
    return h->seq != IO_SEQ_NONE && n < (uint64_t)seq_limit && h->seq <= seq_limit - (int64_t)n;
}

static void admit(struct io_zmq_router *r, uint64_t row)
{
    struct io_zmq_delivery *d = r->delivery;

    if (io_zmq_admit(d, row)) {
        refuse(r, d->id);
    } else if (claim(r, d->entry)) {
        io_zmq_give_up(d, IO_R_MEMORY, "out of memory");
        refuse(r, d->id);
    }
}

/* An end that came alone, and whose shape may say nothing about the stream. */
static void end_stream(struct io_zmq_router *r, struct io_cached *e, struct io_place *at)
{
    struct io_zmq_delivery *d = r->delivery;
    const struct io_host *host = d->host;
    struct io_stream_desc desc = {.id = d->id, .channels = at->channels, .rate = at->rate, .irregular = at->irregular};
    struct io_stream *stream = e ? e->stream : NULL;

    if (!stream && host->stream(host->self, &desc, &stream))
        return; /* counted; it is asked for again when the sender asks how the stream stands */
    host->end(host->self, stream);
    if (e)
        io_stream_cache_drop(&d->cache, e);
    host->recall(host->self, d->id, at);
    ack_sender(r, at, false);
}

/* Of a message with rows or an end, what is next; the rest was taken or is asked for again. */
static void judge(struct io_zmq_router *r, struct io_cached *e, bool known, struct io_place *at, int64_t now_ns)
{
    struct io_zmq_message *m = &r->delivery->message;
    struct io_header *h = &m->header;
    int64_t end = h->seq + (int64_t)m->n;
    bool ends = h->flags & IO_END && known && !at->ended;

    if (h->seq > at->next && !(m->n && h->flags & (IO_START | IO_GAP))) {
        ask(r, e, at, now_ns);
    } else if (end < at->next || (end == at->next && !ends)) {
        if (m->n)
            discard(r, IO_R_DUPLICATE, "rows came a second time");
        at->ended |= !known; /* nothing but an end: there is nothing to end */
        ack_sender(r, at, false);
    } else if (m->n == 0) {
        end_stream(r, e, at);
    } else {
        if (h->seq <= at->next)
            h->flags &= ~(uint32_t)IO_GAP; /* there is no hole: it was filled, or given up before */
        admit(r, h->seq < at->next ? (uint64_t)(at->next - h->seq) : 0);
    }
}

void io_zmq_router_accept(struct io_zmq_router *r, int64_t now_ns)
{
    struct io_zmq_delivery *d = r->delivery;
    const struct io_host *host = d->host;
    struct io_place at = {.next = IO_SEQ_NONE};
    struct io_cached *e;
    bool known;

    if (io_zmq_read(d)) {
        refuse(r, d->id[0] ? d->id : NULL);
        return;
    }
    if (!sound(&d->message.header, d->message.n)) {
        discard(r, IO_R_MALFORMED, "a router's message needs a seq below 2^61, and rows for all flags but end");
        refuse(r, d->id);
        return;
    }
    e = io_stream_cache_find(&d->cache, d->id);
    if (e && !host->place(host->self, e->stream, &at)) {
        host->let_go(host->self, e->stream, true);
        io_stream_cache_drop(&d->cache, e);
        e = NULL;
    }
    known = at.next != IO_SEQ_NONE || host->recall(host->self, d->id, &at);
    if (!known)
        at = (struct io_place){0};
    if (taken(r, e, &at)) {
        discard(r, IO_R_DUPLICATE_STREAM, "another connection sends this stream");
        host->announce(host->self, IO_R_DUPLICATE_STREAM, d->id);
        refuse(r, d->id);
    } else if (d->message.n || d->message.header.flags) {
        judge(r, e, known, &at, now_ns);
    } else {
        ack_sender(r, &at, true);
    }
}

/* ---- after the message ------------------------------------------------------------------------------------------- */

static void answer_due(struct io_zmq_router *r)
{
    const struct io_host *host = r->delivery->host;
    struct io_place at;

    if (r->due.is && host->recall(host->self, r->due.stream, &at))
        ack(r, r->due.sender, r->due.bytes, r->due.stream, &at, false);
    r->due.is = false;
}

void io_zmq_router_delivered(struct io_zmq_router *r, bool taken)
{
    if (!taken) {
        answer_due(r);
        refuse(r, r->delivery->id);
        return;
    }
    if (r->due.is && is_sender(r, r->due.sender, r->due.bytes) && strcmp(r->due.stream, r->delivery->id) == 0)
        return;
    answer_due(r);
    r->due.is = true;
    r->due.bytes = (uint8_t)zmq_msg_size(&r->sender);
    memcpy(r->due.sender, zmq_msg_data(&r->sender), r->due.bytes);
    memcpy(r->due.stream, r->delivery->id, sizeof r->due.stream);
}

void io_zmq_router_flush(struct io_zmq_router *r)
{
    const struct io_host *host = r->delivery->host;

    answer_due(r);
    if (r->sent || r->dropped)
        host->answered(host->self, r->sent, r->dropped);
    r->sent = r->dropped = 0;
}
