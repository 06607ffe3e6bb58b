/* spill_file.h: the file that the slots of idle streams lie in, as cells of one saved slot each, and the thread that
 * writes and reads it, so that no engine waits for a disk. The file has no name: what is in it means nothing once the
 * daemon is gone (snapshots have copies), and no crash leaves it lying about.
 *
 * Jobs are a fixed number; who takes one fills it in, submits it, and gets it back when it is done. Which cell is whose
 * is the engine's business (spill.h). */
#ifndef MD_SPILL_FILE_H
#define MD_SPILL_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_stream;

enum { MD_SPILL_JOBS = 16 };

struct md_spill_job {
    struct md_spill_job *next;
    struct io_stream *stream;
    uint32_t *cells; /* [n]; the submitter's */
    uint32_t n;
    uint32_t upto; /* writing: the file is to have room for so many cells, or it fails */
    bool reads;
    bool for_new;   /* writing: for a stream that has nothing on the disk; spill.c */
    int result;     /* 0 or a negative errno */
    uint8_t *bytes; /* n saved slots, one after the other; grows to its peak and stays */
    size_t cap;
};

struct md_spill_file {
    const char *dir; /* the owner's */
    int fd;          /* -1: it was not needed yet; the thread's, like what it is told of by jobs */
    size_t cell;
    uint32_t made;         /* cells that the disk has room for; the thread's */
    _Atomic uint32_t pins; /* who may yet read cells that their streams have left: nothing is to be written there */
    pthread_t thread;
    bool running, ending;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    struct md_spill_job *todo, *todo_last, *finished, *finished_last, *spare;
    struct md_spill_job jobs[MD_SPILL_JOBS];
};

/* The file, without a name in f->dir, and the thread are made with the first job. */
void md_spill_file_init(struct md_spill_file *f);
void md_spill_file_done(struct md_spill_file *f); /* all jobs are back */
/* Nothing is in it: cells of another size. All jobs are back. */
void md_spill_file_fit(struct md_spill_file *f, size_t cell);

/* With room for n cells; NULL: all are under way, or out of memory. */
struct md_spill_job *md_spill_job_take(struct md_spill_file *f, uint32_t n);
void md_spill_job_give(struct md_spill_file *f, struct md_spill_job *job);
int md_spill_job_submit(struct md_spill_file *f, struct md_spill_job *job); /* −EAGAIN: no thread for it */
/* One that is done; NULL: none is. wait: until one is; one must be under way. */
struct md_spill_job *md_spill_job_next(struct md_spill_file *f, bool wait);

/* n cells to `to`, `stride` bytes apart. Any thread; waits for the disk. Negative errno. */
int md_spill_file_read(const struct md_spill_file *f, const uint32_t *cells, uint32_t n, uint8_t *to, size_t stride);

#endif
