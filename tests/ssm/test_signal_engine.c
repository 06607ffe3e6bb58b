/* test_signal_engine.c: signal models end to end, random weights: outputs do not depend on how samples are cut, mixed
 * or interleaved; NaN policies, every, horizon and quantile choices, warm-up; and that anomaly rows are what the public
 * parts (front end, forecast, calibrator) make of the published forecasts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/calibrate.h"
#include "ssm/forecast.h"
#include "tests/ssm/compare.h"
#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

enum { P = 4, HORIZON = 10, Q = 5, E_MAX = 768, N = 1201, STEPS = N / P, CHANNELS = 3 };
static struct rng rng;
static const char *size;
static bool adapt; /* forecasts combined with the online ones */
static struct ssm_model *model;
static uint32_t E;                  /* floats of an embedding */
static double signals[N][CHANNELS]; /* interleaved, as a source delivers them */

struct outputs {
    float forecast[STEPS][HORIZON][Q], embedding[STEPS][E_MAX], anomaly[STEPS * P][3];
    uint8_t warmup[STEPS];
};

static int set_up(void **state)
{
    model = folder_sized_model(size, P, HORIZON, Q, true);
    E = ssm_model_info(model)->embedding;
    for (unsigned i = 0; i < N; i++)
        for (unsigned c = 0; c < CHANNELS; c++)
            signals[i][c] = 1e3 * c + sin(0.07 * (c + 1) * i) + 0.1 * rig_normal(&rng);
    return 0;
}

static int tear_down(void **state)
{
    ssm_model_close(&model);
    rig_sweep();
    return 0;
}

static struct outputs *outputs_new(void)
{
    struct outputs *o = malloc(sizeof *o);
    poison((float *)o, offsetof(struct outputs, warmup) / sizeof(float));
    memset(o->warmup, 7, sizeof o->warmup);
    return o;
}

/* Channel c, samples [from, to), everything published, into the right rows of `o`. */
static struct ssm_item item_of(struct ssm_slot slot, unsigned c, uint32_t from, uint32_t to, enum ssm_nan policy,
                               struct outputs *o)
{
    struct ssm_item item = {.slot = slot,
                            .n = to - from,
                            .x = &signals[from][c],
                            .x_stride = CHANNELS,
                            .interval = 1,
                            .adapt = adapt,
                            .nan = policy};
    uint32_t k = from / P < STEPS ? from / P : STEPS - 1; /* the last samples end no step and write nothing */
    item.out = (struct ssm_out){
        .forecast = o->forecast[k][0],
        .forecast_stride = HORIZON * Q,
        .horizon = HORIZON,
        .n_q = Q,
        .q = {0, 1, 2, 3, 4},
        .embedding = o->embedding[k],
        .embedding_stride = E_MAX,
        .anomaly = o->anomaly[k * P],
        .anomaly_stride = 3,
        .warmup = &o->warmup[k],
    };
    return item;
}

static void run_channel(struct ssm_engine *e, unsigned c, enum ssm_nan policy, struct outputs *o)
{
    struct ssm_slot slot = rig_slot(e);
    struct ssm_item item = item_of(slot, c, 0, N, policy, o);
    assert_int_equal(ssm_advance(e, &item, 1), 0);
    ssm_slot_give(e, slot);
}

static void chunks_and_batches_do_not_matter(void **state)
{
    struct rig_variant v;
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *e = rig_engine(model, &v, 1 + i % 3, CHANNELS + 1);
        struct outputs *whole = outputs_new(), *cut[CHANNELS];
        struct ssm_slot slots[CHANNELS];
        uint32_t at[CHANNELS] = {0}, n = 1;
        for (unsigned c = 0; c < CHANNELS; c++) {
            cut[c] = outputs_new();
            slots[c] = rig_slot(e);
        }
        while (n > 0) {
            struct ssm_item items[CHANNELS];
            n = 0;
            for (unsigned c = 0; c < CHANNELS; c++) {
                uint32_t most = rig_below(&rng, 4) ? 9 : 600, to = at[c] + 1 + rig_below(&rng, most);
                to = to < N ? to : N;
                if (to > at[c])
                    items[n++] = item_of(slots[c], c, at[c], to, SSM_NAN_MASK, cut[c]);
                at[c] = to;
            }
            ssm_advance(e, items, n);
        }
        for (unsigned c = 0; c < CHANNELS; c++) {
            run_channel(e, c, SSM_NAN_MASK, whole);
            assert_memory_equal(whole, cut[c], sizeof *whole);
            free(cut[c]);
        }
        free(whole);
        ssm_engine_close(&e);
    }
}

/* `every`, a shorter horizon and fewer quantiles choose from the same numbers; the state does not notice. */
static void choices_are_subsets(void **state)
{
    enum { EVERY = 3, SHORT = 7, CHUNK = 11 };
    static const uint32_t horizons[] = {SHORT, 2, 1}; /* beyond, within and at the edge of the near part */
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 2);
    struct outputs *all = outputs_new();
    uint8_t *state_all = malloc(ssm_slot_bytes(e)), *state_some = malloc(ssm_slot_bytes(e));
    struct ssm_slot slot = rig_slot(e);
    struct ssm_item item = item_of(slot, 0, 0, N, SSM_NAN_MASK, all);
    ssm_advance(e, &item, 1);
    ssm_slot_save(e, slot, state_all);
    for (unsigned h = 0; h < 3; h++) {
        static float forecast[STEPS / EVERY][SHORT][2], anomaly[STEPS / 2 * P][3], embedding[STEPS / 5][E_MAX];
        uint32_t H = horizons[h], f = 0, a = 0, m = 0;
        ssm_slot_reset(e, slot);
        for (uint32_t at = 0; at < N; at += CHUNK) {
            uint32_t n = at + CHUNK < N ? CHUNK : N - at, from = at / P, to = (at + n) / P;
            item = (struct ssm_item){
                .slot = slot, .n = n, .x = &signals[at][0], .x_stride = CHANNELS, .interval = 1, .adapt = adapt};
            item.out = (struct ssm_out){.forecast = &forecast[f][0][0],
                                        .forecast_stride = SHORT * 2,
                                        .forecast_every = EVERY,
                                        .horizon = H,
                                        .n_q = 2,
                                        .q = {1, 4},
                                        .anomaly = anomaly[a],
                                        .anomaly_stride = 3,
                                        .anomaly_every = 2,
                                        .embedding = embedding[m],
                                        .embedding_stride = E_MAX,
                                        .embedding_every = 5};
            ssm_advance(e, &item, 1);
            f += to / EVERY - from / EVERY;
            a += (to / 2 - from / 2) * P;
            m += to / 5 - from / 5;
        }
        for (uint32_t k = 0; k < f; k++)
            for (uint32_t i = 0; i < H; i++) {
                const float *got = &forecast[k][0][0] + 2 * i, *want = all->forecast[(k + 1) * EVERY - 1][i];
                assert_true(got[0] == want[1] && got[1] == want[4]);
            }
        for (uint32_t k = 0; k < a / P; k++)
            assert_memory_equal(anomaly[k * P], all->anomaly[((k + 1) * 2 - 1) * P], P * 3 * sizeof(float));
        for (uint32_t k = 0; k < m; k++)
            assert_memory_equal(embedding[k], all->embedding[(k + 1) * 5 - 1], E * sizeof(float));
        ssm_slot_save(e, slot, state_some);
        assert_memory_equal(state_all, state_some, ssm_slot_bytes(e));
    }
    free(all);
    free(state_all);
    free(state_some);
    ssm_engine_close(&e);
}

/* Channels side by side in one array, each with its own offset and the stream's stride. */
static void channels_interleave(void **state)
{
    static float rows[STEPS][CHANNELS][HORIZON * Q];
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, CHANNELS + 1);
    struct outputs *alone = outputs_new();
    struct ssm_item items[CHANNELS];
    for (unsigned c = 0; c < CHANNELS; c++) {
        items[c] = item_of(rig_slot(e), c, 0, N, SSM_NAN_MASK, alone);
        items[c].out = (struct ssm_out){.forecast = rows[0][c],
                                        .forecast_stride = CHANNELS * HORIZON * Q,
                                        .horizon = HORIZON,
                                        .n_q = Q,
                                        .q = {0, 1, 2, 3, 4}};
    }
    ssm_advance(e, items, CHANNELS);
    for (unsigned c = 0; c < CHANNELS; c++) {
        run_channel(e, c, SSM_NAN_MASK, alone);
        for (unsigned k = 0; k < STEPS; k++)
            assert_memory_equal(rows[k][c], alone->forecast[k], sizeof rows[k][c]);
    }
    free(alone);
    ssm_engine_close(&e);
}

/* From the published forecasts and frames, in double, with the public functions: the anomaly rows must come out. The forecasts
 * went through float: a tail that lies at the edge of one of the calibrator's bins may fall into the next, so a few rows may be
 * off by what a bin holds. */
static void anomaly_rows_follow_from_forecasts(void **state)
{
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 1);
    const struct ssm_model_info *info = ssm_model_info(model);
    struct outputs *o = outputs_new();
    struct ssm_calibration calibration = {.warmup = info->warmup, .memory = 1000};
    void *calibrator = malloc(ssm_calibrate_bytes());
    unsigned warm = 0, scored = 0, strays = 0;
    bool adapted = adapt;
    adapt = false; /* whatever is published, samples are scored under the model's own */
    run_channel(e, 0, SSM_NAN_MASK, o);
    if ((adapt = adapted)) {
        struct outputs *other = outputs_new();
        run_channel(e, 0, SSM_NAN_MASK, other);
        assert_memory_equal(other->anomaly, o->anomaly, sizeof o->anomaly);
        free(other);
    }
    ssm_calibrate_reset(&calibration, calibrator);
    for (unsigned k = 0; k < STEPS; k++) {
        bool warming = !ssm_calibrate_warm(&calibration, calibrator);
        for (unsigned i = 0; i < P; i++) {
            const float *row = o->anomaly[k * P + i];
            double q[Q], u, tail, surprise;
            if (k == 0) {
                assert_true(isnan(row[0]) && isnan(row[1]) && isnan(row[2]));
                continue;
            }
            for (unsigned j = 0; j < Q; j++)
                q[j] = (double)o->forecast[k - 1][i][j];
            ssm_forecast_score(q, info->quantiles, Q, 1.0, signals[k * P + i][0], &u, &tail, &surprise);
            double p = ssm_calibrate_update(&calibration, calibrator, tail);
            assert_false(isnan(row[2]));
            assert_int_equal(isnan(row[1]), isnan(p));
            if (isnan(p))
                continue;
            scored++;
            strays += !(fabs((double)row[1] - p) <= 1e-3 * p + 1e-4);
            assert_true(fabs((double)row[1] - p) <= 0.1 * p + 1e-2);
            assert_true(fabs((double)row[0] - fmin(1.0, -log10((double)row[1]) / 10.0)) <= 1e-6);
        }
        assert_int_equal(o->warmup[k], warming);
        warm += !warming;
    }
    assert_true(warm > 0 && warm < STEPS);
    assert_true(strays <= scored / 20);
    free(calibrator);
    free(o);
    ssm_engine_close(&e);
}

static bool row_is_nan(const float *row, size_t n, bool want)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(row[i]) != want)
            return false;
    return true;
}

/* Missing: samples 0–9 of the stream, and some later ones. */
static void with_missing(struct outputs *o, enum ssm_nan policy)
{
    static const unsigned later[] = {400, 401, 402, 403, 500, 507};
    double kept[N];
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 1);
    for (unsigned i = 0; i < N; i++)
        kept[i] = signals[i][0];
    for (unsigned i = 0; i < 10; i++)
        signals[i][0] = NAN;
    for (unsigned i = 0; i < 6; i++)
        signals[later[i]][0] = i % 2 ? INFINITY : NAN;
    run_channel(e, 0, policy, o);
    for (unsigned i = 0; i < N; i++)
        signals[i][0] = kept[i];
    ssm_engine_close(&e);
}

static void masked_samples(void **state)
{
    struct outputs *o = outputs_new();
    with_missing(o, SSM_NAN_MASK);
    for (unsigned k = 0; k < STEPS; k++) {
        bool blank = k < 2; /* no finite sample yet */
        assert_true(row_is_nan(o->forecast[k][0], HORIZON * Q, blank));
        assert_true(row_is_nan(o->embedding[k], E, blank));
        assert_int_equal(o->warmup[k] & ~1, 0);
    }
    assert_int_equal(o->warmup[0], 0); /* a channel that never had a finite sample */
    assert_int_equal(o->warmup[3], 1);
    assert_true(isnan(o->anomaly[400][2]) && isnan(o->anomaly[403][2]) && isnan(o->anomaly[507][2]));
    assert_false(isnan(o->anomaly[404][2]) || isnan(o->anomaly[501][2]) || isnan(o->anomaly[506][2]));
    free(o);
}

static void skipped_patches(void **state)
{
    struct outputs *o = outputs_new();
    with_missing(o, SSM_NAN_SKIP);
    for (unsigned k = 0; k < STEPS; k++) {
        bool skipped = k < 3 || k == 100 || k == 125 || k == 126; /* patches that hold a missing sample */
        assert_true(row_is_nan(o->forecast[k][0], HORIZON * Q, skipped));
        assert_true(row_is_nan(o->embedding[k], E, skipped));
        for (unsigned i = 0; i < P; i++) {
            bool unscored =
                skipped || k == 3 || k == 101 || k == 127; /* nor is what follows one: no forecast was made */
            assert_int_equal(isnan(o->anomaly[k * P + i][2]), unscored);
        }
    }
    free(o);
}

static void held_samples(void **state)
{
    struct outputs *o = outputs_new();
    with_missing(o, SSM_NAN_HOLD);
    for (unsigned k = 0; k < STEPS; k++)
        assert_true(
            row_is_nan(o->forecast[k][0], HORIZON * Q, k < 3)); /* patch 2 starts before the first finite sample */
    assert_true(isnan(o->anomaly[400][2]) && isnan(o->anomaly[507][2])); /* what was never measured is not scored */
    assert_false(isnan(o->anomaly[404][2]) || isnan(o->anomaly[501][2]));
    free(o);
}

/* Values at both ends of the range, constants, and a jump: forecasts stay finite and ordered. */
static void extreme_values_stay_finite(void **state)
{
    static const double values[] = {0.0, 1e308, -1e308, 5e-324, 1e9, 1e-30, -1.0};
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 1);
    struct outputs *o = outputs_new();
    struct ssm_slot slot = rig_slot(e);
    double x[STEPS * P];
    for (unsigned i = 0; i < STEPS * P; i++)
        x[i] = i < 100 ? 7.0 : i < 200 ? 0.0 : values[rig_below(&rng, 7)];
    struct ssm_item item = item_of(slot, 0, 0, STEPS * P, SSM_NAN_MASK, o);
    item.x = x;
    item.x_stride = 1;
    ssm_advance(e, &item, 1);
    for (unsigned k = 0; k < STEPS; k++) {
        assert_true(row_is_nan(o->embedding[k], E, false));
        for (unsigned h = 0; h < HORIZON; h++)
            for (unsigned q = 0; q < Q; q++)
                assert_true(isfinite(o->forecast[k][h][q]) &&
                            (q == 0 || o->forecast[k][h][q] >= o->forecast[k][h][q - 1]));
        for (unsigned i = 0; i < P && k > 0; i++)
            assert_true(isfinite(o->anomaly[k * P + i][2]));
    }
    free(o);
    ssm_engine_close(&e);
}

/* Patches longer than the horizon: the samples beyond it are not scored. */
static void short_horizons(void **state)
{
    struct ssm_model *m = folder_signal_model(6, 2, 3, false);
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(m, &v, 1, 1);
    static float anomaly[60][3], forecast[10][2][3];
    struct ssm_item item = {.slot = rig_slot(e),
                            .n = 60,
                            .x = &signals[0][1],
                            .x_stride = CHANNELS,
                            .interval = 1,
                            .adapt = adapt,
                            .nan = SSM_NAN_SKIP};
    item.out = (struct ssm_out){.anomaly = anomaly[0],
                                .anomaly_stride = 3,
                                .forecast = forecast[0][0],
                                .forecast_stride = 6,
                                .horizon = 2,
                                .n_q = 3,
                                .q = {0, 1, 2}};
    ssm_advance(e, &item, 1);
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(isnan(anomaly[i][2]), i < 6 || i % 6 >= 2);
    for (unsigned k = 0; k < 10; k++)
        assert_true(row_is_nan(forecast[k][0], 6, false));
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

/* Beyond the model's horizon the online forecast goes on; what it has learnt travels with the slot. */
static void adapted_forecasts_reach_far_and_resume(void **state)
{
    enum { FAR = 300, HALF = N / 2 };
    struct rig_variant v = rig_common();
    struct ssm_engine *e = rig_engine(model, &v, 1, 2);
    struct ssm_slot whole = rig_slot(e), part = rig_slot(e);
    static float far[2][STEPS][FAR][Q];
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    struct ssm_item item = {
        .slot = whole, .n = N, .x = &signals[0][1], .x_stride = CHANNELS, .interval = 1, .adapt = true};
    item.out = (struct ssm_out){
        .forecast = far[0][0][0], .forecast_stride = FAR * Q, .horizon = FAR, .n_q = Q, .q = {0, 1, 2, 3, 4}};

    assert_int_equal(ssm_advance(e, &item, 1), 0);
    assert_true(row_is_nan(far[0][0][0], (size_t)STEPS * FAR * Q, false));
    item.slot = part;
    item.n = HALF;
    item.out.forecast = far[1][0][0];
    assert_int_equal(ssm_advance(e, &item, 1), 0);
    assert_int_equal(ssm_slot_save(e, part, saved), 0);
    ssm_slot_reset(e, part);
    assert_int_equal(ssm_slot_restore(e, part, saved, ssm_slot_bytes(e), NULL, NULL), 0);
    item.n = N - HALF;
    item.x = &signals[HALF][1];
    item.out.forecast = far[1][HALF / P][0];
    assert_int_equal(ssm_advance(e, &item, 1), 0);
    assert_memory_equal(far[0], far[1], sizeof far[0]);
    free(saved);
    ssm_engine_close(&e);
}

/* Rows of the stream as a whole, in calls of up to `most` samples; slots go through their saved bytes at sample `move`.
 */
static void run_stream(struct ssm_engine *e, uint32_t most, uint32_t move, struct outputs *o[CHANNELS],
                       float joint[STEPS * P][3])
{
    struct ssm_slot slots[CHANNELS];
    void *saved = malloc(ssm_slot_bytes(e));
    char why[SSM_ERR];
    for (unsigned c = 0; c < CHANNELS; c++)
        slots[c] = rig_slot(e);
    for (uint32_t at = 0, to; at < N; at = to) {
        struct ssm_item items[CHANNELS];
        to = at + 1 + rig_below(&rng, most);
        to = at < move && to > move ? move : to < N ? to : N;
        for (unsigned c = 0; c < CHANNELS; c++)
            items[c] = item_of(slots[c], c, at, to, SSM_NAN_MASK, o[c]);
        items[0].channels = CHANNELS;
        items[0].joint = at / P < STEPS ? joint[at / P * P] : NULL;
        assert_int_equal(ssm_advance(e, items, CHANNELS), 0);
        for (unsigned c = 0; c < CHANNELS && to == move; c++) {
            assert_int_equal(ssm_slot_save(e, slots[c], saved), 0);
            ssm_slot_give(e, slots[c]);
            slots[c] = rig_slot(e);
            assert_int_equal(ssm_slot_restore(e, slots[c], saved, ssm_slot_bytes(e), NULL, why), 0);
        }
    }
    for (unsigned c = 0; c < CHANNELS; c++)
        ssm_slot_give(e, slots[c]);
    free(saved);
}

static void channels_join(void **state)
{
    struct rig_variant v;
    static float whole[STEPS * P][3], cut[STEPS * P][3];
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *e = rig_engine(model, &v, 1 + i % 3, CHANNELS);
        struct outputs *o[CHANNELS];
        for (unsigned c = 0; c < CHANNELS; c++)
            o[c] = outputs_new();
        run_stream(e, N, N, o, whole);
        run_stream(e, 13, N / 2, o, cut);
        assert_memory_equal(whole, cut, sizeof whole);
        for (unsigned k = 0; k < STEPS * P; k++) {
            float sum = o[0]->anomaly[k][2] + o[1]->anomaly[k][2] + o[2]->anomaly[k][2];
            assert_true(k < P ? isnan(cut[k][2]) : fabsf(cut[k][2] - sum) <= 1e-4f * (1.0f + fabsf(sum)));
        }
        assert_true(cut[STEPS * P - 1][1] > 0.0f && cut[STEPS * P - 1][1] <= 1.0f);
        for (unsigned c = 0; c < CHANNELS; c++)
            free(o[c]);
        ssm_engine_close(&e);
    }
}

enum { MANY = 9, STILL = 1000 };

struct joined {
    float rows[STEPS * P][3];
    struct ssm_notice notices[STEPS * P];
};

/* Streams of one channel each, in calls of `most` samples of all of them. One in CHANNELS of them stops at STILL. */
static void run_many(struct ssm_engine *e, uint32_t n, uint32_t most, struct joined *ret)
{
    static double stopping[N];
    for (uint32_t i = 0; i < N; i++)
        stopping[i] = signals[i < STILL ? i : STILL][0];
    struct ssm_slot slots[MANY];
    struct outputs *o[MANY];
    for (uint32_t i = 0; i < n; i++) {
        slots[i] = rig_slot(e);
        o[i] = outputs_new();
    }
    for (uint32_t at = 0, to; at < N; at = to) {
        struct ssm_item items[MANY];
        to = at + most < N ? at + most : N;
        for (uint32_t i = 0; i < n; i++) {
            items[i] = item_of(slots[i], i % CHANNELS, at, to, SSM_NAN_MASK, o[i]);
            items[i].channels = 1;
            items[i].joint = at / P < STEPS ? ret[i].rows[at / P * P] : NULL;
            items[i].notices = at / P < STEPS ? &ret[i].notices[at / P * P] : NULL;
            if (i % CHANNELS == 0) {
                items[i].x = &stopping[at];
                items[i].x_stride = 1;
            }
        }
        assert_int_equal(ssm_advance(e, items, n), 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        ssm_slot_give(e, slots[i]);
        free(o[i]);
    }
}

/* Joint rows and notices of many streams are shared out over the workers; a stream's are what they are alone. */
static void streams_join_apart(void **state)
{
    struct rig_variant v;
    static struct joined many[MANY], alone[CHANNELS];
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *one = rig_engine(model, &v, 1, CHANNELS), *three = rig_engine(model, &v, 3, MANY);
        run_many(one, CHANNELS, 301, alone);
        run_many(three, MANY, 301, many);
        assert_false(isnan(alone[1].rows[STEPS * P - 1][1]));
        for (unsigned k = 0; k < STEPS * P; k++)
            for (unsigned c = 0; c < CHANNELS; c++)
                assert_int_equal(alone[c].notices[k].flatline, c == 0 && k == STILL + 64 ? 65 : 0);
        for (unsigned k = 0; k < MANY; k++)
            assert_memory_equal(&many[k], &alone[k % CHANNELS], sizeof *many);
        ssm_engine_close(&one);
        ssm_engine_close(&three);
    }
}

/* The null device keeps the same books. */
static void null_device_counts_steps(void **state)
{
    struct ssm_engine_opts opts = {.device = "null", .slots = 2};
    struct ssm_engine *e = NULL;
    struct outputs *o = outputs_new();
    char why[SSM_ERR];
    assert_int_equal(ssm_engine_open(model, &opts, &e, why), 0);
    assert_string_equal(ssm_engine_device(e), "null");
    struct ssm_slot slot = rig_slot(e);
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    for (uint32_t at = 0; at < N; at += 7) {
        uint32_t to = at + 7 < N ? at + 7 : N;
        struct ssm_item item = item_of(slot, 0, at, to, SSM_NAN_MASK, o);
        ssm_advance(e, &item, 1);
        ssm_slot_save(e, slot, saved);
        ssm_slot_give(e, slot);
        slot = rig_slot(e);
        assert_int_equal(ssm_slot_restore(e, slot, saved, ssm_slot_bytes(e), NULL, why), 0);
    }
    for (unsigned k = 0; k < STEPS; k++) {
        assert_true(row_is_nan(o->forecast[k][0], HORIZON * Q, false) && row_is_nan(o->embedding[k], E, false));
        assert_true(row_is_nan(o->anomaly[k * P], P * 3, false));
        assert_int_equal(o->warmup[k], 0);
    }
    free(saved);
    free(o);
    ssm_engine_close(&e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_and_batches_do_not_matter),
        cmocka_unit_test(choices_are_subsets),
        cmocka_unit_test(channels_interleave),
        cmocka_unit_test(anomaly_rows_follow_from_forecasts),
        cmocka_unit_test(masked_samples),
        cmocka_unit_test(skipped_patches),
        cmocka_unit_test(held_samples),
        cmocka_unit_test(extreme_values_stay_finite),
        cmocka_unit_test(short_horizons),
        cmocka_unit_test(adapted_forecasts_reach_far_and_resume),
        cmocka_unit_test(channels_join),
        cmocka_unit_test(streams_join_apart),
        cmocka_unit_test(null_device_counts_steps),
    };
    int failed = 0, code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("signal_engine");
    for (unsigned i = 0; (size = rig_signal_size(i)); i++)
        for (unsigned k = 0; k < 2; k++) {
            adapt = k == 1;
            failed += cmocka_run_group_tests_name(size, tests, set_up, tear_down);
        }
    return failed;
}
