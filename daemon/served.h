/* served.h: a model that the daemon serves: its folder, what a device made of it, and the scheduler that runs it. Main
 * thread; what is loaded changes only while no thread runs. */
#ifndef MD_SERVED_H
#define MD_SERVED_H

#include "daemon/scheduler.h"

struct io_sink_env;

struct md_loaded { /* zeroed: nothing */
    struct ssm_model *model;
    struct ssm_engine *engine;
    struct ssm_model_info info;
    uint64_t hash; /* ssm_model_hash() */
    uint32_t slots;
};

/* Lives as long as the daemon: what was served, and is no more, is still named by records of streams. */
struct md_served_model {
    struct md_scheduler scheduler;
    struct md_loaded loaded; /* scheduler.engine is its engine, and plans point to its info */
    uint64_t seen;           /* md_scheduler_moves(); the main thread's */
};

/* Whose inbox it is. */
static inline struct md_served_model *md_served_of(struct md_inbox *in)
{
    return (struct md_served_model *)(void *)((char *)in - offsetof(struct md_served_model, scheduler.inbox));
}

/* The folder. `preset`: a path that is no folder names a random one. 0 or a sysexits code; `reterr` (IO_ERR). */
int md_load_folder(const struct md_model_conf *conf, bool preset, struct md_loaded *ret, char *reterr);
/* The device; `name` in place of the configured one where it is not NULL; `adapt`: with room for online adaptation;
 * `texts`: that a byte model writes beside its streams. */
int md_load_engine(const struct md_model_conf *conf, const char *device, bool adapt, uint32_t texts,
                   struct md_loaded *l, char *reterr);
void md_unload(struct md_loaded *l);
void md_loaded_say(const struct md_loaded *l, const char *id); /* a line in the log */

/* Of a model that has nothing loaded yet. NULL: out of memory. */
struct md_served_model *md_served_new(const char *id, struct io_pool *pool);
void md_served_free(struct md_served_model *m);
void md_served_retire(struct md_served_model *m); /* nothing is loaded, until it is served again */
/* Exchanges what is loaded. */
void md_served_exchange(struct md_served_model *m, struct md_loaded *l);

/* The widest rows of all models under a configuration. */
void md_served_widths(const struct md_config *config, const struct ssm_model_info *const *infos,
                      struct io_sink_env *ret);
/* What can be judged only with the models open. 0 or EX_CONFIG. */
int md_served_check(const struct md_config *config, const struct ssm_model_info *const *infos, char *reterr);

#endif
