/* transfer.h: one stream's state out of a running daemon, and into one: to move a stream, to fork it, to begin one with
 * a state. It travels as the bytes of a snapshot that holds this stream only (snapshot_file.h). Any thread but the
 * engines' and the sources'. */
#ifndef MD_TRANSFER_H
#define MD_TRANSFER_H

#include "daemon/daemon.h"

/* Bytes for free(). 0, or a negative errno and a line. */
int md_daemon_export(struct md_daemon *d, const char *id, void **ret, size_t *ret_bytes, char *reterr);

struct md_import {
    const char *as;    /* another id; NULL: the state's own */
    const char *input; /* that the stream belongs to; NULL: the one of that name */
    bool renumber;     /* the numbers and times of its rows begin anew, and so does out_seq */
};

/* The stream must not be live. It waits, as one from a snapshot does, and goes on when its source comes. *ret_id (at
 * least IO_ID_MAX + 1 bytes): the stream's. *ret_exact false: another op table made the state. */
int md_daemon_import(struct md_daemon *d, const void *bytes, size_t n, const struct md_import *how, char *ret_id,
                     bool *ret_exact, char *reterr);

#endif
