/* hdf5_source.c: the `hdf5` input: which files, in which order, and when. Runs on the one libhdf5 thread; owns its logs
 * (files) and everything below them.
 *
 * Finite input: every file is opened once at the start, so that what is wrong with any of them is said at once, then
 * read WINDOW files at a time. Followed input: every file is kept, and the globs are looked at again for new ones.
 * Trap: a log that waits for room in the daemon may get it at any turn, whatever its own time says. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"
#include "io/hdf5_follow.h"
#include "io/hdf5_log.h"
#include "io/roster.h"
#include "io/stream_id.h"

enum { WINDOW = 16, TURN_BYTES = 1 << 20, TURN_LOGS = 64 };

struct source {
    const struct io_hdf5_conf *conf;
    struct io_hdf5_input input;
    struct io_roster roster; /* of struct io_hdf5_log */
    /* of the turn under way */
    size_t bytes;
    unsigned worked; /* logs */
};

#define CONF(field) offsetof(struct io_hdf5_conf, field)
static const char *const from_names[] = {"resume", "start", "end", NULL};
static const struct io_option options[] = {
    {"files", "file names and globs", IO_OPT_STRINGS, CONF(files), .required = true},
    {"dataset", "datasets, by name or glob (default: all of numbers and one or two dimensions)", IO_OPT_STRINGS,
     CONF(datasets)},
    {"time", "dataset or table field with each row's time: int64 ns since 1970, or float seconds", IO_OPT_STRING,
     CONF(time)},
    {"fields", "fields of a table that are the channels (default: all numeric ones)", IO_OPT_STRINGS, CONF(fields)},
    {"follow", "go on as the files grow", IO_OPT_BOOL, CONF(follow), "false"},
    {"from", "where to begin", IO_OPT_ENUM, CONF(from), "resume", .names = from_names},
    {"poll", "longest wait before a followed file is looked at again", IO_OPT_DURATION, CONF(poll_ns), "100ms"},
    {0},
};

static int check(const void *conf, const char **ret_key, char *reterr)
{
    const struct io_hdf5_conf *c = conf;
    const struct io_id_parts usable = {.input = "", .path = "", .stem = "", .dataset = ""};

    *ret_key = "stream";
    if (c->common.stream && io_id_check(c->common.stream, &usable, reterr))
        return -EINVAL;
    *ret_key = "poll";
    if (c->poll_ns < 1000000) {
        snprintf(reterr, IO_ERR, "must be at least 1ms");
        return -EINVAL;
    }
    *ret_key = "resample";
    if (c->common.resample) {
        snprintf(reterr, IO_ERR, "hdf5 inputs are not resampled");
        return -EINVAL;
    }
    return 0;
}

/* ---- files ------------------------------------------------------------------------------------------------ */

static int add_log(void *self, const struct io_file *file, bool fresh, void **ret_item, char *reterr)
{
    struct source *s = self;
    struct io_hdf5_log *log = malloc(sizeof *log);
    int r = log ? io_hdf5_log_init(log, file, s->conf->from == IO_HDF5_END && !fresh) : -ENOMEM;

    if (r && log)
        io_hdf5_log_done(log, &s->input);
    if (r) {
        free(log);
        return r;
    }
    *ret_item = log;
    return 0;
}

/* Opens every file, so that what is wrong with any of them is known at the start. Of a followed one only what waiting
 * will not mend is wrong. */
static int probe(struct source *s, char *reterr)
{
    for (unsigned i = 0; i < s->roster.n; i++) {
        struct io_hdf5_log *log = s->roster.v[i].item;
        int r = io_hdf5_log_open(log, &s->input, reterr);
        bool later = r == -EAGAIN || r == -ENOENT || r == -ESTALE;
        if (r && !(later && s->conf->follow))
            return r == -ENOENT || r == -EACCES || r == -ENOMEM ? r : -EBADMSG;
        if (r == -ENOENT)
            log->from_end = false; /* whatever comes there will be new */
        if (s->conf->follow ? !log->file.swmr : i >= WINDOW)
            io_hdf5_log_release(log);
        if (!s->conf->follow && i >= WINDOW)
            io_hdf5_file_close(&log->file);
    }
    return 0;
}

static bool turn_log(void *self, void *item, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct io_hdf5_log *log = item;
    bool due = now_ns >= log->wake_ns && s->bytes < TURN_BYTES && s->worked < TURN_LOGS;

    if (due || log->blocked) {
        s->bytes += io_hdf5_log_turn(log, &s->input, now_ns);
        s->worked += due;
    }
    *ret_wake_ns = log->wake_ns;
    return log->done;
}

static bool log_at_end(void *item, int64_t now_ns)
{
    return io_hdf5_follow_at_end(item, now_ns);
}

/* ---- the class -------------------------------------------------------------------------------------------- */

static void source_close(void *self)
{
    struct source *s = self;

    if (!s)
        return;
    io_hdf5_quiet();
    for (unsigned i = 0; i < s->roster.n; i++) {
        io_hdf5_log_done(s->roster.v[i].item, &s->input);
        free(s->roster.v[i].item);
    }
    io_roster_done(&s->roster);
    free(s);
}

static int source_open(const void *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    struct source *s = calloc(1, sizeof *s);
    int r;

    if (!s)
        return -ENOMEM;
    io_hdf5_quiet();
    s->conf = conf;
    s->input = (struct io_hdf5_input){.conf = conf, .host = *host};
    s->roster = (struct io_roster){.patterns = &s->conf->files,
                                   .follow = s->conf->follow,
                                   .poll_ns = s->conf->poll_ns,
                                   .window = WINDOW,
                                   .host = &s->input.host,
                                   .self = s,
                                   .add = add_log,
                                   .turn = turn_log,
                                   .at_end = log_at_end};
    r = io_roster_fill(&s->roster, reterr);
    if (r == 0)
        r = probe(s, reterr);
    if (r == -ENOMEM)
        snprintf(reterr, IO_ERR, "out of memory");
    if (r) {
        source_close(s);
        return r;
    }
    *ret_self = s;
    return 0;
}

static enum io_turn source_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;

    io_hdf5_quiet();
    s->bytes = 0;
    s->worked = 0;
    return io_roster_turn(&s->roster, now_ns, ret_wake_ns);
}

static bool endless(const void *conf)
{
    return ((const struct io_hdf5_conf *)conf)->follow;
}

const struct io_source_class io_source_hdf5 = {
    .type = "hdf5",
    .help = "datasets of HDF5 files, finished or being written (SWMR)",
    .options = options,
    .conf_bytes = sizeof(struct io_hdf5_conf),
    .thread = "hdf5",
    .replayable = true,
    .check = check,
    .open = source_open,
    .turn = source_turn,
    .close = source_close,
    .endless = endless,
};
