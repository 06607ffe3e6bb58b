/* test_device.c: a daemon on a device that works by itself (fake_device/): batches overlap and every row is the same;
 * a device that fails, and memory that ends, are errors of the streams they hit; what is not exact is said to be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tests/daemon/service.h"

#define YAML                                                                                                           \
    "models: {m: {path: MODEL, device: %s, slots: 8, threads: 1}}\n"                                                   \
    "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n"                                                         \
    "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"                                                             \
    "batch: {max_delay: 1ms}\n"

enum { STREAMS = 5, MESSAGES = 40, ROWS = 11 };

static const char *const names[STREAMS] = {"a", "b", "c", "d", "e"};

static void start(struct service *s, const char *device)
{
    char yaml[1024];

    snprintf(yaml, sizeof yaml, YAML, device);
    service_start(s, yaml, 0);
}

static void send(struct service *s, unsigned stream, unsigned message)
{
    float x[ROWS];

    for (unsigned i = 0; i < ROWS; i++)
        x[i] = (float)((message * ROWS + i) * (stream + 3) % 101) - 0.5f * (float)stream;
    service_send(s, 0, names[stream], x, ROWS, 1, "");
}

static json_t *run(const char *device)
{
    struct service s;
    json_t *lines;

    start(&s, device);
    for (unsigned m = 0; m < MESSAGES; m++)
        for (unsigned i = 0; i < STREAMS; i++)
            send(&s, i, m);
    service_wait(&s, "inputs.in0.accepted_samples_total", STREAMS * MESSAGES * ROWS);
    lines = service_stop(&s);
    service_done(&s);
    return lines;
}

static void test_same_rows(void **state)
{
    static const char *const families[] = {"prediction", "embedding", "anomaly"};
    json_t *cpu = run("cpu"), *device = run("cuda");

    (void)state;
    for (unsigned f = 0; f < 3; f++) {
        struct texts a = texts_rows(cpu, families[f], NULL), b = texts_rows(device, families[f], NULL);
        assert_true(a.n > 0);
        assert_int_equal(a.n, b.n);
        for (size_t i = 0; i < a.n; i++)
            assert_string_equal(a.v[i], b.v[i]);
        texts_free(&a);
        texts_free(&b);
    }
    json_decref(cpu);
    json_decref(device);
}

/* The rows of the failed batch, of the one that was filled meanwhile and all that come after are lost and said to be:
 * streams that are there, and one that comes. */
static void test_failed_device(void **state)
{
    struct service s;
    json_t *lines;

    (void)state;
    setenv("FAKE_DEVICE_FAIL_AT", "3", 1);
    start(&s, "cuda");
    unsetenv("FAKE_DEVICE_FAIL_AT");
    s.code = EX_UNAVAILABLE;
    for (unsigned m = 0; m < MESSAGES; m++)
        for (unsigned i = 0; i < 2; i++) {
            send(&s, i, m);
            service_wait(&s, "inputs.in0.accepted_samples_total", (2 * m + i + 1) * ROWS);
        }
    assert_true(service_count(&s, "models.m.device_failures_total") > 0);
    assert_int_equal(md_daemon_status_code(s.daemon), EX_UNAVAILABLE);
    assert_false(md_daemon_moves(s.daemon));
    send(&s, 2, 0);
    service_wait(&s, "inputs.in0.input_discarded_samples_total.memory", ROWS);
    lines = service_stop(&s);
    for (unsigned i = 0; i < 3; i++) {
        json_t *error = event_of(lines, names[i], "error");
        assert_non_null(error);
        assert_string_equal(json_string_value(json_object_get(error, "reason")), "device");
        struct texts rows = texts_rows(lines, "embedding", names[i]);
        assert_true(rows.n <= 2 * ROWS / 4);
        texts_free(&rows);
    }
    json_decref(lines);
    service_done(&s);
}

static void test_no_memory(void **state)
{
    struct service s;
    json_t *lines;

    (void)state;
    setenv("FAKE_DEVICE_SLOTS", "2", 1);
    start(&s, "cuda");
    for (unsigned i = 0; i < 2; i++)
        send(&s, i, 0);
    service_wait(&s, "inputs.in0.accepted_samples_total", 2 * ROWS);
    send(&s, 2, 0);
    send(&s, 2, 1);
    service_wait(&s, "inputs.in0.input_discarded_samples_total.memory", 2 * ROWS);
    assert_int_equal(service_count(&s, "models.m.slots_used"), 2);
    service_end(&s, 0, names[0]);
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    send(&s, 2, 2);
    send(&s, 1, 1);
    service_wait(&s, "inputs.in0.accepted_samples_total", 4 * ROWS);
    unsetenv("FAKE_DEVICE_SLOTS");
    lines = service_stop(&s);
    assert_int_equal(events_of(lines, "c", "error"), 1);
    assert_string_equal(json_string_value(json_object_get(event_of(lines, "c", "error"), "reason")), "memory");
    struct texts rows = texts_rows(lines, "embedding", "c");
    assert_int_equal(rows.n, ROWS / 4);
    assert_int_equal(strncmp(rows.v[0], "c 000000 000000000022 ", 22),
                     0); /* those that were refused keep their numbers */
    texts_free(&rows);
    assert_int_equal(json_integer_value(json_object_get(event_of(lines, "c", "drop"), "count")), 2 * ROWS);
    assert_string_equal(json_string_value(json_object_get(event_of(lines, "c", "drop"), "reason")), "memory");
    json_decref(lines);
    service_done(&s);
}

/* How many rows and events of streams there are, and how many of them say `exact: false`. */
static size_t count_messages(const char *device, size_t *ret_inexact)
{
    json_t *lines = run(device), *line;
    size_t i, n = 0;

    *ret_inexact = 0;
    json_array_foreach(lines, i, line)
    {
        json_t *exact = json_object_get(line, "exact");
        assert_true(!exact || json_is_false(exact));
        if (!strncmp(json_string_value(json_object_get(line, "topic")), "sys/", 4))
            continue;
        n++;
        *ret_inexact += exact != NULL;
    }
    json_decref(lines);
    return n;
}

static void test_exact(void **state)
{
    size_t inexact, n;

    (void)state;
    n = count_messages("cuda, deterministic: false", &inexact);
    assert_true(n > 2 * STREAMS);
    assert_int_equal(inexact, n);
    count_messages("cuda, deterministic: true", &inexact);
    assert_int_equal(inexact, 0);
    count_messages("cpu, deterministic: false", &inexact);
    assert_int_equal(inexact, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_rows),
        cmocka_unit_test(test_failed_device),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_exact),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);

    service_sweep();
    return r;
}
