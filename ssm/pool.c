/* pool.c: fork and join over a fixed set of threads. A run is one release store that the workers wait for and one
 * counter that the caller waits for; both waits are gates: a word that changes, spun on briefly, then slept on.
 *
 * Parts that are shared out are claimed from a ticket, which names their run: who comes when all are claimed, or when
 * the next run has begun, finds nothing and has touched nothing. Who has claimed one keeps the run open.
 *
 * Trap: a gate's `sleepers` must be raised before the futex call and read after the word has changed, both
 * sequentially consistent, or a wake-up is lost. */
#include "ssm/pool.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ALL = 1 }; /* bit of a run's number: every worker takes part, and is waited for */
enum { CACHE_LINE = 64, SPINS = 1000 }; /* about 20 µs: longer than the gaps between the runs of one step */

struct gate {
    alignas(CACHE_LINE) atomic_uint word;
    atomic_uint sleepers;
};

struct worker {
    struct ssm_pool *pool;
    unsigned index;
    pthread_t thread;
};

struct ssm_pool {
    unsigned threads, spins, parts;
    void (*fn)(void *ctx, unsigned part, unsigned parts);
    void *ctx;         /* fn NULL: the workers are to end */
    struct gate start; /* number of the last run begun: counts by 2, and ALL */
    struct gate end;   /* … ended */
    struct gate phase; /* counts barriers */
    alignas(CACHE_LINE) atomic_uint running; /* workers, or parts, that have not ended */
    alignas(CACHE_LINE) _Atomic uint64_t ticket; /* run << 32 | parts that nobody has claimed */
    atomic_uint arrived;
    struct worker *workers; /* [threads − 1] */
};

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Returns once the word is no longer `old`. */
static void gate_wait(struct gate *g, unsigned old, unsigned spins)
{
    for (unsigned i = 0; i < spins; i++) {
        if (atomic_load_explicit(&g->word, memory_order_acquire) != old)
            return;
        cpu_relax();
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old)
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_set(struct gate *g, unsigned value)
{
    atomic_store(&g->word, value);
    if (atomic_load(&g->sleepers))
        syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void end_one(struct ssm_pool *p, unsigned run)
{
    if (atomic_fetch_sub(&p->running, 1) == 1)
        gate_set(&p->end, run);
}

static bool claim(struct ssm_pool *p, unsigned run, unsigned *ret_part)
{
    uint64_t ticket = atomic_load(&p->ticket);
    while (ticket >> 32 == run && (uint32_t)ticket > 0)
        if (atomic_compare_exchange_weak(&p->ticket, &ticket, ticket - 1)) {
            *ret_part = (uint32_t)ticket - 1;
            return true;
        }
    return false;
}

static void run_parts(struct ssm_pool *p, unsigned run)
{
    unsigned part;
    while (claim(p, run, &part)) {
        p->fn(p->ctx, part, p->parts);
        end_one(p, run);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct ssm_pool *p = w->pool;
    for (unsigned run = 0;;) {
        gate_wait(&p->start, run, p->spins);
        run = atomic_load(&p->start.word);
        if (!(run & ALL)) {
            run_parts(p, run);
            continue;
        }
        if (!p->fn)
            return NULL;
        p->fn(p->ctx, w->index, p->threads);
        end_one(p, run);
    }
}

static unsigned next_run(const struct ssm_pool *p, unsigned bit)
{
    return (atomic_load(&p->start.word) | ALL) + 1 + bit;
}

void ssm_pool_run(struct ssm_pool *p, void (*fn)(void *ctx, unsigned worker, unsigned workers), void *ctx)
{
    assert(fn);
    if (p->threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    unsigned run = next_run(p, ALL), before = atomic_load(&p->end.word);
    p->fn = fn;
    p->ctx = ctx;
    atomic_store(&p->running, p->threads - 1);
    gate_set(&p->start, run);
    fn(ctx, 0, p->threads);
    gate_wait(&p->end, before, p->spins);
}

void ssm_pool_share(struct ssm_pool *p, unsigned parts, void (*fn)(void *ctx, unsigned part, unsigned parts), void *ctx)
{
    assert(fn && parts >= 1);
    unsigned run = next_run(p, 0), before = atomic_load(&p->end.word);
    p->fn = fn;
    p->ctx = ctx;
    p->parts = parts;
    atomic_store(&p->running, parts);
    atomic_store(&p->ticket, (uint64_t)run << 32 | parts);
    gate_set(&p->start, run);
    run_parts(p, run);
    gate_wait(&p->end, before, p->spins);
}

void ssm_pool_barrier(struct ssm_pool *p)
{
    if (p->threads == 1)
        return;
    unsigned phase = atomic_load(&p->phase.word);
    if (atomic_fetch_add(&p->arrived, 1) + 1 < p->threads) {
        gate_wait(&p->phase, phase, p->spins);
        return;
    }
    atomic_store(&p->arrived, 0);
    gate_set(&p->phase, phase + 1);
}

unsigned ssm_pool_threads(const struct ssm_pool *p)
{
    return p->threads;
}

/* Ends and joins workers[0 .. started). */
static void pool_stop(struct ssm_pool *p, unsigned started)
{
    p->fn = NULL;
    gate_set(&p->start, next_run(p, ALL));
    for (unsigned i = 0; i < started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
}

unsigned ssm_pool_size(unsigned asked, unsigned most)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const unsigned n = asked ? asked : cores > 0 ? (unsigned)cores : 1;
    return n < most ? n : most;
}

int ssm_pool_new(unsigned threads, struct ssm_pool **ret)
{
    assert(threads >= 1);
    struct ssm_pool *p = aligned_alloc(CACHE_LINE, sizeof(*p));
    if (!p)
        return -ENOMEM;
    *p = (struct ssm_pool){.threads = threads};
    p->workers = calloc(threads, sizeof(*p->workers));
    if (!p->workers) {
        free(p);
        return -ENOMEM;
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    p->spins = cores >= (long)threads ? SPINS : 0; /* a spinner would keep the one it waits for off the core */

    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = 0;
    unsigned started = 0;
    for (; started < threads - 1 && r == 0; started += r == 0) {
        struct worker *w = &p->workers[started];
        *w = (struct worker){.pool = p, .index = started + 1};
        r = -pthread_create(&w->thread, NULL, worker_main, w);
        if (r == 0)
            pthread_setname_np(w->thread, "pool");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r < 0) {
        pool_stop(p, started);
        return r;
    }
    *ret = p;
    return 0;
}

void ssm_pool_free(struct ssm_pool **pool)
{
    if (!*pool)
        return;
    pool_stop(*pool, (*pool)->threads - 1);
    *pool = NULL;
}
