/* inspect_hdf5_none.c: stands in for inspect_hdf5.c in a build without HDF5. */
#include "tools/inspect.h"

#include <stdio.h>
#include <sysexits.h>

#include "ssm/ssm.h"

int inspect_hdf5(const char *path, json_t **ret, char *why)
{
    snprintf(why, SSM_ERR, "%s: this build has no HDF5", path);
    return EX_UNAVAILABLE;
}
