/* config_section.c: the sections with fixed keys: models, batch, state, server, log. */
#include "daemon/config_section.h"

#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "daemon/config_schema.h"
#include "daemon/generate.h"
#include "io/wire.h"

/* The section's map, or NULL where it is left out or no map (reported). */
static const struct md_node *find_section(struct md_report *report, const struct md_node *root, const char *name,
                                          struct md_where *ret_where)
{
    const struct md_pair *pair = md_node_find(root, name);

    if (!pair)
        return NULL;
    *ret_where = pair->where;
    return md_expect_map(report, pair, name);
}

/* A section of fixed keys into its struct; the defaults where it is left out. Returns whether it is there. */
static bool read_fixed(struct md_report *report, const struct md_node *root, const char *name,
                       const struct io_option *options, void *keys, struct md_where *ret_where)
{
    static const struct md_node empty = {.kind = MD_MAP};
    const struct md_node *map = find_section(report, root, name, ret_where);
    const struct md_table table = {options, keys};
    struct md_report ignored = {0};

    if (map)
        md_table_read(report, map, name, *ret_where, &table, 1, NULL);
    else
        md_table_read(&ignored, &empty, name, MD_NOWHERE, &table, 1, NULL);
    report->starved |= ignored.starved;
    md_report_drop(&ignored);
    return map != NULL;
}

/* Where a key of a section is written, or the section itself. */
static struct md_where key_place(const struct md_node *map, const char *key, struct md_where otherwise)
{
    const struct md_pair *pair = md_node_find(map, key);

    if (!pair)
        return otherwise;
    return pair->value->where.line || !pair->where.line ? pair->value->where : pair->where;
}

/* ---- models ----------------------------------------------------------------------------------------------------- */

static bool is_device(const char *text)
{
    if (!strcmp(text, "auto") || !strcmp(text, "cpu") || !strcmp(text, "cuda"))
        return true;
    return !strncmp(text, "cuda:", 5) && text[5] && strlen(text) < 8 && text[5 + strspn(text + 5, "0123456789")] == 0;
}

static void check_model(const struct md_model_keys *keys, struct md_report *report, const struct md_pair *pair,
                        const char *path)
{
    const char *names[] = {"auto", "cpu", "cuda", "cuda:N"};
    char hint[MD_HINT];

    if (keys->path && !*keys->path)
        md_report(report, key_place(pair->value, "path", pair->where), "%s.path: is empty", path);
    if (keys->device && !is_device(keys->device)) {
        md_hint(keys->device, names, 4, hint);
        md_report(report, key_place(pair->value, "device", pair->where), "%s.device: unknown value '%.100s'%s", path,
                  keys->device, hint);
    }
    if (keys->device && !strcmp(keys->device, "cpu") && keys->state != SSM_F32)
        md_report(report, key_place(pair->value, "state", pair->where), "%s.state: the CPU holds states as fp32 only",
                  path);
}

static void read_model(struct md_model_conf *model, struct md_report *report, const struct md_pair *pair)
{
    struct md_model_keys keys = {0};
    const struct md_table table = {md_model_options, &keys};
    const struct md_node *map;
    char path[MD_PATH];

    md_path_join(path, "models", pair->key);
    map = md_expect_map(report, pair, path);
    if (map) {
        md_table_read(report, map, path, pair->where, &table, 1, NULL);
        check_model(&keys, report, pair, path);
    }
    model->path = keys.path;
    model->device = keys.device;
    model->weights_stored = keys.weights == 0;
    model->weights = keys.weights ? (enum ssm_dtype)(keys.weights - 1) : SSM_F32;
    model->state = (enum ssm_dtype)keys.state;
    model->deterministic = keys.deterministic;
    model->slots = (uint32_t)keys.slots;
    model->threads = (uint32_t)keys.threads;
    model->carry = keys.carry;
}

void md_read_models(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    struct md_where where;
    const struct md_node *map = find_section(report, root, "models", &where);

    if (!map || map->n == 0)
        return;
    config->models = calloc(map->n, sizeof *config->models);
    report->starved |= !config->models;
    for (unsigned i = 0; config->models && i < map->n; i++) {
        struct md_model_conf *model = &config->models[config->n_models++];
        const struct md_pair *pair = &map->children[i];

        model->id = strdup(pair->key);
        report->starved |= !model->id;
        model->where = pair->where;
        if (!io_id_valid(pair->key, strlen(pair->key)))
            md_report(report, pair->where, "models: an id is 1 to 200 bytes without control characters");
        read_model(model, report, pair);
    }
}

unsigned md_model_names(const struct md_config *config, const char *names[MD_KEYS])
{
    unsigned n = 0;

    for (; n < config->n_models && n < MD_KEYS; n++)
        names[n] = config->models[n].id;
    return n;
}

/* ---- batch, state, server, log ---------------------------------------------------------------------------------- */

void md_read_batch(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    struct md_batch_keys keys = {0};
    struct md_where where;

    read_fixed(report, root, "batch", md_batch_options, &keys, &where);
    config->max_delay_ns = keys.max_delay_ns;
    config->max_streams = (uint32_t)keys.max_streams;
}

void md_read_state(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    struct md_state_keys keys = {0};
    struct md_where where;

    if (read_fixed(report, root, "state", md_state_options, &keys, &where) && keys.dir && !*keys.dir)
        md_report(report, where, "state.dir: is empty");
    config->state_dir = keys.dir;
    config->state_interval_ns = keys.interval_ns;
    config->state_keep = (uint32_t)keys.keep;
    config->state_forget_after_ns = keys.forget_after_ns;
    config->state_remember = (uint32_t)keys.remember;
    config->state_spill_bytes = keys.spill_bytes;
}

/* Of an ipc:// endpoint. */
static const char *file_fault(const char *endpoint)
{
    endpoint += 6;
    if (!*endpoint || *endpoint == '@' || *endpoint == '*')
        return "must name a file: it is the file's mode that guards it";
    return strlen(endpoint) < sizeof((struct sockaddr_un *)NULL)->sun_path ? NULL : "the path is too long for a socket";
}

static bool is_ipc(const char *endpoint)
{
    return !strncmp(endpoint, "ipc://", 6);
}

static void check_control(const char *endpoint, struct md_report *report, const struct md_node *map,
                          struct md_where where)
{
    const char *fault = is_ipc(endpoint) ? file_fault(endpoint) : "must be an ipc:// endpoint";

    if (fault)
        md_report(report, key_place(map, "control", where), "server.control: '%.150s': %s", endpoint, fault);
}

static void check_generate(const struct md_generate_conf *generate, struct md_report *report, const struct md_node *map)
{
    const char *at = NULL, *fault = is_ipc(generate->endpoint) ? file_fault(generate->endpoint) : NULL;
    char key[MD_PATH] = "generate", reterr[IO_ERR];

    if (!fault && md_generate_check(generate, &at, reterr))
        fault = reterr;
    if (at && strcmp(at, "bind"))
        snprintf(key, sizeof key, "generate_%s", at);
    if (fault == reterr)
        md_report(report, key_place(map, key, generate->where), "server.%s: %s%s", key, fault,
                  strstr(fault, "curve_") ? " (here the keys begin with generate_)" : "");
    else if (fault)
        md_report(report, key_place(map, key, generate->where), "server.%s: '%.150s': %s", key, generate->endpoint,
                  fault);
}

void md_read_server(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    struct md_server_keys keys = {0};
    struct md_where where = MD_NOWHERE;
    const bool given = read_fixed(report, root, "server", md_server_options, &keys, &where);
    const struct md_node *map = given ? md_node_find(root, "server")->value : NULL;

    config->control = keys.control;
    config->shutdown_timeout_ns = keys.shutdown_timeout_ns;
    config->generate = (struct md_generate_conf){
        .endpoint = keys.generate,
        .curve_key = keys.generate_curve_key,
        .curve_clients = keys.generate_curve_clients,
        .insecure = keys.generate_insecure,
        .requests = (uint32_t)keys.generate_requests,
        .per_client = (uint32_t)keys.generate_per_client,
        .prompt = keys.generate_prompt,
        .bytes = keys.generate_bytes,
        .where = where,
    };
    if (config->control)
        check_control(config->control, report, map, where);
    if (config->generate.endpoint)
        check_generate(&config->generate, report, map);
}

void md_read_log(struct md_config *config, struct md_report *report, const struct md_node *root)
{
    struct md_log_keys keys = {0};
    struct md_where where;

    read_fixed(report, root, "log", md_log_options, &keys, &where);
    config->log_level = (enum md_level)keys.level;
    config->log_format = (enum md_log_format)keys.format;
}
