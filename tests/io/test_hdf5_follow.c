/* test_hdf5_follow.c: files that grow, are replaced, cut off, made again or not there yet, written by h5py in a process
 * of its own (hdf5_writer.py) while the source follows. Every row has to arrive once and in order. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "io/hdf5_track.h"
#include "tests/io/recorder.h"
#include "tests/seed.h"

extern const struct io_source_class io_source_hdf5;

#define PATIENCE_NS INT64_C(30000000000)

static char folder[] = "/tmp/test_follow_XXXXXX", path[64];
static unsigned seed;

/* ---- the writer ------------------------------------------------------------------------------------------- */

struct writer {
    pid_t pid;
    FILE *to, *from;
};

static void writer_begin(struct writer *w)
{
    int in[2], out[2];

    assert_int_equal(pipe(in) | pipe(out), 0);
    w->pid = fork();
    if (w->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execl("/usr/bin/python3", "python3", WRITER, NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    w->to = fdopen(in[1], "w");
    w->from = fdopen(out[0], "r");
}

static void order(struct writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void order(struct writer *w, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfprintf(w->to, fmt, args);
    va_end(args);
    fputc('\n', w->to);
    fflush(w->to);
}

static long answer(struct writer *w)
{
    char line[512] = "";

    if (!fgets(line, sizeof line, w->from) || strncmp(line, "ok", 2) != 0)
        fail_msg("writer: %s", line);
    return strtol(line + 2, NULL, 10);
}

#define WRITE(w, ...) (order((w), __VA_ARGS__), answer(w))

static void writer_end(struct writer *w, int sig)
{
    if (sig)
        kill(w->pid, sig);
    fclose(w->to);
    fclose(w->from);
    waitpid(w->pid, NULL, 0);
}

/* ---- the source ------------------------------------------------------------------------------------------- */

struct follower {
    struct io_hdf5_conf conf;
    struct recorder rec;
    char *files[1], *datasets[1];
    void *source;
    char err[IO_ERR];
};

static int follow(struct follower *f, const char *pattern, int from)
{
    memset(f, 0, sizeof *f);
    recorder_init(&f->rec, "in", 0);
    f->files[0] = (char *)pattern;
    f->datasets[0] = (char *)"/x";
    f->conf = (struct io_hdf5_conf){
        .common = {.scale = 1, .interval_ns = -1},
        .poll_ns = 20000000,
        .files = {f->files, 1},
        .datasets = {f->datasets, 1},
        .time = (char *)"/t",
        .follow = true,
        .from = from,
    };
    return io_source_hdf5.open(&f->conf, &f->rec.host, &f->source, f->err);
}

static void unfollow(struct follower *f)
{
    io_source_hdf5.close(f->source);
    recorder_done(&f->rec);
}

static const struct recorded *stream(const struct follower *f)
{
    return f->rec.n_streams ? f->rec.streams[0] : NULL;
}

/* Turns until `done` says so. */
static void turn_until(struct follower *f, bool (*done)(const struct follower *, size_t), size_t arg)
{
    int64_t deadline = recorder_now() + PATIENCE_NS;

    while (!done(f, arg)) {
        int64_t now = recorder_now(), wake;
        if (now > deadline) {
            for (unsigned i = 0; i < f->rec.n_said; i++)
                print_message("said: %s\n", f->rec.said[i]);
            fail_msg("waited in vain for %zu; have %zu rows", arg, stream(f) ? stream(f)->n : 0);
        }
        if (io_source_hdf5.turn(f->source, now, &wake) == IO_TURN_WAIT && wake > now)
            usleep(wake - now > 2000000 ? 2000 : (useconds_t)((wake - now) / 1000));
    }
}

static bool has_rows(const struct follower *f, size_t n)
{
    return stream(f) && stream(f)->n >= n;
}

static bool has_streams(const struct follower *f, size_t n)
{
    return f->rec.n_streams >= n;
}

static bool has_said(const struct follower *f, size_t n)
{
    return f->rec.n_said >= n;
}

static bool time_passed(const struct follower *f, size_t until_ms)
{
    return recorder_now() / 1000000 >= (int64_t)until_ms;
}

/* Some more turns, in which nothing should come. */
static void linger(struct follower *f, int ms)
{
    turn_until(f, time_passed, (size_t)(recorder_now() / 1000000 + ms));
}

/* Rows `from` … of a stream are rows 0 … n − 1 of generation g. */
static void check_generation(const struct recorded *s, size_t from, size_t first, size_t n, long g)
{
    assert_true(s->n >= from + n);
    for (size_t i = 0; i < n; i++) {
        size_t at = from + i, row = first + i;
        if (s->seq[at] != (int64_t)row || s->x[2 * at] != (double)(g * 1000000 + (long)row) ||
            s->x[2 * at + 1] != -(double)row || s->t_ns[at] != g * INT64_C(1000000000000000) + (int64_t)row * 1000)
            fail_msg("row %zu of generation %ld: seq %lld x %g %g t %lld", row, g, (long long)s->seq[at], s->x[2 * at],
                     s->x[2 * at + 1], (long long)s->t_ns[at]);
    }
}

static size_t resets(const struct recorded *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++)
        n += s->reset[i];
    return n;
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

/* A SWMR writer appends at random while the source reads: every row once, also those written just before it closes. */
static void test_live(void **state)
{
    for (unsigned k = 0; k < 3; k++) {
        struct writer w;
        struct follower f;
        writer_begin(&w);
        WRITE(&w, "create %s latest %u", path, k ? 64 * k : 5);
        WRITE(&w, "swmr");
        assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
        order(&w, "stream 1 1.0 %u", seed + k);
        linger(&f, 900);
        long n = answer(&w);
        order(&w, "close");
        answer(&w);
        turn_until(&f, has_rows, (size_t)n);
        linger(&f, 100);
        assert_int_equal(stream(&f)->n, n);
        assert_int_equal(resets(stream(&f)), 0);
        assert_true(stream(&f)->irregular);
        check_generation(stream(&f), 0, 0, (size_t)n, 1);
        unfollow(&f);
        writer_end(&w, 0);
        unlink(path);
    }
}

/* Rows are there when all their parts are. */
static void test_times_later(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    WRITE(&w, "append 1 40 x");
    linger(&f, 100);
    assert_int_equal(f.rec.n_streams, 0);
    WRITE(&w, "append 1 30 t");
    turn_until(&f, has_rows, 30);
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 30);
    check_generation(stream(&f), 0, 0, 30, 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

static void test_writer_restart(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    for (size_t part = 1; part <= 4; part++) {
        WRITE(&w, "append 1 50");
        turn_until(&f, has_rows, 100 * part - 50);
        WRITE(&w, "append 1 50");
        WRITE(&w, "close");
        if (part % 2)
            turn_until(&f, has_rows, 100 * part);
        WRITE(&w, "reopen %s latest", path);
        WRITE(&w, "swmr");
    }
    turn_until(&f, has_rows, 400);
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 400);
    assert_int_equal(resets(stream(&f)), 0);
    check_generation(stream(&f), 0, 0, 400, 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* The writer is killed in SWMR mode, the mark cleared, the file written on. */
static void test_writer_killed(void **state)
{
    struct writer w;
    struct follower f;
    char command[192];

    if (access("/usr/bin/h5clear", X_OK))
        skip();
    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_rows, 50);
    WRITE(&w, "sync"); /* h5clear cuts the file off at the end that the superblock knows */
    writer_end(&w, SIGKILL);
    linger(&f, 60);
    snprintf(command, sizeof command, "h5clear -s %s", path);
    assert_int_equal(system(command), 0);
    writer_begin(&w);
    WRITE(&w, "reopen %s latest", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    turn_until(&f, has_rows, 100);
    assert_int_equal(resets(stream(&f)), 0);
    check_generation(stream(&f), 0, 0, 100, 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* A mark without a writer is said, with the way to clear it, and never cleared by us. */
static void test_stale_mark(void **state)
{
    struct writer w;
    struct follower f;
    char command[192];

    if (access("/usr/bin/h5clear", X_OK))
        skip();
    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "append 1 50");
    WRITE(&w, "sync"); /* on disk, not in SWMR mode */
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_said, 1);
    assert_true(recorder_said(&f.rec, "another program has it open for writing, not in SWMR mode"));
    writer_end(&w, SIGKILL);
    turn_until(&f, has_said, 2);
    assert_true(recorder_said(&f.rec, "h5clear -s"));
    linger(&f, 100);
    assert_int_equal(f.rec.n_said, 2); /* once each */
    snprintf(command, sizeof command, "h5clear -s %s", path);
    assert_int_equal(system(command), 0);
    turn_until(&f, has_rows, 50);
    check_generation(stream(&f), 0, 0, 50, 1);
    unfollow(&f);
    unlink(path);
}

/* A logger that opens, appends and closes, in the old file format: it must find the file unlocked. */
static void test_plain_logger(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s earliest 16", path);
    WRITE(&w, "append 1 30");
    WRITE(&w, "close");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    for (size_t part = 2; part <= 8; part++) {
        turn_until(&f, has_rows, 30 * (part - 1));
        linger(&f, part % 2 ? 0 : 70);
        WRITE(&w, "reopen %s earliest", path);
        WRITE(&w, "append 1 30");
        WRITE(&w, "close");
    }
    turn_until(&f, has_rows, 240);
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 240);
    assert_int_equal(resets(stream(&f)), 0);
    check_generation(stream(&f), 0, 0, 240, 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* The file is renamed and a new one begun under its name: the old one's last rows first, then a reset. */
static void rotate(const char *libver, bool live)
{
    struct writer w;
    struct follower f;
    char old[80];

    snprintf(old, sizeof old, "%s.1", path);
    writer_begin(&w);
    WRITE(&w, "create %s %s 16", path, libver);
    if (live)
        WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    if (!live)
        WRITE(&w, "close");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_rows, 50);
    linger(&f, 100);
    if (!live)
        WRITE(&w, "reopen %s %s", path, libver);
    WRITE(&w, "append 1 33");
    WRITE(&w, "close");
    assert_int_equal(rename(path, old), 0);
    WRITE(&w, "create %s %s 16", path, libver);
    if (live)
        WRITE(&w, "swmr");
    WRITE(&w, "append 2 100");
    if (!live)
        WRITE(&w, "close");
    turn_until(&f, has_rows, 183);
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 183);
    check_generation(stream(&f), 0, 0, 83, 1);
    check_generation(stream(&f), 83, 0, 100, 2);
    assert_int_equal(resets(stream(&f)), 1);
    assert_true(stream(&f)->reset[83]);
    assert_true(recorder_said(&f.rec, "note gap: rotation"));
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
    unlink(old);
}

static void test_rotation_swmr(void **state)
{
    rotate("latest", true);
}

static void test_rotation_plain(void **state)
{
    rotate("earliest", false);
}

/* Deleted, and later made again. */
static void test_deleted(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_rows, 50);
    unlink(path);
    WRITE(&w, "append 1 7"); /* into the file without a name */
    turn_until(&f, has_rows, 57);
    turn_until(&f, has_said, 1);
    assert_true(recorder_said(&f.rec, "is gone"));
    WRITE(&w, "close");
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 2 20");
    turn_until(&f, has_rows, 77);
    check_generation(stream(&f), 0, 0, 57, 1);
    check_generation(stream(&f), 57, 0, 20, 2);
    assert_int_equal(resets(stream(&f)), 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* The datasets are cut to fewer rows in a live file. */
static void test_truncation(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_rows, 50);
    WRITE(&w, "shrink 0");
    linger(&f, 60);
    WRITE(&w, "append 2 20");
    turn_until(&f, has_rows, 70);
    assert_true(recorder_said(&f.rec, "note gap: truncation"));
    check_generation(stream(&f), 0, 0, 50, 1);
    check_generation(stream(&f), 50, 0, 20, 2);
    assert_true(stream(&f)->reset[50]);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* Made anew under the same inode, once with fewer rows than before, once with more. */
static void test_made_anew(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    turn_until(&f, has_rows, 50);
    WRITE(&w, "close");
    linger(&f, 60);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "append 2 20");
    WRITE(&w, "close");
    turn_until(&f, has_rows, 70);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "append 3 100");
    WRITE(&w, "swmr");
    turn_until(&f, has_rows, 170);
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 170);
    check_generation(stream(&f), 0, 0, 50, 1);
    check_generation(stream(&f), 50, 0, 20, 2);
    check_generation(stream(&f), 70, 0, 100, 3);
    assert_int_equal(resets(stream(&f)), 2);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* Not there yet; and a glob that files come to. */
static void test_awaited(void **state)
{
    struct writer w;
    struct follower f, g;
    char pattern[80], name[80];

    snprintf(pattern, sizeof pattern, "%s/run-*.h5", folder);
    snprintf(name, sizeof name, "%s/run-7.h5", folder);
    assert_int_equal(follow(&f, path, IO_HDF5_END), 0);
    assert_int_equal(follow(&g, pattern, IO_HDF5_END), 0);
    turn_until(&f, has_said, 1);
    linger(&f, 60);
    linger(&g, 60);
    assert_int_equal(f.rec.n_said, 1);
    assert_true(recorder_said(&f.rec, "No such file or directory: waiting for it"));
    assert_int_equal(g.rec.n_said, 0);
    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    turn_until(&f, has_rows, 50); /* all of it is new, though `from: end` */
    check_generation(stream(&f), 0, 0, 50, 1);
    WRITE(&w, "close");
    WRITE(&w, "create %s latest 16", name);
    WRITE(&w, "swmr");
    WRITE(&w, "append 2 50");
    turn_until(&g, has_streams, 1);
    turn_until(&g, has_rows, 50);
    assert_string_equal(stream(&g)->id, "in:run-7.h5:/x");
    check_generation(stream(&g), 0, 0, 50, 2);
    unfollow(&f);
    unfollow(&g);
    writer_end(&w, 0);
    unlink(path);
    unlink(name);
}

static void test_from_end(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s latest 16", path);
    WRITE(&w, "swmr");
    WRITE(&w, "append 1 50");
    assert_int_equal(follow(&f, path, IO_HDF5_END), 0);
    linger(&f, 60);
    assert_int_equal(f.rec.n_streams, 0);
    WRITE(&w, "append 1 25");
    turn_until(&f, has_rows, 25);
    check_generation(stream(&f), 0, 50, 25, 1);
    assert_int_equal(resets(stream(&f)), 0);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

/* Without room in the daemon rows wait in the file, and a plain logger is not locked out meanwhile. */
static void test_no_room(void **state)
{
    struct writer w;
    struct follower f;

    writer_begin(&w);
    WRITE(&w, "create %s earliest 16", path);
    WRITE(&w, "append 1 100");
    WRITE(&w, "close");
    assert_int_equal(follow(&f, path, IO_HDF5_START), 0);
    f.rec.room = 0;
    linger(&f, 60);
    WRITE(&w, "reopen %s earliest", path);
    WRITE(&w, "append 1 100");
    WRITE(&w, "close");
    linger(&f, 60);
    assert_int_equal(stream(&f)->n, 0);
    f.rec.room = SIZE_MAX;
    turn_until(&f, has_rows, 200);
    check_generation(stream(&f), 0, 0, 200, 1);
    unfollow(&f);
    writer_end(&w, 0);
    unlink(path);
}

static int set_up(void **state)
{
    signal(SIGPIPE, SIG_IGN);
    seed = (unsigned)test_seed();
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/log.h5", folder);
    return 0;
}

static int tear_down(void **state)
{
    char command[64];

    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live),           cmocka_unit_test(test_times_later),
        cmocka_unit_test(test_writer_restart), cmocka_unit_test(test_writer_killed),
        cmocka_unit_test(test_stale_mark),     cmocka_unit_test(test_plain_logger),
        cmocka_unit_test(test_rotation_swmr),  cmocka_unit_test(test_rotation_plain),
        cmocka_unit_test(test_deleted),        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_made_anew),      cmocka_unit_test(test_awaited),
        cmocka_unit_test(test_from_end),       cmocka_unit_test(test_no_room),
    };
    if (system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0)
        return 77;
    return cmocka_run_group_tests_name("hdf5_follow", tests, set_up, tear_down);
}
