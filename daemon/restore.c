/* restore.c: from a snapshot's records to streams. Trap: checksums say that the bytes are those that were written, not
 * that they fit this build, this configuration or these models; all of that is looked at here, and what does not fit is
 * left out and said, never half used. */
#include "daemon/restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "daemon/assembly.h"

int md_restored_parts(const struct md_restored *r, struct md_saved_parts *ret)
{
    const struct md_saved_stream *s = r->saved;
    size_t left = r->bytes, stride;
    const uint8_t *at = (const uint8_t *)(s + 1);

    if (left < sizeof *s || s->struct_bytes != sizeof *s || s->channels == 0 || s->channels > SSM_CHANNELS_MAX ||
        s->slot_bytes > left || s->rows > MD_TRAIL || s->time.n_holes > MD_HOLES || !(s->rate >= 0 && s->rate < 1e12))
        return -EBADMSG;
    left -= sizeof *s;
    stride = md_record_padded(s->slot_bytes);
    if (md_record_padded(s->input_len) + md_record_padded(s->model_len) + (uint64_t)s->n_runs * sizeof(struct md_run) +
            s->channels * stride !=
        left)
        return -EBADMSG;
    ret->input = (const char *)at;
    ret->model = ret->input + md_record_padded(s->input_len);
    ret->runs = (const struct md_run *)(const void *)(ret->model + md_record_padded(s->model_len));
    ret->slots = (const uint8_t *)(ret->runs + s->n_runs);
    ret->slot_stride = stride;
    return 0;
}

/* What is told about a restore as a whole. */
struct tally {
    struct md_daemon *d;
    uint64_t on, anew, ended, left_out;
    bool starved; /* memory was out: a stream is missing */
    struct saved_model {
        bool known, same; /* its weights are gone on from: `carry`; they are these */
    } * models;           /* [n_models] */
};

static bool is_named(const char *id, const char *name, uint32_t len)
{
    return strlen(id) == len && memcmp(id, name, len) == 0;
}

static struct md_input *find_input(struct md_daemon *d, const char *name, uint32_t len)
{
    for (unsigned i = 0; i < d->n_inputs; i++)
        if (is_named(d->inputs[i]->conf->id, name, len))
            return d->inputs[i];
    return NULL;
}

static void take_model(struct tally *t, const struct md_record *r)
{
    uint64_t hash;

    for (unsigned i = 0; i < t->d->n_models; i++) {
        if (r->bytes != sizeof hash || !is_named(t->d->config->models[i].id, r->id, r->id_len))
            continue;
        struct saved_model *m = &t->models[i];
        memcpy(&hash, r->data, sizeof hash);
        m->same = hash == t->d->models[i]->loaded.hash;
        m->known = m->same || t->d->config->models[i].carry;
        if (!m->same)
            md_log(MD_WARN, t->d->config->models[i].id, "the snapshot was made with other weights: its streams %s",
                   m->known ? "go on with their states where the architecture is the same" : "begin new epochs");
    }
}

void md_restored_take(struct io_stream *s, const struct md_restored *r, bool goes_on)
{
    const struct md_saved_stream *saved = r->saved;
    struct md_course *c = &s->course;

    c->time = saved->time;
    c->trail = (struct md_trail){saved->judged, saved->origin, saved->mark, saved->rows, {0}};
    memcpy(c->trail.last, saved->last, sizeof saved->last);
    c->returning = true;
    if (s->input->conf->class_->replayable)
        s->replay = md_replay_from(&c->trail, !saved->open);
    s->place = (struct md_place){.next = md_saved_next(saved), .ended = !saved->open};
    c->lost = saved->lost;
    atomic_store_explicit(&s->seen.next, c->time.next, memory_order_relaxed);
    atomic_store_explicit(&s->seen.epoch, c->time.epoch, memory_order_relaxed);
    atomic_store_explicit(&s->seen.waits, goes_on, memory_order_relaxed);
    if (goes_on)
        c->restored = *r;
    else if (saved->open && c->lost == IO_SEQ_NONE)
        c->lost = saved->time.next;
}

/* Whether the stream's states are its own up to the row that its source begins with. */
static bool goes_on(const struct tally *t, const struct io_stream *s, const struct md_saved_stream *saved,
                    const struct md_saved_parts *parts)
{
    const struct md_input_conf *conf = s->input->conf;
    bool resent = conf->class_->resent && conf->class_->resent(conf->conf);

    return saved->open && (saved->slot_bytes || saved->time.rows == 0) &&
           (conf->class_->replayable || resent || t->d->restored.head.clean) && t->models[conf->model].known &&
           is_named(t->d->config->models[conf->model].id, parts->model, saved->model_len);
}

/* The file that it comes from is on the disk. */
static void make_durable(struct io_stream *s)
{
    int64_t next = s->place.next;

    s->place.durable_end = s->place.ended;
    atomic_store_explicit(&s->place.durable, next == IO_SEQ_NONE ? 0 : next, memory_order_relaxed);
}

static void take_stream(struct tally *t, const struct md_record *r)
{
    struct md_restored restored = {.saved = r->data, .bytes = r->bytes};
    struct md_saved_parts parts;
    char id[IO_ID_MAX + 1];
    struct md_input *in;
    struct io_stream *s;

    if (md_restored_parts(&restored, &parts) || r->id_len == 0 || r->id_len > IO_ID_MAX ||
        !(in = find_input(t->d, parts.input, restored.saved->input_len))) {
        t->left_out++;
        return;
    }
    restored.open = restored.saved->open;
    restored.inexact = !t->models[in->conf->model].same;
    memcpy(id, r->id, r->id_len);
    id[r->id_len] = '\0';
    struct io_stream_desc desc = {.id = id,
                                  .channels = restored.saved->channels,
                                  .rate = restored.saved->rate,
                                  .irregular = restored.saved->irregular};
    int err = md_registry_restore(&t->d->registry, in, &desc, &s);
    t->starved |= err == -ENOMEM;
    if (err) {
        t->left_out++;
        return;
    }
    bool on = goes_on(t, s, restored.saved, &parts);
    md_restored_take(s, &restored, on);
    make_durable(s);
    *(on ? &t->on : restored.open ? &t->anew : &t->ended) += 1;
}

static void take_voice(struct tally *t, const struct md_record *r)
{
    struct io_stream *s = md_registry_find(&t->d->registry, r->id, r->id_len);

    if (!s || r->bytes != sizeof s->voice)
        return;
    memcpy(&s->voice, r->data, sizeof s->voice);
    atomic_store_explicit(&s->seen.alarm, s->voice.alarm.active, memory_order_relaxed);
}

static void say_quarantined(void *arg, const char *line)
{
    struct md_daemon *d = arg;

    md_add(&d->snapshot_counters.corrupt, 1);
    md_log(MD_ERROR, NULL, "snapshot %s", line);
}

int md_restore_streams(struct md_daemon *d, char *reterr)
{
    struct tally t = {.d = d, .models = calloc(d->n_models + 1, sizeof *t.models)};
    struct md_record r;

    if (!d->restored.map) {
        free(t.models);
        return 0;
    }
    t.starved = !t.models;
    for (size_t at = 0; t.models && md_snapshot_next(&d->restored, &at, &r);)
        if (r.kind == MD_RECORD_MODEL)
            take_model(&t, &r);
    for (size_t at = 0; t.models && md_snapshot_next(&d->restored, &at, &r);)
        if (r.kind == MD_RECORD_STREAM)
            take_stream(&t, &r);
    for (size_t at = 0; md_snapshot_next(&d->restored, &at, &r);)
        if (r.kind == MD_RECORD_VOICE)
            take_voice(&t, &r);
    free(t.models);
    if (t.starved) {
        snprintf(reterr, IO_ERR, "state: out of memory for the snapshot's streams");
        return EX_UNAVAILABLE;
    }
    md_log(MD_INFO, NULL,
           "%s (%s): streams that go on: %" PRIu64 ", that begin new epochs: %" PRIu64 ", that had ended: %" PRIu64
           ", that fit no input: %" PRIu64,
           d->restored.path, d->restored.head.clean ? "made with nothing left to take" : "made while running", t.on,
           t.anew, t.ended, t.left_out);
    return 0;
}

int md_restore_open(struct md_daemon *d, char *reterr)
{
    char text[MD_SNAPSHOT_ERR] = "";
    int r = md_snapshot_open(d->config->state_dir, say_quarantined, d, &d->restored, text);

    if (r == -ENOENT || r == 0)
        return 0;
    snprintf(reterr, IO_ERR, "state: %.480s", text);
    return EX_IOERR;
}

const struct io_position *md_restored_position(const struct md_snapshot_file *f, const char *output)
{
    struct md_record r;

    for (size_t at = 0; f->map && md_snapshot_next(f, &at, &r);)
        if (r.kind == MD_RECORD_OUTPUT && r.bytes == sizeof(struct io_position) && is_named(output, r.id, r.id_len))
            return r.data;
    return NULL;
}
