/* bench_rig.c: an engine with B streams and T steps of input for each. The ids are a fixed pseudo-random sequence, so
 * that the table under test and ops_ref see the same. Trap: all steps of a stream write their logits to one place, as a
 * consumer that looks at each step and goes on would have it; else a scan would time the page faults of gigabytes of
 * logits. */
#include "tools/bench.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

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

static void fill_item(struct bench_rig *r, uint32_t stream)
{
    struct ssm_item *item = &r->items[stream];
    uint32_t n = r->what->steps * r->info->patch;
    *item = (struct ssm_item){.slot = r->slots[stream], .n = n, .interval = 1};
    float *out = r->out + stream * outputs_of(r->info);
    if (r->info->input == SSM_TOKENS) {
        item->tokens = r->tokens + (size_t)stream * n;
        item->out.logits = out;
        return;
    }
    item->x = r->samples + (size_t)stream * n;
    item->x_stride = 1;
    item->out.forecast = out;
    item->out.horizon = r->info->horizon;
    item->out.n_q = r->info->n_quantiles;
    for (uint8_t q = 0; q < r->info->n_quantiles; q++)
        item->out.q[q] = q;
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

static int open_engine(struct bench_rig *r, const char *ops, uint32_t threads)
{
    char error[SSM_ERR];
    struct ssm_engine_opts opts = {.device = "cpu",
                                   .ops = ops,
                                   .weights = r->what->weights,
                                   .deterministic = true,
                                   .slots = r->what->streams,
                                   .threads = threads};
    if (!ssm_engine_open(r->model, &opts, &r->engine, error))
        return EX_OK;
    fprintf(stderr, "mambactl bench: %s\n", error);
    return EX_UNAVAILABLE;
}

int bench_rig_open(struct bench_rig *r, const struct bench_case *what, const char *ops, uint32_t threads)
{
    *r = (struct bench_rig){.what = what, .seed = 1};
    int code = open_model(r);
    if (!code)
        code = open_engine(r, ops, threads);
    if (code)
        goto fail;
    r->info = ssm_model_info(r->model);
    size_t inputs = (size_t)what->streams * what->steps * r->info->patch;
    r->slots = calloc(what->streams, sizeof *r->slots);
    r->items = calloc(what->streams, sizeof *r->items);
    r->tokens = calloc(inputs, sizeof *r->tokens);
    r->samples = calloc(inputs, sizeof *r->samples);
    r->out = calloc(what->streams * outputs_of(r->info), sizeof *r->out);
    if (!r->slots || !r->items || !r->tokens || !r->samples || !r->out) {
        fputs("mambactl bench: out of memory\n", stderr);
        code = EX_UNAVAILABLE;
        goto fail;
    }
    for (uint32_t i = 0; i < what->streams; i++) {
        ssm_slot_take(r->engine, &r->slots[i]);
        fill_item(r, i);
    }
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

/* One call: streams × steps model steps. */
static void advance(struct bench_rig *r)
{
    size_t n = (size_t)r->what->streams * r->what->steps * r->info->patch;
    for (size_t i = 0; i < n; i++) {
        if (r->info->input == SSM_TOKENS)
            r->tokens[i] = (int32_t)(next(&r->seed) % r->info->vocab);
        else
            r->samples[i] = sin(0.05 * (double)i) + 1e-10 * next(&r->seed);
    }
    if (ssm_advance(r->engine, r->items, r->what->streams))
        abort(); /* the CPU cannot fail */
}

double bench_rig_rate(struct bench_rig *r, double seconds)
{
    double start = now(), elapsed;
    uint64_t calls = 0;
    do {
        advance(r);
        calls++;
        elapsed = now() - start;
    } while (elapsed < seconds);
    return (double)calls * r->what->streams * r->what->steps / elapsed;
}

int bench_verify(const struct bench_case *what, const char *ops, uint32_t threads, double *ret_error)
{
    enum { CALLS = 3, STREAMS = 4, STEPS = 5 };
    struct bench_case few = *what;
    few.streams = what->streams < STREAMS ? what->streams : STREAMS;
    few.steps = what->steps < STEPS ? what->steps : STEPS;
    struct bench_rig rig, ref;
    double difference = 0.0, size = 0.0;
    int code = bench_rig_open(&rig, &few, ops, threads);
    if (code)
        return code;
    code = bench_rig_open(&ref, &few, "ref", 0);
    if (code) {
        bench_rig_close(&rig);
        return code;
    }
    for (int call = 0; call < CALLS; call++) {
        advance(&rig);
        advance(&ref);
        for (size_t i = 0; i < few.streams * outputs_of(rig.info); i++) {
            double d = (double)rig.out[i] - (double)ref.out[i];
            difference += d * d;
            size += (double)ref.out[i] * (double)ref.out[i];
        }
    }
    bench_rig_close(&rig);
    bench_rig_close(&ref);
    *ret_error = sqrt(difference / size);
    return EX_OK;
}

struct bench_work bench_work_of(const struct bench_rig *r)
{
    const struct ssm_model_info *i = r->info;
    double E = i->d_model, D = i->d_inner, N = i->d_state, K = i->d_conv, R = i->dt_rank, L = i->n_layer;
    double matrices = L * (2 * D * E + D * (R + 2 * N) + D * R + E * D) + (double)outputs_of(i) * E;
    double plain = L * (D * N + D * (K + 2) + E), state = L * D * (N + K - 1);
    double width = r->what->weights == SSM_F32 ? 4 : 2;
    return (struct bench_work){
        .bytes = matrices * width + plain * 4 + (double)r->what->streams * state * 2 * 4,
        .flops = (double)r->what->streams * r->what->steps * (2 * matrices + L * D * (N * 8 + K * 2)),
    };
}
