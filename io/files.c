/* files.c: glob expansion, reads that never block. Any thread; no state.
 *
 * Trap: glob(3) sorts by the locale; ids and orders here must not, so the list is sorted again. */
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- expansion -------------------------------------------------------------------------------------------- */

static size_t fixed_part(const char *pattern, bool literal)
{
    size_t end = literal ? strlen(pattern) : strcspn(pattern, "*?[");
    while (end > 0 && pattern[end - 1] != '/')
        end--;
    return end;
}

static char *stem_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    return dot && dot != name ? strndup(name, (size_t)(dot - name)) : strdup(name);
}

static int append(struct io_files *files, const char *path, size_t fixed)
{
    if ((files->n & (files->n - 1)) == 0) { /* grow at powers of two */
        struct io_file *v = realloc(files->v, (files->n ? 2 * (size_t)files->n : 1) * sizeof *v);
        if (!v)
            return -ENOMEM;
        files->v = v;
    }
    struct io_file *f = &files->v[files->n];
    f->path = strdup(path);
    f->rel = strdup(path + fixed);
    f->stem = stem_of(path);
    f->found = files->n;
    files->n++; /* so that io_files_free sees a half-made one */
    return f->path && f->rel && f->stem ? 0 : -ENOMEM;
}

/* Appends what the glob matches but directories; returns how many. */
static int append_glob(struct io_files *files, const char *pattern)
{
    glob_t found;
    unsigned before = files->n;
    int r = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (r == GLOB_NOMATCH)
        return 0;
    if (r)
        return r == GLOB_NOSPACE ? -ENOMEM : -EIO;
    for (size_t i = 0; i < found.gl_pathc && r == 0; i++) {
        struct stat st;
        if (stat(found.gl_pathv[i], &st) == 0 && !S_ISDIR(st.st_mode))
            r = append(files, found.gl_pathv[i], fixed_part(pattern, false));
    }
    globfree(&found);
    return r ? r : (int)(files->n - before);
}

static int expand_one(struct io_files *files, const char *pattern, bool may_be_empty, char *reterr)
{
    struct stat st;
    bool exists = strcmp(pattern, "-") == 0;
    if (!exists && stat(pattern, &st) == 0) {
        if (S_ISDIR(st.st_mode)) {
            snprintf(reterr, IO_ERR, "%s is a directory; name its files, for instance %s%s*", pattern, pattern,
                     pattern[strlen(pattern) - 1] == '/' ? "" : "/");
            return -EISDIR;
        }
        exists = true;
    } else if (!exists && errno == EACCES) {
        snprintf(reterr, IO_ERR, "%s: %s", pattern, strerror(EACCES));
        return -EACCES;
    }
    int r = exists ? append(files, pattern, fixed_part(pattern, true)) : append_glob(files, pattern);
    if (r < 0)
        snprintf(reterr, IO_ERR, "%s: %s", pattern, strerror(-r));
    if (r != 0 || exists)
        return r < 0 ? r : 0;
    bool wild = pattern[strcspn(pattern, "*?[")] != '\0';
    if (wild && may_be_empty)
        return 0;
    snprintf(reterr, IO_ERR, wild ? "%s: no file matches" : "%s: no such file", pattern);
    return -ENOENT;
}

static int by_path(const void *a, const void *b)
{
    const struct io_file *x = a, *y = b;
    int c = strcmp(x->path, y->path);
    return c ? c : (x->found > y->found) - (x->found < y->found);
}

static void free_one(struct io_file *f)
{
    free(f->path);
    free(f->rel);
    free(f->stem);
}

/* A path that two patterns match keeps the name that the first of them gave it. */
static void sort_once(struct io_files *files)
{
    if (files->n == 0)
        return;
    qsort(files->v, files->n, sizeof *files->v, by_path);
    unsigned kept = 1;
    for (unsigned i = 1; i < files->n; i++) {
        if (strcmp(files->v[kept - 1].path, files->v[i].path) == 0)
            free_one(&files->v[i]);
        else
            files->v[kept++] = files->v[i];
    }
    files->n = kept;
}

int io_files_expand(const struct io_strings *patterns, bool may_be_empty, struct io_files *ret, char *reterr)
{
    struct io_files files = {0};
    int r = 0;
    for (unsigned i = 0; i < patterns->n && r == 0; i++)
        r = expand_one(&files, patterns->v[i], may_be_empty, reterr);
    if (r) {
        io_files_free(&files);
        return r;
    }
    sort_once(&files);
    *ret = files;
    return 0;
}

void io_files_free(struct io_files *files)
{
    for (unsigned i = 0; i < files->n; i++)
        free_one(&files->v[i]);
    free(files->v);
    *files = (struct io_files){0};
}

/* ---- bytes ------------------------------------------------------------------------------------------------ */

int io_file_open(const char *path)
{
    int fd = strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                                    : open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Standard input may be shared with others, so it is not made non-blocking; poll() tells whether read() would wait.
 * On a FIFO that no writer has opened yet read() says "end", poll() says "nothing". */
ssize_t io_file_read(int fd, void *buf, size_t n)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready = poll(&p, 1, 0);
    if (ready == 0)
        return -EAGAIN;
    ssize_t got = ready < 0 ? -1 : read(fd, buf, n);
    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? -EAGAIN : -errno;
    return got;
}
