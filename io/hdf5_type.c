/* hdf5_type.c: which HDF5 types are numbers, and the memory types they are read as. Runs on the thread that calls
 * libhdf5; every type opened here is closed here, but for those returned.
 *
 * Trap: libhdf5 converts any integer or float of any width and byte order to the native ones, but only if the field of
 * the memory table has the same name as that of the file's. */
#include "io/hdf5_type.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "io/hdf5_error.h"

enum { F32_BITS = 24 }; /* integers up to here are exact in a float32 */

/* Is it a number, and does it need a float64? */
static bool is_number(hid_t type, bool *ret_wide)
{
    switch (H5Tget_class(type)) {
    case H5T_INTEGER:
        *ret_wide = H5Tget_precision(type) > F32_BITS;
        return true;
    case H5T_FLOAT:
        *ret_wide = H5Tget_size(type) > 4;
        return true;
    default:
        return false;
    }
}

/* A table's field as channels: a number is one, an array [k] of numbers is k. 0: neither. */
static uint32_t field_width(hid_t field, bool *ret_wide)
{
    hsize_t k = 0;
    hid_t base;
    bool number;

    if (H5Tget_class(field) != H5T_ARRAY)
        return is_number(field, ret_wide) ? 1 : 0;
    if (H5Tget_array_ndims(field) != 1 || H5Tget_array_dims2(field, &k) < 0 || k > IO_BLOCK_MAX)
        return 0;
    base = H5Tget_super(field);
    number = is_number(base, ret_wide);
    H5Tclose(base);
    return number ? (uint32_t)k : 0;
}

static uint32_t member_width(hid_t table, int index, bool *ret_wide)
{
    hid_t field = H5Tget_member_type(table, (unsigned)index);
    uint32_t width = field_width(field, ret_wide);

    H5Tclose(field);
    return width;
}

bool io_hdf5_type_has_field(hid_t file_type, const char *field)
{
    bool has = H5Tget_class(file_type) == H5T_COMPOUND && H5Tget_member_index(file_type, field) >= 0;

    H5Eclear2(H5E_DEFAULT);
    return has;
}

/* The i-th channel field: as named, else in the table's order. Returns its index in the table, −1 past the end, −2 for
 * one to be left out. */
static int field_at(hid_t table, const struct io_strings *fields, const char *skip, unsigned i)
{
    if (fields->n)
        return i < fields->n ? H5Tget_member_index(table, fields->v[i]) : -1;
    if ((int)i >= H5Tget_nmembers(table))
        return -1;
    char *name = H5Tget_member_name(table, i);
    bool out = skip && name && strcmp(name, skip) == 0;
    H5free_memory(name);
    return out ? -2 : (int)i;
}

/* Counts the channels and finds their common type. */
static int measure(hid_t table, const struct io_strings *fields, const char *skip, struct io_hdf5_row *row,
                   char *reterr)
{
    for (unsigned i = 0; i < fields->n; i++) {
        if (io_hdf5_type_has_field(table, fields->v[i]))
            continue;
        snprintf(reterr, IO_ERR, "there is no field '%.100s'", fields->v[i]);
        return -EDOM;
    }
    for (unsigned i = 0;; i++) {
        int at = field_at(table, fields, skip, i);
        if (at == -1)
            break;
        bool wide = false;
        uint32_t width = at < 0 ? 0 : member_width(table, at, &wide);
        if (width == 0 && fields->n) {
            snprintf(reterr, IO_ERR, "field '%.100s' is not numeric", fields->v[i]);
            return -EDOM;
        }
        row->channels += width;
        if (wide)
            row->sample = IO_F64;
    }
    if (row->channels == 0 || row->channels > IO_BLOCK_MAX) {
        snprintf(reterr, IO_ERR, row->channels ? "its fields are too many" : "none of its fields is numeric");
        return -EDOM;
    }
    return 0;
}

/* Inserts field `at` of the file's table at channel `channel` of the memory type. */
static int insert(hid_t memory, hid_t table, int at, uint32_t channel, uint32_t width, hid_t native, char *reterr)
{
    char *name = H5Tget_member_name(table, (unsigned)at);
    hid_t field = H5Tget_member_type(table, (unsigned)at);
    hsize_t k = width;
    hid_t type = H5Tget_class(field) == H5T_ARRAY ? H5Tarray_create2(native, 1, &k) : H5Tcopy(native);
    int r = 0;

    if (H5Tinsert(memory, name, channel * H5Tget_size(native), type) < 0) {
        io_hdf5_fail(reterr, "its fields");
        r = -EDOM;
    }

    H5Tclose(type);
    H5Tclose(field);
    H5free_memory(name);
    return r;
}

static int table_row(hid_t table, const struct io_strings *fields, const char *skip, struct io_hdf5_row *row,
                     char *reterr)
{
    int r = measure(table, fields, skip, row, reterr);
    if (r)
        return r;
    hid_t native = row->sample == IO_F64 ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT;
    uint32_t channel = 0;
    row->type = H5Tcreate(H5T_COMPOUND, row->channels * io_sample_bytes(row->sample));
    for (unsigned i = 0; r == 0; i++) {
        int at = field_at(table, fields, skip, i);
        if (at == -1)
            break;
        bool wide;
        uint32_t width = at < 0 ? 0 : member_width(table, at, &wide);
        if (width)
            r = insert(row->type, table, at, channel, width, native, reterr);
        channel += width;
    }
    if (r)
        H5Tclose(row->type);
    return r;
}

int io_hdf5_type_row(hid_t file_type, const struct io_strings *fields, const char *skip, struct io_hdf5_row *ret,
                     char *reterr)
{
    struct io_hdf5_row row = {.sample = IO_F32};
    bool wide;
    int r = 0;

    if (H5Tget_class(file_type) == H5T_COMPOUND) {
        r = table_row(file_type, fields, skip, &row, reterr);
    } else if (fields->n || !is_number(file_type, &wide)) {
        snprintf(reterr, IO_ERR, fields->n ? "it is not a table, so it has no fields" : "it is not numeric");
        r = -EDOM;
    } else {
        row.sample = wide ? IO_F64 : IO_F32;
        row.type = H5Tcopy(wide ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT);
        row.channels = 1;
    }
    if (r == 0)
        *ret = row;
    return r;
}

int io_hdf5_type_time(hid_t file_type, const char *field, hid_t *ret, bool *ret_real, char *reterr)
{
    hid_t number =
        field ? H5Tget_member_type(file_type, (unsigned)H5Tget_member_index(file_type, field)) : H5Tcopy(file_type);
    H5T_class_t class_ = H5Tget_class(number);
    hid_t native = class_ == H5T_FLOAT ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64;

    H5Tclose(number);
    if (class_ != H5T_INTEGER && class_ != H5T_FLOAT) {
        snprintf(reterr, IO_ERR, "times are integers (ns) or floats (seconds)");
        return -EDOM;
    }
    *ret_real = class_ == H5T_FLOAT;
    *ret = H5Tcopy(native);
    if (field) {
        hid_t row = H5Tcreate(H5T_COMPOUND, 8);
        H5Tinsert(row, field, 0, native);
        H5Tclose(*ret);
        *ret = row;
    }
    return 0;
}
