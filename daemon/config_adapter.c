/* config_adapter.c: the sections inputs and outputs: keys of every entry, keys shared by all inputs, and the adapter's
 * own from its class's table. The class's check() runs only on an entry that is right so far. */
#include "daemon/config_section.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/config_schema.h"
#include "io/wire.h"

struct entry {
    struct md_report *report;
    const struct md_pair *pair;
    char path[MD_PATH];
};

/* Something in it was reported before it was looked at, and so was not read. */
static bool was_wrong(const struct md_node *node)
{
    bool wrong = node->wrong;

    for (unsigned i = 0; i < node->n && !wrong; i++)
        wrong = was_wrong(node->children[i].value);
    return wrong;
}

/* Nothing was reported about the entry: it can be checked as a whole. */
static bool right_so_far(const struct entry *e, unsigned errors_before)
{
    return e->report->n == errors_before && !e->report->starved && !was_wrong(e->pair->value);
}

/* The place of a key's value, or of the entry where the key is not given. */
static struct md_where entry_place(const struct entry *e, const char *key)
{
    const struct md_pair *pair = key ? md_node_find(e->pair->value, key) : NULL;

    if (!pair)
        return e->pair->where;
    return pair->value->where.line || !pair->where.line ? pair->value->where : pair->where;
}

static bool open_entry(struct entry *e, struct md_report *report, const char *section, const struct md_pair *pair)
{
    e->report = report;
    e->pair = pair;
    md_path_join(e->path, section, pair->key);
    if (!io_id_valid(pair->key, strlen(pair->key)))
        md_report(report, pair->where, "%s: an id is 1 to 200 bytes without control characters", section);
    return md_expect_map(report, pair, e->path) != NULL;
}

/* The text of `type`; NULL where it is missing or no name (reported). */
static const char *entry_type(const struct entry *e)
{
    const struct md_pair *type = md_node_find(e->pair->value, "type");

    if (!type)
        md_report(e->report, e->pair->where, "%s: missing key 'type'", e->path);
    else if (type->value->wrong)
        return NULL;
    else if (type->value->kind != MD_SCALAR || type->value->null)
        md_report(e->report, entry_place(e, "type"), "%s.type: must be a name, not %s", e->path,
                  md_node_kind_name(type->value));
    else
        return type->value->text;
    return NULL;
}

static void report_type(const struct entry *e, const char *type, const char *why, const char **names, unsigned n)
{
    char hint[MD_HINT];

    md_hint(type, names, n, hint);
    if (why)
        md_report(e->report, entry_place(e, "type"), "%s.type: '%s' cannot be had: %s", e->path, type, why);
    else
        md_report(e->report, entry_place(e, "type"), "%s.type: unknown type '%.100s'%s", e->path, type, hint);
}

/* ---- inputs ----------------------------------------------------------------------------------------------------- */

static const struct io_source_class *source_class(const struct entry *e)
{
    const char *type = entry_type(e), *why = NULL, *names[MD_KEYS];
    const struct io_source_class *class_ = type ? io_source_find(type, &why) : NULL;
    unsigned n = 0;

    if (!type || class_)
        return class_;
    while (n < MD_KEYS && io_source_at(n)) {
        names[n] = io_source_at(n)->type;
        n++;
    }
    report_type(e, type, why, names, n);
    return NULL;
}

static unsigned find_model(const struct md_config *config, const struct entry *e, const char *name)
{
    const char *names[MD_KEYS];
    char hint[MD_HINT];

    for (unsigned i = 0; i < config->n_models; i++)
        if (name ? !strcmp(config->models[i].id, name) : config->n_models == 1)
            return i;
    md_hint(name, names, md_model_names(config, names), hint);
    if (name)
        md_report(e->report, entry_place(e, "model"), "%s.model: no model '%.100s'%s", e->path, name, hint);
    else if (config->n_models)
        md_report(e->report, e->pair->where, "%s: missing key 'model'%s", e->path, hint);
    else
        md_report(e->report, e->pair->where, "%s: there is no model: section 'models' is empty", e->path);
    return 0;
}

static void read_input(struct md_config *config, struct md_input_conf *input, const struct entry *e)
{
    struct md_input_keys keys = {0};
    struct md_table tables[] = {{md_input_options, &keys}, {io_common_options, NULL}, {NULL, NULL}};
    const struct io_source_class *class_ = source_class(e);
    unsigned before = e->report->n;
    const char *key = NULL;
    char reterr[IO_ERR] = "";
    bool blocks;

    input->conf = class_ ? calloc(1, class_->conf_bytes) : NULL;
    e->report->starved |= class_ && !input->conf;
    if (!input->conf)
        return;
    input->class_ = class_;
    tables[1].base = tables[2].base = input->conf;
    tables[2].options = class_->options;
    md_refuse_later(e->report, e->pair->value, "inputs", class_->type, e->path);
    md_table_read(e->report, e->pair->value, e->path, e->pair->where, tables, 3, NULL);
    input->model = find_model(config, e, keys.model);
    input->queue = (uint32_t)keys.queue;
    input->max_streams = (uint32_t)keys.max_streams;
    if (right_so_far(e, before) && class_->check && class_->check(input->conf, &key, reterr) < 0)
        md_report(e->report, entry_place(e, key), "%s%s%s: %s", e->path, key ? "." : "", key ? key : "", reterr);
    if (right_so_far(e, before)) {
        blocks = class_->blocks ? class_->blocks(input->conf) : class_->replayable;
        input->when_full = blocks ? MD_BLOCK : MD_DROP_OLDEST;
    }
    if (md_node_find(e->pair->value, "when_full"))
        input->when_full = (enum md_when_full)keys.when_full;
    md_values_free(md_input_options, &keys);
}

void md_read_inputs(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    const struct md_pair *section = md_node_find(root, "inputs");
    const struct md_node *map = section ? md_expect_map(report, section, "inputs") : NULL;
    struct entry e;

    if (!map || map->n == 0)
        return;
    config->inputs = calloc(map->n, sizeof *config->inputs);
    report->starved |= !config->inputs;
    for (unsigned i = 0; config->inputs && i < map->n; i++) {
        struct md_input_conf *input = &config->inputs[config->n_inputs++];

        input->id = strdup(map->children[i].key);
        report->starved |= !input->id;
        input->where = map->children[i].where;
        if (open_entry(&e, report, "inputs", &map->children[i]))
            read_input(config, input, &e);
    }
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

static const struct io_sink_class *sink_class(const struct entry *e)
{
    const char *type = entry_type(e), *why = NULL, *names[MD_KEYS];
    const struct io_sink_class *class_ = type ? io_sink_find(type, &why) : NULL;
    unsigned n = 0;

    if (!type || class_)
        return class_;
    while (n < MD_KEYS && io_sink_at(n)) {
        names[n] = io_sink_at(n)->type;
        n++;
    }
    report_type(e, type, why, names, n);
    return NULL;
}

static unsigned family_bits(const struct entry *e, const struct io_strings *families)
{
    unsigned bits = 0;
    char hint[MD_HINT];

    if (!md_node_find(e->pair->value, "families"))
        return (1u << IO_FAMILIES) - 1;
    for (unsigned i = 0; i < families->n; i++) {
        const char *names[IO_FAMILIES];
        unsigned f = 0;

        while (f < IO_FAMILIES && strcmp(families->v[i], io_family_name((enum io_family)f)))
            f++;
        bits |= f < IO_FAMILIES ? 1u << f : 0;
        if (f < IO_FAMILIES)
            continue;
        for (f = 0; f < IO_FAMILIES; f++)
            names[f] = io_family_name((enum io_family)f);
        md_hint(families->v[i], names, IO_FAMILIES, hint);
        md_report(e->report, entry_place(e, "families"), "%s.families: unknown family '%.100s'%s", e->path,
                  families->v[i], hint);
    }
    return bits;
}

static void read_output(struct md_output_conf *output, const struct entry *e, bool resumes)
{
    struct md_output_keys keys = {0};
    struct md_table tables[] = {{md_output_options, &keys}, {NULL, NULL}};
    const struct io_sink_class *class_ = sink_class(e);
    unsigned before = e->report->n;
    const char *key = NULL;
    char reterr[IO_ERR] = "";

    output->conf = class_ ? calloc(1, class_->conf_bytes) : NULL;
    e->report->starved |= class_ && !output->conf;
    if (!output->conf)
        return;
    output->class_ = class_;
    tables[1] = (struct md_table){class_->options, output->conf};
    md_refuse_later(e->report, e->pair->value, "outputs", class_->type, e->path);
    md_table_read(e->report, e->pair->value, e->path, e->pair->where, tables, 2, NULL);
    output->families = family_bits(e, &keys.families);
    if (e->report->n == before && output->families == 0)
        md_report(e->report, entry_place(e, "families"), "%s.families: the list is empty", e->path);
    if (right_so_far(e, before) && class_->check && class_->check(output->conf, resumes, &key, reterr) < 0)
        md_report(e->report, entry_place(e, key), "%s%s%s: %s", e->path, key ? "." : "", key ? key : "", reterr);
    md_values_free(md_output_options, &keys);
}

void md_read_outputs(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    const struct md_pair *section = md_node_find(root, "outputs");
    const struct md_node *map = section ? md_expect_map(report, section, "outputs") : NULL;
    struct entry e;

    if (!map || map->n == 0)
        return;
    config->outputs = calloc(map->n, sizeof *config->outputs);
    report->starved |= !config->outputs;
    for (unsigned i = 0; config->outputs && i < map->n; i++) {
        struct md_output_conf *output = &config->outputs[config->n_outputs++];

        output->id = strdup(map->children[i].key);
        report->starved |= !output->id;
        output->where = map->children[i].where;
        if (open_entry(&e, report, "outputs", &map->children[i]))
            read_output(output, &e, config->state_dir != NULL);
    }
}
