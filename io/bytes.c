/* bytes.c: `type: bytes`: files, FIFOs and standard input as streams of bytes: logs, text, anything. Runs on the
 * input's thread; owns its tails (files).
 *
 * Finite input: every file is opened once at the start, so that a missing one is an error there, then read WINDOW at a
 * time. Followed input: every file is kept open, and the globs are looked at again for new ones. Trap: a tail that
 * waits for room in the daemon may get it at any turn, whatever its own time says. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "io/roster.h"
#include "io/stream_id.h"
#include "io/tail.h"

enum { WINDOW = 64, TURN_BYTES = 1 << 20 };

struct source {
    struct io_bytes_input input;
    struct io_roster roster; /* of struct io_tail */
    /* of the turn under way */
    size_t bytes;
    bool readable; /* some pipe is */
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

static int add_tail(void *self, const struct io_file *file, bool fresh, void **ret_item, char *reterr)
{
    struct source *s = self;
    struct io_tail *t = malloc(sizeof *t);
    int r = t ? io_tail_init(t, &s->input, file, reterr) : -ENOMEM;

    if (r && t)
        io_tail_done(t, &s->input);
    if (r) {
        free(t);
        return r;
    }
    t->from_end = t->from_end && !fresh;
    *ret_item = t;
    return 0;
}

static bool in_window(const struct source *s, unsigned i)
{
    return s->input.conf->follow || i < WINDOW;
}

/* Of a followed input only what waiting will not mend is wrong. A pipe is not opened twice: closing it would end its
 * writer. */
static int probe(struct source *s, char *reterr)
{
    for (unsigned i = 0; i < s->roster.n; i++) {
        struct io_tail *t = s->roster.v[i].item;
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

static bool turn_tail(void *self, void *item, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct io_tail *t = item;
    bool due = now_ns >= t->wake_ns || t->pending || (s->readable && t->pipe);

    if (due && s->bytes < TURN_BYTES)
        s->bytes += io_tail_turn(t, &s->input, now_ns);
    *ret_wake_ns = t->wake_ns;
    return t->done;
}

static bool tail_at_end(void *item, int64_t now_ns)
{
    return io_tail_at_end(item, now_ns);
}

/* ---- the class -------------------------------------------------------------------------------------------------- */

static void source_close(void *self)
{
    struct source *s = self;

    for (unsigned i = 0; i < s->roster.n; i++) {
        io_tail_done(s->roster.v[i].item, &s->input);
        free(s->roster.v[i].item);
    }
    io_roster_done(&s->roster);
    if (s->input.epoll >= 0)
        close(s->input.epoll);
    free(s);
}

static int source_open(const void *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    const struct io_bytes_conf *c = conf;
    struct source *s = calloc(1, sizeof *s);
    int r;

    if (!s)
        return -ENOMEM;
    s->input = (struct io_bytes_input){.conf = c, .host = *host, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    s->roster = (struct io_roster){.patterns = &c->files,
                                   .follow = c->follow,
                                   .poll_ns = c->poll_ns,
                                   .window = WINDOW,
                                   .host = &s->input.host,
                                   .self = s,
                                   .add = add_tail,
                                   .turn = turn_tail,
                                   .at_end = tail_at_end};
    r = s->input.epoll < 0 ? -errno : io_roster_fill(&s->roster, reterr);
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

static enum io_turn source_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct source *s = self;
    struct epoll_event ready[16];

    s->bytes = 0;
    s->readable = false;
    for (int n = 16; n == 16; s->readable |= n > 0) /* disarm what has fired */
        n = epoll_wait(s->input.epoll, ready, 16, 0);
    return io_roster_turn(&s->roster, now_ns, ret_wake_ns);
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
