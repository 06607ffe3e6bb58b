/* test_bytes.c: how much a byte model is surprised. What it says of a byte follows from the logits of the step before;
 * it is bitwise the same however a stream is cut into calls, whatever shares them, and through saved slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/bytes.h"
#include "tests/ssm/compare.h"

#define MODEL "24x2,4,256"
enum { N = 4000, V = 256, STREAMS = 4, RECORD_MAX = 12, WARM = 256 };

static struct rng rng;
static struct ssm_model *model;

/* One stream's bytes and what was said of them. */
struct heard {
    int32_t tokens[N];
    float surprise[N], logits[N * V], records[N * 3];
    uint32_t ends[N], n_records; /* counted from the first byte */
    uint32_t just[N], n_just;    /* of one call */
};

static void speak(struct heard *h)
{
    for (int i = 0; i < N; i++)
        h->tokens[i] = (int32_t)(rig_below(&rng, 4)   ? 'a' + rig_below(&rng, 26)
                                 : rig_below(&rng, 3) ? '\n'
                                                      : rig_below(&rng, V));
}

static struct ssm_item item_at(struct heard *h, struct ssm_slot slot, uint32_t at, uint32_t n, bool log_probs)
{
    struct ssm_item item = {.slot = slot, .n = n, .tokens = h->tokens + at, .interval = 1};
    item.out.logits = h->logits + (size_t)at * V;
    item.out.logits_stride = V;
    item.scored = (struct ssm_scored){
        .surprise = h->surprise + at,
        .log_probs = log_probs,
        .delimiter = '\n',
        .record_max = RECORD_MAX,
        .records = h->records + 3 * (size_t)h->n_records,
        .ends = h->just,
        .n_records = &h->n_just,
    };
    return item;
}

/* After a call that began with byte `at`. */
static void note_records(struct heard *h, uint32_t at)
{
    for (uint32_t i = 0; i < h->n_just; i++)
        h->ends[h->n_records++] = at + h->just[i];
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
    note_records(h, 0);
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
    assert_memory_equal(h[0].records, h[1].records, sizeof h->records);
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
        uint32_t n_items = 0, which[STREAMS];
        for (int i = 0; i < STREAMS; i++) {
            uint32_t n = rig_below(&rng, rig_below(&rng, 3) ? 7 : 300);
            n = n < N - at[i] ? n : N - at[i];
            if (n == 0)
                continue;
            if (rig_below(&rng, 5) == 0)
                slots[i] = moved(e, slots[i]);
            which[n_items] = (uint32_t)i;
            items[n_items++] = item_at(&h[i], slots[i], at[i], n, false);
            at[i] += n;
            left -= at[i] == N;
        }
        assert_int_equal(ssm_advance(e, items, n_items), 0);
        for (uint32_t k = 0; k < n_items; k++)
            note_records(&h[which[k]], (uint32_t)(items[k].tokens - h[which[k]].tokens));
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
        for (int i = 0; i < STREAMS; i++) {
            assert_memory_equal(got[i].surprise, want[i].surprise, sizeof got[i].surprise);
            assert_int_equal(got[i].n_records, want[i].n_records);
            assert_memory_equal(got[i].ends, want[i].ends, got[i].n_records * sizeof(uint32_t));
            assert_memory_equal(got[i].records, want[i].records, got[i].n_records * 3 * sizeof(float));
            got[i].n_records = 0;
        }
    }
    free(want);
    free(got);
}

/* A record ends with its delimiter or at the limit; its surprise is that of all its bytes. It has a p-value once as
 * many were learnt as it takes, and by then the strangest have the least. */
static void records_add_up(void **state)
{
    struct heard *h = calloc(1, sizeof *h);
    uint32_t from = 0, cut = 0, learnt = 0;
    speak(h);
    whole(h, false);
    assert_true(h->n_records > 2 * WARM);
    for (uint32_t k = 0; k < h->n_records; from = h->ends[k++] + 1) {
        const float *row = h->records + 3 * (size_t)k;
        double sum = 0;
        for (uint32_t i = from; i <= h->ends[k]; i++) {
            sum += i ? (double)h->surprise[i] : 0;
            assert_true(h->tokens[i] != '\n' || i == h->ends[k]);
        }
        assert_true(h->tokens[h->ends[k]] == '\n' || h->ends[k] - from + 1 == RECORD_MAX);
        cut += h->tokens[h->ends[k]] != '\n';
        assert_true(fabs((double)row[2] - sum) <= 1e-5 * sum);
        if (learnt < WARM)
            assert_true(isnan(row[0]) && isnan(row[1]));
        else
            assert_true(row[0] >= 0 && row[0] <= 1 && row[1] >= 0 && row[1] <= 1);
        learnt += h->ends[k] > 0; /* a delimiter that is the first byte of all has no surprise */
    }
    assert_true(cut > 0);
    free(h);
}

/* The norm of logits near and far apart, beside libm in double; what is no number stays none. */
static void norms_are_exact(void **state)
{
    static const float spans[] = {0.0f, 0.01f, 1, 10, 80, 200, 1e30f};
    float x[V];
    for (size_t s = 0; s < sizeof spans / sizeof *spans; s++)
        for (int turn = 0; turn < 200; turn++) {
            double most = -INFINITY, sum = 0;
            for (int b = 0; b < V; b++) {
                x[b] = spans[s] * ((float)rig_below(&rng, 20001) / 10000 - 1);
                most = fmax(most, x[b]);
            }
            for (int b = 0; b < V; b++)
                sum += exp(x[b] - most);
            double exact = most + log(sum), norm = ssm_bytes_norm(x);
            assert_true(fabs(norm - exact) <= 3e-7 + 1e-15 * fabs(exact));
            assert_true(norm >= most);
        }
    x[77] = NAN;
    assert_true(isnan(ssm_bytes_norm(x)));
}

/* The same line again and again from a model that is `sure` of it, or knows nothing; one unlike it. */
static void tell_a_strange_record(float sure)
{
    static const char line[] = "abcdefghi\n";
    enum { LINE = 10, LINES = 600, STRANGE = 500 };
    struct heard *h = calloc(1, sizeof *h);
    struct ssm_engine *e = engine_of(1, 1);
    void *section = calloc(1, ssm_bytes_state());
    double least = 1;
    ssm_bytes_reset(section);
    for (uint32_t i = 0; i < LINES; i++) {
        struct ssm_item item = item_at(h, rig_slot(e), 0, LINE, false);
        for (int k = 0; k < LINE; k++) {
            h->tokens[k] = i == STRANGE && k > 2 && k < 6 ? 'z' : line[k];
            for (int b = 0; b < V; b++)
                h->logits[k * V + b] = (b == line[(k + 1) % LINE] ? sure : 0.0f) + (float)rig_below(&rng, 100) / 100;
        }
        ssm_bytes_run(&item, section);
        ssm_slot_give(e, item.slot);
        assert_int_equal(h->n_just, 1);
        assert_int_equal(h->just[0], LINE - 1);
        if (i == STRANGE)
            assert_true((double)h->records[1] < 1e-4 && h->records[2] > 20);
        else if (i >= WARM)
            least = fmin(least, (double)h->records[1]);
    }
    assert_true(least > 1e-4);
    free(section);
    ssm_engine_close(&e);
    free(h);
}

static void a_strange_record_is_told(void **state)
{
    tell_a_strange_record(9);
    tell_a_strange_record(0);
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
    assert_memory_equal(h[0].records, h[1].records, sizeof h->records);
    ssm_engine_close(&e);
    free(h);
}

/* A half of the bytes; the records of no other call stay. */
static void hear(struct ssm_engine *e, struct heard *h, struct ssm_slot slot, uint32_t from)
{
    struct ssm_item item = item_at(h, slot, from, N / 2, false);
    memset(h->records, 0, sizeof h->records);
    assert_int_equal(ssm_advance(e, &item, 1), 0);
}

/* A fresh slot's copy has heard nothing, whatever it was; another's goes on with the same records. */
static void copies_have_heard_the_same(void **state)
{
    struct heard *h = calloc(2, sizeof *h);
    struct ssm_engine *e = engine_of(3, 1);
    struct ssm_slot one = rig_slot(e), other = rig_slot(e), fresh = rig_slot(e);
    speak(h);
    memcpy(h[1].tokens, h->tokens, sizeof h->tokens);
    hear(e, &h[1], other, N / 2);
    assert_int_equal(ssm_slot_copy(e, fresh, other), 0);
    hear(e, &h[0], one, 0);
    hear(e, &h[1], other, 0);
    assert_memory_equal(h[0].records, h[1].records, sizeof h->records);
    assert_int_equal(ssm_slot_copy(e, one, fresh), 0);
    hear(e, &h[0], one, N / 2);
    hear(e, &h[1], fresh, N / 2);
    assert_memory_equal(h[0].records, h[1].records, sizeof h->records);
    ssm_engine_close(&e);
    free(h);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_from_the_logits),
        cmocka_unit_test(is_bitwise_its_own),
        cmocka_unit_test(norms_are_exact),
        cmocka_unit_test(records_add_up),
        cmocka_unit_test(a_strange_record_is_told),
        cmocka_unit_test(begins_anew),
        cmocka_unit_test(copies_have_heard_the_same),
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
