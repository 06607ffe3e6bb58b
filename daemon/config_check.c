/* config_check.c: what can be judged only against the opened models: rates, horizons, quantiles, NaN policies. A rule
 * of `streams` is wrong when it fits none of the models that inputs use; where it fits some, each stream takes of it
 * what its own model can. Before the daemon's threads start. */
#include "daemon/config.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "daemon/config_report.h"
#include "daemon/config_schema.h"
#include "io/records.h"

struct check {
    const struct md_config *config;
    const struct ssm_model_info *const *infos; /* per model; NULL where it did not open */
    struct md_report report;
};

/* Whether model i counts: open, of streams, and used by an input (all count where there are no inputs). */
static bool counts(const struct check *k, unsigned i)
{
    const struct md_config *c = k->config;

    if (!k->infos[i] || (k->infos[i]->input != SSM_SAMPLES && !k->infos[i]->bytes))
        return false;
    for (unsigned n = 0; n < c->n_inputs; n++)
        if (c->inputs[n].model == i)
            return true;
    return c->n_inputs == 0;
}

static bool any_counts(const struct check *k)
{
    for (unsigned i = 0; i < k->config->n_models; i++)
        if (counts(k, i))
            return true;
    return false;
}

/* ---- inputs ----------------------------------------------------------------------------------------------------- */

static const struct io_records *records_of(const struct md_input_conf *input)
{
    return input->class_->records ? input->class_->records(input->conf) : NULL;
}

/* Of an input whose model reads samples. */
static void check_no_records(struct check *k, const struct md_input_conf *input)
{
    const struct io_records *records = records_of(input);
    const char *key = !records ? NULL : records->delimiter ? "delimiter" : records->max_record ? "max_record" : NULL;

    if (input->class_->only_bytes)
        md_report(&k->report, input->where, "inputs.%s: model '%s' reads samples, and this input gives bytes",
                  input->id, k->config->models[input->model].id);
    else if (key)
        md_report(&k->report, input->where, "inputs.%s.%s: model '%s' reads samples, which make no records", input->id,
                  key, k->config->models[input->model].id);
}

/* Bytes are taken as they are. */
static void check_byte_input(struct check *k, const struct md_input_conf *input)
{
    const struct io_common *common = input->conf;
    const char *model = k->config->models[input->model].id, *key = common->resample      ? "resample"
                                                                   : common->scale != 1  ? "scale"
                                                                   : common->offset != 0 ? "offset"
                                                                                         : NULL;

    if (!records_of(input))
        md_report(&k->report, input->where, "inputs.%s: model '%s' reads bytes, and this input gives none", input->id,
                  model);
    else if (key)
        md_report(&k->report, input->where, "inputs.%s.%s: model '%s' reads bytes, which are taken as they are",
                  input->id, key, model);
}

static void check_input(struct check *k, const struct md_input_conf *input)
{
    const struct ssm_model_info *info = k->infos[input->model];
    const struct io_common *common = input->conf;
    const char *model = k->config->models[input->model].id;

    if (!info)
        return;
    if (info->input == SSM_SAMPLES)
        check_no_records(k, input);
    if (info->bytes)
        check_byte_input(k, input);
    else if (info->input != SSM_SAMPLES)
        md_report(&k->report, input->where,
                  "inputs.%s: model '%s' reads tokens: of language models only those of bytes (vocab 256) are served",
                  input->id, model);
    else if (common->resample && common->rate == 0 && info->rate == 0)
        md_report(&k->report, input->where,
                  "inputs.%s: resample needs a rate: neither the input nor model '%s' names one", input->id, model);
    else if (!common->resample && common->rate > 0 && info->rate > 0 && common->rate != info->rate)
        md_report(&k->report, input->where, "inputs.%s: rate %g, but model '%s' takes %g: set resample: true",
                  input->id, common->rate, model, info->rate);
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

static void check_nan(struct check *k, const struct md_policy_rule *rule)
{
    for (unsigned i = 0; i < k->config->n_models; i++)
        if (counts(k, i) && k->infos[i]->mask)
            return;
    md_report(&k->report, rule->where, "streams.%s.nan: no model can mask: none has an input for missing values",
              rule->glob);
}

static void check_horizon(struct check *k, const struct md_policy_rule *rule, uint32_t horizon)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < k->config->n_models; i++) {
        const struct ssm_model_info *info = k->infos[i];
        uint32_t own = !counts(k, i) ? 0 : info->bytes ? 1 : ssm_model_farthest(info);
        most = own > most ? own : most;
    }
    if (most == 0)
        md_report(&k->report, rule->where, "streams.%s.publish.prediction: no model forecasts", rule->glob);
    else if (horizon > most)
        md_report(&k->report, rule->where, "streams.%s.publish.prediction.horizon: %u is out of range (1 to %u)",
                  rule->glob, horizon, most);
}

static bool has_quantile(const struct ssm_model_info *info, float q)
{
    for (uint32_t i = 0; i < info->n_quantiles; i++)
        if (fabsf(info->quantiles[i] - q) < 1e-5f)
            return true;
    return false;
}

static void check_quantile(struct check *k, const struct md_policy_rule *rule, float q)
{
    const struct ssm_model_info *last = NULL;
    char names[MD_HINT] = "";
    size_t at = 0;

    for (unsigned i = 0; i < k->config->n_models; i++) {
        if (counts(k, i) && has_quantile(k->infos[i], q))
            return;
        if (counts(k, i) && k->infos[i]->n_quantiles)
            last = k->infos[i];
    }
    for (uint32_t i = 0; last && i < last->n_quantiles && at < sizeof names - 16; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%g", i ? ", " : "", (double)last->quantiles[i]);
    if (last)
        md_report(&k->report, rule->where, "streams.%s.publish.prediction.quantiles: the model has no %g (valid: %s)",
                  rule->glob, (double)q, names);
    else
        md_report(&k->report, rule->where, "streams.%s.publish.prediction.quantiles: no model has quantiles",
                  rule->glob);
}

static bool lacks_head(const struct ssm_model_info *info, enum io_family f)
{
    if (f == IO_EMBEDDING)
        return info->embedding == 0;
    if (f == IO_SURPRISE || (f == IO_ANOMALY && info->bytes))
        return !info->bytes;
    return (f == IO_ANOMALY || f == IO_CHANNEL_ANOMALY) && !info->anomaly;
}

/* A family that is asked for by name and that no model has. */
static void check_head(struct check *k, const struct md_policy_rule *rule, enum io_family f)
{
    bool lacking = false;

    for (unsigned i = 0; i < k->config->n_models; i++) {
        if (counts(k, i) && !lacks_head(k->infos[i], f))
            return;
        lacking |= counts(k, i);
    }
    if (lacking)
        md_report(&k->report, rule->where, "streams.%s.publish.%s: no model has that head", rule->glob,
                  io_family_name(f));
}

static void check_rule(struct check *k, const struct md_policy_rule *rule)
{
    const struct md_publish *prediction = &rule->policy.publish[IO_PREDICTION];

    if (rule->set & 1ul << MD_KEY_NAN && rule->policy.nan == MD_NAN_MASK)
        check_nan(k, rule);
    for (unsigned f = 0; f < IO_FAMILIES; f++)
        if (f != IO_PREDICTION && rule->set & 1ul << (MD_KEY_PUBLISH + f) && rule->policy.publish[f].on)
            check_head(k, rule, (enum io_family)f);
    if (!(rule->set & 1ul << (MD_KEY_PUBLISH + IO_PREDICTION)) || !prediction->on)
        return;
    check_horizon(k, rule, prediction->horizon);
    for (uint32_t i = 0; i < prediction->n_quantiles; i++)
        check_quantile(k, rule, prediction->quantiles[i]);
}

static void check_generate(struct check *k)
{
    bool any = false;

    for (unsigned i = 0; i < k->config->n_models; i++)
        any |= !k->infos[i] || k->infos[i]->bytes;
    if (!any)
        md_report(&k->report, k->config->generate.where, "server.generate: no model is one of bytes (vocab 256)");
}

int md_config_check_models(const struct md_config *config, const struct ssm_model_info *const *infos, FILE *errors)
{
    struct check k = {.config = config, .infos = infos, .report = {.text = config->text}};

    for (unsigned i = 0; i < config->n_inputs; i++)
        check_input(&k, &config->inputs[i]);
    for (unsigned i = 0; any_counts(&k) && i < config->n_rules; i++)
        check_rule(&k, &config->rules[i]);
    if (config->generate.endpoint)
        check_generate(&k);
    return md_report_flush(&k.report, errors) ? -EINVAL : 0;
}
