/* config_value.c: see config_value.h. What is printed parses back to the same value.
 * Trap: an option's default is text too and goes the same way as a value from the file. */
#include "daemon/config_value.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_report.h"
#include "daemon/config_units.h"

/* The shortest text that reads back as v. */
void md_print_real(double v, FILE *out)
{
    char text[40];

    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    fputs(text, out);
}

void md_print_float(float v, FILE *out)
{
    char text[40];

    for (int digits = 4; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if ((float)strtod(text, NULL) == v)
            break;
    }
    fputs(text, out);
}

/* ---- strings ------------------------------------------------------------------------------------------------ */

static bool is_plain(const char *text)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/0123456789.-";
    static const char *const words[] = {"null",  "Null", "NULL", "true", "True", "TRUE", "false", "False",
                                        "FALSE", "yes",  "no",   "on",   "off",  "y",    "n"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(text, words[i]))
            return false;
    return *text && strchr(first, *text) && text[strspn(text, rest)] == 0;
}

void md_print_string(const char *text, FILE *out)
{
    if (is_plain(text)) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;

        if (c == '$' && p[1] == '{')
            fputs("$$", out);
        else if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c < 0x20 || c == 0x7F)
            fprintf(out, "\\x%02X", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static int append_string(struct io_strings *list, const char *text)
{
    char **grown = realloc(list->v, (list->n + 1) * sizeof *grown);

    if (!grown)
        return -ENOMEM;
    list->v = grown;
    grown[list->n] = strdup(text);
    if (!grown[list->n])
        return -ENOMEM;
    list->n++;
    return 0;
}

static void free_strings(struct io_strings *list)
{
    for (unsigned i = 0; i < list->n; i++)
        free(list->v[i]);
    free(list->v);
    *list = (struct io_strings){NULL, 0};
}

/* ---- by kind ------------------------------------------------------------------------------------------------ */

static bool is_bounded(const struct io_option *o)
{
    return o->min < o->max;
}

static void print_bound(const struct io_option *o, double bound, FILE *out)
{
    if (o->kind == IO_OPT_DURATION)
        md_print_duration((int64_t)bound, out);
    else if (o->kind == IO_OPT_SIZE)
        md_scaled_print((int64_t)bound, md_sizes, out);
    else if (o->kind == IO_OPT_INT)
        fprintf(out, "%" PRId64, (int64_t)bound);
    else
        md_print_real(bound, out);
}

static int check_range(const struct io_option *o, const char *text, double value, char why[MD_WHY])
{
    FILE *out;

    if (!is_bounded(o) || (value >= o->min && value <= o->max))
        return 0;
    out = fmemopen(why, MD_WHY, "w");
    if (out) {
        fprintf(out, "%.100s is out of range (", text);
        print_bound(o, o->min, out);
        fputs(" to ", out);
        print_bound(o, o->max, out);
        fputs(")", out);
        fclose(out);
    }
    return -EINVAL;
}

static int parse_int(const struct io_option *o, const char *text, int64_t *ret, char why[MD_WHY])
{
    char *end;
    long long v;

    errno = 0;
    v = strtoll(text, &end, 10);
    if (end == text || *end || strchr(" \t\n", *text)) {
        snprintf(why, MD_WHY, "'%.100s' is not an integer", text);
        return -EINVAL;
    }
    if (errno == ERANGE) {
        snprintf(why, MD_WHY, "%.100s is out of range", text);
        return -EINVAL;
    }
    *ret = v;
    return check_range(o, text, (double)v, why);
}

static int parse_real(const struct io_option *o, const char *text, double *ret, char why[MD_WHY])
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !isfinite(v) || text[strspn(text, "0123456789.eE+-")]) {
        snprintf(why, MD_WHY, "'%.100s' is not a finite number", text);
        return -EINVAL;
    }
    *ret = v;
    return check_range(o, text, v, why);
}

static int parse_bool(const char *text, bool *ret, char why[MD_WHY])
{
    if (strcmp(text, "true") && strcmp(text, "false")) {
        snprintf(why, MD_WHY, "'%.100s' is not true or false", text);
        return -EINVAL;
    }
    *ret = *text == 't';
    return 0;
}

static int parse_unit(const struct io_option *o, const char *text, int64_t *ret, char why[MD_WHY])
{
    bool duration = o->kind == IO_OPT_DURATION;
    int rc;

    if (duration && !o->fallback && (!strcmp(text, "none") || !strcmp(text, "never"))) {
        *ret = -1;
        return 0;
    }
    rc = duration && !strcmp(text, "0") ? md_scaled_parse("0s", md_durations, ret)
                                        : md_scaled_parse(text, duration ? md_durations : md_sizes, ret);
    if (rc == -ERANGE)
        snprintf(why, MD_WHY, "%.100s is out of range", text);
    else if (rc < 0)
        snprintf(why, MD_WHY, "'%.100s' is not a %s", text,
                 duration ? "duration (a number and one of ns us ms s min h d)"
                          : "size (a number and one of B KiB MiB GiB TiB kB MB GB TB)");
    return rc < 0 ? -EINVAL : check_range(o, text, (double)*ret, why);
}

static int parse_enum(const struct io_option *o, const char *text, int *ret, char why[MD_WHY])
{
    const char *names[64];
    char hint[MD_HINT];
    unsigned n = 0;

    for (; o->names[n] && n < 64; n++) {
        names[n] = o->names[n];
        if (!strcmp(text, names[n])) {
            *ret = (int)n;
            return 0;
        }
    }
    md_hint(text, names, n, hint);
    snprintf(why, MD_WHY, "unknown value '%.100s'%s", text, hint);
    return -EINVAL;
}

int md_value_parse(const struct io_option *o, const char *text, void *base, char why[MD_WHY])
{
    void *to = (char *)base + o->offset;
    char *copy;

    snprintf(why, MD_WHY, "out of memory");
    switch (o->kind) {
    case IO_OPT_STRING:
        copy = strdup(text);
        if (!copy)
            return -ENOMEM;
        free(*(char **)to);
        *(char **)to = copy;
        return 0;
    case IO_OPT_STRINGS:
        return append_string(to, text);
    case IO_OPT_BOOL:
        return parse_bool(text, to, why);
    case IO_OPT_INT:
        return parse_int(o, text, to, why);
    case IO_OPT_REAL:
        return parse_real(o, text, to, why);
    case IO_OPT_DURATION:
    case IO_OPT_SIZE:
        return parse_unit(o, text, to, why);
    case IO_OPT_ENUM:
        return parse_enum(o, text, to, why);
    }
    return -EINVAL;
}

int md_value_default(const struct io_option *o, void *base)
{
    char why[MD_WHY];

    if (o->fallback)
        return md_value_parse(o, o->fallback, base, why);
    if (o->kind == IO_OPT_DURATION)
        *(int64_t *)(void *)((char *)base + o->offset) = -1;
    return 0;
}

bool md_value_given(const struct io_option *o, const void *base)
{
    const void *at = (const char *)base + o->offset;

    switch (o->kind) {
    case IO_OPT_STRING:
        return *(char *const *)at != NULL;
    case IO_OPT_STRINGS:
        return ((const struct io_strings *)at)->n > 0;
    case IO_OPT_INT:
    case IO_OPT_SIZE:
        return o->fallback || *(const int64_t *)at != 0;
    case IO_OPT_REAL:
        return o->fallback || *(const double *)at != 0;
    case IO_OPT_DURATION:
        return *(const int64_t *)at >= 0;
    default:
        return true;
    }
}

static void print_strings(const struct io_strings *list, FILE *out)
{
    fputc('[', out);
    for (unsigned i = 0; i < list->n; i++) {
        fputs(i ? ", " : "", out);
        md_print_string(list->v[i], out);
    }
    fputc(']', out);
}

void md_value_print(const struct io_option *o, const void *base, FILE *out)
{
    const void *at = (const char *)base + o->offset;

    switch (o->kind) {
    case IO_OPT_STRING:
        md_print_string(*(char *const *)at, out);
        break;
    case IO_OPT_STRINGS:
        print_strings(at, out);
        break;
    case IO_OPT_BOOL:
        fputs(*(const bool *)at ? "true" : "false", out);
        break;
    case IO_OPT_INT:
        fprintf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case IO_OPT_REAL:
        md_print_real(*(const double *)at, out);
        break;
    case IO_OPT_DURATION:
        md_print_duration(*(const int64_t *)at, out);
        break;
    case IO_OPT_SIZE:
        md_scaled_print(*(const int64_t *)at, md_sizes, out);
        break;
    case IO_OPT_ENUM:
        fputs(o->names[*(const int *)at], out);
        break;
    }
}

void md_values_free(const struct io_option *options, void *base)
{
    for (const struct io_option *o = options; o && o->name; o++) {
        void *at = (char *)base + o->offset;

        if (o->kind == IO_OPT_STRING) {
            free(*(char **)at);
            *(char **)at = NULL;
        } else if (o->kind == IO_OPT_STRINGS) {
            free_strings(at);
        }
    }
}
