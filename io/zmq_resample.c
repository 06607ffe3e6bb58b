/* zmq_resample.c: see zmq_resample.h.
 *
 * Positions: row i of a run (counted from its first) is row `first + i` of the sender, output k is at i = k·from/to,
 * and has seq round(first·to/from) + k. Times come from the message at hand, so that a sender whose clock differs from
 * its rate stays visible to the daemon. Blocks are float64: resampled values are not the sender's numbers any more. */
#include "io/zmq_resample.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static const int64_t seq_max = (int64_t)1 << 44; /* times any ratio, a double still knows each */
enum { PIECE = 256, PLANS = 16 }; /* a filter bank may take 8 MiB: senders do not get to make any number of them */

struct io_zmq_plan {
    double from, to;
    struct io_resample_plan *plan;
};

struct io_zmq_run {
    const struct io_zmq_plan *plan;
    struct io_resampler *resampler;
    uint32_t channels, most; /* rows of a piece */
    uint64_t in, out;        /* rows taken and given */
    int64_t first;           /* the sender's seq of row 0, or IO_SEQ_NONE */
    int64_t origin;          /* seq of output 0, where first is known */
    int64_t at, at_ns;       /* the row with which the message at hand begins, and its time or IO_T_NONE */
    uint32_t flags;          /* for the next block */
    bool draining;
    double *piece; /* [most][channels] */
};

void io_zmq_plans_done(struct io_zmq_plans *plans)
{
    for (unsigned i = 0; i < plans->n; i++) {
        io_resample_plan_free(&plans->v[i]->plan);
        free(plans->v[i]);
    }
    free(plans->v);
    *plans = (struct io_zmq_plans){0};
}

static int plan_for(struct io_zmq_plans *plans, double from, double to, const struct io_zmq_plan **ret)
{
    char err[IO_ERR];
    struct io_zmq_plan *p, **more;
    int r;

    for (unsigned i = 0; i < plans->n; i++) {
        if (plans->v[i]->from == from && plans->v[i]->to == to) {
            *ret = plans->v[i];
            return 0;
        }
    }
    if (plans->n == PLANS)
        return -ERANGE;
    more = realloc(plans->v, (plans->n + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    plans->v = more;
    p = calloc(1, sizeof *p);
    r = p ? io_resample_plan_new(from, to, &p->plan, err) : -ENOMEM;
    if (r) {
        free(p);
        return r;
    }
    p->from = from;
    p->to = to;
    *ret = plans->v[plans->n++] = p;
    return 0;
}

static size_t room_bytes(const struct io_zmq_run *run, size_t n)
{
    return io_resampler_room(run->resampler, n) * run->channels * sizeof(double);
}

int io_zmq_run_new(struct io_zmq_plans *plans, double from, double to, uint32_t channels, struct io_zmq_run **ret)
{
    struct io_zmq_run *run = calloc(1, sizeof *run);
    int r = run ? plan_for(plans, from, to, &run->plan) : -ENOMEM;

    if (!r)
        r = io_resampler_new(run->plan->plan, channels, &run->resampler);
    if (r)
        goto fail;
    run->channels = channels;
    run->most = PIECE;
    while (run->most && room_bytes(run, run->most) > IO_BLOCK_MAX)
        run->most /= 2;
    run->piece = malloc((run->most ? run->most : 1) * channels * sizeof *run->piece);
    r = !run->most ? -ERANGE : !run->piece ? -ENOMEM : 0;
    if (r)
        goto fail;
    *ret = run;
    return 0;
fail:
    io_zmq_run_free(&run);
    return r;
}

void io_zmq_run_free(struct io_zmq_run **run)
{
    if (!*run)
        return;
    if ((*run)->resampler)
        io_resampler_free(&(*run)->resampler);
    free((*run)->piece);
    free(*run);
    *run = NULL;
}

/* Rows by which a message's first row is ahead of the run's next one; by seq, else by time rounded to whole rows, where
 * one row is no difference: clocks jitter. */
static int64_t ahead(const struct io_zmq_run *run, const struct io_header *h)
{
    double by_time;

    if (h->seq != IO_SEQ_NONE && run->first != IO_SEQ_NONE)
        return (int64_t)((uint64_t)h->seq - (uint64_t)run->first - run->in);
    if (h->seq != IO_SEQ_NONE || h->t_ns == IO_T_NONE || run->at_ns == IO_T_NONE)
        return 0;
    by_time = ((double)h->t_ns - (double)run->at_ns) * 1e-9 * run->plan->from + (double)run->at - (double)run->in;
    return fabs(by_time) < 1.5 ? 0 : fabs(by_time) < 9e15 ? (int64_t)round(by_time) : INT64_MAX;
}

uint64_t io_zmq_run_meet(struct io_zmq_run *run, const struct io_zmq_message *m)
{
    uint32_t flags = m->header.flags & ~(uint32_t)IO_END;
    int64_t diff;

    run->flags |= flags;
    if (run->in == 0 || (m->n == 0 && !flags))
        return 0;
    diff = flags ? 1 : ahead(run, &m->header);
    if (diff > 0) {
        run->draining = true;
        return 0;
    }
    run->at = (int64_t)run->in + diff;
    run->at_ns = m->header.t_ns;
    return 0 - (uint64_t)diff < m->n ? 0 - (uint64_t)diff : m->n;
}

static int64_t resampled_seq(const struct io_zmq_run *run, int64_t seq)
{
    return llround((double)seq * (run->plan->to / run->plan->from));
}

/* The message's row `row` is the run's first. */
static void begin(struct io_zmq_run *run, const struct io_header *h, uint64_t row)
{
    int64_t end = run->first == IO_SEQ_NONE ? INT64_MIN : run->origin + (int64_t)run->out;

    run->first = h->seq == IO_SEQ_NONE ? IO_SEQ_NONE : h->seq + (int64_t)row;
    if (run->first > seq_max)
        run->first = IO_SEQ_NONE;
    run->origin = run->first == IO_SEQ_NONE ? 0 : resampled_seq(run, run->first);
    if (run->origin < end && !(run->flags & (IO_START | IO_RESET)))
        run->origin = end; /* a hole of less than one output row */
    run->at = -(int64_t)row;
    run->at_ns = h->t_ns;
    run->out = 0;
}

static void fill(struct io_zmq_run *run, struct io_block *b, size_t n)
{
    double row = (double)run->out * (run->plan->from / run->plan->to) - (double)run->at;

    b->n = (uint32_t)n;
    b->channels = run->channels;
    b->type = IO_F64;
    b->flags = run->flags;
    b->seq = run->first == IO_SEQ_NONE ? IO_SEQ_NONE : run->origin + (int64_t)run->out;
    b->t_ns = io_zmq_later(run->at_ns, row * 1e9 / run->plan->from);
    run->out += n;
    run->flags = 0;
}

/* One block of what the resampler still holds; none: the run is over and the next row begins another. */
static int drain(struct io_zmq_run *run, struct io_pool *pool, struct io_block **ret)
{
    struct io_block *b = io_block_get(pool, room_bytes(run, run->most));
    uint32_t flags = run->flags;
    struct io_resampler *fresh;
    size_t n;

    if (!b)
        return -ENOMEM;
    n = io_resampler_flush(run->resampler, (double *)(void *)b->data, io_resampler_room(run->resampler, run->most));
    if (n) {
        run->flags = 0; /* they are about what follows */
        fill(run, b, n);
        run->flags = flags;
        *ret = b;
        return 0;
    }
    io_block_put(pool, b);
    if (io_resampler_new(run->plan->plan, run->channels, &fresh))
        return -ENOMEM;
    io_resampler_free(&run->resampler);
    run->resampler = fresh;
    run->draining = false;
    run->in = 0;
    return 0;
}

static int push(struct io_zmq_run *run, struct io_pool *pool, const struct io_zmq_message *m,
                const struct io_common *common, uint64_t *row, struct io_block **ret)
{
    size_t n = m->n - *row < run->most ? m->n - *row : run->most, item = io_dtype_bytes(m->header.dtype), made;
    struct io_block *b = io_block_get(pool, room_bytes(run, n));

    if (!b)
        return -ENOMEM;
    if (run->in == 0)
        begin(run, &m->header, *row);
    io_rows_convert(run->piece, IO_F64, m->payload + *row * run->channels * item, m->header.dtype, n * run->channels,
                    common->scale, common->offset);
    made = io_resampler_push(run->resampler, run->piece, n, (double *)(void *)b->data);
    *row += n;
    run->in += n;
    if (made)
        fill(run, b, made);
    else
        io_block_put(pool, b);
    *ret = made ? b : NULL;
    return 0;
}

int io_zmq_run_block(struct io_zmq_run *run, struct io_pool *pool, const struct io_zmq_message *m,
                     const struct io_common *common, uint64_t *row, struct io_block **ret)
{
    int r = 0;

    *ret = NULL;
    while (!r && !*ret) {
        if (run->draining)
            r = drain(run, pool, ret);
        else if (*row < m->n)
            r = push(run, pool, m, common, row, ret);
        else if (m->header.flags & IO_END && run->in > 0)
            run->draining = true;
        else
            break;
    }
    if (r || *ret || m->n > 0 || !run->flags)
        return r;
    *ret = io_block_get(pool, 0); /* flags alone */
    if (!*ret)
        return -ENOMEM;
    fill(run, *ret, 0);
    (*ret)->t_ns = m->header.t_ns;
    (*ret)->seq =
        m->header.seq == IO_SEQ_NONE || m->header.seq > seq_max ? IO_SEQ_NONE : resampled_seq(run, m->header.seq);
    return 0;
}
