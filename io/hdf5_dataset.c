/* hdf5_dataset.c: one numeric dataset (and its times) opened, watched and read by rows. Runs on the thread that calls
 * libhdf5. The ids belong to the struct.
 *
 * Trap: libhdf5's chunk cache holds 1 MiB a dataset. A larger chunk would be decompressed again for every block read
 * from it, so the cache is made to hold one chunk of rows over all columns. */
#include "io/hdf5_dataset.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/hdf5_error.h"
#include "io/hdf5_type.h"

enum { RANK_MAX = 2, CACHE_DEFAULT = 1 << 20, CACHE_MAX = 64 << 20 };

static int refuse(char *reterr, int code, const char *name, const char *why)
{
    snprintf(reterr, IO_ERR, "%.250s: %.200s", name, why);
    return code;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* Every filter of its pipeline has to be there for reading. */
static int check_filters(hid_t set, const char *name, char *reterr)
{
    hid_t plist = H5Dget_create_plist(set);
    int n = H5Pget_nfilters(plist), r = 0;

    for (int i = 0; i < n && r == 0; i++) {
        char filter[64] = "";
        unsigned flags = 0, config = 0;
        size_t n_values = 0;
        H5Z_filter_t id = H5Pget_filter2(plist, (unsigned)i, &flags, &n_values, NULL, sizeof filter, filter, NULL);
        if (H5Zfilter_avail(id) > 0 && H5Zget_filter_info(id, &config) >= 0 &&
            (config & H5Z_FILTER_CONFIG_DECODE_ENABLED))
            continue;
        snprintf(reterr, IO_ERR, "%.250s: it is compressed with filter %d%s%.64s%s, which this libhdf5 does not have",
                 name, (int)id, filter[0] ? " (" : "", filter, filter[0] ? ")" : "");
        r = -EBADMSG;
    }
    H5Pclose(plist);
    H5Eclear2(H5E_DEFAULT);
    return r;
}

/* Bytes of one chunk of rows over all columns; 0: not chunked. */
static size_t band_bytes(hid_t set, const hsize_t dims[RANK_MAX], int rank)
{
    hid_t plist = H5Dget_create_plist(set), type = H5Dget_type(set);
    hsize_t chunk[RANK_MAX] = {1, 1};
    size_t bytes = 0;

    if (H5Pget_layout(plist) == H5D_CHUNKED && H5Pget_chunk(plist, rank, chunk) == rank) {
        hsize_t columns = rank == 2 ? (dims[1] + chunk[1] - 1) / chunk[1] * chunk[1] : 1;
        double all = (double)chunk[0] * (double)columns * (double)H5Tget_size(type);
        bytes = all > CACHE_MAX ? CACHE_MAX : (size_t)all;
    }
    H5Tclose(type);
    H5Pclose(plist);
    return bytes;
}

/* Rank and extents; −EDOM for what is not [n] or [n, channels], −EBADMSG for more rows than the file says it can have.
 */
static int get_extent(hid_t set, const char *name, int *ret_rank, hsize_t dims[RANK_MAX], char *reterr)
{
    hid_t space = H5Dget_space(set);
    int rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    hsize_t most[RANK_MAX] = {0};
    int r = 0;

    if (rank < 0)
        r = io_hdf5_fail(reterr, name);
    else if (rank < 1 || rank > RANK_MAX || H5Sget_simple_extent_type(space) != H5S_SIMPLE)
        r = refuse(reterr, -EDOM, name, rank > RANK_MAX ? "it has more than two dimensions" : "it has no dimension");
    else if (H5Sget_simple_extent_dims(space, dims, most) < 0 || dims[0] > most[0]) /* H5S_UNLIMITED is the greatest */
        r = refuse(reterr, -EBADMSG, name, "its extent is damaged");
    if (space >= 0)
        H5Sclose(space);
    *ret_rank = rank;
    return r;
}

/* Opens a dataset of one or two dimensions with a chunk cache that suits it. */
static int open_set(hid_t file, const char *name, hid_t *ret, int *ret_rank, hsize_t dims[RANK_MAX], char *reterr)
{
    H5O_info_t info;

    if (H5Oget_info_by_name2(file, name, &info, H5O_INFO_BASIC, H5P_DEFAULT) < 0) {
        io_hdf5_fail(reterr, name);
        return -ENOENT;
    }
    if (info.type != H5O_TYPE_DATASET)
        return refuse(reterr, -ENOENT, name, "it is not a dataset");
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0)
        return io_hdf5_fail(reterr, name);
    int r = get_extent(set, name, ret_rank, dims, reterr);
    size_t band = r ? 0 : band_bytes(set, dims, *ret_rank);
    if (band > CACHE_DEFAULT) {
        hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
        H5Pset_chunk_cache(access, 521, band, 1.0);
        H5Dclose(set);
        set = H5Dopen2(file, name, access);
        r = set < 0 ? io_hdf5_fail(reterr, name) : 0;
        H5Pclose(access);
        if (r)
            return r;
    }
    if (r)
        H5Dclose(set);
    else
        *ret = set;
    return r;
}

static void take_rate(struct io_hdf5_dataset *d)
{
    double rate = 0;
    hid_t attr = H5Aexists(d->set, "rate") > 0 ? H5Aopen(d->set, "rate", H5P_DEFAULT) : -1;

    if (attr >= 0) {
        hid_t space = H5Aget_space(attr);
        if (H5Sget_simple_extent_npoints(space) == 1 && H5Aread(attr, H5T_NATIVE_DOUBLE, &rate) >= 0 && rate > 0 &&
            isfinite(rate))
            d->rate = rate;
        H5Sclose(space);
        H5Aclose(attr);
    }
    H5Eclear2(H5E_DEFAULT);
}

/* The path of a dataset in the same group. */
static void sibling(char *out, size_t cap, const char *name, const char *other)
{
    const char *slash = strrchr(name, '/');
    int group = slash ? (int)(slash - name) + 1 : 0;

    snprintf(out, cap, "%.*s%s", other[0] == '/' ? 0 : group, name, other);
}

static int open_times(hid_t file, const char *name, const char *time, hid_t row_type, struct io_hdf5_dataset *d,
                      char *reterr)
{
    char path[1024], why[IO_ERR];
    bool field = time[0] != '/' && io_hdf5_type_has_field(row_type, time);
    hsize_t dims[RANK_MAX] = {0, 1};
    int rank, r;

    sibling(path, sizeof path, name, time);
    r = field ? 0 : open_set(file, path, &d->times, &rank, dims, why);
    if (field) {
        d->times = d->set;
    } else if (r || (rank == 2 && dims[1] != 1)) {
        d->times = r ? 0 : d->times;
        snprintf(reterr, IO_ERR, "%.200s: time: %.250s", name, r ? why : "it has more than one column");
        return -EBADMSG;
    } else if (check_filters(d->times, path, reterr)) {
        return -EBADMSG;
    }
    hid_t type = H5Dget_type(d->times);
    r = io_hdf5_type_time(type, field ? time : NULL, &d->time_type, &d->time_real, why);
    H5Tclose(type);
    if (r)
        snprintf(reterr, IO_ERR, "%.200s: time %.200s: %.100s", name, time, why);
    return r ? -EBADMSG : 0;
}

static int open_samples(const char *name, const char *time, const struct io_strings *fields, int rank,
                        const hsize_t dims[RANK_MAX], hid_t file_type, struct io_hdf5_dataset *d, char *reterr)
{
    struct io_hdf5_row row;
    char why[IO_ERR];
    int r = io_hdf5_type_row(file_type, fields, time, &row, why);

    if (r)
        return refuse(reterr, r, name, why);
    d->row_type = row.type;
    d->type = row.sample;
    d->flat = rank == 2;
    if (rank == 2 && H5Tget_class(file_type) == H5T_COMPOUND)
        return refuse(reterr, -EDOM, name, "a table of two dimensions");
    if (rank == 2 && dims[1] == 0)
        return refuse(reterr, -EDOM, name, "it has no columns");
    uint64_t channels = rank == 2 ? dims[1] : row.channels;
    if (channels > (IO_BLOCK_MAX - 16) / io_sample_bytes(d->type)) /* a row and its time fit a block */
        return refuse(reterr, -EDOM, name, "its rows are too wide");
    d->channels = (uint32_t)channels;
    return check_filters(d->set, name, reterr);
}

int io_hdf5_dataset_open(hid_t file, const char *name, const char *time, const struct io_strings *fields,
                         struct io_hdf5_dataset *ret, char *reterr)
{
    struct io_hdf5_dataset d = {0};
    hsize_t dims[RANK_MAX] = {0, 1};
    int rank, r;

    *ret = d;
    r = open_set(file, name, &d.set, &rank, dims, reterr);
    if (r)
        return r;
    hid_t type = H5Dget_type(d.set);
    r = open_samples(name, time, fields, rank, dims, type, &d, reterr);
    if (r == 0 && time)
        r = open_times(file, name, time, type, &d, reterr);
    H5Tclose(type);
    if (r == 0)
        r = io_hdf5_dataset_refresh(&d, false, reterr);
    if (r) {
        io_hdf5_dataset_close(&d);
        return r;
    }
    take_rate(&d);
    *ret = d;
    return 0;
}

void io_hdf5_dataset_close(struct io_hdf5_dataset *d)
{
    if (d->times && d->times != d->set)
        H5Dclose(d->times);
    if (d->set)
        H5Dclose(d->set);
    if (d->row_type)
        H5Tclose(d->row_type);
    if (d->time_type)
        H5Tclose(d->time_type);
    *d = (struct io_hdf5_dataset){0};
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

int io_hdf5_dataset_refresh(struct io_hdf5_dataset *d, bool swmr, char *reterr)
{
    bool apart = d->times && d->times != d->set;
    hsize_t dims[RANK_MAX] = {0, 1};
    int rank, r;

    if (swmr && (H5Drefresh(d->set) < 0 || (apart && H5Drefresh(d->times) < 0)))
        return io_hdf5_fail(reterr, "refresh");
    r = get_extent(d->set, "extent", &rank, dims, reterr);
    if (r)
        return r;
    if (d->flat && dims[1] != d->channels)
        return refuse(reterr, -EBADMSG, "extent", "its number of columns has changed");
    d->rows = dims[0];
    r = apart ? get_extent(d->times, "extent of the times", &rank, dims, reterr) : 0;
    d->time_rows = dims[0];
    return r;
}

static int read_rows(hid_t set, hid_t type, uint64_t first, size_t n, uint32_t columns, void *ret, char *reterr)
{
    hsize_t start[RANK_MAX] = {first, 0}, count[RANK_MAX] = {n, columns}, all = (hsize_t)n * columns;
    hid_t space = H5Dget_space(set), memory = H5Screate_simple(1, &all, NULL);
    bool ok = space >= 0 && memory >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
              H5Dread(set, type, memory, space, H5P_DEFAULT, ret) >= 0;
    int r = ok ? 0 : io_hdf5_fail(reterr, "read");

    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    return r;
}

int io_hdf5_dataset_read(const struct io_hdf5_dataset *d, uint64_t first, size_t n, void *ret, char *reterr)
{
    return read_rows(d->set, d->row_type, first, n, d->flat ? d->channels : 1, ret, reterr);
}

/* Seconds → ns, the whole seconds apart so that no digit of them is lost. */
static int64_t from_seconds(double s)
{
    if (!(fabs(s) < 9.2e9)) /* ns in an int64; NaN too */
        return IO_T_NONE;
    double whole = floor(s);
    return (int64_t)whole * 1000000000 + llround((s - whole) * 1e9);
}

int io_hdf5_dataset_times(const struct io_hdf5_dataset *d, uint64_t first, size_t n, int64_t *ret, char *reterr)
{
    int r = read_rows(d->times, d->time_type, first, n, 1, ret, reterr);

    for (size_t i = 0; r == 0 && d->time_real && i < n; i++) {
        double s;
        memcpy(&s, &ret[i], sizeof s);
        ret[i] = from_seconds(s);
    }
    return r;
}
