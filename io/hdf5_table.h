/* hdf5_table.h: a dataset that rows are appended to, through a buffer. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_TABLE_H
#define IO_HDF5_TABLE_H

#include <hdf5.h>

#include "io/source.h"

struct io_hdf5_table {
    hid_t set, type;  /* 0: not made; `type` is that of an element, in memory and in the file */
    hsize_t inner[2]; /* a row is [inner[0]][inner[1]] elements */
    size_t row_bytes;
    unsigned char *buffer;
    uint32_t buffered, buffer_rows;
    uint64_t written; /* rows in the file */
};

/* Makes dataset `name` with rows of `type`, or of [inner0][inner1] of them (0: no such dimension). Takes over `type`.
 */
int io_hdf5_table_make(struct io_hdf5_table *t, hid_t file, const char *name, hid_t type, hsize_t inner0,
                       hsize_t inner1, char *reterr);
void io_hdf5_table_close(struct io_hdf5_table *t); /* what is buffered is lost; one not made too */

/* Room for one more row, to be filled at once; the buffer must not be full. */
void *io_hdf5_table_add(struct io_hdf5_table *t);

static inline bool io_hdf5_table_full(const struct io_hdf5_table *t)
{
    return t->buffered == t->buffer_rows;
}

/* Puts the buffered rows into the file. On failure they stay buffered. */
int io_hdf5_table_write(struct io_hdf5_table *t, char *reterr);

#endif
