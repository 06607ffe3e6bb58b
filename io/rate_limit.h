/* rate_limit.h: so much a second and no more, by a clock that is told: a bucket that holds what a second may bring. Who
 * takes more than it holds is let through, and the bucket stays shut until that is made up for. One thread. */
#ifndef IO_RATE_LIMIT_H
#define IO_RATE_LIMIT_H

#include <stdint.h>

struct io_rate_limit {
    int64_t per_s;   /* up to 1e9; 0: no limit */
    int64_t even_ns; /* when what was taken is made up for */
};

int64_t io_rate_limit_opens(const struct io_rate_limit *l); /* from this time on there is something to be had */
void io_rate_limit_take(struct io_rate_limit *l, uint64_t n, int64_t now_ns);

#endif
