/* ops_amx.c: y = W·x by tdpbf16ps: bf16 weights, activations as sums of two bf16, fp32 sums in tile registers. Each
 * output is one chain over steps of 32 k in order, high part before low, for one row as for many: a tile with fewer
 * rows computes the same rows. The rest of the table is avx512's. Runs on any worker; the tile configuration lives only
 * within one call.
 *
 * Trap: compilers do not know that tile loads read memory, hence the fences around what is stored for them. */
#include "ssm/simd_ops.h"

#include <pmmintrin.h>
#include <string.h>

#include "ssm/bf16_avx512.h"
#include "ssm/cpu.h"
#include "ssm/tiles_avx512.h"

/* Tile registers: sums in 0..3; rows of x in 4 and 5; weights in 6 and 7. */
enum { TILE_ROWS = 16, BLOCK_ROWS = 2 * TILE_ROWS, STEP_PAIRS = K_STEP / 2, PALETTE = 1, TILES_USED = 8 };

#define UPPER 0xffff0000u /* the odd one of a pair of bf16; the even one, shifted there, is a float too */

struct config { /* of ldtilecfg */
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static __m512 bits(uint32_t word)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)word));
}

static void fence(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Tiles of `rows` rows of x in up to two halves: 0, 1 and 4 belong to the first half, 2, 3 and 5 to the second; up to
 * 16 rows are one half, whose low part is in 5. */
static void configure(struct config *c, uint32_t rows)
{
    uint8_t first = rows < TILE_ROWS ? (uint8_t)rows : TILE_ROWS;
    uint8_t second = rows > TILE_ROWS ? (uint8_t)(rows - TILE_ROWS) : first;
    const uint8_t tile_rows[TILES_USED] = {first, first, second, second, first, second, TILE_ROWS, TILE_ROWS};
    if (c->palette && !memcmp(c->rows, tile_rows, sizeof tile_rows))
        return;
    *c = (struct config){.palette = PALETTE};
    for (unsigned i = 0; i < TILES_USED; i++) {
        c->row_bytes[i] = 64;
        c->rows[i] = tile_rows[i];
    }
    fence();
    _tile_loadconfig(c);
}

/* Adds bias and the old y to a tile of sums for rows m0 .. m0 + rows and vector v. */
static void store_sums(const struct tile *t, float (*sums)[SSM_LANES], uint32_t m0, uint32_t rows, unsigned v)
{
    fence();
    for (uint32_t m = 0; m < rows; m++)
        tile_store_vector(t, m0 + m, v, _mm512_load_ps(sums[m]));
}

/* Up to 16 rows, the whole panel: four chains of sums. */
static void block_narrow(const struct tile *t, uint32_t rows, unsigned vectors)
{
    const char *x = t->x, *w = t->w, *ahead = t->ahead;
    size_t x_stride = t->ldx * 4, w_stride = vectors * 64;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t k = 0; k < t->k; k += STEP_PAIRS, x += 64, w += STEP_PAIRS * w_stride) {
        _tile_loadd(4, x, x_stride);
        _tile_loadd(5, x + x_stride / 2, x_stride);
        _tile_loadd(6, w, w_stride);
        _tile_dpbf16ps(0, 4, 6);
        if (vectors > 1) {
            _tile_loadd(7, w + 64, w_stride);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_dpbf16ps(0, 5, 6);
        if (vectors > 2) {
            _tile_loadd(6, w + 128, w_stride);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (vectors > 3) {
            _tile_loadd(7, w + 192, w_stride);
            _tile_dpbf16ps(3, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (vectors > 2)
            _tile_dpbf16ps(2, 5, 6);
        for (size_t i = 0; i < STEP_PAIRS * w_stride; i += 128) /* the neighbouring line comes by itself */
            _mm_prefetch(ahead + i, _MM_HINT_T0);
        ahead += t->ahead_step;
    }
    _Alignas(64) float sums[VECTORS][TILE_ROWS][SSM_LANES];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (unsigned v = 0; v < vectors; v++)
        store_sums(t, sums[v], 0, rows, v);
}

/* 17 to 32 rows times vectors v and, if `two`, v + 1 of the panel. */
static void block_wide(const struct tile *t, uint32_t rows, unsigned vectors, unsigned v, bool two)
{
    const char *x = t->x, *w = t->w + v * 64, *ahead = t->ahead + (v ? t->ahead_step / 2 : 0);
    size_t x_stride = t->ldx * 4, w_stride = vectors * 64;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t k = 0; k < t->k; k += STEP_PAIRS, x += 64, w += STEP_PAIRS * w_stride) {
        _tile_loadd(4, x, x_stride);
        _tile_loadd(5, x + TILE_ROWS * x_stride, x_stride);
        _tile_loadd(6, w, w_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (two) {
            _tile_loadd(7, w + 64, w_stride);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_loadd(4, x + x_stride / 2, x_stride);
        _tile_loadd(5, x + x_stride / 2 + TILE_ROWS * x_stride, x_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (two) {
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        for (size_t i = 0; i < t->ahead_step / 2; i += 64)
            _mm_prefetch(ahead + i, _MM_HINT_T0);
        ahead += t->ahead_step;
    }
    _Alignas(64) float sums[VECTORS][TILE_ROWS][SSM_LANES];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (unsigned i = 0; i <= two; i++) {
        store_sums(t, sums[i], 0, TILE_ROWS, v + i);
        store_sums(t, sums[2 + i], TILE_ROWS, rows - TILE_ROWS, v + i);
    }
}

/* One block of rows times one panel. */
static void block_run(const struct tile *t, uint32_t rows, unsigned vectors)
{
    if (rows <= TILE_ROWS) {
        block_narrow(t, rows, vectors);
        return;
    }
    for (unsigned v = 0; v < vectors; v += 2)
        block_wide(t, rows, vectors, v, v + 1 < vectors);
}

/* One row without tiles, which take long to set up for so little: to the bit what tdpbf16ps is defined to do. It takes
 * K_STEP k at a time; even and odd k are chains of fused multiply-adds from zero, the two are added, and that to the
 * sum. */
SIMD_INLINE void row_block(const struct tile *t, unsigned vectors)
{
    const char *panel = t->w, *ahead = t->ahead;
    const uint32_t *high = t->x, *low = high + t->k;
    const __m512i upper = _mm512_set1_epi32((int)UPPER);
    __m512 acc[ROWS][VECTORS];
    tile_zero(acc, 1, vectors);
    for (uint32_t k = 0; k < t->k; k += STEP_PAIRS) {
        __m512 sums[ROWS][VECTORS]; /* high part, even and odd k; low part, even and odd k */
        tile_zero(sums, 4, vectors);
        for (uint32_t p = k; p < k + STEP_PAIRS; p++, panel += vectors * 64, ahead += t->ahead_step) {
            __m512 x[4] = {bits(high[p] << 16), bits(high[p] & UPPER), bits(low[p] << 16), bits(low[p] & UPPER)};
            SIMD_UNROLL
            for (unsigned v = 0; v < vectors; v++) {
                __m512i words = _mm512_load_si512(panel + v * 64);
                __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
                __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, upper));
                tile_prefetch(ahead, 1, v);
                sums[0][v] = _mm512_fmadd_ps(even, x[0], sums[0][v]);
                sums[1][v] = _mm512_fmadd_ps(odd, x[1], sums[1][v]);
                sums[2][v] = _mm512_fmadd_ps(even, x[2], sums[2][v]);
                sums[3][v] = _mm512_fmadd_ps(odd, x[3], sums[3][v]);
            }
        }
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            acc[0][v] = _mm512_add_ps(acc[0][v], _mm512_add_ps(sums[0][v], sums[1][v]));
            acc[0][v] = _mm512_add_ps(acc[0][v], _mm512_add_ps(sums[2][v], sums[3][v]));
        }
    }
    tile_store(t, acc, 1, vectors);
}

static void row_1(const struct tile *t)
{
    row_block(t, 1);
}

static void row_2(const struct tile *t)
{
    row_block(t, 2);
}

static void row_3(const struct tile *t)
{
    row_block(t, 3);
}

static void row_4(const struct tile *t)
{
    row_block(t, 4);
}

static tile_fn *const rows_of_one[ROWS][VECTORS] = {{row_1, row_2, row_3, row_4}};

static void gemm_blocks(const struct ssm_weight *w, struct tile t, uint32_t M, uint32_t n0, uint32_t n1,
                        size_t output_bytes)
{
    size_t panel_bytes = PANEL * output_bytes, padded = SSM_PADDED(w->n), blocks = (M + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const uint32_t *x = t.x;
    float *y = t.y;
    struct config config = {0};
    t.ahead_step = STEP_PAIRS * 256 / blocks;
    for (uint32_t n = n0; n < n1; n += PANEL) {
        unsigned vectors = padded - n < PANEL ? (unsigned)(padded - n) / SSM_LANES : VECTORS;
        t.w = (const char *)w->packed + n * output_bytes;
        t.bias = w->bias ? w->bias + n : NULL;
        for (uint32_t block = 0; block < blocks; block++) {
            uint32_t m = block * BLOCK_ROWS, rows = M - m < BLOCK_ROWS ? M - m : BLOCK_ROWS;
            t.x = x + m * t.ldx;
            t.y = y + m * t.ldy + n;
            t.ahead = M <= TILE_ROWS ? t.w + 2 * AHEAD : t.w + panel_bytes + block * (panel_bytes / blocks);
            configure(&config, rows);
            block_run(&t, rows, vectors);
        }
    }
    _tile_release();
}

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    size_t output_bytes = ssm_panels_output_bytes(SSM_BF16, w->k, K_STEP), row_pairs = bf16_row_pairs(w->k);
    struct tile t = {.x = scratch, .ldx = 2 * row_pairs, .k = (uint32_t)row_pairs, .y = y, .ldy = ldy, .add = add};
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); /* as tdpbf16ps does whatever MXCSR says */
    bf16_split_rows(scratch, x, ldx, M, w->k);
    if (M == 1)
        tiles_gemm(rows_of_one, w, output_bytes, t, 1, n0, n1);
    else
        gemm_blocks(w, t, M, n0, n1, output_bytes);
    _mm_setcsr(mode);
}

static void pack(struct ssm_weight *w, const float *rows)
{
    ssm_panels_pack(w, rows, PANEL, K_STEP);
}

const struct ssm_ops ssm_ops_amx = {
    .name = "amx",
    .usable = ssm_cpu_amx,
    .takes = bf16_takes,
    .packed_bytes = bf16_packed_bytes,
    .pack = pack,
    .n_step = PANEL,
    .scratch_bytes = bf16_scratch_bytes,
    .gemm = gemm,
    .rmsnorm = ssm_avx512_rmsnorm,
    .conv = ssm_avx512_conv,
    .scan = ssm_avx512_scan,
};
