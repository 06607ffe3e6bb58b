/* notice.c: see notice.h. */
#include "ssm/notice.h"

#include <math.h>

#define FLAT_LEAST 64.0    /* samples: no shorter run is flat */
#define FLAT_MOVES 128.0   /* runs seen before one can be */
#define FLAT_TIMES 8.0     /* longest runs seen */
#define BLOCK 32.0         /* samples whose mean is looked at */
#define BLOCKS_LEAST 32.0  /* seen before one can be far away */
#define BLOCKS_MEMORY 16.0 /* of the level */
#define REACH_TIMES 4.0    /* farthest blocks seen, beyond which one is far away */
#define SHIFT_BLOCKS 4.0   /* far ones on end that make a shift */

/* How far it has been: what was far away counts as no more than twice what was known, so that it takes several to be
 * usual. */
static double learnt(double known, double seen)
{
    return known > 0.0 && seen > 2.0 * known ? 2.0 * known : fmax(known, seen);
}

static uint32_t flatline(struct ssm_watch *w, double x)
{
    if (x != w->last) {
        if (w->run > 0.0) {
            w->longest = fmax(w->longest, w->run);
            w->moves += 1.0;
        }
        w->run = 0.0;
        w->last = x;
    }
    w->run += 1.0;
    double limit = floor(fmax(FLAT_LEAST, FLAT_TIMES * w->longest));
    return w->moves >= FLAT_MOVES && w->run == limit + 1.0 ? (uint32_t)fmin(w->run, UINT32_MAX) : 0;
}

/* A block's mean against the level. Far ones wait: they are learnt when they were no shift, or all at once as one. */
static int shift(struct ssm_watch *w, double mean)
{
    double off = mean - w->level, far = REACH_TIMES * w->reach + 1e-9 * fabs(w->level);
    bool known = w->blocks >= BLOCKS_LEAST;
    if (known && fabs(off) > far) {
        double way = off > 0.0 ? 1.0 : -1.0;
        w->beyond = w->side * way > 0.0 ? w->beyond + mean : mean;
        w->side = w->side * way > 0.0 ? w->side + way : way;
        if (fabs(w->side) < SHIFT_BLOCKS)
            return 0;
        w->reach = learnt(w->reach, fabs(off));
        w->level = w->beyond / SHIFT_BLOCKS;
        w->side = 0.0;
        return (int)way;
    }
    if (w->side != 0.0)
        w->reach = learnt(w->reach, fabs(w->beyond / fabs(w->side) - w->level));
    w->side = 0.0;
    if (w->blocks > 0.0)
        w->reach = fmax(w->reach, fabs(off));
    w->blocks += 1.0;
    w->level += off / fmin(w->blocks, BLOCKS_MEMORY);
    return 0;
}

void ssm_watch_sample(struct ssm_watch *w, double x, struct ssm_notice *ret)
{
    uint32_t flat = flatline(w, x);
    if (flat > ret->flatline)
        ret->flatline = flat;
    w->sum += x;
    w->filled += 1.0;
    if (w->filled < BLOCK)
        return;
    int way = shift(w, w->sum / BLOCK);
    if (way > 0)
        ret->level_up = (uint32_t)(BLOCK * SHIFT_BLOCKS);
    if (way < 0)
        ret->level_down = (uint32_t)(BLOCK * SHIFT_BLOCKS);
    w->sum = w->filled = 0.0;
}
