/* socket_file.c: see socket_file.h. */
#include "daemon/socket_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/source.h"

enum { QUEUED = 16 };

static int fail(char *reterr, int rc, const char *name, const char *path, const char *what)
{
    snprintf(reterr, IO_ERR, "%s %s: %s", name, path, what);
    return rc;
}

static int fill_address(const char *path, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof ret->sun_path)
        return -ENAMETOOLONG;
    strcpy(ret->sun_path, path);
    return 0;
}

/* Removes a socket file that nobody serves. −EADDRINUSE: somebody does; −EEXIST: it is not a socket. */
static int clear_stale(const char *path, const struct sockaddr_un *address)
{
    struct stat st;
    int fd, rc;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    rc = connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 ? -errno : -EADDRINUSE;
    close(fd);
    if (rc != -ECONNREFUSED)
        return rc == -EAGAIN ? -EADDRINUSE : rc;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* A listening socket at path, mode 0600 (Linux takes the file's mode from the socket's at bind). */
static int listen_at(const char *name, const char *path, int *ret_fd, char *reterr)
{
    struct sockaddr_un address;
    int rc = fill_address(path, &address), fd = -1;

    if (rc == 0)
        rc = clear_stale(path, &address);
    if (rc == -EADDRINUSE)
        return fail(reterr, rc, name, path, "another process serves it");
    if (rc == -EEXIST)
        return fail(reterr, rc, name, path, "is there and is not a socket");
    if (rc == 0)
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (rc == 0 && (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
                    listen(fd, QUEUED) < 0))
        rc = -errno;
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        return fail(reterr, rc, name, path, strerror(-rc));
    }
    *ret_fd = fd;
    return 0;
}

int md_socket_file_make(struct md_socket_file *f, const char *name, const char *path, int *ret_fd, char *reterr)
{
    struct stat st = {0};
    int rc = listen_at(name, path, ret_fd, reterr);

    if (rc < 0)
        return rc;
    f->path = lstat(path, &st) == 0 ? strdup(path) : NULL;
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    return 0;
}

void md_socket_file_remove(struct md_socket_file *f)
{
    struct stat st;

    if (f->path && lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino)
        unlink(f->path);
    free(f->path);
    f->path = NULL;
}
