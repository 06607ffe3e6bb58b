/* transfer.c: see transfer.h. Nobody waits here while holding the daemon's `shape`: a device may hang.
 *
 * Trap: a state that is put in while a snapshot is being made could get into it by half; it waits until that is done.
 * The registry's lock is what both take. */
#include "daemon/transfer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/assembly.h"
#include "daemon/restore.h"
#include "io/wire.h"

static const int64_t patience_ns = 4000000000; /* a client waits for 5 s */

static int fail(char *reterr, int err, const char *id, const char *what)
{
    snprintf(reterr, IO_ERR, "%.200s: %.300s", id, what);
    return err;
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

static struct io_stream *find(struct md_daemon *d, const char *id, struct md_served_model **ret_model)
{
    struct io_stream *s;

    pthread_mutex_lock(&d->registry.lock);
    s = md_registry_find(&d->registry, id, (uint32_t)strlen(id));
    if (s)
        *ret_model = md_served_of(s->inbox);
    pthread_mutex_unlock(&d->registry.lock);
    return s;
}

/* A model's record, the stream's, its voice's. */
static void *pack(struct md_daemon *d, const struct md_served_model *m, const char *id, const struct md_piece *piece,
                  const struct md_voice *voice, size_t *ret_bytes)
{
    const char *model = m->scheduler.model;
    uint32_t id_len = (uint32_t)strlen(id), model_len = (uint32_t)strlen(model);
    uint64_t hash = m->loaded.hash;
    size_t first = md_record_bytes(model_len, sizeof hash), last = md_record_bytes(id_len, sizeof *voice);
    uint8_t *records = malloc(first + piece->bytes + last);
    struct timespec t;
    void *image = NULL;

    clock_gettime(CLOCK_REALTIME, &t);
    const struct md_snapshot_head head = {
        .run = d->run, .t_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec, .clean = true};
    if (records) {
        md_record_write(records, MD_RECORD_MODEL, model, model_len, &hash, sizeof hash);
        memcpy(records + first, piece->records, piece->bytes);
        md_record_write(records + first + piece->bytes, MD_RECORD_VOICE, id, id_len, voice, sizeof *voice);
        image = md_snapshot_image(&head, records, first + piece->bytes + last, 3, ret_bytes);
    }
    free(records);
    return image;
}

static const char *why_not(int err)
{
    return err == -ENXIO       ? "no such stream"
           : err == -ENOENT    ? "nothing of it has been taken yet"
           : err == -ETIMEDOUT ? "no answer: the device or an output hangs"
           : err == -ESHUTDOWN ? "the daemon is ending"
                               : "out of memory, or a device that failed";
}

/* −EAGAIN: a reload came in between. What the engine has answered is of the model before it. */
static int try_export(struct md_daemon *d, const char *id, int64_t until_ns, void **ret, size_t *ret_bytes)
{
    struct md_served_model *m = NULL;
    struct md_piece *piece = NULL;
    struct md_voice voice;

    pthread_mutex_lock(&d->shape);
    unsigned n_configs = d->n_configs;
    const struct io_stream *s = find(d, id, &m);
    bool known = s && m->loaded.engine; /* else it may be remembered of a model that is gone */
    int r = known ? md_errand_ask(&m->scheduler, s, id) : -ENXIO;
    pthread_mutex_unlock(&d->shape);
    if (r)
        return r;
    r = md_errand_await(&m->scheduler, until_ns, &piece, &voice);
    pthread_mutex_lock(&d->shape);
    if (r == -ESHUTDOWN || d->n_configs != n_configs)
        r = -EAGAIN;
    if (r == 0)
        r = md_piece_fill(piece);
    if (r == 0 && !(*ret = pack(d, m, id, piece, &voice, ret_bytes)))
        r = -ENOMEM;
    md_piece_free(piece);
    pthread_mutex_unlock(&d->shape);
    return r;
}

int md_daemon_export(struct md_daemon *d, const char *id, void **ret, size_t *ret_bytes, char *reterr)
{
    int64_t until_ns = md_add_sat(md_now_ns(), patience_ns);
    int r;

    if (strlen(id) > IO_ID_MAX)
        return fail(reterr, -ENXIO, id, why_not(-ENXIO));
    while ((r = try_export(d, id, until_ns, ret, ret_bytes)) == -EAGAIN)
        continue;
    return r ? fail(reterr, r, id, why_not(r)) : 0;
}

/* ---- in ---------------------------------------------------------------------------------------------------------- */

/* What a state says, by its records. */
struct state {
    struct md_record stream;
    struct md_restored restored;
    struct md_saved_parts parts;
    struct md_voice voice;
    uint64_t hash; /* of its model */
};

static int read_state(const void *bytes, size_t n, struct state *ret, char *reterr)
{
    struct md_snapshot_file f;
    struct md_record r;
    unsigned streams = 0, models = 0;
    int err = md_snapshot_read(bytes, n, &f, reterr);

    if (err)
        return err;
    memset(ret, 0, sizeof *ret);
    for (size_t at = 0; md_snapshot_next(&f, &at, &r);) {
        streams += r.kind == MD_RECORD_STREAM;
        models += r.kind == MD_RECORD_MODEL && r.bytes == sizeof ret->hash;
        if (r.kind == MD_RECORD_STREAM)
            ret->stream = r;
        else if (r.kind == MD_RECORD_MODEL && r.bytes == sizeof ret->hash)
            memcpy(&ret->hash, r.data, sizeof ret->hash);
        else if (r.kind == MD_RECORD_VOICE && r.bytes == sizeof ret->voice)
            memcpy(&ret->voice, r.data, sizeof ret->voice);
    }
    ret->restored = (struct md_restored){.saved = ret->stream.data, .bytes = ret->stream.bytes};
    if (streams != 1 || models != 1 || ret->stream.id_len == 0 || ret->stream.id_len > IO_ID_MAX ||
        md_restored_parts(&ret->restored, &ret->parts))
        return fail(reterr, -EBADMSG, "state", "not that of one stream, or of another version of this program");
    ret->restored.open = ret->restored.saved->open;
    return 0;
}

static struct md_input *find_input(struct md_daemon *d, const char *name, size_t len)
{
    for (unsigned i = 0; i < d->n_inputs; i++)
        if (strlen(d->inputs[i]->conf->id) == len && memcmp(d->inputs[i]->conf->id, name, len) == 0)
            return d->inputs[i];
    return NULL;
}

/* Whether the model can go on with the slots. */
static int check_slots(struct md_served_model *m, const struct state *st, const char *id, bool *ret_exact, char *reterr)
{
    const struct md_saved_stream *saved = st->restored.saved;
    char text[SSM_ERR];

    *ret_exact = !saved->inexact;
    if (!saved->open || !saved->slot_bytes)
        return 0;
    if (st->hash != m->loaded.hash)
        return fail(reterr, -EINVAL, id, "the state is of another model, or of other weights");
    for (uint32_t i = 0; i < saved->channels; i++) {
        bool exact;
        int r = ssm_slot_check(m->scheduler.engine, st->parts.slots + i * st->parts.slot_stride,
                               (size_t)saved->slot_bytes, &exact, text);
        if (r)
            return fail(reterr, r, id, text);
        *ret_exact &= exact;
    }
    return 0;
}

/* What the input's streams are is known where its keys or its model say so. Else it shows with the first rows. */
static int check_fit(const struct md_input *in, const struct md_saved_stream *saved, const char *id, char *reterr)
{
    const struct md_input_conf *conf = in->conf;
    const struct io_common *common = conf->conf;
    uint32_t channels = in->info->bytes ? 1 : conf->class_->channels ? conf->class_->channels(conf->conf) : 0;
    double model = in->info->rate, rate = common->rate > 0 && !(common->resample && model > 0) ? common->rate : model;
    char text[IO_ERR];

    if (channels && saved->channels != channels) {
        snprintf(text, sizeof text, "the state's channels: %u, those of input %s's streams: %u", saved->channels,
                 conf->id, channels);
        return fail(reterr, -EINVAL, id, text);
    }
    if (saved->irregular && common->rate > 0) {
        snprintf(text, sizeof text, "the state is of an irregular stream, those of input %s have a rate", conf->id);
        return fail(reterr, -EINVAL, id, text);
    }
    if (rate > 0 && saved->rate > 0 && saved->rate != rate) {
        snprintf(text, sizeof text, "the state is of rows at %g Hz, those of input %s come at %g Hz", saved->rate,
                 conf->id, rate);
        return fail(reterr, -EINVAL, id, text);
    }
    return 0;
}

static void renumber(struct md_saved_stream *saved)
{
    saved->judged = saved->time.next = IO_SEQ_NONE;
    saved->time.last_t = saved->time.anchor_t = IO_T_NONE;
    saved->time.owed = 0;
    saved->time.n_holes = 0;
}

/* The record under the names that the input and its model have here. */
static int adopt(const struct state *st, const struct md_input *in, bool anew, struct md_restored *ret)
{
    const struct md_saved_stream *had = st->restored.saved;
    uint32_t input_len = (uint32_t)strlen(in->conf->id), model_len = (uint32_t)strlen(in->model);
    size_t names = md_record_padded(input_len) + md_record_padded(model_len),
           runs = had->n_runs * sizeof(struct md_run);
    size_t slots = had->channels * st->parts.slot_stride, bytes = sizeof *had + names + runs + slots;
    struct md_saved_stream *saved = malloc(bytes);
    uint8_t *to = (uint8_t *)(saved + 1);

    if (!saved)
        return -ENOMEM;
    *saved = *had;
    saved->input_len = input_len;
    saved->model_len = model_len;
    saved->lost = IO_SEQ_NONE;
    if (anew)
        renumber(saved);
    memset(to, 0, names);
    memcpy(to, in->conf->id, input_len);
    memcpy(to + md_record_padded(input_len), in->model, model_len);
    memcpy(to + names, st->parts.runs, runs);
    memcpy(to + names + runs, st->parts.slots, slots);
    *ret = (struct md_restored){.saved = saved, .bytes = bytes, .open = had->open, .own = saved};
    return 0;
}

static bool snapshot_under_way(struct md_daemon *d)
{
    return d->snapshots.d && atomic_load(&d->snapshots.cut.under_way);
}

/* Under the registry's lock. −EAGAIN: not now. */
static int put(struct md_daemon *d, struct md_input *in, const struct io_stream_desc *desc,
               const struct md_restored *restored, const struct md_voice *voice)
{
    struct io_stream *s = md_registry_find(&d->registry, desc->id, (uint32_t)strlen(desc->id));
    int r;

    if (snapshot_under_way(d))
        return -EAGAIN;
    r = s ? md_registry_turn(&d->registry, s, in, desc) : md_registry_restore(&d->registry, in, desc, &s);
    if (r)
        return r;
    pthread_mutex_lock(&s->inbox->lock); /* its source may look at its place */
    md_restored_take(s, restored, restored->open);
    pthread_mutex_unlock(&s->inbox->lock);
    if (!restored->open)
        free(restored->own); /* its numbers are taken */
    s->voice = *voice;
    atomic_store_explicit(&s->seen.last_ns, md_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&s->seen.alarm, voice->alarm.active, memory_order_relaxed);
    return 0;
}

static int import(struct md_daemon *d, const struct state *st, const struct md_import *how, const char *id,
                  bool *ret_exact, char *reterr)
{
    const struct md_saved_stream *saved = st->restored.saved;
    const char *name = how->input ? how->input : st->parts.input;
    struct md_input *in = find_input(d, name, how->input ? strlen(name) : saved->input_len);
    struct io_stream_desc desc = {
        .id = id, .channels = saved->channels, .rate = saved->rate, .irregular = saved->irregular};
    struct md_voice voice = st->voice;
    struct md_restored restored;
    char text[IO_ERR];
    int r;

    if (!in) {
        snprintf(text, sizeof text, "no input '%.*s' here",
                 how->input ? (int)strlen(name) : (int)(saved->input_len < 200 ? saved->input_len : 200), name);
        return fail(reterr, -ENOENT, id, text);
    }
    r = check_fit(in, saved, id, reterr);
    if (r == 0)
        r = check_slots(md_served_of(in->inbox), st, id, ret_exact, reterr);
    if (r)
        return r;
    if (adopt(st, in, how->renumber, &restored))
        return fail(reterr, -ENOMEM, id, "out of memory");
    if (how->renumber)
        memset(voice.out_seq, 0, sizeof voice.out_seq);
    pthread_mutex_lock(&d->registry.lock);
    r = put(d, in, &desc, &restored, &voice);
    pthread_mutex_unlock(&d->registry.lock);
    if (r == 0)
        return 0;
    free(restored.own);
    return fail(reterr, r, id,
                r == -EBUSY    ? "is live: a state is put in where none is"
                : r == -EAGAIN ? "a snapshot is being made: not now"
                : r == -ENOMEM ? "out of memory"
                               : "not a valid id, or an impossible number of channels");
}

int md_daemon_import(struct md_daemon *d, const void *bytes, size_t n, const struct md_import *how, char *ret_id,
                     bool *ret_exact, char *reterr)
{
    struct state st;
    char id[IO_ID_MAX + 1];
    int64_t until_ns = md_add_sat(md_now_ns(), patience_ns);
    int r = read_state(bytes, n, &st, reterr);

    if (r)
        return r;
    memcpy(id, st.stream.id, st.stream.id_len);
    id[st.stream.id_len] = '\0';
    if (how->as && !io_id_valid(how->as, strlen(how->as)))
        return fail(reterr, -EINVAL, how->as, "not a valid id");
    strcpy(ret_id, how->as ? how->as : id);
    do {
        while (snapshot_under_way(d) && md_now_ns() < until_ns)
            poll(NULL, 0, 1);
        pthread_mutex_lock(&d->shape);
        r = import(d, &st, how, ret_id, ret_exact, reterr);
        pthread_mutex_unlock(&d->shape);
    } while (r == -EAGAIN && md_now_ns() < until_ns);
    return r;
}
