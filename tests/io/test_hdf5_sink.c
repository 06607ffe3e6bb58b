/* test_hdf5_sink.c: the HDF5 output, read back by h5py (hdf5_reader.py): after it was closed, while it is written,
 * after its writer was killed, and with a disk that is full. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "io/sink.h"
#include "tests/io/place.h"

extern const struct io_sink_class io_sink_hdf5;

enum { HORIZON = 5, QUANTILES = 4, DIM = 6, STREAMS = 3, STEPS = 200, EVERY = 10 };

static const float levels[] = {0.1f, 0.25f, 0.5f, 0.9f}, few_levels[] = {0.25f, 0.75f};
static char ids[STREAMS][IO_ID_MAX + 1] = {"plant/a", "pl\xc3\xa4nt-",
                                           "c"}; /* the second one is made as long as can be */

static int writes_left = -1; /* libhdf5's, before this process dies; below zero: it lives */

/* libhdf5 calls this in place of the C library's. */
ssize_t mortal_pwrite(int fd, const void *data, size_t bytes, off_t offset) __asm__("pwrite")
    __attribute__((visibility("default")));
ssize_t mortal_pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    if (writes_left >= 0 && writes_left-- == 0)
        kill(getpid(), SIGKILL);
    return syscall(SYS_pwrite64, fd, data, bytes, offset);
}

static void *open_sink_at(const char *path, const struct io_position *position, char *err)
{
    const struct io_sink_env env = {.run = 42,
                                    .horizon_max = HORIZON,
                                    .quantiles_max = QUANTILES,
                                    .embedding_max = DIM,
                                    .quantiles = levels,
                                    .n_quantiles = QUANTILES,
                                    .position = position};
    char *conf[1] = {(char *)path};
    const char *key;
    void *sink = NULL;

    assert_int_equal(io_sink_hdf5.check(conf, false, &key, err), 0);
    return io_sink_hdf5.open(conf, &env, &sink, err) ? NULL : sink;
}

static void *open_sink(const char *path, char *err)
{
    return open_sink_at(path, NULL, err);
}

/* ---- messages --------------------------------------------------------------------------------------------- */

/* Message `k` of stream s: `rows` rows of each EVERY (families by step) or one (by sample) samples. */
static struct io_message message(enum io_family family, int s, int k, uint32_t rows, int64_t every)
{
    return (struct io_message){
        .family = family,
        .stream = ids[s],
        .model = "m",
        .run = 42,
        .out_seq = (uint64_t)k * rows,
        .epoch = (uint32_t)s,
        .seq = (int64_t)k * rows * every,
        .stride = every,
        .span = every,
        .t_ns = s == 2 ? IO_T_NONE : INT64_C(1000000000000000000) + (int64_t)k * rows * every * 1000000,
        .rate = s == 2 ? 0 : 1000,
        .exact = true,
        .warmup = k < 2,
    };
}

static void write_message(void *sink, struct io_message m, const float *data, uint32_t ndim, const uint32_t *shape)
{
    m.data = data;
    m.ndim = ndim;
    for (uint32_t d = 0; d < ndim; d++)
        m.shape[d] = shape[d];
    int r = io_sink_hdf5.write(sink, &m);
    if (r)
        fail_msg("write: %d", r);
}

static void write_prediction(void *sink, int s, int k)
{
    static float data[2 * 2 * HORIZON * QUANTILES];
    uint32_t h = s ? 3 : HORIZON, q = s ? 2 : QUANTILES, shape[] = {2, 2, h, q};
    struct io_message m = message(IO_PREDICTION, s, k, 2, EVERY);
    float *x = data;

    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t c = 0; c < 2; c++)
            for (uint32_t a = 0; a < h; a++)
                for (uint32_t b = 0; b < q; b++)
                    *x++ = (float)(m.out_seq + i + 1000 * c + 10 * a + b);
    m.quantiles = s ? few_levels : levels;
    m.n_quantiles = q;
    write_message(sink, m, data, 4, shape);
}

static void write_embedding(void *sink, int s, int k)
{
    static const float data[2 * DIM] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5};
    uint32_t shape[] = {2, 1, s == 1 ? 4 : DIM};

    write_message(sink, message(IO_EMBEDDING, s, k, 2, EVERY), data, 3, shape);
}

static void write_anomalies(void *sink, int s, int k)
{
    static float data[20 * 2 * 3];
    uint32_t shape[] = {20, 3}, by_channel[] = {20, 2, 3}, one[] = {20};

    for (size_t i = 0; i < 40; i++) {
        data[3 * i] = 0.5f;
        data[3 * i + 1] = k < 2 ? NAN : 0.01f;
        data[3 * i + 2] = (float)i;
    }
    write_message(sink, message(IO_ANOMALY, s, k, 20, 1), data, 2, shape);
    write_message(sink, message(IO_CHANNEL_ANOMALY, s, k, 20, 1), data, 3, by_channel);
    write_message(sink, message(IO_SURPRISE, s, k, 20, 1), data, 1, one);
}

static void write_event(void *sink, int s, const char *event, const char *reason, int64_t from, int64_t count)
{
    struct io_message m = message(IO_EVENT, s, 0, 0, 0);

    m.event = event;
    m.reason = reason;
    m.from_seq = from;
    m.to_seq = IO_SEQ_NONE;
    m.count = count;
    m.bridged = count < 0 && from >= 0;
    write_message(sink, m, NULL, 0, NULL);
}

static void write_heartbeat(void *sink)
{
    const uint64_t last[IO_FAMILIES] = {0, 1, 2, 3, 4, 5, 6};
    struct io_message m = {.family = IO_SYS, .stream = "heartbeat", .uptime_s = 1.5, .last_out_seq = last};

    write_message(sink, m, NULL, 0, NULL);
}

/* Everything that hdf5_reader.py expects. */
static void write_all(void *sink, bool pauses)
{
    write_event(sink, 0, "start", NULL, IO_SEQ_NONE, -1);
    for (int k = 0; k < STEPS / 2; k++) {
        for (int s = 0; s < STREAMS; s++) {
            write_prediction(sink, s, k);
            write_embedding(sink, s, k);
            write_anomalies(sink, s, k);
        }
        if (pauses && k % 5 == 4) {
            assert_int_equal(io_sink_hdf5.flush(sink), 0);
            usleep(20000);
        }
    }
    write_event(sink, 0, "gap", "rotation", 5, -1);
    write_event(sink, 1, "drop", "queue_full", 7, 12);
    write_heartbeat(sink);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static FILE *read_begin(const char *how, const char *path)
{
    char command[512];

    snprintf(command, sizeof command, "/usr/bin/python3 %s %s %s 2>&1", READER, how, path);
    return popen(command, "r");
}

static void read_end(FILE *reader)
{
    char line[512];

    while (fgets(line, sizeof line, reader))
        print_message("reader: %s", line);
    assert_int_equal(pclose(reader), 0);
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

static void test_read_back(void **state)
{
    char err[IO_ERR];
    void *sink = open_sink(at("out"), err);

    assert_non_null(sink);
    write_all(sink, false);
    assert_int_equal(io_sink_hdf5.close(sink, 0, err), 0);
    read_end(read_begin("check", at("out-000001.h5")));
}

static void test_read_along(void **state)
{
    char err[IO_ERR], line[64] = "";
    void *sink = open_sink(at("live"), err);

    assert_non_null(sink);
    FILE *reader = read_begin("along", at("live-000001.h5 3"));
    assert_non_null(fgets(line, sizeof line, reader));
    assert_string_equal(line, "open\n");
    write_all(sink, true);
    assert_int_equal(io_sink_hdf5.flush(sink), 0);
    read_end(reader);
    assert_int_equal(io_sink_hdf5.close(sink, 0, err), 0);
    read_end(read_begin("check", at("live-000001.h5")));
}

/* What was flushed survives a writer that is killed, also the clearing of its mark. */
static void test_killed(void **state)
{
    char err[IO_ERR], command[300];
    pid_t child = fork();

    if (child == 0) {
        void *sink = open_sink(at("killed"), err);
        write_all(sink, false);
        io_sink_hdf5.flush(sink);
        kill(getpid(), SIGKILL);
    }
    waitpid(child, NULL, 0);
    read_end(read_begin("along", at("killed-000001.h5 1")));
    if (access("/usr/bin/h5clear", X_OK))
        return;
    snprintf(command, sizeof command, "h5clear -s %s", at("killed-000001.h5"));
    assert_int_equal(system(command), 0);
    read_end(read_begin("check", at("killed-000001.h5")));
}

static void write_step(void *sink, int k)
{
    for (int s = 0; s < STREAMS; s++) {
        write_prediction(sink, s, k);
        write_embedding(sink, s, k);
        write_anomalies(sink, s, k);
    }
}

static uint64_t rows_of(const char *path, const char *table)
{
    hsize_t size[3] = {0};
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(file, table, H5P_DEFAULT);
    hid_t space = H5Dget_space(set);

    H5Sget_simple_extent_dims(space, size, NULL);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    return size[0];
}

/* A writer's whole life but for its end: it dies before its write number `n` after a mark, which it tells `to`. */
static void live_until(const char *path, int steps, int n, int to)
{
    struct io_position position = {0};
    char err[IO_ERR];
    void *sink = open_sink(path, err);
    int k = 0;

    while (k < steps)
        write_step(sink, k++);
    if (io_sink_hdf5.mark(sink, &position) || write(to, &position, sizeof position) != sizeof position)
        _exit(2);
    writes_left = n;
    for (int end = k + 2; k < end; k++) {
        write_step(sink, k);
        io_sink_hdf5.flush(sink);
    }
    _exit(0);
}

/* Whichever write was its last, the file is cut back to what the mark counted. Returns whether it died. */
static bool die_and_cut(int steps, int n)
{
    struct io_position position;
    char err[IO_ERR], name[32], file[300];
    int to[2], status;

    snprintf(name, sizeof name, "cut%d.%d", steps, n);
    assert_int_equal(pipe(to), 0);
    pid_t child = fork();
    if (child == 0)
        live_until(at(name), steps, n, to[1]);
    close(to[1]);
    waitpid(child, &status, 0);
    assert_true(status == 0 || WIFSIGNALED(status));
    assert_int_equal(read(to[0], &position, sizeof position), sizeof position);
    close(to[0]);

    void *sink = open_sink_at(at(name), &position, err);
    if (!sink)
        fail_msg("%d steps, then dead before write %d: %s", steps, n, err);
    assert_int_equal(io_sink_hdf5.close(sink, 0, err), 0);
    snprintf(file, sizeof file, "%s-000001.h5", at(name));
    assert_int_equal(rows_of(file, "embedding"), steps * STREAMS * 2);
    assert_int_equal(rows_of(file, "embedding_values"), steps * STREAMS * 2);
    assert_int_equal(rows_of(file, "anomaly"), steps * STREAMS * 20);
    return status != 0;
}

static void test_killed_at_any_write(void **state)
{
    for (int steps = 0; steps < 2; steps++) {
        int n = 0;
        while (die_and_cut(steps, n))
            n++;
        assert_true(n > 20);
    }
}

/* The next number, whatever is there; one file by its own name, never over another one. */
static void test_names(void **state)
{
    char err[IO_ERR] = "";

    fclose(fopen(at("run-000007.h5"), "w"));
    fclose(fopen(at("run-9.h5.bak"), "w"));
    fclose(fopen(at("run-x.h5"), "w"));
    void *a = open_sink(at("run"), err), *b = open_sink(at("run"), err), *c = open_sink(at("single.h5"), err);
    assert_true(a && b && c);
    assert_int_equal(access(at("run-000008.h5"), F_OK), 0);
    assert_int_equal(access(at("run-000009.h5"), F_OK), 0);
    assert_int_equal(access(at("single.h5"), F_OK), 0);
    assert_null(open_sink(at("single.h5"), err));
    assert_non_null(strstr(err, "single.h5: "));
    assert_null(open_sink(at("nowhere/x"), err));
    assert_non_null(strstr(err, "nowhere/: No such file or directory"));
    io_sink_hdf5.close(a, 0, err);
    io_sink_hdf5.close(b, 0, err);
    assert_int_equal(io_sink_hdf5.close(c, 0, err), 0);
}

static void test_too_wide(void **state)
{
    char err[IO_ERR];
    void *sink = open_sink(at("wide"), err);
    static const float data[1 + DIM];
    struct io_message m = message(IO_EMBEDDING, 0, 0, 1, 1);

    m.data = data;
    m.ndim = 3;
    m.shape[0] = m.shape[1] = 1;
    m.shape[2] = DIM + 1;
    assert_int_equal(io_sink_hdf5.write(sink, &m), -EMSGSIZE);
    assert_int_equal(io_sink_hdf5.close(sink, 0, err), -EMSGSIZE);
    assert_non_null(strstr(err, "embedding of plant/a is wider"));
}

/* Writes into a file that may not grow beyond `limit` bytes, in a process of its own. 0: the failure was reported, with
 * its cause, by a call, and again by close. */
static int fill_up(rlim_t limit)
{
    const struct rlimit l = {limit, limit};
    char err[IO_ERR] = "", name[32];

    snprintf(name, sizeof name, "full%lu", (unsigned long)limit);
    signal(SIGXFSZ, SIG_IGN);
    void *sink = open_sink(at(name), err);
    if (!sink || setrlimit(RLIMIT_FSIZE, &l))
        return 1;
    int r = 0;
    for (int k = 0; k < 5000 && r == 0; k++) {
        static const float data[20 * 3];
        struct io_message m = message(IO_ANOMALY, 0, k, 20, 1);
        m.data = data;
        m.ndim = 2;
        m.shape[0] = 20;
        m.shape[1] = 3;
        r = io_sink_hdf5.write(sink, &m);
        if (r == 0 && k % 100 == 99)
            r = io_sink_hdf5.flush(sink);
    }
    if (r != -EFBIG && r != -EIO)
        return 2;
    if (io_sink_hdf5.flush(sink) != r || io_sink_hdf5.close(sink, 0, err) != r)
        return 3;
    return strstr(err, "-000001.h5: ") ? 0 : 4;
}

static void test_disk_full(void **state)
{
    for (rlim_t limit = 60000; limit < 3000000; limit = limit * 3 + 777) {
        int status;
        pid_t child = fork();
        if (child == 0)
            exit(fill_up(limit)); /* runs libhdf5's exit handler, which must not crash or hang either */
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static int set_up(void **state)
{
    size_t n = strlen(ids[1]);

    memset(ids[1] + n, 'b', IO_ID_MAX - n);
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
        cmocka_unit_test(test_read_back),           cmocka_unit_test(test_read_along), cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_at_any_write), cmocka_unit_test(test_names),      cmocka_unit_test(test_too_wide),
        cmocka_unit_test(test_disk_full),
    };

    if (system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0)
        return 77;
    return cmocka_run_group_tests_name("hdf5_sink", tests, set_up, tear_down);
}
