/* test_bytes.c: how much a byte model is surprised. What it says of a byte follows from the logits of the step before;
 * it is bitwise the same however a stream is cut into calls, whatever shares them, and through saved slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ssm/compare.h"

#define MODEL "24x2,4,256"
enum { N = 700, V = 256, STREAMS = 5 };

static struct rng rng;
static struct ssm_model *model;

/* One stream's bytes and what was said of them. */
struct heard {
    int32_t tokens[N];
    float surprise[N], logits[N * V];
};

static void speak(struct heard *h)
{
    for (int i = 0; i < N; i++)
        h->tokens[i] = (int32_t)(rig_below(&rng, 4) ? 'a' + rig_below(&rng, 26) : rig_below(&rng, V));
}

static struct ssm_item item_at(struct heard *h, struct ssm_slot slot, uint32_t at, uint32_t n, bool log_probs)
{
    struct ssm_item item = {.slot = slot, .n = n, .tokens = h->tokens + at, .interval = 1};
    item.out.logits = h->logits + (size_t)at * V;
    item.out.logits_stride = V;
    item.scored = (struct ssm_scored){.surprise = h->surprise + at, .log_probs = log_probs};
    return item;
}

static struct ssm_engine *engine_of(uint32_t slots, uint32_t threads)
{
    struct rig_variant v = rig_common();
    return rig_engine(model, &v, threads, slots);
}

static void whole(struct heard *h, bool log_probs)
{
    struct ssm_engine *e = engine_of(1, 1);
    struct ssm_item item = item_at(h, rig_slot(e), 0, N, log_probs);
    assert_int_equal(ssm_advance(e, &item, 1), 0);
    ssm_engine_close(&e);
}

/* −ln softmax in double. */
static double surprise_of(const float *logits, int32_t byte)
{
    double sum = 0;
    for (int i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    return log(sum) - (double)logits[byte];
}

static void follows_from_the_logits(void **state)
{
    struct heard *h = calloc(2, sizeof *h);
    speak(h);
    memcpy(h[1].tokens, h->tokens, sizeof h->tokens);
    whole(h, false);
    whole(h + 1, true);
    assert_true(isnan(h->surprise[0]));
    for (int i = 1; i < N; i++) {
        double want = surprise_of(h->logits + (size_t)(i - 1) * V, h->tokens[i]);
        assert_true(fabs((double)h->surprise[i] - want) <= 1e-5 * want);
    }
    assert_memory_equal(h[0].surprise, h[1].surprise, sizeof h->surprise);
    for (size_t i = 0; i < (size_t)N * V; i++) {
        const float *row = h->logits + i / V * V;
        double want = -surprise_of(row, (int32_t)(i % V));
        assert_true(fabs((double)h[1].logits[i] - want) <= 1e-5 * fabs(want));
    }
    free(h);
}

/* Takes the slot to other bytes and back. */
static struct ssm_slot moved(struct ssm_engine *e, struct ssm_slot slot)
{
    char reterr[SSM_ERR];
    void *saved = malloc(ssm_slot_bytes(e));
    bool exact = false;
    assert_int_equal(ssm_slot_save(e, slot, saved), 0);
    ssm_slot_give(e, slot);
    slot = rig_slot(e);
    assert_int_equal(ssm_slot_restore(e, slot, saved, ssm_slot_bytes(e), &exact, reterr), 0);
    assert_true(exact);
    free(saved);
    return slot;
}

/* All streams through one engine in random pieces. */
static void in_pieces(struct heard *h, uint32_t threads)
{
    struct ssm_engine *e = engine_of(STREAMS + 1, threads);
    struct ssm_slot slots[STREAMS];
    uint32_t at[STREAMS] = {0}, left = STREAMS;
    for (int i = 0; i < STREAMS; i++)
        slots[i] = rig_slot(e);
    while (left > 0) {
        struct ssm_item items[STREAMS];
        uint32_t n_items = 0;
        for (int i = 0; i < STREAMS; i++) {
            uint32_t n = rig_below(&rng, rig_below(&rng, 3) ? 7 : 300);
            n = n < N - at[i] ? n : N - at[i];
            if (n == 0)
                continue;
            if (rig_below(&rng, 5) == 0)
                slots[i] = moved(e, slots[i]);
            items[n_items++] = item_at(&h[i], slots[i], at[i], n, false);
            at[i] += n;
            left -= at[i] == N;
        }
        assert_int_equal(ssm_advance(e, items, n_items), 0);
    }
    ssm_engine_close(&e);
}

static void is_bitwise_its_own(void **state)
{
    struct heard *want = calloc(STREAMS, sizeof *want), *got = calloc(STREAMS, sizeof *got);
    for (int i = 0; i < STREAMS; i++) {
        speak(&want[i]);
        memcpy(got[i].tokens, want[i].tokens, sizeof got[i].tokens);
        whole(&want[i], false);
    }
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        in_pieces(got, threads);
        for (int i = 0; i < STREAMS; i++)
            assert_memory_equal(got[i].surprise, want[i].surprise, sizeof got[i].surprise);
    }
    free(want);
    free(got);
}

/* A slot that was reset, or given and taken again, knows no byte before. */
static void begins_anew(void **state)
{
    struct heard *h = calloc(2, sizeof *h);
    struct ssm_engine *e = engine_of(1, 1);
    struct ssm_slot slot = rig_slot(e);
    speak(h);
    memcpy(h[1].tokens, h->tokens, sizeof h->tokens);
    for (int i = 0; i < 2; i++) {
        struct ssm_item item = item_at(&h[i], slot, 0, N, false);
        assert_int_equal(ssm_advance(e, &item, 1), 0);
        ssm_slot_reset(e, slot);
    }
    assert_memory_equal(h[0].surprise, h[1].surprise, sizeof h->surprise);
    ssm_engine_close(&e);
    free(h);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_from_the_logits),
        cmocka_unit_test(is_bitwise_its_own),
        cmocka_unit_test(begins_anew),
    };
    int skip = rig_begin(&argc, argv);
    if (skip)
        return skip;
    rng = rig_rng("bytes");
    model = rig_vivid(MODEL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ssm_model_close(&model);
    return failed;
}
