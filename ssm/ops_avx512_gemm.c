/* ops_avx512_gemm.c: y = W·x with weights in panels of 64 outputs (four vectors), a tile of up to ROWS rows of x at a time.
 * Every output is one chain of fused multiply-adds over k in order, so tiles, panels and threads do not change a bit.
 * bf16 words are split into two fp32 weights by a shift and a mask, fp16 is widened by vcvtph2ps.
 *
 * One row reads each weight once: that is bound by memory, so weights are prefetched AHEAD bytes. Many rows read a panel
 * once per tile: it stays in L2, and the tiles share out the prefetching of the next panel. */
#include "ssm/ops_avx512.h"

#include "ssm/cpu.h"
#include "ssm/panels.h"
#include "ssm/simd_avx512.h"

enum { ROWS = 6, VECTORS = 4, PANEL = VECTORS * SSM_LANES, AHEAD = 4096 };

/* A tile: `rows` rows of x times one panel. */
struct tile {
    const char *w; /* panel */
    const char *ahead; /* what to prefetch, ahead_step bytes per 256 bytes of panel */
    size_t ahead_step;
    const float *x;
    size_t ldx;
    uint32_t k;
    float *y;
    size_t ldy;
    const float *bias; /* of the panel's first output, or NULL */
    bool add;
};

/* acc += w·x[at] */
SIMD_INLINE void multiply(__m512 acc[ROWS][VECTORS], const __m512 w[VECTORS], const float *x, size_t ldx, unsigned rows,
                     unsigned vectors)
{
    SIMD_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m512 value = _mm512_set1_ps(x[r * ldx]);
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            acc[r][v] = _mm512_fmadd_ps(w[v], value, acc[r][v]);
    }
}

SIMD_INLINE void sum_f32(__m512 acc[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned vectors)
{
    const char *ahead = t->ahead;
    const float *panel = (const float *)t->w;
    for (uint32_t k = 0; k < t->k; k++, panel += vectors * SSM_LANES, ahead += t->ahead_step) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_load_ps(panel + v * SSM_LANES);
            if (rows <= 3 || v % 2 == 0)
                _mm_prefetch(ahead + v * 64, _MM_HINT_T0);
        }
        multiply(acc, w, t->x + k, t->ldx, rows, vectors);
    }
}

SIMD_INLINE void sum_f16(__m512 acc[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned vectors)
{
    const char *ahead = t->ahead;
    const uint16_t *panel = (const uint16_t *)t->w;
    for (uint32_t k = 0; k < t->k; k++, panel += vectors * SSM_LANES, ahead += t->ahead_step / 2) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(panel + v * SSM_LANES)));
            if (v % 2 == 0)
                _mm_prefetch(ahead + v * 32, _MM_HINT_T0);
        }
        multiply(acc, w, t->x + k, t->ldx, rows, vectors);
    }
}

/* k even lies in the words' low halves, k odd in the high ones. */
SIMD_INLINE void sum_bf16(__m512 acc[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned vectors)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    const char *ahead = t->ahead, *panel = t->w;
    for (uint32_t k = 0; k < t->k; k += 2, panel += vectors * 64, ahead += t->ahead_step) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(panel + v * 64), 16));
            if (rows <= 3 || v % 2 == 0)
                _mm_prefetch(ahead + v * 64, _MM_HINT_T0);
        }
        multiply(acc, w, t->x + k, t->ldx, rows, vectors);
        if (k + 1 == t->k)
            break;
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            w[v] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_load_si512(panel + v * 64), high));
        multiply(acc, w, t->x + k + 1, t->ldx, rows, vectors);
    }
}

SIMD_INLINE void tile_run(const struct tile *t, enum ssm_dtype dtype, unsigned rows, unsigned vectors)
{
    __m512 acc[ROWS][VECTORS];
    SIMD_UNROLL
    for (unsigned r = 0; r < rows; r++)
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            acc[r][v] = _mm512_setzero_ps();
    if (dtype == SSM_F32)
        sum_f32(acc, t, rows, vectors);
    else if (dtype == SSM_F16)
        sum_f16(acc, t, rows, vectors);
    else
        sum_bf16(acc, t, rows, vectors);
    SIMD_UNROLL
    for (unsigned r = 0; r < rows; r++)
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            float *y = t->y + r * t->ldy + v * SSM_LANES;
            __m512 sum = t->bias ? _mm512_add_ps(acc[r][v], _mm512_load_ps(t->bias + v * SSM_LANES)) : acc[r][v];
            _mm512_store_ps(y, t->add ? _mm512_add_ps(_mm512_load_ps(y), sum) : sum);
        }
}

#define TILE(dtype, rows, vectors)                                                                                    \
    static void tile_##dtype##_##rows##_##vectors(const struct tile *t)                                               \
    {                                                                                                                 \
        tile_run(t, dtype, rows, vectors);                                                                            \
    }
#define TILES_OF_ROWS(dtype, rows)                                                                                    \
    TILE(dtype, rows, 1)                                                                                              \
    TILE(dtype, rows, 2)                                                                                              \
    TILE(dtype, rows, 3)                                                                                              \
    TILE(dtype, rows, 4)
#define TILES(dtype)                                                                                                  \
    TILES_OF_ROWS(dtype, 1)                                                                                           \
    TILES_OF_ROWS(dtype, 2)                                                                                           \
    TILES_OF_ROWS(dtype, 3)                                                                                           \
    TILES_OF_ROWS(dtype, 4)                                                                                           \
    TILES_OF_ROWS(dtype, 5)                                                                                           \
    TILES_OF_ROWS(dtype, 6)
TILES(SSM_F32)
TILES(SSM_BF16)
TILES(SSM_F16)

#define NAMES_OF_ROWS(dtype, rows)                                                                                    \
    {tile_##dtype##_##rows##_1, tile_##dtype##_##rows##_2, tile_##dtype##_##rows##_3, tile_##dtype##_##rows##_4}
#define NAMES(dtype)                                                                                                  \
    {NAMES_OF_ROWS(dtype, 1), NAMES_OF_ROWS(dtype, 2), NAMES_OF_ROWS(dtype, 3),                                       \
     NAMES_OF_ROWS(dtype, 4), NAMES_OF_ROWS(dtype, 5), NAMES_OF_ROWS(dtype, 6)}

static void (*const tiles[3][ROWS][VECTORS])(const struct tile *) = {
    [SSM_F32] = NAMES(SSM_F32), [SSM_BF16] = NAMES(SSM_BF16), [SSM_F16] = NAMES(SSM_F16)};

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    size_t output_bytes = ssm_panels_output_bytes(w->dtype, w->k, 1), padded = SSM_PADDED(w->n);
    size_t cuts = (M + ROWS - 1) / ROWS, panel_bytes = PANEL * output_bytes;
    for (uint32_t n = n0; n < n1; n += PANEL) {
        unsigned vectors = padded - n < PANEL ? (unsigned)(padded - n) / SSM_LANES : VECTORS;
        const char *panel = (const char *)w->packed + n * output_bytes;
        for (size_t cut = 0; cut < cuts; cut++) {
            uint32_t m0 = (uint32_t)(M * cut / cuts), m1 = (uint32_t)(M * (cut + 1) / cuts);
            struct tile t = {.w = panel, .k = w->k, .add = add, .bias = w->bias ? w->bias + n : NULL};
            t.ahead = cuts == 1 ? panel + AHEAD : panel + panel_bytes + cut * (panel_bytes / cuts);
            t.ahead_step = 256 / cuts;
            t.x = x + m0 * ldx, t.ldx = ldx;
            t.y = y + m0 * ldy + n, t.ldy = ldy;
            tiles[w->dtype][m1 - m0 - 1][vectors - 1](&t);
        }
    }
}

static bool takes(enum ssm_dtype dtype)
{
    return dtype == SSM_F32 || dtype == SSM_BF16 || dtype == SSM_F16;
}

static size_t packed_bytes(enum ssm_dtype dtype, uint32_t n, uint32_t k)
{
    return ssm_panels_bytes(dtype, n, k, 1);
}

static void pack(struct ssm_weight *w, const float *rows)
{
    ssm_panels_pack(w, rows, PANEL, 1);
}

static size_t scratch_bytes(uint32_t M, uint32_t k)
{
    return 0;
}

const struct ssm_ops ssm_ops_avx512 = {
    .name = "avx512",
    .usable = ssm_cpu_avx512,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .n_step = PANEL,
    .scratch_bytes = scratch_bytes,
    .gemm = gemm,
    .rmsnorm = ssm_avx512_rmsnorm,
    .conv = ssm_avx512_conv,
    .scan = ssm_avx512_scan,
};
