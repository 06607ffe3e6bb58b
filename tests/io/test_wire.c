/* test_wire.c: ingest headers (good, wrong, hostile and mutated), topics, published headers, numbers, rows.
 * Random parts print their seed; MAMBAD_SEED repeats one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json_scan.h"
#include "io/stream_id.h"
#include "io/wire.h"
#include "tests/seed.h"

static uint64_t seed;

static uint64_t next_random(void)
{
    seed += 0x9e3779b97f4a7c15;
    uint64_t z = seed;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* The text stands at the end of its own allocation, so that a read past it is seen by the sanitizer. */
static int parse_n(const char *text, size_t len, struct io_header *h, enum io_reason *why)
{
    char *copy = malloc(len ? len : 1);
    const char *said = NULL;
    int r;

    memcpy(copy, text, len);
    *why = IO_R_COUNT;
    r = io_header_parse(copy, len, h, why, &said);
    if (r) {
        assert_int_equal(r, -EBADMSG);
        assert_true(*why < IO_R_COUNT);
        assert_non_null(said);
    }
    free(copy);
    return r;
}

static struct io_header good(const char *text)
{
    struct io_header h;
    enum io_reason why;

    if (parse_n(text, strlen(text), &h, &why))
        fail_msg("refused (%s): %s", io_reason_name(why), text);
    return h;
}

static void wrong(enum io_reason expected, const char *text)
{
    struct io_header h;
    enum io_reason why;

    if (!parse_n(text, strlen(text), &h, &why))
        fail_msg("taken: %s", text);
    if (why != expected)
        fail_msg("%s instead of %s: %s", io_reason_name(why), io_reason_name(expected), text);
}

static void good_headers(void **state)
{
    struct io_header h = good("{\"dtype\": \"float32\", \"shape\": [64]}"); /* pyzmq's recipe */
    assert_int_equal(h.dtype, IO_D_F32);
    assert_int_equal(h.ndim, 1);
    assert_int_equal(h.shape[0], 64);
    assert_string_equal(h.stream, "");
    assert_true(h.seq == IO_SEQ_NONE && h.t_ns == IO_T_NONE && h.rate == -1 && h.flags == 0);

    h = good(
        " {\"rate\":1e2,\"t_ns\":\"-5\",\"seq\":4611686018427387903,\"flags\":[\"start\",\"gap\",\"reset\",\"end\"],"
        "\"other\":{\"a\":[1,-2.5e-3,null,true,{\"b\":\"\\u00e9\\ud83d\\ude00\\n\"}],\"\":{}},"
        "\"stream\":\"caf\\u00e9/\\u0041\\/\",\"shape\":[0,3],\"dtype\":\"int8\"}\r\n\t ");
    assert_int_equal(h.dtype, IO_D_I8);
    assert_int_equal(h.ndim, 2);
    assert_int_equal(h.shape[0], 0);
    assert_int_equal(h.shape[1], 3);
    assert_string_equal(h.stream, "caf\xc3\xa9/A/");
    assert_true(h.seq == 4611686018427387903 && h.t_ns == -5 && h.rate == 100);
    assert_int_equal(h.flags, IO_START | IO_GAP | IO_RESET | IO_END);

    h = good(
        "{\"dtype\":\"float64\",\"shape\":[1],\"t_ns\":null,\"seq\":null,\"rate\":null,\"stream\":null,\"flags\":[]}");
    assert_true(h.seq == IO_SEQ_NONE && h.t_ns == IO_T_NONE && h.rate == -1 && h.stream[0] == 0);
    assert_true(good("{\"dtype\":\"uint8\",\"shape\":[1],\"rate\":0}").rate == 0);
    assert_true(good("{\"dtype\":\"uint8\",\"shape\":[1],\"rate\":0.1}").rate == 0.1);
    assert_true(good("{\"dtype\":\"uint8\",\"shape\":[1],\"rate\":360.000000000000000001}").rate == 360);
    assert_true(good("{\"d\\u0074ype\":\"uint8\",\"shape\":[1]}").dtype == IO_D_U8);
    assert_true(good("{\"dtype\":\"int16\",\"shape\":[1],\"t_ns\":\"9223372036854775807\"}").t_ns == INT64_MAX);
}

static void wrong_headers(void **state)
{
    static const struct {
        enum io_reason why;
        const char *text;
    } cases[] = {
        {IO_R_MALFORMED, ""},
        {IO_R_MALFORMED, "{"},
        {IO_R_MALFORMED, "{}"},
        {IO_R_MALFORMED, "[]"},
        {IO_R_MALFORMED, "null"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\"}"},
        {IO_R_MALFORMED, "{\"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1]} x"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1]}{}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],}"},
        {IO_R_MALFORMED, "{,\"dtype\":\"float32\",\"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\" \"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\" \"float32\",\"shape\":[1]}"},
        {IO_R_MALFORMED, "{'dtype':'float32','shape':[1]}"},
        {IO_R_MALFORMED, "{dtype:\"float32\",\"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"dtype\":\"float32\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"shape\":[2]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":1,\"s\\u0065q\":2}"},
        {IO_R_MALFORMED, "{\"dtype\":32,\"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":null,\"shape\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1.5]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1e2]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[01]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[+1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[99999999999999999999]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":64}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1,]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":-1}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":1.0}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":4611686018427387904}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":9223372036854775808}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"seq\":\"1\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":1700000000000000000}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"1 \"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\" 1\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"1e9\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"0x10\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"9223372036854775808\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"-9223372036854775808\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"t_ns\":\"10000000000000000000000000000000\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":NaN}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":Infinity}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1e999}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1.}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":.5}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1e}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":-}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":\"100\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"flags\":\"end\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"flags\":[\"stop\"]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"flags\":[\"startstart\"]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"flags\":[1]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":5}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"a\nb\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\\ud800\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\\udc00\\ud800\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\\x41\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\\u12g4\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\\u00"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\xff\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\xc0\xaf\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\xed\xa0\x80\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"note\":\"\xf5\x80\x80\x80\"}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"x\":tru}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"x\":[1 2]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"x\":[}]}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"x\":{\"a\" 1}}"},
        {IO_R_MALFORMED, "{\"dtype\":\"float32\",\"shape\":[1],\"x\":{1:1}}"},
        {IO_R_DTYPE, "{\"dtype\":\"complex64\",\"shape\":[1]}"},
        {IO_R_DTYPE, "{\"dtype\":\">f4\",\"shape\":[1]}"},
        {IO_R_DTYPE, "{\"dtype\":\"float321\",\"shape\":[1]}"},
        {IO_R_DTYPE, "{\"dtype\":\"\",\"shape\":[1]}"},
        {IO_R_DTYPE, "{\"dtype\":\"float32float32float32float32\",\"shape\":[1]}"},
        {IO_R_SHAPE, "{\"dtype\":\"float32\",\"shape\":[]}"},
        {IO_R_SHAPE, "{\"dtype\":\"float32\",\"shape\":[1,1,1]}"},
        {IO_R_SHAPE, "{\"dtype\":\"float32\",\"shape\":[-1]}"},
        {IO_R_SHAPE, "{\"dtype\":\"float32\",\"shape\":[5,0]}"},
        {IO_R_RATE, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":-1}"},
        {IO_R_RATE, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1e10}"},
        {IO_R_RATE, "{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1e-300}"},
        {IO_R_ID, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"\"}"},
        {IO_R_ID, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"a\\u0000b\"}"},
        {IO_R_ID, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"a\\u007fb\"}"},
        {IO_R_ID, "{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"a\xc2\x85\"}"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        wrong(cases[i].why, cases[i].text);
}

/* A header with `middle` repeated n times between two texts. */
static char *repeated(const char *before, const char *middle, unsigned n, const char *after)
{
    size_t len = strlen(middle);
    char *text = malloc(strlen(before) + n * len + strlen(after) + 1), *p = text + sprintf(text, "%s", before);

    for (unsigned i = 0; i < n; i++, p += len)
        memcpy(p, middle, len);
    strcpy(p, after);
    return text;
}

static void sizes_are_limited(void **state)
{
    char *text, *full;

    for (unsigned depth = IO_JSON_DEPTH - 1; depth <= IO_JSON_DEPTH + 1; depth++) {
        text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"x\":", "[", depth, "");
        full = repeated(text, "]", depth, "}");
        wrong(IO_R_MALFORMED, text);
        if (depth <= IO_JSON_DEPTH)
            good(full);
        else
            wrong(IO_R_MALFORMED, full);
        free(text);
        free(full);
    }
    text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"x\":", "{\"a\":", 100000, "");
    wrong(IO_R_MALFORMED, text);
    free(text);
    text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"", "x", IO_ID_MAX, "\"}");
    assert_int_equal(strlen(good(text).stream), IO_ID_MAX);
    free(text);
    text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"", "x", IO_ID_MAX + 1, "\"}");
    wrong(IO_R_ID, text);
    free(text);
    text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"stream\":\"a", "\xc3\xa9", 100, "\"}"); /* 201 bytes */
    wrong(IO_R_ID, text);
    free(text);
    text = repeated("{\"dtype\":\"float32\",\"shape\":[1],\"rate\":1", "0", 500, "}");
    wrong(IO_R_MALFORMED, text);
    free(text);
    text = repeated("{\"dtype\":\"float32\",\"shape\":[", "1,", 1000, "1]}");
    wrong(IO_R_SHAPE, text);
    free(text);
}

/* Whatever the scanner takes, jansson (strict, DOM) takes too and reads the same from it. */
static void agree_with_jansson(const char *text, size_t len)
{
    struct io_header h;
    enum io_reason why;
    json_error_t error;

    if (parse_n(text, len, &h, &why))
        return;
    json_t *root = json_loadb(text, len, JSON_ALLOW_NUL, &error);
    if (!root) {
        /* jansson keeps every number in a double or int64 and refuses what does not fit; unknown keys may hold such */
        assert_true(strstr(error.text, "too ") || strstr(error.text, "overflow"));
        return;
    }
    json_t *shape = json_object_get(root, "shape");
    assert_int_equal(json_array_size(shape), h.ndim);
    for (unsigned i = 0; i < h.ndim; i++)
        assert_int_equal(json_integer_value(json_array_get(shape, i)), h.shape[i]);
    json_t *seq = json_object_get(root, "seq"), *rate = json_object_get(root, "rate");
    if (json_is_integer(seq))
        assert_int_equal(json_integer_value(seq), h.seq);
    if (json_is_number(rate))
        assert_true(json_number_value(rate) == h.rate);
    json_t *stream = json_object_get(root, "stream");
    if (json_is_string(stream))
        assert_string_equal(json_string_value(stream), h.stream);
    json_decref(root);
}

static void mutated_headers_are_survived(void **state)
{
    static const char *const seeds[] = {
        "{\"dtype\": \"float32\", \"shape\": [64, 2], \"stream\": \"a/b\", \"seq\": 12, \"t_ns\": \"170\", \"rate\": "
        "1e2}",
        "{\"flags\":[\"start\",\"end\"],\"x\":{\"y\":[[],{},null,true,false,-1.5E+3]},\"shape\":[1],\"dtype\":"
        "\"int64\"}",
        "{\"stream\":\"\\u00e9\\ud83d\\ude00\\\\\\\"\xc3\xa9\xf0\x9f\x98\x80\",\"dtype\":\"uint8\",\"shape\":[3],"
        "\"rate\":0.1}",
    };
    static const char spice[] = "{}[]\",:\\u0019eE+-. ndtf\xc3\xa9\xff\x80/";
    char text[512];
    static const char overflow[] = "{\"x\":-1.5E+353,\"shape\":[1],\"dtype\":\"int64\"}";
    unsigned taken = 0;

    agree_with_jansson(overflow, sizeof overflow - 1);
    for (unsigned round = 0; round < 200000; round++) {
        const char *from = seeds[next_random() % 3];
        size_t len = strlen(from);
        memcpy(text, from, len);
        for (unsigned n = (unsigned)(next_random() % 4); n-- > 0 && len;) {
            size_t at = next_random() % len, span = next_random() % 9;
            switch (next_random() % 5) {
            case 0:
                text[at] = (char)next_random();
                break;
            case 1:
                text[at] = spice[next_random() % (sizeof spice - 1)];
                break;
            case 2:
                len = at;
                break;
            case 3: /* a piece again, elsewhere */
                span = span < len - at ? span : len - at;
                if (len + span < sizeof text) {
                    memmove(text + at + span, text + at, len - at);
                    len += span;
                }
                break;
            default: /* a piece gone */
                span = span < len - at ? span : len - at;
                memmove(text + at, text + at + span, len - at - span);
                len -= span;
            }
        }
        agree_with_jansson(text, len);
        struct io_header h;
        enum io_reason why;
        taken += !parse_n(text, len, &h, &why);
    }
    assert_true(taken > 20000); /* the loop sees both sides */
    assert_true(taken < 190000);
}

static void ids_and_topics(void **state)
{
    char topic[IO_TOPIC_MAX], long_id[IO_ID_MAX + 1];

    assert_true(io_id_valid("a", 1));
    assert_true(io_id_valid("r\xc3\xa9gie \xe6\xb8\xa9\xe5\xba\xa6/1", 15));
    assert_false(io_id_valid("", 0));
    assert_false(io_id_valid("a\tb", 3));
    assert_false(io_id_valid("\xe6\xb8", 2));
    assert_false(io_id_valid("a\xc2\x9f", 3));

    assert_int_equal(io_topic_write(topic, IO_ANOMALY, "plant-1_a.b:c"), strlen("anomaly/plant-1_a.b:c/"));
    assert_string_equal(topic, "anomaly/plant-1_a.b:c/");
    io_topic_write(topic, IO_PREDICTION, "log/a b.h5:/\xc3\xa9%~");
    assert_string_equal(topic, "prediction/log%2Fa%20b.h5:%2F%C3%A9%25%7E/");
    io_topic_write(topic, IO_SYS, "heartbeat");
    assert_string_equal(topic, "sys/heartbeat/");
    memset(long_id, ' ', IO_ID_MAX);
    long_id[IO_ID_MAX] = '\0';
    assert_int_equal(io_topic_write(topic, IO_CHANNEL_ANOMALY, long_id), 17 + 3 * IO_ID_MAX);
    for (unsigned c = 1; c < 256; c++) {
        char id[2] = {(char)c, 0};
        bool plain = c < 128 && (strchr("_.:-", (int)c) || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                                 (c >= 'A' && c <= 'Z'));
        assert_int_equal(io_topic_write(topic, IO_EVENT, id), plain ? 8 : 10);
    }
}

static void templates(void **state)
{
    struct io_id_parts parts = {.input = "in", .topic = "t/x", .stream = "s"}, none = {.input = ""};
    char id[IO_ID_MAX + 1], err[IO_ERR], long_name[IO_ID_MAX + 2];

    assert_int_equal(io_id_expand("{input}:{topic}:{stream}", &parts, id), 0);
    assert_string_equal(id, "in:t/x:s");
    assert_int_equal(io_id_expand("plain", &parts, id), 0);
    assert_string_equal(id, "plain");
    assert_int_equal(io_id_check("{input}-{topic}{stream}", &parts, err), 0);
    assert_int_equal(io_id_check("{path}", &parts, err), -EINVAL);
    assert_non_null(strstr(err, "{path}"));
    assert_int_equal(io_id_check("{topic}", &none, err), -EINVAL);
    assert_int_equal(io_id_check("{inp}", &parts, err), -EINVAL);
    assert_int_equal(io_id_check("a{input", &parts, err), -EINVAL);
    assert_int_equal(io_id_check("a}", &parts, err), -EINVAL);
    assert_int_equal(io_id_check("{{input}}", &parts, err), -EINVAL);
    assert_int_equal(io_id_check("", &parts, err), -EINVAL);
    memset(long_name, 'x', sizeof long_name);
    long_name[IO_ID_MAX + 1] = '\0';
    parts.stream = long_name;
    assert_int_equal(io_id_expand("{stream}", &parts, id), -ENAMETOOLONG);
    long_name[IO_ID_MAX] = '\0';
    assert_int_equal(io_id_expand("{stream}", &parts, id), 0);
    parts.stream = "";
    assert_int_equal(io_id_expand("{stream}", &parts, id), -EINVAL);
}

static struct io_message message(enum io_family family)
{
    static const float quantiles[] = {0.1f, 0.5f, 0.9f};
    return (struct io_message){.family = family,
                               .stream = "plant/\"7\"\\",
                               .model = "fc",
                               .run = 3,
                               .out_seq = 77,
                               .epoch = 2,
                               .seq = 1024,
                               .stride = 16,
                               .span = 96,
                               .t_ns = 1700000000123456789,
                               .rate = 33.3,
                               .exact = true,
                               .latency_us = 412,
                               .ndim = 4,
                               .shape = {1, 2, 96, 3},
                               .quantiles = quantiles,
                               .n_quantiles = 3,
                               .from_seq = IO_SEQ_NONE,
                               .to_seq = IO_SEQ_NONE,
                               .count = -1};
}

static json_t *json_of(const struct io_message *m)
{
    char buf[IO_JSON_MAX];
    json_error_t error;
    size_t len = io_message_json(buf, sizeof buf, m);
    json_t *root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &error);

    if (!root)
        fail_msg("%s in %.*s", error.text, (int)len, buf);
    assert_int_equal(buf[0], '{');
    assert_int_equal(buf[len - 1], '}');
    for (size_t cap = 0; cap < len; cap++) {
        char *tight = malloc(cap ? cap : 1);
        assert_int_equal(io_message_json(tight, cap, m), 0);
        free(tight);
    }
    return root;
}

static void published_headers(void **state)
{
    static const char *const common[] = {"v",    "stream", "model",   "run",   "epoch", "seq",    "stride",    "span",
                                         "t_ns", "rate",   "out_seq", "dtype", "shape", "warmup", "latency_us"};
    struct io_message m = message(IO_PREDICTION);
    json_t *j = json_of(&m);

    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        assert_non_null(json_object_get(j, common[i]));
    assert_string_equal(json_string_value(json_object_get(j, "stream")), m.stream);
    assert_string_equal(json_string_value(json_object_get(j, "t_ns")), "1700000000123456789");
    assert_true(json_real_value(json_object_get(j, "rate")) == 33.3);
    assert_true(json_is_false(json_object_get(j, "warmup")));
    assert_null(json_object_get(j, "exact"));
    assert_int_equal(json_array_size(json_object_get(j, "shape")), 4);
    assert_true(json_real_value(json_array_get(json_object_get(j, "quantiles"), 0)) == 0.1);
    json_decref(j);

    m = message(IO_ANOMALY);
    m.ndim = 2;
    m.shape[1] = 3;
    m.t_ns = IO_T_NONE;
    m.rate = 0;
    m.warmup = true;
    m.exact = false;
    j = json_of(&m);
    assert_true(json_is_null(json_object_get(j, "t_ns")));
    assert_true(json_is_false(json_object_get(j, "exact")));
    assert_true(json_is_true(json_object_get(j, "warmup")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "columns"), 1)), "p_value");
    assert_null(json_object_get(j, "quantiles"));
    json_decref(j);
}

static void published_events(void **state)
{
    struct io_message m = message(IO_EVENT);
    uint64_t last[IO_FAMILIES] = {5, 6, 7, 0, 0, 9, 9};
    json_t *j;

    m.ndim = 0;
    m.event = "error";
    m.reason = "no \xff\xfe file\n";
    m.from_seq = 10;
    m.bridged = true;
    j = json_of(&m);
    assert_string_equal(json_string_value(json_object_get(j, "reason")), "no \xef\xbf\xbd\xef\xbf\xbd file\n");
    assert_int_equal(json_integer_value(json_object_get(j, "from_seq")), 10);
    assert_null(json_object_get(j, "to_seq"));
    assert_null(json_object_get(j, "count"));
    assert_true(json_is_true(json_object_get(j, "bridged")));
    json_decref(j);

    m = message(IO_SYS);
    m.ndim = 0;
    m.stream = "heartbeat";
    m.uptime_s = 12.25;
    m.last_out_seq = last;
    j = json_of(&m);
    assert_true(json_real_value(json_object_get(j, "uptime_s")) == 12.25);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "last_out_seq"), "anomaly")), 7);
    assert_int_equal(json_integer_value(json_object_get(j, "run")), 3);
    json_decref(j);
}

/* The worst texts still give a header: they are cut, at whole characters. */
static void long_names_are_cut(void **state)
{
    char name[2000], id[IO_ID_MAX + 1];
    float quantiles[32];
    struct io_message m = message(IO_EVENT);

    for (size_t i = 0; i + 3 < sizeof name; i += 3)
        memcpy(name + i, "\xe6\xb8\xa9", 4);
    for (int i = 0; i < 32; i++)
        quantiles[i] = 0.123456789f + (float)i * 0.01f;
    memset(id, '"', IO_ID_MAX);
    id[IO_ID_MAX] = '\0';
    m.stream = id;
    m.model = m.reason = name;
    m.event = "anomaly_start";
    m.ndim = 0;
    m.quantiles = quantiles;
    m.n_quantiles = 32;
    json_t *j = json_of(&m);
    assert_int_equal(json_string_length(json_object_get(j, "reason")) % 3, 0);
    json_decref(j);
    memset(name, 1, sizeof name - 1);
    name[sizeof name - 1] = '\0';
    json_decref(json_of(&m));
    m.family = IO_PREDICTION;
    json_decref(json_of(&m));
}

static void check_float(float v)
{
    char ours[64] = {0}, theirs[64];

    size_t len = io_float_write(ours, v);
    assert_true(len <= 24);
    ours[len] = '\0';
    snprintf(theirs, sizeof theirs, "%.9g", (double)v);
    if (!isfinite(v))
        strcpy(theirs, "null");
    if (strcmp(ours, theirs))
        fail_msg("%a: %s instead of %s", (double)v, ours, theirs);
}

static void floats_are_printf(void **state)
{
    static const float odd[] = {0.0f,         -0.0f,        1.0f,         0.1f,          1e-4f,          9.99999e-5f,
                                1e9f,         999999999.0f, 123456789.0f, 3.4028235e38f, 1.1754944e-38f, 1e-45f,
                                100000.0625f, 65536.0625f,  0.5f,         16777216.0f,   1e10f,          1e22f,
                                1e30f,        1e31f,        1e-14f,       1e-15f,        99999.9921875f, 8388607.5f};

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        check_float(odd[i]);
        check_float(-odd[i]);
        check_float(nextafterf(odd[i], INFINITY));
        check_float(nextafterf(odd[i], -INFINITY));
    }
    check_float(NAN);
    check_float(INFINITY);
    check_float(-INFINITY);
    for (unsigned i = 0; i < 1000000; i++) { /* every bit pattern is as likely as any other */
        uint32_t bits = (uint32_t)next_random();
        float v;
        memcpy(&v, &bits, sizeof v);
        check_float(v);
    }
    for (unsigned i = 0; i < 500000; i++) { /* few bits: ties in the ninth digit, whole numbers, short decimals */
        float v = (float)(int32_t)(next_random() % 2000000) / (float)(1u << next_random() % 24);
        check_float(v);
        check_float((float)((double)(next_random() % 100000000) / 1000.0));
    }
}

static void rows_of_every_dtype(void **state)
{
    static const float f32[] = {1.5f, -2.25f, 0};
    static const double f64[] = {1e9 + 0.125, -3, 1e300};
    static const int16_t i16[] = {-32768, 32767, 5};
    static const int32_t i32[] = {INT32_MIN, INT32_MAX, 16777217};
    static const int64_t i64[] = {-((int64_t)1 << 53), ((int64_t)1 << 53) - 1, 7};
    static const uint8_t u8[] = {0, 255, 128};
    static const int8_t i8[] = {-128, 127, 1};
    const struct {
        enum io_dtype dtype;
        const void *src;
        double is[3];
    } cases[] = {
        {IO_D_F32, f32, {1.5, -2.25, 0}},
        {IO_D_F64, f64, {1e9 + 0.125, -3, 1e300}},
        {IO_D_I16, i16, {-32768, 32767, 5}},
        {IO_D_I32, i32, {INT32_MIN, INT32_MAX, 16777217}},
        {IO_D_I64, i64, {-9007199254740992.0, 9007199254740991.0, 7}},
        {IO_D_U8, u8, {0, 255, 128}},
        {IO_D_I8, i8, {-128, 127, 1}},
    };

    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        enum io_dtype d = cases[k].dtype;
        unsigned char odd[32]; /* libzmq's payloads stand at any address */
        double out[3];
        float out32[3];
        memcpy(odd + 1, cases[k].src, 3 * io_dtype_bytes(d));
        io_rows_convert(out, IO_F64, odd + 1, d, 3, 1, 0);
        io_rows_convert(out32, IO_F32, odd + 1, d, 3, 0.5, 3);
        for (int i = 0; i < 3; i++) {
            assert_true(out[i] == cases[k].is[i]);
            assert_true(out32[i] == (float)(cases[k].is[i] * 0.5 + 3));
        }
        assert_int_equal(io_dtype_sample(d), io_dtype_bytes(d) <= 2 || d == IO_D_F32 ? IO_F32 : IO_F64);
    }
    uint8_t bytes[3];
    io_rows_convert(bytes, IO_U8, u8, IO_D_U8, 3, 1, 0);
    assert_memory_equal(bytes, u8, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers),        cmocka_unit_test(wrong_headers),
        cmocka_unit_test(sizes_are_limited),   cmocka_unit_test(mutated_headers_are_survived),
        cmocka_unit_test(ids_and_topics),      cmocka_unit_test(templates),
        cmocka_unit_test(published_headers),   cmocka_unit_test(published_events),
        cmocka_unit_test(long_names_are_cut),  cmocka_unit_test(floats_are_printf),
        cmocka_unit_test(rows_of_every_dtype),
    };

    seed = test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
