/* clock.c: rates as fractions, rows to ns and back. All in 128-bit integers: a float would drift over 10^9 rows. */
#include "daemon/clock.h"

#include <math.h>
#include <stdint.h>

static int64_t saturate(__int128 v)
{
    return v > INT64_MAX ? INT64_MAX : v < -INT64_MAX ? -INT64_MAX : (int64_t)v;
}

int64_t md_add_sat(int64_t a, int64_t b)
{
    return saturate((__int128)a + b);
}

int64_t md_sub_sat(int64_t a, int64_t b)
{
    return saturate((__int128)a - b);
}

/* Continued fraction of hz, until the convergent is the same double; both terms stay below 2^31, so that products with
 * an int64 and 10^9 fit 128 bits. */
struct md_rate md_rate_of(double hz)
{
    const double limit = 2147483647.0;
    if (!(hz > 0) || hz > limit || hz < 1 / limit) {
        return (struct md_rate){0, 1};
    }
    int64_t n0 = 0, d0 = 1, n1 = 1, d1 = 0;
    double x = hz;
    for (;;) {
        double whole = floor(x);
        double n = whole * (double)n1 + (double)n0, d = whole * (double)d1 + (double)d0;
        if (n > limit || d > limit) {
            break;
        }
        n0 = n1, d0 = d1;
        n1 = (int64_t)n, d1 = (int64_t)d;
        if ((double)n1 / (double)d1 == hz || x == whole) {
            break;
        }
        x = 1 / (x - whole);
    }
    return (struct md_rate){n1, d1};
}

static __int128 divide_nearest(__int128 a, __int128 b) /* b > 0; halves away from zero */
{
    return a >= 0 ? (a + b / 2) / b : -((-a + b / 2) / b);
}

int64_t md_rate_ns(struct md_rate r, int64_t rows)
{
    return saturate(divide_nearest((__int128)rows * r.den * 1000000000, r.num));
}

int64_t md_rate_rows(struct md_rate r, int64_t ns)
{
    return saturate(divide_nearest((__int128)ns * r.num, (__int128)r.den * 1000000000));
}
