/* tail.c: see tail.h. Rows are bytes, numbered from the first file's beginning: what has its name later goes on with
 * the numbers, and with the stream.
 *
 * A file that is followed may become another between two looks. It is held open, so that one that was renamed is read
 * to its end; the change-over waits until the new one has something, for until then its writer may be at the old one.
 * One that was cut off and written anew may have grown past where reading stopped: with every read the last bytes
 * before it are read again, and have to be the same.
 *
 * Trap: "nothing more, and replaced" is only the end if the look for bytes came after the replacement was seen. */
#include "io/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/stream_id.h"

enum { BLOCK_BYTES = 64 << 10 };
static const int64_t wait_first_ns = 1000000, pool_retry_ns = 5000000, slot_retry_ns = 100000000;
static const int64_t pause_ns = 1000000000;     /* of a file that is not there, before it is said */
static const int64_t patience_ns = 60000000000; /* for a slot */

int io_tail_init(struct io_tail *t, const struct io_bytes_input *in, const struct io_file *file, char *reterr)
{
    const char *form = in->conf->common.stream ? in->conf->common.stream : "{input}:{path}";
    struct io_id_parts parts = {.input = in->host.input, .path = file->rel, .stem = file->stem};
    int r;

    *t = (struct io_tail){.fd = -1, .path = strdup(file->path), .from_end = in->conf->from == IO_FROM_END};
    if (!t->path)
        return -ENOMEM;
    r = io_id_expand(form, &parts, t->id);
    if (r)
        snprintf(reterr, IO_ERR, "%.400s makes no valid stream id of at most %d bytes", file->path, IO_ID_MAX);
    return r;
}

static void close_file(struct io_tail *t)
{
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
    t->moved = false;
}

void io_tail_done(struct io_tail *t, const struct io_bytes_input *in)
{
    if (t->pending)
        io_block_put(in->host.pool, t->pending);
    close_file(t);
    free(t->path);
    *t = (struct io_tail){.fd = -1, .done = true};
}

/* Passes over what is there. */
static void begin_at(struct io_tail *t, int64_t next)
{
    size_t some = next < IO_TAIL_MARK ? (size_t)next : IO_TAIL_MARK;
    ssize_t got = pread(t->fd, t->last, some, next - (int64_t)some);

    t->next = next;
    t->n_last = got == (ssize_t)some ? (uint32_t)some : 0;
    t->placed = true;
}

int io_tail_open(struct io_tail *t, const struct io_bytes_input *in, char *reterr)
{
    int r;

    if (t->fd >= 0)
        return 0;
    t->fd = io_file_open(t->path);
    if (t->fd < 0 || fstat(t->fd, &t->seen)) {
        r = t->fd < 0 ? t->fd : -errno;
        snprintf(reterr, IO_ERR, "%.400s: %s", t->path, strerror(-r));
        close_file(t);
        return r;
    }
    if (S_ISDIR(t->seen.st_mode)) {
        snprintf(reterr, IO_ERR, "%.400s: is a directory", t->path);
        close_file(t);
        return -EISDIR;
    }
    t->pipe = !S_ISREG(t->seen.st_mode) || strcmp(t->path, "-") == 0;
    if (t->from_end && !t->pipe && !t->placed)
        begin_at(t, t->seen.st_size);
    t->waiting_ns = 0;
    t->said = false;
    return 0;
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

static size_t wait_up_to(struct io_tail *t, int64_t longest_ns, int64_t now_ns)
{
    t->wait_ns = 2 * t->wait_ns > wait_first_ns ? 2 * t->wait_ns : wait_first_ns;
    t->wait_ns = t->wait_ns < longest_ns ? t->wait_ns : longest_ns;
    t->wake_ns = now_ns + t->wait_ns;
    return 0;
}

static size_t give_up(struct io_tail *t, const struct io_bytes_input *in, enum io_reason why, const char *text)
{
    in->host.discard(in->host.self, why, t->id, t->pending ? t->pending->n : 0, text);
    if (t->stream)
        in->host.end(in->host.self, t->stream);
    close_file(t);
    t->done = true;
    return 0;
}

/* A file that is just being made or replaced is not worth a word: only a longer wait is said. */
static size_t wait_for_file(struct io_tail *t, const struct io_bytes_input *in, const char *text, int64_t now_ns)
{
    char more[IO_ERR];

    if (t->waiting_ns == 0)
        t->waiting_ns = now_ns;
    if (now_ns - t->waiting_ns > pause_ns && !t->said) {
        snprintf(more, sizeof more, "%.400s: waiting for it", text);
        in->host.discard(in->host.self, IO_R_FILE, NULL, 0, more);
        t->said = true;
    }
    return wait_up_to(t, in->conf->poll_ns, now_ns);
}

bool io_tail_at_end(const struct io_tail *t, int64_t now_ns)
{
    bool waits = !t->pending && t->wait_ns > 0 && t->wake_ns > now_ns;

    return t->done || (waits && (t->waiting_ns == 0 || t->said));
}

/* A FIFO or standard input: until it is readable. */
static size_t wait_for_bytes(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
    bool armed =
        epoll_ctl(in->epoll, EPOLL_CTL_MOD, t->fd, &e) == 0 || epoll_ctl(in->epoll, EPOLL_CTL_ADD, t->fd, &e) == 0;

    t->wake_ns = armed ? INT64_MAX : now_ns + pool_retry_ns;
    return 0;
}

/* ---- which file it is ------------------------------------------------------------------------------------------- */

/* What comes is of another file; how much of the old one was never seen is not known. */
static void begin_anew(struct io_tail *t, const struct io_bytes_input *in, const char *reason)
{
    if (t->next > t->origin && t->stream)
        in->host.note(in->host.self, t->stream, "gap", reason, t->next, IO_SEQ_NONE);
    t->origin = t->next;
    t->n_last = 0;
}

static void change_over(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    close_file(t);
    begin_anew(t, in, "rotation");
    t->wait_ns = 0;
    t->wake_ns = now_ns;
}

/* Everything that is there was read. */
static size_t at_end(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    char text[IO_ERR];
    struct stat st;

    if (!in->conf->follow) {
        in->host.end(in->host.self, t->stream);
        close_file(t);
        t->done = true;
        return 0;
    }
    if (t->moved) {
        change_over(t, in, now_ns);
        return 0;
    }
    if (stat(t->path, &st)) {
        snprintf(text, sizeof text, "%.400s: %s", t->path, strerror(errno));
        return wait_for_file(t, in, text, now_ns);
    }
    t->waiting_ns = 0;
    t->moved = (st.st_dev != t->seen.st_dev || st.st_ino != t->seen.st_ino) && st.st_size > 0;
    if (t->moved) {
        t->wake_ns = now_ns; /* one more look for bytes */
        return 0;
    }
    return wait_up_to(t, in->conf->poll_ns, now_ns);
}

/* A pipe's last writer is gone. Another may come to a FIFO that is followed, but what was there has ended. */
static size_t at_pipe_end(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    if (!in->conf->follow || in->host.once || strcmp(t->path, "-") == 0) {
        in->host.end(in->host.self, t->stream);
        close_file(t);
        t->done = true;
        return 0;
    }
    close_file(t);
    t->wake_ns = now_ns;
    return 0;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* How many bytes came into the block; 0: none now; −ESTALE: the file is not what it was; other errors. */
static ssize_t read_file(struct io_tail *t, const struct io_bytes_input *in, struct io_block *b)
{
    uint8_t before[IO_TAIL_MARK];
    struct iovec parts[] = {{before, t->n_last}, {b->data, BLOCK_BYTES}};
    ssize_t got = preadv(t->fd, parts, 2, t->next - t->origin - t->n_last);

    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : -errno;
    if (got >= t->n_last && memcmp(before, t->last, t->n_last) == 0)
        return got - t->n_last;
    begin_anew(t, in, got < t->n_last ? "truncation" : "rotation");
    return -ESTALE;
}

static void remember(struct io_tail *t, const struct io_block *b)
{
    uint32_t some = b->n < IO_TAIL_MARK ? b->n : IO_TAIL_MARK, keep = IO_TAIL_MARK - some;

    keep = keep < t->n_last ? keep : t->n_last;
    memmove(t->last, t->last + t->n_last - keep, keep);
    memcpy(t->last + keep, b->data + b->n - some, some);
    t->n_last = keep + some;
    t->next += b->n;
}

static struct io_block *new_block(const struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    struct io_block *b = io_block_get(in->host.pool, BLOCK_BYTES);

    if (!b)
        return NULL;
    b->channels = 1;
    b->type = IO_U8;
    b->seq = t->next;
    b->origin = t->origin;
    b->t_ns = IO_T_NONE;
    b->arrived_ns = (uint64_t)now_ns;
    return b;
}

/* The first block after a restart: of the file that was known? */
static bool is_known(struct io_tail *t, const struct io_bytes_input *in, struct io_block *b)
{
    int64_t next;

    if (t->placed || !in->host.known)
        return true;
    t->placed = true;
    next = in->host.known(in->host.self, t->stream, b->n ? b : NULL);
    if (next == IO_SEQ_NONE)
        return true;
    t->next = t->origin = next;
    t->n_last = 0;
    return false;
}

/* Few bytes are not to hold a large block while they wait. */
static struct io_block *fitted(const struct io_bytes_input *in, struct io_block *b)
{
    struct io_block *small = b->n <= BLOCK_BYTES / 2 ? io_block_get(in->host.pool, b->n) : NULL;

    if (!small)
        return b;
    small->n = b->n;
    small->channels = b->channels;
    small->type = b->type;
    small->seq = b->seq;
    small->origin = b->origin;
    small->t_ns = b->t_ns;
    small->arrived_ns = b->arrived_ns;
    memcpy(small->data, b->data, b->n);
    io_block_put(in->host.pool, b);
    return small;
}

/* 1: there is a block; 0: there is none, and t->wake_ns says when to look again, unless it is done. */
static int read_block(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    struct io_block *b = new_block(t, in, now_ns);
    ssize_t n;

    if (!b) {
        t->wake_ns = now_ns + pool_retry_ns;
        return 0;
    }
    n = t->pipe ? io_file_read(t->fd, b->data, BLOCK_BYTES) : read_file(t, in, b);
    b->n = n > 0 ? (uint32_t)n : 0;
    if (n >= 0 && !t->pipe && !is_known(t, in, b))
        n = -ESTALE;
    if (n > 0) {
        b = fitted(in, b);
        remember(t, b);
        t->wait_ns = 0;
        t->pending = b;
        return 1;
    }
    io_block_put(in->host.pool, b);
    if (n == -ESTALE)
        t->wake_ns = now_ns;
    else if (n == -EAGAIN)
        wait_for_bytes(t, in, now_ns);
    else if (n == 0 && t->pipe)
        at_pipe_end(t, in, now_ns);
    else if (n == 0)
        at_end(t, in, now_ns);
    else
        give_up(t, in, IO_R_FILE, strerror((int)-n));
    return 0;
}

/* ---- the stream ------------------------------------------------------------------------------------------------- */

/* Gets the stream's handle and, at the beginning, where to go on. False: not now, or never. */
static bool find_stream(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    struct io_stream_desc desc = {
        .id = t->id,
        .channels = 1,
        .rate = in->conf->common.rate,
        .anew = t->pipe || in->conf->from != IO_FROM_RESUME,
        .patient = true,
        .waited = t->waiting_ns != 0,
    };
    int r = in->host.stream(in->host.self, &desc, &t->stream);

    if (r == -ENOSPC && (t->waiting_ns == 0 || now_ns - t->waiting_ns < patience_ns)) {
        t->waiting_ns = t->waiting_ns ? t->waiting_ns : now_ns;
        t->wake_ns = now_ns + slot_retry_ns;
        return false;
    }
    if (r) {
        t->stream = NULL;
        give_up(t, in, io_stream_refusal(r), "its stream was refused");
        return false;
    }
    t->waiting_ns = 0;
    if (!t->placed && in->host.resume && !t->pipe)
        t->next = in->host.resume(in->host.self, t->stream, &t->origin);
    t->placed |= t->pipe || !in->host.known;
    return true;
}

static size_t push(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    uint32_t n = t->pending->n;
    int r = in->host.push(in->host.self, t->stream, t->pending);

    if (r == -ESTALE) { /* ended meanwhile, by streams.idle: begin it again */
        in->host.end(in->host.self, t->stream);
        t->stream = NULL;
        if (!find_stream(t, in, now_ns))
            return 0;
        r = in->host.push(in->host.self, t->stream, t->pending);
    }
    if (r) {
        t->wake_ns = INT64_MAX; /* the host says when there is room */
        return 0;
    }
    t->pending = NULL;
    t->wake_ns = now_ns;
    in->host.received(in->host.self, 1, n);
    return n;
}

size_t io_tail_turn(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns)
{
    char why[IO_ERR];
    int r = t->pending ? 0 : io_tail_open(t, in, why);

    if (r && in->conf->follow) {
        t->from_end = false; /* whatever comes there will be new */
        return wait_for_file(t, in, why, now_ns);
    }
    if (r)
        return give_up(t, in, IO_R_FILE, why);
    if (!t->stream && !find_stream(t, in, now_ns))
        return 0;
    if (!t->pending && !read_block(t, in, now_ns))
        return 0;
    return push(t, in, now_ns);
}
