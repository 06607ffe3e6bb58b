/* hdf5_log.h: one file of an input, with the tracks of its datasets; read to its end, or followed. Only on the thread
 * that calls libhdf5. */
#ifndef IO_HDF5_LOG_H
#define IO_HDF5_LOG_H

#include "io/files.h"
#include "io/hdf5_file.h"
#include "io/hdf5_track.h"

struct io_hdf5_log {
    char *path, *rel, *stem; /* as in io_file */
    struct io_hdf5_file file;
    struct io_hdf5_track *tracks;
    unsigned n_tracks;
    unsigned at;        /* track whose turn it is */
    bool from_end;      /* rows there at the first opening are skipped */
    bool behind;        /* there may be rows in it that were not read */
    int64_t waiting_ns; /* since when it is gone, locked or being made; 0: it is not */
    int64_t moved_ns;   /* since when the name stands for another file and this one is being finished; 0: it does not */
    bool blocked;       /* waits for room in the daemon */
    bool done;
    int64_t wake_ns, wait_ns; /* when to look next; how long the last wait was */
    uint64_t said;            /* hash of what was last said about it, so that it is said once */
};

int io_hdf5_log_init(struct io_hdf5_log *log, const struct io_file *name, bool from_end);
void io_hdf5_log_done(struct io_hdf5_log *log, const struct io_hdf5_input *in);

/* Opens the file and joins its datasets to their tracks; errors as io_hdf5_file_open, and −EBADMSG for a dataset that
 * is not what the input says. */
int io_hdf5_log_open(struct io_hdf5_log *log, const struct io_hdf5_input *in, char *reterr);

/* Closes what keeps writers out and costs memory. */
void io_hdf5_log_release(struct io_hdf5_log *log);

/* A bounded piece of work. Bytes handed on; 0: none now, *log says when next. */
size_t io_hdf5_log_turn(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns);

#endif
