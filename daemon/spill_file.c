/* spill_file.c: see spill_file.h. Trap: a full disk is to show when room for a cell is made, not when a stream needs it
 * back; so room is taken ahead, and a cell that was written once can be written again. */
#include "daemon/spill_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { AHEAD = 16 }; /* cells made at a time, where there is room */

/* ---- cells ------------------------------------------------------------------------------------------------------- */

static off_t place(const struct md_spill_file *f, uint64_t cell)
{
    return (off_t)(cell * f->cell);
}

static int read_cell(const struct md_spill_file *f, uint32_t cell, uint8_t *to)
{
    for (size_t at = 0; at < f->cell;) {
        ssize_t n = pread(f->fd, to + at, f->cell - at, place(f, cell) + (off_t)at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return n == 0 ? -EIO : -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int write_cell(const struct md_spill_file *f, uint32_t cell, const uint8_t *from)
{
    for (size_t at = 0; at < f->cell;) {
        ssize_t n = pwrite(f->fd, from + at, f->cell - at, place(f, cell) + (off_t)at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return n == 0 ? -EIO : -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int md_spill_file_read(const struct md_spill_file *f, const uint32_t *cells, uint32_t n, uint8_t *to, size_t stride)
{
    int r = 0;

    for (uint32_t i = 0; i < n && r == 0; i++)
        r = read_cell(f, cells[i], to + i * stride);
    return r;
}

/* Room on the disk for so many cells. */
static int make(struct md_spill_file *f, uint32_t upto)
{
    if (upto <= f->made)
        return 0;
    for (uint32_t ahead = AHEAD;; ahead = 0) {
        int r = -posix_fallocate(f->fd, place(f, f->made), place(f, (uint64_t)upto - f->made + ahead));
        if (r == 0)
            f->made = upto + ahead;
        if (r == 0 || ahead == 0)
            return r;
    }
}

static int open_unnamed(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char path[4200];

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    snprintf(path, sizeof path, "%.4100s/spill-XXXXXX", dir); /* a file system that has no such files */
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static int perform(struct md_spill_file *f, struct md_spill_job *job)
{
    int r = 0;

    if (job->reads)
        return md_spill_file_read(f, job->cells, job->n, job->bytes, f->cell);
    if (f->fd < 0)
        f->fd = open_unnamed(f->dir);
    r = f->fd < 0 ? -errno : make(f, job->upto);
    for (uint32_t i = 0; i < job->n && r == 0; i++)
        r = write_cell(f, job->cells[i], job->bytes + i * f->cell);
    return r;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct md_spill_file *f = arg;

    pthread_mutex_lock(&f->lock);
    while (f->todo || !f->ending) {
        struct md_spill_job *job = f->todo;
        if (!job) {
            pthread_cond_wait(&f->wake, &f->lock);
            continue;
        }
        f->todo = job->next;
        pthread_mutex_unlock(&f->lock);
        job->result = perform(f, job);
        job->next = NULL;
        pthread_mutex_lock(&f->lock);
        *(f->finished ? &f->finished_last->next : &f->finished) = job;
        f->finished_last = job;
        pthread_cond_signal(&f->done);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

void md_spill_file_init(struct md_spill_file *f)
{
    *f = (struct md_spill_file){.fd = -1};
    for (unsigned i = 0; i < MD_SPILL_JOBS; i++)
        md_spill_job_give(f, &f->jobs[i]);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    pthread_cond_init(&f->done, NULL);
}

void md_spill_file_fit(struct md_spill_file *f, size_t cell)
{
    f->cell = cell;
    f->made = 0;
    if (f->fd >= 0)
        (void)!ftruncate(f->fd, 0); /* what stays is written over */
}

void md_spill_file_done(struct md_spill_file *f)
{
    if (f->running) {
        pthread_mutex_lock(&f->lock);
        f->ending = true;
        pthread_cond_signal(&f->wake);
        pthread_mutex_unlock(&f->lock);
        pthread_join(f->thread, NULL);
    }
    for (unsigned i = 0; i < MD_SPILL_JOBS; i++)
        free(f->jobs[i].bytes);
    pthread_cond_destroy(&f->done);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    if (f->fd >= 0)
        close(f->fd);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

struct md_spill_job *md_spill_job_take(struct md_spill_file *f, uint32_t n)
{
    struct md_spill_job *job = f->spare;

    if (!job)
        return NULL;
    if (n * f->cell > job->cap) {
        free(job->bytes);
        job->bytes = malloc(n * f->cell);
        job->cap = job->bytes ? n * f->cell : 0;
    }
    if (!job->bytes)
        return NULL;
    f->spare = job->next;
    job->n = n;
    return job;
}

void md_spill_job_give(struct md_spill_file *f, struct md_spill_job *job)
{
    job->next = f->spare;
    f->spare = job;
}

int md_spill_job_submit(struct md_spill_file *f, struct md_spill_job *job)
{
    if (!f->running && pthread_create(&f->thread, NULL, run, f))
        return -EAGAIN;
    if (!f->running)
        pthread_setname_np(f->thread, "spill");
    f->running = true;
    job->next = NULL;
    pthread_mutex_lock(&f->lock);
    *(f->todo ? &f->todo_last->next : &f->todo) = job;
    f->todo_last = job;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

struct md_spill_job *md_spill_job_next(struct md_spill_file *f, bool wait)
{
    struct md_spill_job *job;

    pthread_mutex_lock(&f->lock);
    while (!f->finished && wait)
        pthread_cond_wait(&f->done, &f->lock);
    job = f->finished;
    if (job)
        f->finished = job->next;
    pthread_mutex_unlock(&f->lock);
    return job;
}
