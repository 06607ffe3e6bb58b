/* bench_scan.c: `mambactl bench scan`: many steps of one stream in a call, as for a backlog or a prompt. */
#include <sysexits.h>

#include "tools/bench.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl bench scan [--preset NAME | -m DIR] [OPTION]...\n";

static const char *const presets[] = {"sig-128x4", "sig-256x8", "mamba-130m"};

static int measure_all(const struct bench_options *o)
{
    int code = EX_OK;
    for (int p = 0; p < 3 && !code; p++) {
        struct bench_case c = {.preset = presets[p], .streams = 1, .steps = o->one.steps, .weights = SSM_F32};
        code = bench_measure(o, &c, p == 0);
    }
    return code;
}

int bench_scan(int argc, char **argv)
{
    struct bench_options o = {
        .one = {.preset = "sig-128x4", .streams = 1, .steps = 4096}, .device = "cpu", .threads = 1, .runs = 7};
    int code = bench_parse(&o, argc, argv, usage);
    if (code >= 0)
        return code;
    if (bench_on_gpu(&o)) {
        o.one.last = true;
        return bench_gpu(&o, true);
    }
    return o.all ? measure_all(&o) : bench_measure(&o, &o.one, true);
}
