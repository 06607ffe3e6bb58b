/* config_sole.c: what only one of all adapters can have: a file that it writes, an address that it binds. After all
 * sections have been read. */
#include "daemon/config_section.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/config_schema.h"

struct claim {
    const char *what, *value; /* borrowed */
    char path[MD_PATH];       /* of the key */
};

struct claims {
    struct md_report *report;
    struct claim *v;
    unsigned n, cap;
};

/* Standard output and devices; ports and names that the system chooses. */
static bool is_for_all(const char *value)
{
    size_t n = strlen(value);

    return !strcmp(value, "-") || !strncmp(value, "/dev/", 5) || (n > 0 && value[n - 1] == '*') ||
           (n > 1 && !strcmp(value + n - 2, ":0"));
}

static void claim(struct claims *c, const char *what, const struct md_node *value, const char *path)
{
    struct claim *grown = c->v;

    if (value->kind != MD_SCALAR || value->wrong || is_for_all(value->text))
        return;
    for (unsigned i = 0; i < c->n; i++) {
        if (strcmp(c->v[i].what, what) || strcmp(c->v[i].value, value->text))
            continue;
        md_report(c->report, value->where, "%s: '%.150s': this %s is that of %s already", path, value->text, what,
                  c->v[i].path);
        return;
    }
    if (c->n == c->cap && !(grown = realloc(c->v, (2 * c->cap + 16) * sizeof *grown))) {
        c->report->starved = true;
        return;
    }
    c->cap = c->n == c->cap ? 2 * c->cap + 16 : c->cap;
    c->v = grown;
    c->v[c->n] = (struct claim){.what = what, .value = value->text};
    strcpy(c->v[c->n++].path, path);
}

static void claim_all(struct claims *c, const struct io_option *options, const struct md_node *map, const char *path)
{
    for (const struct io_option *o = options; o->name; o++) {
        const struct md_pair *pair = o->sole ? md_node_find(map, o->name) : NULL;
        char key[MD_PATH];
        if (!pair)
            continue;
        md_path_join(key, path, o->name);
        claim(c, o->sole, pair->value, key);
        for (unsigned i = 0; i < pair->value->n; i++)
            claim(c, o->sole, pair->value->children[i].value, key);
    }
}

/* Entry i of a section, and its path. */
static const struct md_node *entry(const struct md_node *root, const char *section, unsigned i, char path[MD_PATH])
{
    const struct md_pair *pair = &md_node_find(root, section)->value->children[i];

    md_path_join(path, section, pair->key);
    return pair->value;
}

void md_check_sole(const struct md_config *config, struct md_report *report, const struct md_node *root)
{
    const struct md_pair *server = md_node_find(root, "server");
    struct claims c = {.report = report};
    char path[MD_PATH];

    for (unsigned i = 0; i < config->n_inputs; i++) {
        const struct md_node *map = entry(root, "inputs", i, path);
        if (config->inputs[i].class_)
            claim_all(&c, config->inputs[i].class_->options, map, path);
    }
    for (unsigned i = 0; i < config->n_outputs; i++) {
        const struct md_node *map = entry(root, "outputs", i, path);
        if (config->outputs[i].class_)
            claim_all(&c, config->outputs[i].class_->options, map, path);
    }
    if (server)
        claim_all(&c, md_server_options, server->value, "server");
    free(c.v);
}
