/* eval_bytes.c: `mambactl eval bytes`: how many bits a byte model needs for a byte of a file, that is, the mean of
 * −log2 of the probability that it gave each byte before it saw it. The first byte behind a fresh state, of which a
 * model says nothing, counts 8. A file goes through one slot from its first byte to its last, in pieces that memory
 * does not grow with. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "ssm/bytes.h"
#include "ssm/pool.h"
#include "tools/byte_model.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl eval bytes -m DIR [OPTION]... FILE...\n";
static const char help[] =
    "Bits per byte of files under a byte model (vocab 256), each with one state carried from its first byte to its "
    "last.\n"
    "\n"
    "  -m, --model DIR         a model folder\n"
    "      --skip N            bytes at the beginning that are read by the model but not counted\n"
    "      --window N          a fresh state every N bytes, as published tables have it\n"
    "      --device NAME       cpu (default), cuda, cuda:N, auto\n"
    "      --weights DTYPE     fp32 (default), bf16, fp16\n"
    "      --threads N         worker threads (default: one per core)\n"
    "      --json              one JSON object: bits_per_byte of all, of each file; bytes per second by tenths of a "
    "file\n"
    "  -q, --quiet             no progress\n"
    "      --help              print this text and end\n"
    "\n"
    "The first byte behind a fresh state counts 8 bits. FILE - is standard input.\n"
    "Exit codes: 0 done, 64 usage, 65 empty file, 66 no such file, 69 device unavailable, 74 input/output error,\n"
    "78 bad model folder, or none of bytes.\n";

enum {
    BYTES = 256,
    CHUNK = 16384, /* a GPU computes a part of it while the part before comes back */
    PARTS = 10,
    COUNTERS = 8, /* threads at most that count a piece, in so many shares each: */
    SHARES = 4
};

struct options {
    struct byte_model model;
    uint64_t window, skip;
    bool json, quiet;
};

struct tally {
    const char *name;
    double bits, seconds;
    uint64_t counted, read;
    double rate[PARTS]; /* bytes per second by tenths; 0: the size was not known */
};

struct piece {
    size_t n;
    bool fresh; /* nothing is known ahead of its first byte */
    uint8_t bytes[CHUNK];
    int32_t tokens[CHUNK];
    float logits[CHUNK * BYTES];
    double bits[CHUNK];
    struct ssm_item item;
};

struct reader {
    const struct options *o;
    struct ssm_engine *engine;
    struct ssm_slot slot;
    struct ssm_pool *pool;  /* counts */
    struct piece pieces[2]; /* one is counted while a GPU has the next */
    float before[BYTES];    /* logits behind the last byte that was counted */
    double shown_s;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int complain(int code, const char *about, const char *why)
{
    fprintf(stderr, "mambactl eval bytes: %s%s%s\n", about, *about ? ": " : "", why);
    return code;
}

/* −log2 of the softmax at `byte`. */
static double bits_of(const float *logits, uint8_t byte)
{
    return (ssm_bytes_norm(logits) - (double)logits[byte]) * M_LOG2E;
}

static void count(struct tally *t, const struct options *o, double bits)
{
    if (t->read++ < o->skip)
        return;
    t->bits += bits;
    t->counted++;
}

static void show(struct reader *r, const struct tally *t)
{
    const double now = now_s();
    if (r->o->quiet || !isatty(STDERR_FILENO) || now - r->shown_s < 0.1)
        return;
    r->shown_s = now;
    fprintf(stderr, "\r\033[K%s: %llu bytes, %.4f bits per byte", t->name, (unsigned long long)t->read,
            t->counted ? t->bits / (double)t->counted : 0.0);
}

/* How many bytes the next piece has: it ends where a window does. */
static size_t piece_at(const struct options *o, uint64_t at)
{
    uint64_t left = o->window ? o->window - at % o->window : CHUNK;
    return left < CHUNK ? (size_t)left : CHUNK;
}

static int device_failed(const struct reader *r)
{
    return complain(EX_UNAVAILABLE, ssm_engine_device(r->engine), ssm_engine_failure(r->engine));
}

/* Sends the n bytes that it has on. */
static int send(struct reader *r, struct piece *p, size_t n, bool fresh)
{
    p->n = n;
    p->fresh = fresh;
    for (size_t i = 0; i < n; i++)
        p->tokens[i] = p->bytes[i];
    p->item = (struct ssm_item){.slot = r->slot,
                                .n = (uint32_t)n,
                                .tokens = p->tokens,
                                .interval = 1,
                                .out = {.logits = p->logits, .logits_stride = BYTES}};
    if (fresh)
        ssm_slot_reset(r->engine, r->slot);
    return ssm_advance_start(r->engine, &p->item, 1) ? device_failed(r) : EX_OK;
}

/* All but the first byte's, whose logits are not the piece's. */
static void weigh(void *ctx, unsigned part, unsigned parts)
{
    struct piece *p = ctx;
    for (size_t i = p->n * part / parts; i < p->n * (part + 1) / parts; i++)
        if (i > 0)
            p->bits[i] = bits_of(p->logits + (i - 1) * BYTES, p->bytes[i]);
}

/* Waits for what was sent first. */
static int take(struct reader *r, struct piece *p, struct tally *t)
{
    if (ssm_advance_wait(r->engine))
        return device_failed(r);
    p->bits[0] = p->fresh ? 8 : bits_of(r->before, p->bytes[0]);
    ssm_pool_share(r->pool, SHARES * ssm_pool_threads(r->pool), weigh, p);
    for (size_t i = 0; i < p->n; i++)
        count(t, r->o, p->bits[i]);
    memcpy(r->before, p->logits + (p->n - 1) * BYTES, sizeof r->before);
    return EX_OK;
}

/* Speeds by tenths of a file of known size. */
struct stopwatch {
    uint64_t size, from;
    double since_s;
    unsigned part;
};

static void look(struct stopwatch *w, struct tally *t)
{
    if (w->part == PARTS || w->size < PARTS * CHUNK || t->read < w->size / PARTS * (w->part + 1))
        return;
    const double now = now_s();
    t->rate[w->part++] = (double)(t->read - w->from) / (now - w->since_s);
    w->since_s = now;
    w->from = t->read;
}

static int read_file(struct reader *r, FILE *f, struct tally *t)
{
    struct stat info;
    const double begin = now_s();
    struct stopwatch watch = {
        .size = fstat(fileno(f), &info) == 0 && S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0, .since_s = begin};
    struct piece *under_way = NULL;
    uint64_t sent = 0;
    size_t n;
    int code = EX_OK, err = 0;
    do {
        struct piece *next = &r->pieces[under_way == r->pieces];
        n = fread(next->bytes, 1, piece_at(r->o, sent), f);
        err = ferror(f) ? errno : 0;
        if (n > 0)
            code = send(r, next, n, sent == 0 || (r->o->window && sent % r->o->window == 0));
        if (under_way && code == EX_OK)
            code = take(r, under_way, t);
        under_way = n > 0 ? next : NULL;
        sent += n;
        look(&watch, t);
        show(r, t);
    } while (under_way && code == EX_OK);
    t->seconds = now_s() - begin;
    if (r->shown_s > 0)
        fputs("\r\033[K", stderr);
    if (code == EX_OK && err)
        return complain(EX_IOERR, t->name, strerror(err));
    if (code == EX_OK && t->counted == 0)
        return complain(EX_DATAERR, t->name, t->read ? "no longer than --skip" : "empty");
    return code;
}

static int eval_file(struct reader *r, struct tally *t)
{
    FILE *f = strcmp(t->name, "-") == 0 ? stdin : fopen(t->name, "re");
    if (!f)
        return complain(errno == ENOENT ? EX_NOINPUT : EX_IOERR, t->name, strerror(errno));
    int code = read_file(r, f, t);
    if (f != stdin)
        fclose(f);
    return code;
}

/* ---- output ----------------------------------------------------------------------------------------------- */

static json_t *document(const struct tally *t)
{
    json_t *doc =
        json_pack("{s:s, s:f, s:I, s:f, s:f}", "file", t->name, "bits_per_byte", t->bits / (double)t->counted, "bytes",
                  (json_int_t)t->counted, "seconds", t->seconds, "bytes_per_second", (double)t->read / t->seconds);
    json_t *rates = json_array();
    for (int i = 0; i < PARTS && t->rate[i] > 0; i++)
        json_array_append_new(rates, json_real(t->rate[i]));
    json_object_set_new(doc, "bytes_per_second_by_tenth", rates);
    return doc;
}

static void print(const struct options *o, const struct ssm_engine *engine, const struct tally *v, int n)
{
    struct tally all = {.name = "all"};
    json_t *doc = json_object(), *files = json_array();
    for (int i = 0; i < n; i++) {
        all.bits += v[i].bits;
        all.counted += v[i].counted;
        all.read += v[i].read;
        all.seconds += v[i].seconds;
        json_array_append_new(files, document(&v[i]));
        if (!o->json)
            printf("%s: %.4f bits per byte, %llu bytes, %.0f bytes/s\n", v[i].name, v[i].bits / (double)v[i].counted,
                   (unsigned long long)v[i].counted, (double)v[i].read / v[i].seconds);
    }
    if (n > 1 && !o->json)
        printf("all: %.4f bits per byte, %llu bytes\n", all.bits / (double)all.counted,
               (unsigned long long)all.counted);
    json_object_set_new(doc, "model", json_string(o->model.dir));
    json_object_set_new(doc, "ops", json_string(ssm_engine_ops(engine)));
    json_object_set_new(doc, "window", o->window ? json_integer((json_int_t)o->window) : json_null());
    json_object_set_new(doc, "bits_per_byte", json_real(all.bits / (double)all.counted));
    json_object_set_new(doc, "bytes", json_integer((json_int_t)all.counted));
    json_object_set_new(doc, "files", files);
    if (o->json) {
        json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(doc);
}

/* ---- the command ------------------------------------------------------------------------------------------ */

enum { OPT_SKIP = 256, OPT_WINDOW, OPT_DEVICE, OPT_WEIGHTS, OPT_THREADS, OPT_JSON, OPT_HELP };

static const struct option longs[] = {
    {"model", required_argument, NULL, 'm'},
    {"skip", required_argument, NULL, OPT_SKIP},
    {"window", required_argument, NULL, OPT_WINDOW},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"weights", required_argument, NULL, OPT_WEIGHTS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int refuse(const char *what, const char *value)
{
    fprintf(stderr, "mambactl eval bytes: %s%s\n%s", what, value, usage);
    return EX_USAGE;
}

static int take_count(uint64_t *ret, const char *value, uint64_t least)
{
    char why[BYTE_MODEL_WHY];
    return byte_model_count(value, least, UINT64_MAX, ret, why) ? -1 : refuse(value, why);
}

/* −1: go on; else the exit code. */
static int take_option(struct options *o, int option, const char *value)
{
    uint64_t n = 0;
    int code = -1;
    switch (option) {
    case 'm':
        o->model.dir = value;
        break;
    case 'q':
        o->quiet = true;
        break;
    case OPT_SKIP:
        code = take_count(&o->skip, value, 0);
        break;
    case OPT_WINDOW:
        code = take_count(&o->window, value, 2);
        break;
    case OPT_DEVICE:
        o->model.device = value;
        break;
    case OPT_THREADS:
        code = take_count(&n, value, 0);
        o->model.threads = n < 1024 ? (uint32_t)n : 1024;
        break;
    case OPT_WEIGHTS:
        code = byte_model_weights(value, &o->model.weights) ? -1 : refuse("fp32, bf16 or fp16, not ", value);
        break;
    case OPT_JSON:
        o->json = true;
        break;
    case OPT_HELP:
        printf("%s\n%s", usage, help);
        return EX_OK;
    default:
        fputs(usage, stderr);
        return EX_USAGE;
    }
    return code;
}

int eval_bytes(int argc, char **argv)
{
    struct options o = {.model = {.command = "eval bytes", .device = "cpu"}};
    int c, code = -1;
    optind = 1;
    while (code < 0 && (c = getopt_long(argc, argv, "m:q", longs, NULL)) != -1)
        code = take_option(&o, c, optarg);
    if (code >= 0)
        return code;
    if (!o.model.dir || optind == argc)
        return refuse(!o.model.dir ? "-m is needed" : "a file is needed", "");
    const int n = argc - optind;
    struct tally *tallies = calloc((size_t)n, sizeof *tallies);
    struct reader *r = calloc(1, sizeof *r);
    code = tallies && r ? EX_OK : complain(EX_UNAVAILABLE, "", "out of memory");
    if (code == EX_OK) {
        r->o = &o;
        code = byte_model_open(&o.model, 1);
        r->engine = o.model.engine;
        const unsigned counters = ssm_pool_size(o.model.threads, COUNTERS);
        if (code == EX_OK && (ssm_slot_take(r->engine, &r->slot) || ssm_pool_new(counters, &r->pool)))
            code = complain(EX_UNAVAILABLE, o.model.dir, "no memory for its state, or no threads");
    }
    for (int i = 0; i < n && code == EX_OK; i++) {
        tallies[i].name = argv[optind + i];
        code = eval_file(r, &tallies[i]);
    }
    if (code == EX_OK)
        print(&o, r->engine, tallies, n);
    byte_model_close(&o.model);
    if (r)
        ssm_pool_free(&r->pool);
    free(r);
    free(tallies);
    return code == EX_OK && fflush(stdout) ? EX_IOERR : code;
}
