/* hdf5_track.c: from rows of a dataset to blocks of a stream. Runs on the thread that calls libhdf5. The track owns its
 * dataset ids and the block that waits; the stream belongs to the daemon.
 *
 * A file that is opened again may have been made anew in the meantime. Its inode need not tell (O_TRUNC keeps it), so
 * the last row that was read is remembered by a hash, and rows go on only behind that very row. */
#include "io/hdf5_track.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/stream_id.h"

enum { BLOCK_BYTES = 64 << 10, BLOCK_ROWS = 4096 };
#define PATIENCE_NS INT64_C(60000000000) /* for a slot */

static bool is_irregular(const struct io_hdf5_input *in)
{
    return in->conf->time && in->conf->common.rate == 0;
}

int io_hdf5_track_init(struct io_hdf5_track *t, const struct io_hdf5_input *in, const char *path, const char *stem,
                       const char *dataset, char *reterr)
{
    const char *form = in->conf->common.stream ? in->conf->common.stream : "{input}:{path}:{dataset}";
    struct io_id_parts parts = {.input = in->host.input, .path = path, .stem = stem, .dataset = dataset};

    *t = (struct io_hdf5_track){0};
    int r = io_id_expand(form, &parts, t->id);
    if (r) {
        snprintf(reterr, IO_ERR, "%.250s: its stream id %s", dataset,
                 r == -ENAMETOOLONG ? "is too long" : "is not valid");
        return r;
    }
    t->name = strdup(dataset);
    return t->name ? 0 : -ENOMEM;
}

void io_hdf5_track_done(struct io_hdf5_track *t, const struct io_hdf5_input *in)
{
    io_hdf5_dataset_close(&t->data);
    if (t->pending)
        io_block_put(in->host.pool, t->pending);
    free(t->name);
    *t = (struct io_hdf5_track){0};
}

/* ---- the same data? --------------------------------------------------------------------------------------- */

static uint64_t hash(uint64_t h, const void *bytes, size_t n) /* FNV-1a */
{
    const unsigned char *b = bytes;

    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Of row i as the file has it, and its time where rows have one. */
static uint64_t row_hash(struct io_block *b, size_t i)
{
    size_t bytes = b->channels * io_sample_bytes(b->type);
    uint64_t h = hash(UINT64_C(0xcbf29ce484222325), b->data + i * bytes, bytes);

    return b->timed ? hash(h, io_block_times(b) + i, sizeof(int64_t)) : h;
}

static int read_block(const struct io_hdf5_track *t, uint64_t first, struct io_block *b, char *reterr)
{
    int r = b->timed ? io_hdf5_dataset_times(&t->data, first, b->n, io_block_times(b), reterr) : 0;
    return r ? r : io_hdf5_dataset_read(&t->data, first, b->n, b->data, reterr);
}

static struct io_block *new_block(const struct io_hdf5_track *t, const struct io_hdf5_input *in, size_t n)
{
    bool timed = is_irregular(in);
    struct io_block *b = io_block_get(in->host.pool, io_block_need(n, t->data.channels, t->data.type, timed));

    if (b) {
        b->n = (uint32_t)n;
        b->channels = t->data.channels;
        b->type = t->data.type;
        b->timed = timed;
        b->t_ns = IO_T_NONE;
    }
    return b;
}

/* 1: row next − 1 is the one that was read; 0: another. */
static int recognise(const struct io_hdf5_track *t, const struct io_hdf5_input *in, char *reterr)
{
    struct io_block *b = new_block(t, in, 1);
    if (!b)
        return -EAGAIN;
    int r = read_block(t, t->next - 1, b, reterr);
    if (r == 0)
        r = row_hash(b, 0) == t->mark;
    io_block_put(in->host.pool, b);
    return r;
}

/* ---- attaching -------------------------------------------------------------------------------------------- */

/* The rows' rate: that of the file where it tells one, which the input's or else the model's must equal. */
static int settle_rate(struct io_hdf5_track *t, const struct io_hdf5_input *in, char *reterr)
{
    double want = in->conf->common.rate ? in->conf->common.rate : in->host.model_rate;

    t->rate = is_irregular(in) ? 0 : t->data.rate ? t->data.rate : in->conf->common.rate;
    if (t->rate == 0 || want == 0 || t->rate == want)
        return 0;
    snprintf(reterr, IO_ERR, "%.250s: its rate is %g Hz, not %g Hz as the %s", t->name, t->rate, want,
             in->conf->common.rate ? "input's" : "model's");
    return -EBADMSG;
}

int io_hdf5_track_attach(struct io_hdf5_track *t, const struct io_hdf5_input *in, hid_t file, char *reterr)
{
    struct io_hdf5_dataset data;
    int r = io_hdf5_dataset_open(file, t->name, in->conf->time, &in->conf->fields, &data, reterr);

    if (r)
        return r;
    io_hdf5_dataset_close(&t->data);
    t->data = data;
    r = settle_rate(t, in, reterr);
    if (r)
        return r;
    t->end = io_hdf5_dataset_rows(&t->data);
    if (t->next > t->end) {
        io_hdf5_track_restart(t, in, "truncation");
    } else if (t->marked) {
        r = recognise(t, in, reterr);
        if (r == 0)
            io_hdf5_track_restart(t, in, "rotation");
    }
    return r < 0 ? r : 0;
}

int io_hdf5_track_refresh(struct io_hdf5_track *t, const struct io_hdf5_input *in, char *reterr)
{
    int r = io_hdf5_dataset_refresh(&t->data, true, reterr);

    if (r)
        return r;
    t->end = io_hdf5_dataset_rows(&t->data);
    if (t->next > t->end)
        io_hdf5_track_restart(t, in, "truncation");
    return 0;
}

void io_hdf5_track_restart(struct io_hdf5_track *t, const struct io_hdf5_input *in, const char *reason)
{
    if (t->next > 0 && t->stream)
        in->host.note(in->host.self, t->stream, "gap", reason, (int64_t)t->next, 0);
    t->reset = t->reset || t->next > 0;
    t->next = 0;
    t->marked = false;
}

void io_hdf5_track_give_up(struct io_hdf5_track *t, const struct io_hdf5_input *in, enum io_reason why,
                           const char *text)
{
    uint64_t rows = t->end - t->next + (t->pending ? t->pending->n : 0);

    in->host.discard(in->host.self, why, t->id, rows * t->data.channels, text);
    if (t->pending)
        io_block_put(in->host.pool, t->pending);
    t->pending = NULL;
    t->next = t->end;
    t->given_up = true;
    t->why = why;
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

static void scale(struct io_block *b, double factor, double offset)
{
    size_t n = (size_t)b->n * b->channels;

    if (factor == 1 && offset == 0)
        return;
    if (b->type == IO_F64) {
        for (double *x = (double *)(void *)b->data, *end = x + n; x < end; x++)
            *x = *x * factor + offset;
    } else {
        for (float *x = (float *)(void *)b->data, *end = x + n; x < end; x++)
            *x = (float)(*x * factor + offset);
    }
}

/* Cuts the block before the first row without a time. Such rows at its beginning are left out: returns how many. */
static size_t cut_at_bad_times(struct io_block *b)
{
    int64_t *times = io_block_times(b);
    size_t n = b->n, bad = 0, good = 0;

    while (bad < n && times[bad] == IO_T_NONE)
        bad++;
    while (bad == 0 && good < n && times[good] != IO_T_NONE)
        good++;
    if (bad == 0 && good < n) {
        b->n = (uint32_t)good;
        memmove(io_block_times(b), times, good * sizeof *times);
    }
    return bad;
}

/* Reads the block's rows and what belongs to them. 1: ready; 0: its rows were left out. */
static int fill(struct io_hdf5_track *t, const struct io_hdf5_input *in, struct io_block *b, char *reterr)
{
    int r = 0;

    if (b->timed) {
        r = io_hdf5_dataset_times(&t->data, t->next, b->n, io_block_times(b), reterr);
        size_t bad = r ? 0 : cut_at_bad_times(b);
        if (bad) {
            char text[IO_ERR];
            snprintf(text, sizeof text, "row %" PRIu64 " of %.250s: its time is not a time", t->next, t->name);
            in->host.discard(in->host.self, IO_R_CLOCK, t->id, bad * b->channels, text);
            t->next += bad;
            return 0;
        }
    } else if (t->data.times) {
        r = io_hdf5_dataset_times(&t->data, t->next, 1, &b->t_ns, reterr);
    }
    if (r == 0)
        r = io_hdf5_dataset_read(&t->data, t->next, b->n, b->data, reterr);
    return r ? r : 1;
}

static int read_next(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns, char *reterr)
{
    uint64_t left = t->end - t->next;
    size_t room = BLOCK_BYTES / (t->data.channels * io_sample_bytes(t->data.type) + 8);
    size_t n = room < 1 ? 1 : room > BLOCK_ROWS ? BLOCK_ROWS : room;
    struct io_block *b = new_block(t, in, left < n ? left : n);

    if (!b)
        return -EAGAIN;
    int r = fill(t, in, b, reterr);
    if (r <= 0) {
        io_block_put(in->host.pool, b);
        return r;
    }
    if (in->conf->follow) {
        t->mark = row_hash(b, b->n - 1);
        t->marked = true;
    }
    scale(b, in->conf->common.scale, in->conf->common.offset);
    b->seq = (int64_t)t->next;
    b->arrived_ns = (uint64_t)now_ns;
    b->flags = t->reset ? IO_START | IO_RESET : 0; /* START: rows are numbered from 0 again */
    t->reset = false;
    t->next += b->n;
    t->pending = b;
    return 0;
}

/* A slot may come free: other streams end. For how long to hope is bounded. */
static int no_slot(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns)
{
    if (t->refused_ns == 0)
        t->refused_ns = now_ns;
    if (now_ns - t->refused_ns < PATIENCE_NS)
        return -EAGAIN;
    io_hdf5_track_give_up(t, in, IO_R_STREAMS, "no slot came free for it");
    return 0;
}

/* Gets the stream's handle. 0: there; −EAGAIN: not now; −ECANCELED: never, the rows have been left out. */
static int start(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns)
{
    struct io_stream_desc desc = {
        .id = t->id,
        .channels = t->data.channels,
        .rate = t->rate,
        .irregular = is_irregular(in),
        .anew = in->conf->from != IO_HDF5_RESUME,
        .patient = true,
        .waited = t->refused_ns != 0,
    };
    int r = t->stream ? 0 : in->host.stream(in->host.self, &desc, &t->stream);

    if (r == -ENOSPC) {
        r = no_slot(t, in, now_ns);
        return r ? r : -ECANCELED;
    }
    t->refused_ns = 0;
    if (r == 0)
        return 0;
    io_hdf5_track_give_up(t, in, r == -EEXIST ? IO_R_DUPLICATE_STREAM : IO_R_ID,
                          r == -EEXIST ? "its id is taken: rows left out"
                                       : "its id or channels were refused: rows left out");
    return -ECANCELED;
}

static int push(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns)
{
    int bytes = (int)(t->pending->n * t->pending->channels * io_sample_bytes(t->pending->type));

    for (int attempt = 0; attempt < 2; attempt++) {
        int r = start(t, in, now_ns);
        if (r)
            return r == -ECANCELED ? bytes : r;
        r = in->host.push(in->host.self, t->stream, t->pending);
        if (r == 0) {
            t->pending = NULL;
            in->host.received(in->host.self, 1, (uint64_t)bytes);
            return bytes;
        }
        if (r != -ESTALE)
            return -EAGAIN;
        in->host.end(in->host.self, t->stream);
        t->stream = NULL; /* ended meanwhile, by streams.idle: begin it again */
    }
    return -EAGAIN;
}

/* Where a restart goes on. A file that is shorter than what was read of it is another one. */
static void resume(struct io_hdf5_track *t, const struct io_hdf5_input *in)
{
    int64_t origin;
    uint64_t row = in->host.resume ? (uint64_t)in->host.resume(in->host.self, t->stream, &origin) : 0;

    if (t->next > 0 || row == 0)
        return;
    t->next = row;
    if (row >= t->end)
        io_hdf5_track_restart(t, in, "truncation");
}

int io_hdf5_track_pump(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns, char *reterr)
{
    while (!t->pending) {
        if (t->next >= t->end)
            return 0;
        if (t->given_up) {
            io_hdf5_track_give_up(t, in, t->why, "left out like the rows before");
            return 0;
        }
        if (!t->stream) {
            int r = start(t, in, now_ns);
            if (r)
                return r == -ECANCELED ? 0 : r;
            resume(t, in);
            continue;
        }
        int r = read_next(t, in, now_ns, reterr);
        if (r)
            return r;
    }
    return push(t, in, now_ns);
}
