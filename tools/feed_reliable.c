/* feed_reliable.c: see feed_reliable.h. A stream begins with a question, and its rows follow the answer; another
 * question follows a second of silence. What the answer says is all that counts: so a restart of either side needs no
 * case of its own.
 *
 * Trap: a question is answered behind everything that was sent before it, so rows that the answer does not count are
 * lost; rows that any other answer does not count yet may be on their way. */
#include "tools/feed_reliable.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static const int64_t patience_ns = 1000000000;

struct feed_kept {
    struct feed_kept *next;
    int64_t seq;
    uint32_t rows, flags;
    size_t bare_bytes, payload_bytes, times_bytes;
    bool timed;
    char bytes[]; /* header without its flags, payload, times */
};

void feed_reliable_begin(struct feed *f, struct feed_stream *s)
{
    s->again.asking = f->reliable;
    s->again.last = &s->again.kept;
    s->again.back = -1;
}

/* ---- messages that are kept -------------------------------------------------------------------------------------- */

static size_t bytes_of(const struct feed_kept *k)
{
    return sizeof *k + k->bare_bytes + k->payload_bytes + k->times_bytes;
}

static void forget_first(struct feed *f, struct feed_reliable *r)
{
    struct feed_kept *k = r->kept;
    r->kept = k->next;
    if (r->again == k)
        r->again = k->next;
    if (!r->kept)
        r->last = &r->kept;
    f->kept -= bytes_of(k);
    free(k);
}

void feed_reliable_done(struct feed *f, struct feed_stream *s)
{
    while (s->again.kept)
        forget_first(f, &s->again);
}

static void keep(struct feed *f, struct feed_reliable *r, const struct feed_message *m)
{
    struct feed_kept *k = malloc(sizeof *k + m->bare_bytes + m->payload_bytes + m->times_bytes);
    if (!k) {
        fprintf(stderr, "mambactl feed: out of memory\n");
        f->code = EX_UNAVAILABLE;
        f->broken = true;
        return;
    }
    *k = (struct feed_kept){NULL,          m->seq,           m->rows,        m->flags,
                            m->bare_bytes, m->payload_bytes, m->times_bytes, m->times != NULL};
    memcpy(k->bytes, m->header, m->bare_bytes);
    memcpy(k->bytes + k->bare_bytes, m->payload, m->payload_bytes);
    if (m->times_bytes)
        memcpy(k->bytes + k->bare_bytes + k->payload_bytes, m->times, m->times_bytes);
    *r->last = k;
    r->last = &k->next;
    f->kept += bytes_of(k);
}

static void make_again(struct feed_stream *s, struct feed_kept *k, struct feed_message *m)
{
    *m = (struct feed_message){.stream = s, .id = s->id, .seq = k->seq, .rows = k->rows, .again = k};
    m->bare_bytes = k->bare_bytes;
    memcpy(m->header, k->bytes, k->bare_bytes);
    feed_flags(m, k->flags);
    m->payload = k->bytes + k->bare_bytes;
    m->payload_bytes = k->payload_bytes;
    m->times = k->timed ? k->bytes + k->bare_bytes + k->payload_bytes : NULL;
    m->times_bytes = k->times_bytes;
}

/* ---- what is to be sent ------------------------------------------------------------------------------------------ */

/* The source has nothing more. */
static bool at_end(const struct feed_stream *s)
{
    return s->ending && !s->block;
}

static void skip_taken(struct feed *f, struct feed_stream *s)
{
    int64_t there = s->block ? s->again.taken - s->seq : 0;
    uint32_t left = s->block ? s->block->n - s->at : 0, n = there < left ? (uint32_t)there : left;
    if (there <= 0)
        return;
    feed_used(f, s, n);
}

enum feed_step feed_reliable_next(struct feed *f, struct feed_stream *s, int64_t now_ns, struct feed_message *m)
{
    struct feed_reliable *r = &s->again;
    if (r->failed)
        return FEED_NOTHING;
    r->asking |= now_ns - r->heard_ns > patience_ns;
    if (r->asking) {
        if (now_ns < r->ask_ns)
            return FEED_NOTHING;
        feed_question(s, m);
        m->question_ns = now_ns;
        return FEED_MESSAGE;
    }
    if (r->again) {
        make_again(s, r->again, m);
        return FEED_MESSAGE;
    }
    if (f->keep && f->kept >= f->kept_max)
        return FEED_NOTHING;
    skip_taken(f, s);
    return at_end(s) && (r->end_sent || r->ended || r->taken > s->seq) ? FEED_NOTHING : FEED_ROWS;
}

bool feed_reliable_sent(struct feed *f, const struct feed_message *m)
{
    struct feed_reliable *r = &m->stream->again;
    if (m->question) {
        r->ask_ns = m->question_ns + patience_ns;
        return false;
    }
    r->sent = m->seq + m->rows;
    if (m->again) {
        r->again = m->again->next;
        return false;
    }
    r->end_sent |= m->last;
    if (f->keep && !m->last)
        keep(f, r, m);
    return true;
}

/* ---- what is heard ----------------------------------------------------------------------------------------------- */

/* A pipe's rows have no numbers of their own: they follow what the receiver has. */
static void begin(struct feed *f, struct feed_stream *s, int64_t seq)
{
    s->again.told = true;
    s->again.sent = seq;
    if (!f->keep)
        return;
    s->base = seq;
    s->seq += seq;
    s->flags |= seq > 0 ? IO_START : 0;
}

/* The stream goes on at `seq`, whatever was sent. */
static void go_back(struct feed *f, struct feed_stream *s, int64_t seq, int64_t now_ns)
{
    struct feed_reliable *r = &s->again;
    if (!r->told)
        begin(f, s, seq);
    else if (!r->asking && r->back == seq && now_ns - r->back_ns < patience_ns)
        return; /* said twice */
    r->asking = r->refused = r->end_sent = false;
    r->back = seq;
    r->back_ns = now_ns;
    if (!f->keep) {
        f->rewind |= seq < r->sent;
        return;
    }
    r->again = r->kept;
    while (r->again && r->again->seq + r->again->rows <= seq)
        r->again = r->again->next;
    if (r->again && r->again == r->kept && r->again->seq > seq)
        r->again->flags |= IO_GAP; /* it has lost what was durable once */
}

static void hear_ack(struct feed *f, struct feed_stream *s, const json_t *o, int64_t now_ns)
{
    struct feed_reliable *r = &s->again;
    const json_t *seq = json_object_get(o, "seq"), *durable = json_object_get(o, "durable");
    if (!json_is_integer(seq) || !json_is_integer(durable))
        return;
    r->heard_ns = now_ns;
    r->taken = json_integer_value(seq);
    r->durable = json_integer_value(durable);
    r->ended = json_is_true(json_object_get(o, "ended"));
    while (r->kept && r->kept->seq + r->kept->rows <= r->durable)
        forget_first(f, r);
    if (json_is_true(json_object_get(o, "resend")))
        go_back(f, s, r->taken, now_ns);
}

static void complain(struct feed *f, const char *id, const char *text, const char *reason)
{
    fprintf(stderr, "mambactl feed: %s%s%s (%s)\n", id ? id : "", id ? ": " : "", text ? text : "refused",
            reason ? reason : "");
}

static void fail(struct feed *f, struct feed_stream *s)
{
    s->again.failed = true;
    f->code = f->code ? f->code : EX_DATAERR;
    io_block_put(f->host.pool, s->block);
    s->block = NULL;
}

/* Some refusals may pass: it is asked again. */
static void hear_error(struct feed *f, struct feed_stream *s, const json_t *o, int64_t now_ns)
{
    static const char *const passing[] = {"duplicate_stream", "streams", "memory"};
    const char *reason = json_string_value(json_object_get(o, "reason"));
    bool passes = false;
    for (unsigned i = 0; i < sizeof passing / sizeof *passing; i++)
        passes |= reason && strcmp(reason, passing[i]) == 0;
    if (!s || !s->again.refused)
        complain(f, s ? s->id : NULL, json_string_value(json_object_get(o, "text")), reason);
    if (!s) {
        f->code = f->code ? f->code : EX_DATAERR;
        f->broken = true;
    } else if (!passes) {
        fail(f, s);
    } else {
        s->again.asking = s->again.refused = true;
        s->again.heard_ns = now_ns;
        s->again.ask_ns = now_ns + patience_ns;
    }
}

void feed_reliable_hear(struct feed *f, int64_t now_ns, const char *verb, size_t verb_bytes, const char *text,
                        size_t text_bytes)
{
    json_t *o = json_loadb(text, text_bytes, 0, NULL);
    const char *id = json_string_value(json_object_get(o, "stream"));
    struct feed_stream *s = NULL;
    for (unsigned i = 0; id && i < f->n_streams && !s; i++)
        s = strcmp(f->streams[i]->id, id) == 0 ? f->streams[i] : NULL;
    f->heard_ns = now_ns;
    if (verb_bytes == 3 && memcmp(verb, "ack", 3) == 0 && s)
        hear_ack(f, s, o, now_ns);
    else if (verb_bytes == 5 && memcmp(verb, "error", 5) == 0 && (s || !id))
        hear_error(f, s, o, now_ns);
    json_decref(o);
}

/* ---- the end of a stream ----------------------------------------------------------------------------------------- */

static bool arrived(const struct feed *f, const struct feed_stream *s)
{
    const struct feed_reliable *r = &s->again;
    return r->told && !r->asking && !r->again && r->ended && r->taken == s->seq &&
           (!f->durable || r->durable >= r->taken);
}

void feed_reliable_sweep(struct feed *f)
{
    for (unsigned i = f->n_streams; i-- > 0;) {
        struct feed_stream *s = f->streams[i];
        struct feed_reliable *r = &s->again;
        if (!at_end(s))
            continue;
        if (r->told && !r->failed && r->taken > s->seq) {
            fprintf(stderr, "mambactl feed: %s: the receiver has %lld rows of it, here are %lld\n", s->id,
                    (long long)r->taken, (long long)s->seq);
            fail(f, s);
        }
        if (r->failed || arrived(f, s))
            feed_drop(f, s);
    }
}
