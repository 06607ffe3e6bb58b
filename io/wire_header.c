/* wire_header.c: ingest headers: dtype and shape, and what else the sender says. Any thread; out is the caller's.
 *
 * Hostile text is the normal case here. Whatever is wrong is said by a reason and a text, and nothing is taken from
 * such a header. A key that stands twice is refused: senders and proxies disagree on which one counts. */
#include "io/wire.h"

#include <errno.h>
#include <string.h>

#include "io/json_scan.h"
#include "io/utf8.h"

size_t io_dtype_bytes(enum io_dtype d)
{
    static const unsigned char bytes[] = {
        [IO_D_F32] = 4, [IO_D_F64] = 8, [IO_D_I16] = 2, [IO_D_I32] = 4, [IO_D_I64] = 8, [IO_D_U8] = 1, [IO_D_I8] = 1};
    return bytes[d];
}

/* numpy's names */
static int parse_dtype(const char *name, size_t len, enum io_dtype *ret)
{
    static const struct {
        const char *name;
        size_t len;
    } names[] = {
        [IO_D_F32] = {"float32", 7}, [IO_D_F64] = {"float64", 7}, [IO_D_I16] = {"int16", 5}, [IO_D_I32] = {"int32", 5},
        [IO_D_I64] = {"int64", 5},   [IO_D_U8] = {"uint8", 5},    [IO_D_I8] = {"int8", 4}};

    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].len == len && !memcmp(names[i].name, name, len)) {
            *ret = (enum io_dtype)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* Unicode's Cc: C0, DEL and C1. */
static bool control(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0);
}

bool io_id_valid(const char *id, size_t len)
{
    size_t n;

    if (len == 0 || len > IO_ID_MAX)
        return false;
    for (const char *end = id + len; id < end; id += n) {
        uint32_t c = (unsigned char)*id;
        n = c < 0x80 ? 1 : io_utf8_step(id, (size_t)(end - id), &c);
        if (!n || control(c))
            return false;
    }
    return true;
}

/* ---- one function per key ---- */

struct scan {
    struct io_json json;
    struct io_header *out;
    enum io_reason why;
};

static int refuse(struct scan *s, enum io_reason why, const char *text)
{
    s->why = why;
    s->json.error = text;
    return -EBADMSG;
}

static int read_dtype(struct scan *s)
{
    char name[16];
    size_t len;

    if (io_json_string(&s->json, name, sizeof name, &len))
        return -EBADMSG;
    if (len >= sizeof name || parse_dtype(name, len, &s->out->dtype))
        return refuse(s, IO_R_DTYPE, "dtype is none of float32 float64 int16 int32 int64 uint8 int8");
    return 0;
}

static int read_shape(struct scan *s)
{
    unsigned n = 0;
    int64_t v;
    int r;

    if (io_json_expect(&s->json, '['))
        return -EBADMSG;
    while ((r = io_json_more(&s->json, ']', &n)) > 0) {
        if (io_json_int(&s->json, &v))
            return -EBADMSG;
        if (n > 2 || v < 0 || (n == 2 && v == 0))
            return refuse(s, IO_R_SHAPE, "shape is neither [n] nor [n, channels]");
        s->out->shape[n - 1] = (uint64_t)v;
    }
    if (r == 0 && n == 0)
        return refuse(s, IO_R_SHAPE, "shape is neither [n] nor [n, channels]");
    s->out->ndim = n;
    return r;
}

static int read_stream(struct scan *s)
{
    size_t len;

    if (io_json_null(&s->json))
        return 0;
    if (io_json_string(&s->json, s->out->stream, sizeof s->out->stream, &len))
        return -EBADMSG;
    if (!io_id_valid(s->out->stream, len))
        return refuse(s, IO_R_ID, "stream is not 1 to 200 bytes of text without control characters");
    return 0;
}

static int read_seq(struct scan *s)
{
    if (io_json_null(&s->json))
        return 0;
    if (io_json_int(&s->json, &s->out->seq))
        return -EBADMSG;
    if (s->out->seq < 0 || s->out->seq >= (int64_t)1 << 62) /* seq + rows must not overflow, for anyone */
        return refuse(s, IO_R_MALFORMED, "seq is negative or beyond 2^62");
    return 0;
}

/* A decimal string: JSON numbers beyond 2^53 do not survive many senders. */
static int read_t_ns(struct scan *s)
{
    char text[24];
    size_t len;
    struct io_json digits;

    if (io_json_null(&s->json))
        return 0;
    if (io_json_peek(&s->json) != '"')
        return refuse(s, IO_R_MALFORMED, "t_ns is not a decimal string");
    if (io_json_string(&s->json, text, sizeof text, &len))
        return -EBADMSG;
    io_json_init(&digits, text, len < sizeof text ? len : 0);
    if (io_json_int(&digits, &s->out->t_ns) || digits.p != digits.end || text[0] == ' ')
        return refuse(s, IO_R_MALFORMED, "t_ns is not a decimal string");
    return s->out->t_ns != IO_T_NONE ? 0 : refuse(s, IO_R_MALFORMED, "t_ns is out of range");
}

static int read_rate(struct scan *s)
{
    if (io_json_null(&s->json))
        return 0;
    if (io_json_real(&s->json, &s->out->rate))
        return -EBADMSG;
    if (s->out->rate < 0 || s->out->rate > 1e9 || (s->out->rate > 0 && s->out->rate < 1e-9))
        return refuse(s, IO_R_RATE, "rate is neither 0 nor from 1e-9 to 1e9 Hz");
    return 0;
}

static int read_flags(struct scan *s)
{
    static const char *const names[] = {"start", "end", "reset", "gap"};
    static const uint32_t bits[] = {IO_START, IO_END, IO_RESET, IO_GAP};
    char name[8];
    unsigned n = 0, i;
    size_t len;
    int r;

    if (io_json_null(&s->json))
        return 0;
    if (io_json_expect(&s->json, '['))
        return -EBADMSG;
    while ((r = io_json_more(&s->json, ']', &n)) > 0) {
        if (io_json_string(&s->json, name, sizeof name, &len))
            return -EBADMSG;
        for (i = 0; i < 4 && (strlen(names[i]) != len || memcmp(names[i], name, len)); i++)
            ;
        if (i == 4)
            return refuse(s, IO_R_MALFORMED, "flags holds something other than start, end, reset and gap");
        s->out->flags |= bits[i];
    }
    return r;
}

/* ---- the object ---- */

static const struct key {
    const char *name;
    size_t len;
    int (*read)(struct scan *);
} keys[] = {
    {"dtype", 5, read_dtype}, {"shape", 5, read_shape}, {"stream", 6, read_stream}, {"seq", 3, read_seq},
    {"t_ns", 4, read_t_ns},   {"rate", 4, read_rate},   {"flags", 5, read_flags},
};
enum { N_KEYS = sizeof keys / sizeof *keys, REQUIRED = 3 /* dtype and shape */ };

static int member(struct scan *s, unsigned *seen)
{
    char name[8];
    size_t len;

    if (io_json_string(&s->json, name, sizeof name, &len) || io_json_expect(&s->json, ':'))
        return -EBADMSG;
    for (unsigned i = 0; i < N_KEYS; i++) {
        if (keys[i].len != len || memcmp(keys[i].name, name, len))
            continue;
        if (*seen & 1u << i)
            return refuse(s, IO_R_MALFORMED, "a key stands twice");
        *seen |= 1u << i;
        return keys[i].read(s);
    }
    return io_json_skip(&s->json);
}

static int object(struct scan *s)
{
    unsigned n = 0, seen = 0;
    int r;

    if (io_json_expect(&s->json, '{'))
        return -EBADMSG;
    while ((r = io_json_more(&s->json, '}', &n)) > 0) {
        if (member(s, &seen))
            return -EBADMSG;
    }
    if (r || io_json_end(&s->json))
        return -EBADMSG;
    return (seen & REQUIRED) == REQUIRED ? 0 : refuse(s, IO_R_MALFORMED, "dtype or shape is missing");
}

int io_header_parse(const char *text, size_t len, struct io_header *out, enum io_reason *ret_why, const char **ret_text)
{
    struct scan s = {.out = out, .why = IO_R_MALFORMED};

    io_json_init(&s.json, text, len);
    out->ndim = 0;
    out->shape[0] = 0;
    out->shape[1] = 1;
    out->stream[0] = '\0';
    out->seq = IO_SEQ_NONE;
    out->t_ns = IO_T_NONE;
    out->rate = -1;
    out->flags = 0;
    if (!object(&s))
        return 0;
    *ret_why = s.why;
    *ret_text = s.json.error;
    return -EBADMSG;
}
