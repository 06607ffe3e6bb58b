/* test_hdf5_source.c: finite HDF5 input: every numeric type and layout, tables, times, ids, backpressure, and files
 * that are wrong. Files are made with libhdf5 in a folder of the test's own. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "io/hdf5_track.h"
#include "tests/io/place.h"
#include "tests/io/recorder.h"

extern const struct io_source_class io_source_hdf5;

enum { N = 129 };


/* ---- an input under test ---------------------------------------------------------------------------------- */

struct input {
    struct io_hdf5_conf conf;
    struct recorder rec;
    char *files[4], *datasets[4], *fields[4];
    void *source;
    char err[IO_ERR];
    ssize_t ids;
};

/* Of libhdf5, of every kind that it counts. */
static ssize_t open_ids(void)
{
    return H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL);
}

static void input_init(struct input *in, const char *file, const char *dataset)
{
    memset(in, 0, sizeof *in);
    in->ids = open_ids();
    recorder_init(&in->rec, "in", 0);
    in->files[0] = (char *)file;
    in->datasets[0] = (char *)dataset;
    in->conf = (struct io_hdf5_conf){
        .common = {.scale = 1, .interval_ns = -1},
        .poll_ns = 10000000,
        .files = {in->files, 1},
        .datasets = {in->datasets, dataset ? 1 : 0},
        .fields = {in->fields, 0},
    };
}

static int input_open(struct input *in)
{
    const char *key = NULL;

    assert_int_equal(io_source_hdf5.check(&in->conf, &key, in->err), 0);
    return io_source_hdf5.open(&in->conf, &in->rec.host, &in->source, in->err);
}

static void input_run(struct input *in)
{
    int r = input_open(in);

    if (r)
        fail_msg("open: %d %s", r, in->err);
    assert_true(recorder_run(&in->rec, &io_source_hdf5, in->source, INT64_MAX / 2));
}

static void input_done(struct input *in)
{
    if (in->source)
        io_source_hdf5.close(in->source);
    recorder_done(&in->rec);
    assert_int_equal(open_ids(), in->ids);
}

/* The only stream of a one-dataset input. */
static struct recorded *only(struct input *in)
{
    assert_int_equal(in->rec.n_streams, 1);
    return in->rec.streams[0];
}

/* ---- files ------------------------------------------------------------------------------------------------ */

static hid_t make(const char *name)
{
    hid_t f = H5Fcreate(at(name), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(f >= 0);
    return f;
}

/* columns 0: [n]. Values are doubles, converted by libhdf5. */
static void put(hid_t file, const char *name, hid_t type, hid_t plist, hsize_t n, hsize_t columns, const double *x)
{
    hsize_t dims[2] = {n, columns};
    hid_t space = H5Screate_simple(columns ? 2 : 1, dims, NULL);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);

    assert_true(set >= 0);
    if (x)
        assert_true(H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
    H5Dclose(set);
    H5Sclose(space);
}

static double *ramp(size_t n, double from, double step)
{
    double *x = malloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = from + step * (double)i;
    return x;
}

static hid_t chunked(hsize_t rows, hsize_t columns)
{
    hsize_t chunk[2] = {rows, columns};
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);

    H5Pset_chunk(p, columns ? 2 : 1, chunk);
    return p;
}

static void check_rows(const struct recorded *s, const double *x, size_t n, size_t channels)
{
    assert_int_equal(s->n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(s->seq[i], i);
        for (size_t c = 0; c < channels; c++)
            if (!(s->x[i * channels + c] == x[i * channels + c]))
                fail_msg("row %zu channel %zu: %.17g, not %.17g", i, c, s->x[i * channels + c], x[i * channels + c]);
    }
}

/* ---- values ----------------------------------------------------------------------------------------------- */

static hid_t half_float(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32BE);

    H5Tset_fields(t, 15, 10, 5, 0, 10);
    H5Tset_size(t, 2);
    H5Tset_ebias(t, 15);
    return t;
}

static void test_types(void **state)
{
    hid_t half = half_float();
    const struct {
        hid_t type;
        double from, step;
        enum io_sample want;
    } types[] = {
        {H5T_STD_I8LE, -100, 1, IO_F32},
        {H5T_STD_U8BE, 0, 1, IO_F32},
        {H5T_STD_I16BE, -32768, 3, IO_F32},
        {H5T_STD_U16LE, 65000, 2, IO_F32},
        {H5T_STD_I32BE, -2147483648.0, 7, IO_F64},
        {H5T_STD_U32LE, 4294960000.0, 5, IO_F64},
        {H5T_STD_I64BE, -9007199254740000.0, 11, IO_F64},
        {H5T_STD_U64LE, 9007199254740000.0, 3, IO_F64},
        {half, -8, 0.25, IO_F32},
        {H5T_IEEE_F32LE, -1.5, 0.125, IO_F32},
        {H5T_IEEE_F32BE, 1e6, 0.5, IO_F32},
        {H5T_IEEE_F64LE, 1e9, 1e-6, IO_F64},
        {H5T_IEEE_F64BE, -1e-9, 1e-12, IO_F64},
        {H5T_NATIVE_LDOUBLE, 0.1, 0.1, IO_F64},
    };

    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        double *x = ramp(N, types[k].from, types[k].step);
        hid_t f = make("types.h5");
        put(f, "/x", types[k].type, H5P_DEFAULT, N, 0, x);
        H5Fclose(f);
        struct input in;
        input_init(&in, at("types.h5"), "/x");
        input_run(&in);
        struct recorded *s = only(&in);
        assert_string_equal(s->id, "in:types.h5:/x");
        assert_int_equal(s->type, types[k].want);
        assert_true(s->ended);
        check_rows(s, x, N, 1);
        input_done(&in);
        free(x);
    }
    H5Tclose(half);
}

static hid_t layout(unsigned k, hsize_t columns)
{
    hid_t p = k > 1 ? chunked(k == 5 ? 8 : 7, columns ? 2 : 0) : H5Pcreate(H5P_DATASET_CREATE);

    if (k == 1)
        H5Pset_layout(p, H5D_COMPACT);
    if (k == 3)
        H5Pset_shuffle(p);
    if (k == 3 || k == 4)
        H5Pset_deflate(p, 6);
    if (k == 4)
        H5Pset_fletcher32(p);
    if (k == 5)
        H5Pset_szip(p, H5_SZIP_NN_OPTION_MASK, 4);
    return p;
}

static void test_layouts(void **state)
{
    for (unsigned k = 0; k < 6; k++) {
        for (hsize_t columns = 0; columns <= 3; columns += 3) {
            hsize_t width = columns ? columns : 1;
            double *x = ramp(N * width, 0, 0.5);
            hid_t f = make("layout.h5"), p = layout(k, columns);
            put(f, "/x", H5T_IEEE_F32LE, p, N, columns, x);
            H5Pclose(p);
            H5Fclose(f);
            struct input in;
            input_init(&in, at("layout.h5"), NULL);
            input_run(&in);
            assert_int_equal(only(&in)->channels, width);
            check_rows(only(&in), x, N, width);
            input_done(&in);
            free(x);
        }
    }
}

/* More rows than fit one block, chunks larger than libhdf5's own cache, scale and offset. */
static void test_blocks(void **state)
{
    const hsize_t n = 400000;
    double *x = ramp(n, 0, 1);
    hid_t f = make("big.h5"), p = chunked(390000, 0);
    struct input in;

    H5Pset_deflate(p, 1);
    put(f, "/x", H5T_STD_I32LE, p, n, 0, x);
    H5Pclose(p);
    H5Fclose(f);
    input_init(&in, at("big.h5"), "x");
    in.conf.common.scale = 0.5;
    in.conf.common.offset = -3;
    input_run(&in);
    for (hsize_t i = 0; i < n; i++)
        x[i] = x[i] * 0.5 - 3;
    check_rows(only(&in), x, n, 1);
    assert_true(only(&in)->blocks > 10);
    assert_int_equal(in.rec.messages, only(&in)->blocks);
    assert_int_equal(in.rec.bytes, n * 8);
    input_done(&in);
    free(x);
}

/* ---- tables ----------------------------------------------------------------------------------------------- */

struct row {
    int64_t t;
    char name[8];
    float a;
    int16_t b;
    double v[2];
};

static void make_table(const char *file)
{
    static struct row rows[N];
    hsize_t n = N, two = 2;
    hid_t f = make(file), space = H5Screate_simple(1, &n, NULL), name = H5Tcopy(H5T_C_S1);
    hid_t v = H5Tarray_create2(H5T_NATIVE_DOUBLE, 1, &two), memory = H5Tcreate(H5T_COMPOUND, sizeof(struct row));

    for (int i = 0; i < N; i++)
        rows[i] = (struct row){
            INT64_C(1700000000000000000) + i * INT64_C(1000003), "x", (float)i / 4, (int16_t)-i, {1e9 + i, -i}};
    H5Tset_size(name, 8);
    H5Tinsert(memory, "t", offsetof(struct row, t), H5T_NATIVE_INT64);
    H5Tinsert(memory, "name", offsetof(struct row, name), name);
    H5Tinsert(memory, "a", offsetof(struct row, a), H5T_NATIVE_FLOAT);
    H5Tinsert(memory, "b", offsetof(struct row, b), H5T_NATIVE_INT16);
    H5Tinsert(memory, "v", offsetof(struct row, v), v);
    hid_t packed = H5Tcopy(memory);
    H5Tpack(packed);
    hid_t set = H5Dcreate2(f, "table", packed, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows);
    H5Dclose(set);
    H5Tclose(packed);
    H5Tclose(memory);
    H5Tclose(v);
    H5Tclose(name);
    H5Sclose(space);
    H5Fclose(f);
}

static void test_table(void **state)
{
    struct input in;

    make_table("table.h5");
    input_init(&in, at("table.h5"), NULL);
    in.conf.time = "t";
    input_run(&in);
    struct recorded *s = only(&in);
    assert_int_equal(s->channels, 4); /* a, b, v[0], v[1] */
    assert_int_equal(s->type, IO_F64);
    assert_true(s->irregular);
    assert_int_equal(s->n, N);
    for (int i = 0; i < N; i++) {
        assert_true(s->x[4 * i] == i / 4.0 && s->x[4 * i + 1] == -i && s->x[4 * i + 2] == 1e9 + i &&
                    s->x[4 * i + 3] == -i);
        assert_int_equal(s->t_ns[i], INT64_C(1700000000000000000) + i * INT64_C(1000003));
    }
    input_done(&in);

    input_init(&in, at("table.h5"), "table"); /* chosen fields, in the order given */
    in.fields[0] = "b";
    in.fields[1] = "a";
    in.conf.fields.n = 2;
    input_run(&in);
    s = only(&in);
    assert_int_equal(s->channels, 2);
    assert_int_equal(s->type, IO_F32);
    assert_false(s->irregular);
    assert_true(s->x[2 * 5] == -5 && s->x[2 * 5 + 1] == 1.25f);
    input_done(&in);
}

/* ---- times and rates -------------------------------------------------------------------------------------- */

static void make_timed(const char *file, hsize_t n_times, hid_t type, const double *t)
{
    double *x = ramp(N, 0, 1);
    hid_t f = make(file), group = H5Gcreate2(f, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);

    put(f, "/g/x", H5T_IEEE_F32LE, H5P_DEFAULT, N, 0, x);
    put(f, "/g/t", type, H5P_DEFAULT, n_times, 0, t);
    H5Gclose(group);
    H5Fclose(f);
    free(x);
}

static void test_times_irregular(void **state)
{
    double *t = ramp(N, 1700000000.25, 0.5);
    struct input in;

    t[0] = t[1] = NAN; /* rows without a time are left out, and counted */
    t[100] = INFINITY;
    make_timed("seconds.h5", N, H5T_IEEE_F64BE, t);
    input_init(&in, at("seconds.h5"), "/g/x");
    in.conf.time = "/g/t";
    input_run(&in);
    struct recorded *s = only(&in);
    assert_true(s->irregular && s->rate == 0);
    assert_int_equal(s->n, N - 3);
    assert_int_equal(in.rec.discarded[IO_R_CLOCK], 3);
    for (size_t i = 0; i < s->n; i++) {
        size_t row = i + 2 + (i >= 98);
        assert_int_equal(s->seq[i], row);
        assert_true(s->x[i] == (double)row);
        assert_int_equal(s->t_ns[i], INT64_C(1700000000250000000) + (int64_t)row * 500000000);
    }
    input_done(&in);
    free(t);
}

static void test_times_regular(void **state)
{
    double *t = ramp(N, 1e9, 1e7);
    struct input in;

    make_timed("ns.h5", N - 9, H5T_STD_I64LE, t);
    input_init(&in, at("ns.h5"), NULL); /* all but the times */
    in.conf.time = "t";                 /* in the same group */
    in.conf.common.rate = 100;
    input_run(&in);
    struct recorded *s = only(&in);
    assert_string_equal(s->id, "in:ns.h5:/g/x");
    assert_true(!s->irregular && s->rate == 100);
    assert_int_equal(s->n, N - 9);
    assert_int_equal(s->t_ns[0], 1000000000);
    assert_int_equal(s->t_ns[1], IO_T_NONE);
    assert_int_equal(in.rec.discarded[IO_R_SHAPE], 9);
    assert_true(recorder_said(&in.rec, "more rows than its times"));
    input_done(&in);
    free(t);
}

static void put_rate(const char *file, double rate)
{
    hid_t f = H5Fopen(at(file), H5F_ACC_RDWR, H5P_DEFAULT), set = H5Dopen2(f, "/x", H5P_DEFAULT);
    hid_t space = H5Screate(H5S_SCALAR), a = H5Acreate2(set, "rate", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT);

    H5Awrite(a, H5T_NATIVE_DOUBLE, &rate);
    H5Aclose(a);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(f);
}

static void test_rate_attribute(void **state)
{
    double *x = ramp(N, 0, 1);
    hid_t f = make("rate.h5");
    struct input in;

    put(f, "/x", H5T_IEEE_F32LE, H5P_DEFAULT, N, 0, x);
    H5Fclose(f);
    free(x);
    put_rate("rate.h5", 360);
    input_init(&in, at("rate.h5"), "/x");
    input_run(&in);
    assert_true(only(&in)->rate == 360);
    input_done(&in);
    input_init(&in, at("rate.h5"), "/x");
    in.conf.common.rate = 100;
    assert_int_equal(input_open(&in), -EBADMSG);
    assert_non_null(strstr(in.err, "its rate is 360 Hz, not 100 Hz as the input's"));
    input_done(&in);
    input_init(&in, at("rate.h5"), "/x");
    in.rec.host.model_rate = 16000;
    assert_int_equal(input_open(&in), -EBADMSG);
    assert_non_null(strstr(in.err, "not 16000 Hz as the model's"));
    input_done(&in);
}

/* ---- several streams -------------------------------------------------------------------------------------- */

static void make_plant(const char *file, double from)
{
    double *x = ramp(N, from, 1);
    hsize_t cube[3] = {2, 2, 2}, one = 1;
    hid_t f = make(file), g = H5Gcreate2(f, "plant", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t sub = H5Gcreate2(f, "plant/sub", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate_simple(3, cube, NULL), line = H5Screate_simple(1, &one, NULL);

    put(f, "/plant/a", H5T_IEEE_F32LE, H5P_DEFAULT, N, 0, x);
    put(f, "/plant/b", H5T_IEEE_F32LE, H5P_DEFAULT, N / 2, 0, x);
    put(f, "/plant/sub/c", H5T_IEEE_F32LE, H5P_DEFAULT, N, 0, x);
    H5Dclose(H5Dcreate2(f, "/plant/cube", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Dclose(H5Dcreate2(f, "/plant/text", H5T_C_S1, line, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(line);
    H5Sclose(space);
    H5Gclose(sub);
    H5Gclose(g);
    H5Fclose(f);
    free(x);
}

static void test_many(void **state)
{
    struct input in;

    make_plant("plant-1.h5", 0);
    make_plant("plant-2.h5", 1000);
    input_init(&in, at("plant-*.h5"), "/plant/*"); /* a star stops at '/', what is no series is left out */
    input_run(&in);
    assert_int_equal(in.rec.n_streams, 4);
    assert_int_equal(recorder_find(&in.rec, "in:plant-1.h5:/plant/a")->n, N);
    assert_int_equal(recorder_find(&in.rec, "in:plant-1.h5:/plant/b")->n, N / 2);
    assert_true(recorder_find(&in.rec, "in:plant-2.h5:/plant/b")->x[1] == 1001);
    input_done(&in);

    input_init(&in, at("plant-1.h5"), NULL);
    in.files[1] = at("plant-2.h5");
    in.conf.files.n = 2;
    in.conf.common.stream = "{stem}{dataset}";
    input_run(&in);
    assert_int_equal(in.rec.n_streams, 6);
    assert_non_null(recorder_find(&in.rec, "plant-2/plant/sub/c"));
    input_done(&in);
}

/* More files than are open at a time. */
static void test_many_files(void **state)
{
    double *x = ramp(N, 0, 1);
    struct input in;
    char name[32];

    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "many-%02d.h5", i);
        hid_t f = make(name);
        put(f, "x", H5T_STD_U8LE, H5P_DEFAULT, (hsize_t)i, 0, x);
        H5Fclose(f);
    }
    input_init(&in, at("many-*.h5"), NULL);
    in.rec.streams_max = 64;
    input_run(&in);
    assert_int_equal(in.rec.n_streams, 49); /* the empty one has nothing to begin a stream with */
    for (int i = 1; i < 50; i++) {
        snprintf(name, sizeof name, "in:many-%02d.h5:/x", i);
        struct recorded *s = recorder_find(&in.rec, name);
        check_rows(s, x, (size_t)i, 1);
        assert_true(s->ended);
    }
    input_done(&in);
    free(x);
}

static void test_from_end(void **state)
{
    struct input in;

    make_plant("plant-1.h5", 0);
    input_init(&in, at("plant-1.h5"), "/plant/a");
    in.conf.from = IO_HDF5_END;
    input_run(&in);
    assert_int_equal(in.rec.n_streams, 0);
    input_done(&in);
}

/* ---- the daemon's side ------------------------------------------------------------------------------------ */

static void test_backpressure(void **state)
{
    const size_t n = 100000;
    double *x = ramp(n, 0, 1);
    hid_t f = make("pressure.h5");
    struct input in;

    put(f, "/x", H5T_STD_I32LE, H5P_DEFAULT, n, 0, x);
    put(f, "/y", H5T_STD_I32LE, H5P_DEFAULT, n, 0, x);
    H5Fclose(f);
    input_init(&in, at("pressure.h5"), NULL);
    in.rec.room = 0;
    assert_int_equal(input_open(&in), 0);
    for (int i = 0;; i++) {
        if (recorder_run(&in.rec, &io_source_hdf5, in.source, 0))
            break;
        assert_true(i < 1000);
        in.rec.room = 5000;
        if (i == 3)
            in.rec.streams[0]->stale = true; /* streams.idle has ended it */
    }
    assert_int_equal(in.rec.n_streams, 2);
    check_rows(in.rec.streams[0], x, n, 1);
    check_rows(in.rec.streams[1], x, n, 1);
    input_done(&in);
    free(x);
}

static void test_closed_early(void **state)
{
    double *x = ramp(N, 0, 1);
    hid_t f = make("early.h5");
    struct input in;

    put(f, "/x", H5T_STD_I32LE, H5P_DEFAULT, N, 0, x);
    H5Fclose(f);
    free(x);
    input_init(&in, at("early.h5"), NULL);
    in.rec.room = 0;
    assert_int_equal(input_open(&in), 0);
    assert_false(recorder_run(&in.rec, &io_source_hdf5, in.source, 0));
    input_done(&in); /* with a block in hand */
}

/* ---- what is wrong ---------------------------------------------------------------------------------------- */

static void make_unknown_filter(const char *file)
{
    hid_t f = make(file), p = chunked(8, 0);

    H5Pset_filter(p, 32001, H5Z_FLAG_OPTIONAL, 0, NULL); /* blosc's number */
    put(f, "/x", H5T_IEEE_F32LE, p, N, 0, NULL);
    H5Pclose(p);
    H5Fclose(f);
}

static void refused(const char *file, const char *dataset, const char *time, const char *field, int code,
                    const char *text)
{
    struct input in;

    input_init(&in, file, dataset);
    in.conf.time = (char *)time;
    in.fields[0] = (char *)field;
    in.conf.fields.n = field != NULL;
    int r = input_open(&in);
    if (r != code || !strstr(in.err, text))
        fail_msg("%s %s: %d '%s', expected %d '%s'", file, dataset ? dataset : "-", r, in.err, code, text);
    input_done(&in);
}

static void test_errors(void **state)
{
    make_plant("plant-1.h5", 0);
    make_table("table.h5");
    make_timed("ns.h5", N, H5T_STD_I64LE, NULL);
    make_unknown_filter("filter.h5");
    hid_t f = make("none.h5");
    H5Fclose(f);
    FILE *text = fopen(at("text.h5"), "w");
    fputs("this is no HDF5 file at all, however long it may be; it is text\n", text);
    fclose(text);
    fclose(fopen(at("empty.h5"), "w"));
    mkdir(at("dir.h5"), 0700);

    refused(at("missing.h5"), "/x", NULL, NULL, -ENOENT, "missing.h5");
    refused(at("miss*.h5"), "/x", NULL, NULL, -ENOENT, "miss*.h5");
    refused(at("text.h5"), "/x", NULL, NULL, -EBADMSG, "text.h5: not an HDF5 file");
    refused(at("empty.h5"), "/x", NULL, NULL, -EBADMSG, "empty.h5: the file is empty");
    refused("/dev/null", "/x", NULL, NULL, -EBADMSG, "/dev/null: not a regular file");
    refused(at("none.h5"), NULL, NULL, NULL, -EBADMSG, "none.h5: no dataset of one or two dimensions of numbers");
    refused(at("plant-1.h5"), "/nope*", NULL, NULL, -EBADMSG, "matches");
    refused(at("plant-1.h5"), "/plant/nope", NULL, NULL, -EBADMSG, "plant-1.h5: /plant/nope: ");
    refused(at("plant-1.h5"), "/plant", NULL, NULL, -EBADMSG, "/plant: it is not a dataset");
    refused(at("plant-1.h5"), "/plant/cube", NULL, NULL, -EBADMSG, "/plant/cube: it has more than two dimensions");
    refused(at("plant-1.h5"), "/plant/text", NULL, NULL, -EBADMSG, "/plant/text: it is not numeric");
    refused(at("plant-1.h5"), "/plant/a", "/t", NULL, -EBADMSG, "/plant/a: time: /t: ");
    refused(at("plant-1.h5"), "/plant/a", "text", NULL, -EBADMSG, "times are integers (ns) or floats (seconds)");
    refused(at("plant-1.h5"), "/plant/a", NULL, "f", -EBADMSG, "/plant/a: it is not a table");
    refused(at("table.h5"), "/table", NULL, "nope", -EBADMSG, "/table: there is no field 'nope'");
    refused(at("table.h5"), "/table", NULL, "name", -EBADMSG, "/table: field 'name' is not numeric");
    refused(at("table.h5"), "/table", "name", NULL, -EBADMSG, "/table: time name: times are integers");
    refused(at("filter.h5"), "/x", NULL, NULL, -EBADMSG, "filter 32001");
    refused(at("filter.h5"), NULL, NULL, NULL, -EBADMSG, "filter 32001");
}

static void test_check(void **state)
{
    struct input in;
    const char *key;

    input_init(&in, at("x.h5"), "/x");
    in.conf.common.stream = "{topic}";
    assert_int_equal(io_source_hdf5.check(&in.conf, &key, in.err), -EINVAL);
    assert_string_equal(key, "stream");
    in.conf.common.stream = NULL;
    in.conf.poll_ns = 0;
    assert_int_equal(io_source_hdf5.check(&in.conf, &key, in.err), -EINVAL);
    assert_string_equal(key, "poll");
    input_done(&in);
}

/* A file cut off anywhere is an error at open or a counted loss later; never a crash, never rows that are not in it. */
static void test_cut_off(void **state)
{
    double *x = ramp(3 * N, 0, 1);
    hid_t f = make("whole.h5"), p = chunked(16, 3);
    struct stat st;

    H5Pset_deflate(p, 1);
    put(f, "/x", H5T_STD_I32LE, p, N, 3, x);
    H5Pclose(p);
    H5Fclose(f);
    FILE *whole = fopen(at("whole.h5"), "rb");
    fstat(fileno(whole), &st);
    char *bytes = malloc((size_t)st.st_size);
    assert_int_equal(fread(bytes, 1, (size_t)st.st_size, whole), st.st_size);
    fclose(whole);
    for (off_t cut = 1; cut < st.st_size; cut += 97) {
        FILE *part = fopen(at("part.h5"), "wb");
        fwrite(bytes, 1, (size_t)(st.st_size - cut), part);
        fclose(part);
        struct input in;
        input_init(&in, at("part.h5"), "/x");
        if (input_open(&in) == 0) {
            assert_true(recorder_run(&in.rec, &io_source_hdf5, in.source, INT64_MAX / 2));
            size_t n = in.rec.n_streams ? in.rec.streams[0]->n : 0;
            assert_int_equal(n + in.rec.discarded[IO_R_FILE], N);
            if (n)
                check_rows(in.rec.streams[0], x, n, 3);
        } else {
            assert_non_null(strstr(in.err, "part.h5"));
        }
        input_done(&in);
    }
    free(bytes);
    free(x);
}

static int set_up(void **state)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[64];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),           cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_blocks),          cmocka_unit_test(test_table),
        cmocka_unit_test(test_times_irregular), cmocka_unit_test(test_times_regular),
        cmocka_unit_test(test_rate_attribute),  cmocka_unit_test(test_many),
        cmocka_unit_test(test_many_files),      cmocka_unit_test(test_from_end),
        cmocka_unit_test(test_backpressure),    cmocka_unit_test(test_closed_early),
        cmocka_unit_test(test_errors),          cmocka_unit_test(test_check),
        cmocka_unit_test(test_cut_off),
    };
    return cmocka_run_group_tests_name("hdf5_source", tests, set_up, tear_down);
}
