/* hdf5_log.c: opening one file's datasets and handing on their rows. hdf5_follow.c watches the file for more. Runs on
 * the thread that calls libhdf5. The log owns its file, its tracks and their names.
 *
 * Trap: libhdf5 is told to close all of a file at once (H5F_CLOSE_STRONG), so the tracks' ids must go before the
 * file's. */
#include "io/hdf5_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_follow.h"
#include "io/hdf5_select.h"

enum { TURN_BYTES = 256 << 10 };
#define BLOCKED_NS INT64_C(100000000) /* the daemon wakes us earlier */

int io_hdf5_log_init(struct io_hdf5_log *log, const struct io_file *name, bool from_end)
{
    *log = (struct io_hdf5_log){.path = strdup(name->path),
                                .rel = strdup(name->rel),
                                .stem = strdup(name->stem),
                                .from_end = from_end,
                                .behind = true};
    log->file = (struct io_hdf5_file){.path = log->path, .fd = -1};
    return log->path && log->rel && log->stem ? 0 : -ENOMEM;
}

void io_hdf5_log_done(struct io_hdf5_log *log, const struct io_hdf5_input *in)
{
    for (unsigned i = 0; i < log->n_tracks; i++)
        io_hdf5_track_done(&log->tracks[i], in);
    io_hdf5_file_close(&log->file);
    free(log->tracks);
    free(log->path);
    free(log->rel);
    free(log->stem);
    *log = (struct io_hdf5_log){.file.fd = -1};
}

void io_hdf5_log_release(struct io_hdf5_log *log)
{
    for (unsigned i = 0; i < log->n_tracks; i++)
        io_hdf5_dataset_close(&log->tracks[i].data);
    io_hdf5_file_release(&log->file);
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

static int find_track(struct io_hdf5_log *log, const struct io_hdf5_input *in, const char *dataset,
                      struct io_hdf5_track **ret, char *reterr)
{
    for (unsigned i = 0; i < log->n_tracks; i++) {
        if (strcmp(log->tracks[i].name, dataset) == 0) {
            *ret = &log->tracks[i];
            return 0;
        }
    }
    if ((log->n_tracks & (log->n_tracks - 1)) == 0) { /* grow at powers of two */
        size_t n = log->n_tracks ? 2 * (size_t)log->n_tracks : 1;
        struct io_hdf5_track *v = realloc(log->tracks, n * sizeof *v);
        if (!v)
            return -ENOMEM;
        log->tracks = v;
    }
    *ret = &log->tracks[log->n_tracks];
    int r = io_hdf5_track_init(*ret, in, log->rel, log->stem, dataset, reterr);
    log->n_tracks += r == 0;
    return r;
}

/* Joins one dataset. One that was only matched by a glob is left out where it is not rows of numbers. */
static int join(struct io_hdf5_log *log, const struct io_hdf5_input *in, const struct io_hdf5_name *name, char *reterr)
{
    struct io_hdf5_track *t;
    unsigned before = log->n_tracks;
    int r = find_track(log, in, name->path, &t, reterr);

    if (r)
        return r;
    r = io_hdf5_track_attach(t, in, log->file.id, reterr);
    if (r && log->n_tracks > before) {
        io_hdf5_track_done(t, in);
        log->n_tracks--;
    }
    if (r == -EDOM && !name->named)
        return 0;
    if (r == 0 && log->from_end)
        t->next = t->end;
    return r;
}

static int join_all(struct io_hdf5_log *log, const struct io_hdf5_input *in, char *reterr)
{
    struct io_hdf5_names names = {0};
    unsigned joined = 0;
    int r = io_hdf5_select(log->file.id, &in->conf->datasets, in->conf->time, &names, reterr);

    for (unsigned i = 0; i < names.n && r == 0; i++)
        r = join(log, in, &names.v[i], reterr);
    io_hdf5_names_free(&names);
    for (unsigned i = 0; i < log->n_tracks; i++)
        joined += log->tracks[i].data.set != 0;
    if (r == 0 && joined == 0) {
        snprintf(reterr, IO_ERR, "no dataset of one or two dimensions of numbers%s",
                 in->conf->datasets.n ? " matches" : "");
        r = -ENODATA;
    }
    return r;
}

int io_hdf5_log_open(struct io_hdf5_log *log, const struct io_hdf5_input *in, char *reterr)
{
    char why[IO_ERR] = "";
    int r = io_hdf5_file_open(&log->file, in->conf->follow, reterr);

    if (r)
        return r;
    r = join_all(log, in, why);
    if (r == 0) {
        log->from_end = false;
        return 0;
    }
    io_hdf5_log_release(log);
    if (r == -EAGAIN)
        return r;
    snprintf(reterr, IO_ERR, "%.200s: %.300s", log->path, why);
    return r == -ENODATA && in->conf->follow ? -EAGAIN : r == -ENOMEM ? r : -EBADMSG;
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

/* A finite file's dataset that cannot be read on is given up; of a followed one it may be the moment. */
static void read_failed(struct io_hdf5_log *log, struct io_hdf5_track *t, const struct io_hdf5_input *in,
                        const char *why, int64_t now_ns)
{
    char text[IO_ERR];

    snprintf(text, sizeof text, "%.150s: %.100s: row %llu: %.200s", log->path, t->name, (unsigned long long)t->next,
             why);
    if (in->conf->follow)
        io_hdf5_follow_failed(log, in, -EIO, text, now_ns);
    else
        io_hdf5_track_give_up(t, in, IO_R_FILE, text);
}

/* Hands on blocks of the tracks in turn, until the turn's share is used or nothing can go. */
static size_t pump(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    size_t bytes = 0;
    unsigned idle = 0; /* tracks in a row that gave nothing */
    char why[IO_ERR];

    log->blocked = false;
    while (bytes < TURN_BYTES && idle < log->n_tracks) {
        log->at = log->at + 1 < log->n_tracks ? log->at + 1 : 0;
        struct io_hdf5_track *t = &log->tracks[log->at];
        int r = t->data.set || t->pending ? io_hdf5_track_pump(t, in, now_ns, why) : 0;
        idle = r > 0 ? 0 : idle + 1;
        bytes += r > 0 ? (size_t)r : 0;
        log->blocked = log->blocked || r == -EAGAIN;
        if (r < 0 && r != -EAGAIN)
            read_failed(log, t, in, why, now_ns);
    }
    return bytes;
}

static bool is_idle(const struct io_hdf5_log *log)
{
    for (unsigned i = 0; i < log->n_tracks; i++)
        if (!io_hdf5_track_idle(&log->tracks[i]))
            return false;
    return true;
}

/* The end of a finite file. Samples that the times do not reach are left out, and said. */
static void finish(struct io_hdf5_log *log, const struct io_hdf5_input *in)
{
    for (unsigned i = 0; i < log->n_tracks; i++) {
        struct io_hdf5_track *t = &log->tracks[i];
        char text[IO_ERR];
        if (t->data.rows > t->end) {
            snprintf(text, sizeof text, "%.150s: %.200s has more rows than its times: the last ones are left out",
                     log->path, t->name);
            in->host.discard(in->host.self, IO_R_SHAPE, t->id, (t->data.rows - t->end) * t->data.channels, text);
        }
        if (t->stream)
            in->host.end(in->host.self, t->stream);
        t->stream = NULL;
    }
    io_hdf5_log_release(log);
    io_hdf5_file_close(&log->file);
    log->done = true;
}

static void fail_finite(struct io_hdf5_log *log, const struct io_hdf5_input *in, const char *text)
{
    in->host.discard(in->host.self, IO_R_FILE, NULL, 0, text);
    finish(log, in);
}

/* Opens the file if need be. Says what is wrong, and returns false, if it cannot be. */
static bool is_open(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    char why[IO_ERR];
    int r;

    if (log->file.id)
        return true;
    r = io_hdf5_log_open(log, in, why);
    if (r == 0)
        log->said = log->waiting_ns = 0;
    else if (in->conf->follow)
        io_hdf5_follow_failed(log, in, r, why, now_ns);
    else
        fail_finite(log, in, why);
    return r == 0;
}

size_t io_hdf5_log_turn(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    size_t bytes = 0;

    log->wake_ns = now_ns + (log->blocked ? BLOCKED_NS : 0);
    if (log->blocked && !log->file.id) /* first what was read before it was closed */
        bytes = pump(log, in, now_ns);
    if (log->blocked && !log->file.id)
        return bytes;
    if ((in->conf->follow && !io_hdf5_follow_ready(log, in, now_ns)) || !is_open(log, in, now_ns))
        return bytes;
    log->wake_ns = now_ns;
    bytes += pump(log, in, now_ns);
    if (!log->file.id) /* reading failed: there is a time to try again */
        return bytes;
    if (log->blocked && bytes == 0)
        log->wake_ns = now_ns + BLOCKED_NS;
    bool idle = is_idle(log);
    if (in->conf->follow)
        io_hdf5_follow_turned(log, in, idle, bytes > 0, now_ns);
    else if (idle)
        finish(log, in);
    return bytes;
}
