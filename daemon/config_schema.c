/* config_schema.c: every key with its kind, default and range. Const tables only; the adapters' own stand in io/. The
 * order here is the order of --print-config. */
#include "daemon/config_schema.h"

#include <stddef.h>

static const char *const weights_names[] = {"stored", "fp32", "bf16", "fp16", NULL};
static const char *const state_names[] = {"fp32", "bf16", "fp16", NULL};
static const char *const when_full_names[] = {"block", "drop_oldest", "drop_newest", NULL};
static const char *const nan_names[] = {"auto", "mask", "skip", "hold", "reset", NULL};
static const char *const late_names[] = {"drop", "reorder", NULL};
static const char *const adapt_names[] = {"none", "linear", NULL};
static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};
static const char *const format_names[] = {"auto", "text", "json", "journal", NULL};

#define DAY_NS 86400e9
#define AT(type, field) .offset = offsetof(struct type, field)

const char *const md_section_names[] = {"models", "inputs", "outputs", "streams", "batch",
                                        "state",  "server", "log",     NULL};

const struct io_option md_model_options[] = {
    {"path", "model folder: config.json and model.safetensors", IO_OPT_STRING, AT(md_model_keys, path),
     .required = true},
    {"device", "auto, cpu, cuda or cuda:N", IO_OPT_STRING, AT(md_model_keys, device), .fallback = "auto"},
    {"weights", "dtype the weights are held in", IO_OPT_ENUM, AT(md_model_keys, weights), .fallback = "stored",
     .names = weights_names},
    {"state", "dtype of the recurrent state", IO_OPT_ENUM, AT(md_model_keys, state), .fallback = "fp32",
     .names = state_names},
    {"deterministic", "outputs do not depend on what shares a batch", IO_OPT_BOOL, AT(md_model_keys, deterministic),
     .fallback = "true"},
    {"slots", "stream-channels served at once", IO_OPT_INT, AT(md_model_keys, slots), .fallback = "4096", .min = 1,
     .max = 1 << 24},
    {"threads", "worker threads on the CPU; 0: one per core", IO_OPT_INT, AT(md_model_keys, threads), .fallback = "0",
     .min = 0, .max = 1024},
    {"carry", "states of other weights are gone on from, where the architecture is the same", IO_OPT_BOOL,
     AT(md_model_keys, carry), .fallback = "false"},
    {NULL},
};

const struct io_option md_input_options[] = {
    {"type", "adapter", IO_OPT_STRING, AT(md_input_keys, type), .required = true},
    {"model", "id of the model; may be left out where there is one", IO_OPT_STRING, AT(md_input_keys, model)},
    {"when_full", "what a full queue does", IO_OPT_ENUM, AT(md_input_keys, when_full), .names = when_full_names},
    {"queue", "rows that a stream may have waiting", IO_OPT_INT, AT(md_input_keys, queue), .fallback = "65536",
     .min = 1, .max = 1 << 28},
    {"max_streams", "streams that are live at once; more are refused", IO_OPT_INT, AT(md_input_keys, max_streams),
     .fallback = "16777216", .min = 1, .max = 1 << 24},
    {NULL},
};

const struct io_option md_output_options[] = {
    {"type", "adapter", IO_OPT_STRING, AT(md_output_keys, type), .required = true},
    {"families", "what is written; default all", IO_OPT_STRINGS, AT(md_output_keys, families), .required = false},
    {NULL},
};

const struct io_option md_batch_options[] = {
    {"max_delay", "longest wait for a fuller batch", IO_OPT_DURATION, AT(md_batch_keys, max_delay_ns),
     .fallback = "2ms", .min = 0, .max = 60e9},
    {"max_streams", "streams in one batch", IO_OPT_INT, AT(md_batch_keys, max_streams), .fallback = "1024", .min = 1,
     .max = 65536},
    {NULL},
};

const struct io_option md_state_options[] = {
    {"dir", "folder of the snapshots", IO_OPT_STRING, AT(md_state_keys, dir), .required = true},
    {"interval", "time between snapshots", IO_OPT_DURATION, AT(md_state_keys, interval_ns), .fallback = "30s",
     .min = 1e7, .max = 365 * DAY_NS},
    {"keep", "snapshots kept", IO_OPT_INT, AT(md_state_keys, keep), .fallback = "3", .min = 1, .max = 1000},
    {"forget_after", "how long the numbers of an ended stream are remembered", IO_OPT_DURATION,
     AT(md_state_keys, forget_after_ns), .fallback = "7d", .min = 0, .max = 36500 * DAY_NS},
    {"remember", "ended streams that are remembered at most; the oldest are forgotten first", IO_OPT_INT,
     AT(md_state_keys, remember), .fallback = "100000", .min = 0, .max = 1 << 30},
    {"spill", "most disk for the states of idle streams where slots are short; 0: none", IO_OPT_SIZE,
     AT(md_state_keys, spill_bytes), .fallback = "1GiB", .min = 0, .max = 1e15},
    {NULL},
};

const struct io_option md_server_options[] = {
    {"control", "endpoint of the control socket, ipc://PATH", IO_OPT_STRING, AT(md_server_keys, control),
     .sole = "address"},
    {"shutdown_timeout", "longest time that draining takes", IO_OPT_DURATION, AT(md_server_keys, shutdown_timeout_ns),
     .fallback = "10s", .min = 0, .max = 3600e9},
    {"generate", "endpoint of the generation service, ipc://PATH or tcp://HOST:PORT", IO_OPT_STRING,
     AT(md_server_keys, generate), .sole = "address"},
    {"generate_requests", "texts that are written at once; more are refused", IO_OPT_INT,
     AT(md_server_keys, generate_requests), .fallback = "64", .min = 1, .max = 4096},
    {"generate_per_client", "of them for one client", IO_OPT_INT, AT(md_server_keys, generate_per_client),
     .fallback = "16", .min = 1, .max = 4096},
    {"generate_prompt", "longest prompt", IO_OPT_SIZE, AT(md_server_keys, generate_prompt), .fallback = "1MiB",
     .min = 1, .max = 1 << 30},
    {"generate_bytes", "longest text", IO_OPT_INT, AT(md_server_keys, generate_bytes), .fallback = "1048576", .min = 1,
     .max = 1e12},
    {"generate_insecure", "allow TCP beyond loopback without encryption", IO_OPT_BOOL,
     AT(md_server_keys, generate_insecure), .fallback = "false"},
    {"generate_curve_key", "file of the secret key (mambactl keygen); CURVE encrypts", IO_OPT_STRING,
     AT(md_server_keys, generate_curve_key)},
    {"generate_curve_clients", "file of the public keys that are let in, one a line", IO_OPT_STRING,
     AT(md_server_keys, generate_curve_clients)},
    {NULL},
};

const struct io_option md_log_options[] = {
    {"level", "least important lines written", IO_OPT_ENUM, AT(md_log_keys, level), .fallback = "info",
     .names = level_names},
    {"format", "text, json, journal, or auto: by what stderr is", IO_OPT_ENUM, AT(md_log_keys, format),
     .fallback = "auto", .names = format_names},
    {NULL},
};

/* ---- streams: the order is that of enum md_policy_key ------------------------------------------------------- */

const struct io_option md_policy_options[] = {
    {"nan", "what a missing value does; auto: mask where the model can, else skip", IO_OPT_ENUM, AT(md_policy, nan),
     .names = nan_names},
    {"late", "what rows that come after later ones do", IO_OPT_ENUM, AT(md_policy, late), .names = late_names},
    {"silence", "event `silent` after this long without rows", IO_OPT_DURATION, AT(md_policy, silence_ns), .min = 1e6,
     .max = 36500 * DAY_NS},
    {"idle", "the stream ends after this long without rows", IO_OPT_DURATION, AT(md_policy, idle_ns), .min = 1e6,
     .max = 36500 * DAY_NS},
    {"adapt", "linear: forecasts are combined with an online linear one", IO_OPT_ENUM, AT(md_policy, adapt),
     .names = adapt_names},
    {NULL},
};

const struct io_option md_gap_options[] = {
    {"max", "a longer gap resets the stream, a shorter one is bridged", IO_OPT_DURATION, AT(md_policy, gap_max_ns),
     .min = 0, .max = 36500 * DAY_NS},
    {NULL},
};

const struct io_option md_alarm_options[] = {
    {"p", "p-value at or below which anomaly_start is sent; 0: never", IO_OPT_REAL, AT(md_policy, alarm_p),
     .fallback = "0.0001", .min = 0, .max = 0.5},
    {NULL},
};

const struct io_option md_publish_every_options[] = {
    {"every", "publish every k-th model step", IO_OPT_INT, AT(md_publish_keys, every), .fallback = "1", .min = 1,
     .max = 1 << 30},
    {NULL},
};

const struct io_option md_publish_options[] = {
    {"every", "publish every k-th model step", IO_OPT_INT, AT(md_publish_keys, every), .fallback = "1", .min = 1,
     .max = 1 << 30},
    {"horizon", "samples ahead, up to 1024; default the model's", IO_OPT_INT, AT(md_publish_keys, horizon), .min = 1,
     .max = 1 << 20},
    {NULL},
};

/* One quantile into a double. */
const struct io_option md_quantile_options[] = {
    {"quantiles", "quantiles published; default the model's", IO_OPT_REAL, 0, .min = 1e-6, .max = 1 - 1e-6},
    {NULL},
};

void md_policy_default(struct md_policy *ret)
{
    *ret = (struct md_policy){
        .nan = MD_NAN_AUTO, .gap_max_ns = -1, .late = MD_LATE_DROP, .silence_ns = -1, .idle_ns = -1, .alarm_p = 1e-4};
    for (unsigned f = 0; f < IO_FAMILIES; f++)
        ret->publish[f] = (struct md_publish){
            .on = f == IO_PREDICTION || f == IO_EMBEDDING || f == IO_ANOMALY || !md_family_settable(f), .every = 1};
}
