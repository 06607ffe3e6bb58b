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

int io_hdf5_segment_close(struct io_hdf5_segment *s,
                          char *reterr); /* frees even when it fails; what is buffered is lost */

#endif
