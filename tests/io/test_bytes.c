/* Files as streams of bytes: finished, growing, renamed away, cut off and written anew, pipes. */
#include "io/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/io/place.h"
#include "tests/io/recorder.h"

extern const struct io_source_class io_source_bytes;


static void put(const char *name, const char *mode, const char *text)
{
    FILE *f = fopen(at(name), mode);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

/* An input under test. */
struct input {
    struct recorder r;
    struct io_bytes_conf conf;
    char *pattern;
    void *source;
};

static void open_input(struct input *in, const char *pattern, bool follow, enum io_from from)
{
    char reterr[IO_ERR] = "";
    in->pattern = at(pattern);
    in->conf = (struct io_bytes_conf){
        .common = {.scale = 1, .interval_ns = -1}, .files = {&in->pattern, 1}, .follow = follow, .from = from};
    in->conf.poll_ns = 10000000;
    recorder_init(&in->r, "in", 0);
    if (io_source_bytes.open(&in->conf, &in->r.host, &in->source, reterr))
        fail_msg("%s", reterr);
}

/* Until all is done, or, of a followed input, nothing came for a while. */
static bool run(struct input *in)
{
    for (int i = 0; i < 5; i++) {
        if (recorder_run(&in->r, &io_source_bytes, in->source, 5000000))
            return true;
        usleep(12000); /* longer than it waits between looks */
    }
    return false;
}

static void close_input(struct input *in)
{
    io_source_bytes.close(in->source);
    recorder_done(&in->r);
}

/* All that a stream has said, whose bytes are numbered without a hole from `first`. */
static void assert_said(struct input *in, const char *id, const char *text, int64_t first)
{
    struct recorded *s = recorder_find(&in->r, id);
    assert_non_null(s);
    assert_int_equal(s->type, IO_U8);
    char *said = calloc(s->n + 1, 1);
    for (size_t i = 0; i < s->n; i++) {
        said[i] = (char)s->x[i];
        assert_int_equal(s->seq[i], first + (int64_t)i);
        assert_false(s->reset[i]);
    }
    assert_string_equal(said, text);
    free(said);
}

static void finished_files(void **state)
{
    struct input in;
    char reterr[IO_ERR];
    void *source;
    put("a.txt", "w", "one\ntwo");
    put("b.txt", "w", "");
    open_input(&in, "*.txt", false, IO_FROM_RESUME);
    assert_true(run(&in));
    assert_said(&in, "in:a.txt", "one\ntwo", 0);
    assert_true(recorder_find(&in.r, "in:a.txt")->ended && recorder_find(&in.r, "in:b.txt")->ended);
    close_input(&in);
    in.pattern = at("none");
    recorder_init(&in.r, "in", 0);
    assert_int_equal(io_source_bytes.open(&in.conf, &in.r.host, &source, reterr), -ENOENT);
    recorder_done(&in.r);
    unlink(at("a.txt"));
    unlink(at("b.txt"));
}

/* By streams.idle: it begins again with the bytes that come then. */
static void ended_meanwhile(void **state)
{
    struct input in;
    put("log", "w", "one\n");
    open_input(&in, "log", true, IO_FROM_RESUME);
    assert_false(run(&in));
    recorder_find(&in.r, "in:log")->stale = true;
    put("log", "a", "two\n");
    assert_false(run(&in));
    assert_said(&in, "in:log", "one\ntwo\n", 0);
    assert_false(recorder_find(&in.r, "in:log")->ended);
    close_input(&in);
    unlink(at("log"));
}

/* Nor is there a slot for it again for long: the bytes that were read are counted. */
static void refused_meanwhile(void **state)
{
    struct input in;
    int64_t now = recorder_now(), wake;
    put("log", "w", "one\n");
    open_input(&in, "log", true, IO_FROM_RESUME);
    assert_false(run(&in));
    recorder_find(&in.r, "in:log")->stale = true;
    in.r.streams_max = 0;
    put("log", "a", "two\n");
    for (int i = 0; i < 100 && !in.r.discarded[IO_R_STREAMS]; i++, now += 1000000000)
        io_source_bytes.turn(in.source, now, &wake);
    assert_int_equal(in.r.discarded[IO_R_STREAMS], strlen("two\n"));
    assert_said(&in, "in:log", "one\n", 0);
    close_input(&in);
    unlink(at("log"));
}

static void large_files_come_in_blocks(void **state)
{
    enum { BYTES = 300001 };
    struct input in;
    char *text = malloc(BYTES + 1);
    for (int i = 0; i < BYTES; i++)
        text[i] = (char)('a' + i * 7 % 23);
    text[BYTES] = '\0';
    put("large", "w", text);
    open_input(&in, "large", false, IO_FROM_RESUME);
    in.r.room = 70000;
    assert_false(run(&in)); /* held back */
    in.r.room = SIZE_MAX;
    assert_true(run(&in));
    assert_said(&in, "in:large", text, 0);
    close_input(&in);
    free(text);
    unlink(at("large"));
}

static void growth_and_rotation(void **state)
{
    struct input in;
    put("log", "w", "one\n");
    open_input(&in, "log", true, IO_FROM_RESUME);
    assert_false(run(&in));
    put("log", "a", "two\n");
    run(&in);
    assert_said(&in, "in:log", "one\ntwo\n", 0);
    rename(at("log"), at("log.1"));
    put("log.1", "a", "late\n"); /* its writer is still there … */
    run(&in);
    put("log", "w", ""); /* … and may be, while the new file is empty */
    put("log.1", "a", "later\n");
    run(&in);
    put("log.1", "a", "last\n");
    put("log", "a", "new\n");
    run(&in);
    assert_said(&in, "in:log", "one\ntwo\nlate\nlater\nlast\nnew\n", 0);
    assert_true(recorder_said(&in.r, "note gap: rotation"));
    close_input(&in);
    unlink(at("log"));
    unlink(at("log.1"));
}

/* Cut off, and written anew beyond where reading stopped: the same file by its inode and, then, by its size. */
static void truncation(void **state)
{
    struct input in;
    put("log", "w", "the first line\n");
    open_input(&in, "log", true, IO_FROM_RESUME);
    run(&in);
    put("log", "w", "2\n");
    run(&in);
    assert_said(&in, "in:log", "the first line\n2\n", 0);
    assert_true(recorder_said(&in.r, "note gap: truncation"));
    assert_false(recorder_said(&in.r, "note gap: rotation"));
    put("log", "w", "something longer\n");
    run(&in);
    assert_said(&in, "in:log", "the first line\n2\nsomething longer\n", 0);
    assert_true(recorder_said(&in.r, "note gap: rotation"));
    close_input(&in);
    unlink(at("log"));
}

static void from_the_end(void **state)
{
    struct input in;
    put("old", "w", "before\n");
    open_input(&in, "*", true, IO_FROM_END);
    run(&in);
    put("old", "a", "after\n");
    put("new", "w", "all of it\n");           /* appeared later: all of it is new */
    while (!recorder_find(&in.r, "in:new")) { /* globs are looked at once a second */
        usleep(50000);
        run(&in);
    }
    run(&in);
    assert_said(&in, "in:old", "after\n", 7);
    assert_said(&in, "in:new", "all of it\n", 0);
    close_input(&in);
    unlink(at("old"));
    unlink(at("new"));
}

static void cut_off_before_anything_was_read(void **state)
{
    struct input in;
    put("log", "w", "before all that\n");
    open_input(&in, "log", true, IO_FROM_END);
    run(&in);
    put("log", "w", "anew\n");
    run(&in);
    assert_said(&in, "in:log", "anew\n", 16);
    close_input(&in);
    unlink(at("log"));
}

static void awaited(void **state)
{
    struct input in;
    open_input(&in, "coming", true, IO_FROM_RESUME);
    run(&in);
    put("coming", "w", "here\n");
    run(&in);
    assert_said(&in, "in:coming", "here\n", 0);
    close_input(&in);
    unlink(at("coming"));
}

static void pipes(void **state)
{
    for (int follow = 0; follow < 2; follow++) {
        struct input in;
        assert_int_equal(mkfifo(at("fifo"), 0600), 0);
        open_input(&in, "fifo", follow, IO_FROM_RESUME);
        assert_false(run(&in));
        int fd = open(at("fifo"), O_WRONLY);
        assert_int_equal(write(fd, "one", 3), 3);
        assert_false(run(&in));
        assert_int_equal(write(fd, "two", 3), 3);
        close(fd);
        assert_int_equal(run(&in), !follow);
        if (follow) { /* the next writer */
            fd = open(at("fifo"), O_WRONLY);
            assert_int_equal(write(fd, "three", 5), 5);
            close(fd);
            run(&in);
        }
        assert_said(&in, "in:fifo", follow ? "onetwothree" : "onetwo", 0);
        close_input(&in);
        unlink(at("fifo"));
    }
}

static int sweep(void **state)
{
    return rmdir(dir);
}

/* A file whose name makes no id is said once, and holds up none that comes later. */
static void a_name_that_cannot_be(void **state)
{
    struct input in;
    char *name = calloc(1, 256);
    memset(name, 'a', IO_ID_MAX);
    put("b.odd", "w", "b");
    open_input(&in, "*.odd", true, IO_FROM_RESUME);
    strcat(name, ".odd");
    put(name, "w", "a");
    put("c.odd", "w", "c");
    for (int i = 0; i < 200 && !recorder_find(&in.r, "in:c.odd"); i++)
        run(&in);
    assert_said(&in, "in:b.odd", "b", 0);
    assert_said(&in, "in:c.odd", "c", 0);
    assert_int_equal(in.r.n_streams, 2);
    assert_int_equal(in.r.n_said, 1);
    assert_true(recorder_said(&in.r, "makes no valid stream id"));
    close_input(&in);
    unlink(at("b.odd"));
    unlink(at(name));
    unlink(at("c.odd"));
    free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finished_files),
        cmocka_unit_test(ended_meanwhile),
        cmocka_unit_test(refused_meanwhile),
        cmocka_unit_test(large_files_come_in_blocks),
        cmocka_unit_test(growth_and_rotation),
        cmocka_unit_test(truncation),
        cmocka_unit_test(from_the_end),
        cmocka_unit_test(cut_off_before_anything_was_read),
        cmocka_unit_test(awaited),
        cmocka_unit_test(pipes),
        cmocka_unit_test(a_name_that_cannot_be),
    };
    if (!mkdtemp(dir))
        return 1;
    return cmocka_run_group_tests(tests, NULL, sweep);
}
