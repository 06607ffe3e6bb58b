/* stream_id.h: stream ids made from an input's `stream` template. Pure functions; any thread. */
#ifndef IO_STREAM_ID_H
#define IO_STREAM_ID_H

#include <stddef.h>

#include "io/source.h"

/* What the names in a template stand for; NULL: the adapter has no such thing. */
struct io_id_parts {
    const char *input, *path, *stem, *dataset, *topic, *stream;
};

/* Checks names and braces. `usable` has a non-NULL member for every name that the adapter can fill in. */
int io_id_check(const char *template_, const struct io_id_parts *usable, char *reterr);

/* Writes the id to out[IO_ID_MAX + 1]. -ENAMETOOLONG, or -EINVAL where the result is no valid id. */
int io_id_expand(const char *template_, const struct io_id_parts *parts, char *out);

#endif
