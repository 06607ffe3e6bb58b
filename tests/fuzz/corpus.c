/* corpus.c: main() of a fuzz target that is a test: every file of the folders given goes through it once. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = NULL;
    size_t n = 0, got;

    if (!f) {
        perror(path);
        exit(1);
    }
    do { /* exactly as long as the input: one byte too far is seen */
        bytes = realloc(bytes, n + 65536);
        got = bytes ? fread(bytes + n, 1, 65536, f) : 0;
        n += got;
    } while (got);
    fclose(f);
    uint8_t *exact = malloc(n ? n : 1);
    for (size_t i = 0; exact && i < n; i++)
        exact[i] = bytes[i];
    free(bytes);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

int main(int argc, char **argv)
{
    unsigned files = 0;

    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
            char path[4096];
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            run_file(path);
            files++;
        }
        if (d)
            closedir(d);
    }
    printf("%u inputs\n", files);
    return files == 0;
}
