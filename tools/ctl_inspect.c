/* ctl_inspect.c: `mambactl inspect`: what a model folder or an output file holds, for a person or as JSON. What PATH
 * is, is read from it: a folder is a model, a file that starts like HDF5 or a snapshot is that, any other is JSON
 * lines. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "daemon/plural.h"
#include "ssm/ssm.h"
#include "tools/inspect.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl inspect PATH [--json]\n";
static const char help[] =
    "Describes a model folder (sizes, heads, the sections of a stream's state), a file of JSON lines\n"
    "(rows per family and stream), an HDF5 file (its tables), or a snapshot (its streams).\n"
    "\n"
    "      --json              one JSON object\n"
    "      --help              print this text and end\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 unreadable file, 66 no such file, 69 no HDF5 in this build,\n"
    "74 input/output error, 78 bad model folder.\n";

static json_int_t integer(const json_t *map, const char *key)
{
    return json_integer_value(json_object_get(map, key));
}

static const char *text(const json_t *map, const char *key)
{
    const char *s = json_string_value(json_object_get(map, key));
    return s ? s : "-";
}

/* ---- for a person ----------------------------------------------------------------------------------------- */

static void print_list(const json_t *list)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        fputs(i ? ", " : "", stdout);
        if (json_is_string(item))
            fputs(json_string_value(item), stdout);
        else if (json_is_integer(item))
            printf("%lld", (long long)json_integer_value(item));
        else
            printf("%g", json_number_value(item));
    }
}

static void print_heads(const json_t *doc)
{
    const json_t *heads = json_object_get(doc, "heads"), *forecast = json_object_get(heads, "forecast");
    if (forecast) {
        printf("  forecast    %lld samples, quantiles ", (long long)integer(forecast, "horizon"));
        print_list(json_object_get(forecast, "quantiles"));
        putchar('\n');
    }
    if (json_object_get(heads, "embedding"))
        printf("  embedding   %lld numbers\n", (long long)integer(json_object_get(heads, "embedding"), "width"));
    if (json_object_get(heads, "anomaly"))
        printf("  anomaly     after %lld scored samples\n",
               (long long)integer(json_object_get(heads, "anomaly"), "warmup"));
    if (json_object_get(heads, "logits"))
        printf("  logits      over %lld %s\n", (long long)integer(json_object_get(heads, "logits"), "vocab"),
               text(doc, "input"));
}

static void print_model(const json_t *doc)
{
    const json_t *slot = json_object_get(doc, "slot"), *ops = json_object_get(doc, "ops");
    const char *dtype;
    json_t *section, *tables;
    size_t i;
    printf("%s: %s, %lld parameters, %lld bytes, stored as %s\n", text(doc, "name"), text(doc, "type"),
           (long long)integer(doc, "parameters"), (long long)integer(doc, "file_bytes"), text(doc, "stored"));
    printf("  backbone    layers %lld, d_model %lld, d_inner %lld, d_state %lld, d_conv %lld, dt_rank %lld\n",
           (long long)integer(doc, "n_layer"), (long long)integer(doc, "d_model"), (long long)integer(doc, "d_inner"),
           (long long)integer(doc, "d_state"), (long long)integer(doc, "d_conv"), (long long)integer(doc, "dt_rank"));
    printf("  input       %s", text(doc, "input"));
    if (json_object_get(doc, "patch"))
        printf(", patches of %lld, missing values %s", (long long)integer(doc, "patch"),
               json_is_true(json_object_get(doc, "mask")) ? "masked" : "not known to the model");
    putchar('\n');
    print_heads(doc);
    printf("  state       %lld bytes per channel:", (long long)integer(slot, "bytes"));
    json_array_foreach(json_object_get(slot, "sections"), i, section)
        printf("%s %s %lld", i ? "," : "", text(section, "name"), (long long)integer(section, "bytes"));
    puts("\n  on this CPU, best first:");
    json_object_foreach((json_t *)ops, dtype, tables)
    {
        printf("    %-9s ", dtype);
        print_list(tables);
        putchar('\n');
    }
}

static void print_messages(const json_t *doc)
{
    size_t i;
    const char *event;
    json_t *s, *n;
    printf("%lld message%s\n", (long long)integer(doc, "lines"), md_s((uint64_t)integer(doc, "lines")));
    json_array_foreach(json_object_get(doc, "series"), i, s)
    {
        printf("  %-15s %-30s messages %8lld rows %10lld", text(s, "family"), text(s, "stream"),
               (long long)integer(s, "messages"), (long long)integer(s, "rows"));
        if (json_object_get(s, "from_seq"))
            printf("  seq %lld to %lld", (long long)integer(s, "from_seq"), (long long)integer(s, "to_seq"));
        if (integer(s, "warmup_rows"))
            printf(", of warm-up: %lld", (long long)integer(s, "warmup_rows"));
        if (integer(s, "breaks"))
            printf(", breaks in out_seq: %lld", (long long)integer(s, "breaks"));
        json_object_foreach(json_object_get(s, "events"), event, n)
            printf(", %s %lld", event, (long long)json_integer_value(n));
        putchar('\n');
    }
}

static void print_tables(const json_t *doc)
{
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(doc, "tables"), i, t)
    {
        printf("  %-32s %-8s [", text(t, "path"), text(t, "type"));
        print_list(json_object_get(t, "shape"));
        putchar(']');
        if (json_object_get(t, "fields"))
            fputs("  ", stdout);
        print_list(json_object_get(t, "fields"));
        putchar('\n');
    }
}

static void print_snapshot(const json_t *doc)
{
    size_t i;
    json_t *s;
    printf("generation %lld of run %lld, made %s\n", (long long)integer(doc, "generation"),
           (long long)integer(doc, "run"),
           json_is_true(json_object_get(doc, "clean")) ? "with nothing left to take" : "while running");
    json_array_foreach(json_object_get(doc, "models"), i, s)
        printf("  model %s, weights %s\n", text(s, "model"), text(s, "hash"));
    json_array_foreach(json_object_get(doc, "streams"), i, s)
        printf("  %-30s %-6s input %s, model %s, channels: %lld of %lld bytes, epoch %lld, rows: %lld, next %lld\n",
               text(s, "stream"), text(s, "state"), text(s, "input"), text(s, "model"),
               (long long)integer(s, "channels"), (long long)integer(s, "slot_bytes"), (long long)integer(s, "epoch"),
               (long long)integer(s, "rows"), (long long)integer(s, "next_seq"));
    json_array_foreach(json_object_get(doc, "outputs"), i, s) printf("  output %s\n", json_string_value(s));
}

/* ----------------------------------------------------------------------------------------------------------- */

static bool starts_like(const char *path, const char *magic)
{
    char head[8];
    FILE *f = fopen(path, "re");
    bool yes = f && fread(head, 1, sizeof head, f) == sizeof head && !memcmp(head, magic, sizeof head);
    if (f)
        fclose(f);
    return yes;
}

static int look(const char *path, json_t **ret, void (**ret_print)(const json_t *), char *why)
{
    struct stat info;
    if (stat(path, &info)) {
        snprintf(why, SSM_ERR, "%s: %s", path, strerror(errno));
        return EX_NOINPUT;
    }
    if (S_ISDIR(info.st_mode)) {
        *ret_print = print_model;
        return inspect_model(path, ret, why);
    }
    if (starts_like(path, "\211HDF\r\n\032\n")) {
        *ret_print = print_tables;
        return inspect_hdf5(path, ret, why);
    }
    if (starts_like(path, "mambadG\n")) {
        *ret_print = print_snapshot;
        return inspect_snapshot(path, ret, why);
    }
    *ret_print = print_messages;
    return inspect_lines(path, ret, why);
}

int ctl_inspect(int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    void (*print)(const json_t *) = NULL;
    char why[SSM_ERR] = "";
    json_t *doc = NULL;
    bool json = false;
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c != 'j') {
            fputs(usage, stderr);
            return EX_USAGE;
        }
        json = true;
    }
    if (argc - optind != 1) {
        fputs(usage, stderr);
        return EX_USAGE;
    }
    int code = look(argv[optind], &doc, &print, why);
    if (code) {
        fprintf(stderr, "mambactl inspect: %s\n", why);
        return code;
    }
    if (json) {
        json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        print(doc);
    }
    json_decref(doc);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}
