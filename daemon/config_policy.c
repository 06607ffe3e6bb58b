/* config_policy.c: the section streams: rules by glob on stream ids, and the policy of one id. "*" is the default
 * wherever it stands; of the other rules the first that matches counts. A rule holds what it sets (`set`), so that what
 * it leaves out falls through key by key; publish falls through family by family. */
#include "daemon/config_section.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_schema.h"

struct rule {
    struct md_report *report;
    struct md_policy_rule *out;
    char path[MD_PATH];
};

static struct md_where value_place(const struct md_pair *pair)
{
    return pair->value->where.line || !pair->where.line ? pair->value->where : pair->where;
}

/* ---- publish ---------------------------------------------------------------------------------------------------- */

static void read_quantiles(struct md_report *report, const struct md_pair *pair, const char *path,
                           struct md_publish *out)
{
    const struct md_node *list = pair->value;
    double q = 0, before = 0;

    if (list->kind != MD_SEQ || list->n == 0 || list->n > SSM_QUANTILES_MAX) {
        md_report(report, value_place(pair), "%s: must be a list of 1 to %d numbers", path, SSM_QUANTILES_MAX);
        return;
    }
    for (unsigned i = 0; i < list->n; i++, before = q) {
        struct md_pair *item = &list->children[i];
        struct md_where where = item->value->where.line ? item->value->where : value_place(pair);
        unsigned errors = report->n;

        md_option_read(report, md_quantile_options, item->value, path, where, &q);
        if (report->n == errors && i && q <= before)
            md_report(report, where, "%s: must ascend", path);
        out->quantiles[out->n_quantiles++] = (float)q;
    }
}

static void read_family_map(struct rule *r, enum io_family f, const struct md_node *map, const char *path,
                            struct md_where where)
{
    static const char *const more[] = {"quantiles", NULL};
    struct md_publish *out = &r->out->policy.publish[f];
    struct md_publish_keys keys = {0};
    bool forecast = f == IO_PREDICTION;
    const struct md_table table = {forecast ? md_publish_options : md_publish_every_options, &keys};
    const struct md_pair *quantiles = forecast ? md_node_find(map, "quantiles") : NULL;
    char key_path[MD_PATH];

    md_table_read(r->report, map, path, where, &table, 1, forecast ? more : NULL);
    out->every = (uint32_t)keys.every;
    out->horizon = (uint32_t)keys.horizon;
    md_path_join(key_path, path, "quantiles");
    if (quantiles)
        read_quantiles(r->report, quantiles, key_path, out);
}

static void read_family(struct rule *r, enum io_family f, const struct md_pair *pair, const char *path)
{
    struct md_publish *out = &r->out->policy.publish[f];
    const struct md_node *node = pair->value;

    *out = (struct md_publish){.on = true, .named = true, .every = 1};
    r->out->set |= 1ul << (MD_KEY_PUBLISH + f);
    if (node->kind == MD_MAP)
        read_family_map(r, f, node, path, pair->where);
    else if (node->kind == MD_SCALAR && !node->null && !strcmp(node->text, "false"))
        out->on = false;
    else if (node->kind != MD_SCALAR || node->null || strcmp(node->text, "true"))
        md_report(r->report, value_place(pair), "%s: must be true, false or a map", path);
}

static void read_publish(struct rule *r, const struct md_node *map, const char *path)
{
    char family_path[MD_PATH], hint[MD_HINT];

    for (unsigned i = 0; i < map->n; i++) {
        const struct md_pair *pair = &map->children[i];
        const char *names[IO_FAMILIES];
        unsigned n = 0;
        int found = -1;

        for (int f = 0; f < IO_FAMILIES; f++) {
            if (!md_family_settable((enum io_family)f))
                continue;
            names[n++] = io_family_name((enum io_family)f);
            if (!strcmp(names[n - 1], pair->key))
                found = f;
        }
        md_path_join(family_path, path, pair->key);
        md_hint(pair->key, names, n, hint);
        if (found < 0)
            md_report(r->report, pair->where, "%s: unknown key '%s'%s", path, pair->key, hint);
        else
            read_family(r, (enum io_family)found, pair, family_path);
    }
}

/* ---- a rule ----------------------------------------------------------------------------------------------------- */

static void read_nested(struct rule *r, const struct md_node *map)
{
    static const char *const names[] = {"gap", "alarm", "publish"};

    for (unsigned i = 0; i < 3; i++) {
        const struct md_pair *pair = md_node_find(map, names[i]);
        struct md_table table = {i == 0 ? md_gap_options : md_alarm_options, &r->out->policy};
        char path[MD_PATH];
        const struct md_node *inner;

        md_path_join(path, r->path, names[i]);
        if (!pair)
            continue;
        inner = md_expect_map(r->report, pair, path);
        if (inner && i == 2)
            read_publish(r, inner, path);
        else if (inner)
            md_table_read(r->report, inner, path, pair->where, &table, 1, NULL);
        if (i < 2)
            r->out->set |= 1ul << (i == 0 ? MD_KEY_GAP : MD_KEY_ALARM);
    }
}

static void read_rule(struct rule *r, const struct md_node *map, struct md_where where)
{
    static const char *const nested[] = {"gap", "alarm", "publish", NULL};
    const struct md_table table = {md_policy_options, &r->out->policy};

    md_policy_default(&r->out->policy);
    md_table_read(r->report, map, r->path, where, &table, 1, nested);
    for (unsigned i = 0; md_policy_options[i].name; i++)
        if (md_node_find(map, md_policy_options[i].name))
            r->out->set |= 1ul << i;
    read_nested(r, map);
}

/* `streams.idle: 5m` is short for that key of "*". */
static void read_idle(struct md_config *config, struct md_report *report, const struct md_pair *pair)
{
    struct md_policy_rule *rule = NULL;

    for (unsigned i = 0; i < config->n_rules; i++)
        if (config->rules[i].glob && !strcmp(config->rules[i].glob, "*"))
            rule = &config->rules[i];
    if (!rule) {
        rule = &config->rules[config->n_rules++];
        rule->glob = strdup("*");
        report->starved |= !rule->glob;
        rule->where = pair->where;
        md_policy_default(&rule->policy);
    }
    md_option_read(report, &md_policy_options[MD_KEY_IDLE], pair->value, "streams.idle", pair->where, &rule->policy);
    rule->set |= 1ul << MD_KEY_IDLE;
}

void md_read_streams(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    const struct md_pair *section = md_node_find(root, "streams"), *idle = NULL;
    const struct md_node *map = section ? md_expect_map(report, section, "streams") : NULL;

    if (!map || map->n == 0)
        return;
    config->rules = calloc(map->n, sizeof *config->rules);
    report->starved |= !config->rules;
    for (unsigned i = 0; config->rules && i < map->n; i++) {
        const struct md_pair *pair = &map->children[i];
        const struct md_node *keys;
        struct rule r = {.report = report};

        if (!strcmp(pair->key, "idle") && pair->value->kind == MD_SCALAR && !pair->value->null) {
            idle = pair;
            continue;
        }
        r.out = &config->rules[config->n_rules++];
        r.out->glob = strdup(pair->key);
        report->starved |= !r.out->glob;
        r.out->where = pair->where;
        md_path_join(r.path, "streams", pair->key);
        keys = md_expect_map(report, pair, r.path);
        if (keys)
            read_rule(&r, keys, pair->where);
    }
    if (idle && config->rules)
        read_idle(config, report, idle);
}

/* ---- the policy of one id --------------------------------------------------------------------------------------- */

static void apply(const struct md_policy_rule *rule, struct md_policy *p)
{
    const struct md_policy *from = &rule->policy;

    if (rule->set & 1ul << MD_KEY_NAN)
        p->nan = from->nan;
    if (rule->set & 1ul << MD_KEY_LATE)
        p->late = from->late;
    if (rule->set & 1ul << MD_KEY_SILENCE)
        p->silence_ns = from->silence_ns;
    if (rule->set & 1ul << MD_KEY_IDLE)
        p->idle_ns = from->idle_ns;
    if (rule->set & 1ul << MD_KEY_ADAPT)
        p->adapt = from->adapt;
    if (rule->set & 1ul << MD_KEY_GAP)
        p->gap_max_ns = from->gap_max_ns;
    if (rule->set & 1ul << MD_KEY_ALARM)
        p->alarm_p = from->alarm_p;
    for (unsigned f = 0; f < IO_FAMILIES; f++)
        if (rule->set & 1ul << (MD_KEY_PUBLISH + f))
            p->publish[f] = from->publish[f];
}

void md_policy_fallback(const struct md_config *config, struct md_policy *ret)
{
    md_policy_default(ret);
    for (unsigned i = 0; i < config->n_rules; i++)
        if (!strcmp(config->rules[i].glob, "*"))
            apply(&config->rules[i], ret);
}

uint32_t md_config_texts(const struct md_config *config)
{
    return config->generate.endpoint ? config->generate.requests : 0;
}

bool md_config_adapts(const struct md_config *config)
{
    bool adapts = false;

    for (unsigned i = 0; i < config->n_rules; i++)
        adapts |= config->rules[i].policy.adapt != MD_ADAPT_NONE;
    return adapts;
}

uint32_t md_config_horizon(const struct md_config *config)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < config->n_rules; i++) {
        uint32_t horizon = config->rules[i].policy.publish[IO_PREDICTION].horizon;
        most = horizon > most ? horizon : most;
    }
    return most;
}

bool md_config_predicts(const struct md_config *config)
{
    bool predicts = false;

    for (unsigned i = 0; i < config->n_rules; i++)
        predicts |=
            config->rules[i].policy.publish[IO_PREDICTION].named && config->rules[i].policy.publish[IO_PREDICTION].on;
    return predicts;
}

void md_config_policy(const struct md_config *config, const char *id, struct md_policy *ret)
{
    md_policy_fallback(config, ret);
    for (unsigned i = 0; i < config->n_rules; i++) {
        const struct md_policy_rule *rule = &config->rules[i];

        if (strcmp(rule->glob, "*") && fnmatch(rule->glob, id, 0) == 0) {
            apply(rule, ret);
            return;
        }
    }
}
