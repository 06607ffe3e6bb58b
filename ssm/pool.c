/* pool.c: fork and join over a fixed set of threads. A run is one release store that the workers wait for and one
 * counter that the caller waits for; both waits are gates: a word that changes, spun on briefly, then slept on.
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
    unsigned threads, spins;
    void (*fn)(void *ctx, unsigned worker, unsigned workers);
    void *ctx;         /* fn NULL: the workers are to end */
    struct gate start; /* counts runs */
    struct gate end;   /* the last run that all workers have ended */
    struct gate phase; /* counts barriers */
    alignas(CACHE_LINE) atomic_uint running;
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

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct ssm_pool *p = w->pool;
    for (unsigned run = 0;; run++) {
        gate_wait(&p->start, run, p->spins);
        if (!p->fn)
            return NULL;
        p->fn(p->ctx, w->index, p->threads);
        if (atomic_fetch_sub(&p->running, 1) == 1)
            gate_set(&p->end, run + 1);
    }
}

void ssm_pool_run(struct ssm_pool *p, void (*fn)(void *ctx, unsigned worker, unsigned workers), void *ctx)
{
    assert(fn);
    if (p->threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    atomic_store(&p->running, p->threads - 1);
    unsigned run = atomic_load(&p->start.word);
    gate_set(&p->start, run + 1);
    fn(ctx, 0, p->threads);
    gate_wait(&p->end, run, p->spins);
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
    gate_set(&p->start, atomic_load(&p->start.word) + 1);
    for (unsigned i = 0; i < started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
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
