/* served.c: see served.h. */
#include "daemon/served.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/plural.h"
#include "daemon/scarce.h"

static int refuse(char *reterr, int code, const char *id, const char *text)
{
    snprintf(reterr, IO_ERR, "model %s: %.400s", id, text);
    return code;
}

int md_load_folder(const struct md_model_conf *conf, bool preset, struct md_loaded *ret, char *reterr)
{
    struct md_loaded l = {0};
    char text[SSM_ERR];
    int r = preset && access(conf->path, F_OK) != 0 ? ssm_model_random(conf->path, 1, &l.model, text)
                                                    : ssm_model_open(conf->path, &l.model, text);

    if (r)
        return refuse(reterr, md_scarce(r) ? EX_UNAVAILABLE : EX_CONFIG, conf->id, text);
    l.info = *ssm_model_info(l.model);
    if (l.info.input != SSM_SAMPLES && !l.info.bytes) {
        md_unload(&l);
        return refuse(reterr, EX_CONFIG, conf->id,
                      "reads tokens: of language models only those of bytes (vocab 256) are served");
    }
    l.hash = ssm_model_hash(l.model);
    *ret = l;
    return 0;
}

int md_load_engine(const struct md_model_conf *conf, const char *device, bool adapt, uint32_t texts,
                   struct md_loaded *l, char *reterr)
{
    char text[SSM_ERR];
    struct ssm_engine_opts opts = {
        .device = device ? device : conf->device,
        .weights = conf->weights_stored ? l->info.stored : conf->weights,
        .state = conf->state,
        .deterministic = conf->deterministic,
        .adapt = adapt && ssm_model_adapts(&l->info),
        .slots = conf->slots + (l->info.bytes ? texts : 0),
        .threads = conf->threads,
    };
    int r = ssm_engine_open(l->model, &opts, &l->engine, text);

    if (r)
        return refuse(reterr, r == -EINVAL ? EX_CONFIG : EX_UNAVAILABLE, conf->id, text);
    l->slots = conf->slots;
    return 0;
}

void md_loaded_say(const struct md_loaded *l, const char *id)
{
    md_log(MD_INFO, id, "model %s on %s (%s), %u slot%s", l->info.name, ssm_engine_device(l->engine),
           ssm_engine_ops(l->engine), l->slots, md_s(l->slots));
    if (*ssm_engine_note(l->engine))
        md_log(MD_INFO, id, "device auto is the CPU: %s", ssm_engine_note(l->engine));
}

void md_unload(struct md_loaded *l)
{
    ssm_engine_close(&l->engine);
    ssm_model_close(&l->model);
    *l = (struct md_loaded){0};
}

struct md_served_model *md_served_new(const char *id, struct io_pool *pool)
{
    struct md_served_model *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->scheduler.model = id;
    if (md_scheduler_init(&m->scheduler, 0, pool)) {
        free(m);
        return NULL;
    }
    return m;
}

void md_served_free(struct md_served_model *m)
{
    md_scheduler_done(&m->scheduler);
    md_unload(&m->loaded);
    free(m);
}

void md_served_retire(struct md_served_model *m)
{
    struct md_loaded none = {0};

    md_composer_refuse(&m->scheduler.composer, "reload");
    md_served_exchange(m, &none);
    md_unload(&none);
    for (unsigned i = 0; i < MD_BATCHES; i++)
        md_batch_done(&m->scheduler.batches[i]);
}

void md_served_exchange(struct md_served_model *m, struct md_loaded *l)
{
    struct md_scheduler *s = &m->scheduler;
    struct md_loaded had = m->loaded;

    m->loaded = *l;
    *l = had;
    md_scheduler_exchange(s, m->loaded.engine);
    s->inbox.slots = s->spill.slots = m->loaded.slots;
    if (s->engine && !had.engine) /* else states may lie there: md_swap_settle() */
        md_spill_fit(&s->spill, ssm_slot_bytes(s->engine));
    s->inbox.cells = s->spill.max_cells;
    s->exact = s->engine && ssm_engine_exact(s->engine);
    atomic_store_explicit(&s->slots_used, s->engine ? ssm_slots_used(s->engine) : 0, memory_order_relaxed);
}

/* ---- all of a configuration's models together ------------------------------------------------------------------ */

void md_served_widths(const struct md_config *config, const struct ssm_model_info *const *infos,
                      struct io_sink_env *ret)
{
    ret->horizon_max = ret->quantiles_max = ret->embedding_max = 0;
    ret->n_quantiles = 0;
    ret->quantiles = NULL;
    for (unsigned i = 0; i < config->n_models; i++) {
        const struct ssm_model_info *info = infos[i];
        uint32_t asked = md_config_horizon(config), most = ssm_model_farthest(info);
        uint32_t horizon = asked < info->horizon ? info->horizon : asked < most ? asked : most;
        uint32_t width = info->bytes && md_config_predicts(config) ? info->vocab : info->n_quantiles;
        if (info->horizon > ret->horizon_max || !ret->quantiles) {
            ret->quantiles = info->quantiles;
            ret->n_quantiles = info->n_quantiles;
        }
        if (horizon > ret->horizon_max)
            ret->horizon_max = horizon;
        if (width > ret->quantiles_max)
            ret->quantiles_max = width;
        if (info->embedding > ret->embedding_max)
            ret->embedding_max = info->embedding;
    }
}

int md_served_check(const struct md_config *config, const struct ssm_model_info *const *infos, char *reterr)
{
    char *text = NULL;
    size_t n;
    FILE *errors = open_memstream(&text, &n);
    int r = errors ? md_config_check_models(config, infos, errors) : -ENOMEM;

    if (errors)
        fclose(errors);
    if (r)
        snprintf(reterr, IO_ERR, "%.*s", r == -ENOMEM ? 13 : (int)strcspn(text, "\n"),
                 r == -ENOMEM ? "out of memory" : text);
    free(text);
    return r == -ENOMEM ? EX_UNAVAILABLE : r ? EX_CONFIG : 0;
}
