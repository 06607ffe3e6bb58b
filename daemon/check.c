/* check.c: see check.h. No engine, socket or input file is touched; models and key files are. */
#include "daemon/check.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/config_report.h"
#include "daemon/generate.h"

static int open_models(const struct md_config *config, struct ssm_model **models, const struct ssm_model_info **infos,
                       FILE *errors)
{
    struct md_report report = {.text = config->text};
    char reterr[SSM_ERR];

    for (unsigned i = 0; i < config->n_models; i++) {
        const struct md_model_conf *conf = &config->models[i];

        if (ssm_model_open(conf->path, &models[i], reterr) < 0)
            md_report(&report, conf->where, "models.%s: %s", conf->id, reterr);
        else
            infos[i] = ssm_model_info(models[i]);
    }
    return md_report_flush(&report, errors) ? -EINVAL : 0;
}

static int check_keys(const struct md_config *config, FILE *errors)
{
    struct md_report report = {.text = config->text};
    char reterr[IO_ERR];

    for (unsigned i = 0; i < config->n_inputs; i++) {
        const struct md_input_conf *in = &config->inputs[i];
        if (in->class_->keys && in->class_->keys(in->conf, reterr) < 0)
            md_report(&report, in->where, "inputs.%s: %s", in->id, reterr);
    }
    for (unsigned i = 0; i < config->n_outputs; i++) {
        const struct md_output_conf *out = &config->outputs[i];
        if (out->class_->keys && out->class_->keys(out->conf, reterr) < 0)
            md_report(&report, out->where, "outputs.%s: %s", out->id, reterr);
    }
    if (config->generate.endpoint && md_generate_keys(&config->generate, reterr) < 0)
        md_report(&report, config->generate.where, "server.generate: %s", reterr);
    return md_report_flush(&report, errors) ? -EINVAL : 0;
}

int md_check(const struct md_config *config, FILE *errors)
{
    struct ssm_model **models = calloc(config->n_models + 1, sizeof *models);
    const struct ssm_model_info **infos = calloc(config->n_models + 1, sizeof *infos);
    int rc = -ENOMEM;

    if (models && infos) {
        rc = open_models(config, models, infos, errors);
        if (md_config_check_models(config, infos, errors) < 0)
            rc = -EINVAL;
        if (check_keys(config, errors) < 0)
            rc = -EINVAL;
    }
    for (unsigned i = 0; models && i < config->n_models; i++)
        ssm_model_close(&models[i]);
    free(infos);
    free(models);
    return rc;
}
