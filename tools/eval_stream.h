/* eval_stream.h: tables through a model, as the daemon would stream them: every channel a slot, one causal pass from
 * the first row. Many tables are under way at once where there are threads for them. One thread calls. */
#ifndef TOOLS_EVAL_STREAM_H
#define TOOLS_EVAL_STREAM_H

#include "ssm/ssm.h"
#include "tools/eval_table.h"

/* A series under way. Rows are counted over both parts. */
struct eval_job {
    void *series;
    const struct eval_table *parts[2]; /* streamed one behind the other, without a reset; channels alike */
    unsigned n_parts;
    uint32_t horizon; /* wanted; the model may have less, without adaptation */
    size_t season;    /* for the baselines */
};

struct eval_listener {
    /* Fills the next job; 0: there is none; negative: an error, written to reterr. */
    int (*open)(void *ctx, struct eval_job *ret, char *reterr);
    /* The first row ≥ at before which a forecast is wanted, a multiple of the patch; SIZE_MAX: none. NULL: never. */
    size_t (*next_origin)(void *ctx, void *series, size_t at, uint32_t patch);
    /* The model's forecast for rows origin … origin + horizon − 1, [horizon][EVAL_LEVELS]. */
    void (*forecast)(void *ctx, void *series, size_t origin, uint32_t channel, const float *quantiles,
                     uint32_t horizon);
    /* Anomaly rows [n][3] of the stream as a whole. NULL: not wanted. */
    void (*anomaly)(void *ctx, void *series, size_t at, size_t n, const float *rows);
    void (*close)(void *ctx, void *series);
    void (*progress)(void *ctx, size_t rows); /* of all series, now and then; NULL: not wanted */
};

struct eval_model;

/* 0, or -errno with reterr; -EINVAL: not a model for this. threads 0: one per core. adapt: with online adaptation. */
int eval_model_open(const char *dir, const char *device, uint32_t threads, bool adapt, struct eval_model **ret,
                    char *reterr);
void eval_model_close(struct eval_model **m);
const struct ssm_model_info *eval_model_info(const struct eval_model *m);

int eval_stream(struct eval_model *m, const struct eval_listener *l, void *ctx, char *reterr);

#endif
