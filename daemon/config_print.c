/* config_print.c: the effective configuration as YAML (--print-config): every key with a value, defaults included, by
 * the tables that also read it, so that it reads back to the same. Variables and --set are resolved in it. */
#include "daemon/config.h"

#include <string.h>

#include "daemon/config_schema.h"
#include "daemon/config_table.h"
#include "daemon/config_units.h"

static void print_id(const char *id, FILE *out)
{
    fputs("  ", out);
    md_print_string(id, out);
    fputs(":\n", out);
}

void md_config_print_model(const struct md_config *c, unsigned i, FILE *out)
{
    const struct md_model_conf *m = &c->models[i];
    struct md_model_keys keys = {m->path,       m->device,        m->weights_stored ? 0 : 1 + (int)m->weights,
                                 (int)m->state, m->deterministic, m->slots,
                                 m->threads,    m->carry};

    print_id(m->id, out);
    md_table_print(md_model_options, &keys, 4, out);
}

void md_config_print_input(const struct md_config *c, unsigned i, FILE *out)
{
    const struct md_input_conf *input = &c->inputs[i];
    struct md_input_keys keys = {(char *)(uintptr_t)input->class_->type, c->models[input->model].id,
                                 (int)input->when_full, input->queue, input->max_streams};

    print_id(input->id, out);
    md_table_print(md_input_options, &keys, 4, out);
    md_table_print(io_common_options, input->conf, 4, out);
    md_table_print(input->class_->options, input->conf, 4, out);
}

void md_config_print_output(const struct md_config *c, unsigned i, FILE *out)
{
    const struct md_output_conf *output = &c->outputs[i];
    char *names[IO_FAMILIES];
    struct md_output_keys keys = {(char *)(uintptr_t)output->class_->type, {names, 0}};

    for (unsigned f = 0; f < IO_FAMILIES; f++)
        if (output->families & 1u << f)
            names[keys.families.n++] = (char *)(uintptr_t)io_family_name((enum io_family)f);
    print_id(output->id, out);
    md_table_print(md_output_options, &keys, 4, out);
    md_table_print(output->class_->options, output->conf, 4, out);
}

static void print_entries(const char *section, unsigned n, const struct md_config *c,
                          void (*print)(const struct md_config *c, unsigned i, FILE *out), FILE *out)
{
    if (n)
        fprintf(out, "%s:\n", section);
    for (unsigned i = 0; i < n; i++)
        print(c, i, out);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

static void print_family(enum io_family f, const struct md_publish *p, FILE *out)
{
    fprintf(out, "      %s: ", io_family_name(f));
    if (!p->on) {
        fputs("false\n", out);
        return;
    }
    fprintf(out, "{every: %u", p->every);
    if (p->horizon)
        fprintf(out, ", horizon: %u", p->horizon);
    for (unsigned i = 0; i < p->n_quantiles; i++) {
        fputs(i ? ", " : ", quantiles: [", out);
        md_print_float(p->quantiles[i], out);
    }
    fputs(p->n_quantiles ? "]}\n" : "}\n", out);
}

static void print_policy_key(unsigned key, const struct md_policy *p, FILE *out)
{
    const struct io_option *o = &md_policy_options[key];

    fprintf(out, "    %s: ", o->name);
    md_value_print(o, p, out);
    fputc('\n', out);
}

/* The rule's own keys; for "*", which the built-in ones stand behind, all. */
static void print_rule(const char *glob, const struct md_policy *p, unsigned long set, FILE *out)
{
    bool publish = set >> MD_KEY_PUBLISH != 0;

    fputs("  ", out);
    md_print_string(glob, out);
    fputs(set ? ":\n" : ": {}\n", out);
    for (unsigned key = MD_KEY_NAN; key <= MD_KEY_ADAPT; key++)
        if (set & 1ul << key)
            print_policy_key(key, p, out);
    if (set & 1ul << MD_KEY_GAP) {
        fputs("    gap: {max: ", out);
        md_print_duration(p->gap_max_ns, out);
        fputs("}\n", out);
    }
    if (set & 1ul << MD_KEY_ALARM) {
        fputs("    alarm: {p: ", out);
        md_print_real(p->alarm_p, out);
        fputs("}\n", out);
    }
    if (publish)
        fputs("    publish:\n", out);
    for (unsigned f = 0; f < IO_FAMILIES; f++)
        if (md_family_settable((enum io_family)f) && set & 1ul << (MD_KEY_PUBLISH + f))
            print_family((enum io_family)f, &p->publish[f], out);
}

static void print_streams(const struct md_config *c, FILE *out)
{
    struct md_policy fallback;

    fputs("streams:\n", out);
    for (unsigned i = 0; i < c->n_rules; i++)
        if (strcmp(c->rules[i].glob, "*"))
            print_rule(c->rules[i].glob, &c->rules[i].policy, c->rules[i].set, out);
    md_policy_fallback(c, &fallback);
    print_rule("*", &fallback, ~0ul, out);
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

void md_config_print(const struct md_config *c, FILE *out)
{
    struct md_batch_keys batch = {c->max_delay_ns, c->max_streams};
    struct md_state_keys state = {c->state_dir,      c->state_interval_ns, c->state_keep, c->state_forget_after_ns,
                                  c->state_remember, c->state_spill_bytes};
    const struct md_generate_conf *g = &c->generate;
    struct md_server_keys server = {
        c->control,  c->shutdown_timeout_ns, g->endpoint, g->curve_key, g->curve_clients, g->insecure,
        g->requests, g->per_client,          g->prompt,   g->bytes};
    struct md_log_keys log = {(int)c->log_level, (int)c->log_format};

    print_entries("models", c->n_models, c, md_config_print_model, out);
    print_entries("inputs", c->n_inputs, c, md_config_print_input, out);
    print_entries("outputs", c->n_outputs, c, md_config_print_output, out);
    print_streams(c, out);
    fputs("batch:\n", out);
    md_table_print(md_batch_options, &batch, 2, out);
    if (c->state_dir) {
        fputs("state:\n", out);
        md_table_print(md_state_options, &state, 2, out);
    }
    fputs("server:\n", out);
    md_table_print(md_server_options, &server, 2, out);
    fputs("log:\n", out);
    md_table_print(md_log_options, &log, 2, out);
}
