/* ctl_generate.c: `mambactl generate`: a byte model goes on with a text. The prompt is consumed once, by the first
 * sample's slot, and the others begin as copies of it; then every call of the engine takes each sample on by one byte.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "io/utf8.h"
#include "tools/byte_model.h"
#include "tools/generate.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl generate -m DIR [-p TEXT | -f FILE] [-n N] [OPTION]...\n";
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
    "Where:\n"
    "      --device NAME       cpu (default), cuda, cuda:N, auto\n"
    "      --weights DTYPE     fp32 (default), bf16, fp16\n"
    "      --threads N         worker threads (default: one per core)\n"
    "      --json              one JSON object at the end: text, bytes in hex, why each sample ended, speed\n"
    "  -q, --quiet             no line about speed\n"
    "      --help              print this text and end\n"
    "\n"
    "On a terminal bytes that are no UTF-8 show as U+FFFD. An interrupt ends the generation and saves the state.\n"
    "Exit codes: 0 done, 64 usage, 65 bad state file, 66 no such file, 69 device unavailable, 74 input/output error,\n"
    "78 bad model folder, or none of bytes.\n";

enum { PROMPT_CHUNK = 4096, SAMPLES_MAX = 4096, STOP_MAX = 256 };

struct options {
    const char *prompt, *file, *state, *stop;
    struct byte_model model;
    uint64_t bytes;
    uint32_t samples;
    bool json, quiet;
    struct md_sampling how;
};

struct sample {
    struct generation g;
    uint8_t *text; /* what this run made; [options.bytes] */
    size_t n;
};

struct generator {
    const struct options *o;
    struct ssm_engine *engine;
    uint32_t n;
    struct ssm_slot *slots;
    struct sample *samples;
    struct ssm_item *items;
    uint32_t *item_of; /* [n] the sample that an item of the batch is of */
    int32_t *tokens;   /* [n] */
    float *logits;     /* [n][MD_BYTES] by sample */
    uint8_t *prompt;
    size_t prompt_n;
    double prompt_s, bytes_s;
    uint64_t made;
    bool any; /* something stands on standard output */
    struct text_writer text;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
    interrupted = signal;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int complain(int code, const char *why)
{
    fprintf(stderr, "mambactl generate: %s\n", why);
    return code;
}

/* ---- options ---------------------------------------------------------------------------------------------- */

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
    return byte_model_count(value, least, most, ret) ? -1 : refuse("no number that is possible here: ", value);
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
    char *end;
    double v = strtod(value, &end);
    if (!*value || *end || !(v >= least && v <= most))
        return refuse("no number that is possible here: ", value);
    *ret = (float)v;
    return -1;
}

static int take_stop(const char **ret, const char *value)
{
    if (!*value || strlen(value) > STOP_MAX)
        return refuse("--stop takes 1 to 256 bytes, not: ", value);
    *ret = value;
    return -1;
}

/* −1: go on; else the exit code. */
static int take_option(struct options *o, int option, const char *value)
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

/* ---- the prompt ------------------------------------------------------------------------------------------- */

static int read_file(struct generator *g, FILE *f, const char *name)
{
    size_t room = 0, got = 1;
    while (got > 0) {
        if (g->prompt_n == room) {
            room = room ? 2 * room : 1 << 16;
            uint8_t *more = realloc(g->prompt, room);
            if (!more)
                return complain(EX_OSERR, "no memory for the prompt");
            g->prompt = more;
        }
        got = fread(g->prompt + g->prompt_n, 1, room - g->prompt_n, f);
        g->prompt_n += got;
    }
    if (ferror(f)) {
        fprintf(stderr, "mambactl generate: %s: %s\n", name, strerror(errno));
        return EX_IOERR;
    }
    return EX_OK;
}

static int read_prompt(struct generator *g)
{
    const struct options *o = g->o;
    if (o->file && strcmp(o->file, "-") == 0)
        return read_file(g, stdin, "standard input");
    if (o->file) {
        FILE *f = fopen(o->file, "re");
        if (!f) {
            fprintf(stderr, "mambactl generate: %s: %s\n", o->file, strerror(errno));
            return EX_NOINPUT;
        }
        int code = read_file(g, f, o->file);
        fclose(f);
        return code;
    }
    g->prompt_n = o->prompt ? strlen(o->prompt) : 0;
    g->prompt = (uint8_t *)strdup(o->prompt ? o->prompt : "");
    return g->prompt ? EX_OK : complain(EX_OSERR, "no memory for the prompt");
}

/* ---- the engine ------------------------------------------------------------------------------------------- */

static struct ssm_item item_of(struct generator *g, uint32_t sample, const int32_t *tokens, uint32_t n, float *logits)
{
    return (struct ssm_item){.slot = g->slots[sample],
                             .n = n,
                             .tokens = tokens,
                             .interval = 1,
                             .out = {.logits = logits, .logits_stride = MD_BYTES}};
}

static int complain_device(const struct generator *g)
{
    fprintf(stderr, "mambactl generate: %s: %s\n", ssm_engine_device(g->engine), ssm_engine_failure(g->engine));
    return EX_UNAVAILABLE;
}

static int advance(struct generator *g, uint32_t n_items)
{
    return ssm_advance(g->engine, g->items, n_items) ? complain_device(g) : EX_OK;
}

/* Feeds a sample its pending byte and the prompt; the logits behind the last byte are the sample's. Where no byte is to
 * be generated the last one stays pending. */
static int consume_prompt(struct generator *g, uint32_t sample)
{
    struct generation *s = &g->samples[sample].g;
    const bool pending = s->next >= 0, nothing_wanted = g->o->bytes == 0;
    const size_t given = g->prompt_n + pending, all = given - (nothing_wanted && given > 0);
    int32_t tokens[PROMPT_CHUNK];
    int code = EX_OK;
    for (size_t i = 0; i < g->prompt_n; i++)
        md_sampler_saw(&s->sampler, g->prompt[i]);
    for (size_t at = 0; at < all && code == EX_OK && !interrupted;) {
        uint32_t n = 0;
        /* the last byte alone: only its logits are wanted */
        size_t most = all - at > 1 ? all - at - 1 : 1;
        for (; n < PROMPT_CHUNK && n < most; n++, at++)
            tokens[n] = pending && at == 0 ? s->next : g->prompt[at - pending];
        g->items[0] = item_of(g, sample, tokens, n, at == all ? g->logits + (size_t)sample * MD_BYTES : NULL);
        code = advance(g, 1);
    }
    if (code == EX_OK && interrupted)
        return complain(EX_IOERR, "interrupted before the prompt's end: nothing was saved");
    if (nothing_wanted && g->prompt_n > 0)
        s->next = g->prompt[g->prompt_n - 1];
    return code;
}

/* The other samples go on from where the first is. */
static int copy_first(struct generator *g)
{
    int err = 0;
    for (uint32_t i = 1; i < g->n && err == 0; i++) {
        err = ssm_slot_copy(g->engine, g->slots[0], g->slots[i]);
        memcpy(g->logits + (size_t)i * MD_BYTES, g->logits, MD_BYTES * sizeof *g->logits);
        memcpy(g->samples[i].g.sampler.seen, g->samples[0].g.sampler.seen, sizeof g->samples[0].g.sampler.seen);
        g->samples[i].g.next = g->samples[0].g.next;
    }
    return err ? complain_device(g) : EX_OK;
}

static int begin_fresh(struct generator *g)
{
    for (uint32_t i = 0; i < g->n; i++) {
        g->samples[i].g = (struct generation){.next = -1};
        md_sampler_init(&g->samples[i].g.sampler, &g->o->how, i);
    }
    if (g->prompt_n == 0)
        g->prompt[g->prompt_n++] = '\n'; /* strdup("") has room for one */
    int code = consume_prompt(g, 0);
    return code == EX_OK ? copy_first(g) : code;
}

static int begin_from_state(struct generator *g)
{
    struct generation *held = calloc(g->n, sizeof *held);
    char why[SSM_ERR];
    bool exact = true;
    int err = held ? generation_load(g->o->state, g->engine, g->slots, held, g->n, &exact, why) : -ENOMEM;
    if (err) {
        free(held);
        return complain(err == -EBADMSG ? EX_DATAERR : EX_IOERR, held ? why : "out of memory");
    }
    if (!exact)
        complain(0,
                 "the state was made by another op table: what follows is not bitwise what it would have been there");
    int code = EX_OK;
    for (uint32_t i = 0; i < g->n && code == EX_OK; i++) {
        g->samples[i].g = held[i];
        g->samples[i].g.finished = 0;
        g->samples[i].g.sampler.how = g->o->how;
        code = consume_prompt(g, i);
    }
    free(held);
    return code;
}

/* ---- generating ------------------------------------------------------------------------------------------- */

static bool ends_with(const struct sample *s, const char *stop)
{
    size_t n = strlen(stop);
    return s->n >= n && memcmp(s->text + s->n - n, stop, n) == 0;
}

/* The next byte of every sample that goes on. Returns how many there are. */
static uint32_t pick_bytes(struct generator *g)
{
    float p[MD_BYTES];
    uint32_t going = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        struct sample *s = &g->samples[i];
        if (s->g.finished)
            continue;
        md_sampler_weigh(&s->g.sampler, g->logits + (size_t)i * MD_BYTES, p);
        uint8_t byte = md_sampler_draw(p, g->o->how.temperature > 0 ? md_sampler_uniform(&s->g.sampler) : 0);
        md_sampler_saw(&s->g.sampler, byte);
        s->g.next = byte;
        s->text[s->n++] = byte;
        g->made++;
        if (g->n == 1 && !g->o->json) {
            text_put(&g->text, byte);
            if (!g->text.careful && g->made % 64 == 0)
                fflush(stdout);
        }
        s->g.finished = g->o->stop && ends_with(s, g->o->stop);
        going += !s->g.finished && s->n < g->o->bytes;
    }
    return going;
}

static int generate(struct generator *g)
{
    int code = EX_OK;
    while (code == EX_OK && pick_bytes(g) > 0 && !interrupted) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < g->n; i++) {
            if (g->samples[i].g.finished)
                continue;
            g->tokens[i] = g->samples[i].g.next;
            g->items[n++] = item_of(g, i, g->tokens + i, 1, g->logits + (size_t)i * MD_BYTES);
        }
        code = advance(g, n);
        for (uint32_t i = 0; i < g->n && code == EX_OK; i++)
            if (!g->samples[i].g.finished)
                g->samples[i].g.next = -1;
    }
    return code;
}

static int save_state(struct generator *g)
{
    struct generation *held = calloc(g->n, sizeof *held);
    char why[SSM_ERR] = "out of memory";
    int err = held ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < g->n && !err; i++)
        held[i] = g->samples[i].g;
    if (!err)
        err = generation_save(g->o->state, g->engine, g->slots, held, g->n, why);
    free(held);
    return err ? complain(EX_IOERR, why) : EX_OK;
}

/* ---- output ----------------------------------------------------------------------------------------------- */

static const char *reason_of(const struct generator *g, const struct sample *s)
{
    return s->g.finished ? "stop" : s->n == g->o->bytes ? "length" : "interrupt";
}

/* As JSON has it: what is no UTF-8 becomes U+FFFD. To be freed. */
static char *text_of(const struct sample *s)
{
    char *text = malloc(3 * s->n + 1);
    size_t n = 0;
    for (size_t i = 0; text && i < s->n;) {
        uint32_t c;
        size_t step = io_utf8_step((const char *)s->text + i, s->n - i, &c);
        n += io_utf8_put(text + n, step ? c : 0xfffd);
        i += step ? step : 1;
    }
    if (text)
        text[n] = 0;
    return text;
}

static char *hex_of(const struct sample *s)
{
    char *hex = malloc(2 * s->n + 1);
    for (size_t i = 0; hex && i < s->n; i++)
        sprintf(hex + 2 * i, "%02x", s->text[i]);
    if (hex)
        hex[2 * s->n] = 0;
    return hex;
}

static void print_json(const struct generator *g)
{
    json_t *doc = json_object(), *samples = json_array();
    for (uint32_t i = 0; i < g->n; i++) {
        const struct sample *s = &g->samples[i];
        char *text = text_of(s), *hex = hex_of(s);
        json_array_append_new(samples, json_pack("{s:i, s:s?, s:s?, s:I, s:s}", "sample", (int)i, "text", text, "hex",
                                                 hex, "bytes", (json_int_t)s->n, "reason", reason_of(g, s)));
        free(text);
        free(hex);
    }
    json_object_set_new(doc, "samples", samples);
    json_object_set_new(doc, "prompt_bytes", json_integer((json_int_t)g->prompt_n));
    json_object_set_new(doc, "prompt_seconds", json_real(g->prompt_s));
    json_object_set_new(doc, "seconds", json_real(g->bytes_s));
    json_object_set_new(doc, "bytes_per_second", json_real(g->bytes_s > 0 ? (double)g->made / g->bytes_s : 0));
    json_dumpf(doc, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(doc);
}

static void print_samples(struct generator *g)
{
    for (uint32_t i = 0; i < g->n; i++) {
        printf("%s--- sample %u of %u ---\n", i ? "\n" : "", i + 1, g->n);
        for (size_t k = 0; k < g->samples[i].n; k++)
            text_put(&g->text, g->samples[i].text[k]);
        text_end(&g->text);
    }
}

static int print(struct generator *g)
{
    if (g->o->json)
        print_json(g);
    else if (g->n > 1)
        print_samples(g);
    text_end(&g->text);
    if (isatty(STDOUT_FILENO) && !g->o->json)
        putchar('\n');
    if (!g->o->quiet)
        fprintf(stderr, "%llu bytes in %.2f s: %.0f bytes/s; prompt of %zu bytes in %.2f s; %s\n",
                (unsigned long long)g->made, g->bytes_s, g->bytes_s > 0 ? (double)g->made / g->bytes_s : 0.0,
                g->prompt_n, g->prompt_s, ssm_engine_ops(g->engine));
    return fflush(stdout) || ferror(stdout) ? complain(EX_IOERR, "standard output cannot be written") : EX_OK;
}

/* ---- open and close --------------------------------------------------------------------------------------- */

static int make_room(struct generator *g)
{
    g->slots = calloc(g->n, sizeof *g->slots);
    g->samples = calloc(g->n, sizeof *g->samples);
    g->items = calloc(g->n, sizeof *g->items);
    g->tokens = calloc(g->n, sizeof *g->tokens);
    g->logits = calloc(g->n, MD_BYTES * sizeof *g->logits);
    bool all = g->slots && g->samples && g->items && g->tokens && g->logits;
    for (uint32_t i = 0; i < g->n && all; i++)
        all = (g->samples[i].text = malloc(g->o->bytes + 1)) != NULL;
    if (!all)
        return complain(EX_OSERR, "no memory for so many samples");
    for (uint32_t i = 0; i < g->n; i++)
        if (ssm_slot_take(g->engine, &g->slots[i]))
            return complain(EX_UNAVAILABLE, "the device has no memory for so many samples");
    return EX_OK;
}

static void free_all(struct generator *g)
{
    for (uint32_t i = 0; g->samples && i < g->n; i++)
        free(g->samples[i].text);
    free(g->slots);
    free(g->samples);
    free(g->items);
    free(g->tokens);
    free(g->logits);
    free(g->prompt);
}

static int run(struct generator *g, bool resume)
{
    double begin = now_s();
    int code = resume ? begin_from_state(g) : begin_fresh(g);
    g->prompt_s = now_s() - begin;
    begin = now_s();
    if (code == EX_OK && g->o->bytes > 0)
        code = generate(g);
    g->bytes_s = now_s() - begin;
    if (code == EX_OK && g->o->state)
        code = save_state(g);
    if (code == EX_OK)
        code = print(g);
    return code;
}

/* The state file decides how many samples there are. */
static int count_samples(struct generator *g, bool *ret_resume)
{
    char why[SSM_ERR];
    *ret_resume = g->o->state && access(g->o->state, F_OK) == 0;
    g->n = g->o->samples ? g->o->samples : 1;
    if (!*ret_resume)
        return EX_OK;
    int err = generation_count(g->o->state, &g->n, why);
    if (err)
        return complain(err == -EBADMSG ? EX_DATAERR : EX_IOERR, why);
    if (g->o->samples && g->o->samples != g->n)
        return complain(EX_USAGE, "--samples: the state file has another number of them");
    return EX_OK;
}

int ctl_generate(int argc, char **argv)
{
    struct options o = {.model = {.command = "generate", .device = "cpu"},
                        .bytes = 256,
                        .how = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    struct generator g = {.o = &o, .text = {.out = stdout, .careful = isatty(STDOUT_FILENO)}};
    bool resume = false;
    int c, code = -1;
    while (code < 0 && (c = getopt_long(argc, argv, "m:p:f:n:q", longs, NULL)) != -1)
        code = take_option(&o, c, optarg);
    if (code >= 0)
        return code;
    if (!o.model.dir || optind < argc || (o.prompt && o.file))
        return refuse(!o.model.dir    ? "-m is needed"
                      : optind < argc ? "unexpected argument: "
                                      : "-p or -f, not both",
                      optind < argc ? argv[optind] : "");
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    code = count_samples(&g, &resume);
    if (code == EX_OK)
        code = read_prompt(&g);
    if (code == EX_OK)
        code = byte_model_open(&o.model, g.n);
    g.engine = o.model.engine;
    if (code == EX_OK)
        code = make_room(&g);
    if (code == EX_OK)
        code = run(&g, resume);
    free_all(&g);
    byte_model_close(&o.model);
    return code;
}
