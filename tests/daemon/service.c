/* service.c: see service.h. */
#include "tests/daemon/service.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

static const char *model_dir;

const char *service_model(void)
{
    struct ssm_model *random, *m;
    char why[SSM_ERR];

    if (model_dir)
        return model_dir;
    m = folder_signal_model(4, 6, 3, true);
    (void)m;
    random = m;
    model_dir = rig_folder();
    folder_write(model_dir, random, SSM_F32);
    ssm_model_close(&random);
    if (ssm_model_open(model_dir, &m, why)) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    ssm_model_close(&m);
    return model_dir;
}

void service_sweep(void)
{
    rig_sweep();
}

static char *replaced(const char *text, const char *name, const char *value)
{
    size_t n = 0, cap = strlen(text) * 8 + 4096;
    char *out = malloc(cap);
    const char *at;

    while ((at = strstr(text, name))) {
        n += (size_t)snprintf(out + n, cap - n, "%.*s%s", (int)(at - text), text, value);
        text = at + strlen(name);
    }
    snprintf(out + n, cap - n, "%s", text);
    return out;
}

static char *expand(const struct service *s, const char *yaml)
{
    char name[8], value[128];
    char *text = replaced(yaml, "MODEL", service_model()), *next;

    next = replaced(text, "DIR", s->dir);
    free(text);
    text = next;
    for (unsigned i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "IN%u", i);
        snprintf(value, sizeof value, "ipc://%s/in%u", s->dir, i);
        next = replaced(text, name, value);
        free(text);
        text = next;
    }
    return text;
}

void service_start(struct service *s, const char *yaml, unsigned flags)
{
    char reterr[IO_ERR] = "", endpoint[128], *text;

    memset(s, 0, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "/tmp/mambad-test-XXXXXX");
    if (!mkdtemp(s->dir))
        abort();
    text = expand(s, yaml);
    md_log_setup(MD_ERROR, MD_LOG_TEXT);
    if (md_config_parse("test", text, NULL, 0, true, stderr, &s->config) ||
        md_daemon_start(s->config, flags, &s->daemon, reterr)) {
        fprintf(stderr, "%s\n%s\n", reterr, text);
        abort();
    }
    free(text);
    s->zmq = zmq_ctx_new();
    for (unsigned i = 0; i < 4; i++) {
        int hwm = 0;
        s->push[i] = zmq_socket(s->zmq, ZMQ_PUSH);
        zmq_setsockopt(s->push[i], ZMQ_SNDHWM, &hwm, sizeof hwm);
        snprintf(endpoint, sizeof endpoint, "ipc://%s/in%u", s->dir, i);
        zmq_connect(s->push[i], endpoint);
    }
}

static void close_sockets(struct service *s)
{
    int linger = 0;

    for (unsigned i = 0; i < 4; i++) {
        zmq_setsockopt(s->push[i], ZMQ_LINGER, &linger, sizeof linger);
        zmq_close(s->push[i]);
    }
    zmq_ctx_term(s->zmq);
}

json_t *service_stop(struct service *s)
{
    char path[128], *line = NULL;
    size_t cap = 0;
    json_t *lines = json_array();
    FILE *f;

    if (md_daemon_stop(&s->daemon, 10000000000) != s->code) {
        fprintf(stderr, "it did not end with %d\n", s->code);
        abort();
    }
    snprintf(path, sizeof path, "%s/out.jsonl", s->dir);
    f = fopen(path, "r");
    while (f && getline(&line, &cap, f) > 0) {
        json_error_t error;
        json_t *o = json_loads(line, 0, &error);
        if (!o) {
            fprintf(stderr, "%s: %s\n", error.text, line);
            abort();
        }
        json_array_append_new(lines, o);
    }
    free(line);
    if (f)
        fclose(f);
    close_sockets(s);
    return lines;
}

void service_done(struct service *s)
{
    char command[128];

    md_config_free(&s->config);
    snprintf(command, sizeof command, "rm -rf '%s'", s->dir);
    if (system(command))
        fprintf(stderr, "cannot remove %s\n", s->dir);
}

void service_send(struct service *s, unsigned input, const char *stream, const float *x, size_t n, size_t channels,
                  const char *extra)
{
    char header[512];
    int len = channels == 1
                  ? snprintf(header, sizeof header, "{\"dtype\":\"float32\",\"shape\":[%zu],\"stream\":\"%s\"%s}", n,
                             stream, extra)
                  : snprintf(header, sizeof header, "{\"dtype\":\"float32\",\"shape\":[%zu,%zu],\"stream\":\"%s\"%s}",
                             n, channels, stream, extra);

    zmq_send(s->push[input], header, (size_t)len, ZMQ_SNDMORE);
    zmq_send(s->push[input], x, n * channels * sizeof *x, 0);
}

void service_send_frames(struct service *s, unsigned input, const char *header, const void *payload,
                         size_t payload_bytes, const void *times, size_t times_bytes)
{
    zmq_send(s->push[input], header, strlen(header), ZMQ_SNDMORE);
    zmq_send(s->push[input], payload, payload_bytes, times ? ZMQ_SNDMORE : 0);
    if (times)
        zmq_send(s->push[input], times, times_bytes, 0);
}

void service_end(struct service *s, unsigned input, const char *stream)
{
    service_send(s, input, stream, NULL, 0, 1, ",\"flags\":[\"end\"]");
}

static unsigned below(unsigned *chance, unsigned n)
{
    *chance = *chance * 1664525u + 1013904223u;
    return (*chance >> 8) % n;
}

void service_send_mixed(struct service *s, unsigned from, unsigned to, unsigned rows, unsigned most, unsigned *chance,
                        void (*some)(struct service *s, unsigned stream, unsigned *at, unsigned most))
{
    unsigned *at = calloc(to, sizeof *at), left = to - from;
    char id[16];

    while (left) {
        unsigned i = from + below(chance, to - from);
        if (at[i] >= rows)
            continue;
        some(s, i, &at[i], 1 + below(chance, most));
        left -= at[i] >= rows;
    }
    for (unsigned i = from; i < to; i++) {
        snprintf(id, sizeof id, "s%02u", i);
        service_end(s, 0, id);
    }
    free(at);
    service_wait(s, "inputs.in0.stream_ends_total", to - from);
}

uint64_t service_count(struct service *s, const char *path)
{
    json_t *status = md_daemon_status(s->daemon), *at = status;
    char key[64];
    uint64_t v;

    while (at && *path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        at = json_object_get(at, key);
        path += n + (path[n] == '.');
    }
    if (!at) {
        fprintf(stderr, "no %s in the status\n", key);
        abort();
    }
    v = (uint64_t)json_integer_value(at);
    json_decref(status);
    return v;
}

uint64_t service_wait(struct service *s, const char *path, uint64_t least)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < 12000; i++) {
        v = service_count(s, path);
        if (v >= least)
            return v;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    fprintf(stderr, "%s stays at %lu, %lu wanted\n", path, (unsigned long)v, (unsigned long)least);
    abort();
}

/* ---- what came out
 * --------------------------------------------------------------------------------------------------- */

static void add_text(struct texts *t, char *text)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->v = realloc(t->v, t->cap * sizeof *t->v);
    }
    t->v[t->n++] = text;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static const char *text_at(json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);

    return json_is_string(v) ? json_string_value(v) : "null";
}

static long long int_at(json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static bool is_of(json_t *o, const char *family, const char *stream)
{
    const char *topic = text_at(o, "topic");
    size_t n = strlen(family);

    return strncmp(topic, family, n) == 0 && topic[n] == '/' && (!stream || strcmp(text_at(o, "stream"), stream) == 0);
}

/* Row i of a byte stream's records stands behind those before it. */
static long long row_seq(json_t *o, size_t i)
{
    json_t *spans = json_object_get(o, "spans");
    long long seq = int_at(o, "seq") + (long long)i * int_at(o, "stride");

    for (size_t k = 0; spans && k < i; k++)
        seq += json_integer_value(json_array_get(spans, k));
    return seq;
}

static long long row_span(json_t *o, size_t i)
{
    json_t *spans = json_object_get(o, "spans");

    return spans ? json_integer_value(json_array_get(spans, i)) : int_at(o, "span");
}

/* Keys that every row has to carry, whatever message it came in; t_ns of the message's first row only. */
static char *row_text(json_t *o, size_t i)
{
    char *data = json_dumps(json_array_get(json_object_get(o, "data"), i),
                            JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    char *text = malloc(strlen(data) + 512);

    sprintf(text, "%s %06lld %012lld %012lld %lld %s %s", text_at(o, "stream"), int_at(o, "epoch"), row_seq(o, i),
            int_at(o, "out_seq") + (long long)i, row_span(o, i),
            json_is_true(json_object_get(o, "warmup")) ? "warmup" : "warm", data);
    free(data);
    return text;
}

struct texts texts_rows(json_t *lines, const char *family, const char *stream)
{
    struct texts t = {0};
    json_t *o;
    size_t i;

    json_array_foreach(lines, i, o)
    {
        json_t *data = json_object_get(o, "data");
        if (!is_of(o, family, stream))
            continue;
        for (size_t k = 0; k < json_array_size(data); k++)
            add_text(&t, row_text(o, k));
    }
    if (t.n)
        qsort(t.v, t.n, sizeof *t.v, by_text);
    return t;
}

struct texts texts_events(json_t *lines, const char *stream)
{
    static const char *const keys[] = {"from_seq", "to_seq", "count", "seq"};
    struct texts t = {0};
    json_t *o;
    size_t i;

    json_array_foreach(lines, i, o)
    {
        char *text = malloc(1024);
        if (!is_of(o, "event", stream)) {
            free(text);
            continue;
        }
        int n = sprintf(text, "%s %06lld %s %s t %s", text_at(o, "stream"), int_at(o, "epoch"), text_at(o, "event"),
                        text_at(o, "reason"), text_at(o, "t_ns"));
        for (unsigned k = 0; k < 4; k++)
            n += sprintf(text + n, " %s %lld", keys[k], json_object_get(o, keys[k]) ? int_at(o, keys[k]) : -1);
        add_text(&t, text);
    }
    return t;
}

void texts_free(struct texts *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->v[i]);
    free(t->v);
    *t = (struct texts){0};
}

void assert_same_rows(json_t *a, json_t *b, const char *family, const char *stream)
{
    struct texts ta = texts_rows(a, family, stream), tb = texts_rows(b, family, stream);

    if (ta.n != tb.n)
        fail_msg("%s of %s: %zu rows against %zu", family, stream, ta.n, tb.n);
    for (size_t i = 0; i < ta.n; i++)
        assert_string_equal(ta.v[i], tb.v[i]);
    texts_free(&ta);
    texts_free(&tb);
}

json_t *event_of(json_t *lines, const char *stream, const char *event)
{
    json_t *o;
    size_t i;

    json_array_foreach(lines, i, o) if (is_of(o, "event", stream) && strcmp(text_at(o, "event"), event) == 0) return o;
    return NULL;
}

size_t events_of(json_t *lines, const char *stream, const char *event)
{
    json_t *o;
    size_t i, n = 0;

    json_array_foreach(lines, i, o) n += is_of(o, "event", stream) && strcmp(text_at(o, "event"), event) == 0;
    return n;
}
