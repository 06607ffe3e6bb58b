/* tail.h: one file as a stream of bytes: finished, growing, replaced, cut off, or a pipe. Used by bytes.c only; runs on
 * the source's thread. A tail owns its descriptor and the block that the host has not taken yet. */
#ifndef IO_TAIL_H
#define IO_TAIL_H

#include <sys/stat.h>

#include "io/files.h"
#include "io/records.h"

enum io_from { IO_FROM_RESUME, IO_FROM_START, IO_FROM_END };

struct io_bytes_conf {
    struct io_common common; /* first */
    struct io_strings files;
    bool follow;
    int from; /* enum io_from */
    int64_t poll_ns;
    struct io_records records;
};

struct io_bytes_input {
    const struct io_bytes_conf *conf;
    struct io_host host;
    int epoll; /* pipes that have nothing to read */
};

enum { IO_TAIL_MARK = 32 };

struct io_tail {
    char *path;
    char id[IO_ID_MAX + 1];
    int fd;    /* −1: not open */
    bool pipe; /* or anything else that cannot be read twice */
    bool done; /* nothing will come any more */
    struct stat seen;
    struct io_stream *stream;
    struct io_block *pending;
    int64_t next;               /* number of the byte that is read next, … */
    int64_t origin;             /* … and of the file's first */
    uint8_t last[IO_TAIL_MARK]; /* those before it, … */
    uint32_t n_last;            /* … so many */
    bool from_end;              /* it is to begin where the file ends when it is first opened */
    bool placed;                /* where to begin is settled */
    bool moved;                 /* the name stands for another file */
    int64_t wake_ns, wait_ns;   /* when it wants its next turn; how long it waited for the last */
    int64_t waiting_ns;         /* since when the file is not there, or no slot free for it; 0: not so */
    bool said;                  /* that it is not there */
};

/* Of the daemon's list. -ENOMEM, or what is wrong with its id, in reterr. */
int io_tail_init(struct io_tail *t, const struct io_bytes_input *in, const struct io_file *file, char *reterr);
void io_tail_done(struct io_tail *t, const struct io_bytes_input *in);

/* Opens it. -ENOENT; -EACCES …; reterr names it. */
int io_tail_open(struct io_tail *t, const struct io_bytes_input *in, char *reterr);

/* A bounded piece of work; bytes handed over. 0: nothing to do before t->wake_ns, or `done`. */
size_t io_tail_turn(struct io_tail *t, const struct io_bytes_input *in, int64_t now_ns);

/* Of a followed one: all that is there was read, or it is not there and has been said to be missing. */
bool io_tail_at_end(const struct io_tail *t, int64_t now_ns);

#endif
