/* clock.h: the monotonic clock, and exact time arithmetic of regular streams.
 *
 * A rate is held as a fraction, so that the time of row 10^9 is computed without drift from the first one's: 44100 is
 * 44100/1, 0.1 is 1/10, 29.97 is 2997/100. Pure functions; any thread. */
#ifndef MD_CLOCK_H
#define MD_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t md_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct md_rate {
    int64_t num, den; /* Hz = num/den; num 0: unknown */
};

/* The simplest fraction that rounds to hz as a double. */
struct md_rate md_rate_of(double hz);

/* Duration of `rows` rows in ns, rounded to nearest, saturated at ±INT64_MAX. The rate is known. */
int64_t md_rate_ns(struct md_rate r, int64_t rows);

/* Whole rows that last ns, rounded to nearest; saturated likewise. */
int64_t md_rate_rows(struct md_rate r, int64_t ns);

/* a + b, a − b, saturated at ±INT64_MAX: senders may claim any time. */
int64_t md_add_sat(int64_t a, int64_t b);
int64_t md_sub_sat(int64_t a, int64_t b);

#endif
