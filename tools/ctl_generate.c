/* ctl_generate.c: `mambactl generate`: a byte model goes on with a text. The prompt is consumed once, by the first
 * sample's slot, and the others begin as copies of it; then every call of the engine takes each sample on by one byte.
 */
#include <errno.h>
#include <jansson.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "daemon/plural.h"
#include "io/utf8.h"
#include "tools/generate.h"
#include "tools/mambactl.h"

enum { PROMPT_CHUNK = 4096 };

struct sample {
    struct generation g;
    uint8_t *text; /* what this run made; [options.bytes] */
    size_t n;
};

struct generator {
    const struct generate_options *o;
    struct ssm_engine *engine;
    uint32_t n;
    struct ssm_slot *slots;
    struct sample *samples;
    struct ssm_item *items;
    int32_t *tokens; /* [n] */
    float *logits;   /* [n][MD_BYTES] by sample */
    uint8_t *prompt;
    size_t prompt_n;
    char reason[32]; /* why a daemon ended the text */
    double prompt_s, bytes_s;
    uint64_t made;
    struct speculation speculation; /* with a draft model */
    struct text_writer text;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
    interrupted = signal;
}

/* An interrupt came, or nobody takes what is written. */
static bool is_over(void)
{
    return interrupted || ferror(stdout);
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

/* ---- the prompt ------------------------------------------------------------------------------------------- */

static int read_file(struct generator *g, FILE *f, const char *name)
{
    size_t room = 0, got = 1;
    while (got > 0) {
        if (g->prompt_n == room) {
            room = room ? 2 * room : 1 << 16;
            uint8_t *more = realloc(g->prompt, room);
            if (!more)
                return complain(EX_UNAVAILABLE, "no memory for the prompt");
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
    const struct generate_options *o = g->o;
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
    return g->prompt ? EX_OK : complain(EX_UNAVAILABLE, "no memory for the prompt");
}

/* ---- the engine ------------------------------------------------------------------------------------------- */

static int complain_device(const struct ssm_engine *engine)
{
    fprintf(stderr, "mambactl generate: %s: %s\n", ssm_engine_device(engine), ssm_engine_failure(engine));
    return EX_UNAVAILABLE;
}

/* The first n of a sample's pending byte, if there is one (≥ 0), and the prompt; the logits behind the last byte, if
 * they are wanted. */
static int read_text(struct generator *g, struct ssm_engine *engine, struct ssm_slot slot, int32_t pending, size_t n,
                     float *logits)
{
    int32_t tokens[PROMPT_CHUNK];
    for (size_t at = 0; at < n;) {
        uint32_t k = 0;
        size_t most = logits && n - at > 1 ? n - at - 1 : n - at; /* the last byte alone: only its logits are wanted */
        for (; k < PROMPT_CHUNK && k < most; k++, at++)
            tokens[k] = pending < 0 ? g->prompt[at] : at == 0 ? pending : g->prompt[at - 1];
        const struct ssm_item item = {
            .slot = slot,
            .n = k,
            .tokens = tokens,
            .interval = 1,
            .out = {.logits = at == n ? logits : NULL, .logits_stride = MD_BYTES},
        };
        if (ssm_advance(engine, &item, 1))
            return complain_device(engine);
        if (interrupted)
            return complain(EX_IOERR, "interrupted before the prompt's end: nothing was saved");
    }
    return EX_OK;
}

/* Where no byte is to be generated, and where drafts are to be read behind it, the last byte stays pending. */
static int consume_prompt(struct generator *g, uint32_t sample)
{
    struct generation *s = &g->samples[sample].g;
    const bool stays = g->o->bytes == 0 || g->o->draft.dir;
    const size_t given = g->prompt_n + (s->next >= 0), n = given - (stays && given > 0);
    for (size_t i = 0; i < g->prompt_n; i++)
        md_sampler_saw(&s->sampler, g->prompt[i]);
    int code =
        read_text(g, g->engine, g->slots[sample], s->next, n, stays ? NULL : g->logits + (size_t)sample * MD_BYTES);
    if (code == EX_OK && g->o->draft.dir)
        code = read_text(g, g->o->draft.engine, speculation_slot(&g->speculation, sample), s->next, n, NULL);
    if (stays && g->prompt_n > 0)
        s->next = g->prompt[g->prompt_n - 1];
    return code;
}

static int copy_slot(struct ssm_engine *engine, struct ssm_slot from, struct ssm_slot to)
{
    return ssm_slot_copy(engine, from, to) ? complain_device(engine) : EX_OK;
}

/* The other samples go on from where the first is. */
static int copy_first(struct generator *g)
{
    int code = EX_OK;
    for (uint32_t i = 1; i < g->n && code == EX_OK; i++) {
        code = copy_slot(g->engine, g->slots[0], g->slots[i]);
        if (code == EX_OK && g->o->draft.dir)
            code = copy_slot(g->o->draft.engine, speculation_slot(&g->speculation, 0),
                             speculation_slot(&g->speculation, i));
        memcpy(g->logits + (size_t)i * MD_BYTES, g->logits, MD_BYTES * sizeof *g->logits);
        memcpy(g->samples[i].g.sampler.seen, g->samples[0].g.sampler.seen, sizeof g->samples[0].g.sampler.seen);
        g->samples[i].g.next = g->samples[0].g.next;
    }
    return code;
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
                 "the state was made by another op table or dtype: what follows is not bitwise what it would have been there");
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

static uint64_t room(void *ctx, uint32_t sample)
{
    const struct generator *g = ctx;
    const struct sample *s = &g->samples[sample];
    return s->g.finished ? 0 : g->o->bytes - s->n;
}

static void put(void *ctx, uint32_t sample, uint8_t byte)
{
    struct generator *g = ctx;
    struct sample *s = &g->samples[sample];
    s->g.next = byte;
    s->text[s->n++] = byte;
    g->made++;
    if (g->n == 1 && !g->o->json) {
        text_put(&g->text, byte);
        if (!g->text.careful && g->made % 64 == 0)
            fflush(stdout);
    }
    s->g.finished = g->o->stop && ends_with(s, g->o->stop);
}

/* The next byte of every sample that goes on, from its logits. */
static void pick_bytes(struct generator *g)
{
    float p[MD_BYTES];
    for (uint32_t i = 0; i < g->n; i++) {
        struct md_sampler *sampler = &g->samples[i].g.sampler;
        if (room(g, i) == 0)
            continue;
        md_sampler_weigh(sampler, g->logits + (size_t)i * MD_BYTES, p);
        uint8_t byte = md_sampler_pick(sampler, p);
        md_sampler_saw(sampler, byte);
        put(g, i, byte);
    }
}

/* The samples that have room read their last bytes. Returns how many there are, or −1. */
static int read_bytes(struct generator *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        if (room(g, i) == 0)
            continue;
        g->tokens[i] = g->samples[i].g.next;
        g->items[n++] = (struct ssm_item){
            .slot = g->slots[i],
            .n = 1,
            .tokens = g->tokens + i,
            .interval = 1,
            .out = {.logits = g->logits + (size_t)i * MD_BYTES, .logits_stride = MD_BYTES},
        };
    }
    return ssm_advance(g->engine, g->items, n) ? -1 : (int)n;
}

static int generate(struct generator *g)
{
    int going = 1;
    while (going > 0) {
        pick_bytes(g);
        if (is_over())
            break;
        going = read_bytes(g);
    }
    return going < 0 ? complain_device(g->engine) : EX_OK;
}

static bool any_room(struct generator *g)
{
    bool any = false;
    for (uint32_t i = 0; i < g->n; i++)
        any = any || room(g, i) > 0;
    return any;
}

static int generate_by_drafts(struct generator *g)
{
    const struct speculation_text text = {g, room, put};
    int err = 0;
    for (uint32_t i = 0; i < g->n; i++)
        speculation_begin(&g->speculation, i, &g->samples[i].g.sampler, (uint8_t)g->samples[i].g.next);
    while (!err && any_room(g) && !is_over())
        err = speculation_round(&g->speculation, text);
    if (!err)
        err = speculation_settle(&g->speculation);
    return err ? complain_device(g->speculation.failed) : EX_OK;
}

/* A daemon knows itself when to stop. */
static void put_remote(void *ctx, uint8_t byte)
{
    const struct generator *g = ctx;
    if (g->samples[0].n < g->o->bytes)
        put(ctx, 0, byte);
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
    return g->o->connect ? g->reason : s->g.finished ? "stop" : s->n == g->o->bytes ? "length" : "interrupt";
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
    if (g->o->draft.dir)
        json_object_set_new(doc, "drafts",
                            json_pack("{s:I, s:I, s:I}", "bytes", (json_int_t)g->speculation.drafted, "accepted",
                                      (json_int_t)g->speculation.accepted, "rounds",
                                      (json_int_t)g->speculation.rounds));
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
        fprintf(stderr, "%llu byte%s in %.2f s: %.0f bytes/s; prompt of %zu byte%s in %.2f s; %s\n",
                (unsigned long long)g->made, md_s(g->made), g->bytes_s,
                g->bytes_s > 0 ? (double)g->made / g->bytes_s : 0.0, g->prompt_n, md_s(g->prompt_n), g->prompt_s,
                g->engine ? ssm_engine_ops(g->engine) : g->o->connect);
    if (!g->o->quiet && g->speculation.rounds > 0)
        fprintf(stderr, "%llu byte%s drafted, of which %.1f %% stood: %.2f bytes a step\n",
                (unsigned long long)g->speculation.drafted, md_s(g->speculation.drafted),
                100.0 * (double)g->speculation.accepted / (double)(g->speculation.drafted ? g->speculation.drafted : 1),
                (double)g->made / (double)g->speculation.rounds);
    return fflush(stdout) || ferror(stdout) ? EX_IOERR : EX_OK;
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
        return complain(EX_UNAVAILABLE, "no memory for so many samples");
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
    speculation_close(&g->speculation);
}

static int run(struct generator *g, bool resume)
{
    double begin = now_s();
    int code = resume ? begin_from_state(g) : begin_fresh(g);
    g->prompt_s = now_s() - begin;
    begin = now_s();
    if (code == EX_OK && g->o->bytes > 0)
        code = g->o->draft.dir ? generate_by_drafts(g) : generate(g);
    g->bytes_s = now_s() - begin;
    if (code == EX_OK)
        code = print(g);
    if (code == EX_OK && g->o->state)
        code = save_state(g); /* it never is ahead of what was written */
    return code;
}

/* Before hours of generating: whether the state can be saved then. */
static int look_at_folder(const char *state)
{
    char *path = strdup(state);
    int err = !path ? ENOMEM : access(dirname(path), W_OK | X_OK) ? errno : 0;
    free(path);
    if (err)
        fprintf(stderr, "mambactl generate: %s: %s\n", state, strerror(err));
    return err ? EX_CANTCREAT : EX_OK;
}

/* The state file decides how many samples there are. */
static int count_samples(struct generator *g, bool *ret_resume)
{
    char why[SSM_ERR];
    *ret_resume = g->o->state && access(g->o->state, F_OK) == 0;
    g->n = g->o->samples ? g->o->samples : 1;
    int code = g->o->state ? look_at_folder(g->o->state) : EX_OK;
    if (code || !*ret_resume)
        return code;
    int err = generation_count(g->o->state, &g->n, why);
    if (err)
        return complain(err == -EBADMSG ? EX_DATAERR : EX_IOERR, why);
    if (g->o->samples && g->o->samples != g->n)
        return complain(EX_USAGE, "--samples: the state file has another number of them");
    return EX_OK;
}

/* Models and their slots; drafts take another of each sample's. */
static int open_models(struct generator *g, struct generate_options *o)
{
    int code = byte_model_open(&o->model, o->draft.dir ? 2 * g->n : g->n);
    g->engine = o->model.engine;
    for (uint32_t i = 0; i < g->n && code == EX_OK; i++)
        if (ssm_slot_take(g->engine, &g->slots[i]))
            code = complain(EX_UNAVAILABLE, "the device has no memory for so many samples");
    if (code == EX_OK && o->draft.dir)
        code = byte_model_open(&o->draft, 2 * g->n);
    if (code == EX_OK && o->draft.dir &&
        speculation_open(&g->speculation, g->engine, o->draft.engine, g->slots, g->n, o->draft_length))
        code = complain(EX_UNAVAILABLE, "no memory for so many samples with drafts");
    return code;
}

static int run_remote(struct generator *g)
{
    double begin = now_s();
    int code = generate_remote(g->o, g->prompt, g->prompt_n, put_remote, g, is_over, g->reason);
    g->bytes_s = now_s() - begin;
    return code == EX_OK ? print(g) : code;
}

int ctl_generate(int argc, char **argv)
{
    struct generate_options o;
    struct generator g = {.o = &o, .text = {.out = stdout, .careful = isatty(STDOUT_FILENO)}};
    bool resume = false;
    int code = generate_parse(&o, argc, argv);
    if (code >= 0)
        return code;
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    code = count_samples(&g, &resume);
    if (code == EX_OK)
        code = read_prompt(&g);
    if (code == EX_OK)
        code = make_room(&g);
    if (code == EX_OK && !o.connect)
        code = open_models(&g, &o);
    if (code == EX_OK)
        code = o.connect ? run_remote(&g) : run(&g, resume);
    free_all(&g);
    byte_model_close(&o.draft);
    byte_model_close(&o.model);
    return code;
}
