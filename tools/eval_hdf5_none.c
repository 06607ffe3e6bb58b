/* eval_hdf5_none.c: in a build without HDF5. */
#include <errno.h>
#include <stdio.h>

#include "tools/eval_table.h"

int eval_hdf5_load(const char *path, const char *dataset, struct eval_table *ret, char *reterr)
{
    snprintf(reterr, EVAL_ERR, "%s: this build has no HDF5", path);
    return -ENOSYS;
}
