/* control_request.c: see control_request.h. A request is an object whose every key is known and of its type; what is
 * wrong with one is said and nothing is touched. */
#include "daemon/control_request.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/base64.h"
#include "daemon/reload.h"
#include "daemon/transfer.h"

/* The other text stands in where a name was cut inside a character. */
static json_t *refuse(const char *text, const char *about)
{
    json_t *error = json_sprintf(text, about);

    return json_pack("{s:b, s:o}", "ok", 0, "error", error ? error : json_string("not a request"));
}

/* The key of a request that is none of names[] (NULL-terminated); NULL when all are known. */
static const char *stray_key(json_t *request, const char *const *names)
{
    const char *key;
    json_t *value;

    json_object_foreach(request, key, value)
    {
        const char *const *n = names;

        while (*n && strcmp(*n, key))
            n++;
        if (!*n)
            return key;
    }
    return NULL;
}

static json_t *answer_status(struct md_daemon *daemon, json_t *request)
{
    static const char *const names[] = {"command", NULL};
    const char *stray = stray_key(request, names);
    json_t *reply;

    if (stray)
        return refuse("unknown key '%s'", stray);
    reply = md_daemon_status(daemon);
    if (!reply || json_object_set_new(reply, "ok", json_true()) < 0) {
        json_decref(reply);
        return refuse("out of memory%s", "");
    }
    return reply;
}

static json_t *answer_streams(struct md_daemon *daemon, json_t *request)
{
    static const char *const names[] = {"command", "glob", "limit", NULL};
    const char *stray = stray_key(request, names);
    json_t *glob = json_object_get(request, "glob"), *limit = json_object_get(request, "limit"), *list;
    json_int_t n = limit ? json_integer_value(limit) : MD_STREAMS_DEFAULT;

    if (stray)
        return refuse("unknown key '%s'", stray);
    if (glob && !json_is_string(glob))
        return refuse("'%s' must be a string", "glob");
    if (n < 1 || n > MD_STREAMS_MAX)
        return refuse("'%s' must be an integer from 1 to 100000", "limit");
    list = md_daemon_streams(daemon, glob ? json_string_value(glob) : "*", (unsigned)n);
    return list ? json_pack("{s:b, s:o}", "ok", 1, "streams", list) : refuse("out of memory%s", "");
}

/* One stream's state, as the bytes of a file. */
static json_t *answer_export(struct md_daemon *daemon, const char *id)
{
    char reterr[IO_ERR] = "", *text = NULL;
    void *state = NULL;
    size_t n = 0;
    json_t *reply;

    if (md_daemon_export(daemon, id, &state, &n, reterr))
        return refuse("%s", reterr);
    if (n <= MD_STATE_MAX)
        text = md_base64_encode(state, n);
    reply = text               ? json_pack("{s:b, s:s}", "ok", 1, "state", text)
            : n > MD_STATE_MAX ? refuse("%s: its state is larger than the control socket carries", id)
                               : NULL;
    free(text);
    free(state);
    return reply ? reply : refuse("out of memory%s", "");
}

static json_t *answer_snapshot(struct md_daemon *daemon, json_t *request)
{
    static const char *const names[] = {"command", "stream", NULL};
    const char *stray = stray_key(request, names);
    json_t *stream = json_object_get(request, "stream");

    if (stray)
        return refuse("unknown key '%s'", stray);
    if (stream && !json_is_string(stream))
        return refuse("'%s' must be a string", "stream");
    if (stream)
        return answer_export(daemon, json_string_value(stream));
    uint64_t number = md_daemon_snapshot(daemon);
    if (!number)
        return refuse("the daemon's configuration has no section '%s': it keeps no snapshots", "state");
    return json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)number);
}

static json_t *answer_reset(struct md_daemon *daemon, json_t *request)
{
    static const char *const names[] = {"command", "glob", NULL};
    const char *stray = stray_key(request, names), *glob = json_string_value(json_object_get(request, "glob"));

    if (stray)
        return refuse("unknown key '%s'", stray);
    if (!glob)
        return refuse("'%s' must be there and be a string", "glob");
    return json_pack("{s:b, s:I}", "ok", 1, "streams", (json_int_t)md_daemon_reset(daemon, glob));
}

static json_t *answer_restore(struct md_daemon *daemon, json_t *request)
{
    static const char *const names[] = {"command", "state", "as", "input", "renumber", NULL};
    const char *stray = stray_key(request, names);
    json_t *state = json_object_get(request, "state"), *as = json_object_get(request, "as"),
           *input = json_object_get(request, "input"), *renumber = json_object_get(request, "renumber");
    const struct md_import how = {json_string_value(as), json_string_value(input), json_is_true(renumber)};
    char reterr[IO_ERR] = "", id[IO_ID_MAX + 1];
    size_t n = 0;
    bool exact;

    if (stray)
        return refuse("unknown key '%s'", stray);
    if (!json_is_string(state))
        return refuse("'%s' must be there and be a string", "state");
    if ((as && !how.as) || (input && !how.input))
        return refuse("'%s' must be a string", as && !how.as ? "as" : "input");
    if (renumber && !json_is_boolean(renumber))
        return refuse("'%s' must be true or false", "renumber");
    void *bytes = md_base64_decode(json_string_value(state), json_string_length(state), &n);
    if (!bytes)
        return refuse("'%s' is not base64", "state");
    int r = md_daemon_import(daemon, bytes, n, &how, id, &exact, reterr);
    free(bytes);
    return r ? refuse("%s", reterr) : json_pack("{s:b, s:s, s:b}", "ok", 1, "stream", id, "exact", exact);
}

static json_t *answer_asked(struct md_daemon *daemon, const char *command, json_t *request)
{
    static const char *const names[] = {"command", NULL};
    const char *stray = stray_key(request, names);

    if (stray)
        return refuse("unknown key '%s'", stray);
    if (!strcmp(command, "reload"))
        return json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)md_daemon_ask_reload(daemon));
    md_daemon_ask_drain(daemon);
    return json_pack("{s:b}", "ok", 1);
}

static json_t *answer_command(struct md_daemon *daemon, const char *command, json_t *request)
{

    if (!strcmp(command, "status"))
        return answer_status(daemon, request);
    if (!strcmp(command, "streams"))
        return answer_streams(daemon, request);
    if (!strcmp(command, "snapshot"))
        return answer_snapshot(daemon, request);
    if (!strcmp(command, "reset"))
        return answer_reset(daemon, request);
    if (!strcmp(command, "reload") || !strcmp(command, "drain"))
        return answer_asked(daemon, command, request);
    if (!strcmp(command, "restore"))
        return answer_restore(daemon, request);
    return refuse("unknown command '%.100s' (valid: status, streams, snapshot, restore, reset, reload, drain)",
                  command);
}

json_t *md_control_answer(struct md_daemon *daemon, const char *request, size_t len)
{
    json_error_t error;
    json_t *root, *command, *reply;

    if (len > MD_RESTORE_MAX)
        return refuse("the request is larger than 256 MiB%s", "");
    root = json_loadb(request, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    command = json_object_get(root, "command");
    if (!root)
        reply = refuse("not JSON: %s", error.text);
    else if (!json_is_object(root))
        reply = refuse("a request is an object%s", "");
    else if (len > MD_REQUEST_MAX && (!json_is_string(command) || strcmp(json_string_value(command), "restore")))
        reply = refuse("the request is larger than 64 KiB%s", "");
    else if (!json_is_string(command))
        reply = refuse("'%s' must be there and be a string", "command");
    else
        reply = answer_command(daemon, json_string_value(command), root);
    json_decref(root);
    return reply;
}
