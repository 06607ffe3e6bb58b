/* bench_measure.c: one line of the table: verify, warm up, time in alternation with the peer, print. */
#include "tools/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

struct line {
    const struct bench_case *what;
    const char *name, *ops;
    double error, rate, peer, bytes_rate, flops_rate, floor_us;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

double bench_peer_rate(const char *peer, const char *preset)
{
    char command[1024], text[4096] = "", *end;
    double rate = -1.0;
    if ((size_t)snprintf(command, sizeof command, "%s '%s'", peer, preset) >= sizeof command)
        return -1.0;
    FILE *out = popen(command, "r");
    size_t n = out ? fread(text, 1, sizeof text - 1, out) : 0;
    if (!out || pclose(out) != 0 || n == 0) {
        fprintf(stderr, "mambactl bench: peer failed: %s\n", command);
        return -1.0;
    }
    for (char *at = text; *at; at = end > at ? end : at + 1) {
        double v = strtod(at, &end);
        rate = end > at ? v : rate;
    }
    return rate;
}

const char *bench_dtype(enum ssm_dtype d)
{
    return d == SSM_F32 ? "fp32" : d == SSM_BF16 ? "bf16" : "fp16";
}

static void print_text(const struct line *l, bool header)
{
    if (header)
        printf("%-14s %7s %6s %-5s %-10s %8s %12s %10s %8s %8s %9s %12s %6s\n", "model", "streams", "steps", "wts",
               "ops", "error", "steps/s", "µs/step", "GB/s", "GFLOP/s", "floor µs", "peer steps/s", "ratio");
    printf("%-14s %7u %6u %-5s %-10s %8.1e %12.1f %9.2f %8.2f %8.1f %8.2f", l->name, l->what->streams, l->what->steps,
           bench_dtype(l->what->weights), l->ops, l->error, l->rate, 1e6 / l->rate, l->bytes_rate * 1e-9,
           l->flops_rate * 1e-9, l->floor_us);
    if (l->peer > 0)
        printf(" %12.1f %6.2f", l->peer, l->rate / l->peer);
    putchar('\n');
    fflush(stdout);
}

static void print_json(const struct line *l, uint32_t threads)
{
    printf(
        "{\"model\":\"%s\",\"streams\":%u,\"steps\":%u,\"weights\":\"%s\",\"ops\":\"%s\",\"threads\":%u,\"error\":%.3g,"
        "\"steps_per_s\":%.6g,\"us_per_step\":%.6g,\"bytes_per_s\":%.6g,\"flops_per_s\":%.6g,\"floor_us\":%.6g",
        l->name, l->what->streams, l->what->steps, bench_dtype(l->what->weights), l->ops, threads, l->error, l->rate,
        1e6 / l->rate, l->bytes_rate, l->flops_rate, l->floor_us);
    if (l->peer > 0)
        printf(",\"peer_steps_per_s\":%.6g,\"ratio\":%.4g", l->peer, l->rate / l->peer);
    puts("}");
    fflush(stdout);
}

static double floor_us(const struct bench_work *work, const char *ops, uint32_t threads, double steps)
{
    double flops = bench_floor_flops(ops, threads);
    double bytes_s = work->bytes / bench_floor_read(work->bytes, threads),
           flops_s = flops > 0 ? work->flops / flops : 0.0;
    return 1e6 * (bytes_s > flops_s ? bytes_s : flops_s) / steps;
}

/* Runs alternate, so that what else the machine does meets both alike. */
static int time_runs(const struct bench_options *o, struct bench_rig *rig, struct line *line)
{
    double ours[BENCH_RUNS_MAX], peer[BENCH_RUNS_MAX], seconds = o->seconds > 0 ? o->seconds : 0.5;
    int err = bench_rig_rate(rig, seconds * 0.5, &ours[0]);
    for (uint32_t i = 0; i < o->runs && !err; i++) {
        err = bench_rig_rate(rig, seconds, &ours[i]);
        peer[i] = o->peer ? bench_peer_rate(o->peer, line->name) : 0.0;
        if (peer[i] < 0)
            return EX_UNAVAILABLE;
    }
    if (err)
        return EX_UNAVAILABLE;
    line->rate = bench_median(ours, o->runs);
    line->peer = bench_median(peer, o->runs);
    return EX_OK;
}

int bench_measure(const struct bench_options *o, const struct bench_case *what, bool header)
{
    struct bench_rig rig;
    struct line line = {.what = what, .name = what->dir ? what->dir : what->preset};
    int code = bench_rig_open(&rig, what, o);
    if (code)
        return code;
    line.ops = ssm_engine_ops(rig.engine);
    code = bench_verify(&rig, &line.error);
    if (!code && !(line.error <= BENCH_ERROR_MAX)) {
        fprintf(stderr, "mambactl bench: %s: outputs differ from ops_ref by %g: not timed\n", line.name, line.error);
        code = EX_SOFTWARE;
    }
    if (!code)
        code = time_runs(o, &rig, &line);
    if (!code) {
        struct bench_work work = bench_work_of(&rig);
        double steps = (double)what->streams * what->steps;
        line.bytes_rate = work.bytes * line.rate / steps;
        line.flops_rate = work.flops * line.rate / steps;
        line.floor_us = floor_us(&work, line.ops, o->threads, steps);
        if (o->json)
            print_json(&line, o->threads);
        else
            print_text(&line, header);
    }
    bench_rig_close(&rig);
    return code;
}
