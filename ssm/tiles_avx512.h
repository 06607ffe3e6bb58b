/* tiles_avx512.h: how the AVX-512 GEMMs cut their work, whatever the arithmetic: panels of 64 outputs (four vectors of
 * sums to a row), tiles of up to ROWS rows. Include once, from a file that defines tile_run() for its table and then
 * TILES().
 *
 * One row reads each weight once: that is bound by memory, so weights are prefetched AHEAD bytes. Many rows read a
 * panel once per tile: it stays in L2, and the tiles share out the prefetching of the next panel. */
#ifndef SSM_TILES_AVX512_H
#define SSM_TILES_AVX512_H

#include "ssm/panels.h"
#include "ssm/simd.h"

enum { ROWS = 6, VECTORS = 4, PANEL = VECTORS * SSM_LANES, AHEAD = 4096 };

struct tile {
    const char *w;     /* panel */
    const char *ahead; /* what to prefetch, ahead_step bytes per 256 bytes of panel */
    size_t ahead_step;
    const void *x; /* floats or pairs of bf16: 4 bytes an element */
    size_t ldx;
    uint32_t k; /* elements */
    float *y;
    size_t ldy;
    const float *bias; /* of the panel's first output, or NULL */
    bool add;
};

typedef void tile_fn(const struct tile *t);

SIMD_INLINE void tile_zero(__m512 acc[ROWS][VECTORS], unsigned rows, unsigned vectors)
{
    SIMD_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            acc[r][v] = _mm512_setzero_ps();
    }
}

SIMD_INLINE void tile_prefetch(const char *ahead, unsigned rows, unsigned v)
{
    if (rows <= 3 || v % 2 == 0) /* wide tiles have time: the neighbouring line comes by itself */
        _mm_prefetch(ahead + v * 64, _MM_HINT_T0);
}

/* y = (add ? y : 0) + (sum + bias) */
SIMD_INLINE void tile_store_vector(const struct tile *t, size_t row, unsigned v, __m512 sum)
{
    float *y = t->y + row * t->ldy + v * SSM_LANES;
    if (t->bias)
        sum = _mm512_add_ps(sum, _mm512_load_ps(t->bias + v * SSM_LANES));
    _mm512_store_ps(y, t->add ? _mm512_add_ps(_mm512_load_ps(y), sum) : sum);
}

SIMD_INLINE void tile_store(const struct tile *t, __m512 acc[ROWS][VECTORS], unsigned rows, unsigned vectors)
{
    SIMD_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            tile_store_vector(t, r, v, acc[r][v]);
    }
}

/* y[m][n0..n1) from tiles of `fns` [rows − 1][vectors − 1] */
static inline void tiles_gemm(tile_fn *const fns[ROWS][VECTORS], const struct ssm_weight *w, size_t output_bytes,
                              struct tile t, uint32_t M, uint32_t n0, uint32_t n1)
{
    size_t padded = SSM_PADDED(w->n), cuts = (M + ROWS - 1) / ROWS, panel_bytes = PANEL * output_bytes;
    const char *x = t.x;
    float *y = t.y;
    t.ahead_step = 256 / cuts;
    for (uint32_t n = n0; n < n1; n += PANEL) {
        unsigned vectors = padded - n < PANEL ? (unsigned)(padded - n) / SSM_LANES : VECTORS;
        t.w = (const char *)w->packed + n * output_bytes;
        t.bias = w->bias ? w->bias + n : NULL;
        for (size_t cut = 0; cut < cuts; cut++) {
            size_t m0 = M * cut / cuts, m1 = M * (cut + 1) / cuts;
            t.ahead = cuts == 1 ? t.w + AHEAD : t.w + panel_bytes + cut * (panel_bytes / cuts);
            t.x = x + m0 * t.ldx * 4;
            t.y = y + m0 * t.ldy + n;
            fns[m1 - m0 - 1][vectors - 1](&t);
        }
    }
}

/* One function per tile shape, tile_NAME_ROWS_VECTORS, calling tile_run(t, NAME, ROWS, VECTORS). */
#define TILE(name, rows, vectors)                                                                                      \
    static void tile_##name##_##rows##_##vectors(const struct tile *t)                                                 \
    {                                                                                                                  \
        tile_run(t, name, rows, vectors);                                                                              \
    }
#define TILES_OF(name, rows) TILE(name, rows, 1) TILE(name, rows, 2) TILE(name, rows, 3) TILE(name, rows, 4)
#define TILES(name)                                                                                                    \
    TILES_OF(name, 1) TILES_OF(name, 2) TILES_OF(name, 3) TILES_OF(name, 4) TILES_OF(name, 5) TILES_OF(name, 6)

#define TILE_NAMES_OF(name, rows)                                                                                      \
    {                                                                                                                  \
        tile_##name##_##rows##_1, tile_##name##_##rows##_2, tile_##name##_##rows##_3, tile_##name##_##rows##_4         \
    }
#define TILE_NAMES(name)                                                                                               \
    {                                                                                                                  \
        TILE_NAMES_OF(name, 1), TILE_NAMES_OF(name, 2), TILE_NAMES_OF(name, 3), TILE_NAMES_OF(name, 4),                \
            TILE_NAMES_OF(name, 5), TILE_NAMES_OF(name, 6)                                                             \
    }

#endif
