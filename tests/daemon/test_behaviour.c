/* test_behaviour.c: what a daemon does with streams that come and go, queues that fill, senders that go wrong, inputs
 * that end; each with its counters and its events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "tests/daemon/service.h"

#define MODELS "models: {m: {path: MODEL, device: cpu, slots: %u, threads: 1}}\n"
#define OUTPUTS "outputs: {out: {type: jsonl, path: DIR/out.jsonl}}\n"

static const float *ramp(void)
{
    static float x[4096];

    for (unsigned i = 0; i < 4096; i++)
        x[i] = (float)(i % 97) * 0.5f + (float)(i % 13);
    return x;
}

static long long int_of(json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static const char *text_of(json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

static size_t row_count(json_t *lines, const char *family, const char *stream)
{
    struct texts t = texts_rows(lines, family, stream);
    size_t n = t.n;

    texts_free(&t);
    return n;
}

static void start(struct service *s, const char *format, unsigned slots)
{
    char yaml[2048];

    snprintf(yaml, sizeof yaml, format, slots);
    service_start(s, yaml, 0);
}

/* A returning id goes on: epoch + 1, rows numbered on, out_seq too. */
static void test_return(void **state)
{
    struct service s;
    json_t *lines, *o;
    size_t i;
    long long next = 0;

    (void)state;
    start(&s, MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n" OUTPUTS, 4);
    for (unsigned life = 0; life < 3; life++) {
        char seq[32];
        snprintf(seq, sizeof seq, ",\"seq\":%u", 100 * life);
        service_send(&s, 0, "a", ramp(), 41, 1, seq);
        service_end(&s, 0, "a");
        service_wait(&s, "inputs.in0.stream_ends_total", life + 1);
    }
    assert_int_equal(service_count(&s, "models.m.slots_used"), 0);
    assert_int_equal(service_count(&s, "inputs.in0.input_discarded_samples_total.tail"), 3);
    lines = service_stop(&s);
    json_array_foreach(lines, i, o)
    {
        if (text_of(o, "event") && strcmp(text_of(o, "event"), "start") == 0)
            assert_int_equal(int_of(o, "seq"), 100 * int_of(o, "epoch")); /* its first row's */
        if (strcmp(text_of(o, "topic"), "embedding/a/") != 0)
            continue;
        assert_int_equal(int_of(o, "out_seq"), next);
        next += (long long)json_array_size(json_object_get(o, "data"));
        assert_int_equal(int_of(o, "seq") / 100, int_of(o, "epoch"));
        assert_null(json_object_get(o, "exact"));
        assert_true(json_is_null(json_object_get(o, "t_ns")));
    }
    assert_int_equal(next, 30);
    assert_int_equal(events_of(lines, "a", "start"), 3);
    assert_int_equal(events_of(lines, "a", "end"), 3);
    json_decref(lines);
    service_done(&s);
}

/* More streams than slots: refused, counted, announced; a freed slot serves the next. */
static void test_refused(void **state)
{
    struct service s;
    json_t *lines;

    (void)state;
    start(&s,
          MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', stream: 'x/{stream}', rate: 100},\n"
                 "         in1: {type: zmq, pattern: pull, bind: 'IN1', stream: 'x/{stream}'}}\n" OUTPUTS,
          2);
    service_send(&s, 0, "a", ramp(), 8, 1, "");
    service_send(&s, 0, "b", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in0.accepted_samples_total", 16);
    service_send(&s, 0, "c", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in0.input_errors_total.streams", 1);
    service_send(&s, 1, "a", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in1.input_errors_total.duplicate_stream", 1);
    service_send(&s, 0, "a", ramp(), 4, 2, ""); /* two channels of a sudden */
    service_wait(&s, "inputs.in0.input_errors_total.shape", 1);
    assert_int_equal(service_count(&s, "inputs.in0.input_discarded_samples_total.streams"), 8);
    assert_int_equal(service_count(&s, "inputs.in1.input_discarded_samples_total.duplicate_stream"), 8);
    assert_int_equal(service_count(&s, "inputs.in0.input_discarded_samples_total.shape"), 8);
    service_send(&s, 0, "a", ramp(), 8, 1, ",\"rate\":50");
    service_wait(&s, "inputs.in0.input_errors_total.rate", 1);
    service_end(&s, 0, "b");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    service_send(&s, 0, "c", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in0.accepted_samples_total", 24);
    lines = service_stop(&s);
    assert_int_equal(events_of(lines, "x/c", "error"), 1);
    assert_string_equal(text_of(event_of(lines, "x/c", "error"), "reason"), "streams");
    assert_int_equal(events_of(lines, "x/a", "error"), 3);
    assert_int_equal(row_count(lines, "embedding", "x/a"), 2);
    json_decref(lines);
    service_done(&s);
}

/* An input's own limit, which leaves the others' slots alone. */
static void test_max_streams(void **state)
{
    struct service s;
    json_t *lines;

    (void)state;
    start(&s,
          MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', max_streams: 2},\n"
                 "         in1: {type: zmq, pattern: pull, bind: 'IN1'}}\n" OUTPUTS,
          9);
    service_send(&s, 0, "a", ramp(), 8, 1, "");
    service_send(&s, 0, "b", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in0.accepted_samples_total", 16);
    for (int i = 0; i < 50; i++) {
        char id[8];
        snprintf(id, sizeof id, "c%d", i);
        service_send(&s, 0, id, ramp(), 8, 1, "");
    }
    service_wait(&s, "inputs.in0.input_errors_total.streams", 50);
    service_send(&s, 1, "d", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in1.accepted_samples_total", 8);
    service_end(&s, 0, "a");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    service_send(&s, 0, "c0", ramp(), 8, 1, "");
    service_wait(&s, "inputs.in0.accepted_samples_total", 24);
    assert_int_equal(service_count(&s, "inputs.in0.input_discarded_samples_total.streams"), 400);
    lines = service_stop(&s);
    assert_string_equal(text_of(event_of(lines, "c1", "error"), "reason"), "streams");
    json_decref(lines);
    service_done(&s);
}

static void test_silence_and_idle(void **state)
{
    struct service s;
    json_t *lines;

    (void)state;
    start(&s,
          MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n" OUTPUTS
                 "streams: {'quiet': {silence: 60ms}, 'gone': {idle: 80ms}}\n",
          4);
    service_send(&s, 0, "quiet", ramp(), 6, 1, "");
    service_send(&s, 0, "gone", ramp(), 6, 1, "");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    nap(50);
    service_send(&s, 0, "quiet", ramp(), 6, 1, "");
    service_send(&s, 0, "gone", ramp(), 6, 1, ""); /* its handle is stale: it begins again */
    service_wait(&s, "inputs.in0.accepted_samples_total", 24);
    service_wait(&s, "inputs.in0.stream_ends_total", 2);
    lines = service_stop(&s);
    assert_true(events_of(lines, "quiet", "silent") >= 1);
    assert_int_equal(events_of(lines, "quiet", "resumed"), 1);
    assert_int_equal(events_of(lines, "quiet", "end"), 0);
    assert_int_equal(events_of(lines, "gone", "end"), 2);
    assert_int_equal(events_of(lines, "gone", "start"), 2);
    assert_string_equal(text_of(event_of(lines, "gone", "end"), "reason"), "idle");
    assert_int_equal(row_count(lines, "embedding", "quiet"), 3);
    assert_int_equal(row_count(lines, "embedding", "gone"), 2); /* two tails of two rows */
    json_decref(lines);
    service_done(&s);
}

/* A sensor that jumps and then says the same for ever: both are told, once, with the rows it is about. */
static void test_notices(void **state)
{
    enum { MOVING = 2048, ROWS = MOVING + 400 };
    static float x[ROWS];
    struct service s;

    (void)state;
    for (unsigned i = 0; i < ROWS; i++)
        x[i] = i < MOVING ? ramp()[i] : 500;
    start(&s, MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n" OUTPUTS, 4);
    for (unsigned at = 0, n; at < ROWS; at += n) {
        n = at % 7 + 1 < ROWS - at ? at % 7 + 1 : ROWS - at;
        service_send(&s, 0, "a", x + at, n, 1, "");
    }
    service_end(&s, 0, "a");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    json_t *lines = service_stop(&s), *flat = event_of(lines, "a", "flatline"), *shift = event_of(lines, "a", "level_shift");
    assert_int_equal(events_of(lines, "a", "flatline"), 1);
    assert_int_equal(int_of(flat, "from_seq"), MOVING);
    assert_int_equal(int_of(flat, "to_seq"), MOVING + 64);
    assert_int_equal(int_of(flat, "seq"), MOVING + 64);
    assert_int_equal(events_of(lines, "a", "level_shift"), 1);
    assert_int_equal(int_of(shift, "from_seq"), MOVING);
    assert_int_equal(int_of(shift, "to_seq"), MOVING + 127);
    assert_string_equal(text_of(shift, "reason"), "up");
    json_decref(lines);
    service_done(&s);
}

/* Sums the counts of `drop` events, and checks that the rows published and dropped make up what was numbered. */
static void check_drops(json_t *lines, uint64_t sent, uint64_t accepted, uint64_t dropped)
{
    json_t *o;
    size_t i;
    long long announced = 0, gap = 0;

    json_array_foreach(lines, i, o)
    {
        if (strcmp(text_of(o, "topic"), "event/a/") != 0)
            continue;
        if (strcmp(text_of(o, "event"), "drop") == 0)
            announced += int_of(o, "count");
        if (strcmp(text_of(o, "event"), "gap") == 0)
            gap += int_of(o, "count");
    }
    assert_int_equal(sent, accepted + dropped);
    assert_int_equal(announced, dropped);
    assert_true(gap <= announced); /* what was dropped last is before no row */
}

static void test_full_queue(void **state)
{
    static const char *const policies[] = {"block", "drop_oldest", "drop_newest"};
    enum { MESSAGES = 3000, N = 64 };

    (void)state;
    for (unsigned p = 0; p < 3; p++) {
        struct service s;
        char yaml[1024];
        json_t *lines;
        uint64_t accepted, dropped;
        snprintf(
            yaml, sizeof yaml,
            "models: {m: {path: MODEL, device: cpu, slots: 2, threads: 1}}\n"
            "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', queue: 100, when_full: %s, rate: 10}}\n" OUTPUTS,
            policies[p]);
        service_start(&s, yaml, 0);
        for (unsigned i = 0; i < MESSAGES; i++)
            service_send(&s, 0, "a", ramp() + i % 3000, N, 1, "");
        service_end(&s, 0, "a");
        service_wait(&s, "inputs.in0.stream_ends_total", 1);
        accepted = service_count(&s, "inputs.in0.accepted_samples_total");
        dropped = service_count(&s, "inputs.in0.input_discarded_samples_total.queue_full");
        assert_int_equal(service_count(&s, "inputs.in0.input_samples_total"), MESSAGES * N);
        assert_true(service_count(&s, "inputs.in0.queue_high_water_rows") <= 100);
        lines = service_stop(&s);
        if (p == 0)
            assert_int_equal(dropped, 0);
        else if (dropped == 0)
            printf("%s: the queue never filled\n", policies[p]);
        check_drops(lines, MESSAGES * N, accepted, dropped);
        assert_int_equal(row_count(lines, "anomaly", "a"), accepted / 4 * 4);
        assert_int_equal(int_of(event_of(lines, "a", "end"), "seq"),
                         MESSAGES * N); /* dropped rows keep their numbers */
        json_decref(lines);
        service_done(&s);
    }
}

static void test_reorder(void **state)
{
    struct service s;
    json_t *lines, *o;

    (void)state;
    start(&s,
          MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', rate: 10}}\n" OUTPUTS
                 "streams: {'*': {late: reorder}}\n",
          2);
    service_send(&s, 0, "a", ramp(), 8, 1, ",\"seq\":0");
    service_send(&s, 0, "a", ramp() + 24, 8, 1, ",\"seq\":24");
    service_send(&s, 0, "a", ramp() + 16, 8, 1, ",\"seq\":16");
    service_send(&s, 0, "a", ramp() + 8, 8, 1, ",\"seq\":8");
    service_wait(&s, "inputs.in0.accepted_samples_total", 32);
    service_send(&s, 0, "a", ramp() + 40, 8, 1, ",\"seq\":40"); /* 32 … 39 never come: after a second it goes on */
    service_wait(&s, "inputs.in0.accepted_samples_total", 40);
    service_send(&s, 0, "a", ramp() + 56, 8, 1, ",\"seq\":56"); /* the end waits for nothing */
    service_end(&s, 0, "a");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    lines = service_stop(&s);
    assert_int_equal(events_of(lines, "a", "gap"), 2);
    o = event_of(lines, "a", "gap");
    assert_int_equal(int_of(o, "from_seq"), 32);
    assert_int_equal(int_of(o, "count"), 8);
    assert_int_equal(row_count(lines, "anomaly", "a"), 48);
    json_decref(lines);
    service_done(&s);
}

/* A stream that is to end by itself ends behind the rows that wait, though `idle` is shorter than they do. */
static void test_reorder_before_the_end(void **state)
{
    const float *x = ramp();
    struct service s;
    json_t *lines;

    start(&s,
          MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', rate: 100}}\n" OUTPUTS
                 "streams: {'*': {late: reorder, idle: 500ms}}\n",
          4);
    service_send(&s, 0, "r", x, 8, 1, ",\"seq\":0");
    service_send(&s, 0, "r", x + 16, 8, 1, ",\"seq\":16");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    assert_int_equal(service_count(&s, "inputs.in0.accepted_samples_total"), 16);
    lines = service_stop(&s);
    assert_int_equal(row_count(lines, "anomaly", "r"), 16);
    assert_int_equal(events_of(lines, "r", "gap"), 1);
    json_decref(lines);
    service_done(&s);
}

static void test_irregular(void **state)
{
    static const int64_t ms = 1000000;
    struct service s;
    json_t *lines, *o;
    size_t i;
    int64_t times[12];
    char header[] = "{\"dtype\":\"float32\",\"shape\":[12],\"stream\":\"a\",\"rate\":0}";

    (void)state;
    start(&s, MODELS "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n" OUTPUTS, 2);
    for (unsigned k = 0; k < 12; k++)
        times[k] = (1000 + 10 * k + (k > 6) * 500) * ms;
    times[3] = times[2];
    service_send_frames(&s, 0, header, ramp(), 12 * sizeof(float), times, sizeof times);
    service_end(&s, 0, "a");
    service_wait(&s, "inputs.in0.stream_ends_total", 1);
    lines = service_stop(&s);
    json_array_foreach(lines, i, o)
    {
        long long seq = int_of(o, "seq");
        int64_t t = json_is_string(json_object_get(o, "t_ns")) ? strtoll(text_of(o, "t_ns"), NULL, 10) : -1;
        assert_true(json_number_value(json_object_get(o, "rate")) == 0);
        if (strncmp(text_of(o, "topic"), "prediction", 10) == 0)
            assert_int_equal(t, times[seq - 1] + 10 * ms); /* last time + interval, the first positive difference */
        else if (strncmp(text_of(o, "topic"), "embedding", 9) == 0)
            assert_int_equal(t, times[seq]);
    }
    assert_int_equal(row_count(lines, "prediction", "a"), 3);
    json_decref(lines);
    service_done(&s);
}

/* --once: files to their end, several streams, then the daemon says that it is done. */
static void test_once(void **state)
{
    struct service s = {0};
    struct pollfd fd;
    json_t *lines;
    char dir[] = "/tmp/mambad-once-XXXXXX", path[128], yaml[1024];

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/f%u.csv", dir, i);
        FILE *f = fopen(path, "w");
        fputs("x\n", f);
        for (unsigned k = 0; k < 5000 + i; k++)
            fprintf(f, "%g\n", (double)ramp()[k % 4096]);
        fclose(f);
    }
    snprintf(yaml, sizeof yaml,
             "models: {m: {path: MODEL, device: cpu, slots: 9, threads: 1}}\n"
             "inputs: {in0: {type: csv, files: '%s/f*.csv', rate: 10, queue: 512}}\n" OUTPUTS,
             dir);
    service_start(&s, yaml, MD_ONCE);
    fd = (struct pollfd){md_daemon_fd(s.daemon), POLLIN, 0};
    assert_int_equal(poll(&fd, 1, 30000), 1);
    assert_int_equal(md_daemon_status_code(s.daemon), 0);
    assert_int_equal(service_count(&s, "inputs.in0.accepted_samples_total"), 15003);
    lines = service_stop(&s);
    assert_int_equal(events_of(lines, NULL, "end"), 3);
    assert_int_equal(row_count(lines, "embedding", NULL), 3 * 1250);
    json_decref(lines);
    service_done(&s);
    snprintf(yaml, sizeof yaml, "rm -rf %s", dir);
    assert_int_equal(system(yaml), 0);
}

static long long file_bytes(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (long long)st.st_size : 0;
}

/* A reader of one JSON lines output that does not read holds up that output only. */
static void test_stuck_output(void **state)
{
    enum { WANTED = 500000 }; /* a pipe takes 64 KiB, the queue before the stuck output 4 MiB */
    struct service s;
    char dir[] = "/tmp/mambad-stuck-XXXXXX", yaml[1024], fifo[64], out[128], command[128];
    int reader;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    reader = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    snprintf(yaml, sizeof yaml,
             "models: {m: {path: MODEL, device: cpu, slots: 2, threads: 1}}\n"
             "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0'}}\n"
             "outputs: {a: {type: jsonl, path: %s, families: [embedding]},\n"
             "          out: {type: jsonl, path: DIR/out.jsonl, families: [embedding]}}\n",
             fifo);
    service_start(&s, yaml, 0);
    for (unsigned i = 0; i < 4; i++)
        service_send(&s, 0, "a", ramp(), 4096, 1, "");
    snprintf(out, sizeof out, "%s/out.jsonl", s.dir);
    for (unsigned tries = 0; file_bytes(out) < WANTED && tries < 1000; tries++)
        nap(10);
    assert_true(file_bytes(out) >= WANTED);
    snprintf(command, sizeof command, "exec 3< %s; rm -r %s; cat <&3 > /dev/null &", fifo, dir); /* cat ends with the daemon */
    assert_int_equal(system(command), 0);
    json_decref(service_stop(&s));
    service_done(&s);
    close(reader);
}

static void test_start_failures(void **state)
{
    static const struct {
        const char *yaml;
        int code;
    } wrong[] = {
        {"models: {m: {path: /nonexistent}}\ninputs: {i: {type: zmq, pattern: pull, bind: 'ipc:///tmp/mambad-none'}}\n"
         "outputs: {o: {type: jsonl, path: '/dev/null'}}\n",
         EX_CONFIG},
        {"models: {m: {path: %s}}\ninputs: {i: {type: zmq, pattern: pull, bind: 'ipc:///nonexistent/mambad'}}\n"
         "outputs: {o: {type: jsonl, path: '/dev/null'}}\n",
         EX_UNAVAILABLE},
        {"models: {m: {path: %s}}\ninputs: {i: {type: csv, files: /nonexistent.csv}}\n"
         "outputs: {o: {type: jsonl, path: '/dev/null'}}\n",
         EX_NOINPUT},
        {"models: {m: {path: %s}}\ninputs: {i: {type: zmq, pattern: pull, bind: 'ipc:///tmp/mambad-none'}}\n"
         "outputs: {o: {type: jsonl, path: '/nonexistent/out'}}\n",
         EX_IOERR},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct md_config *config = NULL;
        struct md_daemon *daemon = NULL;
        char yaml[1024], reterr[IO_ERR] = "";
        snprintf(yaml, sizeof yaml, wrong[i].yaml, service_model());
        assert_int_equal(md_config_parse("test", yaml, NULL, 0, true, stderr, &config), 0);
        int code = md_daemon_start(config, 0, &daemon, reterr);
        if (code != wrong[i].code)
            fail_msg("case %u: %d, not %d: %s", i, code, wrong[i].code, reterr);
        assert_true(strlen(reterr) > 10);
        md_config_free(&config);
    }
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
        cmocka_unit_test(test_return),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_max_streams),
        cmocka_unit_test(test_silence_and_idle),
        cmocka_unit_test(test_notices),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_reorder),
        cmocka_unit_test(test_reorder_before_the_end),
        cmocka_unit_test(test_irregular),
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_stuck_output),
        cmocka_unit_test(test_start_failures),
    };

    return cmocka_run_group_tests(tests, NULL, sweep);
}
