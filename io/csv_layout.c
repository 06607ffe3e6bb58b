/* csv_layout.c: what the columns of a CSV file are, by the looks of its first lines. Pure functions.
 *
 * Trap: a column of epoch times and a column of large numbers look alike; numbers are taken for times only in the first
 * column, and only under a name that says so or where they lie between 2001 and 2100 and rise. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/csv.h"

/* ---- fields ----------------------------------------------------------------------------------------------- */

/* Unquotes in place from the opening quote; returns what follows the closing one. */
static char *unquote(char *at)
{
    char *to = at;
    for (at++; *at; at++) {
        if (*at == '"' && *++at != '"')
            break;
        *to++ = *at;
    }
    if (to < at)
        *to = '\0';
    return at;
}

unsigned io_csv_split(char *line, char delimiter, char **fields, unsigned max)
{
    unsigned n = 0;
    for (char *at = line;; at++) {
        while (*at == ' ')
            at++;
        char *field = at, *quoted = *at == '"' ? unquote(at) : NULL;
        at = quoted ? quoted : at;
        at += strcspn(at, (char[]){delimiter, '\0'});
        bool last = *at == '\0';
        if (!quoted) {
            char *end = at;
            while (end > field && end[-1] == ' ')
                end--;
            *end = '\0';
        }
        if (n < max)
            fields[n] = field;
        if (n++ == max || last)
            return n;
    }
}

bool io_csv_missing(const char *field)
{
    static const char *const words[] = {"", "na", "n/a", "nan", "null", "none"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(field, words[i]) == 0)
            return true;
    return false;
}

bool io_csv_number(const char *field, char delimiter, double *ret)
{
    char copy[64], *end;
    size_t len = strlen(field);
    if (len == 0 || len >= sizeof copy || strpbrk(field, "xX"))
        return false;
    memcpy(copy, field, len + 1);
    char *comma = delimiter == ';' ? strchr(copy, ',') : NULL;
    if (comma)
        *comma = '.';
    *ret = strtod(copy, &end);
    return *end == '\0';
}

bool io_csv_content(const char *line)
{
    line += strspn(line, " \t\r");
    return *line && *line != '#';
}

/* ---- looking ---------------------------------------------------------------------------------------------- */

enum { LOOK = 3 };

struct look {
    char *line[LOOK]; /* of content, split in place */
    unsigned lines;
    char *field[LOOK][IO_CSV_COLUMNS_MAX];
    char text[]; /* a copy of the file's beginning */
};

/* Cuts the copy into lines of content; a last line without its newline counts only at the file's end. */
static void cut_lines(struct look *k, bool whole)
{
    char *at = k->text;
    if (strncmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    while (*at && k->lines < LOOK) {
        char *end = at + strcspn(at, "\n");
        bool ended = *end == '\n';
        *end = '\0';
        if (end > at && end[-1] == '\r')
            end[-1] = '\0';
        if (io_csv_content(at) && (ended || whole))
            k->line[k->lines++] = at;
        at = end + ended;
    }
}

static unsigned count(const char *line, char c)
{
    unsigned n = 0;
    bool quoted = false;
    for (; *line; line++) {
        quoted ^= *line == '"';
        n += !quoted && *line == c;
    }
    return n;
}

/* The rarest character that is equally frequent in all lines: commas may be decimal ones, tabs are hardly ever text. */
static char find_delimiter(const struct look *k)
{
    static const char candidates[] = "\t;,";
    for (const char *c = candidates; *c; c++) {
        unsigned n = count(k->line[0], *c);
        bool same = n > 0;
        for (unsigned i = 1; i < k->lines; i++)
            same = same && count(k->line[i], *c) == n;
        if (same)
            return *c;
    }
    return ',';
}

static bool numeric_or_time(const char *field, char delimiter)
{
    double v;
    int64_t t;
    return io_csv_number(field, delimiter, &v) || io_csv_time(field, IO_CSV_ISO, &t);
}

/* A header has names only. */
static bool looks_like_header(char *const *field, unsigned n, char delimiter)
{
    bool names = false;
    for (unsigned i = 0; i < n; i++) {
        if (io_csv_missing(field[i]))
            continue;
        if (numeric_or_time(field[i], delimiter))
            return false;
        names = true;
    }
    return names;
}

static bool names_time(const char *name)
{
    static const char *const names[] = {"time", "timestamp", "datetime", "date", "t", "ts", "epoch", "year", "t_ns"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

static const double year_2001 = 978307200, year_2100 = 4102444800; /* s since the Unix epoch */

/* How a column writes time, from its first value; `named`: it is known to be time. */
static bool time_notation(const char *name, const char *first, const char *second, bool named, enum io_csv_time *ret)
{
    int64_t t;
    double v, w = 0;
    *ret = IO_CSV_ISO;
    if (io_csv_time(first, IO_CSV_ISO, &t))
        return true;
    if (!io_csv_number(first, ',', &v))
        return false;
    bool rising = second && io_csv_number(second, ',', &w) && w > v;
    if (named && (strcasecmp(name, "year") == 0 || strcasecmp(name, "date") == 0)) {
        *ret = strlen(first) >= 8 ? IO_CSV_YMD : IO_CSV_YEAR;
        if (io_csv_time(first, *ret, &t))
            return true;
    }
    if (!named && !(rising && v >= year_2001))
        return false;
    *ret = v < year_2100 ? IO_CSV_S : v < year_2100 * 1e3 ? IO_CSV_MS : v < year_2100 * 1e6 ? IO_CSV_US : IO_CSV_NS;
    return named || v < year_2100 * 1e9;
}

/* A column by its number from 1, or by its name; −1: there is none. */
static int find_column(const char *wanted, char *const *names, unsigned columns)
{
    char *end;
    for (unsigned i = 0; names && i < columns; i++)
        if (strcmp(wanted, names[i]) == 0)
            return (int)i;
    unsigned long n = strtoul(wanted, &end, 10);
    return *wanted && !*end && n >= 1 && n <= columns ? (int)n - 1 : -1;
}

static int find_time(const struct io_csv_conf *conf, char *const *names, char *const *first, char *const *second,
                     struct io_csv_layout *l, char *reterr)
{
    const char *wanted = conf->time ? conf->time : "auto";
    bool chosen = strcmp(wanted, "auto") != 0 && strcmp(wanted, "none") != 0;
    l->time = -1;
    if (strcmp(wanted, "none") == 0)
        return 0;
    int column = chosen ? find_column(wanted, names, l->columns) : 0;
    if (column < 0) {
        snprintf(reterr, IO_ERR, "no column '%s' for the time", wanted);
        return -EBADMSG;
    }
    const char *name = names ? names[column] : "";
    bool named = chosen || names_time(name);
    if (!first || (l->columns < 2 && !named))
        return 0;
    if (time_notation(name, first[column], second ? second[column] : NULL, named, &l->how)) {
        l->time = column;
    } else if (named) {
        snprintf(reterr, IO_ERR, "column %d: '%s' is no time (ISO 8601 or seconds, ms, us, ns since 1970)", column + 1,
                 first[column]);
        return -EBADMSG;
    }
    return 0;
}

static int find_channels(const struct io_csv_conf *conf, char *const *names, char *const *first,
                         struct io_csv_layout *l, char *reterr)
{
    double v;
    for (unsigned i = 0; i < conf->columns.n; i++) {
        int column = find_column(conf->columns.v[i], names, l->columns);
        if (column < 0 || l->channels == IO_CSV_COLUMNS_MAX) {
            snprintf(reterr, IO_ERR, "no column '%s'", conf->columns.v[i]);
            return -EBADMSG;
        }
        l->channel[l->channels++] = (unsigned short)column;
    }
    for (unsigned i = 0; i < l->columns && conf->columns.n == 0; i++)
        if ((int)i != l->time && (!first || io_csv_missing(first[i]) || io_csv_number(first[i], l->delimiter, &v)))
            l->channel[l->channels++] = (unsigned short)i;
    if (l->channels == 0)
        snprintf(reterr, IO_ERR, "no column of numbers");
    return l->channels ? 0 : -EBADMSG;
}

static int settle(const struct io_csv_conf *conf, struct look *k, struct io_csv_layout *l, char *reterr)
{
    static const char delimiters[] = {0, ',', ';', '\t'};
    l->delimiter = conf->delimiter ? delimiters[conf->delimiter] : find_delimiter(k);
    for (unsigned i = 0; i < k->lines; i++) {
        unsigned n = io_csv_split(k->line[i], l->delimiter, k->field[i], IO_CSV_COLUMNS_MAX);
        if (i > 0 && n != l->columns) { /* the reader will say which line it is */
            k->lines = i;
            break;
        }
        l->columns = n;
    }
    if (l->columns > IO_CSV_COLUMNS_MAX) {
        snprintf(reterr, IO_ERR, "more than %d columns", IO_CSV_COLUMNS_MAX);
        return -EBADMSG;
    }
    l->header = conf->header == 1 || (conf->header == 0 && looks_like_header(k->field[0], l->columns, l->delimiter));
    unsigned data = l->header;
    char *const *names = l->header ? k->field[0] : NULL, *const *first = data < k->lines ? k->field[data] : NULL;
    char *const *second = data + 1 < k->lines ? k->field[data + 1] : NULL;
    int r = find_time(conf, names, first, second, l, reterr);
    return r ? r : find_channels(conf, names, first, l, reterr);
}

int io_csv_look(const struct io_csv_conf *conf, const char *text, size_t len, bool whole, struct io_csv_layout *ret,
                char *reterr)
{
    struct io_csv_layout l = {.time = -1, .delimiter = ','};
    struct look *k = malloc(sizeof *k + len + 1);
    if (!k)
        return -ENOMEM;
    k->lines = 0;
    memcpy(k->text, text, len);
    k->text[len] = '\0';
    cut_lines(k, whole);
    int r = k->lines < LOOK && !whole ? -EAGAIN : 0;
    if (r == 0 && k->lines == 0) {
        snprintf(reterr, IO_ERR, "no line of numbers");
        r = -EBADMSG;
    } else if (r == 0) {
        r = settle(conf, k, &l, reterr);
    }
    free(k);
    if (r == 0)
        *ret = l;
    return r;
}
