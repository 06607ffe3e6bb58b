/* eval_suite.c: see eval_suite.h. A suite is JSON: {"series": [ENTRY, …]}, an entry one or many files that are treated
 * alike. What a * or ? of `files` stood for takes the place of the same * or ? in `train` and `labels`. */
#include "tools/eval_suite.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WILD_MAX = 8 };

struct match {
    const char *at[WILD_MAX];
    size_t bytes[WILD_MAX];
    unsigned n;
};

/* Whether name is like pattern, whose wildcards do not stand for '/'; what each stood for. */
static bool match(const char *pattern, const char *name, struct match *m)
{
    unsigned mine = m->n;
    for (; *pattern && *pattern != '*'; pattern++, name++) {
        if (!*name || (*pattern == '?' ? *name == '/' : *pattern != *name))
            return false;
        if (*pattern == '?' && m->n < WILD_MAX) {
            m->at[m->n] = name;
            m->bytes[m->n++] = 1;
        }
    }
    if (!*pattern)
        return !*name;
    if (m->n == WILD_MAX)
        return false;
    mine = m->n++;
    for (size_t n = 0;; n++) {
        m->n = mine + 1;
        m->at[mine] = name;
        m->bytes[mine] = n;
        if (match(pattern + 1, name + n, m))
            return true;
        if (!name[n] || name[n] == '/')
            return false;
    }
}

/* The pattern with its wildcards filled in, below the folder. */
static char *fill_in(const char *folder, const char *pattern, const struct match *m)
{
    char *out = NULL;
    size_t bytes = 0;
    unsigned wild = 0;
    FILE *f = open_memstream(&out, &bytes);
    if (!f)
        return NULL;
    fputs(folder, f);
    for (; *pattern; pattern++) {
        if ((*pattern == '*' || *pattern == '?') && wild < m->n) {
            fwrite(m->at[wild], 1, m->bytes[wild], f);
            wild++;
        } else {
            fputc(*pattern, f);
        }
    }
    return fclose(f) == 0 ? out : NULL;
}

/* The path below the folder, without packing and extension. */
static char *name_of(const char *path, size_t folder)
{
    size_t n = eval_file_unpacked(path), dot = n - 1;
    while (dot > folder && path[dot] != '.' && path[dot] != '/')
        dot--;
    return strndup(path + folder, (dot > folder && path[dot] == '.' ? dot : n) - folder);
}

/* ---- entries ---------------------------------------------------------------------------------------------- */

static size_t count_at(const json_t *entry, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(entry, key));
    return v > 0 ? (size_t)v : 0;
}

static const char *text_at(const json_t *entry, const char *key)
{
    return json_string_value(json_object_get(entry, key));
}

/* A pair of numbers, from 0 on; false: neither rows nor shares. */
static void read_split(const json_t *entry, struct eval_series *s)
{
    const json_t *train = json_object_get(entry, "train_rows"), *test = json_object_get(entry, "test_rows");
    if (json_is_integer(train)) {
        s->train_rows = (size_t)json_integer_value(train);
        s->test_rows[0] = (size_t)json_integer_value(json_array_get(test, 0));
        s->test_rows[1] = (size_t)json_integer_value(json_array_get(test, 1));
    } else {
        s->train_share = json_number_value(train);
        s->test_share = json_number_value(test);
    }
    s->horizons = json_object_get(entry, "horizons");
}

static void read_entry(const json_t *entry, struct eval_series *s)
{
    const char *family = text_at(entry, "family");
    s->family = family ? family : "files";
    s->columns = (struct eval_columns){.keep = json_object_get(entry, "columns"),
                                       .drop = json_object_get(entry, "drop"),
                                       .label = text_at(entry, "label"),
                                       .header = json_is_true(json_object_get(entry, "header")),
                                       .flatten = json_is_true(json_object_get(entry, "flatten"))};
    s->step_s = json_number_value(json_object_get(entry, "step"));
    s->season = count_at(entry, "season");
    s->horizon = count_at(entry, "horizon");
    s->by_step = json_object_get(entry, "by_step");
    s->returns = json_is_true(json_object_get(entry, "returns"));
    s->normal = json_is_true(json_object_get(entry, "normal"));
    s->fault = count_at(entry, "anomalous_from");
    s->unscored = count_at(entry, "unscored");
    s->nab = json_is_true(json_object_get(entry, "nab"));
    read_split(entry, s);
}

static int check_entry(const json_t *entry, const char *where, char *reterr)
{
    static const struct {
        const char *key;
        json_type type;
    } keys[] = {
        {"files", JSON_STRING},           {"family", JSON_STRING},    {"columns", JSON_ARRAY},  {"drop", JSON_ARRAY},
        {"label", JSON_STRING},           {"header", JSON_TRUE},      {"flatten", JSON_TRUE},   {"step", JSON_REAL},
        {"season", JSON_INTEGER},         {"horizon", JSON_INTEGER},  {"by_step", JSON_OBJECT}, {"returns", JSON_TRUE},
        {"train_rows", JSON_REAL},        {"test_rows", JSON_NULL},   {"horizons", JSON_ARRAY}, {"train", JSON_STRING},
        {"labels", JSON_STRING},          {"unscored", JSON_INTEGER}, {"nab", JSON_TRUE},       {"normal", JSON_TRUE},
        {"anomalous_from", JSON_INTEGER}, {"about", JSON_STRING}};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)entry, key, value)
    {
        size_t k = 0, n = sizeof keys / sizeof *keys;
        while (k < n && strcmp(keys[k].key, key) != 0)
            k++;
        json_type type = json_is_boolean(value) ? JSON_TRUE : json_typeof(value);
        bool fits = k < n && (keys[k].type == type || keys[k].type == JSON_NULL ||
                              (keys[k].type == JSON_REAL && type == JSON_INTEGER));
        if (!fits) {
            snprintf(reterr, EVAL_ERR, "%s: '%.80s': %s", where, key, k < n ? "not of the right type" : "no such key");
            return -EINVAL;
        }
    }
    return 0;
}

static struct eval_series *add_series(struct eval_suite *s)
{
    struct eval_series *v = realloc(s->v, (s->n + 1) * sizeof *v);
    if (!v)
        return NULL;
    s->v = v;
    v[s->n] = (struct eval_series){0};
    return &v[s->n++];
}

/* One file of an entry. */
static int add_file(struct eval_suite *suite, const json_t *entry, const char *folder, const char *path)
{
    const char *pattern = text_at(entry, "files"), *train = text_at(entry, "train"), *labels = text_at(entry, "labels");
    struct eval_series *s = add_series(suite);
    struct match m = {0};
    if (!s)
        return -ENOMEM;
    if (!pattern || !match(pattern, path + strlen(folder), &m))
        m.n = 0;
    read_entry(entry, s);
    s->path = strdup(path);
    s->name = name_of(path, strlen(folder));
    s->train = train ? fill_in(folder, train, &m) : NULL;
    s->labels = labels ? fill_in(folder, labels, &m) : NULL;
    return s->path && s->name && (s->train || !train) && (s->labels || !labels) ? 0 : -ENOMEM;
}

static int add_entry(struct eval_suite *suite, const json_t *entry, const char *where, const char *folder, char *reterr)
{
    const char *pattern = text_at(entry, "files");
    glob_t found = {0};
    char *full = NULL;
    int err = check_entry(entry, where, reterr);
    if (err)
        return err;
    if (!pattern) {
        snprintf(reterr, EVAL_ERR, "%s: an entry without 'files'", where);
        return -EINVAL;
    }
    snprintf(reterr, EVAL_ERR, "%s: no file %.200s%.200s", where, folder, pattern);
    if (asprintf(&full, "%s%s", folder, pattern) < 0)
        return -ENOMEM;
    err = glob(full, 0, NULL, &found) ? -ENOENT : 0;
    for (size_t i = 0; i < found.gl_pathc && err == 0; i++)
        err = add_file(suite, entry, folder, found.gl_pathv[i]);
    globfree(&found);
    free(full);
    return err;
}

/* ---- suites ----------------------------------------------------------------------------------------------- */

int eval_suite_load(const char *path, const char *data, struct eval_suite *ret, char *reterr)
{
    struct eval_suite s = {0};
    json_error_t at;
    char *text = NULL, *folder = NULL;
    size_t bytes, i;
    json_t *entry;
    int err = eval_file_read(path, &text, &bytes, reterr);
    if (err)
        return err;
    s.doc = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &at);
    free(text);
    const json_t *list = json_object_get(s.doc, "series");
    if (!json_is_array(list)) {
        snprintf(reterr, EVAL_ERR, "%s:%d: %.200s", path, s.doc ? 1 : at.line, s.doc ? "no list 'series'" : at.text);
        err = -EINVAL;
    } else if (asprintf(&folder, "%s%s", data, data[strlen(data) - 1] == '/' ? "" : "/") < 0) {
        folder = NULL;
        err = -ENOMEM;
    }
    json_array_foreach((json_t *)list, i, entry) if (err == 0) err = add_entry(&s, entry, path, folder, reterr);
    free(folder);
    if (err)
        eval_suite_done(&s);
    else
        *ret = s;
    return err;
}

int eval_suite_files(json_t *entry, struct eval_suite *ret, char *reterr)
{
    struct eval_suite s = {.doc = entry};
    size_t i;
    json_t *path;
    int err = 0;
    json_array_foreach(json_object_get(entry, "files"), i, path) if (err == 0) err =
        add_file(&s, entry, "", json_string_value(path));
    if (err) {
        snprintf(reterr, EVAL_ERR, "out of memory");
        eval_suite_done(&s);
    } else {
        *ret = s;
    }
    return err;
}

void eval_series_done(struct eval_series *s)
{
    free(s->path);
    free(s->name);
    free(s->train);
    free(s->labels);
}

void eval_suite_done(struct eval_suite *s)
{
    for (size_t i = 0; i < s->n; i++)
        eval_series_done(&s->v[i]);
    free(s->v);
    json_decref(s->doc);
    *s = (struct eval_suite){0};
}
