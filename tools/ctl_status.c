/* ctl_status.c: `mambactl status`. The view follows the shape of the reply (docs/protocol.md): single values of an
 * object stand on one line, maps of numbers (counters by reason) on a line each with what is not zero, durations with
 * p50 and p99 likewise, and other objects below their name. A counter added to the daemon shows up here by itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl status [--control ENDPOINT | -c FILE] [--all] [--json]\n";
static const char help[] = "Shows the daemon's models, inputs, outputs and counters.\n"
                           "\n"
                           "      --all               also counters that are zero\n" CTL_CONTROL_HELP;

struct view {
    bool all;
};

/* "output_dropped_messages_total" → "dropped messages" */
static void print_name(const char *key)
{
    static const char *const beginnings[] = {"input_", "output_"};
    static const char *const endings[] = {"_total", "_seconds", "_s"};
    size_t n;

    for (unsigned i = 0; i < 2; i++)
        if (!strncmp(key, beginnings[i], strlen(beginnings[i])))
            key += strlen(beginnings[i]);
    n = strlen(key);
    for (unsigned i = 0; i < 3; i++)
        if (n > strlen(endings[i]) && !strcmp(key + n - strlen(endings[i]), endings[i]))
            n -= strlen(endings[i]);
    for (size_t i = 0; i < n; i++)
        putchar(key[i] == '_' ? ' ' : key[i]);
}

static void print_seconds(double s)
{
    static const struct {
        double from, scale;
        const char *unit;
    } units[] = {{86400, 1 / 86400.0, "d"}, {3600, 1 / 3600.0, "h"}, {60, 1 / 60.0, "min"}, {1, 1, "s"},
                 {1e-3, 1e3, "ms"},         {0, 1e6, "µs"}};
    unsigned i = 0;

    while (s < units[i].from)
        i++;
    printf("%.3g %s", s * units[i].scale, units[i].unit);
}

static void print_value(const char *key, json_t *value)
{
    size_t n = strlen(key);

    if (json_is_number(value) && ((n > 8 && !strcmp(key + n - 8, "_seconds")) || !strcmp(key, "uptime_s")))
        print_seconds(json_number_value(value));
    else if (json_is_string(value))
        printf("%.*s", (int)strcspn(json_string_value(value), "\n"), json_string_value(value)); /* of several lines, one */
    else if (json_is_integer(value))
        printf("%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        printf("%.6g", json_real_value(value));
    else
        fputs(json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-", stdout);
}

static bool is_zero(json_t *value)
{
    return json_is_number(value) ? json_number_value(value) == 0
                                 : json_is_string(value) && json_string_length(value) == 0;
}

static bool is_duration(json_t *object)
{
    return json_is_number(json_object_get(object, "p50")) && json_is_number(json_object_get(object, "p99"));
}

/* Counters by reason: all values are numbers. */
static bool is_breakdown(json_t *object)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) if (!json_is_number(value)) return false;
    return json_object_size(object) > 0;
}

static void print_duration(json_t *object)
{
    static const char *const names[] = {"p50", "p99", "max"};

    for (unsigned i = 0; i < 3; i++) {
        printf("%s%s ", i ? ", " : "", names[i]);
        print_seconds(json_number_value(json_object_get(object, names[i])));
    }
    printf(" of %lld", (long long)json_integer_value(json_object_get(object, "count")));
}

static void print_breakdown(const struct view *v, json_t *object)
{
    const char *key;
    json_t *value;
    bool any = false;

    json_object_foreach(object, key, value)
    {
        if (!v->all && is_zero(value))
            continue;
        fputs(any ? ", " : "", stdout);
        print_name(key);
        putchar(' ');
        print_value(key, value);
        any = true;
    }
    if (!any)
        putchar('0');
}

/* The single values of an object on one line, names before numbers. */
static void print_singles(const struct view *v, json_t *object, int indent)
{
    const char *key;
    json_t *value;
    bool any = false;

    for (int numbers = 0; numbers < 2; numbers++)
        json_object_foreach(object, key, value)
        {
            if (json_is_object(value) || json_is_array(value) || json_is_number(value) != numbers ||
                !strcmp(key, "ok") || (!v->all && is_zero(value)))
                continue;
            printf("%*s", any ? 0 : indent, "");
            fputs(any ? ", " : "", stdout);
            print_name(key);
            putchar(' ');
            print_value(key, value);
            any = true;
        }
    if (any)
        putchar('\n');
}

/* Of single values, all zero. */
static bool is_blank(json_t *object)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) if (!is_zero(value)) return false;
    return true;
}

static void print_object(const struct view *v, json_t *object, int indent)
{
    const char *key;
    json_t *value;

    print_singles(v, object, indent);
    json_object_foreach(object, key, value)
    {
        if (!json_is_object(value) || (!v->all && (!is_breakdown(value) || is_duration(value)) && is_blank(value)))
            continue;
        printf("%*s", indent, "");
        if (is_duration(value) || is_breakdown(value)) {
            print_name(key);
            fputs(": ", stdout);
            if (is_duration(value))
                print_duration(value);
            else
                print_breakdown(v, value);
            putchar('\n');
        } else {
            printf("%s\n", key);
            print_object(v, value, indent + 2);
        }
    }
}

int ctl_status(int argc, char **argv)
{
    static const struct option longs[] = {CTL_CONTROL_LONG, {"all", no_argument, NULL, 'a'}, {NULL, 0, NULL, 0}};
    struct ctl_target target = {.command = "status", .timeout_ms = 5000};
    struct view v = {false};
    json_t *reply = NULL;
    int c, code;

    while ((c = getopt_long(argc, argv, CTL_CONTROL_SHORT, longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c == 'a') {
            v.all = true;
        } else if (!ctl_control_option(&target, c, optarg, &code)) {
            fputs(usage, stderr);
            return EX_USAGE;
        } else if (code >= 0) {
            return code;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "mambactl status: unexpected argument %s\n%s", argv[optind], usage);
        return EX_USAGE;
    }
    code = ctl_control_request(&target, json_pack("{s:s}", "command", "status"), &reply);
    if (code)
        return code;
    if (target.json) {
        json_dumpf(reply, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_object(&v, reply, 0);
    }
    json_decref(reply);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}
