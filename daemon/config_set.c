/* config_set.c: `--set key.path=value` on a configuration tree. A component of the path that holds dots or '=' is
 * written in double quotes (streams."plant.*".nan=skip). A value that opens with [ { " or ' is YAML, any other is taken
 * as it is, so that globs and addresses need no quoting. Errors carry the whole argument as their place. */
#include "daemon/config_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_KEY = 256 };

/* The next component of the path into key; returns where it ends ('.' or '='), NULL when it is malformed. */
static const char *next_key(const char *at, char key[PATH_KEY])
{
    const char *end;
    size_t len;

    if (*at == '"') {
        end = strchr(++at, '"');
        if (!end)
            return NULL;
        len = (size_t)(end++ - at);
    } else {
        end = at + strcspn(at, ".=");
        len = (size_t)(end - at);
    }
    if (len == 0 || len >= PATH_KEY || (*end != '.' && *end != '='))
        return NULL;
    memcpy(key, at, len);
    key[len] = 0;
    return end;
}

static int read_value(const char *text, const char *origin, struct md_report *report, struct md_node **ret)
{
    struct md_where where = {origin, 0, 0};
    bool null = !*text || !strcmp(text, "~") || !strcmp(text, "null");

    if (md_utf8_bad(text, strlen(text)) < strlen(text)) {
        md_report(report, where, "not UTF-8");
        return -EINVAL;
    }
    if (*text && strchr("[{\"'", *text))
        return md_tree_read(origin, text, false, report, ret);
    *ret = md_expand(text, strlen(text), null, where, report);
    return *ret ? 0 : -ENOMEM;
}

/* The map at `key` below `map`, made where it is missing or null. NULL: something else stands there. */
static struct md_node *step_into(struct md_node *map, const char *key, struct md_where where)
{
    struct md_pair *pair = md_node_find(map, key);

    if (!pair) {
        if (md_node_add(map, key, where, md_node_new(MD_MAP, where)) < 0)
            return NULL;
        pair = &map->children[map->n - 1];
    }
    if (pair->value->kind == MD_SCALAR && pair->value->null)
        pair->value->kind = MD_MAP;
    return pair->value->kind == MD_MAP ? pair->value : NULL;
}

int md_tree_set(struct md_node *root, const char *origin, struct md_report *report)
{
    struct md_where where = {origin, 0, 0};
    const char *at = origin + strlen("--set ");
    char key[PATH_KEY];
    struct md_node *map = root, *value;
    struct md_pair *pair;
    int rc;

    for (;;) {
        at = next_key(at, key);
        if (!at) {
            md_report(report, where, "not of the form key.path=value");
            return -EINVAL;
        }
        if (*at++ == '=')
            break;
        map = map->kind == MD_MAP ? step_into(map, key, where) : NULL;
        if (!map) {
            md_report(report, where, "'%s' is not a map", key);
            return -EINVAL;
        }
    }
    rc = read_value(at, origin, report, &value);
    if (rc < 0)
        return rc;
    pair = md_node_find(map, key);
    if (!pair)
        return md_node_add(map, key, where, value);
    md_node_free(pair->value);
    pair->value = value;
    pair->where = where;
    return 0;
}
