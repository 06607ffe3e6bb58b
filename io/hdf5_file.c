/* hdf5_file.c: opening a file that others may be writing. Runs on the thread that calls libhdf5; the struct owns the
 * descriptor and the id.
 *
 * A file is held by a descriptor of our own, so that the rest of a file that was renamed or deleted can still be read
 * (libhdf5 opens it as /proc/self/fd/N). The superblock's consistency flags are read without libhdf5, which tells no
 * reasons apart. Trap: a reader's lock keeps writers out. A plain reader needs it, so it must not stay open while it
 * waits; a SWMR reader does without, or a writer that restarts would find the file locked. */
#include "io/hdf5_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "io/hdf5_error.h"

enum { WRITING = 1, SWMR_WRITING = 4 }; /* consistency flags of a version 3 superblock */
enum { MTIME_GRAIN_NS = 50 * 1000000 }; /* two writes closer than this may leave the same mtime */

/* The consistency flags; −ENODATA: an empty file; −EBADMSG: no HDF5 signature. The superblock stands at 0 or, behind a
 * user block, at 512, 1024, 2048 … */
static int read_flags(int fd)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[12];
    struct stat st;

    if (fstat(fd, &st))
        return -errno;
    if (st.st_size == 0)
        return -ENODATA;
    for (off_t at = 0; at < st.st_size; at = at ? 2 * at : 512) {
        ssize_t n = pread(fd, head, sizeof head, at);
        if (n < 0)
            return -errno;
        if (n == sizeof head && memcmp(head, signature, sizeof signature) == 0)
            return head[8] >= 3 ? head[11] : 0;
    }
    return -EBADMSG;
}

/* A live writer that is not in SWMR mode holds the lock. */
static bool is_locked(int fd)
{
    if (flock(fd, LOCK_SH | LOCK_NB))
        return true;
    flock(fd, LOCK_UN);
    return false;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int fail(char *reterr, int code, const char *path, const char *why)
{
    snprintf(reterr, IO_ERR, "%.250s: %.200s", path, why);
    return code;
}

static int hold(struct io_hdf5_file *f, char *reterr)
{
    if (f->fd >= 0)
        return 0;
    f->settled = false;
    f->fd = open(f->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (f->fd < 0)
        return fail(reterr, -errno, f->path, strerror(errno));
    if (fstat(f->fd, &f->seen) == 0 && S_ISREG(f->seen.st_mode))
        return 0;
    close(f->fd);
    f->fd = -1;
    return fail(reterr, -EBADMSG, f->path, "not a regular file");
}

/* May it be opened in view of its flags? */
static int judge(const struct io_hdf5_file *f, int flags, bool follow, char *reterr)
{
    if (flags == -ENODATA)
        return fail(reterr, follow ? -EAGAIN : -EBADMSG, f->path, "the file is empty");
    if (flags < 0)
        return fail(reterr, flags, f->path, flags == -EBADMSG ? "not an HDF5 file" : strerror(-flags));
    if (!(flags & WRITING) || (follow && (flags & SWMR_WRITING)))
        return 0;
    if (flags & SWMR_WRITING)
        snprintf(reterr, IO_ERR,
                 "%.150s: a SWMR writer has it open (follow: true reads along); if that writer died, "
                 "h5clear -s \"%.150s\" clears its mark (try a copy: what is behind its last H5Fflush may go)",
                 f->path, f->path);
    else if (is_locked(f->fd))
        return fail(reterr, -EAGAIN, f->path, "another program has it open for writing, not in SWMR mode");
    else
        snprintf(reterr, IO_ERR,
                 "%.150s: marked as open for writing, but no program holds it: its writer died; "
                 "h5clear -s \"%.150s\" clears the mark (try a copy: what is behind its last H5Fflush may go)",
                 f->path, f->path);
    return -ESTALE;
}

/* Of a live file's metadata, while their checksum is wrong. libhdf5 sleeps 1 ns after the first and twice as long after
 * each; its own 100 would hold its thread for good where not a writer in between but damage is the cause. */
enum { READS = 26 };

/* libhdf5 opens by name; what it opened must be the file that is held. */
static int open_held(struct io_hdf5_file *f, bool swmr, char *reterr)
{
    char held[32];
    struct stat now;
    bool by_name = stat(f->path, &now) == 0 && same_file(&now, &f->seen);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);

    snprintf(held, sizeof held, "/proc/self/fd/%d", f->fd);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    if (swmr) {
        H5Pset_file_locking(access, false, true);
        H5Pset_metadata_read_attempts(access, READS);
    }
    hid_t id = H5Fopen(by_name ? f->path : held, H5F_ACC_RDONLY | (swmr ? H5F_ACC_SWMR_READ : 0), access);
    int r = id < 0 ? io_hdf5_fail(reterr, f->path) : 0;
    H5Pclose(access);
    if (r)
        return r == -EAGAIN ? fail(reterr, r, f->path, "another program has it open for writing, not in SWMR mode") : r;
    void *fd = NULL;
    bool same =
        H5Fget_vfd_handle(id, H5P_DEFAULT, &fd) >= 0 && fstat(*(int *)fd, &now) == 0 && same_file(&now, &f->seen);
    if (!same) {
        H5Fclose(id);
        return fail(reterr, -EAGAIN, f->path, "replaced while it was opened");
    }
    f->id = id;
    f->swmr = swmr;
    return 0;
}

int io_hdf5_file_open(struct io_hdf5_file *f, bool follow, char *reterr)
{
    int r = hold(f, reterr);
    if (r)
        return r;
    int flags = read_flags(f->fd);
    r = judge(f, flags, follow, reterr);
    return r ? r : open_held(f, (flags & SWMR_WRITING) != 0, reterr);
}

void io_hdf5_file_release(struct io_hdf5_file *f)
{
    if (f->id)
        H5Fclose(f->id);
    f->id = 0;
    f->swmr = false;
}

void io_hdf5_file_close(struct io_hdf5_file *f)
{
    io_hdf5_file_release(f);
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

/* Writes closer together than the clock behind mtime ticks leave the same mtime. */
static bool is_settled(const struct stat *st)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec - st->st_mtim.tv_sec) * 1000000000 + now.tv_nsec - st->st_mtim.tv_nsec > MTIME_GRAIN_NS;
}

unsigned io_hdf5_file_look(struct io_hdf5_file *f)
{
    struct stat named, before = f->seen;
    bool was_settled = f->settled;
    unsigned found = 0;

    if (stat(f->path, &named))
        found |= IO_HDF5_GONE;
    else if (!same_file(&named, &before))
        found |= IO_HDF5_REPLACED;
    fstat(f->fd, &f->seen);
    f->settled = is_settled(&f->seen);
    if (!was_settled || f->seen.st_size != before.st_size || f->seen.st_mtim.tv_sec != before.st_mtim.tv_sec ||
        f->seen.st_mtim.tv_nsec != before.st_mtim.tv_nsec)
        found |= IO_HDF5_CHANGED;
    return found;
}

bool io_hdf5_file_live(const struct io_hdf5_file *f)
{
    int flags = read_flags(f->fd);
    return flags > 0 && (flags & SWMR_WRITING);
}
