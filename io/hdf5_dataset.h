/* hdf5_dataset.h: a numeric HDF5 dataset as rows of samples, with the times that belong to them.
 *
 * What counts as rows: [n] and [n, channels] of any integer or floating type, and tables (compound types, [n]) of which
 * chosen fields are the channels. libhdf5 converts to float32 where that is exact, else to float64. Times are a dataset
 * beside the samples or a field of the table. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_DATASET_H
#define IO_HDF5_DATASET_H

#include <hdf5.h>

#include "io/source.h"

struct io_hdf5_dataset {
    hid_t set;       /* 0: closed */
    hid_t times;     /* 0: none; == set: a field of the table */
    hid_t row_type;  /* in memory: of a number; of a table's whole row */
    hid_t time_type; /* in memory: of a time */
    bool time_real;  /* seconds, else ns */
    bool flat;       /* [n, channels], else [n] */
    enum io_sample type;
    uint32_t channels;
    double rate;              /* of the dataset's attribute `rate`; 0: none */
    uint64_t rows, time_rows; /* extents as of the last refresh */
};

/* Opens dataset `name` (an absolute path) of an open file. `time`: NULL, an absolute path, or the name of a field or of
 * a dataset in the same group; `fields`: of a table, n = 0: all numeric ones. -ENOENT: there is no such dataset; -EDOM:
 * it is not rows of numbers; -EBADMSG: it is, but cannot be read. reterr names the dataset. On failure *ret is closed.
 */
int io_hdf5_dataset_open(hid_t file, const char *name, const char *time, const struct io_strings *fields,
                         struct io_hdf5_dataset *ret, char *reterr);
void io_hdf5_dataset_close(struct io_hdf5_dataset *d); /* a closed or zeroed one too */

/* Looks at the extents again; `swmr`: after dropping what is cached of a file that another process is writing. */
int io_hdf5_dataset_refresh(struct io_hdf5_dataset *d, bool swmr, char *reterr);

/* Rows that have all their parts. */
static inline uint64_t io_hdf5_dataset_rows(const struct io_hdf5_dataset *d)
{
    return d->times && d->time_rows < d->rows ? d->time_rows : d->rows;
}

/* Rows first … first + n − 1: samples [n][channels] of d->type; times in ns, IO_T_NONE for what is not a time. */
int io_hdf5_dataset_read(const struct io_hdf5_dataset *d, uint64_t first, size_t n, void *ret, char *reterr);
int io_hdf5_dataset_times(const struct io_hdf5_dataset *d, uint64_t first, size_t n, int64_t *ret, char *reterr);

#endif
