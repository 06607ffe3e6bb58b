/* test_jsonl.c: the JSON lines sink on real files and pipes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/wire.h"

extern const struct io_sink_class io_sink_jsonl;

struct fixture {
    char path[64];
    void *conf, *sink;
};

static void set(void *conf, const char *name, const void *value, size_t size)
{
    const struct io_option *o = io_sink_jsonl.options;

    while (strcmp(o->name, name))
        o++;
    memcpy((char *)conf + o->offset, value, size);
}

static void open_sink(struct fixture *f, bool append)
{
    char err[IO_ERR];
    const char *path = f->path, *key;

    f->conf = calloc(1, io_sink_jsonl.conf_bytes);
    set(f->conf, "path", &path, sizeof path);
    set(f->conf, "append", &append, sizeof append);
    assert_int_equal(io_sink_jsonl.check(f->conf, false, &key, err), 0);
    if (io_sink_jsonl.open(f->conf, &(struct io_sink_env){0}, &f->sink, err))
        fail_msg("%s", err);
}

static int close_sink(struct fixture *f)
{
    char err[IO_ERR];
    int r = io_sink_jsonl.close(f->sink, 0, err);

    free(f->conf);
    return r;
}

static void temporary(struct fixture *f)
{
    strcpy(f->path, "/tmp/mambad-jsonl-XXXXXX");
    close(mkstemp(f->path));
}

static struct io_message message(enum io_family family)
{
    return (struct io_message){.family = family,
                               .stream = "a b",
                               .model = "m",
                               .exact = true,
                               .rate = 100,
                               .t_ns = IO_T_NONE,
                               .from_seq = IO_SEQ_NONE,
                               .to_seq = IO_SEQ_NONE,
                               .count = -1};
}

static json_t *line(FILE *f)
{
    static char text[8 << 20];
    json_error_t error;
    json_t *j;

    if (!fgets(text, sizeof text, f))
        return NULL;
    assert_non_null(strchr(text, '\n'));
    j = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!j)
        fail_msg("%s: %.200s", error.text, text);
    return j;
}

static double at(const json_t *a, size_t i, size_t k, size_t l)
{
    return json_number_value(json_array_get(json_array_get(json_array_get(a, i), k), l));
}

static void lines_hold_topic_header_and_data(void **state)
{
    static const float x[12] = {0.1f, 1, 2, 3, 4, 5, 6, 7, 8, 9, NAN, -INFINITY};
    static const float quantiles[] = {0.5f};
    struct io_message m = message(IO_PREDICTION), e = message(IO_EVENT);
    struct fixture f;

    temporary(&f);
    open_sink(&f, true);
    m.data = x;
    m.ndim = 3;
    m.shape[0] = 2;
    m.shape[1] = 3;
    m.shape[2] = 2;
    m.quantiles = quantiles;
    m.n_quantiles = 1;
    e.event = "start";
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(io_sink_jsonl.write(f.sink, &e), 0);
    assert_int_equal(close_sink(&f), 0);

    FILE *in = fopen(f.path, "r");
    json_t *j = line(in), *data = json_object_get(j, "data");
    assert_string_equal(json_string_value(json_object_get(j, "topic")), "prediction/a%20b/");
    assert_string_equal(json_string_value(json_object_get(j, "stream")), "a b");
    assert_true(json_is_null(json_object_get(j, "t_ns")));
    assert_int_equal(json_array_size(data), 2);
    assert_int_equal(json_array_size(json_array_get(data, 0)), 3);
    assert_int_equal(json_array_size(json_array_get(json_array_get(data, 0), 0)), 2);
    assert_true((float)at(data, 0, 0, 0) == 0.1f);
    assert_true(at(data, 0, 0, 1) == 1 && at(data, 0, 2, 1) == 5 && at(data, 1, 0, 0) == 6 && at(data, 1, 1, 1) == 9);
    assert_true(json_is_null(json_array_get(json_array_get(json_array_get(data, 1), 2), 0)));
    assert_true(json_is_null(json_array_get(json_array_get(json_array_get(data, 1), 2), 1)));
    json_decref(j);
    j = line(in);
    assert_string_equal(json_string_value(json_object_get(j, "event")), "start");
    assert_int_equal(json_array_size(json_object_get(j, "data")), 0);
    json_decref(j);
    assert_null(line(in));
    fclose(in);
    unlink(f.path);
}

static unsigned count_lines(const char *path)
{
    FILE *in = fopen(path, "r");
    unsigned n = 0;

    for (json_t *j; (j = line(in)); n++)
        json_decref(j);
    fclose(in);
    return n;
}

static void append_and_flush(void **state)
{
    struct io_message m = message(IO_EVENT);
    struct fixture f;
    struct stat st;
    off_t torn;

    temporary(&f);
    m.event = "gap";
    open_sink(&f, true);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(stat(f.path, &st), 0);
    assert_int_equal(st.st_size, 0); /* buffered */
    assert_int_equal(io_sink_jsonl.flush(f.sink), 0);
    assert_int_equal(count_lines(f.path), 1);
    assert_int_equal(close_sink(&f), 0);
    open_sink(&f, true);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(close_sink(&f), 0);
    assert_int_equal(count_lines(f.path), 2);
    assert_int_equal(stat(f.path, &st), 0);
    assert_int_equal(truncate(f.path, st.st_size - 7), 0); /* torn by a kill: the next line stands by itself */
    open_sink(&f, true);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(close_sink(&f), 0);
    torn = st.st_size - 7;
    assert_int_equal(stat(f.path, &st), 0);
    assert_int_equal(st.st_size, torn + 1 + (torn + 7) / 2);
    open_sink(&f, false);
    assert_int_equal(close_sink(&f), 0);
    assert_int_equal(count_lines(f.path), 0);
    unlink(f.path);
}

/* What is in the file before flush() is whole lines, however many there were; one line may exceed the buffer. */
static void only_whole_lines_go_out(void **state)
{
    enum { N = 40000 };
    struct io_message m = message(IO_EMBEDDING);
    float *x = malloc(N * sizeof *x);
    struct fixture f;

    temporary(&f);
    open_sink(&f, true);
    for (int i = 0; i < N; i++)
        x[i] = (float)i * 1.001f;
    m.data = x;
    m.ndim = 3;
    m.shape[0] = 1;
    m.shape[1] = 1;
    for (unsigned k = 0; k < 150; k++) {
        m.shape[2] = 1 + k * 14;
        assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
        if (k % 50 == 0)
            count_lines(f.path); /* fails on a torn one */
    }
    m.shape[2] = N;
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(close_sink(&f), 0);
    assert_int_equal(count_lines(f.path), 151);
    free(x);
    unlink(f.path);
}

static void a_full_disk_is_said(void **state)
{
    struct io_message m = message(IO_EVENT);
    struct fixture f = {.path = "/dev/full"};
    int r = 0;

    m.event = "gap";
    open_sink(&f, true);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(io_sink_jsonl.flush(f.sink), -ENOSPC);
    for (int i = 0; i < 10000 && !r; i++)
        r = io_sink_jsonl.write(f.sink, &m);
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(close_sink(&f), -ENOSPC);
}

/* A disk that is full for a while: what is written in the end is whole lines, each once. */
static void a_disk_that_empties_again(void **state)
{
    struct io_message m = message(IO_EVENT);
    struct rlimit old, small = {.rlim_cur = 100000};
    struct fixture f;
    unsigned taken = 0;

    temporary(&f);
    m.event = "gap";
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    open_sink(&f, true);
    setrlimit(RLIMIT_FSIZE, &small);
    for (unsigned i = 0; i < 4000; i++)
        taken += io_sink_jsonl.write(f.sink, &m) == 0;
    assert_int_equal(io_sink_jsonl.flush(f.sink), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_true(taken > 0 && taken < 4000);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), 0);
    assert_int_equal(close_sink(&f), 0);
    assert_int_equal(count_lines(f.path), taken + 1);
    unlink(f.path);
}

/* Nor is the line behind one that is longer than the buffer, and was given up halfway, a part of that. */
static void a_long_line_that_is_given_up(void **state)
{
    enum { N = 100000 };
    struct io_message m = message(IO_PREDICTION), e = message(IO_EVENT);
    struct rlimit old, small = {.rlim_cur = 300000};
    float *x = calloc(N, sizeof *x);
    struct fixture f;
    char text[64];
    FILE *file;

    temporary(&f);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    for (int i = 0; i < N; i++)
        x[i] = (float)i * 1.001f;
    m.data = x;
    m.ndim = 1;
    m.shape[0] = N;
    e.event = "gap";
    open_sink(&f, true);
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(io_sink_jsonl.write(f.sink, &m), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &old);
    for (int i = 0; i < 2; i++)
        assert_int_equal(io_sink_jsonl.write(f.sink, &e), 0);
    assert_int_equal(close_sink(&f), 0);
    file = fopen(f.path, "r");
    while (fread(text, 1, 1, file) == 1 && *text != '\n')
        ;
    for (int i = 0; i < 2; i++) {
        json_t *whole = line(file);
        assert_non_null(whole);
        json_decref(whole);
    }
    assert_null(line(file));
    fclose(file);
    free(x);
    unlink(f.path);
}

static void a_bad_path_is_said(void **state)
{
    const char *path = "/nonexistent/dir/out.jsonl", *key;
    void *conf = calloc(1, io_sink_jsonl.conf_bytes), *sink;
    char err[IO_ERR];

    set(conf, "path", &path, sizeof path);
    assert_int_equal(io_sink_jsonl.open(conf, &(struct io_sink_env){0}, &sink, err), -ENOENT);
    assert_non_null(strstr(err, path));
    path = "";
    set(conf, "path", &path, sizeof path);
    assert_int_equal(io_sink_jsonl.check(conf, false, &key, err), -EINVAL);
    assert_string_equal(key, "path");
    free(conf);
}

/* Standard output as a pipe that nobody reads on. */
static void a_broken_pipe_is_said(void **state)
{
    struct io_message m = message(IO_EVENT);
    struct fixture f = {.path = "-"};
    int ends[2], kept = dup(STDOUT_FILENO), r;

    m.event = "gap";
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    dup2(ends[1], STDOUT_FILENO);
    open_sink(&f, true);
    io_sink_jsonl.write(f.sink, &m);
    close(ends[0]);
    r = io_sink_jsonl.flush(f.sink);
    close_sink(&f);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    close(ends[1]);
    assert_int_equal(r, -EPIPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_hold_topic_header_and_data),
        cmocka_unit_test(append_and_flush),
        cmocka_unit_test(only_whole_lines_go_out),
        cmocka_unit_test(a_full_disk_is_said),
        cmocka_unit_test(a_disk_that_empties_again),
        cmocka_unit_test(a_long_line_that_is_given_up),
        cmocka_unit_test(a_bad_path_is_said),
        cmocka_unit_test(a_broken_pipe_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
