/* ops_avx512.c: the avx512 table, and its GEMM. Every output is one chain of fused multiply-adds over k in order, so
 * tiles, panels and threads do not change a bit. bf16 words are split into two fp32 weights by a shift and a mask, fp16
 * is widened by vcvtph2ps. Trap: an odd k has no second half in its last word; x is not read there. */
#include "ssm/simd_ops.h"

#include "ssm/cpu.h"
#include "ssm/tiles_avx512.h"

/* acc += w·x for one k */
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
    const char *ahead = t->ahead, *panel = t->w;
    const float *x = t->x;
    for (uint32_t k = 0; k < t->k; k++, panel += vectors * 64, ahead += t->ahead_step) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_load_ps(panel + v * 64);
            tile_prefetch(ahead, rows, v);
        }
        multiply(acc, w, x + k, t->ldx, rows, vectors);
    }
}

SIMD_INLINE void sum_f16(__m512 acc[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned vectors)
{
    const char *ahead = t->ahead, *panel = t->w;
    const float *x = t->x;
    for (uint32_t k = 0; k < t->k; k++, panel += vectors * 32, ahead += t->ahead_step / 2) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(panel + v * 32)));
            if (v % 2 == 0)
                _mm_prefetch(ahead + v * 32, _MM_HINT_T0);
        }
        multiply(acc, w, x + k, t->ldx, rows, vectors);
    }
}

/* k even lies in the words' low halves, k odd in the high ones. */
SIMD_INLINE void sum_bf16(__m512 acc[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned vectors)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    const char *ahead = t->ahead, *panel = t->w;
    const float *x = t->x;
    for (uint32_t k = 0; k < t->k; k += 2, panel += vectors * 64, ahead += t->ahead_step) {
        __m512 w[VECTORS];
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++) {
            w[v] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(panel + v * 64), 16));
            tile_prefetch(ahead, rows, v);
        }
        multiply(acc, w, x + k, t->ldx, rows, vectors);
        if (k + 1 == t->k)
            break;
        SIMD_UNROLL
        for (unsigned v = 0; v < vectors; v++)
            w[v] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_load_si512(panel + v * 64), high));
        multiply(acc, w, x + k + 1, t->ldx, rows, vectors);
    }
}

SIMD_INLINE void tile_run(const struct tile *t, enum ssm_dtype dtype, unsigned rows, unsigned vectors)
{
    __m512 acc[ROWS][VECTORS];
    tile_zero(acc, rows, vectors);
    if (dtype == SSM_F32)
        sum_f32(acc, t, rows, vectors);
    else if (dtype == SSM_F16)
        sum_f16(acc, t, rows, vectors);
    else
        sum_bf16(acc, t, rows, vectors);
    tile_store(t, acc, rows, vectors);
}

TILES(SSM_F32)
TILES(SSM_BF16)
TILES(SSM_F16)

static tile_fn *const tiles[][ROWS][VECTORS] = {
    [SSM_F32] = TILE_NAMES(SSM_F32),
    [SSM_BF16] = TILE_NAMES(SSM_BF16),
    [SSM_F16] = TILE_NAMES(SSM_F16),
};

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    struct tile t = {.x = x, .ldx = ldx, .k = w->k, .y = y, .ldy = ldy, .add = add};
    tiles_gemm(tiles[w->dtype], w, ssm_panels_output_bytes(w->dtype, w->k, 1), t, M, n0, n1);
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
