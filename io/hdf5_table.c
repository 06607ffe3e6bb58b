/* hdf5_table.c: appending rows to a chunked dataset. Runs on the thread that calls libhdf5; owns ids and buffer.
 *
 * A buffer is one chunk, so that most writes fill whole chunks. No compression: a chunk that is flushed half full would
 * be stored again elsewhere each time, and in SWMR mode its old place is never used again. */
#include "io/hdf5_table.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"

enum { CHUNK_BYTES = 128 << 10 };

int io_hdf5_table_make(struct io_hdf5_table *t, hid_t file, const char *name, hid_t type, hsize_t inner0,
                       hsize_t inner1, char *reterr)
{
    int rank = 1 + (inner0 > 0) + (inner1 > 0);

    *t = (struct io_hdf5_table){.type = type, .inner = {inner0 ? inner0 : 1, inner1 ? inner1 : 1}};
    t->row_bytes = H5Tget_size(type) * t->inner[0] * t->inner[1];
    t->buffer_rows = t->row_bytes < CHUNK_BYTES ? (uint32_t)(CHUNK_BYTES / t->row_bytes) : 1;
    t->buffer = calloc(t->buffer_rows, t->row_bytes);
    if (!t->buffer) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    hsize_t dims[3] = {0, t->inner[0], t->inner[1]}, most[3] = {H5S_UNLIMITED, t->inner[0], t->inner[1]};
    hsize_t chunk[3] = {t->buffer_rows, t->inner[0], t->inner[1]};
    hid_t space = H5Screate_simple(rank, dims, most), plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(plist, rank, chunk);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    int r = set < 0 ? io_hdf5_fail(reterr, name) : 0;
    t->set = r ? 0 : set;
    H5Pclose(plist);
    H5Sclose(space);
    return r;
}

void io_hdf5_table_close(struct io_hdf5_table *t)
{
    if (t->set)
        H5Dclose(t->set);
    if (t->type)
        H5Tclose(t->type);
    free(t->buffer);
    *t = (struct io_hdf5_table){0};
}

void *io_hdf5_table_add(struct io_hdf5_table *t)
{
    assert(!io_hdf5_table_full(t));
    unsigned char *row = t->buffer + t->buffered++ * t->row_bytes;
    memset(row, 0, t->row_bytes);
    return row;
}

int io_hdf5_table_write(struct io_hdf5_table *t, char *reterr)
{
    hsize_t start[3] = {t->written, 0, 0}, count[3] = {t->buffered, t->inner[0], t->inner[1]};
    hsize_t size[3] = {t->written + t->buffered, t->inner[0], t->inner[1]};

    if (t->buffered == 0)
        return 0;
    int r = H5Dset_extent(t->set, size) < 0 ? io_hdf5_fail(reterr, "append") : 0;
    if (r)
        return r;
    hid_t space = H5Dget_space(t->set), memory = H5Screate_simple(H5Sget_simple_extent_ndims(space), count, NULL);
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dwrite(t->set, t->type, memory, space, H5P_DEFAULT, t->buffer) < 0)
        r = io_hdf5_fail(reterr, "append");
    H5Sclose(memory);
    H5Sclose(space);
    if (r == 0) {
        t->written += t->buffered;
        t->buffered = 0;
    }
    return r;
}
