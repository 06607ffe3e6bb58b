/* test_alloc.c: ssm_advance allocates nothing, whatever the batch. The linker's --wrap sends every allocation of the
 * engine's own objects through here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

static unsigned long count;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __real_aligned_alloc(align, n);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __real_mmap(at, n, prot, flags, fd, offset);
}

enum { STREAMS = 40, MOST = 300, HORIZON = 9, Q = 3 };
static double samples[MOST];
static int32_t tokens[MOST];
static float forecast[STREAMS][MOST * HORIZON * Q], anomaly[STREAMS][MOST * 3], logits[STREAMS][MOST * 40];
static uint8_t warmup[STREAMS][MOST];

static void run_batches(const struct ssm_model *m, const struct rig_variant *v, struct rng *r)
{
    struct ssm_item items[STREAMS];
    struct ssm_engine *e = rig_engine(m, v, 2, STREAMS);
    uint8_t *saved = malloc(ssm_slot_bytes(e));
    for (unsigned i = 0; i < STREAMS; i++)
        items[i] = (struct ssm_item){.slot = rig_slot(e), .x = samples, .x_stride = 1, .tokens = tokens, .interval = 1};
    for (unsigned i = 0; i < STREAMS && ssm_model_info(m)->input == SSM_SAMPLES; i++)
        items[i].out = (struct ssm_out){.forecast = forecast[i],
                                        .forecast_stride = HORIZON * Q,
                                        .horizon = HORIZON,
                                        .n_q = 1,
                                        .q = {1},
                                        .anomaly = anomaly[i],
                                        .anomaly_stride = 3,
                                        .warmup = warmup[i]};
    for (unsigned i = 0; i < STREAMS && ssm_model_info(m)->input == SSM_TOKENS; i++)
        items[i].out = (struct ssm_out){.logits = logits[i], .logits_stride = 40};
    unsigned long before = count;
    assert_true(before > 0); /* the wrapping works */
    for (unsigned k = 0; k < 20; k++) {
        uint32_t n = 1 + rig_below(r, STREAMS);
        for (unsigned i = 0; i < n; i++)
            items[i].n = 1 + rig_below(r, k % 4 ? 4 : MOST);
        assert_int_equal(ssm_advance(e, items, n), 0);
        ssm_slot_save(e, items[0].slot, saved);
        assert_int_equal(ssm_slot_restore(e, items[0].slot, saved, ssm_slot_bytes(e), NULL, NULL), 0);
        ssm_slot_reset(e, items[0].slot);
        ssm_slot_give(e, items[0].slot);
        ssm_slot_take(e, &items[0].slot);
    }
    assert_int_equal(count, before);
    free(saved);
    ssm_engine_close(&e);
}

static void nothing_after_open(void **state)
{
    struct rng r = rig_rng("alloc");
    struct rig_variant v;
    struct ssm_model *signal = folder_signal_model(4, HORIZON, Q, true), *language = rig_random("24x2,5,40");
    for (unsigned i = 0; i < MOST; i++) {
        samples[i] = i % 17 ? rig_normal(&r) : NAN;
        tokens[i] = (int32_t)rig_below(&r, 40);
    }
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        run_batches(signal, &v, &r);
        run_batches(language, &v, &r);
    }
    ssm_model_close(&signal);
    ssm_model_close(&language);
    rig_sweep();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_after_open)};
    return cmocka_run_group_tests_name("alloc", tests, NULL, NULL);
}
