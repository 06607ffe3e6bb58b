/* hdf5_follow.h: watching a file that grows: when to look, whether it was replaced, what to do when it cannot be read
 * just now. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_FOLLOW_H
#define IO_HDF5_FOLLOW_H

#include "io/hdf5_log.h"

/* Before a turn: is there, or may there be, something to read? If not, log->wake_ns says when to look again. */
bool io_hdf5_follow_ready(struct io_hdf5_log *log, const struct io_hdf5_input *in, int64_t now_ns);

/* After a turn: `idle`: all rows known have been handed on; `moving`: some were in this turn. */
void io_hdf5_follow_turned(struct io_hdf5_log *log, const struct io_hdf5_input *in, bool idle, bool moving,
                           int64_t now_ns);

/* All that is there was read, or it cannot be had, and has been for longer than is worth waiting for. */
bool io_hdf5_follow_at_end(const struct io_hdf5_log *log, int64_t now_ns);

/* It cannot be opened or read now: said once, closed, tried again later. */
void io_hdf5_follow_failed(struct io_hdf5_log *log, const struct io_hdf5_input *in, int code, const char *text,
                           int64_t now_ns);

#endif
