/* tile.c: fills tiles from a batch. Runs on the worker that owns the tile. Everything is sized at open; nothing here
 * allocates. Trap: a row that its slot does not take still goes through the GEMMs (rows do not mix), only the recurrent
 * parts leave it out. */
#include "ssm/tile.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "ssm/fail.h"

enum { ROWS_MIN = 64, ROWS_MAX = 256, ROWS_BYTES = 2 << 20 };

/* Rows a multiple of 1 KiB apart would share cache sets. */
static size_t leading(size_t padded)
{
    return padded % 256 ? padded : padded + SSM_LANES;
}

static void *take(struct ssm_tile *t, size_t bytes)
{
    void *at = t->block ? t->block + t->bytes : NULL;
    t->bytes += (bytes + SSM_ALIGN - 1) / SSM_ALIGN * SSM_ALIGN;
    return at;
}

/* Walked twice: to count, then to place. */
static void place(struct ssm_tile *t)
{
    const struct ssm_config *c = &t->layout->model->config;
    size_t M = t->capacity, f = sizeof(float);
    t->bytes = 0;
    t->r = take(t, M * t->ldr * f);
    t->features = take(t, M * t->ldf * f);
    t->xz = take(t, M * t->ldxz * f);
    t->xc = take(t, M * t->ldd * f);
    t->bc = take(t, M * t->ldbc * f);
    t->dt = take(t, M * t->ldd * f);
    t->f = take(t, M * t->ldr * f);
    t->picked_f = take(t, M * t->ldr * f);
    t->near = take(t, M * t->ldnear * f);
    t->out = take(t, M * t->ldo * f);
    t->g = take(t, M * f);
    t->frames = take(t, M * sizeof *t->frames);
    t->patches = take(t, M * c->front.patch * sizeof *t->patches);
    t->entries = take(t, M * sizeof *t->entries);
    t->runs = take(t, M * sizeof *t->runs);
    t->picked = take(t, M * sizeof *t->picked);
}

/* Few enough rows for the cache, many enough to use each weight well. */
static uint32_t rows_for(const struct ssm_tile *t)
{
    size_t row = (2 * t->ldr + t->ldf + t->ldxz + 2 * t->ldd + t->ldbc) * sizeof(float), rows = ROWS_BYTES / row;
    return rows < ROWS_MIN ? ROWS_MIN : rows > ROWS_MAX ? ROWS_MAX : (uint32_t)rows;
}

int ssm_tile_init(struct ssm_tile *t, const struct ssm_weights *w, const struct ssm_layout *layout, uint32_t rows)
{
    const struct ssm_dims *d = &w->dims;
    *t = (struct ssm_tile){.w = w, .layout = layout};
    t->ldr = leading(d->Ep);
    t->ldf = leading(d->Fp);
    t->ldxz = leading(d->z_at + d->Dp);
    t->ldd = leading(d->Dp);
    t->ldbc = d->Rp + 2 * d->Np;
    t->ldnear =
        SSM_PADDED(w->ops->n_step + (size_t)ssm_near(&layout->model->config) * layout->model->config.n_quantiles);
    t->ldo = SSM_PADDED(d->Op);
    t->capacity = rows ? rows : rows_for(t);
    place(t);
    size_t bytes = t->bytes;
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return -ENOMEM;
    t->block = block;
    place(t);
    return 0;
}

void ssm_tile_done(struct ssm_tile *t)
{
    if (t->block)
        munmap(t->block, t->bytes);
    *t = (struct ssm_tile){0};
}

static void add_run(struct ssm_tile *t, uint8_t *slot, uint32_t row, uint32_t T)
{
    const float *g = t->g + row;
    bool plain = true;
    for (uint32_t k = 0; k < T; k++)
        plain &= g[k] == 1.0f;
    t->runs[t->n_runs++] = (struct ssm_run){slot, row, T, plain ? NULL : g};
}

static uint32_t take_tokens(struct ssm_tile *t, const struct ssm_item *item, uint8_t *slot, uint32_t *at)
{
    uint32_t T = item->n - *at, room = t->capacity - t->rows;
    T = T < room ? T : room;
    for (uint32_t k = 0; k < T; k++) {
        uint32_t row = t->rows + k, i = *at + k;
        assert(item->tokens[i] >= 0 && (uint32_t)item->tokens[i] < t->w->dims.outputs);
        assert(!item->dt || (item->dt[i] >= 0 && item->interval >= 1));
        ssm_weights_embed(t->w, item->tokens[i], t->r + row * t->ldr);
        bool first = k == 0 && *ssm_slot_steps(t->layout, slot) == 0;
        t->g[row] = first || !item->dt ? 1.0f : (float)((double)item->dt[i] / (double)item->interval);
    }
    *at += T;
    add_run(t, slot, t->rows, T);
    return T;
}

static uint32_t take_samples(struct ssm_tile *t, const struct ssm_item *item, uint8_t *slot, uint32_t *at)
{
    const struct ssm_layout *l = t->layout;
    const struct ssm_front *front = &l->model->config.front;
    uint32_t row = t->rows, end, T;
    T = ssm_front_run(front, slot + l->at[SSM_PART_NORMALISER], slot + l->at[SSM_PART_PATCH], item, at,
                      t->capacity - row, t->features + row * t->ldf, t->ldf, t->g + row, t->frames + row,
                      t->patches + (size_t)row * front->patch);
    for (uint32_t k = row; k < row + T; k = end + 1) {
        for (end = k; end < row + T && t->frames[end].taken; end++)
            ;
        if (end > k)
            add_run(t, slot, k, end - k);
    }
    return T;
}

static void take_item(struct ssm_tile *t, struct ssm_feed *feed)
{
    const struct ssm_item *item = feed->items;
    uint8_t *slot = feed->slab + item->slot.index * t->layout->stride;
    uint64_t *steps = ssm_slot_steps(t->layout, slot);
    assert(item->n >= 1);
    if (feed->at == 0)
        feed->call_step = *steps;
    uint32_t T = t->layout->model->config.input == SSM_TOKENS ? take_tokens(t, item, slot, &feed->at)
                                                              : take_samples(t, item, slot, &feed->at);
    if (T > 0) {
        t->entries[t->n_entries++] = (struct ssm_entry){
            .item = item, .slot = slot, .row = t->rows, .T = T, .step = *steps, .call_step = feed->call_step};
        t->rows += T;
        *steps += T;
    }
    if (feed->at == item->n) {
        feed->items++;
        feed->n--;
        feed->at = 0;
    }
}

bool ssm_tile_fill(struct ssm_tile *t, struct ssm_feed *feed)
{
    t->rows = t->n_entries = t->n_runs = t->n_picked = 0;
    while (feed->n > 0 && t->rows < t->capacity)
        take_item(t, feed);
    return t->rows > 0;
}
