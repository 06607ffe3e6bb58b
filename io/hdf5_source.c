/* hdf5_source.c: the `hdf5` input: which files, in which order, and when. Runs on the one libhdf5 thread; owns its logs
 * (files) and everything below them.
 *
 * Finite input: every file is opened once at the start, so that what is wrong with any of them is said at once, then
 * read WINDOW files at a time. Followed input: every file is kept, and the globs are looked at again for new ones.
 * Trap: a log that waits for room in the daemon may get it at any turn, whatever its own time says. */
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"
#include "io/hdf5_follow.h"
#include "io/hdf5_log.h"
#include "io/stream_id.h"

enum { WINDOW = 16, TURN_BYTES = 1 << 20, TURN_LOGS = 64 };
#define RESCAN_NS INT64_C(1000000000)

struct source {
    const struct io_hdf5_conf *conf;
    struct io_hdf5_input input;
    struct io_hdf5_log *logs;
    unsigned n;
    unsigned at;       /* whose turn it is */
    unsigned first;    /* logs before it are done */
    int64_t rescan_ns; /* when to look for new files */
    bool said;         /* that this failed */
    void *paths;       /* search tree of the logs' paths, which belong to the logs */
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

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void keep(void *path)
{
}

static int add_log(struct source *s, const struct io_file *name, bool from_end)
{
    if (tfind(name->path, &s->paths, by_name))
        return 0;
    if ((s->n & (s->n - 1)) == 0) { /* grow at powers of two */
        struct io_hdf5_log *v = realloc(s->logs, (s->n ? 2 * (size_t)s->n : 1) * sizeof *v);
        if (!v)
            return -ENOMEM;
        s->logs = v;
    }
    int r = io_hdf5_log_init(&s->logs[s->n++], name, from_end); /* a half-made one is freed with the rest */
    return r == 0 && !tsearch(s->logs[s->n - 1].path, &s->paths, by_name) ? -ENOMEM : r;
}

/* A file that is not there yet. */
static int add_awaited(struct source *s, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    char *stem = strndup(name, dot && dot != name ? (size_t)(dot - name) : strlen(name));
    struct io_file file = {.path = (char *)path, .rel = (char *)name, .stem = stem};
    int r = stem ? add_log(s, &file, false) : -ENOMEM;

    free(stem);
    return r;
}

/* Adds what a pattern means now. */
static int scan_one(struct source *s, char *pattern, bool from_end, char *reterr)
{
    struct io_strings one = {.v = &pattern, .n = 1};
    struct io_files found;
    int r = io_files_expand(&one, s->conf->follow, &found, reterr);

    if (r == -ENOENT && s->conf->follow)
        return add_awaited(s, pattern);
    if (r)
        return r;
    for (unsigned i = 0; i < found.n && r == 0; i++)
        r = add_log(s, &found.v[i], from_end);
    io_files_free(&found);
    return r;
}

static int scan(struct source *s, bool from_end, char *reterr)
{
    int r = 0;

    for (unsigned i = 0; i < s->conf->files.n && r == 0; i++)
        r = scan_one(s, s->conf->files.v[i], from_end, reterr);
    return r;
}

/* Opens every file, so that what is wrong with any of them is known at the start. Of a followed one only what waiting
 * will not mend is wrong. */
static int probe(struct source *s, char *reterr)
{
    for (unsigned i = 0; i < s->n; i++) {
        struct io_hdf5_log *log = &s->logs[i];
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

/* ---- the class -------------------------------------------------------------------------------------------- */

static void source_close(void *self)
{
    struct source *s = self;

    if (!s)
        return;
    io_hdf5_quiet();
    tdestroy(s->paths, keep);
    for (unsigned i = 0; i < s->n; i++)
        io_hdf5_log_done(&s->logs[i], &s->input);
    free(s->logs);
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
    r = scan(s, s->conf->from == IO_HDF5_END, reterr);
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

/* New files of a followed input. What is wrong with the search is said once. */
static void rescan(struct source *s, int64_t now_ns)
{
    char why[IO_ERR] = "";

    if (scan(s, false, why) && !s->said) {
        s->input.host.discard(s->input.host.self, IO_R_FILE, NULL, 0, why[0] ? why : "out of memory");
        s->said = true;
    }
    s->rescan_ns = now_ns + (s->conf->poll_ns > RESCAN_NS ? s->conf->poll_ns : RESCAN_NS);
}

/* Logs that may be open now: all that are followed, else WINDOW unfinished ones. */
static unsigned window_end(struct source *s)
{
    unsigned open = 0, i;

    while (s->first < s->n && s->logs[s->first].done)
        s->first++;
    if (s->conf->follow)
        return s->n;
    for (i = s->first; i < s->n && open < WINDOW; i++)
        open += !s->logs[i].done;
    return i;
}

static bool at_end(const struct source *s, int64_t now_ns)
{
    bool all = true;

    for (unsigned i = s->first; i < s->n && all; i++)
        all = io_hdf5_follow_at_end(&s->logs[i], now_ns);
    return all;
}

static enum io_turn source_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    int64_t wake = INT64_MAX;
    size_t bytes = 0;
    unsigned worked = 0;

    io_hdf5_quiet();
    if (s->conf->follow && now_ns >= s->rescan_ns)
        rescan(s, now_ns);
    unsigned end = window_end(s), span = end - s->first;
    for (unsigned k = 0; k < span; k++) {
        s->at = s->at + 1 < end && s->at + 1 > s->first ? s->at + 1 : s->first;
        struct io_hdf5_log *log = &s->logs[s->at];
        bool due = now_ns >= log->wake_ns && bytes < TURN_BYTES && worked < TURN_LOGS;
        if (!log->done && (due || log->blocked)) {
            bytes += io_hdf5_log_turn(log, &s->input, now_ns);
            worked += due;
        }
        if (!log->done && log->wake_ns < wake)
            wake = log->wake_ns;
    }
    if (s->conf->follow && s->rescan_ns < wake)
        wake = s->rescan_ns;
    *ret_wake_ns = wake;
    if (s->conf->follow ? s->input.host.once && at_end(s, now_ns) : window_end(s) == s->first)
        return IO_TURN_DONE;
    return wake <= now_ns || (!s->conf->follow && window_end(s) > end) ? IO_TURN_MORE : IO_TURN_WAIT;
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
