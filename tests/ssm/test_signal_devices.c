/* test_signal_devices.c: signal models against fp32 arithmetic on the same rounded weights: forecasts, embeddings,
 * anomaly rows and warm-up flags of several channels, regular and not, under every NaN policy, cut at random. What is
 * missing must be missing in the same places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/model.h"
#include "tests/ssm/compare.h"

enum { CHANNELS = 11, N = 1800 };
static struct rng rng;

struct rows {
    uint32_t steps, patch, H, Q, E;
    float *forecast, *embedding, *anomaly; /* [CHANNELS][steps]… */
    uint8_t *warmup;
};

static double x[N][CHANNELS];
static int64_t dt[N];

static void make_signals(void)
{
    for (unsigned i = 0; i < N; i++) {
        dt[i] = 500 + rig_below(&rng, 1000) + (rig_below(&rng, 50) ? 0 : 20000);
        for (unsigned c = 0; c < CHANNELS; c++) {
            x[i][c] = 40.0 * c + sin(0.05 * (c + 1) * i) + 0.2 * rig_normal(&rng);
            if (c % 2 && rig_below(&rng, 60) == 0)
                x[i][c] = NAN;
        }
    }
}

static void rows_open(struct rows *r, const struct ssm_model_info *info)
{
    *r = (struct rows){.steps = N / info->patch,
                       .patch = info->patch,
                       .H = info->horizon,
                       .Q = info->n_quantiles,
                       .E = info->embedding};
    size_t n = (size_t)CHANNELS * r->steps;
    r->forecast = malloc(n * r->H * r->Q * sizeof(float));
    r->embedding = malloc(n * r->E * sizeof(float));
    r->anomaly = malloc(n * r->patch * 3 * sizeof(float));
    r->warmup = malloc(n);
    poison(r->forecast, n * r->H * r->Q);
    poison(r->embedding, n * r->E);
    poison(r->anomaly, n * r->patch * 3);
    memset(r->warmup, 7, n);
}

static void rows_close(struct rows *r)
{
    free(r->forecast);
    free(r->embedding);
    free(r->anomaly);
    free(r->warmup);
}

/* Channels from 4 on come at irregular times. */
static struct ssm_item item_of(const struct rows *r, unsigned c, uint32_t at, uint32_t n, enum ssm_nan policy,
                               struct ssm_slot slot)
{
    uint32_t step = at / r->patch < r->steps ? at / r->patch : r->steps - 1;
    size_t k = (size_t)c * r->steps + step;
    struct ssm_item item = {
        .slot = slot, .n = n, .x = &x[at][c], .x_stride = CHANNELS, .interval = 1, .nan = policy, .adapt = c % 2};
    if (c >= 4) {
        item.dt = dt + at;
        item.interval = 1000;
    }
    item.out = (struct ssm_out){.forecast = r->forecast + k * r->H * r->Q,
                                .forecast_stride = (size_t)r->H * r->Q,
                                .horizon = r->H,
                                .n_q = r->Q,
                                .embedding = r->embedding + k * r->E,
                                .embedding_stride = r->E,
                                .anomaly = r->anomaly + k * r->patch * 3,
                                .anomaly_stride = 3,
                                .warmup = r->warmup + k};
    for (uint8_t q = 0; q < r->Q; q++)
        item.out.q[q] = q;
    return item;
}

/* All channels to the end; `cut`: in random pieces. */
static void run(const struct ssm_model *m, const struct rig_variant *v, enum ssm_nan policy, bool cut, struct rows *r)
{
    struct ssm_engine *e = rig_engine(m, v, 1, CHANNELS);
    struct ssm_slot slots[CHANNELS];
    uint32_t at[CHANNELS] = {0}, n = 1;
    rows_open(r, ssm_model_info(m));
    for (unsigned c = 0; c < CHANNELS; c++)
        slots[c] = rig_slot(e);
    while (n > 0) {
        struct ssm_item items[CHANNELS];
        n = 0;
        for (unsigned c = 0; c < CHANNELS; c++) {
            uint32_t most = !cut                 ? N
                            : rig_below(&rng, 3) ? 40
                                                 : 700,
                     left = N - at[c], take = 1 + rig_below(&rng, most);
            take = !cut || take > left ? left : take;
            if (take == 0)
                continue;
            items[n++] = item_of(r, c, at[c], take, policy, slots[c]);
            at[c] += take;
        }
        assert_int_equal(ssm_advance(e, items, n), 0);
    }
    ssm_engine_close(&e);
}

/* In the model's own units: forecasts go into the stream's by scale and offset, which would hide an error. */
static void normalise(struct rows *r)
{
    size_t n = (size_t)r->steps * r->H * r->Q;
    for (unsigned c = 0; c < CHANNELS; c++)
        for (size_t i = 0; i < n; i++)
            r->forecast[c * n + i] -= 40.0f * (float)c;
}

static void compare(const char *preset, const struct rig_variant *v, uint32_t n_layer, const struct rows *got,
                    const struct rows *want)
{
    size_t n = (size_t)CHANNELS * want->steps;
    double bound = bound_of(v, n_layer);
    double forecast = masked_error(got->forecast, want->forecast, n * want->H * want->Q);
    double embedding = masked_error(got->embedding, want->embedding, n * want->E);
    double beyond = share_beyond(got->anomaly, want->anomaly, n * want->patch * 3, bound * TOLERANCE_SCORED);
    printf("%-14s %-40s forecast %.2g embedding %.2g anomaly beyond %.2g\n", preset, rig_name(v), forecast, embedding,
           beyond);
    if (!within(forecast, bound) || !within(embedding, bound))
        fail_msg("%s on %s: forecast %.3g or embedding %.3g > %.3g (nan: missing elsewhere)", preset, rig_name(v),
                 forecast, embedding, bound);
    if (!(beyond <= TOLERANCE_SCORED_BEYOND))
        fail_msg("%s on %s: %.3g of the anomaly values are off (1: missing elsewhere)", preset, rig_name(v), beyond);
    for (size_t i = 0; i < n; i++)
        if (got->warmup[i] != want->warmup[i])
            fail_msg("%s on %s: channel %zu, step %zu: warmup %u, want %u", preset, rig_name(v), i / want->steps,
                     i % want->steps, got->warmup[i], want->warmup[i]);
}

static void same_bits(const char *preset, const struct rig_variant *v, const struct rows *got, const struct rows *want)
{
    char place[160];
    size_t n = (size_t)CHANNELS * want->steps;
    if (first_difference(got->forecast, want->forecast, n * want->H * want->Q, place, sizeof place))
        fail_msg("%s on %s: cut at random: forecasts %s", preset, rig_name(v), place);
    if (first_difference(got->embedding, want->embedding, n * want->E, place, sizeof place))
        fail_msg("%s on %s: cut at random: embeddings %s", preset, rig_name(v), place);
    if (first_difference(got->anomaly, want->anomaly, n * want->patch * 3, place, sizeof place))
        fail_msg("%s on %s: cut at random: anomaly rows %s", preset, rig_name(v), place);
    assert_memory_equal(got->warmup, want->warmup, n);
}

static void run_variant(const char *preset, const struct ssm_model *m, const struct rig_variant *v, enum ssm_nan policy,
                        const struct rows *want)
{
    struct rows whole, cut;
    run(m, v, policy, false, &whole);
    run(m, v, policy, true, &cut);
    same_bits(preset, v, &cut, &whole);
    normalise(&whole);
    compare(preset, v, ssm_model_info(m)->n_layer, &whole, want);
    rows_close(&whole);
    rows_close(&cut);
}

static void run_preset(const char *preset, enum ssm_nan policy)
{
    struct rig_variant v;
    struct ssm_model *m = rig_vivid(preset);
    for (enum ssm_dtype weights = SSM_F32; weights <= SSM_F16; weights++) {
        struct rows want = {0};
        struct rig_variant truth = rig_truth(weights);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            if (v.weights != weights || (v.ops && (!strcmp(v.ops, truth.ops) || !strcmp(v.ops, "ref"))))
                continue; /* ref has its turn in test_models */
            if (!want.warmup) {
                run(m, &truth, policy, false, &want);
                normalise(&want);
            }
            run_variant(preset, m, &v, policy, &want);
        }
        rows_close(&want);
    }
    ssm_model_close(&m);
}

static void run_presets(enum ssm_nan policy)
{
    static const char *const presets[] = {"forecast-64x2", "30x2,5,0", "forecast-128x4", "768x1,16,0"};
    for (unsigned i = 0; i < (!rig_cuda() || rig_light() ? 2 : 4); i++)
        run_preset(presets[i], policy);
}

static void missing_is_masked(void **state)
{
    run_presets(SSM_NAN_MASK);
}

static void missing_is_skipped(void **state)
{
    run_presets(SSM_NAN_SKIP);
}

static void missing_is_held(void **state)
{
    run_presets(SSM_NAN_HOLD);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_is_masked),
        cmocka_unit_test(missing_is_skipped),
        cmocka_unit_test(missing_is_held),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("signal_devices");
    make_signals();
    return cmocka_run_group_tests_name("signal_devices", tests, NULL, NULL);
}
