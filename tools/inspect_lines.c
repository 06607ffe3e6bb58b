/* inspect_lines.c: a file of JSON lines as the jsonl sink writes it (docs/protocol.md), counted per family and stream.
 * Reads line by line; memory grows with the number of streams only. */
#include "tools/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "ssm/ssm.h"

static json_int_t integer(const json_t *map, const char *key)
{
    return json_integer_value(json_object_get(map, key));
}

static void add(json_t *map, const char *key, json_int_t n)
{
    json_object_set_new(map, key, json_integer(integer(map, key) + n));
}

/* The entry of a family and stream; made at its first message. */
static json_t *entry_of(json_t *by_topic, const char *topic, const json_t *message)
{
    json_t *entry = json_object_get(by_topic, topic), *stream = json_object_get(message, "stream");
    if (entry)
        return entry;
    entry = json_pack("{s:s%, s:i, s:i}", "family", topic, strcspn(topic, "/"), "messages", 0, "rows", 0);
    json_object_set(entry, "stream", stream ? stream : json_null());
    json_object_set_new(by_topic, topic, entry);
    return entry;
}

/* Rows whose numbers were left out between two messages: lost on the way, or the file is pieced together. */
static void follow_out_seq(json_t *entry, const json_t *message, json_int_t rows)
{
    json_t *out_seq = json_object_get(message, "out_seq"), *next = json_object_get(entry, "next_out_seq");
    json_int_t at = json_integer_value(out_seq);
    if (!json_is_integer(out_seq))
        return;
    if (next && at != json_integer_value(next))
        add(entry, "breaks", 1);
    json_object_set_new(entry, "next_out_seq", json_integer(at + rows));
}

static void follow_seq(json_t *entry, const json_t *message, json_int_t rows)
{
    json_int_t seq = integer(message, "seq"),
               end = seq + (rows - 1) * integer(message, "stride") + integer(message, "span");
    json_t *spans = json_object_get(message, "spans"), *span;
    size_t i;
    json_array_foreach(spans, i, span) /* of records of bytes; stride and span are null */
        end += json_integer_value(span);
    if (!json_object_get(entry, "from_seq") || seq < integer(entry, "from_seq"))
        json_object_set_new(entry, "from_seq", json_integer(seq));
    if (!json_object_get(entry, "to_seq") || end > integer(entry, "to_seq"))
        json_object_set_new(entry, "to_seq", json_integer(end));
}

static int count_message(json_t *by_topic, const json_t *message)
{
    const char *topic = json_string_value(json_object_get(message, "topic"));
    const char *event = json_string_value(json_object_get(message, "event"));
    const json_t *shape = json_object_get(message, "shape");
    json_int_t rows = json_integer_value(json_array_get(shape, 0));
    if (!topic || !strchr(topic, '/'))
        return -1;
    json_t *entry = entry_of(by_topic, topic, message);
    add(entry, "messages", 1);
    if (event) {
        if (!json_object_get(entry, "events"))
            json_object_set_new(entry, "events", json_object());
        add(json_object_get(entry, "events"), event, 1);
    }
    if (json_array_size(shape) == 0 || rows < 1)
        return 0;
    add(entry, "rows", rows);
    if (json_is_true(json_object_get(message, "warmup")))
        add(entry, "warmup_rows", rows);
    follow_out_seq(entry, message, rows);
    follow_seq(entry, message, rows);
    return 0;
}

static int read_lines(FILE *f, const char *path, json_t *by_topic, json_int_t *ret_lines, char *why)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int code = 0;
    while (!code && (n = getline(&line, &room, f)) > 0) {
        json_error_t error;
        json_t *message = json_loadb(line, (size_t)n, 0, &error);
        ++*ret_lines;
        if (!json_is_object(message) || count_message(by_topic, message)) {
            if (*ret_lines == 1 && !message)
                snprintf(why, SSM_ERR, "%s: neither HDF5, a snapshot nor JSON lines", path);
            else
                snprintf(why, SSM_ERR, "%s:%lld: %s", path, (long long)*ret_lines,
                         message ? "no message of mambad" : error.text);
            code = EX_DATAERR;
        }
        json_decref(message);
    }
    if (!code && ferror(f)) {
        snprintf(why, SSM_ERR, "%s: %s", path, strerror(errno));
        code = EX_IOERR;
    }
    free(line);
    return code;
}

int inspect_lines(const char *path, json_t **ret, char *why)
{
    json_t *by_topic = json_object(), *series = json_array(), *entry;
    const char *topic;
    json_int_t lines = 0;
    FILE *f = fopen(path, "re");
    int code = EX_NOINPUT;
    if (f) {
        code = read_lines(f, path, by_topic, &lines, why);
        fclose(f);
    } else {
        snprintf(why, SSM_ERR, "%s: %s", path, strerror(errno));
    }
    json_object_foreach(by_topic, topic, entry)
    {
        json_object_del(entry, "next_out_seq");
        json_array_append(series, entry);
    }
    if (!code)
        *ret = json_pack("{s:s, s:I, s:O}", "kind", "messages", "lines", lines, "series", series);
    json_decref(by_topic);
    json_decref(series);
    return code;
}
