/* channels.h: which channels of a file are taken: `channel: all | mix | N`. Pure functions; any thread. */
#ifndef IO_CHANNELS_H
#define IO_CHANNELS_H

#include <stdint.h>

#include "io/source.h"

struct io_channels {
    enum { IO_CHANNELS_ALL, IO_CHANNELS_MIX, IO_CHANNELS_ONE } how;
    uint32_t one; /* counted from 0 (in configs from 1) */
};

int io_channels_parse(const char *text, struct io_channels *ret, char *reterr); /* -EINVAL */

/* How many are taken of `of`; -EBADMSG: there is no such channel. */
int io_channels_count(const struct io_channels *c, uint32_t of, const char *path, char *reterr);

/* Takes them: in[n][of] → out[n][count]. A mix is the mean. */
void io_channels_take(const struct io_channels *c, const double *in, uint32_t n, uint32_t of, double *out);

#endif
