/* test_steady.c: in the steady state nothing of ours allocates: every malloc of the daemon, its adapters and the engine
 * is counted (those of libzmq, in its own library, are not). And an idle daemon sleeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>

#include "tests/daemon/service.h"

static _Atomic unsigned allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n)
{
    allocations++;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    allocations++;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    allocations++;
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    allocations++;
    return __real_aligned_alloc(align, n);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    allocations++;
    return __real_mmap(at, n, prot, flags, fd, offset);
}

enum { STREAMS = 64, ROWS = 64, CHANNELS_EVERY = 9 };

static const char config[] = "models: {m: {path: MODEL, device: cpu, slots: 200, threads: 1}}\n"
                             "inputs: {in0: {type: zmq, pattern: pull, bind: 'IN0', rate: 100, queue: 256}}\n"
                             "outputs: {out: {type: jsonl, path: DIR/out.jsonl}, pub: {type: zmq, bind: 'IN1'}}\n"
                             "streams: {'*': {silence: 10s, publish: {channel_anomaly: true}}}\n";

static uint64_t send_round(struct service *s, unsigned messages)
{
    static float x[ROWS * 3];
    char id[16];
    uint64_t samples = 0;

    for (unsigned i = 0; i < ROWS * 3; i++)
        x[i] = (float)(i % 31) + (float)(i % 7);
    for (unsigned k = 0; k < messages; k++) {
        for (unsigned i = 0; i < STREAMS; i++) {
            size_t C = i % CHANNELS_EVERY ? 1 : 3;
            snprintf(id, sizeof id, "s%u", i);
            service_send(s, 0, id, x, ROWS, C, "");
            samples += ROWS * C;
        }
    }
    return samples;
}

/* Peaks depend on what happens to be ready together, so one quiet window of several is asked for, not the first. */
static void test_nothing_is_allocated(void **state)
{
    struct service s;
    uint64_t samples = 0;
    unsigned fewest = UINT32_MAX;

    (void)state;
    service_start(&s, config, 0);
    for (unsigned i = 0; i < 3; i++) {
        samples += send_round(&s, 10);
        service_wait(&s, "inputs.in0.accepted_samples_total", samples);
    }
    for (unsigned window = 0; window < 20 && fewest > 0; window++) {
        unsigned before = allocations;
        for (unsigned round = 0; round < 10; round++) {
            samples += send_round(&s, 1);
            service_wait(&s, "inputs.in0.accepted_samples_total", samples);
        }
        unsigned n = allocations - before;
        printf("%u allocations in %u messages\n", n, 10 * STREAMS);
        fewest = n < fewest ? n : fewest;
    }
    assert_int_equal(fewest, 0);
    json_decref(service_stop(&s));
    service_done(&s);
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void test_idle_sleeps(void **state)
{
    struct service s;
    double cpu;

    (void)state;
    service_start(&s, config, 0);
    service_wait(&s, "inputs.in0.accepted_samples_total", send_round(&s, 1));
    nanosleep(&(struct timespec){0, 300000000}, NULL); /* what was accepted is published */
    cpu = cpu_seconds();
    nanosleep(&(struct timespec){1, 500000000}, NULL);
    cpu = (cpu_seconds() - cpu) / 1.5;
    printf("idle: %.2f %% of a core\n", 100 * cpu);
    assert_true(cpu < 0.05); /* a spinning thread would be 1; the bench has the exact figure */
    json_decref(service_stop(&s));
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
        cmocka_unit_test(test_nothing_is_allocated),
        cmocka_unit_test(test_idle_sleeps),
    };

    return cmocka_run_group_tests(tests, NULL, sweep);
}
