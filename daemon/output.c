/* output.c: messages to sinks. The queue is two buffers: the publisher fills one while the other is served, and they
 * change places; a message is copied once, and nothing is allocated once both have reached their peak. */
#include "daemon/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/exit_code.h"
#include "daemon/scarce.h"

void md_output_init(struct md_output *o)
{
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->room, NULL);
    o->wake_fd = -1;
}

void md_output_done(struct md_output *o)
{
    free(o->filling.bytes);
    free(o->serving.bytes);
    pthread_cond_destroy(&o->room);
    pthread_mutex_destroy(&o->lock);
}

static void failed(struct md_output *o, const char *what, int err)
{
    int64_t now = md_now_ns();

    md_end_with(o->code, EX_IOERR);
    if (o->said_ns && now - o->said_ns < 1000000000)
        return;
    o->said_ns = now;
    md_log(MD_ERROR, o->conf->id, "%s failed: %s", what, strerror(-err));
}

int md_output_open(struct md_output *o, char *reterr)
{
    const struct io_sink_class *c = o->conf->class_;
    int r = c->open(o->conf->conf, &o->env, &o->sink, reterr);

    if (r == 0 && o->on_mark && c->mark)
        o->marked = c->mark(o->sink, &o->position);
    return r;
}

int md_output_code(const struct md_output *o, int err)
{
    bool socket = err == -EADDRINUSE || err == -EADDRNOTAVAIL || strcmp(o->conf->class_->type, "zmq") == 0;

    return err == -EKEYREJECTED ? EX_CONFIG : socket || md_scarce(err) ? EX_UNAVAILABLE : EX_IOERR;
}

void md_output_close(struct md_output *o, int64_t linger_ns)
{
    char text[IO_ERR] = "";
    int r;

    if (!o->sink)
        return;
    r = o->conf->class_->close(o->sink, linger_ns, text);
    o->sink = NULL;
    if (r) {
        md_end_with(o->code, EX_IOERR);
        md_log(MD_ERROR, o->conf->id, "close failed: %s", text[0] ? text : strerror(-r));
    }
}

static void deliver(struct md_output *o, const struct io_message *m)
{
    int r = o->conf->class_->write(o->sink, m);

    o->dirty = true;
    if (r == 0) {
        md_bump(&o->counters.messages[m->family], 1);
    } else if (r == -EAGAIN) {
        md_bump(&o->counters.dropped_slow, 1);
    } else {
        md_bump(&o->counters.dropped_error, 1);
        failed(o, "write", r);
    }
}

void md_output_flush(struct md_output *o)
{
    int r;

    if (!o->dirty)
        return;
    o->dirty = false;
    r = o->conf->class_->flush(o->sink);
    if (r && r != -EAGAIN)
        failed(o, "flush", r);
}

enum { MARK = IO_FAMILIES }; /* the family of a message that is a mark */

static void take_mark(struct md_output *o)
{
    memset(&o->position, 0, sizeof o->position);
    o->marked = o->conf->class_->mark(o->sink, &o->position);
    if (o->marked)
        failed(o, "mark", o->marked);
    o->on_mark(o->on_mark_arg);
}

/* ---- queue: each message as [bytes][struct io_message][payload][texts], 8-aligned -------------------------------- */

static size_t payload_floats(const struct io_message *m)
{
    size_t n = m->ndim ? 1 : 0;

    for (uint32_t i = 0; i < m->ndim; i++)
        n *= m->shape[i];
    return n;
}

static void append(unsigned char **at, const void *from, size_t n)
{
    if (!from || !n)
        return;
    memcpy(*at, from, n);
    *at += (n + 7) / 8 * 8;
}

static void append_text(unsigned char **at, const char *text)
{
    append(at, text, text ? strlen(text) + 1 : 0);
}

static size_t text_bytes(const char *text)
{
    return text ? (strlen(text) + 8) / 8 * 8 : 0;
}

/* The copied struct's own pointers only say which parts follow. */
static int pack(struct md_output_side *side, const struct io_message *m)
{
    size_t data = payload_floats(m) * sizeof(float), levels = m->n_quantiles * sizeof(float);
    size_t times = m->times ? m->shape[0] * sizeof(int64_t) : 0, spans = m->spans ? m->shape[0] * sizeof(uint32_t) : 0;
    size_t totals = m->last_out_seq ? IO_FAMILIES * sizeof(uint64_t) : 0;
    size_t need = 8 + sizeof *m + data + times + spans + levels + totals + text_bytes(m->stream) +
                  text_bytes(m->model) + text_bytes(m->event) + text_bytes(m->reason) + 64;
    unsigned char *at;

    if (side->n + need > side->cap) {
        size_t cap = 2 * side->cap > side->n + need ? 2 * side->cap : side->n + need;
        unsigned char *bytes = realloc(side->bytes, cap);
        if (!bytes)
            return -ENOMEM;
        side->bytes = bytes;
        side->cap = cap;
    }
    at = side->bytes + side->n + 8;
    append(&at, m, sizeof *m);
    append(&at, m->data, data);
    append(&at, m->times, times);
    append(&at, m->spans, spans);
    append(&at, m->quantiles, levels);
    append(&at, m->last_out_seq, totals);
    append_text(&at, m->stream);
    append_text(&at, m->model);
    append_text(&at, m->event);
    append_text(&at, m->reason);
    need = (size_t)(at - side->bytes) - side->n;
    memcpy(side->bytes + side->n, &need, sizeof need);
    side->n += need;
    return 0;
}

static const void *next_part(unsigned char **at, bool there, size_t n)
{
    const void *part = there ? *at : NULL;

    if (there)
        *at += (n + 7) / 8 * 8;
    return part;
}

static const char *next_text(unsigned char **at, const char *was)
{
    return was ? next_part(at, true, strlen((const char *)*at) + 1) : NULL;
}

static void unpack(unsigned char *at, struct io_message *m)
{
    memcpy(m, at, sizeof *m);
    at += (sizeof *m + 7) / 8 * 8;
    m->data = next_part(&at, m->data != NULL, payload_floats(m) * sizeof(float));
    m->times = next_part(&at, m->times != NULL, m->shape[0] * sizeof(int64_t));
    m->spans = next_part(&at, m->spans != NULL, m->shape[0] * sizeof(uint32_t));
    m->quantiles = next_part(&at, m->quantiles != NULL, m->n_quantiles * sizeof(float));
    m->last_out_seq = next_part(&at, m->last_out_seq != NULL, IO_FAMILIES * sizeof(uint64_t));
    m->stream = next_text(&at, m->stream);
    m->model = next_text(&at, m->model);
    m->event = next_text(&at, m->event);
    m->reason = next_text(&at, m->reason);
}

int64_t md_output_flush_due(const struct md_output *o)
{
    return o->dirty ? o->flushed_ns + o->conf->class_->flush_ns : INT64_MAX;
}

/* What waited is written. */
static void settle(struct md_output *o, bool sync)
{
    int64_t now = md_now_ns();

    if (sync || now >= md_output_flush_due(o)) {
        md_output_flush(o);
        o->flushed_ns = now;
    }
    if (!sync)
        return;
    pthread_mutex_lock(&o->lock);
    o->sync = false;
    pthread_cond_broadcast(&o->room);
    pthread_mutex_unlock(&o->lock);
}

bool md_output_serve(struct md_output *o)
{
    struct md_output_side side;
    struct io_message m;
    size_t n;
    bool sync;

    pthread_mutex_lock(&o->lock);
    side = o->filling;
    o->filling = o->serving;
    o->filling.n = 0;
    o->serving = side;
    sync = o->sync;
    pthread_cond_broadcast(&o->room);
    pthread_mutex_unlock(&o->lock);
    for (size_t at = 0; at < side.n; at += n) {
        memcpy(&n, side.bytes + at, sizeof n);
        unpack(side.bytes + at + 8, &m);
        if ((int)m.family == MARK)
            take_mark(o);
        else
            deliver(o, &m);
    }
    settle(o, sync);
    return side.n > 0;
}

static void wake_server(const struct md_output *o)
{
    (void)!write(o->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* No memory for it. Who waits for a mark is told that there is none. */
static void lose(struct md_output *o, const struct io_message *m)
{
    if ((int)m->family == MARK) {
        o->marked = -ENOMEM;
        o->on_mark(o->on_mark_arg);
    } else {
        md_add(&o->counters.dropped_error, 1);
    }
}

void md_output_write(struct md_output *o, const struct io_message *m)
{
    bool wake;

    if (o->wake_fd < 0) {
        deliver(o, m);
        return;
    }
    pthread_mutex_lock(&o->lock);
    while (o->filling.n >= MD_OUTPUT_QUEUE)
        pthread_cond_wait(&o->room, &o->lock);
    wake = o->filling.n == 0;
    bool packed = pack(&o->filling, m) == 0;
    pthread_mutex_unlock(&o->lock);
    if (!packed)
        lose(o, m);
    if (wake)
        wake_server(o);
}

bool md_output_mark(struct md_output *o)
{
    const struct io_message mark = {.family = (enum io_family)MARK};
    bool keeps = o->conf->class_->mark && o->sink;

    if (keeps && o->wake_fd < 0)
        take_mark(o);
    else if (keeps)
        md_output_write(o, &mark);
    return keeps;
}

void md_output_sync(struct md_output *o)
{
    if (o->wake_fd < 0) {
        md_output_flush(o);
        return;
    }
    pthread_mutex_lock(&o->lock);
    o->sync = true;
    wake_server(o);
    while (o->sync)
        pthread_cond_wait(&o->room, &o->lock);
    pthread_mutex_unlock(&o->lock);
}
