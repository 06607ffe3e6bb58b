/* front.h: what stands between a stream's samples and the backbone of a signal model: patches, gap factors and
 * causal normalisation. docs/signal-model.md has the formulas; tools/train computes exactly the same.
 *
 * All arithmetic here is scalar double with libm, one order, so it is the same on every op table. State lives in
 * the slot ("normaliser" and "patch" sections) and is plain data without pointers. */
#ifndef SSM_FRONT_H
#define SSM_FRONT_H

#include "ssm/ssm.h"

/* Fixed by the model's config.json. */
struct ssm_front {
    uint32_t patch; /* P samples per step */
    bool mask;
    uint32_t features;  /* floats per step that go into the input projection */
    double memory;      /* samples over which mean and scale are remembered */
    double diff_memory; /* the same for the scale of first differences */
};

/* What a forecast made at a step is measured in. */
struct ssm_frame {
    double mean, scale; /* of the stream, up to and with this step's last sample */
    double last;        /* last finite sample */
    double step;        /* scale of first differences */
    uint32_t missing;   /* whole samples that time has room for between the patch before and this one */
    bool taken;         /* false: the step was skipped, its rows are NaN */
    bool blank;         /* no finite sample has ever been seen */
};

size_t ssm_front_bytes(const struct ssm_front *f, size_t *ret_normaliser, size_t *ret_patch);
void ssm_front_reset(const struct ssm_front *f, void *normaliser, void *patch);

/* Samples in the unfinished patch. */
uint32_t ssm_front_fill(const void *patch);

/* Consumes samples *at .. item->n until `max_steps` steps are complete or the item is used up; advances *at. Step k
 * leaves features[k*ldf..], g[k], frames[k] and its raw samples in patches[k*P..]. Returns the number of steps. A step
 * that is not taken (SSM_NAN_SKIP) is returned with taken = false and is to be left out of the backbone. */
uint32_t ssm_front_run(const struct ssm_front *f, void *normaliser, void *patch, const struct ssm_item *item,
                       uint32_t *at, uint32_t max_steps, float *features, size_t ldf, float *g,
                       struct ssm_frame *frames, double *patches);

#endif
