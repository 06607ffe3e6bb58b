/* test_plan.c: the host's half of a pass, with this program as the device: random batches become passes whose rows are
 * each stream's own, in time order, in runs, tiles and chains as gpu.h has them; what a pass gives back reaches the
 * right place. Where large passes are cut into slices. No CUDA call is made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/cuda/plan.h"
#include "tests/ssm/compare.h"
#include "tests/ssm/folder.h"

enum { SLOTS = 60, V = 5, LONG = 300, PATCH = 4, SLOT_BYTES = 128 };
static struct rng rng;

/* What stands in for a device, and what it has seen of each slot. */
struct device {
    struct ssm_model *model;
    struct ssm_layout layout;
    struct gpu_model m;
    struct gpu_slab slab;
    struct gpu_plan plan;
    uint8_t *block, *slots, *memory;
    uint32_t stepped[SLOTS]; /* rows of the slot that went through */
};

static void device_open(struct device *d, struct ssm_model *m, uint32_t capacity, uint32_t out_capacity)
{
    const struct ssm_config *c = &m->config;
    *d = (struct device){.model = m};
    uint32_t outputs = c->input == SSM_TOKENS ? c->vocab : c->horizon * c->n_quantiles;
    d->m.model = m;
    d->m.d.E = c->E;
    d->m.head.np = GPU_PADDED(outputs);
    d->m.input.kp = c->input == SSM_TOKENS ? 0 : GPU_PADDED(c->front.features);
    d->memory = malloc(SLOTS * SLOT_BYTES);
    d->slab = (struct gpu_slab){.stride = SLOT_BYTES, .per_chunk = SLOTS, .n_chunks = 1, .chunks = &d->memory};
    ssm_layout_init(&d->layout, m, false, false);
    d->slots = calloc(SLOTS, d->layout.stride);
    for (unsigned i = 0; i < SLOTS; i++)
        ssm_layout_reset(&d->layout, d->slots + i * d->layout.stride);
    d->block = calloc(1, gpu_plan_bytes(capacity, d->m.input.kp));
    assert_int_equal(gpu_plan_init(&d->plan, &d->layout, &d->m, &d->slab, capacity, out_capacity, d->block), 0);
}

static void device_close(struct device *d)
{
    gpu_plan_done(&d->plan);
    free(d->block);
    free(d->slots);
    free(d->memory);
    ssm_model_close(&d->model);
}

static uint32_t slot_of(const struct device *d, const struct gpu_run *run)
{
    size_t at = (size_t)(run->slot - d->memory);
    assert_true(at % SLOT_BYTES == 0 && at / SLOT_BYTES < SLOTS);
    return (uint32_t)(at / SLOT_BYTES);
}

/* ---- the shape of a pass --------------------------------------------------------------------------------- */

static const struct gpu_run *runs_of(const struct device *d)
{
    return (const struct gpu_run *)(const void *)(d->block + d->plan.places.runs);
}

/* Runs are the rows, in order; a slot's runs follow each other. */
static void check_runs(const struct device *d)
{
    const struct gpu_head *h = (const struct gpu_head *)(const void *)d->block;
    const struct gpu_run *runs = runs_of(d);
    const uint32_t *run_of = (const uint32_t *)(const void *)(d->block + d->plan.places.run_of);
    bool seen[SLOTS] = {false};
    uint32_t row = 0;
    for (uint32_t i = 0; i < h->n_runs; i++) {
        uint32_t slot = slot_of(d, &runs[i]);
        assert_true(!seen[slot] || (i > 0 && runs[i - 1].slot == runs[i].slot));
        seen[slot] = true;
        assert_int_equal(runs[i].row, row);
        assert_true(runs[i].T > 0);
        for (uint32_t k = 0; k < runs[i].T; k++)
            assert_int_equal(run_of[row + k], i);
        row += runs[i].T;
    }
    assert_int_equal(row, h->rows);
    assert_true(h->rows <= d->plan.capacity && d->plan.places.end <= gpu_plan_bytes(d->plan.capacity, d->plan.Fp));
}

/* Every run is in one tile, every tile in one chain; tiles of a chain are one slot's, in time order, or one tile. */
static void check_tiles(const struct device *d, uint32_t most)
{
    const struct gpu_head *h = (const struct gpu_head *)(const void *)d->block;
    const struct gpu_run *runs = runs_of(d);
    const struct gpu_tile *tiles = (const struct gpu_tile *)(const void *)(d->block + d->plan.places.tiles);
    const struct gpu_chain *chains = (const struct gpu_chain *)(const void *)(d->block + d->plan.places.chains);
    uint32_t *in_tile = calloc(h->n_runs, sizeof *in_tile), tile = 0, owner[SLOTS];
    memset(owner, 0xff, sizeof owner);
    for (uint32_t c = 0; c < h->n_chains; c++) {
        assert_int_equal(chains[c].tile, tile);
        assert_true(chains[c].n > 0);
        for (uint32_t k = 0; k < chains[c].n; k++, tile++) {
            const struct gpu_tile *t = &tiles[tile];
            uint32_t rows = 0;
            assert_true(t->rows > 0 && t->rows <= most && t->row == runs[t->run].row);
            for (uint32_t i = t->run; i < t->run + t->n_runs; i++) {
                uint32_t slot = slot_of(d, &runs[i]);
                in_tile[i]++;
                rows += runs[i].T;
                assert_true(owner[slot] == UINT32_MAX || owner[slot] == c); /* no two chains race for a slot */
                owner[slot] = c;
            }
            assert_int_equal(rows, t->rows);
            assert_true(chains[c].n == 1 || t->n_runs == 1);
            assert_true(k == 0 || (runs[t->run].slot == runs[t[-1].run].slot && t->row == t[-1].row + t[-1].rows));
        }
    }
    assert_int_equal(tile, h->n_tiles);
    for (uint32_t i = 0; i < h->n_runs; i++)
        assert_int_equal(in_tile[i], 1);
    free(in_tile);
}

/* One pass of the feed, tiled at random; what every pass of a device would have to be. */
static void plan_pass(struct device *d, struct ssm_feed *feed)
{
    static const uint32_t tiles[] = {0, 8, 16, 32, 64};
    struct gpu_plan *p = &d->plan;
    uint32_t tile_rows = tiles[rig_below(&rng, 5)], workers = 1 + rig_below(&rng, 4);
    gpu_plan_take(p, feed);
    for (unsigned w = 0; w < workers; w++)
        gpu_plan_fill(p, w, workers);
    gpu_plan_rows(p);
    assert_true(p->head.rows <= p->room && p->head.n_picked <= p->out_capacity);
    if (p->head.rows == 0)
        return;
    if (tile_rows)
        gpu_plan_tiles(p, tile_rows);
    gpu_plan_close(p);
    check_runs(d);
    if (tile_rows)
        check_tiles(d, tile_rows);
}

/* ---- tokens ---------------------------------------------------------------------------------------------- */

static int32_t tokens[SLOTS][LONG];
static int64_t dt[SLOTS][LONG];
static float logits[SLOTS][LONG][V];

/* A row's outputs say whose it is and which. */
static float said(uint32_t slot, uint32_t step, uint32_t v)
{
    return (float)(slot * 4000 + step * 10 + v);
}

static void compute_tokens(struct device *d, const int64_t *interval)
{
    struct gpu_plan *p = &d->plan;
    const struct gpu_run *runs = runs_of(d);
    const int32_t *x = (const int32_t *)(const void *)(d->block + p->places.x);
    const float *g = (const float *)(const void *)(d->block + p->places.g);
    const uint32_t *pick = (const uint32_t *)(const void *)(d->block + p->places.pick);
    uint32_t line = 0;
    float *out = malloc(((size_t)p->head.n_picked * p->head.n_out + 1) * sizeof *out);
    for (uint32_t i = 0; i < p->head.n_runs; i++) {
        uint32_t slot = slot_of(d, &runs[i]);
        for (uint32_t row = runs[i].row; row < runs[i].row + runs[i].T; row++) {
            uint32_t step = d->stepped[slot]++;
            double want = step && interval[slot] ? (double)dt[slot][step] / (double)interval[slot] : 1.0;
            assert_int_equal(x[row], tokens[slot][step]);
            assert_true(g[row] == (float)want);
            if (pick[row] == GPU_NOT_PICKED)
                continue;
            assert_int_equal(pick[row], line++);
            for (uint32_t v = 0; v < V; v++)
                out[(size_t)pick[row] * p->head.n_out + v] = said(slot, step, v);
        }
    }
    assert_int_equal(line, p->head.n_picked);
    for (uint32_t from = 0, to; from < line; from = to) {
        to = from + 1 + rig_below(&rng, line - from);
        gpu_plan_write_logits(p, from, to, out + (size_t)from * p->head.n_out);
    }
    free(out);
}

static void tokens_go_there_and_back(void **state)
{
    for (unsigned round = 0; round < 60; round++) {
        struct device d;
        struct ssm_item items[SLOTS];
        int64_t interval[SLOTS] = {0};
        uint32_t capacity = 64u << rig_below(&rng, 4), n = 1 + rig_below(&rng, SLOTS), at[SLOTS] = {0};
        device_open(&d, rig_random("16x1,4,5"), capacity, capacity / (1 + rig_below(&rng, 2)));
        for (unsigned i = 0; i < SLOTS; i++)
            for (unsigned t = 0; t < LONG; t++) {
                tokens[i][t] = (int32_t)rig_below(&rng, V);
                dt[i][t] = rig_below(&rng, 9);
                poison(logits[i][t], V);
            }
        for (unsigned i = 0; i < n; i++)
            interval[i] = i % 3 ? 1 + rig_below(&rng, 5) : 0;
        for (unsigned call = 0; call < 3; call++) { /* with and without logits */
            for (unsigned i = 0; i < n; i++) {
                uint32_t most = rig_below(&rng, 3) ? 3 : LONG / 3;
                items[i] =
                    (struct ssm_item){.slot = {i, 1}, .n = 1 + rig_below(&rng, most), .tokens = tokens[i] + at[i]};
                items[i].dt = interval[i] ? dt[i] + at[i] : NULL;
                items[i].interval = interval[i] ? interval[i] : 1;
                items[i].out.logits = rig_below(&rng, 4) ? logits[i][at[i]] : NULL;
                items[i].out.logits_stride = V;
                at[i] += items[i].n;
            }
            struct ssm_feed feed = {.items = items, .n = n, .slab = d.slots};
            while (feed.n > 0) {
                plan_pass(&d, &feed);
                compute_tokens(&d, interval);
            }
            for (unsigned i = 0; i < n; i++)
                for (uint32_t k = 0; k < items[i].n; k++)
                    for (uint32_t v = 0; v < V; v++) {
                        float got = logits[i][at[i] - items[i].n + k][v];
                        assert_true(items[i].out.logits ? got == said(i, at[i] - items[i].n + k, v) : isnan(got));
                    }
        }
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(d.stepped[i], at[i]);
        device_close(&d);
    }
}

/* One that is not would only be slower. */
static void steps_can_be_carried(void **state)
{
    for (uint32_t n = 1; n <= GPU_FEW_ROWS; n++) {
        struct device d;
        struct ssm_item items[GPU_FEW_ROWS];
        device_open(&d, rig_random("16x1,4,5"), 64, 64);
        for (uint32_t i = 0; i < n; i++)
            items[i] = (struct ssm_item){.slot = {i, 1}, .n = 1, .tokens = tokens[i], .interval = 1};
        struct ssm_feed feed = {.items = items, .n = n, .slab = d.slots};
        plan_pass(&d, &feed);
        assert_int_equal(d.plan.head.rows, n);
        assert_true(d.plan.places.end <= sizeof(struct gpu_carried));
        device_close(&d);
    }
}

/* ---- samples --------------------------------------------------------------------------------------------- */

static double x[SLOTS][LONG * PATCH];
static float features[SLOTS][LONG][64], factors[SLOTS][LONG];
static uint32_t n_taken[SLOTS];

/* What the front end makes of a whole stream at once: the rows of the steps that it takes. */
static void expect_samples(const struct device *d, uint32_t slot, uint32_t n)
{
    const struct ssm_front *front = &d->model->config.front;
    struct ssm_item item = {.n = n, .x = x[slot], .x_stride = 1, .interval = 1, .nan = SSM_NAN_SKIP};
    size_t bytes[2];
    ssm_front_bytes(front, &bytes[0], &bytes[1]);
    void *normaliser = malloc(bytes[0]), *patch = malloc(bytes[1]);
    float *rows = malloc(LONG * front->features * sizeof *rows), g[LONG];
    struct ssm_frame *frames = malloc(LONG * sizeof *frames);
    double *patches = malloc(LONG * PATCH * sizeof *patches);
    uint32_t at = 0;
    ssm_front_reset(front, normaliser, patch);
    uint32_t steps =
        ssm_front_run(front, normaliser, patch, &item, &at, UINT32_MAX, rows, front->features, g, frames, patches);
    n_taken[slot] = 0;
    for (uint32_t k = 0; k < steps; k++) {
        if (!frames[k].taken)
            continue;
        memcpy(features[slot][n_taken[slot]], rows + k * front->features, front->features * sizeof *rows);
        factors[slot][n_taken[slot]++] = g[k];
    }
    free(normaliser);
    free(patch);
    free(rows);
    free(frames);
    free(patches);
}

static void compute_samples(struct device *d)
{
    const struct gpu_plan *p = &d->plan;
    const struct gpu_run *runs = runs_of(d);
    const float *got = (const float *)(const void *)(d->block + p->places.x);
    const float *g = (const float *)(const void *)(d->block + p->places.g);
    uint32_t n = d->model->config.front.features;
    for (uint32_t i = 0; i < p->head.n_runs && p->head.rows > 0; i++) {
        uint32_t slot = slot_of(d, &runs[i]);
        for (uint32_t row = runs[i].row; row < runs[i].row + runs[i].T; row++) {
            uint32_t step = d->stepped[slot]++;
            assert_true(step < n_taken[slot]);
            assert_memory_equal(got + (size_t)row * p->Fp, features[slot][step], n * sizeof *got);
            for (uint32_t k = n; k < p->Fp; k++)
                assert_true(got[(size_t)row * p->Fp + k] == 0.0f);
            assert_true(g[row] == factors[slot][step]);
        }
    }
}

/* Steps that are not taken, at random places, leave no row and no gap between rows. */
static void samples_are_closed_up(void **state)
{
    for (unsigned round = 0; round < 30; round++) {
        struct device d;
        struct ssm_item items[SLOTS];
        uint32_t n = 1 + rig_below(&rng, SLOTS), at[SLOTS] = {0}, left = n;
        device_open(&d, folder_signal_model(PATCH, 6, 3, false), 64u << rig_below(&rng, 4), 1024);
        for (unsigned i = 0; i < n; i++) {
            for (unsigned t = 0; t < LONG * PATCH; t++)
                x[i][t] = rig_below(&rng, 12) ? rig_normal(&rng) : NAN;
            expect_samples(&d, i, LONG * PATCH);
        }
        while (left > 0) {
            struct ssm_feed feed = {.items = items, .slab = d.slots};
            left = 0;
            for (unsigned i = 0; i < n; i++) {
                uint32_t most = rig_below(&rng, 3) ? 3 * PATCH : LONG * PATCH, rest = LONG * PATCH - at[i];
                uint32_t take = 1 + rig_below(&rng, most);
                take = take < rest ? take : rest;
                if (take == 0)
                    continue;
                items[feed.n++] = (struct ssm_item){
                    .slot = {i, 1}, .n = take, .x = x[i] + at[i], .x_stride = 1, .interval = 1, .nan = SSM_NAN_SKIP};
                at[i] += take;
                left += at[i] < LONG * PATCH;
            }
            while (feed.n > 0) {
                plan_pass(&d, &feed);
                compute_samples(&d);
            }
        }
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(d.stepped[i], n_taken[i]);
        device_close(&d);
    }
}

/* ---- slices ---------------------------------------------------------------------------------------------- */

/* Of a pass of runs of T[0 … n) rows; what every cut would have to be. */
static struct gpu_slices cut(const uint32_t *T, uint32_t n)
{
    static struct gpu_run runs[GPU_ROWS];
    static uint32_t run_of[GPU_ROWS];
    static uint8_t block[GPU_ROWS * (sizeof *runs + sizeof *run_of) + sizeof(struct gpu_head)];
    struct gpu_plan p = {.block = block};
    p.places.run_of = sizeof p.head;
    p.places.runs = p.places.run_of + sizeof run_of;
    for (uint32_t i = 0; i < n; i++) {
        runs[i] = (struct gpu_run){NULL, p.head.rows, T[i]};
        p.head.rows += T[i];
    }
    p.head.n_runs = n;
    memcpy(block + p.places.runs, runs, n * sizeof *runs);
    gpu_plan_close(&p);
    memcpy(run_of, block + p.places.run_of, sizeof run_of);
    gpu_plan_slices(&p);
    const struct gpu_slices *s = &p.slices;
    assert_true(s->n > 0 && s->n <= GPU_SLICES && s->begin[0] == 0 && !s->waits[0]);
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t begin = s->begin[i], end = i + 1 < s->n ? s->begin[i + 1] : p.head.rows;
        assert_true(begin < end && end - begin <= GPU_SLICE);
        assert_true(i + 1 == s->n || end - begin > GPU_SLICE / 2);
        if (i > 0 && (s->long_runs || run_of[begin - 1] == run_of[begin]))
            assert_int_equal(s->waits[i], run_of[begin - 1] == run_of[begin]);
    }
    return *s;
}

static void any_pass_is_cut(void **state)
{
    static uint32_t T[GPU_ROWS];
    for (unsigned round = 0; round < 2000; round++) {
        uint32_t rows = 1 + rig_below(&rng, rig_below(&rng, 2) ? GPU_ROWS : 3 * GPU_SLICE), n = 0;
        uint32_t most = 1u << rig_below(&rng, 17), like[2] = {1 + rig_below(&rng, most), 1 + rig_below(&rng, most)};
        for (uint32_t left = rows; left > 0; left -= T[n++]) {
            T[n] = round % 2 ? like[n % 2] : 1 + rig_below(&rng, most);
            T[n] = T[n] < left ? T[n] : left;
        }
        cut(T, n);
    }
}

static void check_cut(uint32_t n, const uint32_t *T, uint32_t n_slices, const uint32_t *begin, const bool *waits)
{
    struct gpu_slices s = cut(T, n);
    assert_int_equal(s.n, n_slices);
    for (uint32_t i = 0; i < n_slices; i++) {
        assert_int_equal(s.begin[i], begin[i]);
        assert_int_equal(s.waits[i], waits[i]);
    }
}

static void long_runs_stay_whole(void **state)
{
    check_cut(1, (uint32_t[]){4096}, 1, (uint32_t[]){0}, (bool[]){false});
    check_cut(1, (uint32_t[]){4097}, 2, (uint32_t[]){0, 2049}, (bool[]){false, true});
    check_cut(2, (uint32_t[]){4097, 4097}, 3, (uint32_t[]){0, 4096, 6145}, (bool[]){false, true, true});
    check_cut(3, (uint32_t[]){8191, 8191, 8}, 5, (uint32_t[]){0, 4096, 8191, 12287, 16382},
              (bool[]){false, true, false, true, false});
    check_cut(3, (uint32_t[]){3071, 3071, 3071}, 3, (uint32_t[]){0, 4096, 6655}, (bool[]){false, true, true});
    check_cut(3, (uint32_t[]){3072, 3072, 3072}, 3, (uint32_t[]){0, 3072, 6144}, (bool[]){false, false, false});
    uint32_t hundreds[655];
    for (uint32_t i = 0; i < 655; i++)
        hundreds[i] = 100;
    struct gpu_slices s = cut(hundreds, 655);
    assert_int_equal(s.n, 17);
    for (uint32_t i = 0; i < s.n; i++)
        assert_true(s.begin[i] == i * 4000 && !s.waits[i]);
    uint32_t all = GPU_ROWS;
    s = cut(&all, 1);
    assert_int_equal(s.n, GPU_ROWS / GPU_SLICE);
}

static void short_runs_are_cut_evenly(void **state)
{
    uint32_t ones[9000];
    for (uint32_t i = 0; i < 9000; i++)
        ones[i] = 1;
    check_cut(4096, ones, 1, (uint32_t[]){0}, (bool[]){false});
    check_cut(5000, ones, 2, (uint32_t[]){0, 2500}, (bool[]){false, true});
    check_cut(9000, ones, 3, (uint32_t[]){0, 3000, 6000}, (bool[]){false, true, true});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_go_there_and_back), cmocka_unit_test(steps_can_be_carried),
        cmocka_unit_test(samples_are_closed_up),    cmocka_unit_test(any_pass_is_cut),
        cmocka_unit_test(long_runs_stay_whole),     cmocka_unit_test(short_runs_are_cut_evenly),
    };
    rng = rig_rng("plan");
    int failed = cmocka_run_group_tests_name("plan", tests, NULL, NULL);
    rig_sweep();
    return failed;
}
