/* test_extremes.c: models and streams at the edges of what floats hold: huge and tiny inputs, Δ far open and shut,
 * states that forget at once or never, projections beyond fp16, holes of any length. Outputs stay finite, do not depend
 * on the batch, and agree with fp32 arithmetic wherever half precision can hold what is in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "ssm/model.h"
#include "tests/ssm/compare.h"
#include "tests/ssm/play.h"

enum { STREAMS = 9, STEPS = 24 };
static struct rng rng;

struct extreme {
    const char *name;
    void (*make)(struct ssm_model *);
    bool beyond_half; /* activations or states that 16 bits do not hold: only finite there */
};

static void constant(struct ssm_tensor *t, float value)
{
    t->fill = SSM_FILL_CONST;
    t->scale = value;
}

static void scale_embedding(struct ssm_model *m, float scale)
{
    m->embedding.scale = m->head.scale = scale; /* tied */
}

static void huge_inputs(struct ssm_model *m)
{
    scale_embedding(m, 3e4f);
}

static void tiny_inputs(struct ssm_model *m)
{
    scale_embedding(m, 1e-5f);
}

static void open_delta(struct ssm_model *m)
{
    for (uint32_t l = 0; l < m->config.L; l++)
        constant(&m->layers[l].dt_bias, 100.0f);
}

static void shut_delta(struct ssm_model *m)
{
    for (uint32_t l = 0; l < m->config.L; l++)
        constant(&m->layers[l].dt_bias, -100.0f);
}

static void forgets_at_once(struct ssm_model *m)
{
    for (uint32_t l = 0; l < m->config.L; l++)
        constant(&m->layers[l].A_log, 12.0f);
}

static void never_forgets(struct ssm_model *m)
{
    for (uint32_t l = 0; l < m->config.L; l++)
        constant(&m->layers[l].A_log, -20.0f);
}

static void loud_projections(struct ssm_model *m)
{
    for (uint32_t l = 0; l < m->config.L; l++)
        m->layers[l].in_proj.scale *= 3000.0f;
}

static void as_it_is(struct ssm_model *m)
{
}

static void put_holes(struct play *p)
{
    static const int64_t holes[] = {0, 3, INT64_MAX, 1, INT64_MAX / 7, 3000000};
    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t t = 0; p->streams[i].dt && t < p->streams[i].T; t++)
            p->streams[i].dt[t] = holes[rig_below(&rng, 6)];
}

static void check(const char *shape, const struct extreme *x, const struct rig_variant *v, const struct ssm_model *m,
                  const struct play *want)
{
    char why[PLAY_WHY];
    struct play together, alone;
    struct ssm_engine *e = rig_engine(m, v, 1, STREAMS);
    play_again(&together, want);
    play_together(&together, e, 5);
    play_again(&alone, want);
    play_alone(&alone, e, 1);
    if (!play_finite(&alone, why) || !play_same(&together, &alone, why))
        fail_msg("%s, %s, on %s: %s", shape, x->name, rig_name(v), why);
    bool half = v->weights != SSM_F32 || v->state != SSM_F32;
    double error = play_compare(&alone, want, e).logits, bound = bound_of(v, 2);
    printf("%-14s %-28s %-40s logits %.2g\n", shape, x->name, rig_name(v), error);
    if (!(half && x->beyond_half) && !within(error, bound))
        fail_msg("%s, %s, on %s: logits %.3g > %.3g", shape, x->name, rig_name(v), error, bound);
    play_done(&together);
    play_done(&alone);
    ssm_engine_close(&e);
}

static void run(const char *shape, const struct extreme *x)
{
    struct rig_variant v;
    uint32_t T[STREAMS];
    struct ssm_model *m = rig_random(shape);
    x->make(m);
    for (uint32_t i = 0; i < STREAMS; i++)
        T[i] = rig_light() ? STEPS / 4 : STEPS;
    for (enum ssm_dtype weights = SSM_F32; weights <= SSM_F16; weights++) {
        struct rig_variant truth = rig_truth(weights);
        struct ssm_engine *e = rig_engine(m, &truth, 1, STREAMS);
        struct play want;
        play_new(&want, m, T, STREAMS, &rng);
        if (x->make == as_it_is)
            put_holes(&want);
        play_together(&want, e, UINT32_MAX);
        ssm_engine_close(&e);
        for (unsigned i = 0; rig_variant(i, &v); i++)
            if (v.weights == weights)
                check(shape, x, &v, m, &want);
        play_done(&want);
    }
    ssm_model_close(&m);
}

static void run_shapes(const struct extreme *x)
{
    static const char *const shapes[] = {"30x2,5,77", "64x2,16,50", "768x1,16,40"};
    for (unsigned i = 0; i < (rig_light() ? 2 : rig_cuda() ? 3 : 1); i++)
        run(shapes[i], x);
}

static void inputs(void **state)
{
    run_shapes(&(struct extreme){"huge inputs", huge_inputs, false});
    run_shapes(&(struct extreme){"tiny inputs", tiny_inputs, false});
}

static void steps_of_the_state(void **state)
{
    run_shapes(&(struct extreme){"delta of 100", open_delta, true});
    run_shapes(&(struct extreme){"delta of 0", shut_delta, false});
    run_shapes(&(struct extreme){"A of -1e5", forgets_at_once, false});
    run_shapes(&(struct extreme){"A of -1e-9", never_forgets, true});
}

static void projections(void **state)
{
    run_shapes(&(struct extreme){"projections beyond fp16", loud_projections, true});
}

static void holes(void **state)
{
    run_shapes(&(struct extreme){"holes of any length", as_it_is, false});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs),
        cmocka_unit_test(steps_of_the_state),
        cmocka_unit_test(projections),
        cmocka_unit_test(holes),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("extremes");
    return cmocka_run_group_tests_name("extremes", tests, NULL, NULL);
}
