/* test_snapshot_file.c: generations on the disk: what was written is read back, whatever is damaged is set aside and
 * the one before is used, a disk that is full leaves what is there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/snapshot_file.h"

static char dir[64];
static unsigned set_aside;

static int set_up(void **state)
{
    strcpy(dir, "/tmp/mambad-test-snapshot-XXXXXX");
    set_aside = 0;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void count(void *arg, const char *line)
{
    assert_non_null(strstr(line, dir));
    set_aside++;
}

static void append(struct md_snapshot_writer *w, enum md_record_kind kind, const char *id, const void *data, size_t n)
{
    char reterr[MD_SNAPSHOT_ERR];
    size_t bytes = md_record_bytes((uint32_t)strlen(id), n);
    void *r = malloc(bytes);

    md_record_write(r, kind, id, (uint32_t)strlen(id), data, n);
    assert_int_equal(md_snapshot_append(w, r, bytes, 1, reterr), 0);
    free(r);
}

/* A generation of three records, the last as long as its number. */
static void write_generation(uint64_t generation, unsigned keep)
{
    const struct md_snapshot_head head = {.run = 7, .generation = generation, .t_ns = 9, .clean = generation % 2};
    struct md_snapshot_writer w;
    char reterr[MD_SNAPSHOT_ERR], long_one[64] = "0123456789012345678901234567890123456789";

    assert_int_equal(md_snapshot_begin(&w, dir, &head, reterr), 0);
    append(&w, MD_RECORD_MODEL, "m", "12345678", 8);
    append(&w, MD_RECORD_STREAM, "a stream", "", 0);
    append(&w, MD_RECORD_VOICE, "s", long_one, generation);
    assert_int_equal(md_snapshot_commit(&w, keep, reterr), 0);
}

static uint64_t newest(void)
{
    struct md_snapshot_file f = {0};
    char reterr[MD_SNAPSHOT_ERR];
    int r = md_snapshot_open(dir, count, NULL, &f, reterr);
    uint64_t generation = f.head.generation;

    assert_true(r == 0 || r == -ENOENT);
    md_snapshot_close(&f);
    return r ? 0 : generation;
}

static unsigned files(const char *ending)
{
    DIR *d = opendir(dir);
    unsigned n = 0;

    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        size_t a = strlen(e->d_name), b = strlen(ending);
        n += e->d_name[0] != '.' && a >= b && strcmp(e->d_name + a - b, ending) == 0;
    }
    closedir(d);
    return n;
}

static void what_was_written_is_read(void **state)
{
    struct md_snapshot_file f;
    struct md_record r;
    char reterr[MD_SNAPSHOT_ERR];
    size_t at = 0;

    assert_int_equal(newest(), 0);
    for (uint64_t g = 1; g <= 5; g++)
        write_generation(g, 3);
    assert_int_equal(files(""), 3);
    assert_int_equal(md_snapshot_open(dir, count, NULL, &f, reterr), 0);
    assert_true(f.head.generation == 5 && f.head.run == 7 && f.head.t_ns == 9 && f.head.clean);
    assert_true(md_snapshot_next(&f, &at, &r));
    assert_true(r.kind == MD_RECORD_MODEL && r.id_len == 1 && r.bytes == 8 && !memcmp(r.data, "12345678", 8));
    assert_true(md_snapshot_next(&f, &at, &r));
    assert_true(r.kind == MD_RECORD_STREAM && r.id_len == 8 && r.bytes == 0 && !memcmp(r.id, "a stream", 8));
    assert_true(md_snapshot_next(&f, &at, &r));
    assert_true(r.kind == MD_RECORD_VOICE && r.bytes == 5 && !memcmp(r.data, "01234", 5));
    assert_false(md_snapshot_next(&f, &at, &r));
    md_snapshot_close(&f);
    assert_int_equal(set_aside, 0);
}

static void path_of(uint64_t generation, char path[128])
{
    snprintf(path, 128, "%s/snapshot-%012llu", dir, (unsigned long long)generation);
}

/* Every byte changed, and every length. */
static void damage_is_set_aside(void **state)
{
    char path[128];
    struct stat st;

    write_generation(1, 9);
    write_generation(2, 9);
    path_of(2, path);
    assert_int_equal(stat(path, &st), 0);
    for (off_t i = 0; i < 2 * st.st_size; i++) {
        write_generation(2, 9);
        if (i < st.st_size) {
            unsigned char byte;
            int fd = open(path, O_RDWR);
            assert_int_equal(pread(fd, &byte, 1, i), 1);
            byte ^= (unsigned char)(1u << i % 8);
            assert_int_equal(pwrite(fd, &byte, 1, i), 1);
            close(fd);
        } else {
            assert_int_equal(truncate(path, i - st.st_size), 0);
        }
        set_aside = 0;
        if (newest() != 1 || set_aside != 1)
            fail_msg("byte or length %lld was not seen", (long long)i);
    }
    assert_int_equal(files(".corrupt"), 1);
    write_generation(2, 9);
    assert_int_equal(newest(), 2);
}

/* A part that a killed writer left is no snapshot; what is linked elsewhere is not followed. */
static void others_are_left_alone(void **state)
{
    char path[160];

    write_generation(1, 9);
    snprintf(path, sizeof path, "%s/snapshot-000000000009.part", dir);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(newest(), 1);
    struct md_snapshot_writer w;
    char reterr[MD_SNAPSHOT_ERR];
    assert_true(md_snapshot_begin(&w, dir, &(struct md_snapshot_head){.generation = 9}, reterr) < 0);
}

static void full_disk_leaves_what_is_there(void **state)
{
    struct rlimit was, small;
    struct md_snapshot_writer w;
    char reterr[MD_SNAPSHOT_ERR] = "", big[4096] = "";
    void *record = malloc(md_record_bytes(1, sizeof big));

    write_generation(1, 3);
    assert_int_equal(md_snapshot_begin(&w, dir, &(struct md_snapshot_head){.generation = 2}, reterr), 0);
    md_record_write(record, MD_RECORD_STREAM, "s", 1, big, sizeof big);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small = was;
    small.rlim_cur = 2048;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(md_snapshot_append(&w, record, md_record_bytes(1, sizeof big), 1, reterr), -EFBIG);
    md_snapshot_abandon(&w);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_non_null(strstr(reterr, "snapshot-000000000002.part"));
    assert_int_equal(files(""), 1);
    assert_int_equal(newest(), 1);
    free(record);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_set_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(others_are_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(full_disk_leaves_what_is_there, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
