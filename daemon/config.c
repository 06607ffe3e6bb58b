/* config.c: reads a configuration: text → tree (config_yaml.c) → --set (config_set.c) → sections (config_section.c,
 * config_adapter.c, config_policy.c) → struct md_config, which is used only when nothing was reported. Before the
 * daemon's threads start. The tree's places point to strings that the config owns. */
#include "daemon/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_schema.h"
#include "daemon/config_section.h"

/* ---- ownership -------------------------------------------------------------------------------------------------- */

static void free_inputs(struct md_config *c)
{
    for (unsigned i = 0; i < c->n_inputs; i++) {
        struct md_input_conf *input = &c->inputs[i];

        if (input->conf && input->class_) {
            md_values_free(io_common_options, input->conf);
            md_values_free(input->class_->options, input->conf);
        }
        free(input->conf);
        free(input->id);
    }
    free(c->inputs);
}

static void free_outputs(struct md_config *c)
{
    for (unsigned i = 0; i < c->n_outputs; i++) {
        struct md_output_conf *output = &c->outputs[i];

        if (output->conf && output->class_)
            md_values_free(output->class_->options, output->conf);
        free(output->conf);
        free(output->id);
    }
    free(c->outputs);
}

void md_config_free(struct md_config **config)
{
    struct md_config *c = *config;

    *config = NULL;
    if (!c)
        return;
    free_inputs(c);
    free_outputs(c);
    for (unsigned i = 0; i < c->n_models; i++) {
        free(c->models[i].id);
        free(c->models[i].path);
        free(c->models[i].device);
    }
    free(c->models);
    for (unsigned i = 0; i < c->n_rules; i++)
        free(c->rules[i].glob);
    free(c->rules);
    for (unsigned i = 0; i < c->n_origins; i++)
        free(c->origins[i]);
    free(c->origins);
    free(c->state_dir);
    free(c->control);
    free(c->generate.endpoint);
    free(c->generate.curve_key);
    free(c->generate.curve_clients);
    free(c->text);
    free(c->file);
    free(c);
}

/* A string that lives as long as the config; NULL when memory is out. */
static const char *keep(struct md_config *c, const char *prefix, const char *text)
{
    char **grown = realloc(c->origins, (c->n_origins + 1) * sizeof *grown);

    if (!grown)
        return NULL;
    c->origins = grown;
    if (asprintf(&grown[c->n_origins], "%s%s", prefix, text) < 0)
        return NULL;
    return grown[c->n_origins++];
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void check_sections(struct md_report *report, struct md_node *root)
{
    md_refuse_later(report, root, "", NULL, "");
    for (unsigned i = 0; i < root->n; i++) {
        const char *names[MD_KEYS];
        char hint[MD_HINT];
        unsigned n = 0;
        bool known = false;

        for (; md_section_names[n]; n++) {
            names[n] = md_section_names[n];
            known |= !strcmp(names[n], root->children[i].key);
        }
        if (known || root->children[i].value->wrong)
            continue;
        md_hint(root->children[i].key, names, n, hint);
        md_report(report, root->children[i].where, "unknown key '%s'%s", root->children[i].key, hint);
    }
}

static void read_sections(struct md_config *c, struct md_report *report, const struct md_node *root, bool complete)
{
    const struct md_where nowhere = {c->file, 0, 0};

    md_read_state(c, report, root); /* which outputs have to live with */
    md_read_models(c, report, root);
    md_read_inputs(c, report, root);
    md_read_outputs(c, report, root);
    md_read_streams(c, report, root);
    md_read_batch(c, report, root);
    md_read_server(c, report, root);
    md_read_log(c, report, root);
    md_check_sole(c, report, root);
    complete = complete && !report->starved && !c->generate.endpoint; /* it may do nothing but serve texts */
    if (complete && c->n_inputs == 0)
        md_report(report, nowhere, "there are no inputs");
    if (complete && c->n_outputs == 0)
        md_report(report, nowhere, "there are no outputs");
}

static void read_tree(struct md_config *c, struct md_report *report, const char *const *sets, unsigned n_sets,
                      bool complete)
{
    struct md_node *root = NULL;
    const char *origin;

    if (md_tree_read(c->file, c->text, true, report, &root) < 0)
        return;
    if (root->kind == MD_SCALAR && root->null)
        root->kind = MD_MAP;
    if (root->kind != MD_MAP) {
        md_report(report, root->where, "must be a map of sections, not %s", md_node_kind_name(root));
        md_node_free(root);
        return;
    }
    for (unsigned i = 0; i < n_sets; i++) {
        origin = keep(c, "--set ", sets[i]);
        report->starved |= !origin || md_tree_set(root, origin, report) == -ENOMEM;
    }
    check_sections(report, root);
    read_sections(c, report, root, complete);
    md_node_free(root);
}

int md_config_parse(const char *name, const char *text, const char *const *sets, unsigned n_sets, bool complete,
                    FILE *errors, struct md_config **ret)
{
    struct md_config *c = calloc(1, sizeof *c);
    struct md_report report = {0};
    bool starved;

    if (!c)
        return -ENOMEM;
    c->file = strdup(name);
    c->text = strdup(text);
    report.text = c->text;
    if (c->file && c->text)
        read_tree(c, &report, sets, n_sets, complete);
    starved = report.starved |= !c->file || !c->text;
    if (md_report_flush(&report, errors) > 0) {
        md_config_free(&c);
        return starved ? -ENOMEM : -EINVAL;
    }
    *ret = c;
    return 0;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

/* The whole of a file as a string. -EFBIG above the limit, -EBADMSG where it holds NUL. */
static int read_file(FILE *in, char **ret)
{
    char *text = malloc(MD_TREE_TEXT + 2);
    size_t n = text ? fread(text, 1, MD_TREE_TEXT + 1, in) : 0;
    int rc = !text ? -ENOMEM : ferror(in) ? -errno : n > MD_TREE_TEXT ? -EFBIG : memchr(text, 0, n) ? -EBADMSG : 0;

    if (rc < 0) {
        free(text);
        return rc;
    }
    text[n] = 0;
    *ret = text;
    return 0;
}

int md_config_load(const char *file, const char *const *sets, unsigned n_sets, bool complete, FILE *errors,
                   struct md_config **ret)
{
    bool standard = !strcmp(file, "-");
    const char *name = standard ? "(stdin)" : file;
    FILE *in = standard ? stdin : fopen(file, "re");
    char *text = NULL;
    int rc = in ? read_file(in, &text) : -errno;

    if (in && !standard)
        fclose(in);
    if (rc == -EFBIG || rc == -EBADMSG) {
        fprintf(errors, "%s: error: %s\n", name, rc == -EFBIG ? "larger than 1 MiB" : "holds NUL bytes: not YAML");
        return -EINVAL;
    }
    if (rc < 0) {
        fprintf(errors, "%s: error: %s\n", name, strerror(-rc));
        return rc == -ENOMEM ? rc : -ENOENT;
    }
    rc = md_config_parse(name, text, sets, n_sets, complete, errors, ret);
    free(text);
    return rc;
}
