/* inspect_snapshot.c: what a snapshot, or a file of one stream's state, holds. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "daemon/restore.h"
#include "tools/inspect.h"

static const struct md_record *find(const struct md_snapshot_file *f, enum md_record_kind kind,
                                    const struct md_record *of, struct md_record *r)
{
    for (size_t at = 0; md_snapshot_next(f, &at, r);)
        if (r->kind == kind && r->id_len == of->id_len && memcmp(r->id, of->id, r->id_len) == 0)
            return r;
    return NULL;
}

static json_t *number(int64_t v)
{
    return v == IO_SEQ_NONE ? json_null() : json_integer(v);
}

static json_t *describe_stream(const struct md_snapshot_file *f, const struct md_record *r)
{
    const struct md_restored restored = {.saved = r->data, .bytes = r->bytes};
    const struct md_saved_stream *s = r->data;
    struct md_saved_parts parts;
    struct md_record beside;
    struct md_voice voice;
    json_t *o = json_pack("{s:s%}", "stream", r->id, (size_t)r->id_len);

    if (md_restored_parts(&restored, &parts)) {
        json_object_set_new(o, "state", json_string("of another version"));
        return o;
    }
    json_object_set_new(o, "state", json_string(s->open && s->slot_bytes ? "live" : "ended"));
    json_object_set_new(o, "input", json_stringn(parts.input, s->input_len));
    json_object_set_new(o, "model", json_stringn(parts.model, s->model_len));
    json_object_set_new(o, "channels", json_integer(s->channels));
    json_object_set_new(o, "rate", json_real(s->rate));
    json_object_set_new(o, "epoch", json_integer(s->time.epoch));
    json_object_set_new(o, "next_seq", number(s->time.next));
    json_object_set_new(o, "rows", json_integer((json_int_t)s->time.rows));
    json_object_set_new(o, "slot_bytes", json_integer((json_int_t)s->slot_bytes));
    if (find(f, MD_RECORD_VOICE, r, &beside) && beside.bytes == sizeof voice) {
        json_t *numbers = json_object();
        memcpy(&voice, beside.data, sizeof voice);
        for (unsigned i = 0; i < IO_EVENT; i++)
            if (voice.out_seq[i])
                json_object_set_new(numbers, io_family_name((enum io_family)i),
                                    json_integer((json_int_t)voice.out_seq[i]));
        json_object_set_new(o, "out_seq", numbers);
        json_object_set_new(o, "alarm", json_boolean(voice.alarm.active));
    }
    return o;
}

int inspect_snapshot(const char *path, json_t **ret, char *why)
{
    struct md_snapshot_file f;
    struct md_record r;
    int err = md_snapshot_load(path, &f, why);

    if (err)
        return err == -EBADMSG ? EX_DATAERR : EX_IOERR;
    json_t *models = json_array(), *streams = json_array(), *outputs = json_array();
    for (size_t at = 0; md_snapshot_next(&f, &at, &r);) {
        char hash[17];
        uint64_t word = 0;
        if (r.bytes == sizeof word)
            memcpy(&word, r.data, sizeof word);
        snprintf(hash, sizeof hash, "%016" PRIx64, word);
        if (r.kind == MD_RECORD_MODEL)
            json_array_append_new(models, json_pack("{s:s%, s:s}", "model", r.id, (size_t)r.id_len, "hash", hash));
        else if (r.kind == MD_RECORD_STREAM)
            json_array_append_new(streams, describe_stream(&f, &r));
        else if (r.kind == MD_RECORD_OUTPUT)
            json_array_append_new(outputs, json_stringn(r.id, r.id_len));
    }
    *ret =
        json_pack("{s:s, s:I, s:I, s:I, s:b, s:I, s:o, s:o, s:o}", "kind", "snapshot", "run", (json_int_t)f.head.run,
                  "generation", (json_int_t)f.head.generation, "t_ns", (json_int_t)f.head.t_ns, "clean", f.head.clean,
                  "bytes", (json_int_t)f.bytes, "models", models, "streams", streams, "outputs", outputs);
    md_snapshot_close(&f);
    if (*ret)
        return 0;
    snprintf(why, SSM_ERR, "%s: its ids are not UTF-8", path);
    return EX_DATAERR;
}
