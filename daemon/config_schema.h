/* config_schema.h: the tables of all keys that are not an adapter's own, and the structs they fill on the way from the
 * YAML into struct md_config and back (--print-config). */
#ifndef MD_CONFIG_SCHEMA_H
#define MD_CONFIG_SCHEMA_H

#include "daemon/config.h"

struct md_model_keys {
    char *path, *device;
    int weights; /* 0: as stored, else 1 + enum ssm_dtype */
    int state;   /* enum ssm_dtype */
    bool deterministic;
    int64_t slots, threads;
    bool carry;
};

struct md_input_keys {
    char *type, *model;
    int when_full;
    int64_t queue, max_streams;
};

struct md_output_keys {
    char *type;
    struct io_strings families;
};

struct md_batch_keys {
    int64_t max_delay_ns, max_streams;
};

struct md_state_keys {
    char *dir;
    int64_t interval_ns, keep, forget_after_ns, remember, spill_bytes;
};

struct md_server_keys {
    char *control;
    int64_t shutdown_timeout_ns;
    char *generate, *generate_curve_key, *generate_curve_clients;
    bool generate_insecure;
    int64_t generate_requests, generate_per_client, generate_prompt, generate_bytes;
};

struct md_log_keys {
    int level, format;
};

struct md_publish_keys {
    int64_t every, horizon;
};

extern const struct io_option md_model_options[], md_input_options[], md_output_options[], md_batch_options[],
    md_state_options[], md_server_options[], md_log_options[];

/* Straight into struct md_policy. */
extern const struct io_option md_policy_options[], md_gap_options[], md_alarm_options[];
extern const struct io_option md_publish_options[], md_publish_every_options[], md_quantile_options[];

extern const char *const md_section_names[];

/* Bits of md_policy_rule.set. Those of publish follow, one per family. */
enum md_policy_key {
    MD_KEY_NAN,
    MD_KEY_LATE,
    MD_KEY_SILENCE,
    MD_KEY_IDLE,
    MD_KEY_ADAPT,
    MD_KEY_GAP,
    MD_KEY_ALARM,
    MD_KEY_PUBLISH
};

/* What is used where no rule says otherwise. */
void md_policy_default(struct md_policy *ret);
/* The same under the rule "*" of a configuration. */
void md_policy_fallback(const struct md_config *config, struct md_policy *ret);

/* Families that publish.<family> may name. */
static inline bool md_family_settable(enum io_family f)
{
    return f != IO_EVENT && f != IO_SYS;
}

#endif
