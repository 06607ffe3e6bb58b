/* plan.h: the host's half of a pass: which rows of a batch it takes, what the device is told about them, and what
 * becomes of the results. No CUDA calls; the engine's thread, but for fill and write, which workers share by entries.
 *
 *   take    items into entries, and how many rows each has
 *   fill    the inputs of an entry's rows: tokens, or what the front end makes of samples
 *   rows    rows that a slot does not take are left out; the others become runs
 *   tiles   runs into tiles and chains, for the regimes that want them
 *   close   the counts; from here on the block is what the device gets, one copy
 *   slices  where the wide regime cuts it, if it is that one's
 *   write   once the results are back: outputs into the items' buffers */
#ifndef SSM_CUDA_PLAN_H
#define SSM_CUDA_PLAN_H

#include "ssm/cuda/gpu.h"
#include "ssm/tile.h"

/* Bytes from the start of the block. What depends on the number of rows comes first, so that passes of one bucket have
 * the same places up to the runs. */
struct gpu_places {
    size_t g, x, pick, run_of, runs, tiles, chains, end;
};

/* What of its item an entry takes: samples or tokens [from, to). */
struct gpu_span {
    uint32_t from, to;
};

struct gpu_plan {
    struct ssm_tile tile; /* its entries, frames and patches are the plan's; features and g lie in the block; near,
                             out and f are where the results come back to */
    const struct gpu_slab *slab;
    uint32_t capacity, out_capacity; /* rows, and rows of `out` */
    uint32_t Fp, np;                 /* floats of a row's features; outputs of the head, padded */
    struct gpu_span *spans;          /* [capacity] of entries */
    uint32_t *lines;                 /* [capacity] where a row of the tile is on the device; signal models */
    uint32_t room;                   /* rows that there are places for */
    struct gpu_head head;
    struct gpu_slices slices;
    uint32_t longest; /* run */
    bool wants_f;
    uint8_t *block; /* pinned */
    struct gpu_places places;
};

/* The block is the caller's: gpu_plan_bytes(), zeros. */
size_t gpu_plan_bytes(uint32_t capacity, uint32_t Fp);
int gpu_plan_init(struct gpu_plan *p, const struct ssm_layout *layout, const struct gpu_model *m,
                  const struct gpu_slab *slab, uint32_t capacity, uint32_t out_capacity, uint8_t *block);
void gpu_plan_done(struct gpu_plan *p);

/* Rows that a captured graph is made for: a power of two, up to `most`. */
static inline uint32_t gpu_bucket(uint32_t n, uint32_t most)
{
    uint32_t up = n > 1 ? 1u << (32 - __builtin_clz(n - 1)) : n;
    return up < most ? up : most;
}
enum { GPU_BUCKET_ROWS = 1024 }; /* from there on launches are not what a pass takes its time with */

void gpu_plan_take(struct gpu_plan *p, struct ssm_feed *feed);
void gpu_plan_fill(struct gpu_plan *p, unsigned part, unsigned parts);
void gpu_plan_rows(struct gpu_plan *p);
void gpu_plan_tiles(struct gpu_plan *p, uint32_t tile_rows);
void gpu_plan_close(struct gpu_plan *p);
void gpu_plan_slices(struct gpu_plan *p);

/* Signal models. */
void gpu_plan_write(struct gpu_plan *p, unsigned part, unsigned parts);
/* Token models: lines [from, to) of `out`, which stand at `rows`. */
void gpu_plan_write_logits(const struct gpu_plan *p, uint32_t from, uint32_t to, const float *rows);

#endif
