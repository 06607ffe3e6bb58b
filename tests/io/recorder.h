/* recorder.h: a daemon's side for source tests: keeps every row that a source pushes, and everything it says. */
#ifndef TESTS_IO_RECORDER_H
#define TESTS_IO_RECORDER_H

#include "io/source.h"

struct recorded { /* one stream */
    char id[IO_ID_MAX + 1];
    uint32_t channels;
    double rate;
    bool irregular, ended, stale; /* stale: the next push finds it ended by the daemon */
    bool held;                    /* the source has a handle, which it is to give back before it asks for another */
    enum io_sample type;
    double *x;     /* [n][channels] */
    int64_t *seq;  /* [n] */
    int64_t *t_ns; /* [n]; of a block's first row where rows have none of their own, else IO_T_NONE */
    bool *reset;   /* [n]: a block with IO_RESET began here */
    size_t n, cap;
    size_t blocks;
};

struct recorder {
    struct io_host host;
    struct recorded *streams[64];
    unsigned n_streams;
    unsigned streams_max;  /* −ENOSPC from here on */
    size_t room;           /* rows that may be pushed before −EAGAIN; SIZE_MAX: any number */
    char said[64][IO_ERR]; /* "<reason> <id>: <text>" of discard(), "note <event> <reason>" of note() */
    unsigned n_said;
    uint64_t discarded[IO_R_COUNT];
    uint64_t messages, bytes;
};

void recorder_init(struct recorder *r, const char *input, double model_rate);
void recorder_done(struct recorder *r);                             /* checks that every block came back */
struct recorded *recorder_find(struct recorder *r, const char *id); /* NULL: none */
bool recorder_said(const struct recorder *r, const char *part);

/* Turns until the source is done (true), or until it waits (false) with a wake time after now + `patience_ns`. */
bool recorder_run(struct recorder *r, const struct io_source_class *class_, void *source, int64_t patience_ns);

int64_t recorder_now(void);

#endif
