/* hdf5_select.h: which datasets of a file an input means. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_SELECT_H
#define IO_HDF5_SELECT_H

#include <hdf5.h>

#include "io/source.h"

struct io_hdf5_name {
    char *path; /* absolute */
    bool named; /* in so many words: what is wrong with it is then an error, otherwise it is left out */
};

struct io_hdf5_names {
    struct io_hdf5_name *v;
    unsigned n;
};

/* The datasets that `wanted` names or matches (n = 0: every dataset), sorted by path, less the one that holds the
 * times. Names come back whether they exist or not. A glob's * and ? stop at '/'. */
int io_hdf5_select(hid_t file, const struct io_strings *wanted, const char *time, struct io_hdf5_names *ret,
                   char *reterr);
void io_hdf5_names_free(struct io_hdf5_names *names);

#endif
