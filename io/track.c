/* track.c: the rows of one file, from its reader to the host. Runs on the source's thread.
 *
 * A step does one thing: it hands over the block that is waiting, or reads some rows, resamples them and hands them
 * over, or ends the stream. Trap: a block is taken from the pool before rows are read, for rows once read must not be
 * lost. */
#include "io/track.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

enum { STEP_BYTES = 64 << 10 }; /* payload that one step aims to stay below */
static const int64_t pool_retry_ns = 5000000, quantum_ns = 20000000;

/* ---- beginning -------------------------------------------------------------------------------------------- */

int io_track_rate(const struct io_track_shared *s, const char *path, const struct io_play_format *format,
                  double *ret_rate, bool *ret_resample, char *reterr)
{
    const struct io_common *c = s->conf.common;
    double model = s->host.model_rate, wanted = c->rate > 0 ? c->rate : model, rate = format->rate;
    bool resample = false;
    if (format->timed && c->rate <= 0) {
        *ret_rate = 0;
        *ret_resample = false;
        return 0;
    }
    if (c->resample && rate > 0 && (model > 0 || c->rate > 0)) {
        wanted = model > 0 ? model : c->rate;
        resample = rate != wanted;
    } else if (rate > 0 && wanted > 0 && rate != wanted) {
        snprintf(reterr, IO_ERR, "%s: its rate is %.10g Hz, the %s is %.10g Hz; `resample: true` would convert it",
                 path, rate, c->rate > 0 ? "input's" : "model's", wanted);
        return -EBADMSG;
    }
    rate = wanted > 0 ? wanted : rate;
    if (s->conf.realtime && !(rate > 0)) {
        snprintf(reterr, IO_ERR, "%s: `pace: realtime` needs a rate, and none is known", path);
        return -EBADMSG;
    }
    *ret_rate = rate;
    *ret_resample = resample;
    return 0;
}

static int plan_for(struct io_track_shared *s, double from, double to, const struct io_resample_plan **ret,
                    char *reterr)
{
    for (unsigned i = 0; i < s->n_plans; i++) {
        if (s->plans[i].from == from && s->plans[i].to == to) {
            *ret = s->plans[i].plan;
            return 0;
        }
    }
    struct io_track_plan *v = realloc(s->plans, (s->n_plans + 1) * sizeof *v);
    if (!v)
        return -ENOMEM;
    s->plans = v;
    v += s->n_plans;
    *v = (struct io_track_plan){.from = from, .to = to};
    int r = io_resample_plan_new(from, to, &v->plan, reterr);
    if (r)
        return r;
    s->n_plans++;
    *ret = v->plan;
    return 0;
}

static int grow(double **values, size_t *cap, size_t need)
{
    if (need <= *cap)
        return 0;
    double *v = realloc(*values, need * sizeof *v);
    if (!v)
        return -ENOMEM;
    *values = v;
    *cap = need;
    return 0;
}

/* Most rows that n rows read can become. */
static size_t room(const struct io_track *t, size_t n)
{
    return t->resampler ? io_resampler_room(t->resampler, n) : n;
}

static int prepare(struct io_track *t, char *reterr)
{
    struct io_track_shared *s = t->shared;
    bool resample;
    int r = io_track_rate(s, t->path, &t->format, &t->rate, &resample, reterr);
    if (r)
        return r;
    if (resample) {
        const struct io_resample_plan *plan;
        r = plan_for(s, t->format.rate, t->rate, &plan, reterr);
        if (r == 0)
            r = io_resampler_new(plan, t->format.channels, &t->resampler);
        if (r)
            return r;
    }
    for (t->rows = IO_PLAY_ROWS; t->rows > 1; t->rows /= 2)
        if (io_block_need(room(t, t->rows), t->format.channels, t->format.type, t->format.timed) <= STEP_BYTES)
            break;
    r = grow(&s->in, &s->in_cap, (size_t)t->rows * t->format.channels);
    if (r == 0)
        r = grow(&s->out, &s->out_cap, room(t, t->rows) * t->format.channels);
    return r;
}

static int find_stream(struct io_track *t)
{
    const struct io_host *h = &t->shared->host;
    struct stat st;
    struct io_stream_desc desc = {
        .id = t->id,
        .channels = t->format.channels,
        .rate = t->rate,
        .irregular = t->format.timed && t->rate <= 0,
        .anew = strcmp(t->path, "-") == 0 || stat(t->path, &st) || !S_ISREG(st.st_mode),
        .patient = true,
        .waited = t->waits,
    };
    int r = h->stream(h->self, &desc, &t->stream);
    t->waits = r == -ENOSPC;
    t->tries = r ? t->tries : 0;
    return r;
}

int io_track_open(struct io_track_shared *s, const char *path, const char *id, struct io_track *t, char *reterr)
{
    *t = (struct io_track){.shared = s, .path = path, .id = id, .t_ns = IO_T_NONE};
    return s->conf.reader->open(s->conf.reader_conf, path, &t->reader, reterr);
}

void io_track_close(struct io_track *t)
{
    if (t->pending)
        io_block_put(t->shared->host.pool, t->pending);
    if (t->reader)
        t->shared->conf.reader->close(t->reader);
    io_resampler_free(&t->resampler);
    *t = (struct io_track){0};
}

void io_track_leave_out(const struct io_track_shared *s, enum io_reason reason, const char *path, const char *id,
                        const struct io_play_format *format, const char *why)
{
    char text[IO_ERR], length[64] = "its length is not known";
    uint64_t samples = format->rows > 0 ? (uint64_t)format->rows * format->channels : 0;
    if (format->rows >= 0)
        snprintf(length, sizeof length, "%" PRIu64 " samples", samples);
    snprintf(text, sizeof text, "%.200s: left out (%s): %.200s", path, length, why);
    s->host.discard(s->host.self, reason, id, samples, text);
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

static void failed(struct io_track *t, enum io_reason why, const char *text)
{
    const struct io_host *h = &t->shared->host;
    if (t->stream)
        h->note(h->self, t->stream, "error", io_reason_name(why), t->seq, t->seq);
    h->discard(h->self, why, t->id, 0, text);
}

/* Time of row `seq` of a regular stream. */
static int64_t time_at(const struct io_track *t, int64_t seq)
{
    return t->t_ns == IO_T_NONE || !(t->rate > 0) ? IO_T_NONE : t->t_ns + llround((double)seq / t->rate * 1e9);
}

/* Scales n rows into a block. */
static void fill(struct io_track *t, struct io_block *b, const double *rows, uint32_t n, int64_t now_ns)
{
    const struct io_common *c = t->shared->conf.common;
    size_t values = (size_t)n * t->format.channels;
    bool scaled = c->scale != 1 || c->offset != 0;
    b->n = n;
    b->channels = t->format.channels;
    b->type = t->format.type;
    b->seq = t->seq;
    b->arrived_ns = (uint64_t)now_ns;
    b->timed = t->format.timed && t->rate <= 0;
    b->t_ns = b->timed ? t->shared->times[0] : time_at(t, t->seq);
    if (b->timed)
        memcpy(io_block_times(b), t->shared->times, n * sizeof(int64_t));
    for (size_t i = 0; i < values; i++) {
        double x = scaled ? rows[i] * c->scale + c->offset : rows[i];
        if (b->type == IO_F32)
            ((float *)(void *)b->data)[i] = (float)x;
        else
            ((double *)(void *)b->data)[i] = x;
    }
    t->seq += n;
}

void io_track_give_up(const struct io_track *t, enum io_reason reason, const char *why)
{
    if (!t->pending) {
        io_track_leave_out(t->shared, reason, t->path, t->id, &t->format, why);
        return;
    }
    const struct io_host *h = &t->shared->host;
    uint64_t all = t->format.rows > 0 ? (uint64_t)t->format.rows : 0, unread = all > t->taken ? all - t->taken : 0;
    char text[IO_ERR];
    snprintf(text, sizeof text, "%.360s: the rest is left out: its stream had ended, and %.100s", t->path, why);
    h->discard(h->self, reason, t->id, (t->pending->n + unread) * t->format.channels, text);
}

/* Offers the pending block; a stream that the daemon has ended meanwhile is begun again. */
static enum io_track_step push(struct io_track *t)
{
    const struct io_host *h = &t->shared->host;
    uint64_t bytes = io_block_need(t->pending->n, t->pending->channels, t->pending->type, t->pending->timed);
    int r = t->stream ? h->push(h->self, t->stream, t->pending) : 0;
    if (r == -ESTALE) {
        h->end(h->self, t->stream);
        t->stream = NULL;
    }
    if (!t->stream) {
        r = find_stream(t);
        r = r ? r : h->push(h->self, t->stream, t->pending);
    }
    if (r == -EAGAIN) {
        t->wake_ns = INT64_MAX;
        return IO_TRACK_WAITS;
    }
    if (r == 0) {
        t->pending = NULL;
        h->received(h->self, 1, bytes);
        return IO_TRACK_WORKED;
    }
    if (r == -ENOSPC)
        return IO_TRACK_NO_SLOT;
    io_track_give_up(t, io_stream_refusal(r), "was refused");
    return IO_TRACK_ENDED; /* the block goes back when the track closes */
}

static struct io_block *get_block(struct io_track *t, size_t rows, int64_t now_ns)
{
    bool timed = t->format.timed && t->rate <= 0;
    size_t need = io_block_need(rows, t->format.channels, t->format.type, timed);
    struct io_block *b = io_block_get(t->shared->host.pool, need);
    if (!b)
        t->wake_ns = now_ns + pool_retry_ns;
    return b;
}

/* How many rows may be read now; 0: none before t->wake_ns. Under `realtime` the deadline comes from the rows already
 * read, so that it does not drift. */
static uint32_t due(struct io_track *t, int64_t now_ns)
{
    if (!t->shared->conf.realtime)
        return t->rows;
    double rate = t->format.rate > 0 ? t->format.rate : t->rate;
    uint64_t quantum = (uint64_t)fmax(1, floor(rate * (double)quantum_ns / 1e9));
    double played = (double)(now_ns - t->began_ns) / 1e9 * rate;
    if (played < (double)(t->taken + quantum)) {
        t->wake_ns = t->began_ns + (int64_t)ceil((double)(t->taken + quantum) / rate * 1e9);
        return 0;
    }
    double late = floor(played) - (double)t->taken;
    return late < t->rows ? (uint32_t)late : t->rows;
}

static enum io_track_step wait_for_bytes(struct io_track *t, int64_t now_ns)
{
    struct io_track_shared *s = t->shared;
    int fd = s->conf.reader->fd ? s->conf.reader->fd(t->reader) : -1;
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
    bool armed =
        fd >= 0 && (epoll_ctl(s->epoll, EPOLL_CTL_MOD, fd, &e) == 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) == 0);
    t->wake_ns = armed ? INT64_MAX : now_ns + pool_retry_ns;
    return IO_TRACK_WAITS;
}

static enum io_track_step begin(struct io_track *t, int64_t now_ns)
{
    char reterr[IO_ERR] = "";
    int r = t->shared->conf.reader->format(t->reader, &t->format, reterr);
    if (r == -EAGAIN)
        return wait_for_bytes(t, now_ns);
    bool readable = r == 0;
    if (readable && !t->rows)
        r = prepare(t, reterr);
    if (r) {
        failed(t, readable && r != -ENOMEM ? IO_R_RATE : IO_R_FILE, reterr[0] ? reterr : strerror(-r));
        return IO_TRACK_ENDED;
    }
    r = find_stream(t);
    int64_t origin;
    t->began_ns = now_ns;
    if (r == 0 && t->shared->conf.realtime && t->shared->host.resume) /* what was played before a restart */
        t->began_ns -=
            (int64_t)((double)t->shared->host.resume(t->shared->host.self, t->stream, &origin) / t->rate * 1e9);
    if (r && r != -ENOSPC)
        io_track_give_up(t, io_stream_refusal(r), "its stream was refused");
    return r == -ENOSPC ? IO_TRACK_NO_SLOT : r ? IO_TRACK_ENDED : IO_TRACK_WORKED;
}

/* Hands over what the resampler still holds, then ends the stream. */
static enum io_track_step finish(struct io_track *t, int64_t now_ns)
{
    const struct io_host *h = &t->shared->host;
    if (t->resampler) {
        size_t cap = room(t, t->rows);
        struct io_block *b = get_block(t, cap, now_ns);
        if (!b)
            return IO_TRACK_WAITS;
        size_t n = io_resampler_flush(t->resampler, t->shared->out, cap);
        if (n) {
            fill(t, b, t->shared->out, (uint32_t)n, now_ns);
            t->pending = b;
            return push(t);
        }
        io_block_put(h->pool, b);
    }
    h->end(h->self, t->stream);
    return IO_TRACK_ENDED;
}

static enum io_track_step read_rows(struct io_track *t, uint32_t max, int64_t now_ns)
{
    struct io_track_shared *s = t->shared;
    char reterr[IO_ERR] = "";
    struct io_block *b = get_block(t, room(t, max), now_ns);
    if (!b)
        return IO_TRACK_WAITS;
    int n = s->conf.reader->read(t->reader, s->in, s->times, max, reterr);
    size_t left = n > 0 ? (size_t)n : 0;
    if (n > 0 && t->format.timed && t->taken == 0)
        t->t_ns = s->times[0];
    if (n > 0 && t->resampler)
        left = io_resampler_push(t->resampler, s->in, (size_t)n, s->out);
    if (left == 0)
        io_block_put(s->host.pool, b);
    if (n == -EAGAIN)
        return wait_for_bytes(t, now_ns);
    if (n < 0)
        failed(t, IO_R_FILE, reterr[0] ? reterr : strerror(-n));
    t->over = n <= 0;
    t->taken += n > 0 ? (uint64_t)n : 0;
    if (left == 0)
        return IO_TRACK_WORKED;
    fill(t, b, t->resampler ? s->out : s->in, (uint32_t)left, now_ns);
    t->pending = b;
    return push(t);
}

enum io_track_step io_track_step(struct io_track *t, int64_t now_ns)
{
    if (t->pending)
        return push(t);
    if (!t->stream)
        return begin(t, now_ns);
    if (t->over)
        return finish(t, now_ns);
    uint32_t n = due(t, now_ns);
    return n ? read_rows(t, n, now_ns) : IO_TRACK_WAITS;
}
