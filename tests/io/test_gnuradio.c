/* test_gnuradio.c: headers of gr-zeromq's pass_tags, as GNU Radio 3.10 writes them, whole, cut and hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/gnuradio.h"

/* One PMT value of every kind: GNU Radio's own bytes (pmt.serialize_str). */
static const char *const values[] = {
    "00",
    "01",
    "06",
    "0200026162",
    "0300000005",
    "0d0000010000000000",
    "0b0000000000000007",
    "043ff8000000000000",
    "053ff00000000000004000000000000000",
    "0703000000010300000002",
    "080000000203000000030300000003",
    "0c0000000203000000010300000002",
    "0a080000000201003f80000040000000",
    "0a0b0000000101003ff00000000000003ff0000000000000",
    "0a00000000030100010203",
    "0a030000000101000001",
    "0a060000000101000000000000000001",
    "0a0a0000000101003f80000000000000",
    "09070200016b030000000906",
};
enum { N_VALUES = sizeof values / sizeof *values, ROOM = 1 << 20 };

static size_t put_little(uint8_t *to, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(v >> 8 * i);
    return bytes;
}

static size_t put_hex(uint8_t *to, const char *hex)
{
    size_t n = 0;

    for (; hex[2 * n]; n++) {
        char byte[3] = {hex[2 * n], hex[2 * n + 1], 0};
        to[n] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return n;
}

static size_t put_head(uint8_t *to, uint64_t first, uint64_t tags)
{
    size_t n = put_little(to, 0x5FF0, 2);

    to[n++] = 1;
    n += put_little(to + n, first, 8);
    return n + put_little(to + n, tags, 8);
}

/* Exactly as long as said, so that a byte read too far is seen. */
static int parse(const uint8_t *message, size_t bytes, uint64_t *first, size_t *header)
{
    uint8_t *exact = malloc(bytes ? bytes : 1);
    int r;

    memcpy(exact, message, bytes);
    r = io_gnuradio_header(exact, bytes, first, header);
    free(exact);
    return r;
}

static void headers_are_passed_over(void **state)
{
    uint8_t *m = malloc(ROOM);
    uint64_t first;
    size_t n = put_head(m, 123456789012, N_VALUES), header;

    for (int i = 0; i < N_VALUES; i++) {
        n += put_little(m + n, (uint64_t)i, 8);
        n += put_hex(m + n, values[i]);
        n += put_hex(m + n, values[(i * 7 + 3) % N_VALUES]);
        n += put_hex(m + n, values[(i * 5 + 1) % N_VALUES]);
    }
    memset(m + n, 0x5a, 64); /* items */
    assert_int_equal(parse(m, n + 64, &first, &header), 0);
    assert_true(first == 123456789012 && header == n);
    assert_int_equal(parse(m, n, &first, &header), 0);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(parse(m, cut, &first, &header), -EBADMSG);
    free(m);
}

static void what_is_none_is_refused(void **state)
{
    static const char *const bad[] = {
        "0e",
        "ff",
        "0a0c0000000001",
        "0affffffffff",
        "0a0bffffffff00",
        "08ffffffff",
        "0cffffffff0000",
        "02ffff61",
        "08ffffffff08ffffffff",
    };
    uint8_t m[256];
    uint64_t first;
    size_t header, n = put_head(m, 1, 0);

    assert_int_equal(parse(m, n, &first, &header), 0);
    for (unsigned i = 0; i < 3; i++) { /* magic and version */
        m[i] ^= 0x10;
        assert_int_equal(parse(m, n, &first, &header), -EBADMSG);
        m[i] ^= 0x10;
    }
    put_head(m, 1, UINT64_MAX);
    assert_int_equal(parse(m, n, &first, &header), -EBADMSG);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        n = put_head(m, 1, 1);
        n += put_little(m + n, 0, 8);
        n += put_hex(m + n, bad[i]);
        memset(m + n, 6, 32); /* values enough, were this one right */
        assert_int_equal(parse(m, n + 32, &first, &header), -EBADMSG);
    }
}

/* As deep as a message is long. */
static void depth_costs_nothing(void **state)
{
    uint8_t *m = malloc(ROOM);
    uint64_t first;
    size_t n = put_head(m, 0, 1), header, depth = 400000;

    n += put_little(m + n, 0, 8);
    memset(m + n, 7, depth); /* pairs of pairs of pairs … */
    n += depth;
    memset(m + n, 6, depth + 3);
    n += depth + 3;
    assert_int_equal(parse(m, n, &first, &header), 0);
    assert_int_equal(header, n);
    assert_int_equal(parse(m, n - 1, &first, &header), -EBADMSG);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_passed_over),
        cmocka_unit_test(what_is_none_is_refused),
        cmocka_unit_test(depth_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
