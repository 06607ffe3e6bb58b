/* json_scan.c: the scanner behind wire headers. Any thread; reads s->p … s->end only and never past it: texts are
 * not NUL-terminated. Trap: strtod() wants a terminator and honours the locale, so it sees only a bounded copy, and
 * only the rare numbers that the exact path cannot do. */
#include "io/json_scan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/utf8.h"

static int fail(struct io_json *s, const char *why)
{
    s->error = why;
    return -EBADMSG;
}

void io_json_init(struct io_json *s, const char *text, size_t len)
{
    *s = (struct io_json){.p = text, .end = text + len};
}

char io_json_peek(struct io_json *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
        s->p++;
    return s->p < s->end ? *s->p : '\0';
}

int io_json_expect(struct io_json *s, char c)
{
    if (io_json_peek(s) != c || s->p == s->end)
        return fail(s, "not valid JSON");
    s->p++;
    return 0;
}

int io_json_end(struct io_json *s)
{
    io_json_peek(s);
    return s->p == s->end ? 0 : fail(s, "text after the JSON object");
}

int io_json_more(struct io_json *s, char close, unsigned *n)
{
    char c = io_json_peek(s);

    if (c == close) {
        s->p++;
        return 0;
    }
    if ((*n)++) {
        if (c != ',')
            return fail(s, "comma or closing bracket expected");
        s->p++;
    }
    return 1;
}

/* ---- strings ---- */

static int hex4(struct io_json *s, uint32_t *ret)
{
    uint32_t v = 0;

    if (s->end - s->p < 4)
        return fail(s, "bad \\u escape");
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)*s->p++, lower = c | 0x20;
        if (c >= '0' && c <= '9')
            v = v << 4 | (c - '0');
        else if (lower >= 'a' && lower <= 'f')
            v = v << 4 | (lower - 'a' + 10u);
        else
            return fail(s, "bad \\u escape");
    }
    *ret = v;
    return 0;
}

/* After "\u": one code point, from a surrogate pair where it begins one. */
static int escaped_char(struct io_json *s, uint32_t *ret)
{
    uint32_t low;

    if (hex4(s, ret))
        return -EBADMSG;
    if (*ret < 0xd800 || *ret > 0xdfff)
        return 0;
    if (*ret > 0xdbff || s->end - s->p < 2 || s->p[0] != '\\' || s->p[1] != 'u')
        return fail(s, "lone surrogate in a string");
    s->p += 2;
    if (hex4(s, &low))
        return -EBADMSG;
    if (low < 0xdc00 || low > 0xdfff)
        return fail(s, "lone surrogate in a string");
    *ret = 0x10000 + ((*ret - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

/* One escape at s->p (after the backslash) into out[4]. */
static int escape(struct io_json *s, char *out, size_t *ret_len)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    uint32_t c;
    const char *at;

    if (s->p == s->end)
        return fail(s, "unfinished string");
    if (*s->p == 'u') {
        s->p++;
        if (escaped_char(s, &c))
            return -EBADMSG;
        *ret_len = io_utf8_put(out, c);
        return 0;
    }
    at = *s->p ? strchr(from, *s->p) : NULL;
    if (!at)
        return fail(s, "bad escape in a string");
    s->p++;
    out[0] = to[at - from];
    *ret_len = 1;
    return 0;
}

/* ASCII that stands for itself, from p on: eight bytes at a time. A byte's top bit in `stop` is set where the byte is a
 * quote, a backslash, below 0x20 or above 0x7f; borrows only make false ones above a true one. */
static const char *plain_ascii(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101;
    uint64_t w, quote, backslash, stop;

    for (; end - p >= 8; p += 8) {
        memcpy(&w, p, sizeof w);
        quote = w ^ ones * '"';
        backslash = w ^ ones * '\\';
        stop = (w | (w - ones * 0x20) | (quote - ones) | (backslash - ones)) & ones * 0x80;
        if (stop)
            return p + (__builtin_ctzll(stop) >> 3); /* little-endian, as the wire format itself */
    }
    while (p < end && (unsigned char)*p - 0x20u < 0x60u && *p != '"' && *p != '\\')
        p++;
    return p;
}

/* What stands for itself from s->p on, at least one character unless something is wrong. */
static size_t plain(struct io_json *s)
{
    const char *p = plain_ascii(s->p, s->end);
    uint32_t c;

    if (p > s->p)
        return (size_t)(p - s->p);
    if ((unsigned char)*p < 0x20) {
        fail(s, "control character in a string");
        return 0;
    }
    p += io_utf8_step(p, (size_t)(s->end - p), &c);
    if (p == s->p)
        fail(s, "not valid UTF-8");
    return (size_t)(p - s->p);
}

int io_json_string(struct io_json *s, char *buf, size_t cap, size_t *ret_len)
{
    size_t len = 0, n;
    char piece[4];

    if (io_json_expect(s, '"'))
        return fail(s, "string expected");
    for (; s->p < s->end && *s->p != '"'; len += n) {
        const char *from = s->p;
        if (*s->p == '\\') {
            s->p++;
            if (escape(s, piece, &n))
                return -EBADMSG;
            from = piece;
        } else {
            n = plain(s);
            if (!n)
                return -EBADMSG;
            s->p += n;
        }
        if (len + 1 < cap)
            memcpy(buf + len, from, n < cap - 1 - len ? n : cap - 1 - len);
    }
    if (s->p == s->end)
        return fail(s, "unfinished string");
    s->p++;
    if (cap)
        buf[len < cap ? len : cap - 1] = '\0';
    *ret_len = len;
    return 0;
}

/* ---- numbers ---- */

struct number {
    const char *from, *to;
    bool negative, integer; /* integer: no fraction, no exponent */
    uint64_t digits;        /* up to 19 significant ones */
    int exp10;              /* value = digits · 10^exp10 where exact */
    bool exact;
};

/* Takes one digit into the number; `places` is −1 after the point. */
static void digit(struct number *n, unsigned d, int places)
{
    if (n->digits < UINT64_MAX / 10 - 1) {
        n->digits = n->digits * 10 + d;
        n->exp10 += places;
    } else {
        n->exact = false;
    }
}

static bool digits(struct io_json *s, struct number *n, int places)
{
    const char *from = s->p;

    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        digit(n, (unsigned)(*s->p - '0'), places);
    return s->p > from;
}

static int exponent(struct io_json *s, struct number *n)
{
    bool minus = s->p < s->end && *s->p == '-';
    int e = 0;
    const char *from;

    if (s->p < s->end && (*s->p == '-' || *s->p == '+'))
        s->p++;
    for (from = s->p; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        e = e < 100000 ? e * 10 + (*s->p - '0') : e;
    n->exp10 += minus ? -e : e;
    return s->p > from ? 0 : fail(s, "bad number");
}

/* The grammar of RFC 8259, which is narrower than strtod's: no leading zeros or '+', no "1.", no NaN or Infinity. */
static int number(struct io_json *s, struct number *n)
{
    *n = (struct number){.integer = true, .exact = true};
    n->negative = io_json_peek(s) == '-';
    n->from = s->p;
    s->p += n->negative;
    if (s->p < s->end && *s->p == '0')
        s->p++;
    else if (!digits(s, n, 0))
        return fail(s, "number expected");
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        n->integer = false;
        if (!digits(s, n, -1))
            return fail(s, "bad number");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        n->integer = false;
        if (exponent(s, n))
            return -EBADMSG;
    }
    n->to = s->p;
    if (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        return fail(s, "number with a leading zero");
    return 0;
}

int io_json_int(struct io_json *s, int64_t *ret)
{
    struct number n;

    if (number(s, &n))
        return -EBADMSG;
    if (!n.integer)
        return fail(s, "integer expected");
    if (!n.exact || n.digits > (uint64_t)INT64_MAX + n.negative)
        return fail(s, "integer out of range");
    *ret = n.negative ? (int64_t)(0 - n.digits) : (int64_t)n.digits;
    return 0;
}

static int real_slow(struct io_json *s, const struct number *n, double *ret)
{
    char copy[400];
    size_t len = (size_t)(n->to - n->from);

    if (len >= sizeof copy)
        return fail(s, "number too long");
    memcpy(copy, n->from, len);
    copy[len] = '\0';
    *ret = strtod(copy, NULL);
    return isfinite(*ret) ? 0 : fail(s, "number out of range");
}

int io_json_real(struct io_json *s, double *ret)
{
    static const double ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    struct number n;
    double v;

    if (number(s, &n))
        return -EBADMSG;
    /* both factors are exact doubles, so the one operation rounds once (Clinger 1990) */
    if (!n.exact || n.digits > (uint64_t)1 << 53 || n.exp10 < -22 || n.exp10 > 22)
        return real_slow(s, &n, ret);
    v = (double)n.digits;
    v = n.exp10 < 0 ? v / ten[-n.exp10] : v * ten[n.exp10];
    *ret = n.negative ? -v : v;
    return 0;
}

/* ---- anything ---- */

static bool literal(struct io_json *s, const char *word, size_t len)
{
    if ((size_t)(s->end - s->p) < len || memcmp(s->p, word, len))
        return false;
    s->p += len;
    return true;
}

bool io_json_null(struct io_json *s)
{
    return io_json_peek(s) == 'n' && literal(s, "null", 4);
}

static int scalar(struct io_json *s)
{
    struct number n;
    size_t len;
    char c = io_json_peek(s);

    if (c == '"')
        return io_json_string(s, NULL, 0, &len);
    if (c == '-' || (c >= '0' && c <= '9'))
        return number(s, &n);
    if (literal(s, "true", 4) || literal(s, "false", 5) || literal(s, "null", 4))
        return 0;
    return fail(s, "not valid JSON");
}

/* Opens what stands at s->p where it is a bracket (1), else skips a scalar (0). */
static int open_or_scalar(struct io_json *s, char *close)
{
    char c = io_json_peek(s);

    if (c != '{' && c != '[')
        return scalar(s);
    s->p++;
    *close = c == '{' ? '}' : ']';
    return 1;
}

int io_json_skip(struct io_json *s)
{
    char close[IO_JSON_DEPTH];
    unsigned count[IO_JSON_DEPTH], depth = 0;
    size_t len;

    do {
        int r = depth ? io_json_more(s, close[depth - 1], &count[depth - 1]) : 1;
        if (r < 0)
            return r;
        if (r == 0) {
            depth--;
            continue;
        }
        if (depth && close[depth - 1] == '}' && (io_json_string(s, NULL, 0, &len) || io_json_expect(s, ':')))
            return -EBADMSG;
        if (depth == IO_JSON_DEPTH)
            return fail(s, "nested too deep");
        count[depth] = 0;
        r = open_or_scalar(s, &close[depth]);
        if (r < 0)
            return r;
        depth += (unsigned)r;
    } while (depth);
    return 0;
}
