/* files.c: the folder that targets write their input to; it goes when the process ends. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static void remove_dir(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command))
        fprintf(stderr, "%s stays\n", dir);
}

const char *fuzz_dir(void)
{
    if (dir[0])
        return dir;
    snprintf(dir, sizeof dir, "%s/mambad-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir))
        abort();
    atexit(remove_dir);
    return dir;
}

void fuzz_write(const char *name, const void *bytes, size_t n)
{
    char path[160];

    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n || close(fd))
        abort();
}
