/* plan.c: policies compiled for the engine. A configuration has few distinct policies, so a list is searched; streams
 * in their thousands share its members. */
#include "daemon/plan.h"

#include <math.h>
#include <stdlib.h>

static bool publish_equal(const struct md_publish *a, const struct md_publish *b)
{
    bool equal = a->on == b->on && a->named == b->named && a->every == b->every && a->horizon == b->horizon &&
                 a->n_quantiles == b->n_quantiles;

    for (uint32_t i = 0; equal && i < a->n_quantiles; i++)
        equal = a->quantiles[i] == b->quantiles[i];
    return equal;
}

static bool policy_equal(const struct md_policy *a, const struct md_policy *b)
{
    bool equal = a->nan == b->nan && a->adapt == b->adapt && a->gap_max_ns == b->gap_max_ns && a->late == b->late &&
                 a->silence_ns == b->silence_ns && a->idle_ns == b->idle_ns && a->alarm_p == b->alarm_p;

    for (unsigned f = 0; equal && f < IO_FAMILIES; f++)
        equal = publish_equal(&a->publish[f], &b->publish[f]);
    return equal;
}

static uint32_t nearest_quantile(const struct ssm_model_info *info, float level)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < info->n_quantiles; i++)
        if (fabsf(info->quantiles[i] - level) < fabsf(info->quantiles[best] - level))
            best = i;
    return best;
}

static void choose_forecast(struct md_plan *p)
{
    const struct md_publish *want = &p->policy.publish[IO_PREDICTION];
    const struct ssm_model_info *info = p->info;
    uint32_t most = ssm_model_farthest(info);

    p->adapt = p->policy.adapt == MD_ADAPT_LINEAR && ssm_model_adapts(info);
    p->horizon = !want->horizon ? info->horizon : want->horizon < most ? want->horizon : most;
    p->n_q = want->n_quantiles ? want->n_quantiles : info->n_quantiles;
    for (uint32_t i = 0; i < p->n_q; i++) {
        p->q[i] = (uint8_t)(want->n_quantiles ? nearest_quantile(info, want->quantiles[i]) : i);
        p->quantiles[i] = info->quantiles[p->q[i]];
    }
    if (p->horizon == 0 || p->n_q == 0)
        p->every[IO_PREDICTION] = 0;
}

static void choose_anomaly(struct md_plan *p)
{
    p->alarm = p->info->anomaly && p->policy.alarm_p > 0;
    if (!p->info->anomaly)
        p->every[IO_ANOMALY] = p->every[IO_CHANNEL_ANOMALY] = 0;
    p->joint = p->alarm || p->every[IO_ANOMALY];
    p->anomaly_every = p->joint ? 1 : p->every[IO_CHANNEL_ANOMALY];
}

/* A byte stream's predictions are many numbers, so they are off until they are asked for by name. */
static void choose_for_bytes(struct md_plan *p)
{
    if (!p->policy.publish[IO_PREDICTION].named)
        p->every[IO_PREDICTION] = 0;
    p->every[IO_CHANNEL_ANOMALY] = 0;
    p->alarm = p->policy.alarm_p > 0;
}

static void compile(struct md_plan *p)
{
    static const enum ssm_nan nan[] = {[MD_NAN_MASK] = SSM_NAN_MASK,
                                       [MD_NAN_SKIP] = SSM_NAN_SKIP,
                                       [MD_NAN_HOLD] = SSM_NAN_HOLD,
                                       [MD_NAN_RESET] = SSM_NAN_SKIP};

    for (unsigned f = 0; f < IO_EVENT; f++) {
        const struct md_publish *want = &p->policy.publish[f];
        p->every[f] = !want->on ? 0 : want->every ? want->every : 1;
    }
    if (!p->info->embedding)
        p->every[IO_EMBEDDING] = 0;
    p->nan_reset = p->policy.nan == MD_NAN_RESET;
    if (p->policy.nan == MD_NAN_AUTO || (p->policy.nan == MD_NAN_MASK && !p->info->mask))
        p->nan = p->info->mask ? SSM_NAN_MASK : SSM_NAN_SKIP;
    else
        p->nan = nan[p->policy.nan];
    if (p->info->bytes) {
        choose_for_bytes(p);
        return;
    }
    p->every[IO_SURPRISE] = 0;
    choose_forecast(p);
    choose_anomaly(p);
}

const struct md_plan *md_plan_get(struct md_plan **list, const struct md_policy *policy,
                                  const struct ssm_model_info *info)
{
    struct md_plan *p;

    for (p = *list; p; p = p->next)
        if (p->info == info && policy_equal(&p->policy, policy))
            return p;
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->policy = *policy;
    p->info = info;
    compile(p);
    p->next = *list;
    *list = p;
    return p;
}

void md_plan_free(struct md_plan **list)
{
    while (*list) {
        struct md_plan *p = *list;
        *list = p->next;
        free(p);
    }
}
