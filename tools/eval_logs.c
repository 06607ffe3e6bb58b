/* eval_logs.c: `mambactl eval logs`: how well a byte model's record scores tell lines that were put into a log from its
 * own, beside a plain baseline on the same lines. A log goes through one slot in one causal pass, as in the daemon. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/byte_model.h"
#include "tools/eval_metrics.h"
#include "tools/log_faults.h"
#include "tools/mambactl.h"
#include "tools/rare_tokens.h"

static const char usage[] = "usage: mambactl eval logs -m DIR [OPTION]... FILE...\n";
static const char help[] =
    "Puts faults into logs and says how well a byte model (vocab 256) ranks their lines: AUPRC by its p-values, "
    "beside\n"
    "that of how rare a line's words have been (digits alike; the mean or the most, whichever is better).\n"
    "\n"
    "  -m, --model DIR         a model folder\n"
    "      --after N           lines without faults at the beginning, not judged (default 1000, at least 256)\n"
    "      --every N           one line in N is followed by a fault (default 100)\n"
    "      --seed N            of the faults (default 1)\n"
    "      --device NAME       cpu (default), cuda, cuda:N, auto\n"
    "      --weights DTYPE     fp32 (default), bf16, fp16\n"
    "      --threads N         worker threads (default: one per core)\n"
    "      --json              one JSON object\n"
    "      --help              print this text and end\n"
    "\n"
    "Faults: a line of another program, a word replaced, a line cut off, random bytes, a message of failure.\n"
    "Exit codes: 0 done, 64 usage, 65 a log too short, 66 no such file, 69 device unavailable, 74 input/output error,\n"
    "78 bad model folder, or none of bytes.\n";

enum { BYTES = 256, CHUNK = 4096, WARM = 256, MAX_RECORD = 1 << 20 };
enum { MODEL, MEAN, MOST, SCORERS };

struct options {
    struct byte_model model;
    uint64_t after, every, seed;
    bool json;
};

struct figures { /* AUPRC; index LOG_FINE: of all kinds together */
    double auprc[SCORERS][LOG_FAULTS];
    size_t lines, faults[LOG_FAULTS];
};

static int complain(int code, const char *about, const char *why)
{
    fprintf(stderr, "mambactl eval logs: %s%s%s\n", about, *about ? ": " : "", why);
    return code;
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

/* −log10 p of every line; 0 while the calibrator warms up. */
static int score_by_model(struct ssm_engine *e, struct ssm_slot slot, const struct log *log, double *score)
{
    static float logits[CHUNK * BYTES], surprise[CHUNK], records[3 * CHUNK];
    static uint32_t ends[CHUNK];
    static int32_t tokens[CHUNK];
    uint32_t n_records;
    size_t line = 0;
    for (size_t at = 0, n; at < log->bytes; at += n) {
        n = log->bytes - at < CHUNK ? log->bytes - at : CHUNK;
        for (size_t i = 0; i < n; i++)
            tokens[i] = log->text[at + i];
        const struct ssm_item item = {.slot = slot,
                                      .n = (uint32_t)n,
                                      .tokens = tokens,
                                      .interval = 1,
                                      .out = {.logits = logits, .logits_stride = BYTES},
                                      .scored = {.surprise = surprise,
                                                 .delimiter = '\n',
                                                 .record_max = MAX_RECORD,
                                                 .records = records,
                                                 .ends = ends,
                                                 .n_records = &n_records}};
        if (ssm_advance(e, &item, 1))
            return complain(EX_UNAVAILABLE, ssm_engine_device(e), ssm_engine_failure(e));
        for (uint32_t i = 0; i < n_records && line < log->n; i++)
            score[line++] = isnan(records[3 * i + 1]) ? 0 : -log10(fmax((double)records[3 * i + 1], 1e-300));
    }
    return EX_OK;
}

static int score_by_words(const struct log *log, double *mean, double *most)
{
    struct rare_tokens words;
    int r = rare_tokens_init(&words);
    for (size_t i = 0; i < log->n && r == 0; i++)
        r = rare_tokens_line(&words, log->text + log->lines[i].at, log->lines[i].n, &mean[i], &most[i]);
    rare_tokens_done(&words);
    return r;
}

/* Of the lines from `after` on that are fine or of this kind; LOG_FINE: of any. */
static int rank(const struct log *log, size_t after, const double *score, enum log_fault kind, double *ret)
{
    double *some = calloc(log->n, sizeof *some);
    uint8_t *label = calloc(log->n, 1);
    struct eval_ranking ranking = {.auprc = (double)NAN};
    size_t n = 0;
    for (size_t i = after; some && label && i < log->n; i++) {
        if (log->lines[i].fault && kind && log->lines[i].fault != kind)
            continue;
        some[n] = score[i];
        label[n++] = log->lines[i].fault != LOG_FINE;
    }
    int r = some && label ? eval_rank(some, label, n, &ranking) : -ENOMEM;
    *ret = ranking.auprc;
    free(some);
    free(label);
    return r;
}

static int judge(const struct options *o, struct ssm_slot slot, const struct log *log, struct figures *ret)
{
    double *score[SCORERS];
    int r = 0, code = EX_OK;
    for (int s = 0; s < SCORERS; s++)
        if (!(score[s] = calloc(log->n, sizeof **score)))
            r = -ENOMEM;
    if (r == 0)
        code = score_by_model(o->model.engine, slot, log, score[MODEL]);
    if (r == 0)
        r = score_by_words(log, score[MEAN], score[MOST]);
    for (size_t i = 0; i < log->n; i++)
        ret->faults[log->lines[i].fault]++;
    ret->lines = log->n;
    for (int s = 0; s < SCORERS && r == 0 && code == EX_OK; s++)
        for (int kind = LOG_FINE; kind < LOG_FAULTS && r == 0; kind++)
            r = rank(log, o->after, score[s], (enum log_fault)kind, &ret->auprc[s][kind]);
    for (int s = 0; s < SCORERS; s++)
        free(score[s]);
    return r ? complain(EX_UNAVAILABLE, "", "out of memory") : code;
}

static int eval_log(const struct options *o, struct ssm_slot slot, const char *name, struct figures *ret)
{
    FILE *f = fopen(name, "re");
    struct log log;
    if (!f)
        return complain(errno == ENOENT ? EX_NOINPUT : EX_IOERR, name, strerror(errno));
    int r = log_read(&log, f, o->seed, (size_t)o->after, (double)o->every), code;
    fclose(f);
    ssm_slot_reset(o->model.engine, slot);
    if (r)
        code = complain(r == -ENOMEM ? EX_UNAVAILABLE : EX_IOERR, name, strerror(-r));
    else if (log.n == 0 || log.n <= o->after)
        code = complain(EX_DATAERR, name, "no more lines than --after");
    else
        code = judge(o, slot, &log, ret);
    log_free(&log);
    return code;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

/* The words' better way, for each kind. */
static double by_words(const struct figures *f, int kind)
{
    return fmax(f->auprc[MEAN][kind], f->auprc[MOST][kind]);
}

static json_t *figure(double v)
{
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *document(const char *name, const struct figures *f)
{
    json_t *kinds = json_object();
    for (int k = LOG_FINE + 1; k < LOG_FAULTS; k++)
        json_object_set_new(kinds, log_fault_name((enum log_fault)k),
                            json_pack("{s:I, s:o, s:o}", "lines", (json_int_t)f->faults[k], "auprc",
                                      figure(f->auprc[MODEL][k]), "auprc_rare_words", figure(by_words(f, k))));
    return json_pack("{s:s, s:I, s:I, s:o, s:o, s:o}", "file", name, "lines", (json_int_t)f->lines, "faults",
                     (json_int_t)(f->lines - f->faults[LOG_FINE]), "auprc", figure(f->auprc[MODEL][LOG_FINE]),
                     "auprc_rare_words", figure(by_words(f, LOG_FINE)), "kinds", kinds);
}

static void print(const char *name, const struct figures *f)
{
    printf("%s: %zu lines, %zu faults: AUPRC %.3f, rare words %.3f\n", name, f->lines, f->lines - f->faults[LOG_FINE],
           f->auprc[MODEL][LOG_FINE], by_words(f, LOG_FINE));
    puts("  fault    lines  AUPRC  rare words");
    for (int k = LOG_FINE + 1; k < LOG_FAULTS; k++)
        if (f->faults[k] > 0)
            printf("  %-8s %5zu  %5.3f  %10.3f\n", log_fault_name((enum log_fault)k), f->faults[k], f->auprc[MODEL][k],
                   by_words(f, k));
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

enum { OPT_AFTER = 256, OPT_EVERY, OPT_SEED, OPT_DEVICE, OPT_WEIGHTS, OPT_THREADS, OPT_JSON, OPT_HELP };

static const struct option longs[] = {
    {"model", required_argument, NULL, 'm'},
    {"after", required_argument, NULL, OPT_AFTER},
    {"every", required_argument, NULL, OPT_EVERY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"weights", required_argument, NULL, OPT_WEIGHTS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int refuse(const char *what, const char *value)
{
    fprintf(stderr, "mambactl eval logs: %s%s\n%s", what, value, usage);
    return EX_USAGE;
}

static int take_count(uint64_t *ret, const char *value, uint64_t least, uint64_t most)
{
    char why[BYTE_MODEL_WHY];
    return byte_model_count(value, least, most, ret, why) ? -1 : refuse(value, why);
}

/* −1: go on; else the exit code. */
static int take_option(struct options *o, int option, const char *value)
{
    uint64_t n = 0;
    int code = -1;
    switch (option) {
    case 'm':
        o->model.dir = value;
        return -1;
    case OPT_AFTER:
        return take_count(&o->after, value, WARM, 1 << 30);
    case OPT_EVERY:
        return take_count(&o->every, value, 1, 1 << 30);
    case OPT_SEED:
        return take_count(&o->seed, value, 0, UINT64_MAX);
    case OPT_DEVICE:
        o->model.device = value;
        return -1;
    case OPT_THREADS:
        code = take_count(&n, value, 0, 1024);
        o->model.threads = (uint32_t)n;
        return code;
    case OPT_WEIGHTS:
        return byte_model_weights(value, &o->model.weights) ? -1 : refuse("fp32, bf16 or fp16, not ", value);
    case OPT_JSON:
        o->json = true;
        return -1;
    case OPT_HELP:
        printf("%s\n%s", usage, help);
        return EX_OK;
    default:
        fputs(usage, stderr);
        return EX_USAGE;
    }
}

int eval_logs(int argc, char **argv)
{
    struct options o = {.model = {.command = "eval logs", .device = "cpu"}, .after = 1000, .every = 100, .seed = 1};
    struct ssm_slot slot;
    int c, code = -1;
    optind = 1;
    while (code < 0 && (c = getopt_long(argc, argv, "m:", longs, NULL)) != -1)
        code = take_option(&o, c, optarg);
    if (code >= 0)
        return code;
    if (!o.model.dir || optind == argc)
        return refuse(!o.model.dir ? "-m is needed" : "a file is needed", "");
    code = byte_model_open(&o.model, 1);
    if (code == EX_OK && ssm_slot_take(o.model.engine, &slot))
        code = complain(EX_UNAVAILABLE, o.model.dir, "no memory for its state");
    json_t *files = json_array();
    for (int i = optind; i < argc && code == EX_OK; i++) {
        struct figures f = {0};
        code = eval_log(&o, slot, argv[i], &f);
        if (code == EX_OK && o.json)
            json_array_append_new(files, document(argv[i], &f));
        else if (code == EX_OK)
            print(argv[i], &f);
    }
    json_t *doc = json_pack("{s:s, s:I, s:o}", "model", o.model.dir, "seed", (json_int_t)o.seed, "files", files);
    if (code == EX_OK && o.json) {
        json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(doc);
    byte_model_close(&o.model);
    return code == EX_OK && fflush(stdout) ? EX_IOERR : code;
}
