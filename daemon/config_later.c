/* config_later.c: what the contract has and this version has not: refused by name rather than as an unknown key. A row
 * goes when its subject lands. */
#include "daemon/config_section.h"

#include <fnmatch.h>
#include <string.h>

struct later {
    const char *section, *type; /* type NULL: any */
    const char *key;            /* glob */
    const char *value;          /* NULL: any */
    const char *what;
};

static const struct later table[] = {
    {"", NULL, "http", NULL, "the http section"},
};

static const struct later *find(const char *section, const char *type, const struct md_pair *pair)
{
    const char *value = pair->value->kind == MD_SCALAR ? pair->value->text : "";

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct later *l = &table[i];

        if (!strcmp(l->section, section) && (!l->type || (type && !strcmp(l->type, type))) &&
            !fnmatch(l->key, pair->key, 0) && (!l->value || !strcmp(l->value, value)))
            return l;
    }
    return NULL;
}

void md_refuse_later(struct md_report *report, struct md_node *map, const char *section, const char *type,
                     const char *path)
{
    for (unsigned i = 0; map->kind == MD_MAP && i < map->n; i++) {
        struct md_pair *pair = &map->children[i];
        const struct later *l = find(section, type, pair);

        if (!l)
            continue;
        md_report(report, pair->where, "%s%s%s: not in this version: %s", path, *path ? "." : "", pair->key, l->what);
        pair->value->wrong = true;
    }
}
