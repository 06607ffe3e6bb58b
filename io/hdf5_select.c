/* hdf5_select.c: from names and globs to the datasets of a file. Runs on the thread that calls libhdf5; the list
 * belongs to the caller.
 *
 * Trap: a visit follows hard links only, and every object once, so a dataset behind a soft or external link is found
 * by its name but not by a glob. */
#include "io/hdf5_select.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"

enum { DATASETS_MAX = 1 << 16 };

struct visit {
    const struct io_strings *wanted;
    const char *time;
    struct io_hdf5_names *names;
    int error;
};

static bool is_glob(const char *s)
{
    return s[strcspn(s, "*?[")] != '\0';
}

/* A leading '/' may be left out. */
static const char *relative(const char *path)
{
    return path + (path[0] == '/');
}

static int append(struct io_hdf5_names *names, const char *path, bool named)
{
    if (names->n == DATASETS_MAX)
        return -E2BIG;
    if ((names->n & (names->n - 1)) == 0) { /* grow at powers of two */
        struct io_hdf5_name *v = realloc(names->v, (names->n ? 2 * (size_t)names->n : 1) * sizeof *v);
        if (!v)
            return -ENOMEM;
        names->v = v;
    }
    struct io_hdf5_name *name = &names->v[names->n];
    if (asprintf(&name->path, "/%s", relative(path)) < 0)
        return -ENOMEM;
    name->named = named;
    names->n++;
    return 0;
}

/* Absolute, or by its last component in whatever group. */
static bool is_time(const char *path, const char *time)
{
    const char *slash = strrchr(path, '/');

    if (!time)
        return false;
    return time[0] == '/' ? strcmp(path, time + 1) == 0 : strcmp(slash ? slash + 1 : path, time) == 0;
}

static bool is_wanted(const char *path, const struct io_strings *wanted)
{
    for (unsigned i = 0; i < wanted->n; i++)
        if (is_glob(wanted->v[i]) && fnmatch(relative(wanted->v[i]), path, FNM_PATHNAME) == 0)
            return true;
    return wanted->n == 0;
}

static herr_t visit_object(hid_t file, const char *path, const H5O_info_t *info, void *arg)
{
    struct visit *v = arg;

    if (info->type == H5O_TYPE_DATASET && is_wanted(path, v->wanted) && !is_time(path, v->time))
        v->error = append(v->names, path, false);
    return v->error ? -1 : 0;
}

static int by_path(const void *a, const void *b)
{
    const struct io_hdf5_name *x = a, *y = b;
    int order = strcmp(x->path, y->path);

    return order ? order : y->named - x->named;
}

/* Sorted, each path once; one that is named stays named. */
static void sort_once(struct io_hdf5_names *names)
{
    unsigned kept = 0;

    if (names->n > 1)
        qsort(names->v, names->n, sizeof *names->v, by_path);
    for (unsigned i = 0; i < names->n; i++) {
        if (kept && strcmp(names->v[kept - 1].path, names->v[i].path) == 0)
            free(names->v[i].path);
        else
            names->v[kept++] = names->v[i];
    }
    names->n = kept;
}

int io_hdf5_select(hid_t file, const struct io_strings *wanted, const char *time, struct io_hdf5_names *ret,
                   char *reterr)
{
    struct io_hdf5_names names = {0};
    struct visit v = {.wanted = wanted, .time = time, .names = &names};
    bool globs = wanted->n == 0;
    int r = 0;

    for (unsigned i = 0; i < wanted->n && r == 0; i++) {
        if (is_glob(wanted->v[i]))
            globs = true;
        else
            r = append(&names, wanted->v[i], true);
    }
    if (r == 0 && globs && H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_INC, visit_object, &v, H5O_INFO_BASIC) < 0) {
        r = io_hdf5_fail(reterr, "its list of datasets");
        r = v.error ? v.error : r;
    }
    if (r) {
        if (r == -ENOMEM || r == -E2BIG)
            snprintf(reterr, IO_ERR, r == -E2BIG ? "more than %d datasets match" : "out of memory", DATASETS_MAX);
        io_hdf5_names_free(&names);
        return r;
    }
    sort_once(&names);
    *ret = names;
    return 0;
}

void io_hdf5_names_free(struct io_hdf5_names *names)
{
    for (unsigned i = 0; i < names->n; i++)
        free(names->v[i].path);
    free(names->v);
    *names = (struct io_hdf5_names){0};
}
