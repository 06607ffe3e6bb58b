/* eval_hdf5.c: one dataset of numbers, [rows] or [rows, channels], whole. The thread that calls libhdf5. */
#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/eval_table.h"

static int read_dataset(hid_t set, struct eval_table *t)
{
    hsize_t dims[H5S_MAX_RANK] = {0, 1};
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    int rank = H5Sget_simple_extent_ndims(space), err = -EBADMSG;
    H5T_class_t class = H5Tget_class(type);
    if ((rank == 1 || rank == 2) && (class == H5T_INTEGER || class == H5T_FLOAT)) {
        H5Sget_simple_extent_dims(space, dims, NULL);
        t->rows = dims[0];
        t->channels = rank == 2 ? (uint32_t)dims[1] : 1;
        t->x = malloc((t->rows * t->channels + 1) * sizeof *t->x);
        if (!t->x)
            err = -ENOMEM;
        else if (H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->x) >= 0)
            err = 0;
    }
    H5Tclose(type);
    H5Sclose(space);
    return err;
}

int eval_hdf5_load(const char *path, const char *dataset, struct eval_table *ret, char *reterr)
{
    char *name = NULL;
    int err = -ENOENT;
    if (asprintf(&name, "%.*s", (int)(dataset - 1 - path), path) < 0)
        return -ENOMEM;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(name, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = file >= 0 ? H5Dopen2(file, dataset, H5P_DEFAULT) : -1;
    if (set >= 0)
        err = read_dataset(set, ret);
    if (err)
        snprintf(reterr, EVAL_ERR, "%s: %s", path,
                 file < 0          ? "no HDF5 file"
                 : set < 0         ? "no such dataset"
                 : err == -EBADMSG ? "no dataset of numbers, [rows] or [rows, channels], or damaged"
                                   : "out of memory");
    if (set >= 0)
        H5Dclose(set);
    if (file >= 0)
        H5Fclose(file);
    free(name);
    return err;
}
