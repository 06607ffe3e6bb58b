/* socket_file.h: the file of an ipc:// socket that is this user's only. It is made here and handed to libzmq
 * (ZMQ_USE_FD): its mode is 0600 from the first moment on, which a umask, being the whole process's, could not give.
 * libzmq then neither makes nor removes the file. */
#ifndef MD_SOCKET_FILE_H
#define MD_SOCKET_FILE_H

#include <sys/types.h>

struct md_socket_file {
    char *path; /* NULL until it is ours */
    dev_t dev;
    ino_t ino;
};

/* A listening socket at path. A file that nobody serves is replaced; −EADDRINUSE: another process serves it; −EEXIST:
 * it is no socket. `name` is what the socket is called in reterr (IO_ERR bytes). */
int md_socket_file_make(struct md_socket_file *f, const char *name, const char *path, int *ret_fd, char *reterr);
/* Only a file that is still the one that was made: somebody may have put another in its place. */
void md_socket_file_remove(struct md_socket_file *f);

#endif
