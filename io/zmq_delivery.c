/* zmq_delivery.c: see zmq_delivery.h. Everything about a message is decided in io_zmq_accept(); from then on it only
 * has to get rid of rows, and may stop at any block and go on later. */
#include "io/zmq_delivery.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/stream_id.h"

static void free_run(void *run)
{
    struct io_zmq_run *r = run;

    io_zmq_run_free(&r);
}

int io_zmq_delivery_init(struct io_zmq_delivery *d)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    io_zmq_message_init(&d->message);
    return io_stream_cache_init(&d->cache, (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15 ^ (uint64_t)(uintptr_t)d,
                                d->host, free_run);
}

void io_zmq_delivery_done(struct io_zmq_delivery *d)
{
    if (d->busy && d->resent)
        io_block_put(d->host->pool, d->block);
    else if (d->busy)
        io_zmq_give_up(d, IO_R_QUEUE_FULL, "closed while the stream's queue was full");
    io_zmq_message_done(&d->message);
    io_stream_cache_done(&d->cache);
    io_zmq_plans_done(&d->plans);
}

static void discard(struct io_zmq_delivery *d, enum io_reason why, const char *id, uint64_t rows, const char *text)
{
    d->why = why;
    d->text = text;
    d->host->discard(d->host->self, why, id, rows, text);
}

/* Of the message at hand, what the daemon has not got. */
static uint64_t samples_left(const struct io_zmq_delivery *d)
{
    const struct io_block *b = d->block;

    return (d->message.n - d->row) * d->message.channels + (b ? (uint64_t)b->n * b->channels : 0);
}

void io_zmq_give_up(struct io_zmq_delivery *d, enum io_reason why, const char *text)
{
    discard(d, why, d->id, samples_left(d), text);
    io_block_put(d->host->pool, d->block);
    d->block = NULL;
    d->busy = false;
}

/* ---- which stream ---- */

/* The id by the input's template, else the sender's, else the topic, else the input's. */
static int make_id(struct io_zmq_delivery *d)
{
    const struct io_zmq_message *m = &d->message;
    const char *id = m->header.stream[0] ? m->header.stream : m->topic[0] ? m->topic : d->host->input;
    struct io_id_parts parts = {.input = d->host->input, .topic = m->topic, .stream = id};

    if (d->common->stream)
        return m->topic_bad ? -EINVAL : io_id_expand(d->common->stream, &parts, d->id);
    if (m->topic_bad && !m->header.stream[0])
        return -EINVAL;
    memcpy(d->id, id, strlen(id) + 1);
    return 0;
}

/* What rows are to have: the input's rate, else the model's; resampled ones the model's, else the input's. 0: any. */
static double wanted_rate(const struct io_zmq_delivery *d)
{
    double input = d->common->rate, model = d->host->model_rate;

    return d->common->resample ? (model > 0 ? model : input) : input > 0 ? input : model;
}

static bool same_rate(double a, double b)
{
    double diff = a - b;

    return diff <= 1e-9 * b && -diff <= 1e-9 * b;
}

/* The rate of the message's rows: as told, as told before, or as wanted; false: one that the input does not take. */
static bool find_rate(struct io_zmq_delivery *d, const struct io_cached *before)
{
    double told = d->message.header.rate, wanted = wanted_rate(d);

    d->rate = told >= 0 ? told : before && !before->irregular ? before->rate : wanted;
    if (wanted <= 0)
        return true;
    if (same_rate(d->rate, wanted))
        d->rate = wanted;
    return d->rate == wanted || (d->common->resample && d->rate > 0);
}

/* What takes a stream's rows to the rate that is wanted; none where they have it. */
static int make_run(struct io_zmq_delivery *d, const struct io_stream_desc *desc, struct io_zmq_run **ret)
{
    int r;

    *ret = NULL;
    if (desc->rate == d->rate)
        return 0;
    r = io_zmq_run_new(&d->plans, d->rate, desc->rate, desc->channels, ret);
    if (r)
        discard(d, r == -ENOMEM ? IO_R_MEMORY : IO_R_RATE, d->id, samples_left(d), "the rate cannot be resampled");
    return r;
}

static void renew(const struct io_zmq_delivery *d, const struct io_stream_desc *desc, struct io_stream *stream,
                  struct io_zmq_run *run)
{
    struct io_cached *e = d->entry;

    free_run(e->extra);
    e->extra = run;
    e->stream = stream;
    e->channels = desc->channels;
    e->rate = d->rate;
    e->irregular = desc->irregular;
}

/* The daemon's stream of d->id, from the cache where the message is like those before it. */
static int find_stream(struct io_zmq_delivery *d)
{
    struct io_zmq_message *m = &d->message;
    struct io_cached *e = d->entry = io_stream_cache_find(&d->cache, d->id);
    struct io_stream_desc desc = {.id = d->id, .channels = m->channels, .irregular = m->times != NULL};
    struct io_stream *stream;
    struct io_zmq_run *run;
    int r;

    if (!find_rate(d, e)) {
        discard(d, IO_R_RATE, d->id, samples_left(d), "the message's rate is not that of the input or its model");
        return -EINVAL;
    }
    if (e && m->n == 0) { /* flags only: the empty shape says nothing about the stream */
        m->channels = e->channels;
        return 0;
    }
    if (e && e->channels == m->channels && e->irregular == desc.irregular && e->rate == d->rate)
        return 0;
    if (e && d->host->let_go(d->host->self, e->stream, false)) {
        io_stream_cache_drop(&d->cache, e);
        e = d->entry = NULL;
    }
    desc.samples = samples_left(d);
    desc.rate = d->common->resample && wanted_rate(d) > 0 ? wanted_rate(d) : d->rate;
    if ((r = make_run(d, &desc, &run)) != 0)
        return r;
    r = d->host->stream(d->host->self, &desc, &stream);
    if (r) {
        d->why = io_stream_refusal(r);
        d->text = "stream refused";
    } else if (!e && (r = io_stream_cache_add(&d->cache, d->id, &d->entry)) != 0) {
        d->host->let_go(d->host->self, stream, true);
    }
    if (r)
        free_run(run);
    else
        renew(d, &desc, stream, run);
    return r;
}

/* A byte model takes bytes only. */
static bool fits_model(const struct io_zmq_delivery *d, enum io_reason *ret_why, const char **ret_text)
{
    const struct io_zmq_message *m = &d->message;

    if (!d->host->bytes || m->n == 0 || (m->header.dtype == IO_D_U8 && m->channels == 1))
        return true;
    *ret_why = m->header.dtype == IO_D_U8 ? IO_R_SHAPE : IO_R_DTYPE;
    *ret_text = m->header.dtype == IO_D_U8 ? "the model reads bytes: one channel" : "the model reads bytes: uint8";
    return false;
}

int io_zmq_read(struct io_zmq_delivery *d)
{
    struct io_zmq_message *m = &d->message;
    enum io_reason why;
    const char *text;

    d->busy = false;
    d->row = 0;
    d->entry = NULL;
    d->id[0] = '\0';
    if (io_zmq_message_read(m, &d->layout, &why, &text)) {
        discard(d, why, NULL, samples_left(d), text);
        return -EBADMSG;
    }
    if (make_id(d)) {
        discard(d, IO_R_ID, NULL, samples_left(d), "topic or template give no valid id");
        return -EBADMSG;
    }
    if (!fits_model(d, &why, &text)) {
        discard(d, why, d->id, samples_left(d), text);
        return -EBADMSG;
    }
    if (m->longest > d->max_frame) {
        discard(d, IO_R_SIZE, d->id, samples_left(d), "a frame is longer than max_message");
        return -EBADMSG;
    }
    return 0;
}

int io_zmq_admit(struct io_zmq_delivery *d, uint64_t row)
{
    struct io_zmq_message *m = &d->message;
    int r = find_stream(d);

    if (r)
        return r;
    d->busy = true;
    d->row = d->entry->extra ? io_zmq_run_meet(d->entry->extra, m) : row;
    if (d->row)
        discard(d, IO_R_DUPLICATE, d->id, d->row * m->channels, "rows came a second time");
    return 0;
}

void io_zmq_accept(struct io_zmq_delivery *d)
{
    if (io_zmq_read(d) == 0 && (d->message.n || d->message.header.flags))
        io_zmq_admit(d, 0);
}

static void end_stream(struct io_zmq_delivery *d)
{
    d->host->end(d->host->self, d->entry->stream);
    io_stream_cache_drop(&d->cache, d->entry);
    d->entry = NULL;
}

/* What is resampled has no numbers before it is: its run ends at a hole. */
static void interrupt(struct io_zmq_delivery *d, struct io_cached *e)
{
    bool ends = d->message.header.flags & IO_END;

    d->message.header.flags |= IO_GAP;
    d->message.n = 0;
    if (ends)
        io_zmq_admit(d, 0);
    else
        io_zmq_run_meet(e->extra, &d->message);
}

void io_zmq_turn_away(struct io_zmq_delivery *d)
{
    const struct io_zmq_message *m = &d->message;
    const struct io_host *host = d->host;
    struct io_cached *e;

    if (io_zmq_read(d))
        return;
    e = io_stream_cache_find(&d->cache, d->id);
    if (e && !e->extra && (e->channels == m->channels || m->n == 0)) {
        host->drop(host->self, e->stream, m->n, m->channels, m->header.flags & ~(uint32_t)IO_END);
        d->entry = e;
        if (m->header.flags & IO_END)
            end_stream(d);
        return;
    }
    discard(d, IO_R_LIMIT, d->id, samples_left(d), "more than the input takes a second");
    if (e && e->extra)
        interrupt(d, e);
    else
        host->announce(host->self, IO_R_LIMIT, d->id);
}

/* ---- from message to blocks ---- */

static int64_t time_at(const struct io_zmq_delivery *d, uint64_t row)
{
    const struct io_header *h = &d->message.header;

    if (h->t_ns == IO_T_NONE || row == 0)
        return h->t_ns;
    return d->rate > 0 ? io_zmq_later(h->t_ns, (double)row * 1e9 / d->rate) : IO_T_NONE;
}

/* The next rows of the message as they are. */
static int cut_block(struct io_zmq_delivery *d, struct io_block **ret)
{
    const struct io_zmq_message *m = &d->message;
    bool bytes = d->layout.format == IO_ZMQ_BYTES || d->host->bytes;
    enum io_sample type = bytes ? IO_U8 : io_dtype_sample(m->header.dtype);
    size_t row_bytes = m->channels * io_sample_bytes(type) + (m->times ? 8 : 0);
    size_t n = m->n - d->row, most = (IO_BLOCK_MAX - 8) / row_bytes, item = io_dtype_bytes(m->header.dtype);
    struct io_block *b;

    n = n < most ? n : most;
    b = io_block_get(d->host->pool, io_block_need(n, m->channels, type, m->times != NULL));
    if (!b)
        return -ENOMEM;
    b->n = (uint32_t)n;
    b->channels = m->channels;
    b->type = type;
    b->seq = m->header.seq == IO_SEQ_NONE ? IO_SEQ_NONE : m->header.seq + (int64_t)d->row;
    b->t_ns = time_at(d, d->row);
    b->flags = d->row == 0 ? m->header.flags & ~(uint32_t)IO_END : 0; /* the end is said by host->end() */
    b->timed = m->times != NULL;
    if (n) /* of no rows the dtype may be any */
        io_rows_convert(b->data, type, m->payload + d->row * m->channels * item, m->header.dtype, n * m->channels,
                        d->common->scale, d->common->offset);
    if (b->timed && n) {
        memcpy(io_block_times(b), m->times + d->row * 8, n * 8);
        b->t_ns = io_block_times(b)[0];
    }
    d->row += n;
    *ret = b;
    return 0;
}

/* The next block into d->block; it stays NULL when the message is used up. */
static int next_block(struct io_zmq_delivery *d, bool first, int64_t now_ns)
{
    const struct io_zmq_message *m = &d->message;
    int r = 0;

    if (d->entry->extra)
        r = io_zmq_run_block(d->entry->extra, d->host->pool, m, d->common, &d->row, &d->block);
    else if (d->row < m->n || (first && m->n == 0 && m->header.flags & ~(uint32_t)IO_END))
        r = cut_block(d, &d->block);
    if (d->block)
        d->block->arrived_ns = (uint64_t)now_ns;
    return r;
}

/* Hands over d->block. -EAGAIN: keep it. Other errors: the stream could not be had again, the rest is dropped. */
static int push_block(struct io_zmq_delivery *d)
{
    int r = d->host->push(d->host->self, d->entry->stream, d->block);

    if (r == -ESTALE) { /* ended by the daemon since it was cached */
        d->host->end(d->host->self, d->entry->stream);
        io_stream_cache_drop(&d->cache, d->entry);
        r = find_stream(d);
        r = r ? r : d->host->push(d->host->self, d->entry->stream, d->block);
    }
    if (r == -EAGAIN)
        return r;
    if (r)
        io_block_put(d->host->pool, d->block);
    d->block = NULL;
    return r;
}

int io_zmq_deliver(struct io_zmq_delivery *d, int64_t now_ns)
{
    bool first = !d->block;
    int r = 0;

    for (;;) {
        if (!d->block)
            r = next_block(d, first, now_ns);
        if (r || !d->block)
            break;
        first = false;
        r = push_block(d);
        if (r == -EAGAIN)
            return r;
        if (r) {
            d->busy = false;
            return -ECANCELED;
        }
    }
    if (r)
        return r;
    d->busy = false;
    if (d->message.header.flags & IO_END)
        end_stream(d);
    return 0;
}
