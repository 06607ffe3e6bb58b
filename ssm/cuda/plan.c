/* plan.c: see plan.h. Everything is sized at open; nothing here allocates afterwards. A row is known by two numbers: in
 * the tile, where every step that ended has one, and on the device, where only those are that the backbone takes; they
 * differ in signal models after a step that was not taken. Trap: two runs of one slot must never be in one pass (they
 * would race for its state), which is why such rows are closed up and an item has one entry in a pass. */
#include "ssm/cuda/plan.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/heads.h"

enum {
    PLACE_ALIGN = 64, /* small plans stay small */
    AHEAD = 8,        /* slots fetched ahead from memory */
    LONG_RUN = 32     /* rows in the mean, from which slices fall on runs */
};

/* ---- memory ---------------------------------------------------------------------------------------------- */

static size_t take_place(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
    return at;
}

/* The inputs of `rows` rows. */
static void place_rows(struct gpu_places *p, uint32_t rows, uint32_t Fp)
{
    size_t used = 0;
    take_place(&used, sizeof(struct gpu_head));
    p->g = take_place(&used, rows * sizeof(float));
    p->x = take_place(&used, rows * (Fp ? Fp * sizeof(float) : sizeof(int32_t)));
    p->pick = take_place(&used, rows * sizeof(uint32_t));
    p->run_of = take_place(&used, rows * sizeof(uint32_t));
    p->runs = p->end = used;
}

/* What follows them, once the counts are known. */
static void place_runs(struct gpu_places *p, uint32_t runs, uint32_t tiles, uint32_t chains)
{
    size_t used = p->runs;
    take_place(&used, runs * sizeof(struct gpu_run));
    p->tiles = take_place(&used, tiles * sizeof(struct gpu_tile));
    p->chains = take_place(&used, chains * sizeof(struct gpu_chain));
    p->end = used;
}

size_t gpu_plan_bytes(uint32_t capacity, uint32_t Fp)
{
    struct gpu_places p;
    place_rows(&p, capacity, Fp);
    place_runs(&p, capacity, capacity, capacity);
    return p.end;
}

int gpu_plan_init(struct gpu_plan *p, const struct ssm_layout *layout, const struct gpu_model *m,
                  const struct gpu_slab *slab, uint32_t capacity, uint32_t out_capacity, uint8_t *block)
{
    struct ssm_tile *t = &p->tile;
    uint32_t patch = layout->model->config.front.patch;
    bool samples = layout->model->config.input == SSM_SAMPLES;
    *p = (struct gpu_plan){.slab = slab,
                           .capacity = capacity,
                           .out_capacity = out_capacity,
                           .Fp = samples ? m->input.kp : 0,
                           .np = m->head.np,
                           .block = block};
    t->layout = layout;
    t->capacity = capacity;
    t->ldf = p->Fp;
    t->ldr = m->d.E;
    t->entries = calloc(capacity, sizeof *t->entries);
    p->spans = calloc(capacity, sizeof *p->spans);
    if (samples) {
        t->frames = calloc(capacity, sizeof *t->frames);
        t->patches = calloc((size_t)capacity * patch, sizeof *t->patches);
        t->lines = p->lines = calloc(capacity, sizeof *p->lines);
    }
    return t->entries && p->spans && (!samples || (t->frames && t->patches && p->lines)) ? 0 : -ENOMEM;
}

void gpu_plan_done(struct gpu_plan *p)
{
    free(p->tile.entries);
    free(p->tile.frames);
    free(p->tile.patches);
    free(p->spans);
    free(p->lines);
    *p = (struct gpu_plan){0};
}

static struct gpu_run *runs_of(const struct gpu_plan *p)
{
    return (struct gpu_run *)(p->block + p->places.runs);
}

static uint32_t *words_at(const struct gpu_plan *p, size_t place)
{
    return (uint32_t *)(p->block + place);
}

/* ---- take ------------------------------------------------------------------------------------------------ */

/* Whether one of the steps (step, step + T] is chosen. */
static bool any_chosen(uint64_t step, uint32_t T, uint32_t every)
{
    uint64_t k = every ? every : 1;
    return (step + T) / k > step / k;
}

static void want(struct gpu_plan *p, uint32_t n_out)
{
    uint32_t padded = GPU_PADDED(n_out);
    if (padded > p->head.n_out)
        p->head.n_out = padded;
}

static bool adapt_wants(const struct ssm_entry *e)
{
    for (uint32_t k = 1; k <= e->T; k++)
        if (ssm_adapt_wants_model(e->step + k))
            return true;
    return false;
}

/* Head outputs and embeddings that an entry needs; the near part of a forecast is needed of every row. */
static void want_of(struct gpu_plan *p, const struct ssm_entry *e)
{
    const struct ssm_config *c = &p->tile.layout->model->config;
    const struct ssm_out *out = &e->item->out;
    if ((out->forecast && any_chosen(e->step, e->T, out->forecast_every)) || (e->item->adapt && adapt_wants(e)))
        want(p, ssm_signal_far(c, e->item) * c->n_quantiles);
    if (out->embedding && any_chosen(e->step, e->T, out->embedding_every))
        p->wants_f = true;
}

/* Rows of the item that fit; *ret_end: where in the item the next pass goes on. */
static uint32_t take_tokens(struct gpu_plan *p, const struct ssm_item *item, uint32_t at, uint32_t *ret_end)
{
    struct ssm_tile *t = &p->tile;
    uint32_t T = item->n - at, room = p->capacity - t->rows, lines = p->out_capacity - t->n_picked;
    T = T < room ? T : room;
    if (item->out.logits) {
        T = T < lines ? T : lines;
        t->n_picked += T;
        want(p, p->np);
    }
    *ret_end = at + T;
    return T;
}

static uint32_t take_samples(struct gpu_plan *p, const struct ssm_item *item, const uint8_t *slot, uint32_t at,
                             uint32_t *ret_end)
{
    const struct ssm_layout *l = p->tile.layout;
    uint64_t P = l->model->config.front.patch, fill = ssm_front_fill(slot + l->at[SSM_PART_PATCH]);
    uint64_t T = (fill + item->n - at) / P, room = p->capacity - p->tile.rows;
    *ret_end = T <= room ? item->n : at + (uint32_t)(room * P - fill);
    return (uint32_t)(T <= room ? T : room);
}

static void fetch_ahead(const struct gpu_plan *p, const struct ssm_feed *feed)
{
    const struct ssm_layout *l = p->tile.layout;
    if (feed->n <= AHEAD)
        return;
    const uint8_t *slot = feed->slab + feed->items[AHEAD].slot.index * l->stride;
    __builtin_prefetch(slot + l->at[SSM_PART_STEPS], 1);
    __builtin_prefetch(slot + l->at[SSM_PART_PATCH], 1);
}

/* False: the pass is full. */
static bool take_item(struct gpu_plan *p, struct ssm_feed *feed)
{
    struct ssm_tile *t = &p->tile;
    const struct ssm_item *item = feed->items;
    bool tokens = t->layout->model->config.input == SSM_TOKENS;
    uint8_t *slot = feed->slab + item->slot.index * t->layout->stride;
    uint64_t *steps = ssm_slot_steps(t->layout, slot);
    uint32_t end, picked = t->n_picked;
    fetch_ahead(p, feed);
    uint32_t T = tokens ? take_tokens(p, item, feed->at, &end) : take_samples(p, item, slot, feed->at, &end);
    if (end == feed->at)
        return false;
    if (feed->at == 0)
        feed->call_step = *steps;
    p->spans[t->n_entries] = (struct gpu_span){feed->at, end};
    struct ssm_entry *e = &t->entries[t->n_entries++];
    *e = (struct ssm_entry){item, slot, t->rows, T, *steps, feed->call_step, picked};
    if (!tokens && T > 0)
        want_of(p, e);
    t->rows += T;
    *steps += T;
    feed->at = end;
    if (end == item->n) {
        feed->items++;
        feed->n--;
        feed->at = 0;
    }
    return true;
}

void gpu_plan_take(struct gpu_plan *p, struct ssm_feed *feed)
{
    struct ssm_tile *t = &p->tile;
    const struct ssm_config *c = &t->layout->model->config;
    t->rows = t->n_entries = t->n_picked = 0;
    p->wants_f = false;
    p->head = (struct gpu_head){0};
    want(p, ssm_near(c) * c->n_quantiles);
    while (feed->n > 0 && t->rows < p->capacity && t->n_entries < p->capacity && take_item(p, feed))
        ;
    p->room = t->rows <= GPU_BUCKET_ROWS ? gpu_bucket(t->rows, p->capacity) : t->rows;
    place_rows(&p->places, p->room, p->Fp);
    t->g = (float *)(p->block + p->places.g);
    t->features = p->Fp ? (float *)(p->block + p->places.x) : NULL;
}

/* ---- fill ------------------------------------------------------------------------------------------------ */

/* A part of the entries, about equal to the others in rows. */
static void share(const struct ssm_tile *t, unsigned part, unsigned parts, uint32_t *ret_from, uint32_t *ret_to)
{
    uint64_t weight = (uint64_t)t->rows + t->n_entries;
    uint32_t ends[2];
    for (unsigned i = 0; i < 2; i++) {
        uint64_t from = weight * (part + i) / parts;
        uint32_t lo = 0, hi = t->n_entries;
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if ((uint64_t)t->entries[mid].row + mid < from)
                lo = mid + 1;
            else
                hi = mid;
        }
        ends[i] = lo;
    }
    *ret_from = ends[0];
    *ret_to = ends[1];
}

static void fill_tokens(struct gpu_plan *p, const struct ssm_entry *e, uint32_t at)
{
    const struct ssm_item *item = e->item;
    uint32_t vocab = p->tile.layout->model->config.vocab;
    int32_t *tokens = (int32_t *)(p->block + p->places.x) + e->row;
    float *g = p->tile.g + e->row;
    for (uint32_t k = 0; k < e->T; k++) {
        assert(item->tokens[at + k] >= 0 && (uint32_t)item->tokens[at + k] < vocab);
        assert(!item->dt || (item->dt[at + k] >= 0 && item->interval >= 1));
        tokens[k] = item->tokens[at + k];
        g[k] = item->dt ? (float)((double)item->dt[at + k] / (double)item->interval) : 1.0f;
    }
    if (e->step == 0 && e->T > 0)
        g[0] = 1.0f;
}

static void fill_samples(struct gpu_plan *p, const struct ssm_entry *e, struct gpu_span span)
{
    struct ssm_tile *t = &p->tile;
    const struct ssm_layout *l = t->layout;
    const struct ssm_front *front = &l->model->config.front;
    float *features = t->features + e->row * t->ldf;
    /* the samples behind an item's last step are to reach the unfinished patch */
    uint32_t most = span.to == e->item->n ? UINT32_MAX : e->T;
    uint32_t T = ssm_front_run(front, e->slot + l->at[SSM_PART_NORMALISER], e->slot + l->at[SSM_PART_PATCH], e->item,
                               &span.from, most, features, t->ldf, t->g + e->row, t->frames + e->row,
                               t->patches + (size_t)e->row * front->patch);
    assert(T == e->T && span.from == span.to);
    for (uint32_t k = 0; k < T; k++)
        memset(features + k * t->ldf + front->features, 0, (t->ldf - front->features) * sizeof *features);
}

void gpu_plan_fill(struct gpu_plan *p, unsigned part, unsigned parts)
{
    uint32_t from, to;
    share(&p->tile, part, parts, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        if (p->Fp)
            fill_samples(p, &p->tile.entries[i], p->spans[i]);
        else
            fill_tokens(p, &p->tile.entries[i], p->spans[i].from);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

static void add_run(struct gpu_plan *p, const struct ssm_entry *e, uint32_t row, uint32_t T)
{
    if (T == 0)
        return;
    runs_of(p)[p->head.n_runs++] = (struct gpu_run){gpu_slab_at(p->slab, e->item->slot.index), row, T};
    if (T > p->longest)
        p->longest = T;
}

static void rows_of_tokens(struct gpu_plan *p)
{
    struct ssm_tile *t = &p->tile;
    uint32_t *pick = words_at(p, p->places.pick);
    for (uint32_t i = 0; i < t->n_entries; i++) {
        const struct ssm_entry *e = &t->entries[i];
        add_run(p, e, e->row, e->T);
        for (uint32_t k = 0; k < e->T; k++)
            pick[e->row + k] = e->item->out.logits ? e->picked + k : GPU_NOT_PICKED;
    }
    p->head.rows = t->rows;
    p->head.n_picked = t->n_picked;
}

static void move_row(const struct ssm_tile *t, uint32_t to, uint32_t from)
{
    if (to == from)
        return;
    memcpy(t->features + to * t->ldf, t->features + from * t->ldf, t->ldf * sizeof *t->features);
    t->g[to] = t->g[from];
}

static void rows_of_samples(struct gpu_plan *p)
{
    struct ssm_tile *t = &p->tile;
    uint32_t *pick = words_at(p, p->places.pick), line = 0;
    for (uint32_t i = 0; i < t->n_entries; i++) {
        const struct ssm_entry *e = &t->entries[i];
        uint32_t first = line;
        for (uint32_t row = e->row; row < e->row + e->T; row++) {
            p->lines[row] = line;
            if (!t->frames[row].taken)
                continue;
            move_row(t, line, row);
            line++;
        }
        add_run(p, e, first, line - first);
    }
    for (uint32_t i = 0; i < line; i++)
        pick[i] = p->head.n_out ? i : GPU_NOT_PICKED;
    p->head.rows = line;
    p->head.n_picked = p->head.n_out ? line : 0;
}

void gpu_plan_rows(struct gpu_plan *p)
{
    p->longest = 0;
    if (p->Fp)
        rows_of_samples(p);
    else
        rows_of_tokens(p);
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* Runs longer than a tile become several, from the last run to the first so that none is written over. */
static void cut_runs(struct gpu_plan *p, uint32_t most)
{
    struct gpu_run *runs = runs_of(p);
    uint32_t n = p->head.n_runs, to = 0;
    for (uint32_t i = 0; i < n; i++)
        to += (runs[i].T + most - 1) / most;
    p->head.n_runs = to;
    while (n-- > 0) {
        struct gpu_run run = runs[n];
        for (uint32_t pieces = (run.T + most - 1) / most; pieces-- > 0;) {
            uint32_t at = pieces * most, T = run.T - at < most ? run.T - at : most;
            runs[--to] = (struct gpu_run){run.slot, run.row + at, T};
        }
    }
}

/* How many runs from i on are pieces of one. */
static uint32_t pieces_from(const struct gpu_plan *p, uint32_t i)
{
    const struct gpu_run *runs = runs_of(p);
    uint32_t n = 1;
    while (i + n < p->head.n_runs && runs[i + n].slot == runs[i].slot)
        n++;
    return n;
}

/* Long runs have tiles of their own and come first: they take longest. */
static void tile_long(struct gpu_plan *p, struct gpu_tile *tiles)
{
    const struct gpu_run *runs = runs_of(p);
    for (uint32_t i = 0, n; i < p->head.n_runs; i += n) {
        n = pieces_from(p, i);
        for (uint32_t k = i; n > 1 && k < i + n; k++)
            tiles[p->head.n_tiles++] = (struct gpu_tile){k, 1, runs[k].row, runs[k].T};
    }
}

/* As many of the others as fit, next to each other. */
static void tile_short(struct gpu_plan *p, struct gpu_tile *tiles, uint32_t most)
{
    const struct gpu_run *runs = runs_of(p);
    struct gpu_tile *open = NULL; /* the tile that takes more */
    for (uint32_t i = 0, n; i < p->head.n_runs; i += n) {
        n = pieces_from(p, i);
        if (n > 1) {
            open = NULL;
            continue;
        }
        if (!open || open->rows + runs[i].T > most) {
            open = &tiles[p->head.n_tiles++];
            *open = (struct gpu_tile){i, 0, runs[i].row, 0};
        }
        open->n_runs++;
        open->rows += runs[i].T;
    }
}

/* Neighbouring tiles of one slot. */
static void chain_tiles(struct gpu_plan *p, const struct gpu_tile *tiles, struct gpu_chain *chains)
{
    const struct gpu_run *runs = runs_of(p);
    struct gpu_head *h = &p->head;
    for (uint32_t i = 0; i < h->n_tiles; i++) {
        if (i > 0 && runs[tiles[i].run].slot == runs[tiles[i - 1].run].slot)
            chains[h->n_chains - 1].n++;
        else
            chains[h->n_chains++] = (struct gpu_chain){i, 1};
    }
}

void gpu_plan_tiles(struct gpu_plan *p, uint32_t tile_rows)
{
    if (p->longest > tile_rows)
        cut_runs(p, tile_rows);
    place_runs(&p->places, p->head.n_runs, 0, 0);
    struct gpu_tile *tiles = (struct gpu_tile *)(p->block + p->places.tiles);
    if (p->longest > tile_rows)
        tile_long(p, tiles);
    tile_short(p, tiles, tile_rows);
    place_runs(&p->places, p->head.n_runs, p->head.n_tiles, 0);
    chain_tiles(p, tiles, (struct gpu_chain *)(p->block + p->places.chains));
}

void gpu_plan_close(struct gpu_plan *p)
{
    const struct gpu_run *runs = runs_of(p);
    uint32_t *run_of = words_at(p, p->places.run_of);
    for (uint32_t i = 0; i < p->head.n_runs; i++)
        for (uint32_t row = runs[i].row; row < runs[i].row + runs[i].T; row++)
            run_of[row] = i;
    place_runs(&p->places, p->head.n_runs, p->head.n_tiles, p->head.n_chains);
    memcpy(p->block, &p->head, sizeof p->head);
}

/* ---- slices ---------------------------------------------------------------------------------------------- */

/* Of short runs equal parts. A long one that would go across begins the next slice, unless it leaves more than a
 * quarter of this one empty. All but the last have more than GPU_SLICE / 2 rows. */
static uint32_t slice_end(const struct gpu_plan *p, uint32_t begin)
{
    uint32_t left = p->head.rows - begin, n = (left + GPU_SLICE - 1) / GPU_SLICE;
    if (p->slices.long_runs && n > 1) {
        uint32_t run = words_at(p, p->places.run_of)[begin + GPU_SLICE], row = runs_of(p)[run].row;
        if (row >= begin + GPU_SLICE / 4 * 3)
            return row;
        if (n > 2)
            return begin + GPU_SLICE;
    }
    return begin + (left + n - 1) / n;
}

/* A slice waits if it goes on with a run of the one before; of short runs always, so that one's scan is beside
 * another's products. */
void gpu_plan_slices(struct gpu_plan *p)
{
    struct gpu_slices *s = &p->slices;
    const uint32_t *run_of = words_at(p, p->places.run_of);
    s->n = 0;
    s->long_runs = p->head.n_runs <= p->head.rows / LONG_RUN;
    for (uint32_t row = 0; row < p->head.rows; row = slice_end(p, row)) {
        assert(s->n < GPU_SLICES);
        s->begin[s->n] = row;
        s->waits[s->n++] = row > 0 && (!s->long_runs || run_of[row - 1] == run_of[row]);
    }
}

/* ---- write ----------------------------------------------------------------------------------------------- */

void gpu_plan_write(struct gpu_plan *p, unsigned part, unsigned parts)
{
    struct ssm_tile *t = &p->tile;
    uint32_t from, to;
    share(t, part, parts, &from, &to);
    for (uint32_t i = from; i < to; i++)
        ssm_signal_write(t, &t->entries[i]);
}

/* The entry that has the picked row `line`. */
static uint32_t entry_of(const struct ssm_tile *t, uint32_t line)
{
    uint32_t lo = 0, hi = t->n_entries;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->entries[mid].picked <= line)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

void gpu_plan_write_logits(const struct gpu_plan *p, uint32_t from, uint32_t to, const float *rows)
{
    const struct ssm_tile *t = &p->tile;
    uint32_t vocab = t->layout->model->config.vocab;
    for (uint32_t i = entry_of(t, from); i < t->n_entries && t->entries[i].picked < to; i++) {
        const struct ssm_entry *e = &t->entries[i];
        const struct ssm_out *out = &e->item->out;
        uint64_t done = e->step - e->call_step;
        for (uint32_t k = 0; out->logits && k < e->T; k++) {
            uint32_t line = e->picked + k;
            if (line >= from && line < to)
                memcpy(out->logits + (done + k) * out->logits_stride, rows + (size_t)(line - from) * p->head.n_out,
                       vocab * sizeof(float));
        }
    }
}
