/* bench_generate.c: `mambactl bench generate`: B samples of a byte model, each byte drawn from the logits of the one
 * before as `mambactl generate` draws it, so that nothing of the loop can overlap the step. Beside it the engine's step
 * alone, and what the loop adds to it; with a draft model the same samples also by drafts, in turns. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "daemon/sampler.h"
#include "tools/bench.h"
#include "tools/mambactl.h"
#include "tools/speculate.h"

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

/* The small model and what it drafted. */
struct drafts {
    struct ssm_model *model;
    struct ssm_engine *engine; /* NULL: no drafts */
    struct ssm_slot *slots;    /* of the large model: the text goes its own way */
    struct speculation speculation;
    uint64_t made;
};

static uint64_t room(void *ctx, uint32_t sample)
{
    return UINT64_MAX; /* nothing ends here but the time */
}

static void put(void *ctx, uint32_t sample, uint8_t byte)
{
    ((struct drafts *)ctx)->made++;
}

/* A preset, or a folder. */
static int open_small(struct drafts *d, const struct bench_rig *r, const struct bench_options *o, char *reterr)
{
    const struct ssm_engine_opts opts = {.device = o->device,
                                         .ops = o->ops,
                                         .weights = r->what->weights,
                                         .state = r->what->state,
                                         .deterministic = !o->not_deterministic,
                                         .slots = 2 * r->what->streams,
                                         .threads = o->threads};
    const bool folder = access(o->draft, F_OK) == 0;
    int err = folder ? ssm_model_open(o->draft, &d->model, reterr) : ssm_model_random(o->draft, 2, &d->model, reterr);
    if (err)
        return err;
    if (ssm_model_info(d->model)->input != SSM_TOKENS || ssm_model_info(d->model)->vocab != MD_BYTES) {
        snprintf(reterr, SSM_ERR, "%.400s: no model of 256 ids", o->draft);
        return -EINVAL;
    }
    return ssm_engine_open(d->model, &opts, &d->engine, reterr);
}

static int open_drafts(struct drafts *d, struct bench_rig *r, const struct bench_options *o,
                       struct md_sampler *samplers)
{
    const uint32_t n = r->what->streams;
    char why[SSM_ERR];
    int err = open_small(d, r, o, why);
    if (err) {
        fprintf(stderr, "mambactl bench: %s\n", why);
        return EX_UNAVAILABLE;
    }
    d->slots = calloc(n, sizeof *d->slots);
    for (uint32_t i = 0; i < n && !err; i++)
        err = d->slots ? ssm_slot_take(r->engine, &d->slots[i]) : -ENOMEM;
    if (err || speculation_open(&d->speculation, r->engine, d->engine, d->slots, n,
                                o->draft_length ? o->draft_length : SPECULATE_LENGTH)) {
        fprintf(stderr, "mambactl bench: %s: no memory for drafts of %u samples\n", o->draft, n);
        return EX_UNAVAILABLE;
    }
    for (uint32_t i = 0; i < n; i++)
        speculation_begin(&d->speculation, i, &samplers[i], '\n');
    return EX_OK;
}

static void close_drafts(struct drafts *d)
{
    speculation_close(&d->speculation);
    free(d->slots);
    ssm_engine_close(&d->engine);
    ssm_model_close(&d->model);
}

static int fail(const struct ssm_engine *engine)
{
    fprintf(stderr, "mambactl bench: %s\n", ssm_engine_failure(engine));
    return EX_UNAVAILABLE;
}

/* Bytes per second of all samples together, over so long. */
static int run_plain(struct bench_rig *r, struct md_sampler *samplers, double seconds, double *ret_rate)
{
    double begin = now(), elapsed;
    uint64_t calls = 0;
    do {
        if (take_on(r, samplers))
            return fail(r->engine);
        calls++;
        elapsed = now() - begin;
    } while (elapsed < seconds);
    *ret_rate = (double)calls * r->what->streams / elapsed;
    return EX_OK;
}

static int run_drafts(struct drafts *d, double seconds, double *ret_rate)
{
    double begin = now(), elapsed;
    d->made = 0;
    do {
        if (speculation_round(&d->speculation, (struct speculation_text){d, room, put}))
            return fail(d->speculation.failed);
        elapsed = now() - begin;
    } while (elapsed < seconds);
    *ret_rate = (double)d->made / elapsed;
    return EX_OK;
}

/* Bytes per second, medians of runs that take turns; 0: not asked for. */
struct rates {
    double plain, drafted, peer;
};

static const char *name_of(const struct bench_rig *r)
{
    return r->what->dir ? r->what->dir : r->what->preset;
}

static int time_loop(struct bench_rig *r, const struct bench_options *o, struct md_sampler *samplers,
                     struct drafts *drafts, struct rates *ret)
{
    double plain[BENCH_RUNS_MAX + 1], drafted[BENCH_RUNS_MAX + 1] = {0}, peer[BENCH_RUNS_MAX + 1] = {0};
    double seconds = o->seconds > 0 ? o->seconds : 0.5;
    for (uint32_t i = 0; i < o->runs + 1; i++) { /* the first warms up */
        if (run_plain(r, samplers, seconds, &plain[i]) || (drafts->engine && run_drafts(drafts, seconds, &drafted[i])))
            return EX_UNAVAILABLE;
        if (o->peer && (peer[i] = bench_peer_rate(o->peer, name_of(r))) < 0)
            return EX_UNAVAILABLE;
    }
    *ret = (struct rates){bench_median(plain + 1, o->runs), bench_median(drafted + 1, o->runs),
                          bench_median(peer + 1, o->runs)};
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

static void print_drafts(const struct drafts *d, const struct bench_options *o, const struct rates *rates)
{
    const struct speculation *s = &d->speculation;
    double stood = (double)s->accepted / (double)s->drafted, a_step = 1 + (double)s->accepted / (double)s->rounds;
    if (o->json)
        printf(",\"draft\":{\"model\":\"%s\",\"length\":%u,\"accepted\":%.4g,\"bytes_per_round\":%.4g,"
               "\"bytes_per_s\":%.6g,\"speedup\":%.4g}",
               o->draft, s->length, stood, a_step, rates->drafted, rates->drafted / rates->plain);
    else
        printf("drafts of %s, %u at a time: %.1f %% stood, %.2f bytes a round, %.1f bytes/s: %.2f times as many\n",
               o->draft, s->length, 100 * stood, a_step, rates->drafted, rates->drafted / rates->plain);
}

static void print(const struct bench_rig *r, const struct bench_options *o, const struct drafts *drafts, double error,
                  const struct rates *rates, double step_us)
{
    const struct bench_case *c = r->what;
    const char *name = name_of(r);
    double rate = rates->plain, call_us = 1e6 * c->streams / rate, added = 100 * (call_us / step_us - 1);
    if (o->json)
        printf("{\"model\":\"%s\",\"samples\":%u,\"weights\":\"%s\",\"ops\":\"%s\",\"error\":%.3g,\"bytes_per_s\":%.6g,"
               "\"us_per_byte\":%.6g,\"step_us\":%.6g,\"overhead_percent\":%.3g",
               name, c->streams, bench_dtype(c->weights), ssm_engine_ops(r->engine), error, rate, call_us, step_us,
               added);
    else
        printf("%-15s %7s %-5s %-12s %8s %10s %10s %10s %9s\n%-15s %7u %-5s %-12s %8.1e %10.1f %10.2f %10.2f %8.1f%%\n",
               "model", "samples", "wts", "ops", "error", "bytes/s", "µs/call", "step µs", "added", name, c->streams,
               bench_dtype(c->weights), ssm_engine_ops(r->engine), error, rate, call_us, step_us, added);
    if (drafts->engine)
        print_drafts(drafts, o, rates);
    if (o->peer && o->json)
        printf(",\"peer_bytes_per_s\":%.6g,\"ratio\":%.4g", rates->peer, rate / rates->peer);
    else if (o->peer)
        printf("peer: %.1f bytes/s, ratio %.2f\n", rates->peer, rate / rates->peer);
    if (o->json)
        puts("}");
}

int bench_generate(int argc, char **argv)
{
    struct bench_options o = {
        .one = {.preset = "mambabyte-353m", .streams = 1, .steps = 1}, .device = "cpu", .threads = 1, .runs = 7};
    int code = bench_parse(&o, argc, argv, usage);
    if (code >= 0)
        return code;
    o.one.steps = 1;
    o.one.spare = o.draft ? 2 * o.one.streams : 0;
    struct bench_rig rig;
    struct drafts drafts = {0};
    struct rates rates;
    double error, step_us;
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
    if (!code && o.draft)
        code = open_drafts(&drafts, &rig, &o, samplers);
    if (!code)
        code = time_loop(&rig, &o, samplers, &drafts, &rates);
    if (!code)
        code = time_step(&rig, &o, &step_us);
    if (!code)
        print(&rig, &o, &drafts, error, &rates, step_us);
    free(samplers);
    close_drafts(&drafts);
    bench_rig_close(&rig);
    return code;
}
