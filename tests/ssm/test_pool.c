/* test_pool.c: the worker pool: every worker runs once per run, every part once, what is written before a barrier is seen after it, an
 * idle pool uses no CPU. Run under -Db_sanitize=thread for the ordering. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <assert.h>
#include <stdatomic.h>
#include <time.h>

#include "ssm/pool.h"

enum { THREADS_MAX = 7, RUNS = 500 };

struct ring {
    struct ssm_pool *pool;
    int start, first[THREADS_MAX], second[THREADS_MAX];
};

/* Hands a number to the left neighbour twice; each hand-over needs the barrier. */
static void pass(void *ctx, unsigned worker, unsigned workers)
{
    struct ring *r = ctx;
    r->first[worker] = r->start + (int)worker;
    ssm_pool_barrier(r->pool);
    r->second[worker] = r->first[(worker + 1) % workers];
    ssm_pool_barrier(r->pool);
    r->first[worker] = r->second[(worker + 1) % workers];
}

static void runs_and_barriers(void **state)
{
    for (unsigned threads = 1; threads <= THREADS_MAX; threads += 2) {
        struct ring r = {0};
        assert_int_equal(ssm_pool_new(threads, &r.pool), 0);
        assert_int_equal(ssm_pool_threads(r.pool), threads);
        for (r.start = 0; r.start < RUNS; r.start++) {
            ssm_pool_run(r.pool, pass, &r);
            for (unsigned i = 0; i < threads; i++)
                assert_int_equal(r.first[i], r.start + (int)((i + 2) % threads));
        }
        ssm_pool_free(&r.pool);
        assert_null(r.pool);
    }
}

struct parts {
    atomic_uint count[4 * THREADS_MAX + 1];
    unsigned parts;
};

static void take_part(void *ctx, unsigned part, unsigned parts)
{
    struct parts *p = ctx;
    assert(part < parts && parts == p->parts);
    p->count[part]++;
}

/* Between runs of all workers, so that who comes late to the one kind of run meets the other. */
static void shares_out_parts(void **state)
{
    for (unsigned threads = 1; threads <= THREADS_MAX; threads += 2) {
        struct ring r = {0};
        struct parts p = {0};
        assert_int_equal(ssm_pool_new(threads, &r.pool), 0);
        for (unsigned i = 1; i <= RUNS; i++) {
            p.parts = 1 + i * 13 % (4 * THREADS_MAX + 1);
            for (unsigned k = 0; k < p.parts; k++)
                p.count[k] = 0;
            ssm_pool_share(r.pool, p.parts, take_part, &p);
            for (unsigned k = 0; k < p.parts; k++)
                assert_int_equal(p.count[k], 1);
            if (i % 3 == 0)
                ssm_pool_run(r.pool, pass, &r);
        }
        ssm_pool_free(&r.pool);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 100 ms of sleep cost four workers well below a millisecond each; spinning would cost 100 ms a core. */
static void idle_sleeps(void **state)
{
    struct ring r = {0};
    assert_int_equal(ssm_pool_new(4, &r.pool), 0);
    ssm_pool_run(r.pool, pass, &r);
    double before = cpu_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_true(cpu_seconds() - before < 0.02);
    ssm_pool_run(r.pool, pass, &r);
    ssm_pool_free(&r.pool);
}

static void free_of_none(void **state)
{
    struct ssm_pool *none = NULL;
    ssm_pool_free(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_and_barriers),
        cmocka_unit_test(shares_out_parts),
        cmocka_unit_test(idle_sleeps),
        cmocka_unit_test(free_of_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
