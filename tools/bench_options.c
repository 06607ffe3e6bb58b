/* bench_options.c: the command line that `bench step`, `bench scan` and `bench generate` share. */
#include "tools/bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/speculate.h"

static const char help[] =
    "Times the engine: ids (or samples) in, logits (or forecasts) out for every step. Every case is first checked "
    "against\n"
    "the scalar op table; the error is printed beside the figures, which are medians over the runs.\n"
    "\n"
    "  -m, --model DIR       a model folder\n"
    "      --preset NAME     a model of random weights: a preset below, or D×L[,N[,VOCAB]] (default sig-128x4)\n"
    "      --all             every line of the table in docs/performance.md\n"
    "      --device NAME     cpu (the default), cuda or cuda:N\n"
    "      --weights DTYPE   fp32, bf16 or fp16 (default fp32)\n"
    "      --state DTYPE     fp32, bf16 or fp16: of the SSM states (default fp32; the CPU has no other)\n"
    "      --not-deterministic\n"
    "                        on cuda: products of many rows by cuBLASLt, where it is there\n"
    "      --ops NAME        op table: ref, avx2, avx512, avx512bf16, amx (default: the best that runs here)\n"
    "      --threads N       worker threads (default 1)\n"
    "      --streams B       streams advanced by one call (default 1)\n"
    "      --steps T         steps per stream and call (default 1; bench scan: 4096)\n"
    "      --runs N          timed runs (default 7)\n"
    "      --seconds S       length of one run (default 0.5; cuda: 0.05)\n"
    "      --peer BINARY     another program to time in alternation with ours. It is run as `BINARY PRESET` for each\n"
    "                        run and prints its steps per second as the last number of its standard output.\n"
    "                        Not for cuda, whose table has published figures beside ours.\n"
    "      --draft MODEL     bench generate: also with drafts of a smaller byte model, a preset or a folder, in "
    "alternation\n"
    "      --draft-length K  most bytes drafted at a time, 1 to 7 (default 6)\n"
    "      --json            one JSON object per line\n"
    "      --help\n"
    "\n"
    "floor µs: what a step would take if the bytes of weights and states came at the speed of a plain read loop over "
    "as\n"
    "many bytes, or the multiply-adds at the speed of a loop of nothing else, whichever is slower.\n"
    "On cuda: the device's part of a call by its own clock, ids and logits on the device; the floor is the bytes of "
    "weights,\n"
    "once, and of states, read and written once, at 3.00 TB/s.\n"
    "\nPresets:";

static int fail_usage(const char *usage, const char *option, const char *value)
{
    fprintf(stderr, "mambactl bench: --%s: bad value '%s'\n%s", option, value, usage);
    return EX_USAGE;
}

static bool parse_count(const char *text, uint32_t max, uint32_t *ret)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (errno || end == text || *end || v < 1 || v > max || text[0] == '-')
        return false;
    *ret = (uint32_t)v;
    return true;
}

static bool parse_dtype(const char *text, enum ssm_dtype *ret)
{
    static const char *const names[] = {[SSM_F32] = "fp32", [SSM_BF16] = "bf16", [SSM_F16] = "fp16"};
    for (int i = 0; i < 3; i++) {
        if (!strcmp(text, names[i])) {
            *ret = (enum ssm_dtype)i;
            return true;
        }
    }
    return false;
}

static void print_help(const char *usage)
{
    printf("%s\n%s", usage, help);
    for (unsigned i = 0; ssm_preset_name(i); i++)
        printf("%s%s", i % 6 ? " " : "\n  ", ssm_preset_name(i));
    putchar('\n');
}

enum {
    OPT_HELP = 256,
    OPT_PRESET,
    OPT_ALL,
    OPT_DEVICE,
    OPT_WEIGHTS,
    OPT_STATE,
    OPT_NOT_DETERMINISTIC,
    OPT_OPS,
    OPT_THREADS,
    OPT_STREAMS,
    OPT_STEPS,
    OPT_RUNS,
    OPT_SECONDS,
    OPT_PEER,
    OPT_DRAFT,
    OPT_DRAFT_LENGTH,
    OPT_JSON
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, OPT_HELP},
    {"model", required_argument, NULL, 'm'},
    {"preset", required_argument, NULL, OPT_PRESET},
    {"all", no_argument, NULL, OPT_ALL},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"weights", required_argument, NULL, OPT_WEIGHTS},
    {"state", required_argument, NULL, OPT_STATE},
    {"not-deterministic", no_argument, NULL, OPT_NOT_DETERMINISTIC},
    {"ops", required_argument, NULL, OPT_OPS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"streams", required_argument, NULL, OPT_STREAMS},
    {"steps", required_argument, NULL, OPT_STEPS},
    {"runs", required_argument, NULL, OPT_RUNS},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"peer", required_argument, NULL, OPT_PEER},
    {"draft", required_argument, NULL, OPT_DRAFT},
    {"draft-length", required_argument, NULL, OPT_DRAFT_LENGTH},
    {"json", no_argument, NULL, OPT_JSON},
    {NULL, 0, NULL, 0},
};

static bool apply(struct bench_options *o, int option, const char *value)
{
    char *end;
    switch (option) {
    case 'm':
        o->one.dir = value;
        o->one.preset = NULL;
        return true;
    case OPT_PRESET:
        o->one.preset = value;
        o->one.dir = NULL;
        return true;
    case OPT_ALL:
        return o->all = true;
    case OPT_DEVICE:
        o->device = value;
        return true;
    case OPT_WEIGHTS:
        return parse_dtype(value, &o->one.weights);
    case OPT_STATE:
        return parse_dtype(value, &o->one.state);
    case OPT_NOT_DETERMINISTIC:
        return o->not_deterministic = true;
    case OPT_OPS:
        o->ops = value;
        return true;
    case OPT_THREADS:
        return parse_count(value, 256, &o->threads);
    case OPT_STREAMS:
        return parse_count(value, 1 << 20, &o->one.streams);
    case OPT_STEPS:
        return parse_count(value, 1 << 20, &o->one.steps);
    case OPT_RUNS:
        return parse_count(value, BENCH_RUNS_MAX, &o->runs);
    case OPT_SECONDS:
        o->seconds = strtod(value, &end);
        return end != value && !*end && o->seconds > 0 && o->seconds <= 600;
    case OPT_PEER:
        o->peer = value;
        return true;
    case OPT_DRAFT:
        o->draft = value;
        return true;
    case OPT_DRAFT_LENGTH:
        return parse_count(value, SPECULATE_ROWS - 1, &o->draft_length);
    default:
        return o->json = true;
    }
}

int bench_parse(struct bench_options *o, int argc, char **argv, const char *usage)
{
    int option, index = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "m:", long_options, &index)) != -1) {
        if (option == '?') {
            fputs(usage, stderr);
            return EX_USAGE;
        }
        if (option == OPT_HELP) {
            print_help(usage);
            return EX_OK;
        }
        if (!apply(o, option, optarg))
            return fail_usage(usage, option == 'm' ? "model" : long_options[index].name, optarg);
    }
    if (optind < argc)
        return fprintf(stderr, "mambactl bench: unexpected '%s'\n%s", argv[optind], usage), EX_USAGE;
    return -1;
}
