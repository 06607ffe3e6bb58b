/* test_cuda.c: device "cuda" and "auto" as such: what is said where there is no GPU, on any machine; with one ("cuda"):
 * names, dtypes, a device whose memory is used up, and going on after that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/play.h"

static struct rng rng;

/* ---- without a GPU --------------------------------------------------------------------------------------- */

static int open_device(const struct ssm_model *m, const char *device, enum ssm_dtype state, struct ssm_engine **ret,
                       char *why)
{
    struct ssm_engine_opts opts = {.device = device, .state = state, .slots = 2, .threads = 1};
    return ssm_engine_open(m, &opts, ret, why);
}

static void cuda_says_why_not(void **state)
{
    char why[SSM_ERR] = "";
    struct ssm_engine *e = NULL;
    struct ssm_model *m = rig_random("30x2,5,77");
    assert_int_equal(open_device(m, "cuda", SSM_F32, &e, why), -ENODEV);
    assert_null(e);
    assert_true(strlen(why) > 20 && !strchr(why, '\n'));
    print_message("cuda: %s\n", why);
    ssm_model_close(&m);
}

static void auto_is_the_cpu_and_says_so(void **state)
{
    char why[SSM_ERR] = "";
    struct ssm_engine *e = NULL;
    struct ssm_model *m = rig_random("30x2,5,77");
    assert_int_equal(open_device(m, "auto", SSM_F32, &e, why), 0);
    assert_string_equal(ssm_engine_device(e), "cpu");
    assert_true(strlen(ssm_engine_note(e)) > 20 && !strchr(ssm_engine_note(e), '\n'));
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

/* ---- with a GPU ------------------------------------------------------------------------------------------ */

static void it_has_a_name(void **state)
{
    static const char *const devices[] = {"cuda", "cuda:0", "auto"};
    char why[SSM_ERR] = "";
    struct ssm_model *m = rig_random("64x2,16,50");
    for (unsigned i = 0; i < 3; i++) {
        struct ssm_engine *e = NULL;
        assert_int_equal(open_device(m, devices[i], SSM_F16, &e, why), 0);
        assert_string_equal(ssm_engine_device(e), "cuda:0");
        assert_int_equal(strncmp(ssm_engine_ops(e), "cuda", 4), 0);
        assert_string_equal(ssm_engine_note(e), "");
        assert_string_equal(ssm_engine_failure(e), "");
        ssm_engine_close(&e);
    }
    struct ssm_engine *e = NULL;
    assert_int_equal(open_device(m, "cuda:77", SSM_F32, &e, why), -ENODEV);
    assert_null(e);
    assert_true(strlen(why) > 20);
    ssm_model_close(&m);
}

/* 8192 slots of 34 MB are more than any device has. The slots that there are work, and work on after the refusal. */
static void more_slots_than_memory(void **state)
{
    enum { CAPACITY = 8192, STREAMS = 3 };
    static const uint32_t T[STREAMS] = {3, 1, 2};
    char why[PLAY_WHY];
    struct rig_variant v = rig_common();
    struct ssm_model *m = rig_random("64x64,1024,1");
    struct ssm_engine *e = rig_engine(m, &v, 1, CAPACITY);
    struct ssm_slot *slots = malloc(CAPACITY * sizeof *slots);
    struct play before, after;
    uint32_t n = 0;
    int err = 0;
    play_new(&before, m, T, STREAMS, &rng);
    play_alone(&before, e, 1);
    while (n < CAPACITY && !(err = ssm_slot_take(e, &slots[n])))
        n++;
    print_message("%u slots of %zu bytes\n", n, ssm_slot_bytes(e));
    assert_int_equal(err, -ENOMEM);
    assert_true(n > STREAMS && n < CAPACITY);
    assert_int_equal(ssm_slots_used(e), n);
    assert_int_equal(ssm_slot_take(e, &slots[n]), -ENOMEM);
    for (unsigned i = 0; i < STREAMS; i++)
        ssm_slot_give(e, slots[--n]);
    play_again(&after, &before);
    play_together(&after, e, 1);
    if (!play_same(&after, &before, why))
        fail_msg("after the device's memory was used up: %s", why);
    assert_int_equal(ssm_slot_take(e, &slots[n]), 0);
    play_done(&after);
    play_done(&before);
    free(slots);
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

/* Products by cuBLASLt, where it is there: other bits, the same tolerance. */
static void free_of_order(void **state)
{
    enum { STREAMS = 40 };
    struct ssm_engine_opts opts = {.device = "cuda", .weights = SSM_BF16, .slots = STREAMS, .threads = 1};
    struct rig_variant truth = rig_truth(SSM_BF16), v = rig_common();
    struct ssm_model *m = rig_vivid("768x2,16,1000");
    struct ssm_engine *a = rig_engine(m, &truth, 0, STREAMS), *b = NULL;
    struct play want, got;
    char why[SSM_ERR] = "";
    uint32_t T[STREAMS];
    for (unsigned i = 0; i < STREAMS; i++)
        T[i] = 1 + i;
    play_new(&want, m, T, STREAMS, &rng);
    play_together(&want, a, UINT32_MAX);
    assert_int_equal(ssm_engine_open(m, &opts, &b, why), 0);
    play_again(&got, &want);
    play_together(&got, b, UINT32_MAX);
    struct play_errors e = play_compare(&got, &want, b);
    print_message("%s: logits %.2g conv %.2g ssm %.2g\n", ssm_engine_exact(b) ? "no cuBLASLt" : "cuBLASLt", e.logits,
                  e.conv, e.ssm);
    assert_true(within(e.logits, bound_of(&v, 2)) && within(e.conv, bound_of(&v, 2)) && within(e.ssm, bound_of(&v, 2)));
    play_done(&got);
    play_done(&want);
    ssm_engine_close(&a);
    ssm_engine_close(&b);
    ssm_model_close(&m);
}

/* The last pass too, whether the host watches it or waits for an event; never longer than it took. */
static void it_tells_how_long_it_worked(void **state)
{
    enum { STEPS = 300 };
    static const uint32_t n[] = {1, STEPS, 1, 1};
    static int32_t tokens[STEPS];
    static float logits[STEPS * 50];
    struct rig_variant v = rig_common();
    struct ssm_model *m = rig_random("64x2,16,50");
    struct ssm_engine *e = rig_engine(m, &v, 1, 1);
    struct ssm_item item = {.slot = rig_slot(e), .tokens = tokens, .interval = 1};
    item.out = (struct ssm_out){.logits = logits, .logits_stride = 50};
    for (unsigned i = 0; i < sizeof n / sizeof *n; i++) {
        struct timespec from, to;
        double before = ssm_engine_busy(e);
        item.n = n[i];
        clock_gettime(CLOCK_MONOTONIC, &from);
        assert_int_equal(ssm_advance(e, &item, 1), 0);
        double busy = ssm_engine_busy(e) - before;
        clock_gettime(CLOCK_MONOTONIC, &to);
        assert_true(busy > 0 && busy < (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    }
    ssm_engine_close(&e);
    ssm_model_close(&m);
}

static void memory_comes_back(void **state)
{
    struct rig_variant v = rig_common();
    struct ssm_model *m = rig_random("64x64,1024,1");
    for (unsigned i = 0; i < 5; i++) {
        struct ssm_engine *e = rig_engine(m, &v, 1, 1024);
        for (unsigned k = 0; k < 1024; k++)
            rig_slot(e);
        ssm_engine_close(&e);
    }
    ssm_model_close(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest without[] = {
        cmocka_unit_test(cuda_says_why_not),
        cmocka_unit_test(auto_is_the_cpu_and_says_so),
    };
    const struct CMUnitTest with[] = {
        cmocka_unit_test(it_has_a_name),
        cmocka_unit_test(more_slots_than_memory),
        cmocka_unit_test(memory_comes_back),
        cmocka_unit_test(free_of_order),
        cmocka_unit_test(it_tells_how_long_it_worked),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("cuda");
    if (rig_cuda())
        return rig_light() ? 0 : cmocka_run_group_tests_name("cuda", with, NULL, NULL);
    setenv("CUDA_VISIBLE_DEVICES", "", 1); /* the same on a machine with a GPU */
    return cmocka_run_group_tests_name("no GPU", without, NULL, NULL);
}
