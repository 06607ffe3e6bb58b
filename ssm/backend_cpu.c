/* backend_cpu.c: the engine on the CPU: packed weights, a slab of live slots, worker threads with a tile of scratch
 * each. The engine's thread is worker 0. A batch runs in one of three ways, chosen by size; the numbers are bitwise the
 * same:
 *
 *   alone   little work: waking anyone would take longer
 *   apart   many items, small model: each worker takes items of its own through all layers; nobody waits for anybody
 *   joint   a large model or few items: all workers share the channels and outputs of each tile, and meet between
 * stretches */
#include "ssm/backend.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "ssm/dtype.h"
#include "ssm/fail.h"
#include "ssm/heads.h"
#include "ssm/pool.h"

enum { THREADS_MAX = 256 };
#define SMALL_BYTES (4u << 20)       /* weights up to this stay in a core's own cache */
enum { WAKE_NS = 40000, PARTS = 4 }; /* of other work: worth waking a worker for; parts a worker */
#define WAKE_WORK (1u << 20)         /* multiply-adds worth waking a worker for, … */
#define MEET_WORK (4u << 20)         /* … and, per tile, for meeting four times a layer */

struct worker {
    struct ssm_tile tile;
    struct ssm_scratch scratch;
};

struct cpu {
    const struct ssm_model *model;
    struct ssm_weights w;
    struct ssm_layout layout;
    uint8_t *slab;
    size_t slab_bytes;
    struct ssm_pool *pool; /* NULL: one thread */
    unsigned threads;
    struct worker *workers;
    uint64_t work; /* multiply-adds of one step */
    /* the batch under way */
    const struct ssm_item *items;
    uint32_t n_items;
    uint64_t samples;
};

/* ---- open and close -------------------------------------------------------------------------------------- */

static int open_worker(struct cpu *c, struct worker *w)
{
    const struct ssm_dims *d = &c->w.dims;
    uint32_t depths[] = {d->E, d->D, d->R, d->F};
    size_t most = SSM_ALIGN;
    int err = ssm_tile_init(&w->tile, &c->w, &c->layout, 0);
    if (err)
        return err;
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        size_t bytes = depths[i] ? c->w.ops->scratch_bytes(w->tile.capacity, depths[i]) : 0;
        most = bytes > most ? bytes : most;
    }
    w->scratch.gemm = aligned_alloc(SSM_ALIGN, (most + SSM_ALIGN - 1) / SSM_ALIGN * SSM_ALIGN);
    w->scratch.u = aligned_alloc(SSM_ALIGN, w->tile.capacity * w->tile.ldr * sizeof(float));
    if (!w->scratch.gemm || !w->scratch.u)
        return -ENOMEM;
    for (size_t i = 0; i < w->tile.capacity * w->tile.ldr; i++)
        w->scratch.u[i] = 0.0f; /* pads must be finite */
    return 0;
}

static int open_workers(struct cpu *c, uint32_t threads, char *reterr)
{
    c->threads = ssm_pool_size(threads, THREADS_MAX);
    c->workers = calloc(c->threads, sizeof *c->workers);
    int err = c->workers ? 0 : -ENOMEM;
    for (unsigned i = 0; !err && i < c->threads; i++)
        err = open_worker(c, &c->workers[i]);
    if (!err && c->threads > 1)
        err = ssm_pool_new(c->threads, &c->pool);
    return err ? ssm_fail(reterr, err, "%s: no resources for %u worker threads", ssm_model_info(c->model)->name,
                          c->threads)
               : 0;
}

/* The kernel gives a slot's memory when it is first touched. */
static int open_slab(struct cpu *c, const struct ssm_engine_opts *opts, char *reterr)
{
    ssm_layout_init(&c->layout, c->model, true, opts->adapt);
    c->slab_bytes = opts->slots * c->layout.stride;
    void *slab = mmap(NULL, c->slab_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED)
        return ssm_fail(reterr, -ENOMEM, "%s: no address space for %u slots of %zu bytes",
                        ssm_model_info(c->model)->name, opts->slots, c->layout.stride);
    c->slab = slab;
    return 0;
}

static int pick_ops(const struct ssm_model *model, const struct ssm_engine_opts *opts, const struct ssm_ops **ret,
                    char *reterr)
{
    const char *dtype = ssm_dtype_name(opts->weights);
    if (opts->state != SSM_F32)
        return ssm_fail(reterr, -ENOTSUP, "%s: the CPU holds states as fp32 only, not %s", ssm_model_info(model)->name,
                        ssm_dtype_name(opts->state));
    *ret = ssm_ops_pick(opts->ops, opts->weights);
    if (!*ret)
        return ssm_fail(reterr, -ENOTSUP, "%s: no op table '%s' for %s weights on this CPU",
                        ssm_model_info(model)->name, opts->ops ? opts->ops : "any", dtype);
    return 0;
}

static void cpu_close(void *self)
{
    struct cpu *c = self;
    if (!c)
        return;
    ssm_pool_free(&c->pool);
    for (unsigned i = 0; c->workers && i < c->threads; i++) {
        ssm_tile_done(&c->workers[i].tile);
        free(c->workers[i].scratch.gemm);
        free(c->workers[i].scratch.u);
    }
    free(c->workers);
    if (c->slab)
        munmap(c->slab, c->slab_bytes);
    ssm_weights_done(&c->w);
    free(c);
}

static int cpu_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr)
{
    const struct ssm_ops *ops = NULL;
    struct cpu *c = calloc(1, sizeof *c);
    int err = c ? pick_ops(model, opts, &ops, reterr) : ssm_fail(reterr, -ENOMEM, "out of memory");
    if (err)
        goto fail;
    c->model = model;
    if ((err = ssm_weights_pack(model, ops, opts->weights, &c->w, reterr)) || (err = open_slab(c, opts, reterr)) ||
        (err = open_workers(c, opts->threads, reterr)))
        goto fail;
    c->work = ssm_model_info(model)->n_params;
    *ret_self = c;
    return 0;

fail:
    cpu_close(c);
    return err;
}

/* ---- advance --------------------------------------------------------------------------------------------- */

/* A tile's way through the model; `pool` only where several workers are in it. */
static void run_tile(struct ssm_tile *t, const struct ssm_scratch *s, struct ssm_part_of part, struct ssm_pool *pool)
{
    const struct ssm_weights *w = t->w;
    void (*const stretches[])(struct ssm_tile *, uint32_t, struct ssm_part_of, const struct ssm_scratch *) = {
        ssm_layer_in, ssm_layer_select, ssm_layer_scan, ssm_layer_out};
    if (t->layout->model->config.input == SSM_SAMPLES) {
        ssm_layer_gemm(t, &w->input, t->features, t->ldf, t->rows, t->r, t->ldr, false, 0, w->input.n, part, s);
        if (pool)
            ssm_pool_barrier(pool);
    }
    for (uint32_t layer = 0; layer < w->dims.L; layer++) {
        for (unsigned i = 0; i < 4; i++) {
            stretches[i](t, layer, part, s);
            if (pool)
                ssm_pool_barrier(pool);
        }
    }
    ssm_heads_norm(t, part);
    if (pool)
        ssm_pool_barrier(pool);
    ssm_heads_gemm(t, part, s);
    if (pool)
        ssm_pool_barrier(pool);
    ssm_heads_write(t, part);
}

static void run_feed(struct worker *w, struct ssm_feed feed)
{
    while (ssm_tile_fill(&w->tile, &feed)) {
        ssm_heads_pick(&w->tile);
        run_tile(&w->tile, &w->scratch, (struct ssm_part_of){0, 1}, NULL);
    }
}

/* Items whose first sample lies in this worker's share of all samples. */
static void run_apart(void *ctx, unsigned index, unsigned count)
{
    struct cpu *c = ctx;
    struct ssm_feed feed = {.slab = c->slab};
    uint64_t before = 0;
    for (uint32_t i = 0; i < c->n_items; before += c->items[i++].n) {
        if (before * count / c->samples != index)
            continue;
        if (feed.n++ == 0)
            feed.items = &c->items[i];
    }
    run_feed(&c->workers[index], feed);
}

/* All workers on worker 0's tile, each with its own scratch. */
static void run_share(void *ctx, unsigned index, unsigned count)
{
    struct cpu *c = ctx;
    run_tile(&c->workers[0].tile, &c->workers[index].scratch, (struct ssm_part_of){index, count}, c->pool);
}

static void run_joint(struct cpu *c)
{
    struct ssm_tile *t = &c->workers[0].tile;
    struct ssm_feed feed = {.items = c->items, .n = c->n_items, .slab = c->slab};
    while (ssm_tile_fill(t, &feed)) {
        ssm_heads_pick(t);
        if (t->rows * c->work >= MEET_WORK)
            ssm_pool_run(c->pool, run_share, c);
        else
            run_tile(t, &c->workers[0].scratch, (struct ssm_part_of){0, 1}, NULL);
    }
}

static int cpu_start(void *self, const struct ssm_item *items, uint32_t n_items)
{
    struct cpu *c = self;
    c->items = items;
    c->n_items = n_items;
    c->samples = 0;
    for (uint32_t i = 0; i < n_items; i++)
        c->samples += items[i].n;
    uint64_t work = c->samples * c->work / ssm_model_info(c->model)->patch;
    if (!c->pool || work < WAKE_WORK)
        run_feed(&c->workers[0], (struct ssm_feed){.items = items, .n = n_items, .slab = c->slab});
    else if (c->w.bytes <= SMALL_BYTES && n_items >= 2 * c->threads)
        ssm_pool_run(c->pool, run_apart, c);
    else
        run_joint(c);
    return 0;
}

static void cpu_share(void *self, uint64_t ns, void (*fn)(void *ctx, unsigned part, unsigned parts), void *ctx)
{
    struct cpu *c = self;
    if (c->pool && ns >= WAKE_NS)
        ssm_pool_share(c->pool, PARTS * c->threads, fn, ctx);
    else
        fn(ctx, 0, 1);
}

/* ---- slots ----------------------------------------------------------------------------------------------- */

static uint8_t *slot_at(const struct cpu *c, uint32_t slot)
{
    return c->slab + slot * c->layout.stride;
}

static int cpu_reset(void *self, uint32_t slot)
{
    struct cpu *c = self;
    ssm_layout_reset(&c->layout, slot_at(c, slot));
    return 0;
}

static int cpu_copy(void *self, uint32_t from, uint32_t to)
{
    struct cpu *c = self;
    ssm_layout_copy(&c->layout, slot_at(c, from), slot_at(c, to));
    return 0;
}

static const struct ssm_section *cpu_sections(const void *self, unsigned *ret_n)
{
    const struct cpu *c = self;
    *ret_n = c->layout.n_sections;
    return c->layout.sections;
}

static int cpu_save(void *self, uint32_t slot, void *buf)
{
    const struct cpu *c = self;
    ssm_layout_save(&c->layout, slot_at(c, slot), buf);
    return 0;
}

static int cpu_restore(void *self, uint32_t slot, const void *buf)
{
    struct cpu *c = self;
    ssm_layout_restore(&c->layout, slot_at(c, slot), buf);
    return 0;
}

static const char *cpu_ops(const void *self)
{
    return ((const struct cpu *)self)->w.ops->name;
}

static const char *cpu_device(const void *self)
{
    return "cpu";
}

const struct ssm_backend ssm_backend_cpu = {
    .abi = SSM_BACKEND_ABI,
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .ops = cpu_ops,
    .device = cpu_device,
    .reset = cpu_reset,
    .copy = cpu_copy,
    .start = cpu_start,
    .sections = cpu_sections,
    .save = cpu_save,
    .restore = cpu_restore,
    .share = cpu_share,
};
