/* hdf5_error.h: libhdf5's error stack as one line of text. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_ERROR_H
#define IO_HDF5_ERROR_H

#include "io/source.h"

/* Keeps libhdf5 from printing and from cleaning up at exit. To be called before anything else of libhdf5; the former
 * belongs to the calling thread, so every entry of an adapter calls this anew. */
void io_hdf5_quiet(void);

/* Writes "<subject>: <innermost cause>" to reterr (IO_ERR bytes) and clears the stack. Returns the negative errno of
 * the system call that failed, or -EBADMSG where it was the content that libhdf5 did not like. To be called at once:
 * the next call into libhdf5, even one that succeeds, empties the stack. */
int io_hdf5_fail(char *reterr, const char *subject);

#endif
