/* Glob expansion, what names lend to stream ids, and reads that do not block, on real files and FIFOs. */
#include "io/files.h"

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

static char reterr[IO_ERR];

static void touch(const char *name)
{
    FILE *f = fopen(at(name), "w");
    assert_non_null(f);
    fclose(f);
}

static int make(void **state)
{
    if (!mkdtemp(dir) || mkdir(at("a"), 0700) || mkdir(at("b"), 0700) || mkdir(at("b/sub.wav"), 0700))
        return -1;
    touch("a/2.wav");
    touch("a/10.wav");
    touch("a/B.wav");
    touch("b/1.wav");
    touch("b/x[1].wav");
    return 0;
}

static int clean(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void expect(char *const *patterns, unsigned n, const char *const *paths, const char *const *rels, unsigned want)
{
    struct io_files f;
    reterr[0] = '\0';
    int r = io_files_expand(&(struct io_strings){(char **)patterns, n}, false, &f, reterr);
    if (r)
        fail_msg("%s", reterr);
    assert_int_equal(f.n, want);
    for (unsigned i = 0; i < want; i++) {
        assert_string_equal(f.v[i].path, at(paths[i]));
        assert_string_equal(f.v[i].rel, rels[i]);
    }
    io_files_free(&f);
    assert_int_equal(f.n, 0);
}

static void globs(void **state)
{
    /* bytewise order, not the locale's; directories are left out */
    expect((char *[]){at("a/*.wav")}, 1, (const char *[]){"a/10.wav", "a/2.wav", "a/B.wav"},
           (const char *[]){"10.wav", "2.wav", "B.wav"}, 3);
    /* the fixed part ends before the component with the first wildcard */
    expect((char *[]){at("[ab]/?.wav")}, 1, (const char *[]){"a/2.wav", "a/B.wav", "b/1.wav"},
           (const char *[]){"a/2.wav", "a/B.wav", "b/1.wav"}, 3);
    /* several patterns; a file matched twice is taken once, under the name of the first */
    expect((char *[]){at("b/1.wav"), at("*/1*.wav")}, 2, (const char *[]){"a/10.wav", "b/1.wav"},
           (const char *[]){"a/10.wav", "1.wav"}, 2);
    expect((char *[]){at("*/1*.wav"), at("b/1.wav")}, 2, (const char *[]){"a/10.wav", "b/1.wav"},
           (const char *[]){"a/10.wav", "b/1.wav"}, 2);
    /* a file that exists is that file, whatever its name looks like */
    expect((char *[]){at("b/x[1].wav")}, 1, (const char *[]){"b/x[1].wav"}, (const char *[]){"x[1].wav"}, 1);
}

static void missing(void **state)
{
    struct io_files f;
    char *name = at("a/none.wav"), *glob = at("a/*.none"), *ok = at("a/2.wav"), *directory = at("b");
    assert_int_equal(io_files_expand(&(struct io_strings){(char *[]){ok, name}, 2}, true, &f, reterr), -ENOENT);
    assert_non_null(strstr(reterr, "a/none.wav"));
    assert_int_equal(io_files_expand(&(struct io_strings){&glob, 1}, false, &f, reterr), -ENOENT);
    assert_non_null(strstr(reterr, "a/*.none"));
    assert_int_equal(io_files_expand(&(struct io_strings){&glob, 1}, true, &f, reterr), 0);
    assert_int_equal(f.n, 0);
    io_files_free(&f);
    assert_int_equal(io_files_expand(&(struct io_strings){&directory, 1}, false, &f, reterr), -EISDIR);
}

static void many(void **state)
{
    struct io_files f;
    char name[32];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "many-%03d", (i * 37) % 100);
        touch(name);
    }
    char *glob = at("many-*");
    assert_int_equal(io_files_expand(&(struct io_strings){&glob, 1}, false, &f, reterr), 0);
    assert_int_equal(f.n, 100);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "many-%03d", i);
        assert_string_equal(f.v[i].rel, name);
    }
    io_files_free(&f);
}

static void stems(void **state)
{
    const char *const names[][2] = {
        {"s/x.y.wav", "x.y"}, {"s/.hidden", ".hidden"}, {"s/none", "none"}, {"s/end.", "end"}};
    struct io_files f;
    assert_int_equal(mkdir(at("s"), 0700), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        touch(names[i][0]);
        char *path = at(names[i][0]);
        assert_int_equal(io_files_expand(&(struct io_strings){&path, 1}, false, &f, reterr), 0);
        assert_string_equal(f.v[0].stem, names[i][1]);
        io_files_free(&f);
    }
    char *dash = "-"; /* standard input */
    assert_int_equal(io_files_expand(&(struct io_strings){&dash, 1}, false, &f, reterr), 0);
    assert_string_equal(f.v[0].rel, "-");
    io_files_free(&f);
}

static void reads(void **state)
{
    char buf[16], *fifo = at("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    int in = io_file_open(fifo);
    assert_true(in >= 0);
    assert_int_equal(io_file_read(in, buf, sizeof buf), -EAGAIN); /* no writer yet: not the end */
    int out = open(fifo, O_WRONLY);
    assert_int_equal(io_file_read(in, buf, sizeof buf), -EAGAIN);
    assert_int_equal(write(out, "abc", 3), 3);
    assert_int_equal(io_file_read(in, buf, sizeof buf), 3);
    assert_int_equal(io_file_read(in, buf, sizeof buf), -EAGAIN);
    close(out);
    assert_int_equal(io_file_read(in, buf, sizeof buf), 0);
    close(in);
    assert_int_equal(io_file_open(at("nowhere")), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(globs), cmocka_unit_test(missing), cmocka_unit_test(many),
        cmocka_unit_test(stems), cmocka_unit_test(reads),
    };
    return cmocka_run_group_tests_name("files", tests, make, clean);
}
