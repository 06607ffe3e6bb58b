/* noise.h: numbers for tests of statistics: the same in every run, whatever rng_state is set to. */
#ifndef TEST_SSM_NOISE_H
#define TEST_SSM_NOISE_H

#include <math.h>
#include <stdint.h>

static uint64_t rng_state; /* not 0 */

static inline double uniform(void) /* in (0, 1) */
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return ((double)(rng_state >> 11) + 0.5) / 9007199254740992.0;
}

static inline double normal(void)
{
    return sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform());
}

#endif
