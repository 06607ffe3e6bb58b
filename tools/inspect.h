/* inspect.h: what `mambactl inspect` can look at. Each reads one thing into a JSON document, which ctl_inspect.c
 * prints. They return 0, or an exit code after writing one line to `why` (SSM_ERR bytes). */
#ifndef TOOLS_INSPECT_H
#define TOOLS_INSPECT_H

#include <jansson.h>

#include "ssm/ssm.h"

/* {"kind": "model", "name", "type", …, "slot": {"bytes", "sections": [{"name", "bytes"}]}, "ops": {…}}; 78 for a bad
 * folder. */
int inspect_model(const char *dir, json_t **ret, char *why);

/* {"kind": "messages", "lines", "series": [{"family", "stream", "messages", "rows", "from_seq", "to_seq", …}]}; 65, 74.
 */
int inspect_lines(const char *path, json_t **ret, char *why);

/* {"kind": "tables", "tables": [{"path", "shape", "type", "fields"}]}; 65, or 69 in a build without HDF5. */
int inspect_hdf5(const char *path, json_t **ret, char *why);

/* {"kind": "snapshot", "run", "generation", "clean", "models", "streams": [{"stream", "state", "input", "model", …}],
 * "outputs"}: one of a state folder, or one stream's state; 65, 74. */
int inspect_snapshot(const char *path, json_t **ret, char *why);

#endif
