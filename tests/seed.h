/* seed.h: what the random parts of tests start from. The same in every run, so that a checkout passes or fails alike
 * wherever it is tested; MAMBAD_SEED=N tries another one. Printed, so that a failure can be repeated. */
#ifndef TESTS_SEED_H
#define TESTS_SEED_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t test_seed(void)
{
    const char *given = getenv("MAMBAD_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20260101;

    printf("MAMBAD_SEED=%" PRIu64 "\n", seed);
    return seed;
}

#endif
