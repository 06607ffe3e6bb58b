/* bench_floor.c: what this machine can do at best: bytes read per second, multiply-adds per second as an op table does
 * them. All threads run at once on a pool of their own. Figures are the best of several rounds. */
#include "tools/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ssm/cpu.h"
#include "ssm/pool.h"

enum { ROUNDS = 7, LOOPS = 200000, CHAINS = 12, HUGE_PAGE = 2 << 20 };

struct floor {
    const uint64_t *data;
    size_t words; /* per thread */
    size_t repeat;
    double (*loop)(void); /* flops done */
    double done;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 64-byte loads, added up so that they are made; whole lines, four at a time. */
typedef uint64_t line __attribute__((vector_size(64), may_alias));

static inline __attribute__((always_inline)) void read_lines(const struct floor *f, unsigned index)
{
    const line *at = (const line *)(f->data + index * f->words);
    line a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t r = 0; r < f->repeat; r++)
        for (size_t i = 0; i < f->words / 8; i += 4) {
            a += at[i];
            b += at[i + 1];
            c += at[i + 2];
            d += at[i + 3];
        }
    a += b + c + d;
    __asm__ volatile("" : : "m"(a));
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void read_avx512(const struct floor *f, unsigned index)
{
    read_lines(f, index);
}

__attribute__((target("avx2"))) static void read_avx2(const struct floor *f, unsigned index)
{
    read_lines(f, index);
}
#endif

static void read_words(void *ctx, unsigned index, unsigned count)
{
#if defined(__x86_64__)
    if (ssm_cpu_avx512())
        read_avx512(ctx, index);
    else if (ssm_cpu_avx2())
        read_avx2(ctx, index);
    else
#endif
        read_lines(ctx, index);
}

double bench_floor_read(double bytes, uint32_t threads)
{
    struct ssm_pool *pool = NULL;
    double best = 0.0;
    size_t words = ((size_t)bytes / 8 / threads + 31) / 32 * 32;
    size_t size = (words * threads * 8 + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uint64_t *data = aligned_alloc(HUGE_PAGE, size);
    if (data && !ssm_pool_new(threads, &pool)) {
        madvise(data, size, MADV_HUGEPAGE); /* as the engine's weights */
        memset(data, 1, size);
        struct floor f = {.data = data, .words = words, .repeat = 1 + (64u << 20) / (words * 8)};
        for (int r = 0; r < ROUNDS; r++) {
            double start = now();
            ssm_pool_run(pool, read_words, &f);
            double rate = (double)(words * threads * 8 * f.repeat) / (now() - start);
            best = rate > best ? rate : best;
        }
    }
    ssm_pool_free(&pool);
    free(data);
    return best;
}

#if defined(__x86_64__)
/* CHAINS sums that do not wait for each other, kept in registers: every index is a constant. */
#define EACH(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)

__attribute__((target("avx2,fma"))) static double loop_avx2(void)
{
    __m256 sum[CHAINS], x = _mm256_set1_ps(0.999f);
#define START(c) sum[c] = x;
#define STEP(c)                                                                                                        \
    sum[c] = _mm256_fmadd_ps(sum[c], x, x);                                                                            \
    __asm__ volatile("" : "+x"(sum[c]));
    EACH(START)
    for (int i = 0; i < LOOPS; i++) {
        EACH(STEP)
    }
#undef STEP
    return 2.0 * 8 * LOOPS * CHAINS;
}

__attribute__((target("avx512f"))) static double loop_avx512(void)
{
    __m512 sum[CHAINS], x = _mm512_set1_ps(0.999f);
#define STEP(c)                                                                                                        \
    sum[c] = _mm512_fmadd_ps(sum[c], x, x);                                                                            \
    __asm__ volatile("" : "+v"(sum[c]));
    EACH(START)
    for (int i = 0; i < LOOPS; i++) {
        EACH(STEP)
    }
#undef STEP
    return 2.0 * 16 * LOOPS * CHAINS;
}

__attribute__((target("avx512f,avx512bf16"))) static double loop_avx512bf16(void)
{
    __m512 sum[CHAINS], x = _mm512_set1_ps(0.999f);
    __m512bh pairs = (__m512bh)_mm512_set1_epi32(0x3f003f00);
#define STEP(c)                                                                                                        \
    sum[c] = _mm512_dpbf16_ps(sum[c], pairs, pairs);                                                                   \
    __asm__ volatile("" : "+v"(sum[c]));
    EACH(START)
    for (int i = 0; i < LOOPS; i++) {
        EACH(STEP)
    }
#undef STEP
#undef START
    return 2.0 * 32 * LOOPS * CHAINS;
}

__attribute__((target("amx-tile,amx-bf16"))) static double loop_amx(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config); /* all tiles are zero then */
    for (int i = 0; i < LOOPS / 8; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 2.0 * 16 * 16 * 32 * 4 * (LOOPS / 8);
}

static double (*loop_of(const char *ops))(void)
{
    return !strcmp(ops, "avx2")         ? loop_avx2
           : !strcmp(ops, "avx512")     ? loop_avx512
           : !strcmp(ops, "avx512bf16") ? loop_avx512bf16
           : !strcmp(ops, "amx")        ? loop_amx
                                        : NULL;
}
#else
static double (*loop_of(const char *ops))(void)
{
    return NULL;
}
#endif

static void multiply(void *ctx, unsigned index, unsigned count)
{
    double done = ((struct floor *)ctx)->loop();
    if (index == 0)
        ((struct floor *)ctx)->done = done * count;
}

double bench_floor_flops(const char *ops, uint32_t threads)
{
    struct ssm_pool *pool = NULL;
    struct floor f = {.loop = loop_of(ops)};
    double best = 0.0;
    if (!f.loop || ssm_pool_new(threads, &pool))
        return 0.0;
    for (int r = 0; r < ROUNDS; r++) {
        double start = now();
        ssm_pool_run(pool, multiply, &f);
        double rate = f.done / (now() - start);
        best = rate > best ? rate : best;
    }
    ssm_pool_free(&pool);
    return best;
}
