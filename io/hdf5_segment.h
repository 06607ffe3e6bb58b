/* hdf5_segment.h: the files of the HDF5 sink: their names, and making one in which SWMR readers find everything that
 * will ever be in it. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_SEGMENT_H
#define IO_HDF5_SEGMENT_H

#include <hdf5.h>
#include <limits.h>

#include "io/hdf5_table.h"
#include "io/sink.h"

struct io_hdf5_segment {
    char path[PATH_MAX];
    hid_t file; /* 0: none */
    struct io_hdf5_table streams, stream_info, quantiles;
    struct io_hdf5_table tables[IO_FAMILIES];
    struct io_hdf5_table predictions, embeddings; /* the numbers beside two of the tables */
};

/* Makes the next segment of `base`: base-000001.h5 and so on, behind the highest number there; a `base` that ends in
 * .h5 is one file of that very name. A file that exists is never touched (-EEXIST). Leaves it in SWMR mode. */
int io_hdf5_segment_make(struct io_hdf5_segment *s, const char *base, const struct io_sink_env *env, char *reterr);

/* Puts everything buffered into the file, what rows refer to before the rows; `sync`: and on to the kernel, so that
 * readers see it and a crash leaves it readable. */
int io_hdf5_segment_write(struct io_hdf5_segment *s, bool sync, char *reterr);

/* The file was deleted: it takes everything, and nobody will ever read it. */
bool io_hdf5_segment_deleted(const struct io_hdf5_segment *s);
/* As io_hdf5_segment_write() with `sync`, and on to the disk: how many rows each table has, and in which file. */
int io_hdf5_segment_mark(struct io_hdf5_segment *s, struct io_position *ret, char *reterr);
/* Takes the rows behind a position away again, from its file and from the segments made after it. A file that is no
 * longer there is left alone; one that was torn while it was made becomes *.torn. Before io_hdf5_segment_make(). */
int io_hdf5_segment_cut(const char *base, const struct io_position *position, char *reterr);

int io_hdf5_segment_close(struct io_hdf5_segment *s,
                          char *reterr); /* frees even when it fails; what is buffered is lost */

#endif
