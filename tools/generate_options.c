/* generate_options.c: the command line of `mambactl generate`. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/generate.h"

static const char usage[] = "usage: mambactl generate {-m DIR | --connect ENDPOINT} [-p TEXT | -f FILE] [-n N] "
                            "[OPTION]...\n";
static const char help[] =
    "A byte model (vocab 256) reads a prompt and goes on with it; bytes go to standard output as they come.\n"
    "\n"
    "  -m, --model DIR         a model folder\n"
    "  -p, --prompt TEXT       what to go on with (default: a new line, or what --state holds)\n"
    "  -f, --file FILE         the same from a file; - is standard input\n"
    "  -n, --bytes N           bytes to generate (default 256)\n"
    "      --stop TEXT         end a sample behind this text\n"
    "      --samples B         samples, generated side by side (default 1)\n"
    "      --state FILE        go on from FILE if it is there, and save to it at the end\n"
    "How a byte is picked, in this order:\n"
    "      --repetition-penalty R  bytes seen before are R times less likely, in logits (default 1: off)\n"
    "      --temperature T     0: always the likeliest (default 1)\n"
    "      --top-k K           only of the K likeliest (default 0: all)\n"
    "      --top-p P           only of the likeliest that together reach P (default 1)\n"
    "      --min-p P           only of those at least P times as likely as the likeliest (default 0)\n"
    "      --seed N            the same seed gives the same bytes (default 0)\n"
    "Faster, with the same distribution (at --temperature 0: with the same bytes):\n"
    "      --draft DIR         a smaller byte model, whose drafts the model reads and judges in one step\n"
    "      --draft-length K    most bytes drafted at a time, 1 to 7 (default 6)\n"
    "Where:\n"
    "      --device NAME       cpu (default), cuda, cuda:N, auto\n"
    "      --weights DTYPE     fp32 (default), bf16, fp16\n"
    "      --threads N         worker threads (default: one per core)\n"
    "      --connect ENDPOINT  instead of all that: in the daemon whose server.generate this is, ipc:// or tcp:// "
    "without\n"
    "                          CURVE; -m is then a model's id there, and not needed where there is one byte model; "
    "not\n"
    "                          with --state, --draft or --samples\n"
    "      --stream ID         with --connect: go on from the state of this live stream, with nothing where no prompt "
    "is\n"
    "                          given\n"
    "      --json              one JSON object at the end: text, bytes in hex, why each sample ended, speed\n"
    "  -q, --quiet             no line about speed\n"
    "      --help              print this text and end\n"
    "\n"
    "On a terminal bytes that are no UTF-8 show as U+FFFD. An interrupt ends the generation and saves the state.\n"
    "Exit codes: 0 done, 64 usage, 65 bad state file, 66 no such file, 69 device unavailable, 74 input/output error,\n"
    "78 bad model folder, or none of bytes.\n";

enum { SAMPLES_MAX = 4096, STOP_MAX = 256 };

enum {
    OPT_TEMPERATURE = 256,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_PENALTY,
    OPT_SEED,
    OPT_STOP,
    OPT_SAMPLES,
    OPT_STATE,
    OPT_DRAFT,
    OPT_DRAFT_LENGTH,
    OPT_CONNECT,
    OPT_STREAM,
    OPT_DEVICE,
    OPT_WEIGHTS,
    OPT_THREADS,
    OPT_JSON,
    OPT_HELP
};

static const struct option longs[] = {
    {"model", required_argument, NULL, 'm'},
    {"prompt", required_argument, NULL, 'p'},
    {"file", required_argument, NULL, 'f'},
    {"bytes", required_argument, NULL, 'n'},
    {"quiet", no_argument, NULL, 'q'},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-k", required_argument, NULL, OPT_TOP_K},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"min-p", required_argument, NULL, OPT_MIN_P},
    {"repetition-penalty", required_argument, NULL, OPT_PENALTY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"stop", required_argument, NULL, OPT_STOP},
    {"samples", required_argument, NULL, OPT_SAMPLES},
    {"state", required_argument, NULL, OPT_STATE},
    {"draft", required_argument, NULL, OPT_DRAFT},
    {"draft-length", required_argument, NULL, OPT_DRAFT_LENGTH},
    {"connect", required_argument, NULL, OPT_CONNECT},
    {"stream", required_argument, NULL, OPT_STREAM},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"weights", required_argument, NULL, OPT_WEIGHTS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int refuse(const char *what, const char *value)
{
    fprintf(stderr, "mambactl generate: %s%s\n%s", what, value, usage);
    return EX_USAGE;
}

static int take_integer(uint64_t *ret, const char *value, uint64_t least, uint64_t most)
{
    char why[BYTE_MODEL_WHY];
    return byte_model_count(value, least, most, ret, why) ? -1 : refuse(value, why);
}

static int take_count(uint32_t *ret, const char *value, uint32_t least, uint32_t most)
{
    uint64_t v = 0;
    int code = take_integer(&v, value, least, most);
    if (code < 0)
        *ret = (uint32_t)v;
    return code;
}

static int take_number(float *ret, const char *value, double least, double most)
{
    char *end, why[80];
    double v = strtod(value, &end);
    if (*value && !*end && v >= least && v <= most) {
        *ret = (float)v;
        return -1;
    }
    snprintf(why, sizeof why, " is no number from %g to %g", least, most);
    return refuse(value, why);
}

static int take_stop(const char **ret, const char *value)
{
    if (!*value || strlen(value) > STOP_MAX)
        return refuse("--stop takes 1 to 256 bytes, not: ", value);
    *ret = value;
    return -1;
}

/* −1: go on; else the exit code. */
static int take(struct generate_options *o, int option, const char *value)
{
    switch (option) {
    case 'm':
        return o->model.dir = value, -1;
    case 'p':
        return o->prompt = value, -1;
    case 'f':
        return o->file = value, -1;
    case 'n':
        return take_integer(&o->bytes, value, 0, INT32_MAX);
    case 'q':
        return o->quiet = true, -1;
    case OPT_TEMPERATURE:
        return take_number(&o->how.temperature, value, 0, 1e3);
    case OPT_TOP_K:
        return take_count(&o->how.top_k, value, 0, MD_BYTES);
    case OPT_TOP_P:
        return take_number(&o->how.top_p, value, 1e-6, 1);
    case OPT_MIN_P:
        return take_number(&o->how.min_p, value, 0, 1);
    case OPT_PENALTY:
        return take_number(&o->how.repetition_penalty, value, 1e-3, 1e3);
    case OPT_SEED:
        return take_integer(&o->how.seed, value, 0, UINT64_MAX);
    case OPT_STOP:
        return take_stop(&o->stop, value);
    case OPT_SAMPLES:
        return take_count(&o->samples, value, 1, SAMPLES_MAX);
    case OPT_STATE:
        return o->state = value, -1;
    case OPT_DRAFT:
        return o->draft.dir = value, -1;
    case OPT_DRAFT_LENGTH:
        return take_count(&o->draft_length, value, 1, SPECULATE_ROWS - 1);
    case OPT_CONNECT:
        return o->connect = value, -1;
    case OPT_STREAM:
        return o->stream = value, -1;
    case OPT_DEVICE:
        return o->model.device = value, -1;
    case OPT_WEIGHTS:
        return byte_model_weights(value, &o->model.weights) ? -1 : refuse("fp32, bf16 or fp16, not ", value);
    case OPT_THREADS:
        return take_count(&o->model.threads, value, 0, 1024);
    case OPT_JSON:
        return o->json = true, -1;
    case OPT_HELP:
        printf("%s\n%s", usage, help);
        return EX_OK;
    default:
        fputs(usage, stderr);
        return EX_USAGE;
    }
}

int generate_parse(struct generate_options *o, int argc, char **argv)
{
    int c, code = -1;
    *o = (struct generate_options){.model = {.command = "generate", .device = "cpu"},
                                   .bytes = 256,
                                   .draft_length = SPECULATE_LENGTH,
                                   .how = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    while (code < 0 && (c = getopt_long(argc, argv, "m:p:f:n:q", longs, NULL)) != -1)
        code = take(o, c, optarg);
    if (code >= 0)
        return code;
    if (o->connect && (o->state || o->draft.dir || o->samples > 1))
        return refuse("--connect: not with --state, --draft or --samples", "");
    if (o->stream && !o->connect)
        return refuse("--stream needs --connect", "");
    if ((!o->model.dir && !o->connect) || optind < argc || (o->prompt && o->file))
        return refuse(!o->model.dir && !o->connect ? "-m is needed"
                      : optind < argc              ? "unexpected argument: "
                                                   : "-p or -f, not both",
                      optind < argc ? argv[optind] : "");
    const char *draft = o->draft.dir;
    o->draft = o->model;
    o->draft.dir = draft;
    return -1;
}
