/* ssm.h: the whole public face of the engine.
 *
 *   model   immutable weights, mapped from a model folder; shared by all threads; outlives its engines
 *   engine  one model on one device, with a slab of slots
 *   slot    one stream-channel's whole recurrent state: conv windows, SSM states, normaliser, unfinished
 *           patch, carried forecast, calibrator, online adaptation, its part of what its stream's channels
 *           have in common, or a byte stream's last logits and unfinished record. A C-channel stream owns C slots.
 *
 * Everything a stream needs to go on is in its slots. All work goes through ssm_advance(): a ragged batch of
 * items, each with its slot and n ≥ 1 new samples (or tokens). For one engine the outputs of a slot depend
 * bitwise on that slot's own inputs only: not on how they were cut into calls, on what shared the batch, or on
 * the number of threads. (Unless ssm_engine_exact() says otherwise.)
 *
 * Threads: a model may be used from any thread. An engine is used by one thread at a time.
 * Errors: functions return 0 or a negative errno; `reterr` (SSM_ERR bytes) receives one line for a person.
 * The library never prints, logs, exits or reads the environment. ssm_advance() allocates nothing.
 * On a GPU ssm_advance_start() and ssm_advance_wait() let the caller fill one batch while another is computed.
 *
 * Source of the maths: Gu & Dao, "Mamba" (arXiv 2312.00752), sec. 3; equations stand beside the code. */
#ifndef SSM_SSM_H
#define SSM_SSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SSM_ERR = 512, SSM_QUANTILES_MAX = 32, SSM_CHANNELS_MAX = 1024 };
enum { SSM_HORIZON_MAX = 1024 };   /* samples ahead that every model with a forecast head can be asked for */
enum { SSM_ADAPT_QUANTILES = 12 }; /* of forecasts with online adaptation */

enum ssm_dtype { SSM_F32, SSM_BF16, SSM_F16 };

enum ssm_input {
    SSM_TOKENS, /* language models: int32 token ids; bytes where vocab is 256 */
    SSM_SAMPLES /* signal models: doubles in the stream's own unit */
};

/* What a model is; valid as long as the model. Heads that a model lacks have size 0. */
struct ssm_model_info {
    const char *name; /* last component of the folder's path */
    const char *type; /* config.json's model_type: "mamba" or "mambad" */
    enum ssm_input input;
    enum ssm_dtype stored; /* dtype of the projection weights in the file */
    uint32_t d_model, n_layer, d_inner, d_state, d_conv, dt_rank;
    uint32_t vocab; /* 0 for signal models */
    uint32_t patch; /* samples per model step; 1 for tokens */
    bool mask;      /* has a missing-value input: NaN policy `mask` is possible */
    double rate;    /* Hz the model was made for; 0: any */
    uint32_t horizon, n_quantiles;
    float quantiles[SSM_QUANTILES_MAX]; /* ascending */
    uint32_t embedding;                 /* floats per step */
    bool anomaly;
    bool bytes;      /* tokens that are bytes: streams of them can be scored, ssm_item.scored */
    uint32_t warmup; /* scored samples, or records of bytes, before the calibrator counts as warm */
    uint64_t n_params;
    uint64_t file_bytes;
};

/* Most samples ahead; 0: it does not forecast. */
static inline uint32_t ssm_model_farthest(const struct ssm_model_info *info)
{
    uint32_t most = SSM_HORIZON_MAX;
    return info->horizon > 0 && info->horizon < most ? most : info->horizon;
}

/* Whether an engine of it can be opened with `adapt`: it forecasts, and neither too far nor too fine. */
static inline bool ssm_model_adapts(const struct ssm_model_info *info)
{
    return info->input == SSM_SAMPLES && info->horizon >= 1 && info->horizon <= SSM_HORIZON_MAX &&
           info->n_quantiles <= SSM_ADAPT_QUANTILES;
}

struct ssm_model;

/* Opens a model folder (config.json + model.safetensors or HF's sharded index). A bad folder gives -ENOENT,
 * -EINVAL (config), -EBADMSG (weights) and a `reterr` that names file and key or tensor. */
int ssm_model_open(const char *dir, struct ssm_model **ret, char *reterr);
void ssm_model_close(struct ssm_model **model);
const struct ssm_model_info *ssm_model_info(const struct ssm_model *model);
/* Of its shape and every weight: two models of the same hash continue each other's slots. Reads all weights once. */
uint64_t ssm_model_hash(const struct ssm_model *model);
/* Of all that fixes the shape and meaning of a slot's bytes: where it is the same, so is the architecture. */
uint64_t ssm_model_shape_hash(const struct ssm_model *model);

/* A model of random weights for benchmarks and tests, by preset name ("sig-128x4", "mamba-130m", …) or as
 * "D×L[,N[,V[,P]]]" (V = 0: a signal model of patches of P samples); seed fixes the weights. The names:
 * ssm_preset_name(i), NULL-terminated. */
int ssm_model_random(const char *preset, uint64_t seed, struct ssm_model **ret, char *reterr);
const char *ssm_preset_name(unsigned i);

struct ssm_engine_opts {
    const char *device;     /* "cpu", "cuda", "cuda:N", "auto"; "null" (benchmarks only): computes nothing */
    const char *ops;        /* CPU op table by name; NULL: the best that this CPU can run for `weights` */
    enum ssm_dtype weights; /* dtype weights are held in; rounding happens once, at open */
    enum ssm_dtype state;   /* dtype of the SSM state; the CPU holds SSM_F32 only */
    bool deterministic;     /* false: a GPU may pick the faster arithmetic for each shape; see ssm_engine_exact() */
    bool adapt;             /* slots have room for online adaptation: ssm_item.adapt may be set */
    uint32_t slots;         /* capacity of the slab; memory of a slot is touched when it is first taken */
    uint32_t threads;       /* worker threads incl. the caller, on a GPU for front ends and heads; 0: one per online
                               core, on a GPU 16 at most */
};

struct ssm_engine;

int ssm_engine_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, struct ssm_engine **ret,
                    char *reterr);
void ssm_engine_close(struct ssm_engine **engine);
const struct ssm_model *ssm_engine_model(const struct ssm_engine *engine);
const char *ssm_engine_ops(const struct ssm_engine *engine);     /* op table in use, e.g. "avx512" */
const char *ssm_engine_device(const struct ssm_engine *engine);  /* "cpu", "cuda:0", "null" */
const char *ssm_engine_note(const struct ssm_engine *engine);    /* why device "auto" is the CPU; else "" */
const char *ssm_engine_failure(const struct ssm_engine *engine); /* what a device that failed said; else "" */
/* Fixed at open. False only where `deterministic` was false and the device uses it: a slot's outputs then depend on
 * what shares its batches and how they are cut, within the bounds between implementations. */
bool ssm_engine_exact(const struct ssm_engine *engine);

/* ---- slots ---------------------------------------------------------------------------------------------- */

/* A handle goes stale when its slot is given back: using it then is caught by an assertion. {0,0} is never valid. */
struct ssm_slot {
    uint32_t index, generation;
};

/* Fresh state. -ENOSPC: all in use; -ENOMEM: no memory on the device; -EIO: the device failed. Takes nothing then. */
int ssm_slot_take(struct ssm_engine *engine, struct ssm_slot *ret_slot);
void ssm_slot_give(struct ssm_engine *engine, struct ssm_slot slot);
void ssm_slot_reset(struct ssm_engine *engine, struct ssm_slot slot); /* back to the state after take */
/* `to` becomes what `from` is, on the device itself; both then go on with the same bits. 0; -EIO: the device failed. */
int ssm_slot_copy(struct ssm_engine *engine, struct ssm_slot from, struct ssm_slot to);
/* Of a slot whose items are scored (info.bytes): the logits behind its last byte, [vocab]. False: it has read none. */
bool ssm_slot_logits(struct ssm_engine *engine, struct ssm_slot slot, float *ret);
uint32_t ssm_slots_used(const struct ssm_engine *engine);

/* One named part of a slot's saved bytes. Sizes are fixed at open. */
struct ssm_section {
    const char *name; /* "header", "steps", "normaliser", "patch", "forecast", "calibrator", "adapt", "conv", "ssm",
                         "joint", "bytes" */
    size_t offset, bytes;
};
size_t ssm_slot_bytes(const struct ssm_engine *engine); /* of a saved slot */
const struct ssm_section *ssm_slot_sections(const struct ssm_engine *engine, unsigned *ret_n);
int ssm_slot_save(struct ssm_engine *engine, struct ssm_slot slot, void *buf); /* 0; -EIO: the device failed */
/* The same in two steps, for who has no time: the copy lacks its checksum, which any thread puts in. What has one keeps
 * it. */
int ssm_slot_save_unsealed(struct ssm_engine *engine, struct ssm_slot slot, void *buf);
void ssm_slot_seal(void *saved, size_t bytes);
/* What ssm_slot_restore() checks, without a slot. Any thread. */
int ssm_slot_check(const struct ssm_engine *engine, const void *buf, size_t bytes, bool *ret_exact, char *reterr);
/* Checks magic, version, model shape, size and checksum; -EBADMSG leaves the slot as it was. *ret_exact (may be
 * NULL) is false where the bytes were made by another op table: going on is then not bitwise. */
int ssm_slot_restore(struct ssm_engine *engine, struct ssm_slot slot, const void *buf, size_t bytes, bool *ret_exact,
                     char *reterr);

/* ---- advance -------------------------------------------------------------------------------------------- */

/* What a missing (NaN) sample does to its channel; infinities count as NaN. */
enum ssm_nan {
    SSM_NAN_MASK, /* the step is taken with the sample marked missing; needs info.mask */
    SSM_NAN_SKIP, /* the channel does not take this patch's step; its rows are NaN; the next g covers it */
    SSM_NAN_HOLD  /* the channel's last finite sample stands in (before the first one: as skip) */
};

/* Outputs of one item. NULL buffers are not computed. Row k of a buffer stands at buf + k*stride (floats), so
 * that the channels of a stream can interleave in one array. `every` = k publishes the k-th, 2k-th, … model step
 * counted from the slot's last reset, whatever its rows hold; steps not chosen write nothing and leave no hole.
 * A step that a slot did not take (SSM_NAN_SKIP) is counted all the same and its rows are NaN. */
struct ssm_out {
    float *forecast; /* [horizon][n_q] in the input's unit, quantiles ascending, per chosen step */
    size_t forecast_stride;
    uint32_t forecast_every, horizon; /* horizon ≤ ssm_model_farthest() */
    uint32_t n_q;
    uint8_t q[SSM_QUANTILES_MAX]; /* indices into info.quantiles, ascending */

    float *embedding; /* [info.embedding] per chosen step */
    size_t embedding_stride;
    uint32_t embedding_every;

    float *anomaly; /* [3] = score, p_value, surprise per sample of a chosen step; NaN where undefined */
    size_t anomaly_stride;
    uint32_t anomaly_every;

    uint8_t *warmup; /* [steps]: 1 while the calibrator was not yet warm when that step began; a channel that
                        never had a finite sample writes 0 */

    float *logits; /* tokens: [n][vocab] */
    size_t logits_stride;
};

/* What a byte model says of the bytes of an item under the logits of the step before each. Its results stand in the
 * slot, as do the last logits, so all items of a slot since its reset have to be scored, or none. */
struct ssm_scored {
    float *surprise; /* [n] nats: −ln of the probability that the byte had; NaN for the first one. NULL: not scored */
    bool log_probs;  /* out.logits become log-probabilities */

    int32_t delimiter;   /* byte that ends a record, and belongs to it; −1: none does */
    uint32_t record_max; /* bytes, ≥ 1: a longer record is cut after these, and goes on as another */
    float *records;      /* [3] as in out.anomaly, of each record that ended; `surprise` is that of all its bytes */
    uint32_t *ends;      /* … and which of the item's bytes was its last; room for as many as may end */
    uint32_t *n_records;
};

/* What a row brings to light about a stream's channels: for how many rows, with this one, it has been so; 0: nothing.
 */
struct ssm_notice {
    uint32_t flatline;             /* a channel has been constant far longer than ever before */
    uint32_t level_up, level_down; /* a channel has left its level for another one */
};

/* One slot's share of a batch. The same slot stands at most once in a batch.
 *
 * Time: dt[i] is the time from the stream's previous sample to sample i in ticks of which `interval` make the
 * reference step between two samples; NULL means dt = interval throughout. A step's gap factor is
 *   g = (sum of dt since the last step taken) / (patch · interval), summed as integers,
 * so a regular stream counts ticks in samples (interval 1, a hole of k gives dt = 1 + k) and an irregular one in
 * ns. g acts as decay only, h = exp(Δ·A·g)·h + Δ·B·x; g = 1 is bit-identical to the plain model. The first step
 * after a reset has g = 1. dt ≥ 0, interval ≥ 1. */
struct ssm_item {
    struct ssm_slot slot;
    uint32_t n;      /* samples or tokens, ≥ 1 */
    const double *x; /* SSM_SAMPLES: sample i at x[i*x_stride]; NaN = missing */
    size_t x_stride;
    const int32_t *tokens;    /* SSM_TOKENS: each in [0, vocab) */
    struct ssm_scored scored; /* info.bytes; needs out.logits */
    const int64_t *dt;        /* [n] or NULL */
    int64_t interval;
    enum ssm_nan nan;
    bool adapt; /* forecasts are combined with an online linear one; the same for all items of a slot since its reset */
    struct ssm_out out;

    /* Of a stream's first item: this and the next channels − 1 items are the stream's, alike in n, dt and nan, each
     * with an anomaly buffer and anomaly_every 1; the rows of the stream as a whole go to `joint`. 0: no such rows.
     * Steps of a stream have to be asked for with them always or never. */
    uint32_t channels;
    float *joint;               /* [3] as in out.anomaly, per sample of a step; rows follow each other */
    struct ssm_notice *notices; /* likewise, or NULL */
};

/* Advances every item by its n samples. The number of steps an item ends is
 * (r + n)/patch − r/patch, r = samples since the slot's last reset. 0, or -EIO when the device failed: the slots of
 * this batch are then undefined, and the engine computes, saves and resets nothing any more; it can only be closed. Bad
 * tokens, stale slots and n = 0 are the caller's bugs. */
int ssm_advance(struct ssm_engine *engine, const struct ssm_item *items, uint32_t n_items);

/* ssm_advance() in two halves. start takes the batch in and returns while the device works (the CPU is done then); the
 * items, their inputs and outputs belong to the engine until the wait for this batch has returned. Two batches may be
 * under way; each wait completes the oldest and returns its 0 or -EIO, at once where there is none. start itself
 * returns -EIO where the device failed before: that batch is not under way. Slots may be taken, given back, reset,
 * copied, saved and restored in between: that completes the batches under way, whose waits then return at once. */
int ssm_advance_start(struct ssm_engine *engine, const struct ssm_item *items, uint32_t n_items);
int ssm_advance_wait(struct ssm_engine *engine);
bool ssm_advance_done(struct ssm_engine *engine);  /* the next wait would not wait for the device */

/* Seconds that the device has worked since open, of batches that were waited for; < 0: unknown. It may wait some
 * microseconds until the last one's clock has stopped. */
double ssm_engine_busy(struct ssm_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
