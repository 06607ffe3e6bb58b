/* place.h: a test program's own folder, which main() makes with mkdtemp(). */
#ifndef TESTS_IO_PLACE_H
#define TESTS_IO_PLACE_H

#include <stdio.h>

static char dir[] = "/tmp/mambad-test-io.XXXXXX";

/* The path of a file there; good for eight calls. */
static inline char *at(const char *name)
{
    static char paths[8][256];
    static unsigned turn;
    char *p = paths[turn++ % 8];

    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

#endif
