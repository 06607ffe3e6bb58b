/* test_drift.c: what long streams do to a difference: after a million steps a device still agrees with fp32 arithmetic
 * on the same weights, outputs and state; and a greedy decoder picks the same bytes wherever it is not a toss-up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"

static struct rng rng;

/* ---- drift ----------------------------------------------------------------------------------------------- */

enum { CHUNK = 20000, SHORT_CHUNK = 4000, CHUNKS_MAX = 50, WINDOW = 256, V = 16 };
#define DRIFT_MODEL "32x1,16,16"

/* The outputs of the last WINDOW steps and the slot after each chunk. */
static uint32_t chunk, chunks;
struct course {
    float *window[CHUNKS_MAX];
    uint8_t *saved[CHUNKS_MAX];
};

static void run_course(const struct ssm_model *m, const struct rig_variant *v, const int32_t *tokens, struct course *c)
{
    struct ssm_engine *e = rig_engine(m, v, 1, 1);
    float *logits = malloc((size_t)chunk * V * sizeof *logits);
    struct ssm_item item = {.slot = rig_slot(e), .n = chunk, .interval = 1};
    item.out.logits = logits;
    item.out.logits_stride = V;
    for (unsigned k = 0; k < chunks; k++) {
        item.tokens = tokens + (size_t)k * chunk;
        poison(logits, (size_t)chunk * V);
        assert_int_equal(ssm_advance(e, &item, 1), 0);
        c->window[k] = malloc(WINDOW * V * sizeof(float));
        c->saved[k] = malloc(ssm_slot_bytes(e));
        memcpy(c->window[k], logits + (size_t)(chunk - WINDOW) * V, WINDOW * V * sizeof(float));
        ssm_slot_save(e, item.slot, c->saved[k]);
    }
    free(logits);
    ssm_engine_close(&e);
}

static void course_done(struct course *c)
{
    for (unsigned k = 0; k < CHUNKS_MAX; k++) {
        free(c->window[k]);
        free(c->saved[k]);
    }
}

static void check_course(const struct ssm_model *m, const struct rig_variant *v, const struct course *got,
                         const struct course *want)
{
    unsigned n;
    struct ssm_engine *e = rig_engine(m, v, 1, 1);
    const struct ssm_section *ssm = &ssm_slot_sections(e, &n)[0];
    bool half = v->state != SSM_F32;
    double bound = half ? TOLERANCE_DRIFT_HALF : bound_of(v, 1),
           held = half ? TOLERANCE_DRIFT_HALF : bound_of_state(v, 1);
    double logits = 0.0, states = 0.0;
    ssm += n - 1;
    assert_string_equal(ssm->name, "ssm");
    for (unsigned k = 0; k < chunks; k++) {
        double l = relative_error(got->window[k], want->window[k], WINDOW * V);
        double s =
            relative_error((const float *)(const void *)(got->saved[k] + ssm->offset),
                           (const float *)(const void *)(want->saved[k] + ssm->offset), ssm->bytes / sizeof(float));
        if (!within(l, bound) || !within(s, held))
            fail_msg("%s after %u steps: logits %.3g (bound %.3g), ssm %.3g (bound %.3g)", rig_name(v), (k + 1) * chunk,
                     l, bound, s, held);
        logits = l > logits ? l : logits;
        states = s > states ? s : states;
    }
    printf("%-40s %u steps: worst logits %.2g, ssm %.2g\n", rig_name(v), chunks * chunk, logits, states);
    ssm_engine_close(&e);
}

static void a_million_steps(void **state)
{
    bool full = rig_cuda() && !rig_light();
    struct rig_variant v;
    struct ssm_model *m = rig_vivid(DRIFT_MODEL);
    chunk = full ? CHUNK : SHORT_CHUNK;
    chunks = full ? CHUNKS_MAX : 1;
    int32_t *tokens = malloc((size_t)chunks * chunk * sizeof *tokens);
    for (size_t i = 0; i < (size_t)chunks * chunk; i++)
        tokens[i] = (int32_t)rig_below(&rng, V);
    for (enum ssm_dtype weights = SSM_F32; weights <= SSM_F16; weights++) {
        struct course want = {0};
        struct rig_variant truth = rig_truth(weights);
        for (unsigned i = 0; rig_variant(i, &v); i++) {
            struct course got = {0};
            if (v.weights != weights || (v.ops && !strcmp(v.ops, truth.ops)))
                continue;
            if (!want.window[0])
                run_course(m, &truth, tokens, &want);
            run_course(m, &v, tokens, &got);
            check_course(m, &v, &got, &want);
            course_done(&got);
        }
        course_done(&want);
    }
    free(tokens);
    ssm_model_close(&m);
}

/* ---- greedy bytes ---------------------------------------------------------------------------------------- */

enum { BYTES = 256, DECODERS = 8, GREEDY_STEPS = 1000 };
#define MARGIN 1e-3f

static unsigned best_of(const float *logits, float *ret_margin)
{
    unsigned best = 0;
    float second = -INFINITY;
    for (unsigned i = 1; i < BYTES; i++) {
        if (logits[i] > logits[best]) {
            second = logits[best];
            best = i;
        } else if (logits[i] > second) {
            second = logits[i];
        }
    }
    *ret_margin = logits[best] - second;
    return best;
}

static void step(struct ssm_engine *e, const struct ssm_slot *slots, const int32_t *bytes, float *logits)
{
    struct ssm_item items[DECODERS];
    for (unsigned i = 0; i < DECODERS; i++) {
        items[i] = (struct ssm_item){.slot = slots[i], .n = 1, .tokens = &bytes[i], .interval = 1};
        items[i].out.logits = logits + i * BYTES;
        items[i].out.logits_stride = BYTES;
    }
    assert_int_equal(ssm_advance(e, items, DECODERS), 0);
}

/* The truth decodes; the device is fed the same bytes and asked for its own choice. A byte at random now and then keeps
 * the text from running into a cycle. */
static void decode(const struct ssm_model *m, const struct rig_variant *v)
{
    struct rig_variant truth = rig_truth(SSM_F32);
    struct ssm_engine *a = rig_engine(m, &truth, 0, DECODERS), *b = rig_engine(m, v, 0, DECODERS);
    struct ssm_slot sa[DECODERS], sb[DECODERS];
    int32_t bytes[DECODERS];
    static float la[DECODERS * BYTES], lb[DECODERS * BYTES];
    unsigned clear = 0;
    for (unsigned i = 0; i < DECODERS; i++) {
        sa[i] = rig_slot(a);
        sb[i] = rig_slot(b);
        bytes[i] = (int32_t)rig_below(&rng, BYTES);
    }
    for (unsigned t = 0; t < GREEDY_STEPS; t++) {
        step(a, sa, bytes, la);
        step(b, sb, bytes, lb);
        for (unsigned i = 0; i < DECODERS; i++) {
            float margin, other;
            unsigned want = best_of(la + i * BYTES, &margin), got = best_of(lb + i * BYTES, &other);
            clear += margin > MARGIN;
            if (margin > MARGIN && got != want)
                fail_msg("%s, decoder %u, step %u: byte %u, want %u (margin %g)", rig_name(v), i, t, got, want,
                         (double)margin);
            bytes[i] = rig_below(&rng, 20) ? (int32_t)want : (int32_t)rig_below(&rng, BYTES);
        }
    }
    printf("%-40s %u of %u choices clear, all the same\n", rig_name(v), clear, GREEDY_STEPS * DECODERS);
    assert_true(clear > GREEDY_STEPS);
    ssm_engine_close(&a);
    ssm_engine_close(&b);
}

static void greedy_bytes(void **state)
{
    struct rig_variant v;
    struct ssm_model *m = rig_vivid("64x4,16,256");
    if (rig_light())
        skip();
    for (unsigned i = 0; rig_variant(i, &v); i++)
        if (v.weights == SSM_F32 && v.state == SSM_F32 && (!v.ops || !strcmp(v.ops, "avx2")))
            decode(m, &v);
    ssm_model_close(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_million_steps), cmocka_unit_test(greedy_bytes)};
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("drift");
    return cmocka_run_group_tests_name("drift", tests, NULL, NULL);
}
