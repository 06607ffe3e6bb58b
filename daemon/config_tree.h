/* config_tree.h: a YAML text as a tree of nodes that know their place. Made by config_yaml.c from libfyaml's events,
 * changed by config_set.c (--set), walked by the sections. Parents own their children. */
#ifndef MD_CONFIG_TREE_H
#define MD_CONFIG_TREE_H

#include "daemon/config_report.h"

enum md_node_kind { MD_SCALAR, MD_SEQ, MD_MAP };

struct md_node {
    enum md_node_kind kind;
    bool null;  /* a scalar written as nothing, ~ or null */
    bool wrong; /* reported already: not to be read */
    char *text; /* scalars, ${…} resolved */
    struct md_where where;
    struct md_pair *children;
    unsigned n;
};

struct md_pair {
    char *key; /* NULL in sequences */
    struct md_where where;
    struct md_node *value;
};

enum { MD_TREE_NODES = 1 << 16, MD_TREE_DEPTH = 32, MD_TREE_TEXT = 1 << 20 };

struct md_node *md_node_new(enum md_node_kind kind, struct md_where where);
struct md_node *md_node_scalar(const char *text, size_t len, bool null, struct md_where where);
struct md_node *md_node_copy(const struct md_node *node,
                             unsigned *nodes); /* counts the nodes made; NULL above the limit */
void md_node_free(struct md_node *node);

/* Appends; takes `value` (freed when it fails). `key` is copied; NULL in sequences. */
int md_node_add(struct md_node *parent, const char *key, struct md_where where, struct md_node *value);
struct md_pair *md_node_find(const struct md_node *map, const char *key); /* NULL also for non-maps */
const char *md_node_kind_name(const struct md_node *node);                /* "a map", "a list", "a value", "nothing" */

/* Reads one YAML document. On syntax errors *ret is NULL and one error is reported; duplicate keys and variables are
 * reported and reading goes on. `name` stands in every where.file and must outlive the tree. */
int md_tree_read(const char *name, const char *text, bool with_places, struct md_report *report, struct md_node **ret);

/* A scalar with ${VAR} and ${VAR:-default} resolved; `$${` stands for `${`. What cannot be resolved is reported and the
 * node is wrong. NULL: memory. */
struct md_node *md_expand(const char *text, size_t len, bool null, struct md_where where, struct md_report *report);

/* Applies one "key.path=value" to the tree. `arg` must outlive the tree. */
int md_tree_set(struct md_node *root, const char *arg, struct md_report *report);

/* Offset of the first byte that is not UTF-8 or is NUL; `len` when there is none. */
size_t md_utf8_bad(const char *text, size_t len);

#endif
