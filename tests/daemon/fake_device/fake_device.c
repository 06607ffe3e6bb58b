/* fake_device.c: a libmambad_cuda.so without a GPU: the CPU backend on threads of its own, so that batches are under
 * way for a while as on a device, one after the other, and so that it can fail. Environment:
 *
 *   FAKE_DEVICE_FAIL_AT=N   the N-th batch fails (counted from 1), and with it the device, for good
 *   FAKE_DEVICE_HANG_AT=N   the N-th batch never ends
 *   FAKE_DEVICE_SLOTS=N     there is memory for slots 0 … N−1 only
 *   FAKE_DEVICE_ROW_US=N    each row of a channel takes so long
 *
 * By its own clock each batch takes a second. With `deterministic` false it says that it is not exact, as the real one
 * does. */
#include "ssm/backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { UNDER_WAY_MAX = 2 };

/* A batch under way. */
struct job {
    struct fake *fake;
    unsigned long number; /* counted from 0 */
    pthread_t thread;
    const struct ssm_item *items;
    uint32_t n_items;
    bool fails;
};

struct fake {
    void *cpu;
    struct job jobs[UNDER_WAY_MAX]; /* in turn */
    unsigned long started, waited, fail_at, hang_at, row_us;
    _Atomic unsigned long finished; /* of the jobs, in order */
    uint32_t memory;
    bool failed, exact;
};

static unsigned long number(const char *name)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : 0;
}

static int fake_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr)
{
    struct fake *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->exact = opts->deterministic;
    f->fail_at = number("FAKE_DEVICE_FAIL_AT");
    f->hang_at = number("FAKE_DEVICE_HANG_AT");
    f->row_us = number("FAKE_DEVICE_ROW_US");
    f->memory = number("FAKE_DEVICE_SLOTS") ? (uint32_t)number("FAKE_DEVICE_SLOTS") : UINT32_MAX;
    int err = ssm_backend_cpu.open(model, opts, &f->cpu, reterr);
    if (err) {
        free(f);
        return err;
    }
    *ret_self = f;
    return 0;
}

static void fake_close(void *self)
{
    struct fake *f = self;
    for (; f->waited < f->started; f->waited++)
        pthread_join(f->jobs[f->waited % UNDER_WAY_MAX].thread, NULL);
    ssm_backend_cpu.close(f->cpu);
    free(f);
}

static const char *fake_ops(const void *self)
{
    return ssm_backend_cpu.ops(((const struct fake *)self)->cpu);
}

static const char *fake_device(const void *self)
{
    return "cuda:0";
}

static int fake_reset(void *self, uint32_t slot)
{
    struct fake *f = self;
    return f->failed ? -EIO : slot >= f->memory ? -ENOMEM : ssm_backend_cpu.reset(f->cpu, slot);
}

static int fake_copy(void *self, uint32_t from, uint32_t to)
{
    struct fake *f = self;
    return f->failed ? -EIO : ssm_backend_cpu.copy(f->cpu, from, to);
}

static void take_time(const struct job *j)
{
    unsigned long us = 0;
    for (uint32_t i = 0; i < j->n_items; i++)
        us += j->items[i].n * j->fake->row_us;
    nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000) * 1000}, NULL);
}

static void *work(void *arg)
{
    struct job *j = arg;
    take_time(j);
    do
        nanosleep(&(struct timespec){0, 3000000}, NULL);
    while (atomic_load(&j->fake->finished) < j->number);
    while (j->number + 1 == j->fake->hang_at)
        pause();
    if (!j->fails)
        ssm_backend_cpu.start(j->fake->cpu, j->items, j->n_items);
    atomic_store(&j->fake->finished, j->number + 1);
    return NULL;
}

static int fake_start(void *self, const struct ssm_item *items, uint32_t n_items)
{
    struct fake *f = self;
    struct job *j = &f->jobs[f->started % UNDER_WAY_MAX];
    if (f->failed)
        return -EIO;
    j->fake = f;
    j->number = f->started;
    j->items = items;
    j->n_items = n_items;
    j->fails = f->fail_at && f->started + 1 >= f->fail_at;
    if (pthread_create(&j->thread, NULL, work, j))
        return -EIO;
    f->started++;
    return 0;
}

static bool fake_done(void *self)
{
    struct fake *f = self;
    return f->waited == f->started || atomic_load(&f->finished) > f->waited;
}

static int fake_wait(void *self)
{
    struct fake *f = self;
    struct job *j = &f->jobs[f->waited++ % UNDER_WAY_MAX];
    pthread_join(j->thread, NULL);
    f->failed |= j->fails;
    return j->fails ? -EIO : 0;
}

static const struct ssm_section *fake_sections(const void *self, unsigned *ret_n)
{
    return ssm_backend_cpu.sections(((const struct fake *)self)->cpu, ret_n);
}

static int fake_save(void *self, uint32_t slot, void *buf)
{
    struct fake *f = self;
    return f->failed ? -EIO : ssm_backend_cpu.save(f->cpu, slot, buf);
}

static int fake_restore(void *self, uint32_t slot, const void *buf)
{
    struct fake *f = self;
    return f->failed ? -EIO : ssm_backend_cpu.restore(f->cpu, slot, buf);
}

static double fake_busy(void *self)
{
    return (double)((struct fake *)self)->waited;
}

static const char *fake_failure(const void *self)
{
    return ((const struct fake *)self)->failed ? "it was told to" : "";
}

static bool fake_exact(const void *self)
{
    return ((const struct fake *)self)->exact;
}

extern const struct ssm_backend ssm_backend_cuda;
__attribute__((visibility("default"))) const struct ssm_backend ssm_backend_cuda = {
    .abi = SSM_BACKEND_ABI,
    .name = "cuda",
    .open = fake_open,
    .close = fake_close,
    .ops = fake_ops,
    .device = fake_device,
    .reset = fake_reset,
    .copy = fake_copy,
    .start = fake_start,
    .done = fake_done,
    .wait = fake_wait,
    .sections = fake_sections,
    .save = fake_save,
    .restore = fake_restore,
    .busy = fake_busy,
    .failure = fake_failure,
    .exact = fake_exact,
};
