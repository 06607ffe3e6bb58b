/* feed_stream.c: blocks into messages. A stream holds one block; until it is sent, push() says -EAGAIN, and so the
 * source waits: that is all of the pacing. One thread.
 *
 * Trap: the clock of a stream starts with its first block, and deadlines come from the rows sent, so that nothing
 * drifts; a peer that was slow for a while is caught up with at once. */
#include "tools/feed_stream.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "io/json_write.h"
#include "io/wire.h"
#include "tools/feed_reliable.h"

static const double quantum_s = 0.02; /* a paced message has this much of a signal, or one row */

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- the sources' host ------------------------------------------------------------------------------------ */

static int host_stream(void *self, const struct io_stream_desc *desc, struct io_stream **ret)
{
    struct feed *f = self;
    for (unsigned i = 0; i < f->n_streams; i++) {
        struct feed_stream *s = f->streams[i];
        if (strcmp(s->id, desc->id) != 0)
            continue;
        if (s->ending || s->channels != desc->channels)
            return s->ending ? -EEXIST : -EINVAL;
        *ret = (struct io_stream *)(void *)s;
        return 0;
    }
    if (f->n_streams == f->capacity) {
        unsigned capacity = f->capacity ? 2 * f->capacity : 64;
        struct feed_stream **v = realloc(f->streams, capacity * sizeof *v);
        if (!v)
            return -ENOMEM;
        f->streams = v;
        f->capacity = capacity;
    }
    if (f->reliable && desc->anew && !f->keep) {
        fprintf(stderr, "mambactl feed: %s: cannot be read again: with --reliable name it alone\n", desc->id);
        f->code = f->code ? f->code : EX_USAGE;
        return -EINVAL;
    }
    struct feed_stream *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    feed_reliable_begin(f, s);
    snprintf(s->id, sizeof s->id, "%s", desc->id);
    s->channels = desc->channels;
    s->rate = desc->rate;
    s->irregular = desc->irregular;
    f->streams[f->n_streams++] = s;
    f->started++;
    *ret = (struct io_stream *)(void *)s;
    return 0;
}

static int host_push(void *self, struct io_stream *stream, struct io_block *block)
{
    struct feed *f = self;
    struct feed_stream *s = (struct feed_stream *)(void *)stream;
    if (s->block)
        return -EAGAIN;
    if (f->realtime && !s->irregular && !(s->rate > 0)) {
        fprintf(stderr, "mambactl feed: %s: no rate is known to pace it by: --rate HZ\n", s->id);
        f->code = f->code ? f->code : EX_USAGE;
        io_block_put(f->host.pool, block);
        return 0;
    }
    s->flags |= block->flags & (IO_RESET | IO_GAP);
    if (block->seq != IO_SEQ_NONE) {
        if (f->reliable && s->base + block->seq > s->seq)
            s->flags |= IO_GAP; /* these do not exist: the receiver is not to wait for them */
        s->seq = s->base + block->seq;
    }
    if (block->n == 0 || s->again.failed) { /* its flags go with the next rows */
        io_block_put(f->host.pool, block);
        return 0;
    }
    s->block = block;
    s->at = 0;
    return 0;
}

static void host_end(void *self, struct io_stream *stream)
{
    ((struct feed_stream *)(void *)stream)->ending = true;
}

static void host_discard(void *self, enum io_reason why, const char *id, uint64_t samples, const char *text)
{
    struct feed *f = self;
    fprintf(stderr, "mambactl feed: %s%s%s (%s)\n", id ? id : "", id ? ": " : "", text, io_reason_name(why));
    f->code = f->code ? f->code : EX_DATAERR;
}

static void host_note(void *self, struct io_stream *stream, const char *event, const char *reason, int64_t from,
                      int64_t to)
{
    /* errors come as discard() too; gaps travel as a block's flag */
}

static void host_received(void *self, uint64_t messages, uint64_t bytes)
{
    /* what counts here is what is sent */
}

int feed_init(struct feed *f, const char *input)
{
    f->host = (struct io_host){.self = f,
                               .input = input,
                               .stream = host_stream,
                               .push = host_push,
                               .end = host_end,
                               .discard = host_discard,
                               .note = host_note,
                               .received = host_received};
    return io_pool_new((size_t)256 << 20, &f->host.pool);
}

static void drop_stream(struct feed *f, unsigned i)
{
    io_block_put(f->host.pool, f->streams[i]->block);
    feed_reliable_done(f, f->streams[i]);
    free(f->streams[i]);
    f->streams[i] = f->streams[--f->n_streams];
}

void feed_drop(struct feed *f, struct feed_stream *s)
{
    unsigned i = 0;
    while (f->streams[i] != s)
        i++;
    drop_stream(f, i);
    f->ended++;
}

void feed_rewind(struct feed *f)
{
    while (f->n_streams)
        drop_stream(f, f->n_streams - 1);
    f->started = f->ended = 0;
    f->rewind = false;
}

void feed_done(struct feed *f)
{
    while (f->n_streams)
        drop_stream(f, f->n_streams - 1);
    free(f->streams);
    io_pool_free(&f->host.pool);
}

void feed_cut(struct feed *f)
{
    for (unsigned i = 0; i < f->n_streams; i++) {
        if (f->streams[i]->block)
            io_block_put(f->host.pool, f->streams[i]->block);
        f->streams[i]->block = NULL;
        f->streams[i]->ending = true;
    }
}

/* ---- messages --------------------------------------------------------------------------------------------- */

/* Rows of the held block that may leave now; 0: none before *wake_ns. */
static uint32_t due(const struct feed *f, struct feed_stream *s, int64_t now_ns, int64_t *wake_ns)
{
    uint32_t left = s->block->n - s->at, n = left < f->chunk ? left : f->chunk;
    int64_t at_ns;
    if (!f->realtime)
        return n;
    if (s->irregular) {
        const int64_t *t = io_block_times(s->block) + s->at;
        uint32_t ready = 0;
        while (ready < n && t[ready] - s->first_t_ns <= now_ns - s->began_ns)
            ready++;
        at_ns = s->began_ns + (ready < n ? t[ready] - s->first_t_ns : 0);
        n = ready;
    } else {
        double played = (double)(now_ns - s->began_ns) / 1e9 * s->rate - (double)s->sent;
        double wanted = fmin(n, fmax(1, floor(s->rate * quantum_s)));
        at_ns = s->began_ns + (int64_t)ceil(((double)s->sent + wanted) / s->rate * 1e9);
        n = played + 1e-6 < wanted ? 0 : played < n ? (uint32_t)(played + 1e-6) : n;
    }
    if (n == 0 && at_ns < *wake_ns)
        *wake_ns = at_ns;
    return n;
}

void feed_flags(struct feed_message *m, uint32_t flags)
{
    struct io_out out = {m->header + m->bare_bytes, m->header + sizeof m->header, false}, *o = &out;
    static const struct {
        uint32_t flag;
        const char *name;
    } names[] = {{IO_START, "\"start\""}, {IO_RESET, "\"reset\""}, {IO_GAP, "\"gap\""}, {IO_END, "\"end\""}};
    bool first = true;
    if (flags)
        IO_OUT_LIT(o, ",\"flags\":[");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!(flags & names[i].flag))
            continue;
        io_out_bytes(o, ",", !first);
        io_out_bytes(o, names[i].name, strlen(names[i].name));
        first = false;
    }
    if (flags)
        IO_OUT_LIT(o, "]");
    IO_OUT_LIT(o, "}");
    m->flags = flags;
    m->header_bytes = (size_t)(out.p - m->header);
}

/* Time of the message's first row; IO_T_NONE: not known. */
static int64_t time_of(const struct feed_stream *s)
{
    if (!s->block)
        return IO_T_NONE;
    if (s->block->timed)
        return io_block_times(s->block)[s->at];
    if (s->block->t_ns == IO_T_NONE || s->at == 0)
        return s->block->t_ns;
    return s->rate > 0 ? s->block->t_ns + llround(s->at / s->rate * 1e9) : IO_T_NONE;
}

/* All but its flags and its end. */
static void write_header(const struct feed_stream *s, struct feed_message *m, enum io_sample type)
{
    struct io_out o = {m->header, m->header + sizeof m->header, false};
    static const char *const dtypes[] = {[IO_F32] = "float32", [IO_F64] = "float64", [IO_U8] = "uint8"};
    int64_t t_ns = time_of(s);
    IO_OUT_LIT(&o, "{\"dtype\":\"");
    io_out_bytes(&o, dtypes[type], strlen(dtypes[type]));
    IO_OUT_LIT(&o, "\",\"shape\":[");
    io_out_u64(&o, m->rows);
    IO_OUT_LIT(&o, ",");
    io_out_u64(&o, s->channels);
    IO_OUT_LIT(&o, "],\"stream\":");
    io_out_string(&o, s->id, IO_ID_MAX);
    IO_OUT_LIT(&o, ",\"seq\":");
    io_out_i64(&o, s->seq);
    if (t_ns != IO_T_NONE) {
        IO_OUT_LIT(&o, ",\"t_ns\":\"");
        io_out_i64(&o, t_ns);
        IO_OUT_LIT(&o, "\"");
    }
    if ((s->rate > 0 || s->irregular) && !m->question) { /* rate 0 would need a frame of times */
        IO_OUT_LIT(&o, ",\"rate\":");
        io_out_real(&o, s->irregular ? 0 : s->rate);
    }
    m->bare_bytes = (size_t)(o.p - m->header);
}

/* The message of the first n rows left in the block (n = 0: none, the stream's end). */
static void make_message(const struct feed *f, struct feed_stream *s, uint32_t n, struct feed_message *m)
{
    const struct io_block *b = s->block;
    enum io_sample type = b ? b->type : IO_F32;
    size_t row = s->channels * io_sample_bytes(type);
    *m = (struct feed_message){.stream = s, .id = s->id, .seq = s->seq, .rows = n, .last = !b};
    uint32_t flags = s->flags | (s->begun || f->reliable ? 0 : IO_START) | (b ? 0 : IO_END);
    m->payload = b ? b->data + s->at * row : (const void *)"";
    m->payload_bytes = n * row;
    if (s->irregular) {
        m->times = b ? (const void *)(io_block_times(s->block) + s->at) : (const void *)"";
        m->times_bytes = n * sizeof(int64_t);
    }
    write_header(s, m, type);
    feed_flags(m, flags);
}

void feed_question(struct feed_stream *s, struct feed_message *m)
{
    *m = (struct feed_message){.stream = s, .id = s->id, .payload = "", .question = true};
    write_header(s, m, IO_F32);
    feed_flags(m, 0);
}

static void first_row(struct feed_stream *s)
{
    s->began_ns = clock_ns();
    s->first_t_ns = s->block->timed ? io_block_times(s->block)[s->at] : s->block->t_ns;
}

bool feed_next(struct feed *f, int64_t now_ns, struct feed_message *m, int64_t *wake_ns)
{
    for (unsigned k = 0; k < f->n_streams; k++) {
        unsigned i = (f->next + k) % f->n_streams;
        struct feed_stream *s = f->streams[i];
        enum feed_step step = f->reliable ? feed_reliable_next(f, s, now_ns, m) : FEED_ROWS;
        uint32_t n = 0;
        if (step == FEED_ROWS && s->block) {
            if (s->began_ns == 0)
                first_row(s);
            n = due(f, s, now_ns, wake_ns);
        }
        if (step == FEED_NOTHING || (step == FEED_ROWS && n == 0 && (s->block || !s->ending)))
            continue;
        f->next = (i + 1) % f->n_streams;
        if (step == FEED_ROWS)
            make_message(f, s, n, m);
        return true;
    }
    return false;
}

void feed_used(struct feed *f, struct feed_stream *s, uint32_t rows)
{
    f->moved = true;
    s->at += rows;
    s->seq += rows;
    s->flags = 0;
    if (s->block && s->at == s->block->n) {
        io_block_put(f->host.pool, s->block);
        s->block = NULL;
    }
}

void feed_sent(struct feed *f, const struct feed_message *m)
{
    struct feed_stream *s = m->stream;
    f->messages++;
    f->bytes += m->header_bytes + m->payload_bytes + m->times_bytes;
    if (f->reliable && !feed_reliable_sent(f, m))
        return;
    s->begun = true;
    s->sent += m->rows;
    f->rows += m->rows;
    feed_used(f, s, m->rows);
    if (m->last && !f->reliable)
        feed_drop(f, s);
}
