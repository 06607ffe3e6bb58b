/* test_bytes.c: byte streams through the daemon: what is said of a stream depends on its own bytes only, not on how
 * they were cut into messages or what shared the batch; what is no byte is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#include "tests/daemon/service.h"

enum { STREAMS = 12, BYTES = 900 };

static unsigned chance;

static const char config[] = "models: {m: {path: '24x2,4,256', device: cpu, slots: 40, threads: %u}}\n"
                             "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n"
                             "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"
                             "streams:\n"
                             "  's*1': {publish: {surprise: {every: 3}}}\n"
                             "  '*': {publish: {surprise: true, prediction: {every: 50}}}\n"
                             "batch: {max_delay: %s, max_streams: %u}\n";

static uint8_t byte_of(unsigned stream, unsigned i)
{
    unsigned h = (i * 2654435761u + stream * 40503u) >> 7;

    return (uint8_t)(h % 11 == 0 ? '\n' : h % 13 == 0 ? h : 'a' + h % 26);
}

/* Bytes [200, 210) and 400 are missing. */
static bool present(unsigned i)
{
    return !(i >= 200 && i < 210) && i != 400;
}

static void send_some(struct service *s, unsigned stream, unsigned *at, unsigned most)
{
    uint8_t bytes[BYTES];
    char header[256];
    unsigned n = 0;

    while (*at < BYTES && !present(*at))
        ++*at;
    while (n < most && *at + n < BYTES && present(*at + n)) {
        bytes[n] = byte_of(stream, *at + n);
        n++;
    }
    snprintf(header, sizeof header, "{\"dtype\":\"uint8\",\"shape\":[%u],\"stream\":\"s%02u\",\"seq\":%u}", n, stream,
             *at);
    if (n)
        service_send_frames(s, 0, header, bytes, n, NULL, 0);
    *at += n;
}

static json_t *run(struct service *s, unsigned from, unsigned to, unsigned most, const char *delay, unsigned batch)
{
    char yaml[2048];

    snprintf(yaml, sizeof yaml, config, 1 + most % 2, delay, batch);
    service_start(s, yaml, MD_PRESETS);
    service_send_mixed(s, from, to, BYTES, most, &chance, send_some);
    return service_stop(s);
}

static void assert_same(json_t *a, json_t *b, const char *stream)
{
    static const char *const families[] = {"surprise", "prediction", "anomaly"};

    for (unsigned f = 0; f < sizeof families / sizeof *families; f++)
        assert_same_rows(a, b, families[f], stream);
}

static void test_own_bytes_only(void **state)
{
    struct service s;
    json_t *together, *other, *alone;
    char id[16];

    chance = 4711;
    together = run(&s, 0, STREAMS, 200, "2ms", 1024);
    service_done(&s);
    other = run(&s, 0, STREAMS, 9, "0ms", 5);
    service_done(&s);
    for (unsigned i = 0; i < STREAMS; i++) {
        snprintf(id, sizeof id, "s%02u", i);
        assert_same(together, other, id);
        struct texts t = texts_rows(together, "surprise", id);
        assert_int_equal(t.n, i % 10 == 1 ? (BYTES - 11) / 3 : BYTES - 11);
        texts_free(&t);
        t = texts_rows(together, "prediction", id);
        assert_int_equal(t.n, i % 10 == 1 ? (BYTES - 11) / 50 : (BYTES - 11) / 50);
        texts_free(&t);
        assert_int_equal(events_of(together, id, "gap"), 2);
    }
    alone = run(&s, 3, 4, BYTES, "2ms", 1024);
    service_done(&s);
    assert_same(together, alone, "s03");
    json_decref(together);
    json_decref(other);
    json_decref(alone);
}

struct tally {
    long long rows, bytes, longest, tail, ends;
};

/* Records follow each other without a hole. */
static struct tally tally_of(json_t *lines)
{
    struct tally t = {0};
    json_t *o, *span;
    size_t i, k;
    json_array_foreach(lines, i, o)
    {
        json_t *spans = json_object_get(o, "spans");
        const char *event = json_string_value(json_object_get(o, "event"));
        if (event && strcmp(event, "end") == 0) {
            t.tail = json_integer_value(json_object_get(o, "count"));
            t.ends++;
        }
        if (!spans)
            continue;
        assert_int_equal(json_integer_value(json_object_get(o, "seq")), t.bytes);
        assert_true(json_is_null(json_object_get(o, "stride")) && json_is_null(json_object_get(o, "span")));
        assert_int_equal(json_array_size(spans), json_array_size(json_object_get(o, "data")));
        json_array_foreach(spans, k, span)
        {
            t.rows++;
            t.bytes += json_integer_value(span);
            t.longest = json_integer_value(span) > t.longest ? json_integer_value(span) : t.longest;
        }
    }
    return t;
}

/* The first byte of an epoch has no surprise; a prediction's row is about the byte ahead. */
static void test_rows(void **state)
{
    struct service s;
    unsigned at = 0;
    char yaml[1024];

    snprintf(yaml, sizeof yaml, config, 1u, "0ms", 8u);
    service_start(&s, yaml, MD_PRESETS);
    send_some(&s, 0, &at, 100);
    service_end(&s, 0, "s00");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    json_t *lines = service_stop(&s), *o;
    struct tally t = tally_of(lines);
    assert_true(t.rows > 3 && t.ends == 1 && t.bytes < 100);
    assert_int_equal(t.bytes + t.tail, 100); /* what has not ended is no record */
    size_t i, surprises = 0;
    json_array_foreach(lines, i, o)
    {
        const char *topic = json_string_value(json_object_get(o, "topic"));
        json_int_t seq = json_integer_value(json_object_get(o, "seq"));
        json_t *data = json_object_get(o, "data");
        if (strncmp(topic, "surprise/", 9) == 0 && seq == 0)
            assert_true(json_is_null(json_array_get(data, 0)));
        if (strncmp(topic, "surprise/", 9) == 0)
            surprises += json_array_size(data);
        if (strncmp(topic, "prediction/", 11) != 0)
            continue;
        assert_true(seq == 50 || seq == 100);
        assert_int_equal(json_array_size(json_array_get(data, 0)), 256);
        assert_null(json_object_get(o, "quantiles"));
    }
    assert_int_equal(surprises, 100);
    json_decref(lines);
    service_done(&s);
}

static struct tally records(const char *keys, uint64_t least, uint64_t *ret_cut)
{
    static const char text[] = "models: {m: {path: '24x2,4,256', device: cpu, slots: 4, threads: 1}}\n"
                               "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', format: bytes%s}}\n"
                               "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"
                               "batch: {max_delay: 0ms}\n";
    struct service s;
    char yaml[1024], bytes[110];
    snprintf(yaml, sizeof yaml, text, keys);
    service_start(&s, yaml, MD_PRESETS);
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = i % 15 == 14 ? '\n' : i % 7 == 3 ? ';' : 'x';
    for (unsigned at = 0; at < sizeof bytes; at += 11)
        zmq_send(s.push[0], bytes + at, 11, 0);
    service_wait(&s, "inputs.in0.accepted_samples_total", sizeof bytes);
    service_wait(&s, "inputs.in0.records_total", least);
    *ret_cut = service_count(&s, "inputs.in0.records_cut_total");
    json_t *lines = service_stop(&s);
    struct tally t = tally_of(lines);
    json_decref(lines);
    service_done(&s);
    return t;
}

static void test_records(void **state)
{
    uint64_t cut;
    struct tally t = records("", 7, &cut);
    assert_int_equal(t.rows, 7);
    assert_int_equal(t.bytes, 105);
    assert_int_equal(cut, 0);
    t = records(", delimiter: ';'", 15, &cut);
    assert_int_equal(t.rows, 15);
    assert_int_equal(t.bytes, 109);
    t = records(", delimiter: none, max_record: 16", 6, &cut);
    assert_int_equal(t.rows, 6);
    assert_int_equal(t.longest, 16);
    assert_int_equal(cut, 0);
    t = records(", max_record: 10B", 14, &cut);
    assert_int_equal(t.rows, 14);
    assert_int_equal(t.longest, 10);
    assert_int_equal(cut, 7);
}

static void test_no_bytes(void **state)
{
    static const float x[6] = {1, 2, 3, 4, 5, 6};
    struct service s;
    char yaml[1024];

    snprintf(yaml, sizeof yaml, config, 1u, "0ms", 8u);
    service_start(&s, yaml, MD_PRESETS);
    service_send(&s, 0, "floats", x, 6, 1, "");
    service_send(&s, 0, "flags", x, 0, 1, ",\"flags\":[\"reset\"]"); /* of no rows the dtype says nothing */
    service_send_frames(&s, 0, "{\"dtype\":\"uint8\",\"shape\":[2,3],\"stream\":\"wide\"}", x, 6, NULL, 0);
    service_wait(&s, "inputs.in0.input_errors_total.dtype", 1);
    service_wait(&s, "inputs.in0.input_errors_total.shape", 1);
    service_wait(&s, "inputs.in0.stream_starts_total", 1);
    json_decref(service_stop(&s));
    service_done(&s);
}

static void write_log(const char *path, const char *mode, const char *text)
{
    FILE *f = fopen(path, mode);

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* What is told of a file comes between the request and the rows that it is for. */
static void test_reset_before_a_rotation(void **state)
{
    static const char text[] = "models: {m: {path: '24x2,4,256', device: cpu, slots: 4, threads: 1}}\n"
                               "inputs: {in0: {type: bytes, files: DIR/log, follow: true, poll: 10ms, stream: log}}\n"
                               "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n";
    struct service s;
    char path[96], new[96];

    service_start(&s, text, MD_PRESETS);
    snprintf(path, sizeof path, "%s/log", s.dir);
    snprintf(new, sizeof new, "%s/new", s.dir);
    write_log(path, "w", "one\ntwo\n");
    service_wait(&s, "inputs.in0.accepted_samples_total", 8);
    assert_int_equal(md_daemon_reset(s.daemon, "log"), 1);
    write_log(new, "w", "three\n");
    assert_int_equal(rename(new, path), 0);
    service_wait(&s, "inputs.in0.accepted_samples_total", 14);
    json_t *lines = service_stop(&s);
    assert_int_equal(events_of(lines, "log", "gap"), 1);
    assert_int_equal(events_of(lines, "log", "reset"), 1);
    assert_string_equal(json_string_value(json_object_get(event_of(lines, "log", "reset"), "reason")), "sender");
    json_decref(lines);
    service_done(&s);
}

static void start_again(struct service *s)
{
    char reterr[IO_ERR] = "";

    assert_int_equal(md_daemon_stop(&s->daemon, 10000000000), 0);
    assert_int_equal(md_daemon_start(s->config, MD_PRESETS, &s->daemon, reterr), 0);
}

/* Asked for where a restored stream has its source again, but no rows yet: the next restart knows of it. */
static void test_reset_between_two_restarts(void **state)
{
    static const char text[] = "models: {m: {path: '24x2,4,256', device: cpu, slots: 4, threads: 1}}\n"
                               "inputs: {in0: {type: bytes, files: DIR/log, follow: true, poll: 10ms, stream: log}}\n"
                               "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"
                               "state: {dir: DIR/state}\n";
    struct service s;
    char path[96];

    service_start(&s, text, MD_PRESETS);
    snprintf(path, sizeof path, "%s/log", s.dir);
    write_log(path, "w", "one\ntwo\n");
    service_wait(&s, "inputs.in0.accepted_samples_total", 8);
    start_again(&s);
    while (md_daemon_reset(s.daemon, "log") == 0)
        usleep(1000);
    start_again(&s);
    write_log(path, "a", "three\n");
    service_wait(&s, "inputs.in0.accepted_samples_total", 6);
    json_t *lines = service_stop(&s);
    assert_int_equal(events_of(lines, "log", "restore"), 1);
    assert_int_equal(events_of(lines, "log", "reset"), 1);
    assert_int_equal(json_integer_value(json_object_get(event_of(lines, "log", "reset"), "seq")), 8);
    json_decref(lines);
    service_done(&s);
}

static int sweep(void **state)
{
    service_sweep();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_bytes_only),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_no_bytes),
        cmocka_unit_test(test_reset_before_a_rotation),
        cmocka_unit_test(test_reset_between_two_restarts),
    };

    return cmocka_run_group_tests(tests, NULL, sweep);
}
