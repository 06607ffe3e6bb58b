/* eval_file.h: whole files in memory, unpacked if they are xz or gzip. Any thread. */
#ifndef TOOLS_EVAL_FILE_H
#define TOOLS_EVAL_FILE_H

#include <stddef.h>

enum { EVAL_ERR = 512 };

/* The bytes, and a zero behind them; to be freed. -ENOENT, -EIO …; -EBADMSG: damaged; -EFBIG: over 2 GiB unpacked. */
int eval_file_read(const char *path, char **ret, size_t *ret_bytes, char *reterr);

/* The length of a path without .xz or .gz. */
size_t eval_file_unpacked(const char *path);

#endif
