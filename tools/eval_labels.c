/* eval_labels.c: which rows are anomalous, from any of four forms: a column of the table, a file of 0 and 1 a row
 * (.txt), NAB's windows of times (.json), telemanom's ranges of rows (.csv). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/csv.h"
#include "tools/eval_suite.h"

static int refuse(char *reterr, const char *path, const char *why, const char *about)
{
    snprintf(reterr, EVAL_ERR, "%s: %s%.200s", path, why, about);
    return -EBADMSG;
}

static bool ends_with(const char *text, size_t n, const char *ending)
{
    size_t m = strlen(ending);
    return n >= m && strncmp(text + n - m, ending, m) == 0;
}

static int labels_by_row(const char *path, size_t rows, uint8_t *label, char *reterr)
{
    struct eval_table t = {0};
    int err = eval_table_load(path, &(struct eval_columns){0}, &t, reterr);
    if (err)
        return err;
    if (t.rows != rows || t.channels != 1)
        err = refuse(reterr, path, "not one label for each row of the series", "");
    for (size_t i = 0; i < rows && err == 0; i++)
        label[i] = t.x[i] > 0;
    eval_table_done(&t);
    return err;
}

/* The file's key is the end of the series' path. */
static int labels_by_time(const char *path, const char *series, const struct eval_table *t, uint8_t *label,
                          char *reterr)
{
    size_t bytes, i, n = eval_file_unpacked(series);
    char *text;
    const char *key;
    json_t *list, *window;
    int err = eval_file_read(path, &text, &bytes, reterr);
    if (err)
        return err;
    json_t *doc = json_loadb(text, bytes, 0, NULL), *mine = NULL;
    free(text);
    json_object_foreach(doc, key, list) if (ends_with(series, n, key)) mine = list;
    if (!json_is_array(mine) || !t->t_ns)
        err = refuse(reterr, path, t->t_ns ? "no windows for " : "times, but no clock in ", series);
    json_array_foreach(mine, i, window)
    {
        const char *from = json_string_value(json_array_get(window, 0)),
                   *to = json_string_value(json_array_get(window, 1));
        int64_t from_ns, to_ns;
        if (err || !from || !to || !io_csv_time(from, IO_CSV_ISO, &from_ns) || !io_csv_time(to, IO_CSV_ISO, &to_ns)) {
            err = err ? err : refuse(reterr, path, "no window of two times: ", series);
            break;
        }
        for (size_t row = 0; row < t->rows; row++)
            label[row] |= t->t_ns[row] >= from_ns && t->t_ns[row] <= to_ns;
    }
    json_decref(doc);
    return err;
}

/* "[[from, to], …]", inclusive. */
static void mark_ranges(const char *text, size_t rows, uint8_t *label)
{
    unsigned long from, to;
    for (const char *at = text; (at = strpbrk(at, "[0123456789")); at++)
        if (sscanf(at, "[%lu, %lu]", &from, &to) == 2)
            for (size_t row = from; row <= to && row < rows; row++)
                label[row] = 1;
}

/* A line CHANNEL,…,"[[from, to], …]",… ; the channel is the beginning of the file's name. A channel may stand twice. */
static int labels_by_range(const char *path, const char *series, size_t rows, uint8_t *label, char *reterr)
{
    const char *slash = strrchr(series, '/'), *name = slash ? slash + 1 : series;
    size_t bytes, n = strcspn(name, ".");
    bool found = false;
    char *text, *rest = NULL;
    int err = eval_file_read(path, &text, &bytes, reterr);
    if (err)
        return err;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *ranges = strstr(line, "[[");
        if (strncmp(line, name, n) != 0 || line[n] != ',' || !ranges)
            continue;
        char *end = strstr(ranges, "]]");
        if (end)
            end[1] = '\0';
        mark_ranges(ranges, rows, label);
        found = true;
    }
    free(text);
    return found ? 0 : refuse(reterr, path, "no ranges for ", name);
}

static void mark_fault(size_t from, size_t rows, uint8_t *label)
{
    for (size_t i = from; i < rows; i++)
        label[i] = 1;
}

int eval_labels_load(const struct eval_series *s, const struct eval_table *t, uint8_t **ret, char *reterr)
{
    size_t n = s->labels ? eval_file_unpacked(s->labels) : 0;
    int err = 0;
    uint8_t *label = calloc(t->rows, 1);
    if (!label) {
        snprintf(reterr, EVAL_ERR, "%s: out of memory", s->path);
        return -ENOMEM;
    }
    if (t->label)
        memcpy(label, t->label, t->rows);
    else if (s->normal || s->fault)
        mark_fault(s->normal ? t->rows : s->fault, t->rows, label);
    else if (!s->labels)
        err = refuse(reterr, s->path, "no labels: name a file of them or a column", "");
    else if (ends_with(s->labels, n, ".json"))
        err = labels_by_time(s->labels, s->path, t, label, reterr);
    else if (ends_with(s->labels, n, ".csv"))
        err = labels_by_range(s->labels, s->path, t->rows, label, reterr);
    else
        err = labels_by_row(s->labels, t->rows, label, reterr);
    if (err)
        free(label);
    else
        *ret = label;
    return err;
}
