/* layer.h: one Mamba block on one tile, in the four stretches between which all workers must meet. Each is called by
 * every worker with its number; worker 0 of 1 does everything. */
#ifndef SSM_LAYER_H
#define SSM_LAYER_H

#include "ssm/tile.h"

/* What a worker has to itself. */
struct ssm_scratch {
    float *u;   /* [M][E], the normed rows */
    void *gemm; /* the op table's */
};

struct ssm_part_of { /* worker `index` of `count` */
    unsigned index, count;
};

void ssm_layer_in(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s);
void ssm_layer_select(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s);
void ssm_layer_scan(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s);
void ssm_layer_out(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s);

/* A worker's share of n things, cut at multiples of `unit`. */
void ssm_share(size_t n, size_t unit, struct ssm_part_of part, size_t *ret_from, size_t *ret_to);

/* A worker's share of the outputs [n0, n1) of y = W·x; n0 a multiple of n_step, n1 too or W's n. */
void ssm_layer_gemm(const struct ssm_tile *t, const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M,
                    float *y, size_t ldy, bool add, uint32_t n0, uint32_t n1, struct ssm_part_of part,
                    const struct ssm_scratch *s);

#endif
