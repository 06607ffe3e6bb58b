/* backend_cuda.c: the engine on an NVIDIA GPU of compute capability 9.0. Weights and states are on the device; front
 * ends, what a signal model says about its rows, and everything else of a slot are on the host, on a pool of workers.
 * Called by the engine's thread, which is worker 0; the others make no CUDA calls.
 *
 * A batch goes through the queue in as many passes as it takes. Trap: a pass's outputs are written when it is
 * completed, in the order of passes: the score of a patch needs the forecast that the pass before it carried. Front
 * ends run ahead of that; they touch other parts of a slot. */
#include "ssm/backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ssm/cuda/cublas.h"
#include "ssm/cuda/queue.h"
#include "ssm/dtype.h"
#include "ssm/fail.h"
#include "ssm/pool.h"

enum { THREADS_MAX = 256, THREADS_AUTO = 16, NAME_BYTES = 16 };

/* About how long things take, and what is worth waking the workers for. */
enum { PARTS = 4 }; /* of what is shared out, a worker: nobody waits long for one that was put off its core */
enum { WAKE_NS = 40000, ENTRY_NS = 40, SAMPLE_NS = 50, SCORE_NS = 200, BYTES_PER_NS = 8 };

struct cuda {
    const struct ssm_model *model;
    int device;
    char name[NAME_BYTES];
    struct gpu_model m;
    struct gpu_slab slab;
    struct gpu_queue queue;
    struct ssm_layout layout; /* of the slots' part on the host */
    uint8_t *slots;
    size_t slots_bytes;
    struct ssm_pool *pool;    /* NULL: one thread */
    uint64_t started, waited; /* batches */
    uint32_t passes;          /* of the last one */
};

/* ---- open and close -------------------------------------------------------------------------------------- */

static int no_device(char *reterr, cudaError_t e)
{
    int driver = 0;
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver && !cudaDriverGetVersion(&driver) && driver == 0)
        return ssm_fail(reterr, -ENODEV, "no CUDA backend: there is no NVIDIA driver");
    return ssm_fail(reterr, -ENODEV, "no CUDA backend: %s", cudaGetErrorString(e));
}

/* "auto", "cuda" or "cuda:N". The kernels exist for one architecture. */
static int open_device(struct cuda *c, const char *device, char *reterr)
{
    unsigned long wanted = device && !strncmp(device, "cuda:", 5) ? strtoul(device + 5, NULL, 10) : 0;
    struct cudaDeviceProp about;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e || n == 0)
        return no_device(reterr, e ? e : cudaErrorNoDevice);
    if (wanted >= (unsigned long)n)
        return ssm_fail(reterr, -ENODEV, "no CUDA backend: there is no device %lu, only %d", wanted, n);
    c->device = (int)wanted;
    snprintf(c->name, sizeof c->name, "cuda:%d", c->device);
    if ((e = cudaGetDeviceProperties(&about, c->device)))
        return no_device(reterr, e);
    if (about.major != 9 || about.minor != 0)
        return ssm_fail(reterr, -ENODEV,
                        "no CUDA backend: %s is a %s of compute capability %d.%d; this build is for 9.0 (H100, H200)",
                        c->name, about.name, about.major, about.minor);
    if ((e = cudaSetDevice(c->device)))
        return no_device(reterr, e);
    return 0;
}

static int open_slots(struct cuda *c, const struct ssm_engine_opts *opts, char *reterr)
{
    ssm_layout_init(&c->layout, c->model, false, opts->adapt);
    size_t bytes = opts->slots * c->layout.stride;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return ssm_fail(reterr, -ENOMEM, "%s: no address space for %u slots of %zu bytes", c->model->name, opts->slots,
                        c->layout.stride);
    c->slots = at;
    c->slots_bytes = bytes;
    return 0;
}

static int open_pool(struct cuda *c, uint32_t threads, char *reterr)
{
    threads = ssm_pool_size(threads, threads ? THREADS_MAX : THREADS_AUTO);
    int err = threads > 1 ? ssm_pool_new(threads, &c->pool) : 0;
    return err ? ssm_fail(reterr, err, "%s: no resources for %u worker threads", c->model->name, threads) : 0;
}

static void cuda_close(void *self)
{
    struct cuda *c = self;
    if (!c)
        return;
    cudaSetDevice(c->device);
    ssm_pool_free(&c->pool);
    gpu_queue_close(&c->queue);
    gpu_slab_close(&c->slab);
    gpu_cublas_close(&c->m);
    gpu_model_close(&c->m);
    if (c->slots)
        munmap(c->slots, c->slots_bytes);
    free(c);
}

/* Without cuBLASLt a model that need not be deterministic is. */
static int open_model(struct cuda *c, const struct ssm_engine_opts *opts, char *reterr)
{
    int err = gpu_model_open(c->model, opts->weights, &c->m, reterr);
    if (err || opts->deterministic)
        return err;
    err = gpu_cublas_open(&c->m, reterr);
    return err == -ELIBACC ? 0 : err;
}

static int cuda_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr)
{
    struct cuda *c;
    int err;
    if (opts->ops && strcmp(opts->ops, "cuda"))
        return ssm_fail(reterr, -ENOTSUP, "%s: no op table '%s' on a CUDA device", model->name, opts->ops);
    if (!(c = calloc(1, sizeof *c)))
        return ssm_fail(reterr, -ENOMEM, "out of memory");
    c->model = model;
    if ((err = open_device(c, opts->device, reterr))) {
        free(c); /* closing would make a context on a device that is not used */
        return err;
    }
    if ((err = open_model(c, opts, reterr)) ||
        (err = gpu_slab_open(&c->m, opts->state, opts->slots, &c->slab, reterr)) ||
        (err = open_slots(c, opts, reterr)) ||
        (err = gpu_queue_open(&c->queue, &c->m, &c->slab, &c->layout, opts->state, reterr)) ||
        (err = open_pool(c, opts->threads, reterr))) {
        cuda_close(c);
        return err;
    }
    *ret_self = c;
    return 0;
}

/* ---- advance --------------------------------------------------------------------------------------------- */

static void cuda_share(void *self, uint64_t ns, void (*fn)(void *ctx, unsigned part, unsigned parts), void *ctx)
{
    struct cuda *c = self;
    if (c->pool && ns >= WAKE_NS)
        ssm_pool_share(c->pool, PARTS * ssm_pool_threads(c->pool), fn, ctx);
    else
        fn(ctx, 0, 1);
}

static void fill(void *ctx, unsigned part, unsigned parts)
{
    gpu_plan_fill(ctx, part, parts);
}

static void write_signals(void *ctx, unsigned part, unsigned parts)
{
    gpu_plan_write(ctx, part, parts);
}

struct lines {
    const struct gpu_plan *plan;
    uint32_t from, to;
    const float *rows;
};

static void write_lines(void *ctx, unsigned part, unsigned parts)
{
    const struct lines *l = ctx;
    uint64_t n = l->to - l->from;
    uint32_t from = (uint32_t)(n * part / parts), to = (uint32_t)(n * (part + 1) / parts);
    if (to > from)
        gpu_plan_write_logits(l->plan, l->from + from, l->from + to, l->rows + (size_t)from * l->plan->head.n_out);
}

static void write_logits(struct cuda *c, const struct gpu_plan *plan)
{
    uint64_t line_ns = plan->head.n_out * sizeof(float) / BYTES_PER_NS;
    for (struct lines l = {.plan = plan}; l.from < plan->head.n_picked; l.from = l.to) {
        l.rows = gpu_queue_lines(&c->queue, l.from, &l.to);
        if (c->queue.err)
            return;
        cuda_share(c, (l.to - l.from) * line_ns, write_lines, &l);
    }
}

/* The oldest pass under way. */
static void complete(struct cuda *c)
{
    struct gpu_plan *plan = &gpu_queue_oldest(&c->queue)->plan;
    if (gpu_queue_wait(&c->queue)) {
        if (c->model->config.input == SSM_SAMPLES)
            cuda_share(c, (uint64_t)plan->tile.rows * c->model->config.front.patch * SCORE_NS, write_signals, plan);
        else
            write_logits(c, plan);
    }
    gpu_queue_drop(&c->queue);
}

static void plan_pass(struct cuda *c, struct ssm_feed *feed)
{
    struct gpu_plan *plan = gpu_queue_plan(&c->queue);
    uint64_t per_row = c->model->config.input == SSM_SAMPLES ? c->model->config.front.patch * SAMPLE_NS : 1;
    gpu_plan_take(plan, feed);
    cuda_share(c, plan->tile.rows * per_row + (uint64_t)plan->tile.n_entries * ENTRY_NS, fill, plan);
    gpu_plan_rows(plan);
}

static int cuda_start(void *self, const struct ssm_item *items, uint32_t n_items)
{
    struct cuda *c = self;
    struct gpu_queue *q = &c->queue;
    struct ssm_feed feed = {.items = items, .n = n_items, .slab = c->slots};
    if (q->err)
        return q->err;
    cudaSetDevice(c->device);
    c->started++;
    for (c->passes = 0; feed.n > 0 && !q->err; c->passes++) {
        if (q->under_way == GPU_SETS)
            complete(c);
        plan_pass(c, &feed);
        if (q->under_way > 0 && gpu_queue_oldest(q)->sliced)
            complete(c);
        gpu_queue_send(q, c->started);
    }
    return 0;
}

static int cuda_wait(void *self)
{
    struct cuda *c = self;
    cudaSetDevice(c->device);
    c->waited++;
    while (c->queue.under_way > 0 && gpu_queue_oldest(&c->queue)->batch <= c->waited)
        complete(c);
    return c->queue.err;
}

static bool cuda_done(void *self)
{
    struct cuda *c = self;
    cudaSetDevice(c->device);
    return gpu_queue_done(&c->queue, c->waited + 1);
}

static double cuda_busy(void *self)
{
    struct cuda *c = self;
    cudaSetDevice(c->device);
    return gpu_queue_busy(&c->queue);
}

static int cuda_replay(void *self, uint32_t times, float *ret_us)
{
    struct cuda *c = self;
    cudaSetDevice(c->device);
    if (c->queue.err)
        return c->queue.err;
    return c->passes == 1 ? gpu_queue_replay(&c->queue, times, ret_us) : -EINVAL;
}

/* ---- slots ----------------------------------------------------------------------------------------------- */

static uint8_t *slot_at(const struct cuda *c, uint32_t slot)
{
    return c->slots + slot * c->layout.stride;
}

/* What the slab says of an operation on it. */
static int slab_said(struct cuda *c, const char *what, int err)
{
    if (err && err != -ENOMEM && !c->queue.err) {
        cudaError_t e = cudaGetLastError(); /* one that stays */
        c->queue.err = err = -EIO;
        gpu_fail(c->queue.why, c->model->name, what, e ? e : cudaErrorUnknown);
    }
    return err;
}

static int cuda_reset(void *self, uint32_t slot)
{
    struct cuda *c = self;
    if (c->queue.err)
        return c->queue.err;
    cudaSetDevice(c->device);
    int err = slab_said(c, "reset a slot", gpu_slab_reset(&c->slab, slot, c->queue.compute));
    if (!err)
        ssm_layout_reset(&c->layout, slot_at(c, slot));
    return err;
}

static int cuda_copy(void *self, uint32_t from, uint32_t to)
{
    struct cuda *c = self;
    if (c->queue.err)
        return c->queue.err;
    cudaSetDevice(c->device);
    int err = slab_said(c, "copy a slot", gpu_slab_copy(&c->slab, from, to, c->queue.compute));
    if (!err)
        ssm_layout_copy(&c->layout, slot_at(c, from), slot_at(c, to));
    return err;
}

static const struct ssm_section *cuda_sections(const void *self, unsigned *ret_n)
{
    const struct cuda *c = self;
    *ret_n = c->layout.n_sections;
    return c->layout.sections;
}

static int cuda_save(void *self, uint32_t slot, void *buf)
{
    struct cuda *c = self;
    const size_t *at = c->layout.saved_at;
    uint8_t *saved = buf;
    if (c->queue.err)
        return c->queue.err;
    cudaSetDevice(c->device);
    ssm_layout_save(&c->layout, slot_at(c, slot), saved);
    return slab_said(c, "save a slot",
                     gpu_slab_save(&c->slab, &c->m, slot, (float *)(saved + at[SSM_PART_CONV]),
                                   (float *)(saved + at[SSM_PART_SSM]), c->queue.compute));
}

static int cuda_restore(void *self, uint32_t slot, const void *buf)
{
    struct cuda *c = self;
    const size_t *at = c->layout.saved_at;
    const uint8_t *saved = buf;
    if (c->queue.err)
        return c->queue.err;
    cudaSetDevice(c->device);
    ssm_layout_restore(&c->layout, slot_at(c, slot), saved);
    return slab_said(c, "restore a slot",
                     gpu_slab_restore(&c->slab, &c->m, slot, (const float *)(saved + at[SSM_PART_CONV]),
                                      (const float *)(saved + at[SSM_PART_SSM]), c->queue.compute));
}

static const char *cuda_ops(const void *self)
{
    return "cuda";
}

static const char *cuda_device(const void *self)
{
    return ((const struct cuda *)self)->name;
}

static const char *cuda_failure(const void *self)
{
    return ((const struct cuda *)self)->queue.why;
}

static bool cuda_exact(const void *self)
{
    return !((const struct cuda *)self)->m.cublas;
}

extern const struct ssm_backend ssm_backend_cuda;
__attribute__((visibility("default"))) const struct ssm_backend ssm_backend_cuda = {
    .abi = SSM_BACKEND_ABI,
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .ops = cuda_ops,
    .device = cuda_device,
    .reset = cuda_reset,
    .copy = cuda_copy,
    .start = cuda_start,
    .sections = cuda_sections,
    .save = cuda_save,
    .restore = cuda_restore,
    .wait = cuda_wait,
    .done = cuda_done,
    .busy = cuda_busy,
    .replay = cuda_replay,
    .share = cuda_share,
    .failure = cuda_failure,
    .exact = cuda_exact,
};
