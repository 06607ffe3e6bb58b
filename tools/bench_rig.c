/* bench_rig.c: an engine with B streams and T steps of input for each, and the same streams on a CPU table that is
 * known to be right. Trap: on the CPU all steps of a stream write their logits to one place, as a consumer that looks
 * at each step and goes on would have it; else a scan would time the page faults of gigabytes of logits. A GPU's
 * results come back in no order, to a place each. */
#include "tools/bench.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "ssm/ops.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static size_t outputs_of(const struct ssm_model_info *info)
{
    return info->input == SSM_TOKENS ? info->vocab : (size_t)info->horizon * info->n_quantiles;
}

/* Floats from one step's outputs to the next's. */
static size_t out_stride(const struct bench_rig *r)
{
    return bench_on_gpu(r->options) && !r->what->last ? outputs_of(r->info) : 0;
}

static float *outputs_at(const struct bench_rig *r, uint32_t stream, uint32_t step)
{
    size_t stride = out_stride(r), steps = stride ? r->what->steps : 1;
    return r->out + stream * steps * outputs_of(r->info) + step * stride;
}

/* Steps [from, from + n) of a stream; `out`: what it says of them. */
static struct ssm_item item_of(const struct bench_rig *r, uint32_t stream, uint32_t from, uint32_t n, bool out)
{
    size_t patch = r->info->patch, at = ((size_t)stream * r->steps + from) * patch;
    struct ssm_item item = {.slot = r->slots[stream], .n = (uint32_t)(n * patch), .interval = 1};
    float *to = out ? outputs_at(r, stream, 0) : NULL;
    if (r->info->input == SSM_TOKENS) {
        item.tokens = r->tokens + at;
        item.out.logits = to;
        item.out.logits_stride = out_stride(r);
        return item;
    }
    item.x = r->samples + at;
    item.x_stride = 1;
    item.out.forecast = to;
    item.out.forecast_stride = out_stride(r);
    item.out.horizon = r->info->horizon;
    item.out.n_q = r->info->n_quantiles;
    for (uint8_t q = 0; q < r->info->n_quantiles; q++)
        item.out.q[q] = q;
    return item;
}

static int open_model(struct bench_rig *r)
{
    char error[SSM_ERR];
    int err = r->what->dir ? ssm_model_open(r->what->dir, &r->model, error)
                           : ssm_model_random(r->what->preset, 1, &r->model, error);
    if (!err)
        return EX_OK;
    fprintf(stderr, "mambactl bench: %s\n", error);
    return r->what->dir ? EX_CONFIG : EX_USAGE;
}

static int open_engine(const struct ssm_model *m, const struct bench_case *what, const struct bench_options *o,
                       struct ssm_engine **ret)
{
    char error[SSM_ERR];
    struct ssm_engine_opts opts = {.device = o->device,
                                   .ops = o->ops,
                                   .weights = what->weights,
                                   .state = what->state,
                                   .deterministic = !o->not_deterministic,
                                   .slots = what->streams + what->spare,
                                   .threads = o->threads};
    if (!ssm_engine_open(m, &opts, ret, error))
        return EX_OK;
    fprintf(stderr, "mambactl bench: %s\n", error);
    return EX_UNAVAILABLE;
}

static int out_of_memory(void)
{
    fputs("mambactl bench: out of memory\n", stderr);
    return EX_UNAVAILABLE;
}

static int take_slots(struct bench_rig *r)
{
    for (uint32_t i = 0; i < r->what->streams; i++) {
        if (!ssm_slot_take(r->engine, &r->slots[i]))
            continue;
        fprintf(stderr, "mambactl bench: %s: no memory for more than %u streams\n", r->info->name, i);
        return EX_UNAVAILABLE;
    }
    return EX_OK;
}

int bench_rig_open(struct bench_rig *r, const struct bench_case *what, const struct bench_options *o)
{
    *r = (struct bench_rig){.what = what, .options = o, .steps = what->steps, .seed = 1};
    int code = open_model(r);
    if (!code)
        code = open_engine(r->model, what, o, &r->engine);
    if (code)
        goto fail;
    r->info = ssm_model_info(r->model);
    size_t inputs = (size_t)what->streams * what->steps * r->info->patch;
    r->slots = calloc(what->streams, sizeof *r->slots);
    r->items = calloc(what->streams, sizeof *r->items);
    r->tokens = calloc(inputs, sizeof *r->tokens);
    r->samples = calloc(inputs, sizeof *r->samples);
    r->out = calloc(what->streams * outputs_of(r->info) * (out_stride(r) ? what->steps : 1), sizeof *r->out);
    code = r->slots && r->items && r->tokens && r->samples && r->out ? take_slots(r) : out_of_memory();
    if (code)
        goto fail;
    return EX_OK;

fail:
    bench_rig_close(r);
    return code;
}

void bench_rig_close(struct bench_rig *r)
{
    ssm_engine_close(&r->engine);
    ssm_model_close(&r->model);
    free(r->slots);
    free(r->items);
    free(r->tokens);
    free(r->samples);
    free(r->out);
}

static void make_inputs(struct bench_rig *r)
{
    size_t n = (size_t)r->what->streams * r->steps * r->info->patch;
    for (size_t i = 0; i < n; i++) {
        if (r->info->input == SSM_TOKENS)
            r->tokens[i] = (int32_t)(next(&r->seed) % r->info->vocab);
        else
            r->samples[i] = sin(0.05 * (double)i) + 1e-10 * next(&r->seed);
    }
}

/* One call: streams × steps model steps. With logits of the last step only it is two: all but the last, and the last.
 */
static int advance(struct bench_rig *r)
{
    bool split = r->what->last && r->steps > 1;
    make_inputs(r);
    for (uint32_t i = 0; i < r->what->streams; i++)
        r->items[i] = item_of(r, i, 0, r->steps - split, !split);
    int err = ssm_advance(r->engine, r->items, r->what->streams);
    for (uint32_t i = 0; split && i < r->what->streams; i++)
        r->items[i] = item_of(r, i, r->steps - 1, 1, true);
    if (!err && split)
        err = ssm_advance(r->engine, r->items, r->what->streams);
    if (err)
        fprintf(stderr, "mambactl bench: %s\n", ssm_engine_failure(r->engine));
    return err;
}

int bench_rig_rate(struct bench_rig *r, double seconds, double *ret_rate)
{
    double start = now(), elapsed;
    uint64_t calls = 0;
    do {
        int err = advance(r);
        if (err)
            return err;
        calls++;
        elapsed = now() - start;
    } while (elapsed < seconds);
    *ret_rate = (double)calls * r->what->streams * r->steps / elapsed;
    return 0;
}

int bench_rig_replay(struct bench_rig *r, uint32_t runs, double seconds, double *ret_us)
{
    enum { WARM = 20, TIMES_MAX = 5000 };
    double us[BENCH_RUNS_MAX];
    float one;
    int err = r->what->last && r->steps > 1 ? -EINVAL : advance(r);
    if (err || (err = ssm_engine_replay(r->engine, WARM, &one)))
        return err;
    double times = seconds * 1e6 / (double)one;
    for (uint32_t i = 0; i < runs && !err; i++) {
        err = ssm_engine_replay(r->engine, times < 1 ? 1 : times > TIMES_MAX ? TIMES_MAX : (uint32_t)times, &one);
        us[i] = (double)one;
    }
    *ret_us = err ? 0.0 : bench_median(us, runs);
    return err;
}

/* ---- verification ---------------------------------------------------------------------------------------- */

enum { CHECKED = 4, CALLS = 2, STEPS_MAX = 300 };
#define LARGE 50000000u /* parameters from which on ops_ref takes minutes */
#define CHECK_WORK 2e9  /* multiply-adds of ops_ref, seconds; */
#define FASTER 50.0     /* the best tables do so many times that */

/* A few of a rig's streams on the CPU, on the rig's own inputs. */
struct checker {
    struct ssm_engine *engine;
    uint32_t steps; /* of a call that take no longer than they should */
    uint32_t n, streams[CHECKED];
    struct ssm_slot slots[CHECKED];
    float *out;
};

static int checker_open(struct checker *c, const struct bench_rig *r)
{
    bool large = r->info->n_params >= LARGE && bench_on_gpu(r->options);
    const char *fast = ssm_ops_pick("avx512", r->what->weights) ? "avx512" : NULL; /* activations in fp32 */
    struct bench_options o = {.device = "cpu", .ops = large ? fast : "ref"};
    struct bench_case what = {.weights = r->what->weights, .streams = CHECKED};
    uint32_t last = r->what->streams - 1;
    for (uint32_t k = 0; k < CHECKED; k++) {
        uint32_t stream = (uint32_t)((uint64_t)last * k / (CHECKED - 1));
        if (k == 0 || stream != c->streams[c->n - 1])
            c->streams[c->n++] = stream;
    }
    double steps = CHECK_WORK * (large ? FASTER : 1.0) / ((double)r->info->n_params * c->n * CALLS);
    c->steps = steps < 2 ? 2 : steps > STEPS_MAX ? STEPS_MAX : (uint32_t)steps;
    c->out = calloc(outputs_of(r->info), sizeof *c->out);
    int code = c->out ? open_engine(r->model, &what, &o, &c->engine) : out_of_memory();
    for (uint32_t k = 0; !code && k < c->n; k++)
        ssm_slot_take(c->engine, &c->slots[k]); /* the CPU has as many as were asked for */
    return code;
}

static void checker_close(struct checker *c)
{
    ssm_engine_close(&c->engine);
    free(c->out);
}

/* The last step's outputs are compared. */
static void check(struct checker *c, const struct bench_rig *r, double *difference, double *size)
{
    size_t n = outputs_of(r->info);
    for (uint32_t k = 0; k < c->n; k++) {
        struct ssm_item item = item_of(r, c->streams[k], 0, r->steps, true);
        const float *theirs = outputs_at(r, c->streams[k], r->steps - 1);
        item.slot = c->slots[k];
        item.out.logits_stride = item.out.forecast_stride = 0;
        if (item.out.logits)
            item.out.logits = c->out;
        else
            item.out.forecast = c->out;
        ssm_advance(c->engine, &item, 1);
        for (size_t i = 0; i < n; i++) {
            double d = (double)theirs[i] - (double)c->out[i];
            *difference += d * d;
            *size += (double)c->out[i] * (double)c->out[i];
        }
    }
}

int bench_verify(struct bench_rig *r, double *ret_error)
{
    struct checker c = {0};
    double difference = 0.0, size = 0.0;
    int code = checker_open(&c, r);
    r->steps = r->what->steps < c.steps ? r->what->steps : c.steps;
    for (int call = 0; call < CALLS && !code; call++) {
        if (advance(r))
            code = EX_UNAVAILABLE;
        else
            check(&c, r, &difference, &size);
    }
    r->steps = r->what->steps;
    checker_close(&c);
    *ret_error = sqrt(difference / size);
    return code;
}

struct bench_work bench_work_of(const struct bench_rig *r)
{
    const struct ssm_model_info *i = r->info;
    double E = i->d_model, D = i->d_inner, N = i->d_state, K = i->d_conv, R = i->dt_rank, L = i->n_layer;
    double matrices = L * (2 * D * E + D * (R + 2 * N) + D * R + E * D) + (double)outputs_of(i) * E;
    double plain = L * (D * N + D * (K + 2) + E), width = r->what->weights == SSM_F32 ? 4 : 2;
    double window = bench_on_gpu(r->options) ? width : 4, held = r->what->state == SSM_F32 ? 4 : 2;
    double state = L * D * (N * held + (K - 1) * window);
    return (struct bench_work){
        .bytes = matrices * width + plain * 4 + (double)r->what->streams * state * 2,
        .flops = (double)r->what->streams * r->what->steps * (2 * matrices + L * D * (N * 8 + K * 2)),
    };
}
