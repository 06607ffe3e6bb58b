/* tail_model.c: messages into the live view's model. What comes from the network is taken as text of a stranger: ids
 * and words are shown only where they hold no control characters, shapes only where the payload is as long as they say.
 */
#include "tools/tail_model.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int tail_family(const char *text, size_t len)
{
    for (int f = 0; f < IO_FAMILIES; f++) {
        const char *name = io_family_name((enum io_family)f);
        if (strlen(name) == len && !memcmp(name, text, len))
            return f;
    }
    return -1;
}

void tail_model_init(struct tail_model *m)
{
    *m = (struct tail_model){.uptime_s = -1};
}

void tail_model_done(struct tail_model *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        free(m->streams[i]->id);
        free(m->streams[i]);
    }
    free(m->streams);
}

/* ---- streams ---- */

static struct tail_stream *new_stream(const char *id)
{
    struct tail_stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->id = strdup(id);
    s->rate = -1;
    s->score = -1;
    for (int i = 0; i < TAIL_HISTORY; i++)
        s->history[i] = NAN;
    if (s->id)
        return s;
    free(s);
    return NULL;
}

/* The stream of this id, a new one in its place in the order if need be; NULL: too many, or no memory. */
static struct tail_stream *stream_of(struct tail_model *m, const char *id)
{
    unsigned low = 0, high = m->n;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        int c = strcmp(m->streams[mid]->id, id);
        if (c == 0)
            return m->streams[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (m->n == m->capacity) {
        unsigned capacity = m->capacity ? m->capacity * 2 : 16;
        struct tail_stream **more = m->n < TAIL_STREAMS ? realloc(m->streams, capacity * sizeof *more) : NULL;
        if (!more)
            return NULL;
        m->streams = more;
        m->capacity = capacity;
    }
    struct tail_stream *s = new_stream(id);
    if (!s)
        return NULL;
    memmove(m->streams + low + 1, m->streams + low, (m->n - low) * sizeof *m->streams);
    m->streams[low] = s;
    m->n++;
    return s;
}

/* ---- one message ---- */

struct fields {
    json_t *root;
    enum io_family family;
    uint32_t shape[4], ndim;
    size_t values;
};

static const char *word(const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));
    return text && io_id_valid(text, strlen(text)) ? text : NULL;
}

static double number(const json_t *root, const char *key, double otherwise)
{
    const json_t *v = json_object_get(root, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

/* The header as far as every family has it, held against the payload's size. */
static int read_fields(const struct tail_message *msg, struct fields *f)
{
    const char *slash = memchr(msg->topic, '/', msg->topic_len);
    int family = slash ? tail_family(msg->topic, (size_t)(slash - msg->topic)) : -1;
    const json_t *shape, *v;
    size_t i;

    f->root = family >= 0 ? json_loadb(msg->header, msg->header_len, 0, NULL) : NULL;
    shape = json_object_get(f->root, "shape");
    if (!shape || json_array_size(shape) > 4)
        return -EBADMSG;
    f->family = (enum io_family)family;
    f->ndim = 0;
    f->values = 1;
    json_array_foreach(shape, i, v)
    {
        json_int_t n = json_integer_value(v);
        if (n < 0 || n > 1 << 24 || f->values > (size_t)1 << 32)
            return -EBADMSG;
        f->shape[f->ndim++] = (uint32_t)n;
        f->values *= (size_t)n;
    }
    return f->values * sizeof(float) == msg->bytes ? 0 : -EBADMSG;
}

static float value(const struct tail_message *msg, size_t i)
{
    float v;
    memcpy(&v, (const char *)msg->payload + i * sizeof v, sizeof v);
    return v;
}

/* The last row's first channel: its next sample, and the medians ahead thinned to what a line can show. */
static void add_prediction(struct tail_stream *s, const struct fields *f, const struct tail_message *msg)
{
    if (f->ndim != 4 || f->values == 0)
        return;
    const json_t *levels = json_object_get(f->root, "quantiles");
    uint32_t horizon = f->shape[2], nq = f->shape[3], median = 0;
    size_t row = (size_t)(f->shape[0] - 1) * f->shape[1] * horizon * nq;

    for (uint32_t q = 1; q < nq; q++) {
        double d = fabs(json_number_value(json_array_get(levels, q)) - 0.5);
        if (d < fabs(json_number_value(json_array_get(levels, median)) - 0.5))
            median = q;
    }
    s->forecast = true;
    s->channels = f->shape[1];
    s->next = value(msg, row + median);
    s->low = value(msg, row);
    s->high = value(msg, row + nq - 1);
    s->n_ahead = horizon < TAIL_AHEAD ? horizon : TAIL_AHEAD;
    for (unsigned i = 0; i < s->n_ahead; i++)
        s->ahead[i] = value(msg, row + (size_t)i * horizon / s->n_ahead * nq + median);
}

static void add_anomaly(struct tail_stream *s, const struct fields *f, const struct tail_message *msg)
{
    if (f->ndim != 2 || f->shape[1] != 3)
        return;
    s->warmup = json_is_true(json_object_get(f->root, "warmup"));
    for (uint32_t i = 0; i < f->shape[0]; i++) {
        float score = value(msg, (size_t)i * 3);
        if (score > s->score)
            s->score = score; /* NaN is not */
        s->scored |= score >= 0;
    }
}

/* Adds to an event's text, as far as there is room. */
static void __attribute__((format(printf, 2, 3))) say(struct tail_event *e, const char *format, ...)
{
    size_t len = strlen(e->text);
    va_list args;

    va_start(args, format);
    vsnprintf(e->text + len, sizeof e->text - len, format, args);
    va_end(args);
}

static void add_event(struct tail_model *m, struct tail_stream *s, const struct fields *f)
{
    struct tail_event *e = &m->events[m->n_events++ % TAIL_EVENTS];
    const char *event = word(f->root, "event"), *reason = word(f->root, "reason");
    const json_t *from = json_object_get(f->root, "from_seq"), *to = json_object_get(f->root, "to_seq");
    const json_t *count = json_object_get(f->root, "count"), *at = json_object_get(f->root, "seq");
    time_t now = time(NULL);
    struct tm tm;

    event = event ? event : "?";
    strftime(e->time, sizeof e->time, "%H:%M:%S", localtime_r(&now, &tm));
    strcpy(e->id, s->id);
    e->text[0] = '\0';
    say(e, "%s", event);
    if (reason)
        say(e, " (%s)", reason);
    if (json_is_integer(from) && json_is_integer(to) && !json_equal(from, to))
        say(e, ", samples %lld to %lld", (long long)json_integer_value(from), (long long)json_integer_value(to));
    else if (json_is_integer(at))
        say(e, " at sample %lld", (long long)json_integer_value(at));
    if (json_integer_value(count) > 1)
        say(e, " (%lld)", (long long)json_integer_value(count));
    e->alarming = !strcmp(event, "anomaly_start") || !strcmp(event, "error") || !strcmp(event, "drop");
    if (!strcmp(event, "end"))
        s->ended = true;
    else if (!strcmp(event, "start"))
        s->ended = false;
}

/* Rows that out_seq says are missing before this message. */
static void count_lost(struct tail_model *m, struct tail_stream *s, const struct fields *f, uint64_t rows)
{
    uint64_t out_seq = (uint64_t)json_integer_value(json_object_get(f->root, "out_seq"));
    uint64_t run = (uint64_t)json_integer_value(json_object_get(f->root, "run"));
    uint64_t *due = &s->due[f->family];

    if (run != s->run)
        memset(s->due, 0, sizeof s->due);
    s->run = run;
    if (*due && out_seq > *due)
        m->lost += out_seq - *due;
    *due = out_seq + rows;
}

static void add_stream_message(struct tail_model *m, const struct fields *f, const struct tail_message *msg)
{
    const char *id = word(f->root, "stream");
    struct tail_stream *s = id ? stream_of(m, id) : NULL;
    uint64_t rows = f->family == IO_EVENT ? 0 : f->shape[0];

    if (!s) {
        m->unseen++;
        return;
    }
    s->rate = number(f->root, "rate", s->rate);
    s->rows += rows;
    m->rows += rows;
    m->latency_us += 0.1 * (number(f->root, "latency_us", m->latency_us) - m->latency_us);
    if (f->family == IO_EVENT) {
        add_event(m, s, f);
        return;
    }
    s->ended = false;
    count_lost(m, s, f, rows);
    if (f->family == IO_PREDICTION)
        add_prediction(s, f, msg);
    else if (f->family == IO_ANOMALY)
        add_anomaly(s, f, msg);
}

int tail_model_add(struct tail_model *m, const struct tail_message *msg)
{
    struct fields f;
    int r = read_fields(msg, &f);

    if (!r) {
        m->messages++;
        m->run = (uint64_t)json_integer_value(json_object_get(f.root, "run"));
        if (f.family == IO_SYS)
            m->uptime_s = number(f.root, "uptime_s", m->uptime_s);
        else
            add_stream_message(m, &f, msg);
    }
    json_decref(f.root);
    return r;
}

void tail_model_tick(struct tail_model *m, double seconds)
{
    double keep = exp(-seconds); /* rates are smoothed over a second */

    m->messages_s = keep * m->messages_s + (1 - keep) * (double)(m->messages - m->ticked_messages) / seconds;
    m->rows_s = keep * m->rows_s + (1 - keep) * (double)(m->rows - m->ticked_rows) / seconds;
    m->ticked_messages = m->messages;
    m->ticked_rows = m->rows;
    for (unsigned i = 0; i < m->n; i++) {
        struct tail_stream *s = m->streams[i];
        s->rows_s = keep * s->rows_s + (1 - keep) * (double)s->rows / seconds;
        s->rows = 0;
        s->shown = fmaxf(s->score, s->shown * (float)keep);
        memmove(s->history, s->history + 1, (TAIL_HISTORY - 1) * sizeof *s->history);
        s->history[TAIL_HISTORY - 1] = s->score >= 0 ? s->score : NAN;
        s->score = -1;
    }
}
