/* bench_step.c: `mambactl bench step`: the recurrent step, one for each of B streams in a call. */
#include <sysexits.h>

#include "tools/bench.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl bench step [--preset NAME | -m DIR] [OPTION]...\n";

static const char *const presets[] = {"sig-128x4", "sig-256x8", "mamba-130m"};
static const uint32_t streams[] = {1, 64};

static int measure_all(const struct bench_options *o)
{
    int code = EX_OK;
    for (int p = 0; p < 3 && !code; p++)
        for (int s = 0; s < 2 && !code; s++)
            for (int dtype = SSM_F32; dtype <= SSM_BF16 && !code; dtype++) {
                struct bench_case c = {.preset = presets[p], .streams = streams[s], .steps = 1, .weights = dtype};
                code = bench_measure(o, &c, p + s + dtype == 0);
            }
    return code;
}

int bench_step(int argc, char **argv)
{
    struct bench_options o = {
        .one = {.preset = "sig-128x4", .streams = 1, .steps = 1}, .device = "cpu", .threads = 1, .runs = 7};
    int code = bench_parse(&o, argc, argv, usage);
    if (code >= 0)
        return code;
    if (bench_on_gpu(&o))
        return bench_gpu(&o, false);
    return o.all ? measure_all(&o) : bench_measure(&o, &o.one, true);
}
