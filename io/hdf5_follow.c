/* hdf5_follow.c: watching a file that grows, is replaced, cut off or not there yet. Runs on the thread that calls
 * libhdf5; works on hdf5_log.c's struct, owns nothing.
 *
 * Beside a live SWMR writer the file stays open and is refreshed. Without one (a logger that opens, appends and closes,
 * or an old file format) it is open only during a turn, because its lock would keep the writer out, and is opened again
 * when its size or mtime changes. A replaced file is read to its end first: it is still held.
 *
 * Trap: "nothing new, and replaced" is only the end if the look for rows came after the replacement was seen. */
#include "io/hdf5_follow.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WAIT_FIRST_NS INT64_C(1000000)
#define BACKOFF_NS INT64_C(5000000000)    /* longest, after failures */
#define PAUSE_NS INT64_C(1000000000)      /* of a file that cannot be had, before it is said */
#define LAST_ROWS_NS INT64_C(10000000000) /* to get at the rest of a replaced file */

static int64_t at_least(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void wait_up_to(struct io_hdf5_log *log, int64_t first_ns, int64_t longest_ns, int64_t now_ns)
{
    log->wait_ns = at_least(2 * log->wait_ns, first_ns);
    if (log->wait_ns > longest_ns)
        log->wait_ns = longest_ns;
    log->wake_ns = now_ns + log->wait_ns;
}

static void say(struct io_hdf5_log *log, const struct io_hdf5_input *in, const char *text)
{
    uint64_t h = 1469598103934665603u;

    for (const char *c = text; *c; c++)
        h = (h ^ (unsigned char)*c) * 1099511628211u;
    if (h != log->said)
        in->host.discard(in->host.self, IO_R_FILE, NULL, 0, text);
    log->said = h;
}

/* A file that is just being made, locked or replaced is not worth a word: only a longer wait is said. */
static void say_if_long(struct io_hdf5_log *log, const struct io_hdf5_input *in, const char *text, int64_t now_ns)
{
    if (log->waiting_ns == 0)
        log->waiting_ns = now_ns;
    if (now_ns - log->waiting_ns > PAUSE_NS)
        say(log, in, text);
}

/* What has become of the file. */
static unsigned look(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    unsigned found = io_hdf5_file_look(&log->file);
    char text[IO_ERR];

    if ((found & IO_HDF5_REPLACED) && log->moved_ns == 0)
        log->moved_ns = now_ns;
    snprintf(text, sizeof text, "%.300s: is gone: waiting for a file of that name", log->path);
    if (found & IO_HDF5_GONE)
        say_if_long(log, in, text, now_ns);
    else if (log->file.id)
        log->waiting_ns = 0;
    return found;
}

/* Leaves the replaced file for the one that has its name now; the streams' events say so. */
static void change_over(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    io_hdf5_log_release(log);
    io_hdf5_file_close(&log->file);
    for (unsigned i = 0; i < log->n_tracks; i++) {
        io_hdf5_track_restart(&log->tracks[i], in, "rotation");
        log->tracks[i].end = 0;
        log->tracks[i].given_up = false;
    }
    log->moved_ns = 0;
    log->behind = true;
    log->wait_ns = 0;
    log->wake_ns = now_ns;
}

bool io_hdf5_follow_ready(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    /* its writer is gone: what it wrote last needs a new opening */
    if (log->file.id && !io_hdf5_file_live(&log->file)) {
        io_hdf5_log_release(log);
        log->behind = true;
    }
    if (log->file.id || log->file.fd < 0)
        return true;
    if (look(log, in, now_ns) & IO_HDF5_CHANGED)
        log->behind = true;
    if (!log->behind && log->moved_ns)
        change_over(log, in, now_ns);
    else if (!log->behind)
        wait_up_to(log, WAIT_FIRST_NS, in->conf->poll_ns, now_ns);
    return log->behind;
}

/* All rows known of a live file have been handed on: look for more. */
static void watch(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns)
{
    char why[IO_ERR], text[IO_ERR];
    bool finished = log->moved_ns != 0, grown = false;
    unsigned found = look(log, in, now_ns);

    if (finished) {
        change_over(log, in, now_ns);
        return;
    }
    for (unsigned i = 0; found && i < log->n_tracks; i++) {
        struct io_hdf5_track *t = &log->tracks[i];
        if (t->data.set && io_hdf5_track_refresh(t, in, why)) {
            snprintf(text, sizeof text, "%.150s: %.100s: %.200s", log->path, t->name, why);
            io_hdf5_follow_failed(log, in, -EIO, text, now_ns);
            return;
        }
        grown = grown || !io_hdf5_track_idle(t);
    }
    if (grown || log->moved_ns)
        log->wake_ns = now_ns;
    else
        wait_up_to(log, WAIT_FIRST_NS, in->conf->poll_ns, now_ns);
}

void io_hdf5_follow_turned(struct io_hdf5_log *log, const struct io_hdf5_input *in, bool idle, bool moving,
                           int64_t now_ns)
{
    if (!log->file.id) /* reading failed */
        return;
    log->wait_ns = moving ? 0 : log->wait_ns;
    if (log->file.swmr) {
        if (idle)
            watch(log, in, now_ns);
        return;
    }
    io_hdf5_log_release(log);
    if (!idle)
        return;
    log->behind = false;
    if (log->moved_ns)
        change_over(log, in, now_ns);
    else
        wait_up_to(log, WAIT_FIRST_NS, in->conf->poll_ns, now_ns);
}

bool io_hdf5_follow_at_end(const struct io_hdf5_log *log, int64_t now_ns)
{
    bool waits = !log->blocked && log->wait_ns > 0 && log->wake_ns > now_ns;

    return log->done || (waits && (log->waiting_ns == 0 || now_ns - log->waiting_ns > PAUSE_NS));
}

void io_hdf5_follow_failed(struct io_hdf5_log *log, const struct io_hdf5_input *in, int code, const char *text,
                           int64_t now_ns)
{
    char more[IO_ERR];
    bool waiting = code == -EAGAIN || code == -ENOENT, empty = log->file.fd >= 0 && log->file.seen.st_size == 0;

    io_hdf5_log_release(log);
    log->behind = true;
    if (waiting) {
        snprintf(more, sizeof more, "%.400s: waiting for it", text);
        say_if_long(log, in, more, now_ns);
    } else {
        say(log, in, text);
    }
    if (log->moved_ns && (!waiting || empty || now_ns - log->moved_ns > LAST_ROWS_NS))
        change_over(log, in, now_ns); /* what is left in the old one cannot be had */
    else
        wait_up_to(log, waiting ? WAIT_FIRST_NS : in->conf->poll_ns,
                   waiting ? in->conf->poll_ns : at_least(in->conf->poll_ns, BACKOFF_NS), now_ns);
}
