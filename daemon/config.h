/* config.h: the configuration as a checked struct (contract: docs/configuration.md). YAML through libfyaml; every key
 * stands in a declarative table (config.c; the adapters' own in their classes), from which it is parsed, checked,
 * printed and completed. Errors name file:line:col, the key and the nearest valid key; all of them are reported. */
#ifndef MD_CONFIG_H
#define MD_CONFIG_H

#include <stdio.h>

#include "daemon/log.h"
#include "io/sink.h"
#include "ssm/ssm.h"

enum md_when_full { MD_BLOCK, MD_DROP_OLDEST, MD_DROP_NEWEST };
enum md_nan {
    MD_NAN_AUTO,
    MD_NAN_MASK,
    MD_NAN_SKIP,
    MD_NAN_HOLD,
    MD_NAN_RESET
}; /* AUTO: mask where the model can, else skip */
enum md_late { MD_LATE_DROP, MD_LATE_REORDER };
enum md_adapt { MD_ADAPT_NONE, MD_ADAPT_LINEAR };

/* Where a thing was written, for messages. Strings belong to the config. */
struct md_where {
    const char *file; /* or "--set KEY=VALUE"; NULL in configurations made by hand */
    int line, col;    /* from 1; 0: not known */
};

struct md_model_conf {
    char *id, *path;
    char *device;        /* "auto", "cpu", "cuda", "cuda:N" */
    bool weights_stored; /* `weights` left out: as the file has them; the next field then means nothing */
    enum ssm_dtype weights, state;
    bool deterministic;
    uint32_t slots;
    uint32_t threads; /* 0: one per core */
    bool carry;       /* states of another model of the same architecture are gone on from */
    struct md_where where;
};

struct md_input_conf {
    char *id;
    const struct io_source_class *class_;
    void *conf;     /* the class's struct; begins with struct io_common */
    unsigned model; /* index into models */
    enum md_when_full when_full;
    uint32_t queue;       /* rows a stream may have waiting */
    uint32_t max_streams; /* live at once */
    struct md_where where;
};

struct md_output_conf {
    char *id;
    const struct io_sink_class *class_;
    void *conf;
    unsigned families; /* bit per io_family */
    struct md_where where;
};

struct md_publish { /* one family of one stream */
    bool on, named; /* named: it was asked for, or turned off, by name */
    uint32_t every;
    uint32_t horizon;     /* 0: the model's; above it only with md_policy.adapt */
    uint32_t n_quantiles; /* 0: the model's */
    float quantiles[SSM_QUANTILES_MAX];
};

/* What a stream is treated by: the first matching glob's keys, then "*"'s, then the built-in ones. */
struct md_policy {
    enum md_nan nan;
    int64_t gap_max_ns; /* −1: none, every gap is bridged */
    enum md_late late;
    enum md_adapt adapt;
    int64_t silence_ns, idle_ns; /* −1: never */
    double alarm_p;              /* anomaly_start at or below */
    struct md_publish publish[IO_FAMILIES];
};

struct md_policy_rule {
    char *glob;
    struct md_policy policy;
    unsigned long set; /* bit per key given here */
    struct md_where where;
};

/* The service that writes texts; generate.h. */
struct md_generate_conf {
    char *endpoint; /* server.generate; NULL: none */
    char *curve_key, *curve_clients;
    bool insecure;
    uint32_t requests, per_client; /* texts at once */
    int64_t prompt, bytes;         /* of one text, at most */
    struct md_where where;
};

struct md_config {
    char *file;
    struct md_model_conf *models;
    unsigned n_models;
    struct md_input_conf *inputs;
    unsigned n_inputs;
    struct md_output_conf *outputs;
    unsigned n_outputs;
    struct md_policy_rule *rules;
    unsigned n_rules;
    int64_t max_delay_ns; /* batch.max_delay */
    uint32_t max_streams; /* batch.max_streams */
    char *state_dir;      /* NULL: no state section */
    int64_t state_interval_ns, state_forget_after_ns;
    uint32_t state_keep;
    uint32_t state_remember;
    int64_t state_spill_bytes; /* 0: nothing is spilled */
    char *control;             /* server.control; NULL: none */
    struct md_generate_conf generate;
    int64_t shutdown_timeout_ns;
    enum md_level log_level;
    enum md_log_format log_format;
    char *text;     /* the file's text, for caret lines; may be NULL */
    char **origins; /* what md_where.file points to */
    unsigned n_origins;
};

/* Reads `file` ("-": stdin) with `sets` ("key.path=value") applied. Every error is written to `errors` as one line (and
 * a caret line); returns 0, −EINVAL after errors (exit 78), −ENOENT when the file cannot be read (66). `complete`:
 * inputs and outputs must be there. */
int md_config_load(const char *file, const char *const *sets, unsigned n_sets, bool complete, FILE *errors,
                   struct md_config **ret);
/* The same from a text; `name` stands in the messages. */
int md_config_parse(const char *name, const char *text, const char *const *sets, unsigned n_sets, bool complete,
                    FILE *errors, struct md_config **ret);
void md_config_free(struct md_config **config);
/* One entry of a section, as YAML. */
void md_config_print_model(const struct md_config *config, unsigned i, FILE *out);
void md_config_print_input(const struct md_config *config, unsigned i, FILE *out);
void md_config_print_output(const struct md_config *config, unsigned i, FILE *out);
void md_config_print(const struct md_config *config, FILE *out); /* the effective configuration, as YAML */

/* Checks that need the opened models: horizons, quantiles, NaN policies, rates. Reports like md_config_load. */
int md_config_check_models(const struct md_config *config, const struct ssm_model_info *const *infos, FILE *errors);

/* The policy of stream `id`: field by field the first matching rule's, then that of "*", then the built-in. */
void md_config_policy(const struct md_config *config, const char *id, struct md_policy *ret);
bool md_config_adapts(const struct md_config *config);      /* whether a rule has `adapt` */
uint32_t md_config_horizon(const struct md_config *config); /* the longest that a rule asks for; 0: none does */
bool md_config_predicts(const struct md_config *config);    /* whether a rule asks for predictions by name */
uint32_t md_config_texts(const struct md_config *config);   /* that may be written at once */

#endif
