/* test_pipeline.c: the pipeline from socket to file keeps the promises: a stream's rows and keys depend on its own
 * samples only, not on how they were cut into messages, on what shared the batch, or on the pace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/daemon/service.h"

enum { STREAMS = 50, ROWS = 700 };

static unsigned chance;

/* Stream i: its own signal, its own holes, missing values and channels. */
static size_t channels_of(unsigned i)
{
    return i % 7 == 3 ? 3 : 1;
}

static float value(unsigned i, unsigned row, size_t c)
{
    if ((row * 7 + i * 13 + c * 5) % 101 == 0)
        return NAN;
    return 1e3f * (float)(i % 3) + sinf(0.05f * (float)(row + 17 * i)) * (float)(i + 1) +
           0.1f * (float)((row * 2654435761u + i * 40503u + (unsigned)c * 97u) % 1000) / 1000 +
           (row == 555 ? 40.0f : 0.0f) + (float)c;
}

/* Rows are numbered; [200 + i, 209 + i] and row 400 are missing. */
static bool present(unsigned i, unsigned row)
{
    return !(row >= 200 + i && row < 210 + i) && row != 400;
}

/* The next run of rows of stream i from *row on, of at most `most` rows. */
static void send_some(struct service *s, unsigned i, unsigned *row, unsigned most)
{
    static float x[ROWS * 3];
    char id[16], extra[64];
    size_t C = channels_of(i);
    unsigned n = 0;

    while (*row < ROWS && !present(i, *row))
        ++*row;
    while (n < most && *row + n < ROWS && present(i, *row + n)) {
        for (size_t c = 0; c < C; c++)
            x[n * C + c] = value(i, *row + n, c);
        n++;
    }
    snprintf(id, sizeof id, "s%02u", i);
    snprintf(extra, sizeof extra, ",\"seq\":%u,\"t_ns\":\"%llu\"", *row, 1700000000000000000ull + *row * 10000000ull);
    if (n)
        service_send(s, 0, id, x, n, C, extra);
    *row += n;
}

static const char config[] =
    "models: {m: {path: MODEL, device: cpu, slots: 200, threads: %u}}\n"
    "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', rate: 100}}\n"
    "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"
    "streams:\n"
    "  's*1': {nan: skip, publish: {prediction: {every: 3, horizon: 2, quantiles: [0.5]}, anomaly: {every: 2}}}\n"
    "  's*2': {nan: hold, gap: {max: 50ms}}\n"
    "  's*4': {nan: reset, alarm: {p: 0.02}}\n"
    "  '*': {publish: {channel_anomaly: true}}\n"
    "batch: {max_delay: %s, max_streams: %u}\n";

static json_t *run(struct service *s, unsigned from, unsigned to, unsigned most, const char *delay, unsigned batch)
{
    char yaml[2048];

    snprintf(yaml, sizeof yaml, config, 1 + most % 2, delay, batch);
    service_start(s, yaml, 0);
    service_send_mixed(s, from, to, ROWS, most, &chance, send_some);
    return service_stop(s);
}

static void assert_same(json_t *a, json_t *b, const char *stream)
{
    static const char *const families[] = {"prediction", "embedding", "anomaly", "channel_anomaly"};

    for (unsigned f = 0; f < 4; f++)
        assert_same_rows(a, b, families[f], stream);
    struct texts ea = texts_events(a, stream), eb = texts_events(b, stream);
    for (size_t i = 0; i < ea.n && i < eb.n; i++)
        assert_string_equal(ea.v[i], eb.v[i]);
    if (ea.n != eb.n)
        fail_msg("%s: %zu events against %zu; the last are\n%s\n%s", stream, ea.n, eb.n, ea.v[ea.n - 1],
                 eb.v[eb.n - 1]);
    texts_free(&ea);
    texts_free(&eb);
}

static void test_batch_mix_and_cutting(void **state)
{
    struct service s;
    json_t *together, *other, *alone;
    char id[16];

    (void)state;
    chance = 4711;
    printf("seed %u\n", chance);
    together = run(&s, 0, STREAMS, 64, "2ms", 1024);
    service_done(&s);
    other = run(&s, 0, STREAMS, 9, "0ms", 7);
    service_done(&s);
    for (unsigned i = 0; i < STREAMS; i++) {
        snprintf(id, sizeof id, "s%02u", i);
        assert_same(together, other, id);
    }
    for (unsigned i = 0; i < 5; i++) { /* one of each kind, alone */
        unsigned which[] = {0, 11, 22, 34, 3};
        alone = run(&s, which[i], which[i] + 1, 700, "1ms", 1);
        snprintf(id, sizeof id, "s%02u", which[i]);
        assert_same(together, alone, id);
        json_decref(alone);
        service_done(&s);
    }
    json_decref(together);
    json_decref(other);
}

/* Message by message: evenly spaced, numbered without holes, t_ns on the stream's clock, shapes and keys as they must
 * be. */
static void check_message(json_t *o, long long *next_out)
{
    const char *topic = json_string_value(json_object_get(o, "topic"));
    json_t *shape = json_object_get(o, "shape");
    long long seq = json_integer_value(json_object_get(o, "seq")), n = json_integer_value(json_array_get(shape, 0));
    long long stride = json_integer_value(json_object_get(o, "stride"));

    assert_int_equal(json_integer_value(json_object_get(o, "v")), 1);
    assert_int_equal(json_integer_value(json_object_get(o, "out_seq")), *next_out);
    *next_out += n;
    assert_true(n > 0);
    assert_string_equal(json_string_value(json_object_get(o, "model")), "m");
    assert_true(json_integer_value(json_object_get(o, "latency_us")) >= 0);
    assert_float_equal(json_number_value(json_object_get(o, "rate")), 100, 0);
    assert_int_equal(strtoll(json_string_value(json_object_get(o, "t_ns")), NULL, 10),
                     1700000000000000000 + seq * 10000000);
    if (strncmp(topic, "prediction", 10) == 0) {
        assert_int_equal(json_array_size(shape), 4);
        assert_int_equal(stride, strstr(topic, "/s01/") ? 12 : 4);
        assert_int_equal(json_integer_value(json_object_get(o, "span")), strstr(topic, "/s01/") ? 2 : 6);
    } else if (strncmp(topic, "embedding", 9) == 0) {
        assert_int_equal(stride, 4);
        assert_int_equal(json_integer_value(json_object_get(o, "span")), 4);
        assert_int_equal(json_array_size(shape), 3);
    } else {
        assert_int_equal(stride, 1);
        assert_int_equal(json_array_size(shape), strncmp(topic, "anomaly", 7) == 0 ? 2 : 3);
    }
}

static void test_keys(void **state)
{
    static const char *const families[] = {"prediction", "embedding", "anomaly", "channel_anomaly"};
    struct service s;
    json_t *lines, *o;
    size_t i;

    (void)state;
    lines = run(&s, 0, 5, 50, "1ms", 1024);
    for (unsigned k = 0; k < 5; k++) {
        for (unsigned f = 0; f < 4; f++) {
            char topic[64];
            long long next_out = 0;
            snprintf(topic, sizeof topic, "%s/s%02u/", families[f], k);
            json_array_foreach(lines, i, o) if (strcmp(json_string_value(json_object_get(o, "topic")), topic) == 0)
                check_message(o, &next_out);
            /* s01: every 3rd and 2nd step; s04: resets cut patches short, so fewer */
            if (k == 0) /* 689 rows: 172 steps */
                assert_int_equal(next_out, f < 2 ? 172 : 688);
            if (k == 1)
                assert_int_equal(next_out, f == 0 ? 57 : f == 1 ? 172 : f == 2 ? 344 : 688);
        }
    }
    json_decref(lines);
    service_done(&s);
}

static void test_events(void **state)
{
    struct service s;
    json_t *lines, *gap;

    (void)state;
    lines = run(&s, 0, 5, 30, "1ms", 1024);
    assert_int_equal(events_of(lines, "s00", "start"), 1);
    assert_int_equal(events_of(lines, "s00", "end"), 1);
    assert_int_equal(events_of(lines, "s00", "gap"), 2);
    assert_int_equal(events_of(lines, "s00", "reset"), 0);
    gap = event_of(lines, "s00", "gap");
    assert_int_equal(json_integer_value(json_object_get(gap, "from_seq")), 200);
    assert_int_equal(json_integer_value(json_object_get(gap, "to_seq")), 209);
    assert_int_equal(json_integer_value(json_object_get(gap, "count")), 10);
    assert_true(json_is_true(json_object_get(gap, "bridged")));
    assert_int_equal(json_integer_value(json_object_get(event_of(lines, "s00", "end"), "count")),
                     1); /* 689 = 4·172 + 1 */
    /* gap.max 50 ms: the hole of ten samples resets, that of one is bridged */
    assert_int_equal(events_of(lines, "s02", "reset"), 1);
    assert_string_equal(json_string_value(json_object_get(event_of(lines, "s02", "reset"), "reason")), "gap");
    assert_int_equal(json_integer_value(json_object_get(event_of(lines, "s02", "end"), "epoch")), 1);
    /* nan: reset: six or seven missing values, each dropped and an epoch's end */
    assert_true(events_of(lines, "s04", "reset") >= 6);
    assert_int_equal(events_of(lines, "s04", "reset"), events_of(lines, "s04", "drop"));
    assert_true(events_of(lines, NULL, "start") == 5 && events_of(lines, NULL, "end") == 5);
    json_decref(lines);
    service_done(&s);
}

static int sweep(void **state)
{
    (void)state;
    service_sweep();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_mix_and_cutting),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_events),
    };

    return cmocka_run_group_tests(tests, NULL, sweep);
}
