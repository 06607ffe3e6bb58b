/* bench_generate.c: `mambactl bench generate`: B samples of a byte model, each byte drawn from the logits of the one
 * before as `mambactl generate` draws it, so that nothing of the loop can overlap the step. Beside it the engine's step
 * alone, and what the loop adds to it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

#include "daemon/sampler.h"
#include "tools/bench.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl bench generate [--preset NAME | -m DIR] [OPTION]...\n";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One byte of every sample. */
static int take_on(struct bench_rig *r, struct md_sampler *samplers)
{
    float p[MD_BYTES];
    for (uint32_t i = 0; i < r->what->streams; i++) {
        float *logits = r->out + (size_t)i * MD_BYTES;
        md_sampler_weigh(&samplers[i], logits, p);
        r->tokens[i] = md_sampler_pick(&samplers[i], p);
        r->items[i] = (struct ssm_item){.slot = r->slots[i],
                                        .n = 1,
                                        .tokens = r->tokens + i,
                                        .interval = 1,
                                        .out = {.logits = logits, .logits_stride = MD_BYTES}};
    }
    return ssm_advance(r->engine, r->items, r->what->streams);
}

/* Bytes per second of all samples together, median of the runs. */
static int time_loop(struct bench_rig *r, const struct bench_options *o, struct md_sampler *samplers, double *ret_rate)
{
    double rates[BENCH_RUNS_MAX], seconds = o->seconds > 0 ? o->seconds : 0.5;
    for (uint32_t i = 0; i < o->runs + 1; i++) { /* the first warms up */
        double begin = now(), elapsed;
        uint64_t calls = 0;
        do {
            if (take_on(r, samplers)) {
                fprintf(stderr, "mambactl bench: %s\n", ssm_engine_failure(r->engine));
                return EX_UNAVAILABLE;
            }
            calls++;
            elapsed = now() - begin;
        } while (elapsed < seconds);
        if (i > 0)
            rates[i - 1] = (double)calls * r->what->streams / elapsed;
    }
    *ret_rate = bench_median(rates, o->runs);
    return EX_OK;
}

/* µs of a step without the loop: by the device's clock where it has one, else of ids that are there already. */
static int time_step(struct bench_rig *r, const struct bench_options *o, double *ret_us)
{
    double rates[BENCH_RUNS_MAX], seconds = o->seconds > 0 ? o->seconds : 0.5;
    if (bench_on_gpu(o) && bench_rig_replay(r, o->runs, 0.05, ret_us) == 0)
        return EX_OK;
    for (uint32_t i = 0; i < o->runs; i++)
        if (bench_rig_rate(r, seconds, &rates[i]))
            return EX_UNAVAILABLE;
    *ret_us = 1e6 * r->what->streams / bench_median(rates, o->runs);
    return EX_OK;
}

static void print(const struct bench_rig *r, const struct bench_options *o, double error, double rate, double step_us)
{
    const struct bench_case *c = r->what;
    const char *name = c->dir ? c->dir : c->preset;
    double call_us = 1e6 * c->streams / rate, added = 100 * (call_us / step_us - 1);
    if (o->json)
        printf("{\"model\":\"%s\",\"samples\":%u,\"weights\":\"%s\",\"ops\":\"%s\",\"error\":%.3g,\"bytes_per_s\":%.6g,"
               "\"us_per_byte\":%.6g,\"step_us\":%.6g,\"overhead_percent\":%.3g}\n",
               name, c->streams, bench_dtype(c->weights), ssm_engine_ops(r->engine), error, rate, call_us, step_us,
               added);
    else
        printf("%-15s %7s %-5s %-12s %8s %10s %10s %10s %9s\n%-15s %7u %-5s %-12s %8.1e %10.1f %10.2f %10.2f %8.1f%%\n",
               "model", "samples", "wts", "ops", "error", "bytes/s", "µs/call", "step µs", "added", name, c->streams,
               bench_dtype(c->weights), ssm_engine_ops(r->engine), error, rate, call_us, step_us, added);
}

int bench_generate(int argc, char **argv)
{
    struct bench_options o = {
        .one = {.preset = "mambabyte-353m", .streams = 1, .steps = 1}, .device = "cpu", .threads = 1, .runs = 7};
    int code = bench_parse(&o, argc, argv, usage);
    if (code >= 0)
        return code;
    o.one.steps = 1;
    struct bench_rig rig;
    double error, rate, step_us;
    code = bench_rig_open(&rig, &o.one, &o);
    if (code)
        return code;
    struct md_sampler *samplers = calloc(o.one.streams, sizeof *samplers);
    const struct md_sampling how = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1};
    for (uint32_t i = 0; samplers && i < o.one.streams; i++)
        md_sampler_init(&samplers[i], &how, i);
    if (!samplers || rig.info->input != SSM_TOKENS || rig.info->vocab != MD_BYTES) {
        fprintf(stderr, "mambactl bench: %s\n", samplers ? "generate takes models of 256 ids" : "out of memory");
        code = samplers ? EX_USAGE : EX_UNAVAILABLE;
    }
    if (!code)
        code = bench_verify(&rig, &error);
    if (!code && !(error <= BENCH_ERROR_MAX)) {
        fprintf(stderr, "mambactl bench: outputs differ from ops_ref by %g: not timed\n", error);
        code = EX_SOFTWARE;
    }
    if (!code)
        code = time_loop(&rig, &o, samplers, &rate);
    if (!code)
        code = time_step(&rig, &o, &step_us);
    if (!code)
        print(&rig, &o, error, rate, step_us);
    free(samplers);
    bench_rig_close(&rig);
    return code;
}
