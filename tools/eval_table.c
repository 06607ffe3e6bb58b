/* eval_table.c: CSV into tables; the rules of fields are those of the daemon's CSV input (io/csv.h).
 *
 * Trap: a file is held as a whole, its text and its numbers; a series of 10⁷ numbers takes some 200 MB. */
#include "tools/eval_table.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/csv.h"

struct reader {
    const char *path;
    char *text; /* owned */
    size_t bytes;
    char *next; /* line to be read */
    long line;
    struct io_csv_layout layout;
    int label; /* column, or −1 */
    char *field[IO_CSV_COLUMNS_MAX];
};

static int complain(const struct reader *r, char *reterr, const char *why, const char *about)
{
    snprintf(reterr, EVAL_ERR, "%s:%ld: %s%.80s", r->path, r->line, why, about);
    return -EBADMSG;
}

/* The next line of content, without its end; NULL: there is none. */
static char *next_line(struct reader *r)
{
    while (r->next && *r->next) {
        char *line = r->next, *end = strchr(line, '\n');
        r->next = end ? end + 1 : NULL;
        if (end)
            *end = '\0';
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r')
            line[n - 1] = '\0';
        r->line++;
        if (io_csv_content(line))
            return line;
    }
    return NULL;
}

/* ---- columns ---------------------------------------------------------------------------------------------- */

/* −1: there is none. */
static int find_column(const struct reader *r, const char *wanted)
{
    char *end;
    for (unsigned i = 0; r->layout.header && i < r->layout.columns; i++)
        if (strcmp(wanted, r->field[i]) == 0)
            return (int)i;
    unsigned long n = strtoul(wanted, &end, 10);
    return *wanted && !*end && n >= 1 && n <= r->layout.columns ? (int)n - 1 : -1;
}

static void drop_channel(struct io_csv_layout *l, int column)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < l->channels; i++)
        if (l->channel[i] != column)
            l->channel[kept++] = l->channel[i];
    l->channels = kept;
}

/* Names are looked up in the header, which stands split in field[]. */
static int choose_columns(struct reader *r, const struct eval_columns *c, char *reterr)
{
    struct io_csv_layout *l = &r->layout;
    size_t i;
    json_t *name;
    const char *missing = NULL;
    if (c->keep)
        l->channels = 0;
    json_array_foreach((json_t *)c->keep, i, name)
    {
        int column = find_column(r, json_string_value(name));
        if (column < 0 || l->channels == IO_CSV_COLUMNS_MAX)
            missing = json_string_value(name);
        else
            l->channel[l->channels++] = (unsigned short)column;
    }
    json_array_foreach((json_t *)c->drop, i, name)
    {
        int column = find_column(r, json_string_value(name));
        if (column < 0)
            missing = json_string_value(name);
        drop_channel(l, column);
    }
    r->label = c->label ? find_column(r, c->label) : -1;
    drop_channel(l, r->label);
    if (c->label && r->label < 0)
        missing = c->label;
    if (!missing && l->channels)
        return 0;
    snprintf(reterr, EVAL_ERR, "%s: no column %s%.80s%s", r->path, missing ? "'" : "of numbers", missing ? missing : "",
             missing ? "'" : "");
    return -EINVAL;
}

static int settle_layout(struct reader *r, const struct eval_columns *c, char *reterr)
{
    char none[] = "none", why[IO_ERR];
    struct io_csv_conf conf = {.time = none, .header = c->header};
    size_t looked = r->bytes < IO_CSV_LINE_MAX ? r->bytes : IO_CSV_LINE_MAX;
    int err = io_csv_look(&conf, r->text, looked, looked == r->bytes, &r->layout, why);
    if (err) {
        snprintf(reterr, EVAL_ERR, "%s: %.400s", r->path, err == -EAGAIN ? "lines of over 20 KiB" : why);
        return err == -EAGAIN ? -EBADMSG : err;
    }
    r->next = r->text + (strncmp(r->text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0);
    if (r->layout.header)
        io_csv_split(next_line(r), r->layout.delimiter, r->field, IO_CSV_COLUMNS_MAX);
    return choose_columns(r, c, reterr);
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

static int parse_number(const struct reader *r, const char *field, double *ret, char *reterr)
{
    if (io_csv_missing(field) || strcmp(field, ".") == 0) { /* the Federal Reserve's */
        *ret = NAN;
        return 0;
    }
    return io_csv_number(field, r->layout.delimiter, ret) ? 0 : complain(r, reterr, "no number: ", field);
}

static bool parse_date(const char *field, int64_t *ret_ns)
{
    return strlen(field) >= 10 && field[4] == '-' && io_csv_time(field, IO_CSV_ISO, ret_ns);
}

static bool starts_with_date(const char *line, char delimiter)
{
    char date[64];
    int64_t t_ns;
    line += *line == '"';
    snprintf(date, sizeof date, "%.*s", (int)strcspn(line, (char[]){delimiter, '"', '\0'}), line);
    return parse_date(date, &t_ns);
}

static int parse_row(struct reader *r, char *line, struct eval_table *t, char *reterr)
{
    const struct io_csv_layout *l = &r->layout;
    unsigned n = io_csv_split(line, l->delimiter, r->field, IO_CSV_COLUMNS_MAX);
    double label = 0;
    int err = 0;
    if (n != l->columns) {
        char counts[64];
        snprintf(counts, sizeof counts, "%u, where the first line has %u", n, l->columns);
        return complain(r, reterr, "fields: ", counts);
    }
    if (t->t_ns && !parse_date(r->field[0], &t->t_ns[t->rows]))
        return complain(r, reterr, "no date like those before: ", r->field[0]);
    if (t->t_ns && t->rows && t->t_ns[t->rows] < t->t_ns[t->rows - 1])
        t->steps_back = true;
    for (unsigned i = 0; i < l->channels && err == 0; i++)
        err = parse_number(r, r->field[l->channel[i]], &t->x[t->rows * l->channels + i], reterr);
    if (err == 0 && t->label) {
        err = parse_number(r, r->field[r->label], &label, reterr);
        t->label[t->rows] = label > 0;
    }
    t->rows += err == 0;
    return err;
}

static size_t count_lines(const char *text)
{
    size_t n = 1;
    for (; (text = strchr(text, '\n')); text++)
        n++;
    return n;
}

static int read_rows(struct reader *r, bool flatten, struct eval_table *t, char *reterr)
{
    size_t most = count_lines(r->next ? r->next : "");
    char *line = next_line(r);
    int err = 0;
    t->channels = r->layout.channels;
    t->x = malloc(most * t->channels * sizeof *t->x);
    t->label = r->label >= 0 ? malloc(most) : NULL;
    bool clock = !flatten && line && starts_with_date(line, r->layout.delimiter);
    t->t_ns = clock ? malloc(most * sizeof *t->t_ns) : NULL;
    if (!t->x || (clock && !t->t_ns) || (r->label >= 0 && !t->label))
        return -ENOMEM;
    for (; line && err == 0; line = next_line(r))
        err = parse_row(r, line, t, reterr);
    if (flatten) {
        t->rows *= t->channels;
        t->channels = 1;
    }
    return err;
}

static int load_csv(const char *path, const struct eval_columns *c, struct eval_table *t, char *reterr)
{
    struct reader *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->path = path;
    int err = eval_file_read(path, &r->text, &r->bytes, reterr);
    if (err == 0 && memchr(r->text, '\0', r->bytes)) {
        snprintf(reterr, EVAL_ERR, "%s: no text", path);
        err = -EBADMSG;
    }
    if (err == 0)
        err = settle_layout(r, c, reterr);
    if (err == 0)
        err = read_rows(r, c->flatten, t, reterr);
    free(r->text);
    free(r);
    return err;
}

/* ---- any file --------------------------------------------------------------------------------------------- */

int eval_table_load(const char *path, const struct eval_columns *columns, struct eval_table *ret, char *reterr)
{
    struct eval_table t = {0};
    const char *dataset = strstr(path, ".h5:");
    size_t n = eval_file_unpacked(path);
    int err;
    snprintf(reterr, EVAL_ERR, "%s: out of memory", path);
    bool record = n > 4 && strncmp(path + n - 4, ".dat", 4) == 0;
    if ((dataset || record) && (columns->keep || columns->drop || columns->label || columns->flatten)) {
        snprintf(reterr, EVAL_ERR, "%s: columns can be chosen in CSV files only", path);
        err = -EINVAL;
    } else if (dataset)
        err = eval_hdf5_load(path, dataset + 4, &t, reterr);
    else if (record)
        err = eval_wfdb_load(path, &t, reterr);
    else
        err = load_csv(path, columns, &t, reterr);
    if (err == 0 && t.rows == 0) {
        snprintf(reterr, EVAL_ERR, "%s: no rows", path);
        err = -EBADMSG;
    }
    if (err)
        eval_table_done(&t);
    else
        *ret = t;
    return err;
}

void eval_table_done(struct eval_table *t)
{
    free(t->x);
    free(t->t_ns);
    free(t->label);
    *t = (struct eval_table){0};
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

double eval_table_step(const struct eval_table *t)
{
    size_t n = t->rows - 1;
    int64_t *steps = t->t_ns && n ? malloc(n * sizeof *steps) : NULL;
    if (!steps)
        return NAN;
    for (size_t i = 0; i < n; i++)
        steps[i] = t->t_ns[i + 1] - t->t_ns[i];
    qsort(steps, n, sizeof *steps, ascending);
    double median = (double)steps[n / 2] * 1e-9;
    free(steps);
    return median;
}
