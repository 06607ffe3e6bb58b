/* config_table.c: see config_table.h. Every map of the configuration that has fixed keys passes through here, so that
 * what is said about a wrong one is the same everywhere. */
#include "daemon/config_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void md_path_join(char path[MD_PATH], const char *parent, const char *key)
{
    snprintf(path, MD_PATH, "%s%s%s", parent, *parent ? "." : "", key);
}

const struct md_node *md_expect_map(struct md_report *report, const struct md_pair *pair, const char *path)
{
    static const struct md_node empty = {.kind = MD_MAP};

    if (pair->value->kind == MD_MAP)
        return pair->value;
    if (pair->value->null || pair->value->wrong)
        return &empty;
    md_report(report, pair->value->where, "%s: must be a map, not %s", path, md_node_kind_name(pair->value));
    return NULL;
}

static const struct io_option *find_option(const struct md_table *tables, unsigned n, const char *key, void **ret_base)
{
    for (unsigned i = 0; i < n; i++)
        for (const struct io_option *o = tables[i].options; o && o->name; o++)
            if (!strcmp(o->name, key)) {
                *ret_base = tables[i].base;
                return o;
            }
    return NULL;
}

static bool is_listed(const char *const *names, const char *key)
{
    for (; names && *names; names++)
        if (!strcmp(*names, key))
            return true;
    return false;
}

static void report_unknown(struct md_report *report, const struct md_pair *pair, const char *path,
                           const struct md_table *tables, unsigned n_tables, const char *const *others)
{
    const char *names[MD_KEYS];
    char hint[MD_HINT];
    unsigned n = 0;

    for (unsigned i = 0; i < n_tables; i++)
        for (const struct io_option *o = tables[i].options; o && o->name && n < MD_KEYS; o++)
            names[n++] = o->name;
    for (; others && *others && n < MD_KEYS; others++)
        names[n++] = *others;
    md_hint(pair->key, names, n, hint);
    md_report(report, pair->where, "%s%sunknown key '%s'%s", path, *path ? ": " : "", pair->key, hint);
}

/* Values by --set have no place of their own but their argument's; those of a file have. */
static struct md_where value_place(const struct md_node *node, struct md_where key)
{
    return node->where.line || !key.line ? node->where : key;
}

static void read_one(struct md_report *report, const struct io_option *o, const struct md_node *node, const char *path,
                     struct md_where where, void *base)
{
    static const char *const kinds[] = {"a string", "a list of strings", "true or false", "an integer",
                                        "a number", "a duration",        "a size",        "a name"};
    char why[MD_WHY];
    int r;

    if (node->wrong)
        return;
    if (node->kind != MD_SCALAR || node->null) {
        md_report(report, where, "%s: must be %s, not %s", path, kinds[o->kind], md_node_kind_name(node));
        return;
    }
    r = md_value_parse(o, node->text, base, why);
    report->starved |= r == -ENOMEM;
    if (r == -EINVAL)
        md_report(report, where, "%s: %s", path, why);
}

void md_option_read(struct md_report *report, const struct io_option *o, const struct md_node *node, const char *path,
                    struct md_where where, void *base)
{
    where = value_place(node, where);
    if (o->kind == IO_OPT_STRINGS) {
        const struct io_option one[] = {*o, {NULL}};

        md_values_free(one, base);
        for (unsigned i = 0; node->kind == MD_SEQ && i < node->n; i++)
            read_one(report, o, node->children[i].value, path, value_place(node->children[i].value, where), base);
        if (node->kind == MD_SEQ && node->n == 0 && o->required)
            md_report(report, where, "%s: the list is empty", path);
    }
    if (o->kind != IO_OPT_STRINGS || node->kind != MD_SEQ)
        read_one(report, o, node, path, where, base);
}

void md_table_read(struct md_report *report, const struct md_node *map, const char *path, struct md_where where,
                   const struct md_table *tables, unsigned n_tables, const char *const *others)
{
    char key_path[MD_PATH];
    void *base = NULL;

    for (unsigned i = 0; i < n_tables; i++)
        for (const struct io_option *o = tables[i].options; o && o->name; o++)
            report->starved |= md_value_default(o, tables[i].base) < 0;
    for (unsigned i = 0; i < map->n; i++) {
        const struct md_pair *pair = &map->children[i];
        const struct io_option *o = find_option(tables, n_tables, pair->key, &base);

        md_path_join(key_path, path, pair->key);
        if (pair->value->wrong)
            continue;
        if (o)
            md_option_read(report, o, pair->value, key_path, pair->where, base);
        else if (!is_listed(others, pair->key))
            report_unknown(report, pair, path, tables, n_tables, others);
    }
    for (unsigned i = 0; i < n_tables; i++)
        for (const struct io_option *o = tables[i].options; o && o->name; o++)
            if (o->required && !md_node_find(map, o->name))
                md_report(report, where, "%s: missing key '%s'", path, o->name);
}

void md_table_print(const struct io_option *options, const void *base, unsigned indent, FILE *out)
{
    for (const struct io_option *o = options; o && o->name; o++) {
        if (!md_value_given(o, base))
            continue;
        fprintf(out, "%*s%s: ", (int)indent, "", o->name);
        md_value_print(o, base, out);
        fputc('\n', out);
    }
}
