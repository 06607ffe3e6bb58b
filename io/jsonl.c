/* jsonl.c: messages as JSON lines (type `jsonl`): {"topic":…, header keys…, "data": nested array}.
 *
 * Runs on a thread of its own: a disk may take its time. Lines gather in a buffer and go out in whole lines, so that
 * who follows the file never sees half a line that stays half; only a line longer than the buffer is written in parts.
 * An error of the file system (ENOSPC, EPIPE) is returned at once and the buffer is kept: the next call tries again. */
#include "io/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 256 << 10, NUMBER = 26 /* a comma and io_float_write()'s longest */ };

struct conf {
    char *path;
    bool append;
};

static const struct io_option options[] = {
    {"path", "file, or - for standard output", IO_OPT_STRING, offsetof(struct conf, path), .required = true,
     .sole = "file"},
    {"append", "go on after what the file holds; false: begin it anew", IO_OPT_BOOL, offsetof(struct conf, append),
     "true"},
    {0},
};

struct sink {
    int fd;
    bool is_stdout;
    size_t len, whole; /* bytes in the buffer, and up to the end of its last whole line */
    bool torn;         /* some of the line that is being put is in the file already */
    char topic[IO_TOPIC_MAX];
    char header[IO_JSON_MAX];
    char buffer[BUFFER];
};

static int check(const void *config, bool resumes, const char **ret_key, char *reterr)
{
    const struct conf *c = config;

    if (c->path[0] && c->path[strlen(c->path) - 1] != '/')
        return 0;
    *ret_key = "path";
    snprintf(reterr, IO_ERR, "needs a file name");
    return -EINVAL;
}

/* A process that was killed may have left half a line: it must not take the next whole one with it. */
static void end_torn_line(struct sink *s, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    char last = '\n';

    if (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
        s->buffer[s->len++] = '\n';
    s->whole = s->len;
    if (fd >= 0)
        close(fd);
}

enum { HELD_BYTES, KIND, DEVICE, INODE, IS_LINES = 0x6a736f6e }; /* counts of a position, and its KIND */

/* What was written after the snapshot will be written again. Another file (it was rotated, or the path is another), or
 * one that is shorter, goes on as it is. */
static int cut_back(const struct conf *c, int fd, const struct io_position *to, char *reterr)
{
    off_t want = (off_t)to->counts[HELD_BYTES];
    struct stat st;

    if (to->counts[KIND] != IS_LINES || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_dev != to->counts[DEVICE] ||
        st.st_ino != to->counts[INODE] || st.st_size <= want || ftruncate(fd, want) == 0)
        return 0;
    snprintf(reterr, IO_ERR, "%s: cannot be cut back to the snapshot: %s", c->path, strerror(errno));
    return -errno;
}

static int open_sink(const void *config, const struct io_sink_env *env, void **ret_self, char *reterr)
{
    const struct conf *c = config;
    const struct io_position *position = env->position;
    struct sink *s = malloc(sizeof *s);
    int r;

    if (!s) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    s->len = s->whole = 0;
    s->torn = false;
    s->is_stdout = !strcmp(c->path, "-");
    bool append = c->append || position;
    s->fd = s->is_stdout ? STDOUT_FILENO
                         : open(c->path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0644);
    if (s->fd < 0) {
        r = -errno;
        snprintf(reterr, IO_ERR, "%s: %s", c->path, strerror(errno));
        free(s);
        return r;
    }
    if (!s->is_stdout && position && (r = cut_back(c, s->fd, position, reterr))) {
        close(s->fd);
        free(s);
        return r;
    }
    if (!s->is_stdout && append)
        end_torn_line(s, c->path);
    *ret_self = s;
    return 0;
}

/* Writes the first n bytes of the buffer and moves the rest to its front; what was written is gone even on failure. */
static int write_out(struct sink *s, size_t n)
{
    size_t done = 0;
    int r = 0;

    while (done < n && !r) {
        ssize_t w = write(s->fd, s->buffer + done, n - done);
        if (w >= 0)
            done += (size_t)w;
        else if (errno == EAGAIN)
            poll(&(struct pollfd){.fd = s->fd, .events = POLLOUT}, 1, -1);
        else if (errno != EINTR)
            r = -errno;
    }
    memmove(s->buffer, s->buffer + done, s->len - done);
    s->len -= done;
    s->whole -= done < s->whole ? done : s->whole;
    return r;
}

/* Makes room for n more bytes; whole lines go first. */
static int room(struct sink *s, size_t n)
{
    int r = 0;

    if (BUFFER - s->len >= n)
        return 0;
    if (s->whole)
        r = write_out(s, s->whole);
    if (r || BUFFER - s->len >= n)
        return r;
    size_t had = s->len;
    r = write_out(s, had);
    s->torn |= s->len < had;
    return r;
}

static int put(struct sink *s, const char *text, size_t len)
{
    int r = room(s, len);

    if (r)
        return r;
    memcpy(s->buffer + s->len, text, len);
    s->len += len;
    return 0;
}

/* In nested brackets; *x moves on. */
static int put_array(struct sink *s, const uint32_t *shape, uint32_t ndim, const float **x)
{
    int r = put(s, "[", 1);

    for (uint32_t i = 0; i < *shape && !r; i++) {
        r = room(s, NUMBER);
        if (!r && i)
            s->buffer[s->len++] = ',';
        if (!r && ndim > 1)
            r = put_array(s, shape + 1, ndim - 1, x);
        else if (!r)
            s->len += io_float_write(s->buffer + s->len, *(*x)++);
    }
    return r ? r : put(s, "]", 1);
}

static int put_line(struct sink *s, const struct io_message *m)
{
    size_t topic = io_topic_write(s->topic, m->family, m->stream);
    size_t header = io_message_json(s->header, sizeof s->header, m);
    const float *x = m->data;
    int r = put(s, "{\"topic\":\"", 10);

    if (!r)
        r = put(s, s->topic, topic);
    if (!r)
        r = put(s, "\",", 2);
    if (!r)
        r = put(s, s->header + 1, header - 2); /* without its braces */
    if (!r)
        r = put(s, ",\"data\":", 8);
    if (!r)
        r = m->ndim ? put_array(s, m->shape, m->ndim, &x) : put(s, "[]", 2);
    return r ? r : put(s, "}\n", 2);
}

static int write_message(void *self, const struct io_message *m)
{
    struct sink *s = self;
    int r = put_line(s, m);

    if (r && s->len > s->whole)
        s->len = s->whole; /* no half line before the next one */
    if (r && s->torn)
        s->buffer[s->len++] = '\n';
    if (!r || s->torn)
        s->whole = s->len;
    s->torn = false;
    return r;
}

/* A file that was deleted takes everything, and nobody will ever read it. */
static int flush(void *self)
{
    struct sink *s = self;
    struct stat st;
    int r = write_out(s, s->len);

    return r || s->is_stdout || fstat(s->fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink ? r : -ENOENT;
}

static int mark(void *self, struct io_position *ret)
{
    struct sink *s = self;
    struct stat st;
    int r = write_out(s, s->len);

    if (r)
        return r;
    if (s->is_stdout || fstat(s->fd, &st) || !S_ISREG(st.st_mode))
        return 0; /* what went into a pipe is not taken back */
    if (fdatasync(s->fd))
        return -errno;
    ret->counts[HELD_BYTES] = (uint64_t)st.st_size;
    ret->counts[KIND] = IS_LINES;
    ret->counts[DEVICE] = st.st_dev;
    ret->counts[INODE] = st.st_ino;
    return 0;
}

static int close_sink(void *self, int64_t linger_ns, char *reterr)
{
    struct sink *s = self;
    int r = flush(s);

    if (!s->is_stdout && close(s->fd) && !r)
        r = -errno;
    if (r)
        snprintf(reterr, IO_ERR, "%s", strerror(-r));
    free(s);
    return r;
}

const struct io_sink_class io_sink_jsonl = {
    .type = "jsonl",
    .help = "messages as JSON lines to a file or standard output",
    .options = options,
    .conf_bytes = sizeof(struct conf),
    .own_thread = true,
    .check = check,
    .open = open_sink,
    .write = write_message,
    .mark = mark,
    .flush = flush,
    .close = close_sink,
};
