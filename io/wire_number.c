/* wire_number.c: numbers as text without printf. io_float_write() is printf("%.9g") to the bit: nine digits keep every
 * float32, and results stay comparable with those of any other tool.
 *
 * A float has 24 bits and 10^p is an exact double up to p = 22, so v·10^p (or v/10^p) carries one rounding, of 2^-24
 * of the last digit at most. Only where the scaled value is that near to a tie may rounding it go wrong: there, and
 * beyond the exact powers, printf decides. */
#include "io/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/json_write.h"

static const double ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static const char pairs[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445"
    "46474849505152535455565758596061626364656667686970717273747576777879808182838485868788899091"
    "9293949596979899";

enum { DIGITS = 9 };

/* a ≥ 0 as d[9] and the exponent of its first digit; false: printf is to decide. */
static bool nine_digits(double a, char d[DIGITS], int *ret_exp)
{
    uint64_t bits;
    uint32_t n;
    double scaled, rest;
    int x, p;

    memcpy(&bits, &a, sizeof bits);               /* a float's value is a normal double */
    x = ((int)(bits >> 52) - 1023) * 78913 >> 18; /* floor(log10(2^e)): floor(log10 a) or one less */
    for (;; x++) {
        p = DIGITS - 1 - x;
        if (p > 22 || p < -22)
            return false;
        scaled = p >= 0 ? a * ten[p] : a / ten[-p];
        if (scaled < 1e9)
            break;
    }
    n = (uint32_t)scaled;
    rest = scaled - n;
    if (fabs(rest - 0.5) < 1e-6)
        return false;
    n += rest > 0.5;
    if (n == 1000000000) {
        n = 100000000;
        x++;
    }
    memcpy(d + 7, pairs + 2 * (n % 100), 2);
    memcpy(d + 5, pairs + 2 * (n / 100 % 100), 2);
    memcpy(d + 3, pairs + 2 * (n / 10000 % 100), 2);
    memcpy(d + 1, pairs + 2 * (n / 1000000 % 100), 2);
    d[0] = (char)('0' + n / 100000000);
    *ret_exp = x;
    return true;
}

/* Lays digits out as %g does: fixed for exponents −4 … 8, else d.ddde±XX; trailing zeros left out. */
static size_t lay_out(char *buf, const char d[DIGITS], int x)
{
    char *p = buf;
    int n = DIGITS;

    while (n > 1 && d[n - 1] == '0')
        n--;
    if (x < -4 || x >= DIGITS) {
        *p++ = d[0];
        if (n > 1)
            *p++ = '.';
        memcpy(p, d + 1, (size_t)n - 1);
        p += n - 1;
        *p++ = 'e';
        *p++ = x < 0 ? '-' : '+';
        memcpy(p, pairs + 2 * abs(x), 2);
        return (size_t)(p + 2 - buf);
    }
    if (x < 0) {
        memcpy(p, "0.000", 5);
        p += 1 - x;
        memcpy(p, d, DIGITS);
        return (size_t)(p + n - buf);
    }
    memcpy(p, d, (size_t)x + 1);
    p += x + 1;
    if (n <= x + 1)
        return (size_t)(p - buf);
    *p++ = '.';
    memcpy(p, d + x + 1, (size_t)(n - x - 1));
    return (size_t)(p + n - x - 1 - buf);
}

size_t io_float_write(char *buf, float v)
{
    size_t sign = signbit(v) ? 1 : 0;
    char d[DIGITS];
    int x;

    if (!isfinite(v)) {
        memcpy(buf, "null", 4);
        return 4;
    }
    buf[0] = '-';
    if (v == 0) {
        buf[sign] = '0';
        return sign + 1;
    }
    if (nine_digits(fabs((double)v), d, &x))
        return sign + lay_out(buf + sign, d, x);
    return (size_t)snprintf(buf, 24, "%.9g", (double)v);
}

static void write_float(struct io_out *o, float v)
{
    char text[24];
    io_out_bytes(o, text, io_float_write(text, v));
}

void io_out_u64(struct io_out *o, uint64_t v)
{
    char text[20];
    unsigned at = sizeof text;

    for (; v >= 100; v /= 100) {
        at -= 2;
        memcpy(text + at, pairs + 2 * (v % 100), 2);
    }
    if (v >= 10) {
        at -= 2;
        memcpy(text + at, pairs + 2 * v, 2);
    } else {
        text[--at] = (char)('0' + v);
    }
    io_out_bytes(o, text + at, sizeof text - at);
}

void io_out_i64(struct io_out *o, int64_t v)
{
    if (v < 0)
        IO_OUT_LIT(o, "-");
    io_out_u64(o, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

/* v as a decimal fraction of at most six places; the caller has seen that it is one. */
static void decimal(struct io_out *o, double v)
{
    uint64_t micro = (uint64_t)llround(fabs(v) * 1e6);
    char d[7] = ".";
    size_t n = 7;

    for (uint64_t k = 6, rest = micro % 1000000; k > 0; k--, rest /= 10)
        d[k] = (char)('0' + rest % 10);
    while (d[n - 1] == '0')
        n--;
    if (v < 0)
        IO_OUT_LIT(o, "-");
    io_out_u64(o, micro / 1000000);
    io_out_bytes(o, d, n > 1 ? n : 0);
}

static bool is_decimal(double v, double *ret)
{
    *ret = nearbyint(v * 1e6) / 1e6;
    return fabs(v) < 1e9;
}

void io_out_level(struct io_out *o, float v)
{
    double d;

    if (is_decimal(v, &d) && (float)d == v)
        decimal(o, d);
    else
        write_float(o, v);
}

void io_out_real(struct io_out *o, double v)
{
    char text[32];
    double d;
    int len = 0;

    if (!isfinite(v)) {
        IO_OUT_LIT(o, "null");
    } else if (is_decimal(v, &d) && d == v) {
        decimal(o, v);
    } else {
        for (int digits = 6; digits <= 17; digits++) {
            len = snprintf(text, sizeof text, "%.*g", digits, v);
            if (strtod(text, NULL) == v)
                break;
        }
        io_out_bytes(o, text, (size_t)len);
    }
}
