/* test_long.c: a model beside fp64 arithmetic for as many steps as are asked for: what fp32 loses of the states is
 * bounded and does not grow, nor does memory. On the table that the engine picks for this CPU.   test_ssm_long [STEPS]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/truth64.h"

enum { CHUNK = 500, WINDOW = 1000000, RSS_KIB = 1024 };
#define GROWTH 2.0 /* of the median error, from the first window of steps to the last */

static uint64_t steps = 1000000;

/* Tokens for both, a chunk at a time; the truth is computed on a thread of its own. */
struct beside {
    struct truth64 truth;
    struct ssm_engine *engine;
    struct ssm_slot slot;
    pthread_barrier_t begin, end;
    int32_t tokens[CHUNK];
    uint64_t chunks;
};

static void *carry_truth(void *arg)
{
    struct beside *b = arg;
    for (uint64_t k = 0; k < b->chunks; k++) {
        pthread_barrier_wait(&b->begin);
        for (unsigned i = 0; i < CHUNK; i++)
            truth64_step(&b->truth, b->tokens[i]);
        pthread_barrier_wait(&b->end);
    }
    return NULL;
}

static double error_of(const float *a, const double *b, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(difference / size);
}

/* A layer's: of its convolution's window or of its SSM state, whichever is larger. */
static double error_of_layer(const struct beside *b, const uint8_t *saved, unsigned layer)
{
    const struct truth64_layer *l = &b->truth.layer[layer];
    double errors[2];
    unsigned n;
    const struct ssm_section *s = ssm_slot_sections(b->engine, &n) + n - 2;
    assert_string_equal(s[0].name, "conv");
    assert_string_equal(s[1].name, "ssm");
    assert_int_equal(s[0].bytes, T64_L * sizeof l->window / 2);
    assert_int_equal(s[1].bytes, T64_L * sizeof l->h / 2);
    errors[0] = error_of((const float *)(const void *)(saved + s[0].offset + layer * s[0].bytes / T64_L), l->window[0],
                         (T64_K - 1) * T64_D);
    errors[1] = error_of((const float *)(const void *)(saved + s[1].offset + layer * s[1].bytes / T64_L), l->h[0],
                         T64_N * T64_D);
    return !(errors[0] <= errors[1]) ? errors[0] : errors[1];
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const double *errors, size_t n)
{
    double *sorted = malloc(n * sizeof *sorted);
    memcpy(sorted, errors, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    double median = sorted[n / 2];
    free(sorted);
    return median;
}

static long resident_kib(void)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (!kib && fgets(line, sizeof line, f))
        sscanf(line, "VmRSS: %ld", &kib);
    fclose(f);
    return kib;
}

/* errors: [T64_L][chunks]. Returns by how much the process grew after the first tenth. */
static long carry(struct beside *b, double *errors)
{
    struct rng rng = rig_rng("long");
    struct ssm_item item = {.slot = b->slot, .n = CHUNK, .tokens = b->tokens, .interval = 1};
    uint8_t *saved = malloc(ssm_slot_bytes(b->engine));
    long before = 0;
    for (uint64_t k = 0; k < b->chunks; k++) {
        for (unsigned i = 0; i < CHUNK; i++)
            b->tokens[i] = (int32_t)rig_below(&rng, T64_V);
        pthread_barrier_wait(&b->begin);
        assert_int_equal(ssm_advance(b->engine, &item, 1), 0);
        assert_int_equal(ssm_slot_save(b->engine, b->slot, saved), 0);
        pthread_barrier_wait(&b->end);
        for (unsigned l = 0; l < T64_L; l++) {
            double e = errors[l * b->chunks + k] = error_of_layer(b, saved, l);
            if (!within(e, TOLERANCE_F32))
                fail_msg("layer %u after %" PRIu64 " steps: %.3g (bound %.3g)", l, (k + 1) * CHUNK, e, TOLERANCE_F32);
        }
        if (k == b->chunks / 10)
            before = resident_kib();
    }
    free(saved);
    return resident_kib() - before;
}

static void beside_fp64(void **state)
{
    struct beside *b = calloc(1, sizeof *b);
    struct rig_variant v = rig_cpu(NULL, SSM_F32);
    struct ssm_model *m = rig_vivid(TRUTH64_MODEL);
    pthread_t thread;
    b->chunks = (steps + CHUNK - 1) / CHUNK;
    b->engine = rig_engine(m, &v, 1, 1);
    b->slot = rig_slot(b->engine);
    truth64_init(&b->truth, m);
    double *errors = malloc(T64_L * b->chunks * sizeof *errors);
    for (size_t i = 0; i < T64_L * b->chunks; i++)
        errors[i] = NAN; /* its pages are there from the start */
    pthread_barrier_init(&b->begin, NULL, 2);
    pthread_barrier_init(&b->end, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, carry_truth, b), 0);
    long grown = carry(b, errors);
    pthread_join(thread, NULL);

    size_t window = (steps / 10 < WINDOW ? steps / 10 : WINDOW) / CHUNK;
    for (unsigned l = 0; l < T64_L; l++) {
        double *of = errors + l * b->chunks, worst = 0.0;
        double first = median_of(of, window), last = median_of(of + b->chunks - window, window);
        for (uint64_t k = 0; k < b->chunks; k++)
            worst = of[k] > worst ? of[k] : worst;
        printf("layer %u, %s, %" PRIu64 " steps: median of the first %zu %.3g, of the last %.3g, worst %.3g\n", l,
               ssm_engine_ops(b->engine), b->chunks * CHUNK, window * CHUNK, first, last, worst);
        if (!within(last, GROWTH * first))
            fail_msg("the error of layer %u grows", l);
    }
    printf("grown by %ld KiB\n", grown);
    assert_true(grown < RSS_KIB);
    pthread_barrier_destroy(&b->begin);
    pthread_barrier_destroy(&b->end);
    free(errors);
    ssm_engine_close(&b->engine);
    ssm_model_close(&m);
    free(b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(beside_fp64)};
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        printf("skipped: the fp64 side is built for AVX2\n");
        return 77;
    }
#endif
    if (argc > 1)
        steps = strtoull(argv[1], NULL, 10);
    if (steps < 20 * CHUNK) {
        fprintf(stderr, "usage: test_ssm_long [STEPS], %d or more\n", 20 * CHUNK);
        return 64;
    }
    return cmocka_run_group_tests_name("long", tests, NULL, NULL);
}
