/* rate_limit.c: see rate_limit.h. The whole bucket is one time: it is full while that has passed, and each thing that
 * is taken moves it on by its share of a second. Pure functions. */
#include "io/rate_limit.h"

static const int64_t second_ns = 1000000000;

static int64_t cost_ns(const struct io_rate_limit *l, uint64_t n)
{
    unsigned __int128 ns = (unsigned __int128)n * (uint64_t)second_ns / (uint64_t)l->per_s;

    return ns < INT64_MAX / 4 ? (int64_t)ns : INT64_MAX / 4; /* no clock gets so far */
}

int64_t io_rate_limit_opens(const struct io_rate_limit *l)
{
    return l->per_s ? l->even_ns + cost_ns(l, 1) - second_ns : INT64_MIN;
}

void io_rate_limit_take(struct io_rate_limit *l, uint64_t n, int64_t now_ns)
{
    int64_t from;

    if (!l->per_s)
        return;
    from = l->even_ns > now_ns ? l->even_ns : now_ns;
    l->even_ns = from < INT64_MAX / 2 ? from + cost_ns(l, n) : from;
}
