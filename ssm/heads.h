/* heads.h: from the last layer's rows to what a stream's listeners asked for: logits, forecasts, embeddings, anomaly
 * scores. The matrix products are shared out between the workers, what follows them between entries. */
#ifndef SSM_HEADS_H
#define SSM_HEADS_H

#include "ssm/layer.h"

/* After a tile was filled, by one worker: which rows need the far part of the head. */
void ssm_heads_pick(struct ssm_tile *t);

/* Then by all, all waiting after each: the final norm; the head; the outputs. */
void ssm_heads_norm(struct ssm_tile *t, struct ssm_part_of part);
void ssm_heads_gemm(struct ssm_tile *t, struct ssm_part_of part, const struct ssm_scratch *s);
void ssm_heads_write(struct ssm_tile *t, struct ssm_part_of part);

/* Of a signal model's entry: scores its patches under the forecasts before them, carries the new forecast, writes rows.
 */
void ssm_signal_write(struct ssm_tile *t, const struct ssm_entry *e);

/* Steps are counted from 1. */
static inline bool ssm_chosen(uint64_t step, uint32_t every)
{
    return every <= 1 || step % every == 0;
}

/* Whether the head must compute the far part of row k of an entry, for a forecast that is published or for the online
 * adaptation, and how many steps ahead. */
bool ssm_signal_wants_far(const struct ssm_tile *t, const struct ssm_entry *e, uint32_t k);
uint32_t ssm_signal_far(const struct ssm_config *c, const struct ssm_item *item);

#endif
