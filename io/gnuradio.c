/* gnuradio.c: see gnuradio.h. Magic, version, first item and number of tags are little-endian; each tag is an item's
 * number and three PMT values (key, value, source), serialised big-endian. The tags are passed over: there is nothing
 * here that they could mean.
 *
 * Trap: PMT values nest as deep as the sender likes. So they are not parsed by recursion: what counts is how many
 * values are still to come, and each takes a byte at least. */
#include "io/gnuradio.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { MAGIC = 0x5FF0, VERSION = 1, HEADER = 2 + 1 + 8 + 8 };

enum pmt {
    TRUE_,
    FALSE_,
    SYMBOL,
    INT32,
    DOUBLE,
    COMPLEX,
    NULL_,
    PAIR,
    VECTOR,
    DICT,
    UNIFORM_VECTOR,
    UINT64,
    TUPLE,
    INT64
};

struct reader {
    const uint8_t *p, *end;
};

static bool skip(struct reader *r, uint64_t n)
{
    if ((uint64_t)(r->end - r->p) < n)
        return false;
    r->p += n;
    return true;
}

static bool take_big(struct reader *r, unsigned bytes, uint64_t *ret)
{
    const uint8_t *p = r->p;

    *ret = 0;
    if (!skip(r, bytes))
        return false;
    while (p < r->p)
        *ret = *ret << 8 | *p++;
    return true;
}

/* Kind of items, their number, padding, items. */
static bool skip_uniform(struct reader *r)
{
    static const uint8_t item_bytes[] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 8, 16}; /* u8 s8 … s64 f32 f64 c32 c64 */
    uint64_t kind, n, padding;

    return take_big(r, 1, &kind) && kind < sizeof item_bytes && take_big(r, 4, &n) && take_big(r, 1, &padding) &&
           skip(r, padding) && skip(r, n * item_bytes[kind]);
}

/* One value without those within it, which are added to *left. */
static bool skip_value(struct reader *r, uint64_t *left)
{
    uint64_t kind, n = 0;

    if (!take_big(r, 1, &kind))
        return false;
    switch (kind) {
    case TRUE_:
    case FALSE_:
    case NULL_:
        return true;
    case SYMBOL:
        return take_big(r, 2, &n) && skip(r, n);
    case INT32:
        return skip(r, 4);
    case DOUBLE:
    case UINT64:
    case INT64:
        return skip(r, 8);
    case COMPLEX:
        return skip(r, 16);
    case PAIR:
    case DICT: /* pairs of a pair and the rest */
        *left += 2;
        return true;
    case VECTOR:
    case TUPLE:
        if (!take_big(r, 4, &n))
            return false;
        *left += n;
        return *left <= (uint64_t)(r->end - r->p);
    case UNIFORM_VECTOR:
        return skip_uniform(r);
    default:
        return false;
    }
}

static bool skip_tag(struct reader *r)
{
    uint64_t left = 3;

    if (!skip(r, 8))
        return false;
    for (; left; left--)
        if (!skip_value(r, &left))
            return false;
    return true;
}

static uint64_t little(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    while (bytes)
        v = v << 8 | p[--bytes];
    return v;
}

int io_gnuradio_header(const void *message, size_t bytes, uint64_t *ret_first, size_t *ret_bytes)
{
    const uint8_t *p = message;
    struct reader r = {p, p + bytes};

    if (!skip(&r, HEADER) || little(p, 2) != MAGIC || p[2] != VERSION)
        return -EBADMSG;
    for (uint64_t tags = little(p + 11, 8); tags; tags--)
        if (!skip_tag(&r))
            return -EBADMSG;
    *ret_first = little(p + 3, 8);
    *ret_bytes = (size_t)(r.p - p);
    return 0;
}
