/* hdf5_track.h: one dataset on its way into one stream: which rows have been read, and the block that waits for room.
 * Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_TRACK_H
#define IO_HDF5_TRACK_H

#include "io/hdf5_dataset.h"

enum io_hdf5_from { IO_HDF5_RESUME, IO_HDF5_START, IO_HDF5_END };

struct io_hdf5_conf {
    struct io_common common;
    struct io_strings files, datasets, fields;
    char *time;
    bool follow;
    int from; /* io_hdf5_from */
    int64_t poll_ns;
};

/* What every part of one input shares. */
struct io_hdf5_input {
    const struct io_hdf5_conf *conf;
    struct io_host host;
};

struct io_hdf5_track {
    char *name; /* of the dataset */
    char id[IO_ID_MAX + 1];
    struct io_hdf5_dataset data; /* closed while its file is */
    double rate;                 /* of the rows, Hz; 0: unknown */
    struct io_stream *stream;    /* NULL: not started */
    struct io_block *pending;    /* read, not taken yet */
    uint64_t next;               /* first row not read yet */
    uint64_t end;                /* rows there, as of the last refresh */
    uint64_t mark;               /* hash of row next − 1, by which the file is known again */
    bool marked, reset, given_up;
    enum io_reason why; /* given up */
    int64_t refused_ns; /* since when there is no slot for it; 0: not refused */
};

/* `path` and `stem`: of the file, as in stream ids. */
int io_hdf5_track_init(struct io_hdf5_track *t, const struct io_hdf5_input *in, const char *path, const char *stem,
                       const char *dataset, char *reterr);
void io_hdf5_track_done(struct io_hdf5_track *t, const struct io_hdf5_input *in); /* the stream is not ended */

/* Joins the dataset of the file as it is open now. Goes on where it was, or starts anew where that is not the same
 * data. */
int io_hdf5_track_attach(struct io_hdf5_track *t, const struct io_hdf5_input *in, hid_t file, char *reterr);

/* Looks for new rows of a live file. */
int io_hdf5_track_refresh(struct io_hdf5_track *t, const struct io_hdf5_input *in, char *reterr);

/* From row 0 again, with a reset of the stream; `reason` for its event. */
void io_hdf5_track_restart(struct io_hdf5_track *t, const struct io_hdf5_input *in, const char *reason);

/* Hands on one block of rows. Bytes handed on; 0: no rows left; −EAGAIN: no room in the stream's queue, in the slots or
 * in the pool; other: the rows cannot be read. */
int io_hdf5_track_pump(struct io_hdf5_track *t, const struct io_hdf5_input *in, int64_t now_ns, char *reterr);

static inline bool io_hdf5_track_idle(const struct io_hdf5_track *t)
{
    return !t->pending && t->next >= t->end;
}

/* Leaves the rest of the rows out, counted. */
void io_hdf5_track_give_up(struct io_hdf5_track *t, const struct io_hdf5_input *in, enum io_reason why,
                           const char *text);

#endif
