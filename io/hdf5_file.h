/* hdf5_file.h: an HDF5 file that others may be writing, replacing or cutting off: how it may be opened now, and whether
 * the name still stands for the same file. Only on the thread that calls libhdf5. */
#ifndef IO_HDF5_FILE_H
#define IO_HDF5_FILE_H

#include <hdf5.h>
#include <sys/stat.h>

#include "io/source.h"

struct io_hdf5_file {
    const char *path; /* the caller's */
    int fd;           /* keeps hold of the very file that is read, whatever becomes of the name; −1: none */
    hid_t id;         /* 0: not open */
    bool swmr;        /* open as the reader of a live SWMR writer */
    struct stat seen; /* at the last look */
    bool settled;     /* its mtime was old enough by then to tell later writes */
};

/* Opens for reading; of a file that is held already only what is not open. `follow`: beside a SWMR writer if there is
 * one. -ENOENT, -EACCES …: the file; -EAGAIN: being written or made, it may open later; -ESTALE: its flags say that it
 * is open for writing, but nobody holds it; -EBADMSG: not HDF5, or damaged. reterr names the file. */
int io_hdf5_file_open(struct io_hdf5_file *f, bool follow, char *reterr);
void io_hdf5_file_release(struct io_hdf5_file *f); /* closes what keeps writers out; the file stays held */
void io_hdf5_file_close(struct io_hdf5_file *f);   /* a closed one too */

enum {                       /* what a look finds */
       IO_HDF5_CHANGED = 1,  /* may have been written to since the last look */
       IO_HDF5_REPLACED = 2, /* the name stands for another file */
       IO_HDF5_GONE = 4      /* there is no such name */
};
unsigned io_hdf5_file_look(struct io_hdf5_file *f); /* of a held file */

/* A SWMR writer has the file open now, by the file's own flags. */
bool io_hdf5_file_live(const struct io_hdf5_file *f);

#endif
