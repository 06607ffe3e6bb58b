/* queue.c: see queue.h. Three streams: `up` and `down` copy, `compute` has the kernels and all that touches states.
 * Where nothing is under way a pass goes through `compute` alone: fewer events, less delay. If it is small, there is no
 * copy back either: its kernel writes to the host, which sees the results come word by word, before any event is over;
 * and none there for cluster.cu, whose launch takes a small plan along. Everything is allocated at open, but for a
 * graph when the first pass of its bucket comes.
 *
 * Trap: a set's buffers on the host are free once its pass was dropped, not before; `out` of a large vocabulary exists
 * once, so that a pass must not start before the last one's logits are out of it. */
#include "ssm/cuda/queue.h"

#include <errno.h>
#include <string.h>

#include "ssm/fail.h"

enum {
    ROWS_MAX = 16384,
    RESIDENT_ROWS = 32768, /* the same, of token models that are small, */
    WIDE_ROWS = GPU_ROWS,  /* and that are not: one pass does not begin before the last one's slices have ended */
    ROWS_MIN = 256,
    RESIDENT_RUN = 512, /* a longer run has the whole chip to itself, layer by layer */
    CLUSTER_TILE = 8,
    ALIGN = 1024
};
#define BETWEEN_BYTES ((size_t)2 << 30) /* at most: activations, … */
#define OUT_BYTES ((size_t)1 << 30)     /* … head outputs, … */
#define OUT_TWICE ((size_t)256 << 20)   /* … head outputs of which each set has its own, … */
#define BACK_BYTES ((size_t)256 << 20)  /* … results of a signal model's pass, … */
#define RING_BYTES ((size_t)32 << 20)   /* … and pinned memory of a set for logits */

enum {
    SMALL_BYTES = 16 << 10, /* most that a small pass writes across the bus */
    ASKS = 1 << 16          /* looks at a word that has not come before the device is asked whether it failed */
};
#define ABSENT 0xffffffffu /* a word that no kernel writes, as in few.cu */

bool gpu_queue_check(struct gpu_queue *q, const char *what, cudaError_t e)
{
    if (e && !q->err) {
        gpu_fail(q->why, q->m->model->name, what, e);
        q->err = -EIO;
    }
    return !q->err;
}

/* ---- open and close -------------------------------------------------------------------------------------- */

struct block {
    uint8_t *at; /* NULL while counting */
    size_t used;
};

static void *take(struct block *b, size_t bytes)
{
    void *at = b->at ? b->at + b->used : NULL;
    b->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Activations are fp16 in fast models, fp32 in others; r and bc are fp32 in both. */
static size_t row_bytes(const struct gpu_model *m)
{
    const struct gpu_dims *d = &m->d;
    size_t width = m->fast ? sizeof(uint16_t) : sizeof(float);
    return (d->E + 2 * d->N) * sizeof(float) + (d->E + 4 * (size_t)d->D + d->Rp) * width;
}

static bool has_f(const struct gpu_queue *q)
{
    return q->m->model->config.embedding;
}

static void set_capacity(struct gpu_queue *q)
{
    const struct gpu_model *m = q->m;
    size_t out = (m->head.np ? m->head.np : 1) * sizeof(float), back = out + (has_f(q) ? m->d.E * sizeof(float) : 0);
    size_t rows = q->samples || !m->fast ? ROWS_MAX : q->resident ? RESIDENT_ROWS : WIDE_ROWS;
    rows = size_min(BETWEEN_BYTES / row_bytes(m), rows);
    if (q->samples)
        rows = size_min(BACK_BYTES / back, rows);
    rows = rows < ROWS_MIN ? ROWS_MIN : rows / ROWS_MIN * ROWS_MIN;
    q->capacity = (uint32_t)rows;
    q->out_capacity = q->samples ? q->capacity : (uint32_t)size_min(OUT_BYTES / out, rows);
    q->ring = q->out_capacity * out;
    if (!q->samples && q->ring > RING_BYTES)
        q->ring = 2 * out > RING_BYTES ? 2 * out : RING_BYTES;
}

/* Walked twice: to count, then to place. */
static size_t place_device(struct gpu_queue *q, uint8_t *at)
{
    const struct gpu_model *m = q->m;
    const struct gpu_dims *d = &m->d;
    struct gpu_pass *p = &q->pass;
    struct block b = {at, 0};
    size_t rows = q->capacity, f = sizeof(float), width = m->fast ? sizeof(uint16_t) : f;
    size_t out = (size_t)q->out_capacity * m->head.np * f;
    p->r = take(&b, rows * d->E * f);
    p->u = take(&b, rows * d->E * width);
    p->xz = take(&b, rows * 2 * d->D * width);
    p->xc = take(&b, rows * d->D * width);
    p->bc = take(&b, rows * 2 * d->N * f);
    p->dt = take(&b, rows * d->Rp * width);
    p->y = take(&b, rows * d->D * width);
    p->partial = take(&b, q->few ? gpu_few_scratch(m) : 0);
    p->sync = take(&b, GPU_SYNC_WORDS * sizeof *p->sync);
    for (unsigned i = 0; i < GPU_SETS; i++) {
        struct gpu_set *s = &q->sets[i];
        s->in_device = take(&b, gpu_plan_bytes(q->capacity, q->samples ? m->input.kp : 0));
        s->out_device = i > 0 && out > OUT_TWICE ? q->sets[0].out_device : take(&b, out);
        s->f_device = has_f(q) ? take(&b, rows * d->E * f) : NULL;
    }
    return b.used;
}

static size_t place_pinned(struct gpu_queue *q, uint8_t *at)
{
    struct block b = {at, 0};
    for (unsigned i = 0; i < GPU_SETS; i++) {
        struct gpu_set *s = &q->sets[i];
        s->in = take(&b, gpu_plan_bytes(q->capacity, q->samples ? q->m->input.kp : 0));
        s->out = take(&b, q->ring);
        s->f = has_f(q) ? take(&b, q->capacity * q->m->d.E * sizeof(float)) : NULL;
    }
    return b.used;
}

static int open_buffers(struct gpu_queue *q, char *reterr)
{
    const char *name = q->m->model->name;
    cudaError_t e;
    q->device_bytes = place_device(q, NULL);
    q->pinned_bytes = place_pinned(q, NULL);
    if ((e = cudaMalloc((void **)&q->device, q->device_bytes)) || (e = cudaMemset(q->device, 0, q->device_bytes)))
        return gpu_fail(reterr, name, "device memory for activations", e);
    if ((e = cudaMallocHost((void **)&q->pinned, q->pinned_bytes)))
        return gpu_fail(reterr, name, "host memory for transfers", e);
    memset(q->pinned, 0, q->pinned_bytes);
    place_device(q, q->device);
    place_pinned(q, q->pinned);
    return 0;
}

static int open_streams(struct gpu_queue *q, char *reterr)
{
    cudaStream_t *streams[] = {&q->compute, &q->up, &q->down};
    cudaError_t e = cudaSuccess;
    for (unsigned i = 0; !e && i < 3; i++)
        e = cudaStreamCreateWithFlags(streams[i], cudaStreamNonBlocking);
    for (unsigned i = 0; !e && i < GPU_SETS; i++) {
        struct gpu_set *s = &q->sets[i];
        if ((e = cudaEventCreateWithFlags(&s->staged, cudaEventDisableTiming)) || (e = cudaEventCreate(&s->begun)) ||
            (e = cudaEventCreate(&s->computed)))
            break;
        e = cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming);
    }
    for (unsigned i = 0; !e && i < 2; i++)
        e = cudaEventCreateWithFlags(&q->slices[i], cudaEventDisableTiming);
    return e ? gpu_fail(reterr, q->m->model->name, "streams", e) : 0;
}

int gpu_queue_open(struct gpu_queue *q, const struct gpu_model *m, const struct gpu_slab *slab,
                   const struct ssm_layout *layout, enum ssm_dtype state, char *reterr)
{
    *q = (struct gpu_queue){.m = m, .state = state, .samples = layout->model->config.input == SSM_SAMPLES};
    q->resident = m->resident && gpu_resident_open(m);
    q->cluster_rows = m->resident && gpu_cluster_open(m) ? gpu_cluster_rows(m) : 0;
    q->few = m->fast && gpu_few_open(m);
    set_capacity(q);
    int err = open_buffers(q, reterr);
    if (err || (err = open_streams(q, reterr)))
        return err;
    q->pass.capacity = q->capacity;
    q->pass.slab = (struct gpu_slab_view){slab->conv_layer, slab->ssm_layer, slab->ssm_at};
    for (unsigned i = 0; i < GPU_SETS; i++) {
        struct gpu_set *s = &q->sets[i];
        if ((err = gpu_plan_init(&s->plan, layout, m, slab, q->capacity, q->out_capacity, s->in)))
            return ssm_fail(reterr, err, "%s: out of memory for batches", m->model->name);
        s->plan.tile.near = s->plan.tile.out = s->out;
        s->plan.tile.f = s->f;
    }
    q->pass.out = q->sets[0].out_device;
    cudaError_t e = gpu_sync_default(); /* the zeros above */
    if (e)
        return gpu_fail(reterr, m->model->name, "buffers", e);
    return m->fast ? gpu_wide_open(m, &q->pass, &q->wide, reterr) : 0;
}

void gpu_queue_close(struct gpu_queue *q)
{
    cudaStream_t streams[] = {q->compute, q->up, q->down};
    for (unsigned i = 0; i < 3; i++)
        if (streams[i])
            cudaStreamSynchronize(streams[i]);
    for (unsigned i = 0; i < q->n_graphs; i++)
        cudaGraphExecDestroy(q->graphs[i].exec);
    if (q->wide)
        gpu_wide_close(&q->wide);
    for (unsigned i = 0; i < GPU_SETS; i++) {
        struct gpu_set *s = &q->sets[i];
        cudaEvent_t events[] = {s->staged, s->begun, s->computed, s->done};
        for (unsigned k = 0; k < 4; k++)
            if (events[k])
                cudaEventDestroy(events[k]);
        gpu_plan_done(&s->plan);
    }
    for (unsigned i = 0; i < 2; i++)
        if (q->slices[i])
            cudaEventDestroy(q->slices[i]);
    for (unsigned i = 0; i < 3; i++)
        if (streams[i])
            cudaStreamDestroy(streams[i]);
    cudaFree(q->device);
    cudaFreeHost(q->pinned);
    *q = (struct gpu_queue){0};
}

/* ---- one pass -------------------------------------------------------------------------------------------- */

static size_t line_bytes(const struct gpu_set *s)
{
    return s->plan.head.n_out * sizeof(float);
}

static void pick_regime(const struct gpu_queue *q, struct gpu_set *s)
{
    const struct gpu_model *m = q->m;
    uint32_t rows = s->plan.head.rows;
    s->tile_rows = 0;
    if (!m->fast) {
        s->regime = GPU_PLAIN;
    } else if (rows <= q->cluster_rows) {
        s->regime = GPU_CLUSTER;
        s->tile_rows = CLUSTER_TILE;
    } else if (q->resident && s->plan.longest <= RESIDENT_RUN) {
        s->regime = GPU_RESIDENT;
        s->tile_rows = gpu_resident_tile(m, rows);
    } else {
        s->regime = q->few && rows <= GPU_FEW_ROWS ? GPU_FEW : GPU_WIDE;
    }
}

static bool layered(const struct gpu_set *s)
{
    return s->regime == GPU_WIDE || s->regime == GPU_PLAIN;
}

static size_t out_bytes(const struct gpu_set *s)
{
    return s->plan.head.n_picked * line_bytes(s);
}

static size_t f_bytes(const struct gpu_queue *q, const struct gpu_set *s)
{
    return s->plan.wants_f ? (size_t)s->plan.head.rows * q->m->d.E * sizeof(float) : 0;
}

/* Little comes back, from a kernel that nothing is before. */
static bool is_small(const struct gpu_queue *q, const struct gpu_set *s)
{
    size_t back = out_bytes(s) + f_bytes(q, s);
    return q->under_way == 0 && !layered(s) && back > 0 && back <= SMALL_BYTES;
}

/* Not for few.cu, whose kernel would be 4 to 8 % slower. */
static bool is_carried(const struct gpu_set *s)
{
    return s->regime == GPU_CLUSTER && s->plan.places.end <= sizeof(struct gpu_carried);
}

/* Where the kernels find what the plan has laid out. */
static void aim(const struct gpu_queue *q, struct gpu_set *s)
{
    const struct gpu_plan *plan = &s->plan;
    const struct gpu_places *at = &plan->places;
    const uint8_t *in = s->in_device;
    struct gpu_pass *p = &s->pass;
    *p = q->pass;
    p->carried = is_carried(s);
    p->head = (const struct gpu_head *)in;
    p->runs = (const struct gpu_run *)(in + at->runs);
    p->run_of = (const uint32_t *)(in + at->run_of);
    p->g = (const float *)(in + at->g);
    p->tokens = q->samples ? NULL : (const int32_t *)(in + at->x);
    p->features = q->samples ? (const float *)(in + at->x) : NULL;
    p->pick = (const uint32_t *)(in + at->pick);
    p->tiles = s->tile_rows ? (const struct gpu_tile *)(in + at->tiles) : NULL;
    p->chains = s->tile_rows ? (const struct gpu_chain *)(in + at->chains) : NULL;
    p->out = s->small ? s->out : s->out_device;
    p->f = !plan->wants_f ? NULL : s->small ? s->f : s->f_device;
    p->ldo = plan->head.n_out;
}

static void launch(const struct gpu_queue *q, const struct gpu_set *s, uint32_t rows, uint32_t n_runs,
                   uint32_t n_picked)
{
    const struct gpu_model *m = q->m;
    const struct gpu_head *h = &s->plan.head;
    const struct gpu_pass *p = &s->pass;
    const struct gpu_carried *plan = (const struct gpu_carried *)s->in; /* looked at where p->carried */
    if (m->fast && q->samples)
        gpu_input(m, p, plan, rows, q->compute);
    switch (s->regime) {
    case GPU_CLUSTER:
        gpu_cluster(m, p, plan, q->state, h->n_chains, q->compute);
        break;
    case GPU_RESIDENT:
        gpu_resident(m, p, q->state, s->tile_rows, h->n_chains, q->compute);
        break;
    case GPU_FEW:
        gpu_few(m, p, q->state, q->compute);
        break;
    case GPU_WIDE:
        gpu_wide_run(q->wide, m, p, q->state, &s->plan.slices, rows, n_runs, n_picked, h->n_out, q->compute);
        break;
    case GPU_PLAIN:
        gpu_plain(m, p, q->state, rows, n_runs, n_picked, h->n_out, q->compute);
        break;
    }
}

/* ---- graphs ---- */

/* NULL where the pass cannot be captured; then none is tried again. */
static cudaGraphExec_t capture(struct gpu_queue *q, const struct gpu_set *s, const struct gpu_graph_key *key)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t e = cudaStreamBeginCapture(q->compute, cudaStreamCaptureModeThreadLocal);
    if (!e) {
        launch(q, s, key->rows, key->n_runs, key->n_picked);
        e = cudaStreamEndCapture(q->compute, &graph);
    }
    if (!e)
        e = cudaGraphInstantiate(&exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (e || cudaPeekAtLastError()) { /* also of a launch: the graph may lack it */
        cudaGetLastError();
        q->no_graphs = true;
        if (exec)
            cudaGraphExecDestroy(exec);
        return NULL;
    }
    return exec;
}

static cudaGraphExec_t graph_of(struct gpu_queue *q, const struct gpu_set *s)
{
    const struct gpu_head *h = &s->plan.head;
    struct gpu_graph_key key = {.set = (uint32_t)(s - q->sets),
                                .rows = s->plan.room,
                                .n_runs = gpu_bucket(h->n_runs, q->capacity),
                                .n_picked = gpu_bucket(h->n_picked, q->out_capacity),
                                .n_out = h->n_out,
                                .f = s->pass.f != NULL};
    for (unsigned i = 0; i < q->n_graphs; i++)
        if (!memcmp(&q->graphs[i].key, &key, sizeof key))
            return q->graphs[i].exec;
    if (q->n_graphs == GPU_GRAPHS || q->no_graphs)
        return NULL;
    cudaGraphExec_t exec = capture(q, s, &key);
    if (exec)
        q->graphs[q->n_graphs++] = (struct gpu_graph){key, exec};
    return exec;
}

static void compute(struct gpu_queue *q, const struct gpu_set *s)
{
    const struct gpu_head *h = &s->plan.head;
    cudaGraphExec_t exec = layered(s) && s->plan.room <= GPU_BUCKET_ROWS ? graph_of(q, s) : NULL;
    if (exec) {
        gpu_queue_check(q, "launch", cudaGraphLaunch(exec, q->compute));
        return;
    }
    launch(q, s, h->rows, h->n_runs, h->n_picked);
    gpu_queue_check(q, "launch", cudaGetLastError());
}

/* ---- there and back -------------------------------------------------------------------------------------- */

struct gpu_plan *gpu_queue_plan(struct gpu_queue *q)
{
    return &q->sets[q->next].plan;
}

static void copy(struct gpu_queue *q, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                 cudaStream_t stream)
{
    if (bytes)
        gpu_queue_check(q, "copy", cudaMemcpyAsync(to, from, bytes, kind, stream));
}

static void record(struct gpu_queue *q, cudaEvent_t event, cudaStream_t stream)
{
    gpu_queue_check(q, "event", cudaEventRecord(event, stream));
}

static void await(struct gpu_queue *q, cudaStream_t stream, cudaEvent_t event)
{
    gpu_queue_check(q, "event", cudaStreamWaitEvent(stream, event, 0));
}

static void copy_back(struct gpu_queue *q, struct gpu_set *s, cudaStream_t stream)
{
    if (!s->sliced)
        copy(q, s->out, s->out_device, out_bytes(s), cudaMemcpyDeviceToHost, stream);
    copy(q, s->f, s->f_device, f_bytes(q, s), cudaMemcpyDeviceToHost, stream);
}

/* Where the kernel itself writes. */
static void blank(struct gpu_queue *q, struct gpu_set *s)
{
    memset(s->out, 0xff, out_bytes(s));
    if (s->pass.f)
        memset(s->f, 0xff, f_bytes(q, s));
}

/* `before`: the pass under way, or NULL. */
static void transfer(struct gpu_queue *q, struct gpu_set *s, const struct gpu_set *before)
{
    cudaStream_t up = before ? q->up : q->compute, down = before ? q->down : q->compute;
    if (!s->pass.carried) {
        copy(q, s->in_device, s->in, s->plan.places.end, cudaMemcpyHostToDevice, up);
        if (before) {
            record(q, s->staged, up);
            await(q, q->compute, s->staged);
        }
    }
    if (before && before->sent && before->out_device == s->out_device)
        await(q, q->compute, before->done);
    if (s->small)
        blank(q, s);
    record(q, s->begun, q->compute);
    compute(q, s);
    record(q, s->computed, q->compute);
    if (s->small)
        return;
    if (before)
        await(q, down, s->computed);
    copy_back(q, s, down);
    record(q, s->done, down);
}

static float elapsed_ms(struct gpu_queue *q, const struct gpu_set *s)
{
    float ms = 0.0f;
    if (gpu_queue_check(q, "pass", cudaEventSynchronize(s->computed)))
        gpu_queue_check(q, "clock", cudaEventElapsedTime(&ms, s->begun, s->computed));
    return ms;
}

static void settle(struct gpu_queue *q, struct gpu_set *s)
{
    if (s->owes && !q->err)
        q->busy += 1e-3 * (double)elapsed_ms(q, s);
    s->owes = false;
}

double gpu_queue_busy(struct gpu_queue *q)
{
    for (unsigned i = 0; i < GPU_SETS; i++)
        settle(q, &q->sets[i]);
    return q->busy;
}

void gpu_queue_send(struct gpu_queue *q, uint64_t batch)
{
    struct gpu_set *s = &q->sets[q->next];
    struct gpu_plan *plan = &s->plan;
    s->batch = batch;
    s->sent = plan->head.rows > 0 && !q->err;
    s->sliced = out_bytes(s) > q->ring;
    s->small = false;
    plan->tile.ldnear = plan->tile.ldo = plan->head.n_out;
    if (s->sent) {
        pick_regime(q, s);
        if (s->tile_rows)
            gpu_plan_tiles(plan, s->tile_rows);
        gpu_plan_close(plan);
        if (s->regime == GPU_WIDE)
            gpu_plan_slices(plan);
        settle(q, s); /* before its events are recorded anew */
        s->small = is_small(q, s);
        aim(q, s);
        transfer(q, s, q->under_way > 0 ? gpu_queue_oldest(q) : NULL);
    }
    q->next = (q->next + 1) % GPU_SETS;
    q->under_way++;
}

struct gpu_set *gpu_queue_oldest(struct gpu_queue *q)
{
    return &q->sets[(q->next + GPU_SETS - q->under_way) % GPU_SETS];
}

/* Or failed. */
static bool is_over(struct gpu_queue *q, cudaEvent_t event)
{
    cudaError_t e = cudaEventQuery(event);
    if (e != cudaErrorNotReady) {
        gpu_queue_check(q, "pass", e);
        return true;
    }
    cudaGetLastError();
    return false;
}

/* Until all of the words are there, or the pass is over without one. */
static void await_words(struct gpu_queue *q, const struct gpu_set *s, const void *at, size_t bytes)
{
    const uint32_t *words = at;
    unsigned asks = 0;
    for (size_t i = 0; i < bytes / sizeof *words;) {
        if (__atomic_load_n(&words[i], __ATOMIC_ACQUIRE) != ABSENT)
            i++;
        else if (++asks % ASKS == 0 && is_over(q, s->computed))
            return;
    }
}

bool gpu_queue_wait(struct gpu_queue *q)
{
    struct gpu_set *s = gpu_queue_oldest(q);
    gpu_queue_busy(q); /* of what was before it, while the device is at work */
    if (s->sent && s->small && !q->err) {
        await_words(q, s, s->out, out_bytes(s));
        await_words(q, s, s->f, f_bytes(q, s));
    } else if (s->sent && !q->err) {
        gpu_queue_check(q, "pass", cudaEventSynchronize(s->done));
    }
    s->owes = s->sent;
    return !q->err;
}

bool gpu_queue_done(struct gpu_queue *q, uint64_t batch)
{
    for (unsigned i = 0; i < q->under_way && !q->err; i++) {
        const struct gpu_set *s = &q->sets[(q->next + GPU_SETS - q->under_way + i) % GPU_SETS];
        if (s->batch <= batch && s->sent && !is_over(q, s->small ? s->computed : s->done))
            return false;
    }
    return true;
}

/* Lines of half the ring. */
static uint32_t slice_lines(const struct gpu_queue *q, const struct gpu_set *s)
{
    return (uint32_t)(q->ring / 2 / line_bytes(s));
}

static void fetch_slice(struct gpu_queue *q, const struct gpu_set *s, uint32_t slice)
{
    uint32_t most = slice_lines(q, s), from = slice * most, left = s->plan.head.n_picked - from;
    size_t line = s->plan.head.n_out;
    float *to = s->out + slice % 2 * most * line;
    copy(q, to, s->out_device + from * line, (left < most ? left : most) * line_bytes(s), cudaMemcpyDeviceToHost,
         q->down);
    record(q, q->slices[slice % 2], q->down);
}

const float *gpu_queue_lines(struct gpu_queue *q, uint32_t from, uint32_t *ret_to)
{
    const struct gpu_set *s = gpu_queue_oldest(q);
    uint32_t n = s->plan.head.n_picked;
    *ret_to = n;
    if (!s->sliced)
        return s->out;
    uint32_t most = slice_lines(q, s), slice = from / most;
    if (from == 0)
        fetch_slice(q, s, 0);
    if (n - from > most) {
        fetch_slice(q, s, slice + 1);
        *ret_to = from + most;
    }
    gpu_queue_check(q, "copy", cudaEventSynchronize(q->slices[slice % 2]));
    return s->out + slice % 2 * (size_t)most * s->plan.head.n_out;
}

void gpu_queue_drop(struct gpu_queue *q)
{
    q->under_way--;
}

int gpu_queue_replay(struct gpu_queue *q, uint32_t times, float *ret_us)
{
    struct gpu_set *s = &q->sets[(q->next + GPU_SETS - 1) % GPU_SETS];
    if (!s->sent || !times)
        return -EINVAL;
    gpu_queue_busy(q);
    s->small = false; /* results stay on the device */
    aim(q, s);
    record(q, s->begun, q->compute);
    for (uint32_t i = 0; i < times && !q->err; i++)
        compute(q, s);
    record(q, s->computed, q->compute);
    *ret_us = elapsed_ms(q, s) * 1e3f / (float)times;
    return q->err;
}
