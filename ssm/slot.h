/* slot.h: the bytes of a slot on the CPU, live and saved. A live slot is one contiguous stretch of the engine's slab,
 * without the last two parts where a device has them; saved, it is the non-empty sections back to back, without the
 * padding of the live form, in a layout that every backend shares:
 *
 *   steps       u64, model steps since the reset           forecast    what the next patch is scored under
 *   normaliser  running statistics                         calibrator  the tail estimate
 *   patch       unfinished patch and ticks                 adapt       online adaptation
 *                                                          conv        float [L][K−1][D], oldest first
 *                                                          ssm         float [L][N][D]
 * All numbers are little-endian. */
#ifndef SSM_SLOT_H
#define SSM_SLOT_H

#include "ssm/adapt.h"
#include "ssm/model.h"

enum ssm_part {
    SSM_PART_STEPS,
    SSM_PART_NORMALISER,
    SSM_PART_PATCH,
    SSM_PART_FORECAST,
    SSM_PART_CALIBRATOR,
    SSM_PART_ADAPT,
    SSM_PART_CONV,
    SSM_PART_SSM,
    SSM_PARTS
};

struct ssm_layout {
    const struct ssm_model *model;
    bool states;                  /* conv and ssm are in the live slot */
    struct ssm_adapt_shape adapt; /* of the part of that name, if there is one */
    size_t at[SSM_PARTS];         /* in a live slot */
    size_t saved_at[SSM_PARTS];   /* in a saved one */
    size_t bytes[SSM_PARTS];      /* saved; 0: this model has no such part */
    size_t conv_layer, ssm_layer; /* floats per layer, live */
    size_t stride;                /* of live slots */
    struct ssm_section sections[SSM_PARTS];
    unsigned n_sections;
};

/* states false: live slots hold all parts but conv and ssm, and those stay untouched in what is saved and restored.
 * adapt: the model forecasts. */
void ssm_layout_init(struct ssm_layout *layout, const struct ssm_model *model, bool states, bool adapt);
void ssm_layout_reset(const struct ssm_layout *layout, uint8_t *slot);
void ssm_layout_copy(const struct ssm_layout *layout, const uint8_t *from, uint8_t *to);
void ssm_layout_save(const struct ssm_layout *layout, const uint8_t *slot, uint8_t *buf);
void ssm_layout_restore(const struct ssm_layout *layout, uint8_t *slot, const uint8_t *buf);

static inline uint64_t *ssm_slot_steps(const struct ssm_layout *layout, uint8_t *slot)
{
    return (uint64_t *)(slot + layout->at[SSM_PART_STEPS]);
}

static inline float *ssm_slot_conv(const struct ssm_layout *layout, uint8_t *slot, uint32_t layer)
{
    return (float *)(slot + layout->at[SSM_PART_CONV]) + layer * layout->conv_layer;
}

static inline float *ssm_slot_state(const struct ssm_layout *layout, uint8_t *slot, uint32_t layer)
{
    return (float *)(slot + layout->at[SSM_PART_SSM]) + layer * layout->ssm_layer;
}

/* Section "forecast": quantiles of the first samples ahead, made at the last step. */
struct ssm_carried {
    uint64_t valid;
    double scale;
    double q[]; /* [near][n_quantiles], near = min(patch, horizon) */
};

static inline uint32_t ssm_near(const struct ssm_config *c)
{
    return !c->anomaly ? 0 : c->horizon < c->front.patch ? c->horizon : c->front.patch;
}

#endif
