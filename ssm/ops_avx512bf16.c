/* ops_avx512bf16.c: y = W·x by vdpbf16ps: bf16 weights, activations as sums of two bf16, fp32 sums. Each output is one
 * chain over pairs of k in order, high part before low. The rest of the table is avx512's.
 *
 * Trap: vdpbf16ps takes denormals as zero and does not look at MXCSR; that is part of this table's arithmetic. */
#include "ssm/simd_ops.h"

#include "ssm/bf16_avx512.h"
#include "ssm/cpu.h"
#include "ssm/tiles_avx512.h"

SIMD_INLINE void tile_run(const struct tile *t, enum ssm_dtype dtype, unsigned rows, unsigned vectors)
{
    const char *panel = t->w, *ahead = t->ahead;
    const int32_t *x = t->x, *low = x + t->ldx / 2;
    __m512 acc[ROWS][VECTORS];
    tile_zero(acc, rows, vectors);
    for (uint32_t p = 0; p < t->k; p++, panel += vectors * 64, ahead += t->ahead_step) {
        __m512bh w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = (__m512bh)_mm512_load_si512(panel + v * 64);
            tile_prefetch(ahead, rows, v);
        }
        SIMD_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            __m512bh high = (__m512bh)_mm512_set1_epi32(x[r * t->ldx + p]);
            SIMD_UNROLL
            for (unsigned v = 0; v < vectors; v++)
                acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], high);
        }
        SIMD_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            __m512bh rest = (__m512bh)_mm512_set1_epi32(low[r * t->ldx + p]);
            SIMD_UNROLL
            for (unsigned v = 0; v < vectors; v++)
                acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], rest);
        }
    }
    tile_store(t, acc, rows, vectors);
}

TILES(SSM_BF16)

static tile_fn *const tiles[ROWS][VECTORS] = TILE_NAMES(SSM_BF16);

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    bf16_split_rows(scratch, x, ldx, M, w->k);
    struct tile t = {
        .x = scratch, .ldx = 2 * bf16_row_pairs(w->k), .k = (w->k + 1) / 2, .y = y, .ldy = ldy, .add = add};
    tiles_gemm(tiles, w, ssm_panels_output_bytes(SSM_BF16, w->k, K_STEP), t, M, n0, n1);
}

static void pack(struct ssm_weight *w, const float *rows)
{
    ssm_panels_pack(w, rows, PANEL, K_STEP);
}

const struct ssm_ops ssm_ops_avx512bf16 = {
    .name = "avx512bf16",
    .usable = ssm_cpu_avx512bf16,
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
