/* config_tree.c: nodes of a configuration tree. Trap: adding to a node moves its children; pairs found before are
 * stale. */
#include "daemon/config_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/utf8.h"

struct md_node *md_node_new(enum md_node_kind kind, struct md_where where)
{
    struct md_node *node = calloc(1, sizeof *node);

    if (node) {
        node->kind = kind;
        node->where = where;
    }
    return node;
}

struct md_node *md_node_scalar(const char *text, size_t len, bool null, struct md_where where)
{
    struct md_node *node = md_node_new(MD_SCALAR, where);

    if (!node)
        return NULL;
    node->null = null;
    node->text = strndup(text, len);
    if (!node->text) {
        md_node_free(node);
        return NULL;
    }
    return node;
}

void md_node_free(struct md_node *node)
{
    if (!node)
        return;
    for (unsigned i = 0; i < node->n; i++) {
        free(node->children[i].key);
        md_node_free(node->children[i].value);
    }
    free(node->children);
    free(node->text);
    free(node);
}

struct md_node *md_node_copy(const struct md_node *node, unsigned *nodes)
{
    struct md_node *copy;

    if (++*nodes > MD_TREE_NODES)
        return NULL;
    if (node->kind == MD_SCALAR)
        copy = md_node_scalar(node->text, strlen(node->text), node->null, node->where);
    else
        copy = md_node_new(node->kind, node->where);
    if (copy)
        copy->wrong = node->wrong;
    for (unsigned i = 0; copy && i < node->n; i++) {
        struct md_node *value = md_node_copy(node->children[i].value, nodes);

        if (!value || md_node_add(copy, node->children[i].key, node->children[i].where, value) < 0) {
            md_node_free(copy);
            return NULL;
        }
    }
    return copy;
}

int md_node_add(struct md_node *parent, const char *key, struct md_where where, struct md_node *value)
{
    struct md_pair *grown = NULL;
    char *name = key ? strdup(key) : NULL;

    if (value && (name || !key))
        grown = realloc(parent->children, (parent->n + 1) * sizeof *grown);
    if (!grown) {
        free(name);
        md_node_free(value);
        return -ENOMEM;
    }
    parent->children = grown;
    grown[parent->n++] = (struct md_pair){name, where, value};
    return 0;
}

struct md_pair *md_node_find(const struct md_node *map, const char *key)
{
    if (map->kind != MD_MAP)
        return NULL;
    for (unsigned i = 0; i < map->n; i++)
        if (!strcmp(map->children[i].key, key))
            return &map->children[i];
    return NULL;
}

const char *md_node_kind_name(const struct md_node *node)
{
    return node->kind == MD_MAP ? "a map" : node->kind == MD_SEQ ? "a list" : node->null ? "nothing" : "a value";
}

size_t md_utf8_bad(const char *text, size_t len)
{
    size_t at = 0;
    uint32_t c = 1;

    while (at < len) {
        size_t n = io_utf8_step(text + at, len - at, &c);

        if (n == 0 || c == 0)
            break;
        at += n;
    }
    return at;
}
