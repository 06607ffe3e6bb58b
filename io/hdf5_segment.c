/* hdf5_segment.c: one output file from its making to its end. Runs on the thread that calls libhdf5; owns the file and
 * the tables in it.
 *
 * Trap: once SWMR mode has begun nothing can be added but rows, so every table and attribute is made before. And a
 * crash leaves readable only what lies below the end that the superblock knows, which H5Fflush brings up to date but
 * H5Dflush does not. */
#include "io/hdf5_segment.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/hdf5_error.h"
#include "io/hdf5_rows.h"

enum { OTHERS = 5 }; /* tables beside those of the families */
_Static_assert(OTHERS + IO_FAMILIES <= IO_POSITION_COUNTS, "a position has a count for every table");

/* ---- name ------------------------------------------------------------------------------------------------- */

/* The number of a segment `name` of `stem`; 0: it is none. */
static unsigned long segment_number(const char *name, const char *stem)
{
    size_t n = strlen(stem);
    char *end;

    if (strncmp(name, stem, n) != 0 || name[n] != '-' || name[n + 1] < '0' || name[n + 1] > '9')
        return 0;
    unsigned long number = strtoul(name + n + 1, &end, 10);
    return strcmp(end, ".h5") == 0 ? number : 0;
}

/* The highest number there. */
static int last_segment(const char *base, unsigned long *ret, char *reterr)
{
    const char *slash = strrchr(base, '/'), *stem = slash ? slash + 1 : base;
    char path[PATH_MAX];

    *ret = 0;
    snprintf(path, PATH_MAX, "%.*s", slash ? (int)(slash - base) + 1 : 1, slash ? base : ".");
    DIR *dir = opendir(path);
    if (!dir) {
        int err = errno;
        snprintf(reterr, IO_ERR, "%.300s: %s", path, strerror(err));
        return -err;
    }
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        unsigned long number = segment_number(e->d_name, stem);
        *ret = number > *ret ? number : *ret;
    }
    closedir(dir);
    return 0;
}

static int segment_path(const char *base, unsigned long number, char path[PATH_MAX])
{
    return snprintf(path, PATH_MAX, "%s-%06lu.h5", base, number);
}

static int name_segment(const char *base, char path[PATH_MAX], char *reterr)
{
    size_t len = strlen(base);
    unsigned long last;
    int n;

    if (len > 3 && strcmp(base + len - 3, ".h5") == 0) {
        n = snprintf(path, PATH_MAX, "%s", base);
    } else {
        n = last_segment(base, &last, reterr);
        if (n)
            return n;
        n = segment_path(base, last + 1, path);
    }
    if (n < PATH_MAX)
        return 0;
    snprintf(reterr, IO_ERR, "%.300s…: the name is too long", base);
    return -ENAMETOOLONG;
}

/* ---- making ----------------------------------------------------------------------------------------------- */

static void put_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);

    if (a >= 0) {
        H5Awrite(a, type, value);
        H5Aclose(a);
    }
    H5Sclose(space);
}

static void put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = io_hdf5_rows_text(H5T_VARIABLE); /* h5py makes a str of these, and bytes of others */

    put_attribute(object, name, type, &text);
    H5Tclose(type);
}

static void describe(struct io_hdf5_segment *s, const struct io_sink_env *env)
{
    const int64_t unknown = IO_T_NONE;

    put_text(s->file, "format", "mambad output");
    put_text(s->file, "version", MAMBAD_VERSION);
    put_attribute(s->file, "run", H5T_NATIVE_UINT64, &env->run);
    put_attribute(s->file, "t_ns_unknown", H5T_NATIVE_INT64, &unknown);
    put_text(s->tables[IO_PREDICTION].set, "values",
             "prediction_values: [row][horizon][quantile], NaN beyond the row's counts");
    put_text(s->tables[IO_PREDICTION].set, "levels", "quantiles: [levels][quantile]");
    put_text(s->tables[IO_EMBEDDING].set, "values", "embedding_values: [row][dimension], NaN beyond the model's");
}

static int make_tables(struct io_hdf5_segment *s, const struct io_sink_env *env, char *reterr)
{
    hsize_t horizon = env->horizon_max ? env->horizon_max : 1, quantiles = env->quantiles_max ? env->quantiles_max : 1;
    hsize_t dim = env->embedding_max ? env->embedding_max : 1;
    int r = io_hdf5_table_make(&s->streams, s->file, "streams", io_hdf5_rows_text(IO_ID_MAX), 0, 0, reterr);

    if (r == 0)
        r = io_hdf5_table_make(&s->stream_info, s->file, "stream_info", io_hdf5_rows_stream_info(), 0, 0, reterr);
    if (r == 0)
        r = io_hdf5_table_make(&s->quantiles, s->file, "quantiles", H5Tcopy(H5T_NATIVE_FLOAT), quantiles, 0, reterr);
    if (r == 0)
        r = io_hdf5_table_make(&s->predictions, s->file, "prediction_values", H5Tcopy(H5T_NATIVE_FLOAT), horizon,
                               quantiles, reterr);
    if (r == 0)
        r = io_hdf5_table_make(&s->embeddings, s->file, "embedding_values", H5Tcopy(H5T_NATIVE_FLOAT), dim, 0, reterr);
    for (int f = 0; f < IO_FAMILIES && r == 0; f++)
        r = io_hdf5_table_make(&s->tables[f], s->file, io_family_name((enum io_family)f),
                               io_hdf5_rows_type((enum io_family)f), 0, 0, reterr);
    return r;
}

int io_hdf5_segment_make(struct io_hdf5_segment *s, const char *base, const struct io_sink_env *env, char *reterr)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    int r;

    memset(s, 0, sizeof *s);
    r = name_segment(base, s->path, reterr);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110); /* what SWMR needs, and no newer */
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    if (r == 0) {
        hid_t file = H5Fcreate(s->path, H5F_ACC_EXCL, H5P_DEFAULT, access);
        r = file < 0 ? io_hdf5_fail(reterr, s->path) : 0;
        s->file = r ? 0 : file;
    }
    H5Pclose(access);
    if (r == 0)
        r = make_tables(s, env, reterr);
    if (r == 0) {
        describe(s, env);
        r = H5Fstart_swmr_write(s->file) < 0 ? io_hdf5_fail(reterr, s->path) : 0;
    }
    if (r) {
        char ignored[IO_ERR];
        io_hdf5_segment_close(s, ignored);
    }
    return r;
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

int io_hdf5_segment_write(struct io_hdf5_segment *s, bool sync, char *reterr)
{
    struct io_hdf5_table *referred[] = {&s->streams, &s->stream_info, &s->quantiles, &s->predictions, &s->embeddings};
    char why[IO_ERR];
    int r = 0;

    for (size_t i = 0; i < sizeof referred / sizeof *referred && r == 0; i++)
        r = io_hdf5_table_write(referred[i], why);
    for (int f = 0; f < IO_FAMILIES && r == 0; f++)
        r = io_hdf5_table_write(&s->tables[f], why);
    if (r == 0 && sync && H5Fflush(s->file, H5F_SCOPE_LOCAL) < 0)
        r = io_hdf5_fail(why, "flush");
    if (r)
        snprintf(reterr, IO_ERR, "%.250s: %.250s", s->path, why);
    return r;
}

bool io_hdf5_segment_deleted(const struct io_hdf5_segment *s)
{
    struct stat st;
    void *fd = NULL;

    return H5Fget_vfd_handle(s->file, H5P_DEFAULT, &fd) >= 0 && fstat(*(int *)fd, &st) == 0 && st.st_nlink == 0;
}

/* In the order of a position's counts. */
static struct io_hdf5_table *table_at(struct io_hdf5_segment *s, unsigned i)
{
    struct io_hdf5_table *first[] = {&s->streams, &s->stream_info, &s->quantiles, &s->predictions, &s->embeddings};

    return i < OTHERS ? first[i] : &s->tables[i - OTHERS];
}

static const char *table_name(unsigned i)
{
    static const char *const first[] = {"streams", "stream_info", "quantiles", "prediction_values", "embedding_values"};

    return i < OTHERS ? first[i] : io_family_name((enum io_family)(i - OTHERS));
}

int io_hdf5_segment_mark(struct io_hdf5_segment *s, struct io_position *ret, char *reterr)
{
    void *fd = NULL;
    int r = io_hdf5_segment_write(s, true, reterr);

    if (r == 0 && H5Fget_vfd_handle(s->file, H5P_DEFAULT, &fd) >= 0 && fdatasync(*(int *)fd)) {
        snprintf(reterr, IO_ERR, "%.300s: %s", s->path, strerror(errno));
        return -errno;
    }
    for (unsigned i = 0; i < OTHERS + IO_FAMILIES; i++)
        ret->counts[i] = table_at(s, i)->written;
    snprintf(ret->path, sizeof ret->path, "%s", s->path);
    return r;
}

static int cut_table(hid_t file, const char *path, const char *name, uint64_t rows, char *reterr)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = set < 0 ? -1 : H5Dget_space(set);
    hsize_t size[3] = {0};
    int r = space < 0 || H5Sget_simple_extent_dims(space, size, NULL) < 0 ? io_hdf5_fail(reterr, path) : 0;

    if (r == 0 && size[0] > rows) {
        size[0] = rows;
        r = H5Dset_extent(set, size) < 0 ? io_hdf5_fail(reterr, path) : 0;
    }
    if (space >= 0)
        H5Sclose(space);
    if (set >= 0)
        H5Dclose(set);
    return r;
}

/* A writer that was killed has left its mark in the superblock, which keeps others out; it is gone, so that goes too.
 * And where it was killed while it flushed, what it had written last lies beyond the end that the superblock knows,
 * which a flush writes after all else: the file's own end is put there, as h5clear --increment does. */
static hid_t open_left(const char *path, char *reterr)
{
    const hbool_t yes = 1;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);

    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset(access, "clear_status_flags", &yes);
    H5Pset(access, "skip_eof_check", &yes);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, access);
    if (file < 0 || H5Fincrement_filesize(file, 0) < 0) {
        io_hdf5_fail(reterr, path);
        if (file >= 0)
            H5Fclose(file);
        file = -1;
    }
    H5Pclose(access);
    return file;
}

static int cut_file(const char *path, const uint64_t *counts, char *reterr)
{
    hid_t file = open_left(path, reterr);
    int r = file < 0 ? -EBADMSG : 0;

    for (unsigned i = 0; i < OTHERS + IO_FAMILIES && r == 0; i++)
        r = cut_table(file, path, table_name(i), counts[i], reterr);
    if (file >= 0 && H5Fclose(file) < 0 && r == 0)
        r = io_hdf5_fail(reterr, path);
    return r;
}

/* A segment made after the position. Its writer may have been killed while it made it: then it is no HDF5 file yet, and
 * is set aside, so that no reader takes it for one. */
static int empty_file(const char *path, char *reterr)
{
    const uint64_t none[IO_POSITION_COUNTS] = {0};
    char aside[PATH_MAX + 8], why[IO_ERR];

    if (cut_file(path, none, why) == 0)
        return 0;
    snprintf(aside, sizeof aside, "%s.torn", path);
    if (rename(path, aside) == 0)
        return 0;
    snprintf(reterr, IO_ERR, "%.400s", why);
    return -EIO;
}

int io_hdf5_segment_cut(const char *base, const struct io_position *position, char *reterr)
{
    const char *slash = strrchr(base, '/'), *stem = slash ? slash + 1 : base;
    const char *name = strrchr(position->path, '/') ? strrchr(position->path, '/') + 1 : position->path;
    unsigned long number = segment_number(name, stem), last;
    char path[PATH_MAX];
    int r = access(position->path, F_OK) == 0 ? cut_file(position->path, position->counts, reterr) : 0;

    if (r || !number)
        return r;
    r = last_segment(base, &last, reterr);
    for (number++; r == 0 && number <= last; number++)
        if (segment_path(base, number, path) < PATH_MAX && access(path, F_OK) == 0)
            r = empty_file(path, reterr);
    return r;
}

int io_hdf5_segment_close(struct io_hdf5_segment *s, char *reterr)
{
    struct io_hdf5_table *others[] = {&s->streams, &s->stream_info, &s->quantiles, &s->predictions, &s->embeddings};
    int r = 0;

    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        io_hdf5_table_close(others[i]);
    for (int f = 0; f < IO_FAMILIES; f++)
        io_hdf5_table_close(&s->tables[f]);
    if (s->file && H5Fclose(s->file) < 0)
        r = io_hdf5_fail(reterr, s->path);
    s->file = 0;
    return r;
}
