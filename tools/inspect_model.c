/* inspect_model.c: a model folder, opened the way the daemon does: every weight is read, so a folder that passes here
 * will open there. */
#include "tools/inspect.h"

#include <sysexits.h>

#include "ssm/ops.h"
#include "ssm/ssm.h"

static json_t *sections_of(const struct ssm_engine *e)
{
    unsigned n;
    const struct ssm_section *s = ssm_slot_sections(e, &n);
    json_t *list = json_array();
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:I}", "name", s[i].name, "bytes", (json_int_t)s[i].bytes));
    return json_pack("{s:I, s:o}", "bytes", (json_int_t)ssm_slot_bytes(e), "sections", list);
}

/* Per weight dtype, the op tables of this machine, best first. */
static json_t *tables(void)
{
    static const char *const dtypes[] = {"fp32", "bf16", "fp16"};
    json_t *map = json_object();
    for (enum ssm_dtype d = SSM_F32; d <= SSM_F16; d++) {
        json_t *list = json_array();
        const struct ssm_ops *ops;
        for (unsigned i = 0; (ops = ssm_ops_at(i)); i++)
            if (ops->usable() && ops->takes(d))
                json_array_append_new(list, json_string(ops->name));
        json_object_set_new(map, dtypes[d], list);
    }
    return map;
}

static json_t *heads_of(const struct ssm_model_info *i)
{
    json_t *heads = json_object(), *levels = json_array();
    for (uint32_t q = 0; q < i->n_quantiles; q++) /* as a person wrote them: 0.1, not the float next to it */
        json_array_append_new(levels, json_real((double)(int64_t)((double)i->quantiles[q] * 1e6 + 0.5) / 1e6));
    if (i->horizon)
        json_object_set_new(heads, "forecast", json_pack("{s:i, s:O}", "horizon", i->horizon, "quantiles", levels));
    if (i->embedding)
        json_object_set_new(heads, "embedding", json_pack("{s:i}", "width", i->embedding));
    if (i->anomaly)
        json_object_set_new(heads, "anomaly", json_pack("{s:i}", "warmup", i->warmup));
    if (i->vocab)
        json_object_set_new(heads, "logits", json_pack("{s:i}", "vocab", i->vocab));
    json_decref(levels);
    return heads;
}

static json_t *document(const struct ssm_model_info *i, const struct ssm_engine *e)
{
    static const char *const stored[] = {"fp32", "bf16", "fp16"};
    const char *input = i->input == SSM_SAMPLES ? "samples" : i->bytes ? "bytes" : "tokens";
    json_t *doc =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "kind", "model", "name", i->name,
                  "type", i->type, "input", input, "stored", stored[i->stored], "d_model", i->d_model, "n_layer",
                  i->n_layer, "d_inner", i->d_inner, "d_state", i->d_state, "d_conv", i->d_conv, "dt_rank", i->dt_rank,
                  "parameters", (json_int_t)i->n_params, "file_bytes", (json_int_t)i->file_bytes);
    if (i->input == SSM_SAMPLES) {
        json_object_set_new(doc, "patch", json_integer(i->patch));
        json_object_set_new(doc, "mask", json_boolean(i->mask));
        json_object_set_new(doc, "rate", json_real(i->rate));
    }
    json_object_set_new(doc, "heads", heads_of(i));
    json_object_set_new(doc, "slot", sections_of(e));
    json_object_set_new(doc, "ops", tables());
    return doc;
}

int inspect_model(const char *dir, json_t **ret, char *why)
{
    struct ssm_model *model = NULL;
    struct ssm_engine *engine = NULL;
    struct ssm_engine_opts opts = {.device = "cpu", .ops = "ref", .slots = 1, .threads = 1};
    int err = ssm_model_open(dir, &model, why);
    if (!err)
        err = ssm_engine_open(model, &opts, &engine, why);
    if (!err)
        *ret = document(ssm_model_info(model), engine);
    ssm_engine_close(&engine);
    ssm_model_close(&model);
    return err ? EX_CONFIG : 0;
}
