/* recorder.c: the daemon's side for source tests. One thread. */
#include "tests/io/recorder.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct io_stream {
    struct recorded r;
};

int64_t recorder_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

struct recorded *recorder_find(struct recorder *r, const char *id)
{
    for (unsigned i = 0; i < r->n_streams; i++)
        if (!strcmp(r->streams[i]->id, id))
            return r->streams[i];
    return NULL;
}

bool recorder_said(const struct recorder *r, const char *part)
{
    for (unsigned i = 0; i < r->n_said; i++)
        if (strstr(r->said[i], part))
            return true;
    return false;
}

static int on_stream(void *self, const struct io_stream_desc *desc, struct io_stream **ret)
{
    struct recorder *r = self;
    struct recorded *found = recorder_find(r, desc->id);

    if ((!found || found->ended) && r->n_streams - (found != NULL) >= r->streams_max)
        return -ENOSPC;
    if (!found) {
        found = calloc(1, sizeof(struct io_stream));
        snprintf(found->id, sizeof found->id, "%s", desc->id);
        found->channels = desc->channels;
        found->rate = desc->rate;
        found->irregular = desc->irregular;
        r->streams[r->n_streams++] = found;
    }
    if (found->channels != desc->channels)
        return -EINVAL;
    assert(!found->held);
    found->held = true;
    found->ended = found->stale = false;
    *ret = (struct io_stream *)(void *)found;
    return 0;
}

static void grow(struct recorded *s, size_t n)
{
    if (s->n + n <= s->cap)
        return;
    s->cap = 2 * (s->n + n);
    s->x = realloc(s->x, s->cap * s->channels * sizeof *s->x);
    s->seq = realloc(s->seq, s->cap * sizeof *s->seq);
    s->t_ns = realloc(s->t_ns, s->cap * sizeof *s->t_ns);
    s->reset = realloc(s->reset, s->cap * sizeof *s->reset);
}

static double value(const struct io_block *b, size_t i)
{
    double d;
    float f;

    if (b->type == IO_U8)
        return b->data[i];
    memcpy(&f, b->data + 4 * i, sizeof f);
    if (b->type == IO_F32)
        return f;
    memcpy(&d, b->data + 8 * i, sizeof d);
    return d;
}

static int on_push(void *self, struct io_stream *stream, struct io_block *b)
{
    struct recorder *r = self;
    struct recorded *s = (struct recorded *)(void *)stream;

    assert(!s->ended && b->channels == s->channels);
    if (s->stale)
        return -ESTALE;
    if (b->n > r->room)
        return -EAGAIN;
    r->room -= r->room == SIZE_MAX ? 0 : b->n;
    grow(s, b->n);
    for (size_t i = 0; i < b->n; i++) {
        for (size_t c = 0; c < b->channels; c++)
            s->x[(s->n + i) * s->channels + c] = value(b, i * b->channels + c);
        s->seq[s->n + i] = b->seq == IO_SEQ_NONE ? IO_SEQ_NONE : b->seq + (int64_t)i;
        s->t_ns[s->n + i] = b->timed ? io_block_times(b)[i] : i ? IO_T_NONE : b->t_ns;
        s->reset[s->n + i] = i == 0 && (b->flags & IO_RESET);
    }
    s->type = b->type;
    s->n += b->n;
    s->blocks++;
    io_block_put(r->host.pool, b);
    return 0;
}

static void on_end(void *self, struct io_stream *stream)
{
    struct recorded *s = (struct recorded *)(void *)stream;

    assert(s->held);
    s->held = false;
    s->ended = true;
}

static void say(struct recorder *r, const char *a, const char *b, const char *c)
{
    if (r->n_said < sizeof r->said / sizeof *r->said)
        snprintf(r->said[r->n_said++], IO_ERR, "%s %s: %s", a, b ? b : "-", c ? c : "-");
}

static void on_discard(void *self, enum io_reason why, const char *id, uint64_t samples, const char *text)
{
    struct recorder *r = self;

    r->discarded[why] += samples;
    say(r, io_reason_name(why), id, text);
}

static void on_note(void *self, struct io_stream *stream, const char *event, const char *reason, int64_t from,
                    int64_t to)
{
    say(self, "note", event, reason);
}

static void on_received(void *self, uint64_t messages, uint64_t bytes)
{
    struct recorder *r = self;

    r->messages += messages;
    r->bytes += bytes;
}

void recorder_init(struct recorder *r, const char *input, double model_rate)
{
    *r = (struct recorder){.room = SIZE_MAX, .streams_max = 64};
    r->host = (struct io_host){
        .self = r,
        .model_rate = model_rate,
        .input = input,
        .stream = on_stream,
        .push = on_push,
        .end = on_end,
        .discard = on_discard,
        .note = on_note,
        .received = on_received,
    };
    if (io_pool_new((size_t)64 << 20, &r->host.pool))
        abort();
}

void recorder_done(struct recorder *r)
{
    for (unsigned i = 0; i < r->n_streams; i++) {
        struct recorded *s = r->streams[i];
        free(s->x);
        free(s->seq);
        free(s->t_ns);
        free(s->reset);
        free(s);
    }
    io_pool_free(&r->host.pool); /* asserts that nothing is out */
}

bool recorder_run(struct recorder *r, const struct io_source_class *class_, void *source, int64_t patience_ns)
{
    for (;;) {
        int64_t now = recorder_now(), wake = INT64_MAX;
        enum io_turn turn = class_->turn(source, now, &wake);
        if (turn == IO_TURN_DONE)
            return true;
        if (turn == IO_TURN_MORE)
            continue;
        if (wake == INT64_MAX || wake > now + patience_ns)
            return false;
        struct timespec pause = {.tv_sec = (wake - now) / 1000000000, .tv_nsec = (wake - now) % 1000000000};
        nanosleep(&pause, NULL);
    }
}
