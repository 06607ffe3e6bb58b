/* test_snapshot_faults.c: every system call that writes a snapshot fails in turn, each in every way that it can: the
 * generation before stays what it was, the new one is there whole or not at all, nothing is left lying about, and a
 * line says what failed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/snapshot_file.h"

/* How a call fails; what does not suit it leaves it as it is. */
enum fault { FAULT_ENOSPC, FAULT_EIO, FAULT_EINTR, FAULT_SHORT, FAULT_NOTHING, FAULTS };

static char dir[64];
static int calls, faulty_call; /* −1: none */
static enum fault fault;
static bool happened;

/* ---- the calls ------------------------------------------------------------------------------------------------ */

static bool strike(void)
{
    bool yes = calls++ == faulty_call;
    happened |= yes;
    return yes;
}

/* The errno of a call that does not write; 0: it goes well. */
static int error_of_call(void)
{
    return !strike() ? 0 : fault == FAULT_ENOSPC ? ENOSPC : fault == FAULT_EIO ? EIO : 0;
}

ssize_t __real_pwrite64(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
    if (!strike())
        return __real_pwrite64(fd, buf, n, at);
    if (fault == FAULT_SHORT)
        return __real_pwrite64(fd, buf, n > 1 ? n / 2 : n, at);
    if (fault == FAULT_NOTHING)
        return 0;
    errno = fault == FAULT_ENOSPC ? ENOSPC : fault == FAULT_EIO ? EIO : EINTR;
    return -1;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    int err = error_of_call();
    errno = err;
    return err ? -1 : __real_open64(path, flags, 0600);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    int err = error_of_call();
    errno = err;
    return err ? -1 : __real_fsync(fd);
}

int __real_sync_file_range(int fd, off_t at, off_t n, unsigned flags);
int __wrap_sync_file_range(int fd, off_t at, off_t n, unsigned flags);
int __wrap_sync_file_range(int fd, off_t at, off_t n, unsigned flags)
{
    int err = error_of_call();
    errno = err;
    return err ? -1 : __real_sync_file_range(fd, at, n, flags);
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    int err = error_of_call();
    errno = err;
    return err ? -1 : __real_rename(from, to);
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) /* whatever it says, the descriptor is gone */
{
    int err = error_of_call(), r = __real_close(fd);
    errno = err ? err : errno;
    return err ? -1 : r;
}

/* ---- a snapshot ----------------------------------------------------------------------------------------------- */

enum { RECORDS = 5, LARGE = 2 << 20 /* so that some of it goes to the disk before the end */ };
static uint8_t data[LARGE], record[LARGE + 1000];

static int try_generation(uint64_t generation, char *reterr)
{
    const struct md_snapshot_head head = {.run = 1, .generation = generation};
    struct md_snapshot_writer w;
    int r = md_snapshot_begin(&w, dir, &head, reterr);
    for (int i = 0; i < RECORDS && r == 0; i++) {
        memset(data, (int)generation, sizeof data);
        md_record_write(record, MD_RECORD_VOICE, "stream", 6, data, sizeof data);
        r = md_snapshot_append(&w, record, md_record_bytes(6, sizeof data), 1, reterr);
    }
    if (r == 0)
        r = md_snapshot_commit(&w, 2, reterr);
    if (r)
        md_snapshot_abandon(&w);
    return r;
}

static void none_damaged(void *arg, const char *line)
{
    fail_msg("set aside: %s", line);
}

/* Of the newest generation, all of whose records say the same. */
static uint64_t newest(void)
{
    struct md_snapshot_file f = {0};
    struct md_record r;
    char reterr[MD_SNAPSHOT_ERR];
    size_t at = 0, n = 0;
    assert_int_equal(md_snapshot_open(dir, none_damaged, NULL, &f, reterr), 0);
    uint64_t generation = f.head.generation;
    for (; md_snapshot_next(&f, &at, &r); n++) {
        memset(data, (int)generation, sizeof data);
        assert_int_equal(r.bytes, sizeof data);
        assert_memory_equal(r.data, data, sizeof data);
    }
    assert_int_equal(n, RECORDS);
    md_snapshot_close(&f);
    return generation;
}

static unsigned parts(void)
{
    DIR *d = opendir(dir);
    unsigned n = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += strstr(e->d_name, ".part") != NULL;
    closedir(d);
    return n;
}

static void each_call_in_turn(void **state)
{
    char reterr[MD_SNAPSHOT_ERR];
    uint64_t generation = 1;
    unsigned failed = 0, taken = 0, faults = 0;
    faulty_call = -1;
    assert_int_equal(try_generation(generation, reterr), 0);
    for (fault = 0; fault < FAULTS; fault++) {
        happened = true;
        for (int call = 0; happened; call++) {
            const uint64_t before = newest();
            calls = 0, faulty_call = call, happened = false;
            reterr[0] = 0;
            int r = try_generation(++generation, reterr);
            faulty_call = -1;
            faults += happened;
            const uint64_t now = newest();
            assert_int_equal(parts(), 0);
            if (r == 0) {
                assert_int_equal(now, generation);
                taken++;
            } else { /* the folder's fsync comes behind the rename: then the new one may be there, and is whole */
                assert_true(now == before || now == generation);
                assert_non_null(strstr(reterr, dir));
                assert_non_null(strstr(reterr, strerror(-r)));
                failed++;
            }
        }
    }
    assert_true(failed >=
                2 * (RECORDS + 2 + 3 + 3));  /* writes, windows, fsync, close, rename: no room, a bad disk */
    assert_true(taken >= 2 * (RECORDS + 2)); /* interrupted and short writes go on */
    printf("{\"faults\": %u}\n", faults); /* for tools/torture */
}

static int set_up(void **state)
{
    strcpy(dir, "/tmp/mambad-test-faults-XXXXXX");
    faulty_call = -1;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(each_call_in_turn, set_up, tear_down)};
    return cmocka_run_group_tests_name("snapshot_faults", tests, NULL, NULL);
}
