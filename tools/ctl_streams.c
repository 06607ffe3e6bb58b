/* ctl_streams.c: `mambactl streams`: the daemon's streams as a table whose columns are the keys of the reply. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

enum { COLUMNS = 32, CELL = 256 };

static const char usage[] = "usage: mambactl streams [GLOB] [--limit N] [--control ENDPOINT | -c FILE] [--json]\n";
static const char help[] =
    "Lists the daemon's streams whose id matches GLOB (default: all).\n"
    "\n"
    "      --limit N           at most N streams (default 1000, at most 100000)\n" CTL_CONTROL_HELP;

struct table {
    json_t *rows;
    const char *keys[COLUMNS];
    size_t width[COLUMNS];
    bool number[COLUMNS];
    unsigned n;
};

static const char *cell(json_t *value, char buf[CELL])
{
    if (json_is_string(value))
        return json_string_value(value);
    if (json_is_integer(value))
        snprintf(buf, CELL, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(buf, CELL, "%.6g", json_real_value(value));
    else
        snprintf(buf, CELL, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
    return buf;
}

/* Characters, not bytes. */
static size_t width_of(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void measure(struct table *t)
{
    const char *key;
    json_t *value, *row;
    size_t i;
    char buf[CELL];

    json_object_foreach(json_array_get(t->rows, 0), key, value)
    {
        if (t->n == COLUMNS || json_is_object(value) || json_is_array(value))
            continue;
        t->keys[t->n] = key;
        t->number[t->n] = json_is_number(value) || json_is_null(value);
        t->width[t->n++] = width_of(key);
    }
    json_array_foreach(t->rows, i, row) for (unsigned k = 0; k < t->n; k++)
    {
        size_t w = width_of(cell(json_object_get(row, t->keys[k]), buf));

        if (w > t->width[k])
            t->width[k] = w;
    }
}

static void print_cell(const struct table *t, unsigned k, const char *text)
{
    int pad = (int)(t->width[k] - width_of(text));

    if (k)
        fputs("  ", stdout);
    if (t->number[k])
        printf("%*s%s", pad, "", text);
    else
        printf("%s%*s", text, k + 1 < t->n ? pad : 0, "");
}

static void print_table(json_t *rows)
{
    struct table t = {.rows = rows};
    json_t *row;
    size_t i;
    char buf[CELL];

    measure(&t);
    for (unsigned k = 0; k < t.n; k++)
        print_cell(&t, k, t.keys[k]);
    if (t.n)
        putchar('\n');
    json_array_foreach(rows, i, row)
    {
        for (unsigned k = 0; k < t.n; k++)
            print_cell(&t, k, cell(json_object_get(row, t.keys[k]), buf));
        putchar('\n');
    }
}

static int parse_limit(const char *text, int *ret)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (end == text || *end || n < 1 || n > 100000) {
        fprintf(stderr, "mambactl streams: --limit: '%s' is not an integer from 1 to 100000\n", text);
        return EX_USAGE;
    }
    *ret = (int)n;
    return -1;
}

int ctl_streams(int argc, char **argv)
{
    static const struct option longs[] = {
        CTL_CONTROL_LONG, {"limit", required_argument, NULL, 'l'}, {NULL, 0, NULL, 0}};
    struct ctl_target target = {.command = "streams", .timeout_ms = 5000};
    json_t *reply = NULL, *rows;
    int c, code = -1, limit = 1000;

    while ((c = getopt_long(argc, argv, CTL_CONTROL_SHORT, longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c == 'l') {
            code = parse_limit(optarg, &limit);
        } else if (!ctl_control_option(&target, c, optarg, &code)) {
            fputs(usage, stderr);
            return EX_USAGE;
        }
        if (code >= 0)
            return code;
    }
    if (argc - optind > 1) {
        fprintf(stderr, "mambactl streams: unexpected argument %s\n%s", argv[optind + 1], usage);
        return EX_USAGE;
    }
    code = ctl_control_request(
        &target,
        json_pack("{s:s, s:s, s:i}", "command", "streams", "glob", optind < argc ? argv[optind] : "*", "limit", limit),
        &reply);
    if (code)
        return code;
    rows = json_object_get(reply, "streams");
    if (target.json) {
        json_dumpf(rows, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_table(rows);
    }
    json_decref(reply);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}
