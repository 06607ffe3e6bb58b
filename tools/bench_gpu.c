/* bench_gpu.c: the table of docs/performance.md for GPUs: what a call takes by the device's clock beside what its bytes
 * take, what the peer takes and what is asked for. */
#include "tools/bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#define BANDWIDTH 3.00e12 /* bytes/s, read and written, that a copy moves on an H100 80GB HBM3 */

/* Peer: mamba_ssm 2.3.2.post1 with causal-conv1d 1.6.1, bf16 with states in bf16, a CUDA graph replayed, on one H100
 * 80GB HBM3, 2026-11-21, median of 30; scans: its whole-sequence forward. */
struct goal {
    struct bench_case what;
    double peer_us, reach_us, aim_us; /* of a call; 0: none */
};

#define CASE(model, held, n, T) .preset = model, .weights = SSM_BF16, .state = held, .streams = n, .steps = T
#define US(streams, steps, rate) ((double)(streams) * (steps) / (rate)*1e6)

static const struct goal step_goals[] = {
    {{CASE("sig-128x4", SSM_F32, 1, 1)}, 81, 20, 12},
    {{CASE("sig-256x8", SSM_F32, 1, 1)}, 157, 45, 30},
    {{CASE("sig-128x4", SSM_BF16, 1024, 1)}, 157, 60, 45},
    {{CASE("sig-128x4", SSM_BF16, 16384, 1)}, 1077, 640, 530},
    {{CASE("sig-128x4", SSM_F32, 16384, 1)}, 0, 1150, 1000},
    {{CASE("sig-256x8", SSM_BF16, 16384, 1)}, 4480, 2500, 2100},
    {{CASE("sig-256x8", SSM_F32, 16384, 1)}, 0, 4500, 4000},
    {{CASE("sig-128x4", SSM_BF16, 4096, 8)}, 0, US(4096, 8, 70e6), US(4096, 8, 95e6)},
    {{CASE("mamba-130m", SSM_F32, 1, 1)}, 695, 260, 150},
    {{CASE("mamba-130m", SSM_BF16, 1024, 1)}, 2946, 1800, 1500},
    {{CASE("mamba-130m", SSM_BF16, 4096, 1)}, 9886, 6500, 5600},
    {{CASE("mambabyte-972m", SSM_F32, 1, 1)}, 2105, 950, 800},
    {{CASE("mambabyte-1.6b", SSM_F32, 1, 1)}, 2531, 1450, 1250},
};

static const struct goal scan_goals[] = {
    {{CASE("mamba-130m", SSM_F32, 1, 65536)}, US(1, 65536, .78e6), US(1, 65536, 1.0e6), US(1, 65536, 1.5e6)},
    {{CASE("mamba-130m", SSM_F32, 16, 8192)}, US(16, 8192, .84e6), US(16, 8192, 1.2e6), US(16, 8192, 1.8e6)},
};

struct figures {
    const char *ops, *clock; /* "device", or "host": waited for, transfers included */
    double error, us, bytes;
};

bool bench_on_gpu(const struct bench_options *o)
{
    return !strncmp(o->device, "cuda", 4);
}

static void print_optional(const char *format, const char *none, double value)
{
    if (value > 0)
        printf(format, value);
    else
        fputs(none, stdout);
}

static void print_text(const struct goal *g, const struct figures *f, bool header)
{
    const struct bench_case *c = &g->what;
    double floor_us = f->bytes / BANDWIDTH * 1e6, steps = (double)c->streams * c->steps;
    if (header)
        printf("%-15s %6s %6s %-4s %-5s %-14s %10s %9s %9s %9s %10s %7s %6s %12s %8s %-6s\n", "model", "streams",
               "steps", "wts", "state", "ops", "peer µs", "reach", "aim", "floor", "µs", "x floor", "GB/s", "steps/s",
               "error", "clock");
    printf("%-15s %6u %6u %-4s %-5s %-14s", c->dir ? c->dir : c->preset, c->streams, c->steps, bench_dtype(c->weights),
           bench_dtype(c->state), f->ops);
    print_optional(" %9.0f", "         -", g->peer_us);
    print_optional(" %9.0f", "         -", g->reach_us);
    print_optional(" %9.0f", "         -", g->aim_us);
    printf(" %9.1f %9.1f %7.2f %6.0f %12.0f %8.1e %-6s", floor_us, f->us, f->us / floor_us, f->bytes / f->us * 1e-3,
           steps / f->us * 1e6, f->error, f->clock);
    puts(g->reach_us > 0 && f->us > g->reach_us ? " SHORT" : "");
    fflush(stdout);
}

static void print_json(const struct goal *g, const struct figures *f)
{
    const struct bench_case *c = &g->what;
    printf(
        "{\"model\":\"%s\",\"streams\":%u,\"steps\":%u,\"weights\":\"%s\",\"state\":\"%s\",\"ops\":\"%s\",\"us\":%.6g,"
        "\"steps_per_s\":%.6g,\"bytes\":%.6g,\"floor_us\":%.6g,\"error\":%.3g,\"clock\":\"%s\"",
        c->dir ? c->dir : c->preset, c->streams, c->steps, bench_dtype(c->weights), bench_dtype(c->state), f->ops,
        f->us, (double)c->streams * c->steps / f->us * 1e6, f->bytes, f->bytes / BANDWIDTH * 1e6, f->error, f->clock);
    print_optional(",\"peer_us\":%.6g", "", g->peer_us);
    print_optional(",\"reach_us\":%.6g", "", g->reach_us);
    print_optional(",\"aim_us\":%.6g", "", g->aim_us);
    puts("}");
    fflush(stdout);
}

/* By the host's clock where the device cannot repeat the call by itself: long scans, for which the two differ little.
 */
static int time_case(struct bench_rig *rig, const struct bench_options *o, struct figures *f)
{
    double seconds = o->seconds > 0 ? o->seconds : 0.05, us[BENCH_RUNS_MAX], rate;
    int err = bench_rig_replay(rig, o->runs, seconds, &f->us);
    f->clock = "device";
    if (err != -ENOTSUP && err != -EINVAL)
        return err;
    f->clock = "host";
    err = bench_rig_rate(rig, 0, &rate);
    for (uint32_t i = 0; i < o->runs && !err; i++) {
        err = bench_rig_rate(rig, seconds, &rate);
        us[i] = (double)rig->what->streams * rig->what->steps / rate * 1e6;
    }
    f->us = err ? 0.0 : bench_median(us, o->runs);
    return err;
}

static int measure(const struct bench_options *o, const struct goal *g, bool header)
{
    struct bench_rig rig;
    struct figures f = {0};
    int code = bench_rig_open(&rig, &g->what, o);
    if (code)
        return code;
    f.ops = ssm_engine_ops(rig.engine);
    f.bytes = bench_work_of(&rig).bytes;
    code = bench_verify(&rig, &f.error);
    if (!code && !(f.error <= BENCH_ERROR_MAX)) {
        fprintf(stderr, "mambactl bench: %s: outputs differ from the CPU's by %g: not timed\n", rig.info->name,
                f.error);
        code = EX_SOFTWARE;
    }
    if (!code && time_case(&rig, o, &f))
        code = EX_UNAVAILABLE;
    if (!code && o->json)
        print_json(g, &f);
    else if (!code)
        print_text(g, &f, header);
    bench_rig_close(&rig);
    return code;
}

/* A case that fails leaves the others to be measured; the first failure's code is returned. `last`: as in a case. */
static int measure_all(const struct bench_options *o, const struct goal *goals, size_t n, bool last)
{
    int code = EX_OK;
    for (size_t i = 0; i < n; i++) {
        struct goal goal = goals[i];
        goal.what.last = last;
        int one = measure(o, &goal, i == 0);
        code = code ? code : one;
    }
    return code;
}

int bench_gpu(const struct bench_options *o, bool scans)
{
    struct goal one = {.what = o->one};
    if (!o->all)
        return measure(o, &one, true);
    return scans ? measure_all(o, scan_goals, sizeof scan_goals / sizeof *scan_goals, true)
                 : measure_all(o, step_goals, sizeof step_goals / sizeof *step_goals, false);
}
