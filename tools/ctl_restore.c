/* ctl_restore.c: `mambactl restore`: one stream's state from a file into a running daemon. The file may be a snapshot
 * of many streams: what concerns the one is taken out of it here. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "daemon/base64.h"
#include "daemon/restore.h"
#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] =
    "usage: mambactl restore FILE [--stream ID] [--as ID] [--input ID] [--renumber] [--control ENDPOINT | -c FILE]\n";
static const char help[] =
    "Gives a running daemon the state of a stream, from a file of `mambactl snapshot --stream` or from a snapshot in "
    "a\n"
    "state folder. The stream goes on from there when its source sends its next rows: event `restore`. One that is "
    "live\n"
    "is refused; what the daemon remembered of an ended one is replaced. It is on the daemon's disk with the next\n"
    "snapshot: `mambactl snapshot` makes one at once, where there is a state folder.\n"
    "\n"
    "      --stream ID         which stream of FILE (default: its only one)\n"
    "      --as ID             the stream's id from now on: a fork, where the other goes on too\n"
    "      --input ID          the input that its rows will come by (default: the one of the same name)\n"
    "      --renumber          the numbers and times of its rows begin anew: the state for a source of its "
    "own\n" CTL_CONTROL_HELP
    "65 a file that is no state, or damaged; 66 no such file, or no such stream in it; 69 also: refused.\n";

struct order {
    struct ctl_target target;
    const char *file, *stream, *as, *input;
    bool renumber;
};

static bool is_named(const struct md_record *r, const char *id, size_t len)
{
    return r->id_len == len && memcmp(r->id, id, len) == 0;
}

static int refuse(const struct order *o, int code, const char *what, const char *about)
{
    fprintf(stderr, "mambactl restore: %s: %s%s%s\n", o->file, what, about ? " " : "", about ? about : "");
    return code;
}

static int find_stream(const struct order *o, const struct md_snapshot_file *f, struct md_record *ret)
{
    struct md_record r;
    unsigned n = 0;

    for (size_t at = 0; md_snapshot_next(f, &at, &r);) {
        if (r.kind != MD_RECORD_STREAM || (o->stream && !is_named(&r, o->stream, strlen(o->stream))))
            continue;
        *ret = r;
        n++;
    }
    if (n == 1)
        return EX_OK;
    return n ? refuse(o, EX_USAGE, "holds several streams: --stream says which", NULL)
             : refuse(o, EX_NOINPUT, "holds no stream", o->stream);
}

/* Appends a record as it stands. */
static void append(uint8_t *to, size_t *at, const struct md_record *r)
{
    md_record_write(to + *at, r->kind, r->id, r->id_len, r->data, r->bytes);
    *at += md_record_bytes(r->id_len, r->bytes);
}

/* The records of the stream, its voice and its model as a file of their own. */
static void *extract(const struct md_snapshot_file *f, const struct md_record *stream, size_t *ret_n)
{
    const struct md_restored restored = {.saved = stream->data, .bytes = stream->bytes};
    struct md_saved_parts parts;
    struct md_record r;
    size_t bytes = 0;
    uint64_t n = 0;
    uint8_t *records = malloc(f->bytes);
    void *image = NULL;

    if (records && md_restored_parts(&restored, &parts) == 0) {
        append(records, &bytes, stream);
        n++;
        for (size_t at = 0; md_snapshot_next(f, &at, &r);) {
            bool voice = r.kind == MD_RECORD_VOICE && is_named(&r, stream->id, stream->id_len);
            if (!voice && !(r.kind == MD_RECORD_MODEL && is_named(&r, parts.model, restored.saved->model_len)))
                continue;
            append(records, &bytes, &r);
            n++;
        }
        image = md_snapshot_image(&f->head, records, bytes, n, ret_n);
    }
    free(records);
    return image;
}

static int send(const struct order *o, const void *image, size_t n)
{
    char *text = md_base64_encode(image, n);
    json_t *reply = NULL,
           *request =
               text ? json_pack("{s:s, s:s, s:b}", "command", "restore", "state", text, "renumber", o->renumber) : NULL;
    int code;

    free(text);
    if (!request)
        return refuse(o, EX_UNAVAILABLE, "out of memory", NULL);
    if (o->as)
        json_object_set_new(request, "as", json_string(o->as));
    if (o->input)
        json_object_set_new(request, "input", json_string(o->input));
    code = ctl_control_request(&o->target, request, &reply);
    if (code)
        return code;
    if (o->target.json) {
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        printf("%s waits for its source%s\n", json_string_value(json_object_get(reply, "stream")),
               json_is_true(json_object_get(reply, "exact")) ? "" : "; not exact: another op table made the state");
    }
    json_decref(reply);
    return EX_OK;
}

static int restore(const struct order *o)
{
    char reterr[MD_SNAPSHOT_ERR] = "";
    struct md_snapshot_file f;
    struct md_record stream = {0};
    size_t n = 0;
    int r = md_snapshot_load(o->file, &f, reterr);

    if (r) {
        fprintf(stderr, "mambactl restore: %s\n", reterr);
        return r == -ENOENT ? EX_NOINPUT : r == -EBADMSG || r == -EINVAL ? EX_DATAERR : EX_IOERR;
    }
    int code = find_stream(o, &f, &stream);
    void *image = code ? NULL : extract(&f, &stream, &n);
    if (!code && !image)
        code = refuse(o, EX_DATAERR, "of another version than this program", NULL);
    if (!code)
        code = send(o, image, n);
    free(image);
    md_snapshot_close(&f);
    return code;
}

int ctl_restore(int argc, char **argv)
{
    static const struct option longs[] = {CTL_CONTROL_LONG,
                                          {"stream", required_argument, NULL, 's'},
                                          {"as", required_argument, NULL, 'a'},
                                          {"input", required_argument, NULL, 'i'},
                                          {"renumber", no_argument, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
    struct order o = {.target = {.command = "restore", .timeout_ms = 10000}};
    int c, code = -1;

    while (code < 0 && (c = getopt_long(argc, argv, CTL_CONTROL_SHORT, longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c == 's')
            o.stream = optarg;
        else if (c == 'a')
            o.as = optarg;
        else if (c == 'i')
            o.input = optarg;
        else if (c == 'r')
            o.renumber = true;
        else if (!ctl_control_option(&o.target, c, optarg, &code))
            code = EX_USAGE;
    }
    if (code < 0 && optind + 1 != argc)
        code = EX_USAGE;
    if (code == EX_USAGE)
        fputs(usage, stderr);
    if (code >= 0)
        return code;
    o.file = argv[optind];
    return restore(&o);
}
