/* test_models.c: whole models of many shapes against fp32 arithmetic on the same rounded weights: logits, convolution
 * windows and SSM states, of a batch of streams with holes in their time, played in one call and step by step (which is
 * the same to the bit). The errors are printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/play.h"

enum { FEW_STREAMS = 3, MANY_STREAMS = 9, LONG = 70, LIGHT = 18 };
static struct rng rng;

static bool is_truth(const struct rig_variant *v)
{
    return v->ops && !strcmp(v->ops, rig_truth(v->weights).ops);
}

static void check(const char *preset, const struct rig_variant *v, const struct play *want, const struct play *got,
                  struct ssm_engine *e)
{
    uint32_t n_layer = ssm_model_info(ssm_engine_model(e))->n_layer;
    double bound = bound_of(v, n_layer), held = bound_of_state(v, n_layer);
    struct play_errors error = play_compare(got, want, e);
    printf("%-16s %-40s %-14s logits %.2g conv %.2g ssm %.2g\n", preset, rig_name(v), ssm_engine_ops(e), error.logits,
           error.conv, error.ssm);
    if (!within(error.logits, bound) || !within(error.conv, bound) || !within(error.ssm, held))
        fail_msg("%s on %s: logits %.3g or conv %.3g > %.3g, or ssm %.3g > %.3g", preset, rig_name(v), error.logits,
                 error.conv, bound, error.ssm, held);
}

static void run_variant(const char *preset, const struct ssm_model *m, const struct rig_variant *v,
                        const struct play *want)
{
    char why[PLAY_WHY];
    struct play whole, steps;
    struct ssm_engine *e = rig_engine(m, v, 2, want->n);
    play_again(&whole, want);
    play_together(&whole, e, UINT32_MAX);
    check(preset, v, want, &whole, e);
    play_again(&steps, want);
    play_together(&steps, e, 1);
    if (!play_same(&steps, &whole, why))
        fail_msg("%s on %s: step by step is not as in one call: %s", preset, rig_name(v), why);
    play_done(&whole);
    play_done(&steps);
    ssm_engine_close(&e);
}

/* Every variant for which `pick` holds (NULL: all). */
static void run(const char *preset, uint32_t streams, uint32_t longest, bool (*pick)(const struct rig_variant *))
{
    static const uint32_t lengths[] = {LONG, 1, 2, 9, 33, 5, 3, 17, 8};
    struct rig_variant v;
    uint32_t T[MANY_STREAMS];
    struct ssm_model *m = rig_vivid(preset);
    for (uint32_t i = 0; i < streams; i++)
        T[i] = lengths[i] < longest ? lengths[i] : longest;
    if (rig_light() && T[0] > LIGHT)
        T[0] = T[4] = LIGHT;
    for (enum ssm_dtype weights = SSM_F32; weights <= SSM_F16; weights++) {
        struct play want = {0};
        struct rig_variant truth = rig_truth(weights);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            if (v.weights != weights || is_truth(&v) || (pick && !pick(&v)))
                continue;
            if (!want.streams) {
                struct ssm_engine *e = rig_engine(m, &truth, 0, streams);
                play_new(&want, m, T, streams, &rng);
                play_together(&want, e, UINT32_MAX);
                ssm_engine_close(&e);
            }
            run_variant(preset, m, &v, &want);
        }
        play_done(&want);
    }
    ssm_model_close(&m);
}

/* Of large models, whose weights take seconds to make, three on the GPU and one CPU table. */
static bool of_large(const struct rig_variant *v)
{
    return v->ops ? v->weights == SSM_BF16 && strcmp(v->ops, "ref")
                  : v->weights == v->state || (v->weights == SSM_BF16 && v->state == SSM_F32);
}

static bool of_huge(const struct rig_variant *v)
{
    return !v->ops && v->weights == SSM_BF16 && v->state != SSM_F16;
}

static void odd_sizes(void **state)
{
    static const char *const presets[] = {"30x2,5,77", "3x1,17,9", "100x3,8,50", "1x1,1,2"};
    for (unsigned i = 0; i < 4; i++)
        run(presets[i], MANY_STREAMS, LONG, NULL);
}

static void many_states(void **state)
{
    run("64x2,64,50", FEW_STREAMS, LONG, NULL);
}

static void one_token(void **state)
{
    if (rig_light())
        skip();
    run("64x2,16,1", FEW_STREAMS, LONG, NULL);
}

static void signal_sized(void **state)
{
    run("sig-64x4", MANY_STREAMS, LONG, NULL);
    if (!rig_cuda() || rig_light())
        return;
    run("sig-128x4", MANY_STREAMS, LONG, NULL);
    run("sig-256x8", MANY_STREAMS, LONG, NULL);
}

static void language_sized(void **state)
{
    run("768x2,16,1000", MANY_STREAMS, LONG, of_large);
}

static void wide(void **state)
{
    if (!rig_cuda() || rig_light())
        skip();
    run("1792x2,16,256", MANY_STREAMS, LONG, of_large);
}

static void mamba_130m(void **state)
{
    if (!rig_cuda() || rig_light())
        skip();
    run("mamba-130m", MANY_STREAMS, 12, of_huge);
}

/* An engine of another, smaller model beside it, opened later, changes nothing: neither what comes nor that it comes. */
static void another_model_beside(void **state)
{
    struct ssm_model *large = rig_vivid("768x1,16,100"), *small = rig_vivid("64x2,16,50");
    const uint32_t T[] = {LONG, 8, 1}, n = sizeof T / sizeof *T;
    struct rig_variant v;
    char why[PLAY_WHY];
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct ssm_engine *e = rig_engine(large, &v, 1, n), *other;
        struct play alone, beside, others;
        play_new(&alone, large, T, n, &rng);
        play_new(&others, small, T, n, &rng);
        play_together(&alone, e, UINT32_MAX);
        play_again(&beside, &alone);
        other = rig_engine(small, &v, 1, n);
        play_together(&others, other, UINT32_MAX);
        play_together(&beside, e, UINT32_MAX);
        if (!play_same(&beside, &alone, why))
            fail_msg("%s: %s", rig_name(&v), why);
        play_done(&others);
        play_done(&beside);
        play_done(&alone);
        ssm_engine_close(&other);
        ssm_engine_close(&e);
    }
    ssm_model_close(&small);
    ssm_model_close(&large);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_sizes),    cmocka_unit_test(many_states), cmocka_unit_test(one_token),
        cmocka_unit_test(signal_sized), cmocka_unit_test(wide),        cmocka_unit_test(language_sized),
        cmocka_unit_test(mamba_130m),   cmocka_unit_test(another_model_beside),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("models");
    return cmocka_run_group_tests_name("models", tests, NULL, NULL);
}
