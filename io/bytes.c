/* bytes.c: `type: bytes`: files, FIFOs and standard input as streams of bytes: logs, text, anything. Runs on the
 * input's thread; owns its tails (files).
 *
 * Finite input: every file is opened once at the start, so that a missing one is an error there, then read WINDOW at a
 * time. Followed input: every file is kept open, and the globs are looked at again for new ones. Trap: a tail that
 * waits for room in the daemon may get it at any turn, whatever its own time says. */
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "io/stream_id.h"
#include "io/tail.h"

enum { WINDOW = 64, TURN_BYTES = 1 << 20 };
static const int64_t rescan_ns = 1000000000;

struct source {
    struct io_bytes_input input;
    struct io_tail **tails;
    unsigned n, first, at; /* those before `first` are done; whose turn it was last */
    int64_t rescan_ns;     /* when to look for new files */
    bool said;             /* that this failed */
    void *paths;           /* search tree of the tails' paths, which belong to the tails */
};

#define AT(field) offsetof(struct io_bytes_conf, field)
static const char *const from_names[] = {"resume", "start", "end", NULL};
static const struct io_option options[] = {
    {"files", "files, FIFOs and globs, each a stream; - is standard input", IO_OPT_STRINGS, AT(files),
     .required = true},
    {"follow", "go on as the files grow, are rotated, or appear", IO_OPT_BOOL, AT(follow), "false"},
    {"from", "where to begin", IO_OPT_ENUM, AT(from), "resume", .names = from_names},
    {"poll", "longest wait before a followed file is looked at again", IO_OPT_DURATION, AT(poll_ns), "100ms"},
    IO_RECORDS_OPTIONS(struct io_bytes_conf, records),
    {0},
};

static int check(const void *conf, const char **ret_key, char *reterr)
{
    const struct io_bytes_conf *c = conf;
    const struct io_id_parts usable = {.input = "", .path = "", .stem = ""};

    *ret_key = "stream";
    if (c->common.stream && io_id_check(c->common.stream, &usable, reterr))
        return -EINVAL;
    *ret_key = "poll";
    if (c->poll_ns < 1000000) {
        snprintf(reterr, IO_ERR, "must be at least 1ms");
        return -EINVAL;
    }
    return io_records_check(&c->records, ret_key, reterr);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void keep(void *path)
{
}

static int add_tail(struct source *s, const struct io_file *file, bool new, char *reterr)
{
    struct io_tail *t;
    int r;

    if (tfind(file->path, &s->paths, by_name))
        return 0;
    if ((s->n & (s->n - 1)) == 0) { /* grow at powers of two */
        struct io_tail **v = realloc(s->tails, (s->n ? 2 * (size_t)s->n : 1) * sizeof *v);
        if (!v)
            return -ENOMEM;
        s->tails = v;
    }
    t = malloc(sizeof *t);
    if (!t)
        return -ENOMEM;
    s->tails[s->n++] = t; /* a half-made one is freed with the rest */
    r = io_tail_init(t, &s->input, file, reterr);
    t->from_end = t->from_end && !new;
    return r ? r : tsearch(t->path, &s->paths, by_name) ? 0 : -ENOMEM;
}

/* A file that is not there yet. */
static int add_awaited(struct source *s, char *path, char *reterr)
{
    char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    char *stem = strndup(name, dot && dot != name ? (size_t)(dot - name) : strlen(name));
    struct io_file file = {.path = path, .rel = name, .stem = stem};
    int r = stem ? add_tail(s, &file, true, reterr) : -ENOMEM;

    free(stem);
    return r;
}

/* Adds what a pattern means now. */
static int scan_one(struct source *s, char *pattern, bool new, char *reterr)
{
    struct io_strings one = {.v = &pattern, .n = 1};
    bool follow = s->input.conf->follow;
    struct io_files found;
    int r = io_files_expand(&one, follow, &found, reterr);

    if (r == -ENOENT && follow)
        return add_awaited(s, pattern, reterr);
    if (r)
        return r;
    for (unsigned i = 0; i < found.n && r == 0; i++)
        r = add_tail(s, &found.v[i], new, reterr);
    io_files_free(&found);
    return r;
}

static int scan(struct source *s, bool new, char *reterr)
{
    const struct io_strings *files = &s->input.conf->files;
    int r = 0;

    for (unsigned i = 0; i < files->n && r == 0; i++)
        r = scan_one(s, files->v[i], new, reterr);
    return r;
}

static bool in_window(const struct source *s, unsigned i)
{
    return s->input.conf->follow || i < WINDOW;
}

/* Of a followed input only what waiting will not mend is wrong. A pipe is not opened twice: closing it would end its
 * writer. */
static int probe(struct source *s, char *reterr)
{
    for (unsigned i = 0; i < s->n; i++) {
        struct io_tail *t = s->tails[i];
        int r = io_tail_open(t, &s->input, reterr);
        if (r == -ENOENT && s->input.conf->follow)
            t->from_end = false;
        else if (r)
            return r == -ENOENT || r == -EACCES || r == -ENOMEM ? r : -EBADMSG;
        if (!in_window(s, i) && !t->pipe && t->fd >= 0) {
            close(t->fd);
            t->fd = -1;
        }
    }
    return 0;
}

/* ---- the class -------------------------------------------------------------------------------------------------- */

static void source_close(void *self)
{
    struct source *s = self;

    tdestroy(s->paths, keep);
    for (unsigned i = 0; i < s->n; i++) {
        io_tail_done(s->tails[i], &s->input);
        free(s->tails[i]);
    }
    if (s->input.epoll >= 0)
        close(s->input.epoll);
    free(s->tails);
    free(s);
}

static int source_open(const void *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    struct source *s = calloc(1, sizeof *s);
    int r;

    if (!s)
        return -ENOMEM;
    s->input = (struct io_bytes_input){.conf = conf, .host = *host, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    r = s->input.epoll < 0 ? -errno : scan(s, false, reterr);
    if (r == 0)
        r = probe(s, reterr);
    if (r == -ENOMEM)
        snprintf(reterr, IO_ERR, "out of memory");
    if (r)
        source_close(s);
    else
        *ret_self = s;
    return r;
}

/* New files of a followed input. What is wrong with the search is said once. */
static void rescan(struct source *s, int64_t now_ns)
{
    int64_t poll_ns = s->input.conf->poll_ns;
    char why[IO_ERR] = "";

    if (scan(s, true, why) && !s->said) {
        s->input.host.discard(s->input.host.self, IO_R_FILE, NULL, 0, why[0] ? why : "out of memory");
        s->said = true;
    }
    s->rescan_ns = now_ns + (poll_ns > rescan_ns ? poll_ns : rescan_ns);
}

/* Tails that may be open now: all that are followed, else WINDOW unfinished ones. */
static unsigned window_end(struct source *s)
{
    unsigned open = 0, i;

    while (s->first < s->n && s->tails[s->first]->done)
        s->first++;
    for (i = s->first; i < s->n && (s->input.conf->follow || open < WINDOW); i++)
        open += !s->tails[i]->done;
    return i;
}

static bool at_end(const struct source *s, int64_t now_ns)
{
    bool all = true;

    for (unsigned i = s->first; i < s->n && all; i++)
        all = io_tail_at_end(s->tails[i], now_ns);
    return all;
}

static enum io_turn source_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct epoll_event ready[16];
    int64_t wake = INT64_MAX;
    bool readable = false;
    size_t bytes = 0;

    for (int n = 16; n == 16; readable |= n > 0) /* disarm what has fired */
        n = epoll_wait(s->input.epoll, ready, 16, 0);
    if (s->input.conf->follow && now_ns >= s->rescan_ns)
        rescan(s, now_ns);
    unsigned end = window_end(s), span = end - s->first;
    for (unsigned k = 0; k < span; k++) {
        s->at = s->at + 1 < end && s->at + 1 > s->first ? s->at + 1 : s->first;
        struct io_tail *t = s->tails[s->at];
        bool due = now_ns >= t->wake_ns || t->pending || (readable && t->pipe);
        if (!t->done && due && bytes < TURN_BYTES)
            bytes += io_tail_turn(t, &s->input, now_ns);
        if (!t->done && t->wake_ns < wake)
            wake = t->wake_ns;
    }
    if (s->input.conf->follow && s->rescan_ns < wake)
        wake = s->rescan_ns;
    *ret_wake_ns = wake;
    if (s->input.conf->follow ? s->input.host.once && at_end(s, now_ns) : window_end(s) == s->first)
        return IO_TURN_DONE;
    return wake <= now_ns || (!s->input.conf->follow && window_end(s) > end) ? IO_TURN_MORE : IO_TURN_WAIT;
}

static int source_fd(void *self)
{
    return ((struct source *)self)->input.epoll;
}

static bool endless(const void *conf)
{
    return ((const struct io_bytes_conf *)conf)->follow;
}

static const struct io_records *records(const void *conf)
{
    return &((const struct io_bytes_conf *)conf)->records;
}

extern const struct io_source_class io_source_bytes;
const struct io_source_class io_source_bytes = {
    .type = "bytes",
    .help = "files, FIFOs and standard input as streams of bytes: logs, text",
    .options = options,
    .conf_bytes = sizeof(struct io_bytes_conf),
    .replayable = true,
    .only_bytes = true,
    .check = check,
    .open = source_open,
    .turn = source_turn,
    .close = source_close,
    .fd = source_fd,
    .endless = endless,
    .records = records,
};
