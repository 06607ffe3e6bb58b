/* hdf5_type.h: which HDF5 types are numbers, and the memory types they are read as. Only on the thread that calls
 * libhdf5. Types that are returned belong to the caller (H5Tclose). */
#ifndef IO_HDF5_TYPE_H
#define IO_HDF5_TYPE_H

#include <hdf5.h>

#include "io/source.h"

/* What rows of a dataset become in memory. */
struct io_hdf5_row {
    hid_t type; /* of one number, or of a table's whole row */
    enum io_sample sample;
    uint32_t channels; /* per element: 1, or a table's */
};

/* `file_type` of a dataset → its rows. `fields` as in io_hdf5_dataset_open; `skip`: a field that is no channel, or
 * NULL. -EDOM: not numeric, no such field; reterr says which, without naming the dataset. */
int io_hdf5_type_row(hid_t file_type, const struct io_strings *fields, const char *skip, struct io_hdf5_row *ret,
                     char *reterr);

/* The same for a time: `field` of a table, or NULL for a plain number. */
int io_hdf5_type_time(hid_t file_type, const char *field, hid_t *ret, bool *ret_real, char *reterr);

bool io_hdf5_type_has_field(hid_t file_type, const char *field);

#endif
