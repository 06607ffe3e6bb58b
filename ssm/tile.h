/* tile.h: a bounded number of model steps of several slots, taken through the layers together: one row per step, the
 * rows of a slot next to each other and in time order. A batch of any size passes as a row of tiles; scratch is sized
 * once.
 *
 * entry  one item's rows in this tile           run  a stretch of rows that the backbone steps over: an entry without
 * feed   what of a batch is still to come            the steps that its slot did not take */
#ifndef SSM_TILE_H
#define SSM_TILE_H

#include "ssm/slot.h"
#include "ssm/weights.h"

struct ssm_entry {
    const struct ssm_item *item;
    uint8_t *slot;
    uint32_t row, T;
    uint64_t step;      /* steps the slot had behind it before the first of these rows */
    uint64_t call_step; /* … and before this call */
    uint32_t picked;    /* index of its first row in picked[] */
};

struct ssm_run {
    uint8_t *slot;
    uint32_t row, T;
    const float *g; /* NULL: 1 throughout */
};

struct ssm_tile {
    const struct ssm_weights *w;
    const struct ssm_layout *layout;
    uint32_t capacity; /* M */
    uint32_t rows, n_entries, n_runs, n_picked;
    struct ssm_entry *entries;
    struct ssm_run *runs;
    uint32_t *picked; /* rows whose far head outputs are wanted, ascending */
    uint32_t far_n;   /* and how many head outputs of them */

    size_t ldr, ldxz, ldd, ldbc, ldf, ldnear, ldo; /* leading dimensions */
    float *r;                                      /* [M][E] residual stream, fp32 */
    float *features;                               /* [M][F] */
    float *xz;                                     /* [M][z_at + D]; x's half becomes y */
    float *xc;                                     /* [M][D] after the convolution */
    float *bc;                                     /* [M][Rp + 2Np] */
    float *dt;                                     /* [M][D] */
    float *f;                                      /* [M][E] after the final norm */
    float *picked_f;                               /* [n_picked][E] */
    float *near;                                   /* [M][near·Q] head outputs that every row needs */
    float *out;                                    /* [n_picked][outputs] */
    const uint32_t *lines;                         /* [M] a row's line in near, out and f; NULL: its own, and in out its
                                                      place among the picked */
    float *g;                                      /* [M] */
    struct ssm_frame *frames;                      /* [M] */
    double *patches;                               /* [M][P] */
    uint8_t *block;
    size_t bytes;
};

struct ssm_feed {
    const struct ssm_item *items;
    uint32_t n;         /* items left */
    uint32_t at;        /* samples of the first one that are consumed */
    uint64_t call_step; /* of the first one, once at > 0 */
    uint8_t *slab;
};

/* rows: capacity; 0: what suits the model. */
int ssm_tile_init(struct ssm_tile *t, const struct ssm_weights *w, const struct ssm_layout *layout, uint32_t rows);
void ssm_tile_done(struct ssm_tile *t);

/* Takes the next rows from the feed: embeds tokens, runs the front end. False: the feed has run dry and gave no row. */
bool ssm_tile_fill(struct ssm_tile *t, struct ssm_feed *feed);

#endif
