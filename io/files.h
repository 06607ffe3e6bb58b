/* files.h: which files an input names, what their names lend to stream ids, and bytes from them without blocking.
 * Shared by every adapter that reads files. Any thread. */
#ifndef IO_FILES_H
#define IO_FILES_H

#include <sys/types.h>

#include "io/source.h"

struct io_file {
    char *path;     /* to be opened; "-": standard input */
    char *rel;      /* the path below its pattern's fixed part, with extension: {path} of a stream id */
    char *stem;     /* the last component without extension: {stem} */
    unsigned found; /* order of discovery, before sorting */
};

struct io_files {
    struct io_file *v;
    unsigned n;
};

/* Expands file names and globs to files, sorted by path (bytewise, whatever the locale), each path once. A name that
 * exists is that file, even if it looks like a glob; matched directories are left out. The fixed part of a pattern goes
 * to the last '/' before its first wildcard, of a plain name to its last '/'.
 * -ENOENT: a name, or unless `may_be_empty` a glob, has no file; -EISDIR; -EACCES; -ENOMEM. reterr names it. */
int io_files_expand(const struct io_strings *patterns, bool may_be_empty, struct io_files *ret, char *reterr);
void io_files_free(struct io_files *files);

/* Opens for reading without waiting for a FIFO's writer; "-" duplicates standard input. Returns the descriptor. */
int io_file_open(const char *path);

/* What can be read now: bytes; 0 at the end; -EAGAIN: nothing yet (a FIFO without a writer so far included). */
ssize_t io_file_read(int fd, void *buf, size_t n);

#endif
