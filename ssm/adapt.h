/* adapt.h: an online linear read-out of one channel beside the model (docs/signal-model.md, sec. 8): what the channel's
 * own last few thousand samples say about its next ones, as quantiles, joined with the model's forecast by recent
 * accuracy. Learns from samples in the stream's own unit, from the first one on; forecasting changes nothing. The state
 * is plain data of a fixed size without pointers, for the slot. */
#ifndef SSM_ADAPT_H
#define SSM_ADAPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ssm/ssm.h"

struct ssm_adapt_shape {
    uint32_t patch;         /* samples of a step */
    uint32_t horizon_model; /* samples ahead that the model forecasts; 0: there is no model */
    uint32_t n_quantiles;   /* ≤ SSM_ADAPT_QUANTILES */
    const float *levels;    /* [n_quantiles] ascending */
};

size_t ssm_adapt_bytes(void); /* ≤ 64 KiB */
void ssm_adapt_reset(const struct ssm_adapt_shape *a, void *state);

/* The next step's samples x [patch], NaN where missing, and how many had room in the time between them and the step
 * before. Every step of the stream, taken or not. */
void ssm_adapt_learn(const struct ssm_adapt_shape *a, void *state, uint32_t gap, const double *x);

/* Whether the model's whole forecast made at this step, counted from the reset, from 1, is asked for: after the step's
 * learn, by note_model, so that the model's accuracy becomes known. Every fifth step or so; more often at first. */
bool ssm_adapt_wants_model(uint64_t step);
void ssm_adapt_note_model(const struct ssm_adapt_shape *a, void *state, const double *model_q);

/* Quantiles out [horizon][n_quantiles], ascending and finite, of the `horizon` ≤ SSM_HORIZON_MAX samples after the
 * last step learnt. model_q [horizon_model][n_quantiles]: what the model says of them, or NULL. False, with `out`
 * untouched, before the first finite sample: there is nothing to say. */
bool ssm_adapt_forecast(const struct ssm_adapt_shape *a, const void *state, const double *model_q, uint32_t horizon,
                        double *out);

#endif
