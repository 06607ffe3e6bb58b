/* plan.h: what a stream is to give, compiled from its policy and its model once and shared by all streams alike.
 * Immutable after md_plan_get(); the caller serialises that call. */
#ifndef MD_PLAN_H
#define MD_PLAN_H

#include "daemon/config.h"

struct md_plan {
    struct md_plan *next;
    struct md_policy policy;
    const struct ssm_model_info *info;
    enum ssm_nan nan; /* what the engine is told; under nan: reset it never sees a missing value */
    bool nan_reset;
    uint32_t every[IO_FAMILIES]; /* 0: the family is off */
    bool adapt;
    uint32_t horizon, n_q;
    uint8_t q[SSM_QUANTILES_MAX]; /* into info->quantiles */
    float quantiles[SSM_QUANTILES_MAX];
    bool alarm;
    bool joint; /* rows of the stream as a whole are asked for, which takes those of all steps; of signals */
    uint32_t anomaly_every; /* steps whose anomaly rows the engine is asked for; 0: none */
};

/* The plan of a policy under a model; made on first use. NULL: out of memory. */
const struct md_plan *md_plan_get(struct md_plan **list, const struct md_policy *policy,
                                  const struct ssm_model_info *info);
void md_plan_free(struct md_plan **list);

#endif
