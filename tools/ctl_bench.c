/* ctl_bench.c: `mambactl bench WHAT`: engine steps, engine scans, generation, or the daemon around the model. */
#include "tools/mambactl.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#pragma weak bench_daemon

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} benches[] = {{"step", bench_step}, {"scan", bench_scan}, {"generate", bench_generate}, {"daemon", bench_daemon}};

static const char usage[] = "usage: mambactl bench step|scan|generate|daemon [OPTION]...\n"
                            "       mambactl bench --all [OPTION]...   (step --all, then scan --all)\n"
                            "       mambactl bench step|scan|generate|daemon --help\n";

int ctl_bench(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help")) {
        fputs(usage, stdout);
        return EX_OK;
    }
    if (!strcmp(name, "--all")) {
        int code = bench_step(argc, argv);
        return code ? code : bench_scan(argc, argv);
    }
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        if (!strcmp(benches[i].name, name) && benches[i].run)
            return benches[i].run(argc - 1, argv + 1);
    fputs(usage, stderr);
    return EX_USAGE;
}
