/* inspect_hdf5.c: the datasets of an HDF5 file, whoever wrote it: path, shape, type, and the fields of tables. A file
 * that a daemon is still writing is opened for reading beside it (SWMR). One thread calls libhdf5. */
#include "tools/inspect.h"

#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "ssm/ssm.h"

static json_t *shape_of(hid_t set)
{
    hsize_t dims[H5S_MAX_RANK];
    hid_t space = H5Dget_space(set);
    int n = H5Sget_simple_extent_dims(space, dims, NULL);
    json_t *shape = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(shape, json_integer((json_int_t)dims[i]));
    H5Sclose(space);
    return shape;
}

static json_t *fields_of(hid_t type)
{
    json_t *fields = json_array();
    int n = H5Tget_nmembers(type);
    for (int i = 0; i < n; i++) {
        char *name = H5Tget_member_name(type, (unsigned)i);
        json_array_append_new(fields, json_string(name));
        H5free_memory(name);
    }
    return fields;
}

static json_t *type_name(hid_t type)
{
    static const char *const names[] = {
        [H5T_INTEGER] = "int", [H5T_FLOAT] = "float", [H5T_STRING] = "string", [H5T_COMPOUND] = "table"};
    H5T_class_t class = H5Tget_class(type);
    bool sized = class == H5T_INTEGER || class == H5T_FLOAT;
    const char *name =
        class >= 0 && (size_t) class < sizeof names / sizeof *names && names[class] ? names[class] : "other";
    if (!sized)
        return json_string(name);
    return json_sprintf("%s%s%zu", class == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", name,
                        8 * H5Tget_size(type));
}

static herr_t visit(hid_t file, const char *name, const H5O_info_t *info, void *ctx)
{
    if (info->type != H5O_TYPE_DATASET)
        return 0;
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0)
        return -1;
    hid_t type = H5Dget_type(set);
    json_t *table = json_pack("{s:o, s:o, s:o}", "path", json_sprintf("/%s", name), "shape", shape_of(set), "type",
                              type_name(type));
    if (H5Tget_class(type) == H5T_COMPOUND)
        json_object_set_new(table, "fields", fields_of(type));
    json_array_append_new(ctx, table);
    H5Tclose(type);
    H5Dclose(set);
    return 0;
}

int inspect_hdf5(const char *path, json_t **ret, char *why)
{
    json_t *tables = json_array();
    if (access(path, R_OK)) {
        snprintf(why, SSM_ERR, "%s: %s", path, strerror(errno));
        json_decref(tables);
        return EX_NOINPUT;
    }
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, H5P_DEFAULT);
    if (file < 0)
        file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0 || H5Ovisit(file, H5_INDEX_NAME, H5_ITER_INC, visit, tables) < 0) {
        snprintf(why, SSM_ERR, "%s: not a readable HDF5 file", path);
        json_decref(tables);
        tables = NULL;
    }
    if (file >= 0)
        H5Fclose(file);
    if (!tables)
        return EX_DATAERR;
    *ret = json_pack("{s:s, s:o}", "kind", "tables", "tables", tables);
    return 0;
}
