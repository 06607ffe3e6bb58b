/* slot.c: where the parts of a slot lie, its fresh state, and its way to saved bytes and back. Called by a backend on
 * the engine's thread; the slab is the backend's. Trap: live states are padded to whole vectors per row of
 * channels; the pads are no state and are not saved. */
#include "ssm/slot.h"

#include <string.h>

#include "ssm/ops.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "saved slots are little-endian memory images");

static const char *const names[SSM_PARTS] = {"steps",      "normaliser", "patch", "forecast",
                                             "calibrator", "adapt",      "conv",  "ssm"};

/* Rows of D channels in a part: the padded ones. 0: plain bytes. */
static size_t rows_of(const struct ssm_config *c, enum ssm_part part)
{
    return part == SSM_PART_CONV ? (size_t)c->L * (c->K - 1) : part == SSM_PART_SSM ? (size_t)c->L * c->N : 0;
}

static void sizes(struct ssm_layout *l, const struct ssm_config *c)
{
    l->bytes[SSM_PART_STEPS] = sizeof(uint64_t);
    l->bytes[SSM_PART_CONV] = rows_of(c, SSM_PART_CONV) * c->D * sizeof(float);
    l->bytes[SSM_PART_SSM] = rows_of(c, SSM_PART_SSM) * c->D * sizeof(float);
    if (c->input == SSM_SAMPLES)
        ssm_front_bytes(&c->front, &l->bytes[SSM_PART_NORMALISER], &l->bytes[SSM_PART_PATCH]);
    if (c->anomaly) {
        l->bytes[SSM_PART_FORECAST] =
            sizeof(struct ssm_carried) + (size_t)ssm_near(c) * c->n_quantiles * sizeof(double);
        l->bytes[SSM_PART_CALIBRATOR] = ssm_calibrate_bytes();
    }
}

/* Whether part p is in the live slot. */
static bool is_live(const struct ssm_layout *l, enum ssm_part p)
{
    return l->states || (p != SSM_PART_CONV && p != SSM_PART_SSM);
}

void ssm_layout_init(struct ssm_layout *l, const struct ssm_model *model, bool states, bool adapt)
{
    const struct ssm_config *c = &model->config;
    size_t live = 0, saved = 0, row = SSM_PADDED(c->D) * sizeof(float);
    *l = (struct ssm_layout){.model = model, .states = states};
    l->adapt = (struct ssm_adapt_shape){c->front.patch, c->horizon, c->n_quantiles, c->quantiles};
    sizes(l, c);
    l->bytes[SSM_PART_ADAPT] = adapt ? ssm_adapt_bytes() : 0;
    for (enum ssm_part p = 0; p < SSM_PARTS; p++) {
        size_t bytes = rows_of(c, p) ? rows_of(c, p) * row : l->bytes[p];
        l->at[p] = live;
        l->saved_at[p] = saved;
        if (is_live(l, p))
            live += (bytes + SSM_ALIGN - 1) / SSM_ALIGN * SSM_ALIGN;
        if (!l->bytes[p])
            continue;
        l->sections[l->n_sections++] = (struct ssm_section){names[p], saved, l->bytes[p]};
        saved += l->bytes[p];
    }
    l->conv_layer = (c->K - 1) * SSM_PADDED(c->D);
    l->ssm_layer = c->N * SSM_PADDED(c->D);
    if (live / SSM_ALIGN % 2 == 0)
        live += SSM_ALIGN; /* an odd number of lines, so that equal places of many slots spread over all cache sets */
    l->stride = live;
}

/* Whether the slot uses the part "adapt": its memory is touched by such only. */
static bool adapts(const struct ssm_layout *l, const uint8_t *slot)
{
    const size_t adapt = l->at[SSM_PART_ADAPT], rest = l->at[SSM_PART_ADAPT + 1];
    return rest > adapt && *(const uint64_t *)(slot + adapt);
}

void ssm_layout_reset(const struct ssm_layout *l, uint8_t *slot)
{
    const struct ssm_config *c = &l->model->config;
    size_t adapt = l->at[SSM_PART_ADAPT], rest = l->at[SSM_PART_ADAPT + 1];
    memset(slot, 0, adapt);
    if (adapts(l, slot))
        memset(slot + adapt, 0, rest - adapt);
    memset(slot + rest, 0, l->stride - rest);
    if (c->input == SSM_SAMPLES)
        ssm_front_reset(&c->front, slot + l->at[SSM_PART_NORMALISER], slot + l->at[SSM_PART_PATCH]);
    if (c->anomaly)
        ssm_calibrate_reset(&c->calibration, slot + l->at[SSM_PART_CALIBRATOR]);
}

void ssm_layout_copy(const struct ssm_layout *l, const uint8_t *from, uint8_t *to)
{
    const size_t adapt = l->at[SSM_PART_ADAPT], rest = l->at[SSM_PART_ADAPT + 1];
    memcpy(to, from, adapt);
    if (adapts(l, from) || adapts(l, to))
        memcpy(to + adapt, from + adapt, rest - adapt);
    memcpy(to + rest, from + rest, l->stride - rest);
}

void ssm_layout_save(const struct ssm_layout *l, const uint8_t *slot, uint8_t *buf)
{
    size_t D = l->model->config.D * sizeof(float), row = SSM_PADDED(l->model->config.D) * sizeof(float);
    for (enum ssm_part p = 0; p < SSM_PARTS; p++) {
        size_t rows = rows_of(&l->model->config, p);
        if (!is_live(l, p))
            continue;
        for (size_t i = 0; i < rows; i++)
            memcpy(buf + l->saved_at[p] + i * D, slot + l->at[p] + i * row, D);
        if (!rows)
            memcpy(buf + l->saved_at[p], slot + l->at[p], l->bytes[p]);
    }
}

void ssm_layout_restore(const struct ssm_layout *l, uint8_t *slot, const uint8_t *buf)
{
    size_t D = l->model->config.D * sizeof(float), row = SSM_PADDED(l->model->config.D) * sizeof(float);
    ssm_layout_reset(l, slot);
    for (enum ssm_part p = 0; p < SSM_PARTS; p++) {
        size_t rows = rows_of(&l->model->config, p);
        if (!is_live(l, p))
            continue;
        for (size_t i = 0; i < rows; i++)
            memcpy(slot + l->at[p] + i * row, buf + l->saved_at[p] + i * D, D);
        if (!rows)
            memcpy(slot + l->at[p], buf + l->saved_at[p], l->bytes[p]);
    }
}
