/* ops_avx2.c: the avx2 table, and its GEMM: panels of 16 outputs (two vectors), tiles of up to six rows of x and one
 * panel, or, for a single row, four panels, so that enough sums are under way. Every output is one chain of fused
 * multiply-adds over k in order, so tiles, panels and threads do not change a bit. bf16 words are split into two fp32
 * weights by a shift and a mask, fp16 is widened by vcvtph2ps. Trap: an odd k has no second half in its last word; x is
 * not read there. */
#include "ssm/simd_ops.h"

#include "ssm/cpu.h"
#include "ssm/panels.h"
#include "ssm/simd.h"

enum { ROWS = 6, VECTORS = 2, PANEL = VECTORS * SIMD_LANES, PANELS = 4, AHEAD = 2048 };

/* `rows` rows of x times `panels` panels; one of the two is 1, and sums[] runs over the other. */
struct tile {
    const char *w;
    size_t panel_bytes;
    const float *x;
    size_t ldx;
    uint32_t k;
    enum ssm_dtype dtype;
};

/* The panel's weights for k, or for k and k + 1 (bf16) where `odd` picks the second. */
SIMD_INLINE simd_f weights(const char *panel, enum ssm_dtype dtype, unsigned v, bool odd)
{
    if (dtype == SSM_F32)
        return simd_load((const float *)panel + v * SIMD_LANES);
    if (dtype == SSM_F16)
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)panel + v));
    __m256i words = _mm256_load_si256((const __m256i *)panel + v);
    return _mm256_castsi256_ps(odd ? _mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000))
                                   : _mm256_slli_epi32(words, 16));
}

/* sums += w·x for one k */
SIMD_INLINE void multiply(simd_f sums[ROWS][VECTORS], const struct tile *t, const char *w, uint32_t k, bool odd,
                          unsigned rows, unsigned panels)
{
    SIMD_UNROLL
    for (unsigned p = 0; p < panels; p++) {
        const char *panel = w + p * t->panel_bytes;
        simd_f w0 = weights(panel, t->dtype, 0, odd), w1 = weights(panel, t->dtype, 1, odd);
        SIMD_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            simd_f value = simd_set1(t->x[r * t->ldx + k]);
            sums[p + r][0] = simd_fma(w0, value, sums[p + r][0]);
            sums[p + r][1] = simd_fma(w1, value, sums[p + r][1]);
        }
    }
}

SIMD_INLINE void tile_sum(simd_f sums[ROWS][VECTORS], const struct tile *t, unsigned rows, unsigned panels)
{
    const char *w = t->w;
    uint32_t step = t->dtype == SSM_BF16 ? 2 : 1, line = t->dtype == SSM_F16 ? 32 : 64;
    SIMD_UNROLL
    for (unsigned i = 0; i < (rows > panels ? rows : panels); i++)
        sums[i][0] = sums[i][1] = simd_set1(0.0f);
    for (uint32_t k = 0; k < t->k; k += step, w += line) {
        SIMD_UNROLL
        for (unsigned p = 0; p < panels; p++)
            _mm_prefetch(w + p * t->panel_bytes + AHEAD, _MM_HINT_T0);
        multiply(sums, t, w, k, false, rows, panels);
        if (t->dtype == SSM_BF16 && k + 1 < t->k)
            multiply(sums, t, w, k + 1, true, rows, panels);
    }
}

/* y = (add ? y : 0) + (sum + bias) */
SIMD_INLINE void store(float *y, const float *bias, bool add, const simd_f sums[VECTORS])
{
    SIMD_UNROLL
    for (unsigned v = 0; v < VECTORS; v++) {
        float *at = y + v * SIMD_LANES;
        simd_f sum = bias ? simd_add(sums[v], simd_load(bias + v * SIMD_LANES)) : sums[v];
        simd_store(at, add ? simd_add(simd_load(at), sum) : sum);
    }
}

#define TILE(dtype_, rows, panels)                                                                                     \
    static void tile_##dtype_##_##rows##_##panels(const struct tile *t, float *y, size_t ldy, const float *bias,       \
                                                  bool add)                                                            \
    {                                                                                                                  \
        simd_f sums[ROWS][VECTORS];                                                                                    \
        struct tile of = *t;                                                                                           \
        of.dtype = dtype_; /* a constant */                                                                            \
        tile_sum(sums, &of, rows, panels);                                                                             \
        for (unsigned i = 0; i < (rows > panels ? rows : panels); i++)                                                 \
            store(panels > 1 ? y + i * PANEL : y + i * ldy, bias && panels > 1 ? bias + i * PANEL : bias, add,         \
                  sums[i]);                                                                                            \
    }
#define TILES(dtype)                                                                                                   \
    TILE(dtype, 1, 4)                                                                                                  \
    TILE(dtype, 1, 1)                                                                                                  \
    TILE(dtype, 2, 1)                                                                                                  \
    TILE(dtype, 3, 1)                                                                                                  \
    TILE(dtype, 4, 1)                                                                                                  \
    TILE(dtype, 5, 1)                                                                                                  \
    TILE(dtype, 6, 1)
TILES(SSM_F32)
TILES(SSM_BF16)
TILES(SSM_F16)

#define TILE_NAMES(dtype)                                                                                              \
    {                                                                                                                  \
        tile_##dtype##_1_4, tile_##dtype##_1_1, tile_##dtype##_2_1, tile_##dtype##_3_1, tile_##dtype##_4_1,            \
            tile_##dtype##_5_1, tile_##dtype##_6_1                                                                     \
    }

/* [dtype][rows], 0 rows: one row and four panels */
static void (*const tiles[][ROWS + 1])(const struct tile *t, float *y, size_t ldy, const float *bias, bool add) = {
    [SSM_F32] = TILE_NAMES(SSM_F32),
    [SSM_BF16] = TILE_NAMES(SSM_BF16),
    [SSM_F16] = TILE_NAMES(SSM_F16),
};

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    size_t output_bytes = ssm_panels_output_bytes(w->dtype, w->k, 1), cuts = (M + ROWS - 1) / ROWS;
    struct tile t = {.panel_bytes = PANEL * output_bytes, .k = w->k, .ldx = ldx};
    for (uint32_t n = n0, step; n < n1; n += step) {
        bool four = M == 1 && n1 - n >= PANELS * PANEL;
        const float *bias = w->bias ? w->bias + n : NULL;
        step = four ? PANELS * PANEL : PANEL;
        t.w = (const char *)w->packed + n * output_bytes;
        for (size_t cut = 0; cut < cuts; cut++) {
            size_t m0 = M * cut / cuts, m1 = M * (cut + 1) / cuts;
            t.x = x + m0 * ldx;
            tiles[w->dtype][four ? 0 : m1 - m0](&t, y + m0 * ldy + n, ldy, bias, add);
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

const struct ssm_ops ssm_ops_avx2 = {
    .name = "avx2",
    .usable = ssm_cpu_avx2,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .n_step = PANEL,
    .scratch_bytes = scratch_bytes,
    .gemm = gemm,
    .rmsnorm = ssm_avx2_rmsnorm,
    .conv = ssm_avx2_conv,
    .scan = ssm_avx2_scan,
};
