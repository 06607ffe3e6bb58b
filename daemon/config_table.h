/* config_table.h: maps of a configuration tree into structs, by tables of struct io_option. */
#ifndef MD_CONFIG_TABLE_H
#define MD_CONFIG_TABLE_H

#include "daemon/config_tree.h"
#include "daemon/config_value.h"

enum { MD_PATH = 600, MD_TABLES = 4, MD_KEYS = 96 };

/* Where a map's keys go. */
struct md_table {
    const struct io_option *options; /* ends with name NULL */
    void *base;
};

/* Fills the structs from the map: defaults first, then every key. Reports unknown keys, wrong types, values out of
 * range and missing required keys (at `where`). `others`: keys of the map that the caller reads itself,
 * NULL-terminated, or NULL. `path` is the map's, for messages. */
void md_table_read(struct md_report *report, const struct md_node *map, const char *path, struct md_where where,
                   const struct md_table *tables, unsigned n_tables, const char *const *others);

/* Reads one value by its option; the node may be a list where the option is one. */
void md_option_read(struct md_report *report, const struct io_option *o, const struct md_node *node, const char *path,
                    struct md_where where, void *base);

/* Prints "key: value" lines of a table, each after `indent` spaces; values without default that were not given are left
 * out. */
void md_table_print(const struct io_option *options, const void *base, unsigned indent, FILE *out);

/* "a.b", cut where it is too long. */
void md_path_join(char path[MD_PATH], const char *parent, const char *key);

/* The map of a section or entry; an empty value counts as an empty map. NULL: something else, reported. */
const struct md_node *md_expect_map(struct md_report *report, const struct md_pair *pair, const char *path);

#endif
