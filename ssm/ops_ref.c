/* ops_ref.c: the scalar truth that every other table is tested against. One output at a time, sums in index order,
 * libm's functions; nothing here is meant to be fast. Trap: the build must not contract a·b + c (-ffp-contract=off), or
 * two compilers give two truths. */
#include "ssm/ops.h"

#include <math.h>
#include <string.h>

static bool usable(void)
{
    return true;
}

static bool takes(enum ssm_dtype dtype)
{
    return dtype == SSM_F32 || dtype == SSM_BF16 || dtype == SSM_F16;
}

/* Rows as they come: the values are rounded to the dtype already. */
static size_t packed_bytes(enum ssm_dtype dtype, uint32_t n, uint32_t k)
{
    return (size_t)n * k * sizeof(float);
}

static void pack(struct ssm_weight *w, const float *rows)
{
    memcpy(w->packed, rows, packed_bytes(w->dtype, w->n, w->k));
}

static size_t scratch_bytes(uint32_t M, uint32_t k)
{
    return 0;
}

static void gemm(const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M, float *y, size_t ldy, bool add,
                 uint32_t n0, uint32_t n1, void *scratch)
{
    const float *rows = w->packed;
    for (uint32_t m = 0; m < M; m++) {
        for (uint32_t n = n0; n < n1; n++) {
            const float *row = rows + (size_t)n * w->k;
            float sum = 0.0f;
            for (uint32_t k = 0; k < w->k; k++)
                sum += row[k] * x[m * ldx + k];
            if (w->bias)
                sum += w->bias[n];
            y[m * ldy + n] = add ? y[m * ldy + n] + sum : sum;
        }
    }
}

static void rmsnorm(float *y, size_t ldy, const float *x, size_t ldx, const float *w, uint32_t M, uint32_t E, float eps)
{
    for (uint32_t m = 0; m < M; m++) {
        float squares = 0.0f;
        for (uint32_t e = 0; e < E; e++)
            squares += x[m * ldx + e] * x[m * ldx + e];
        float r = 1.0f / sqrtf(squares / (float)E + eps);
        for (uint32_t e = 0; e < E; e++)
            y[m * ldy + e] = x[m * ldx + e] * r * w[e];
    }
}

static float silu(float v)
{
    return v / (1.0f + expf(-v));
}

/* log1p(exp(v)) does not overflow below 20 and is v itself, to the last bit, above it. */
static float softplus(float v)
{
    return v > 20.0f ? v : log1pf(expf(v));
}

/* Input t of channel d, t from −(K−1): the carried window, then this call's rows. */
static float input(const struct ssm_conv *c, int64_t t, size_t d)
{
    return t < 0 ? c->window[(size_t)(t + c->K - 1) * c->Dp + d] : c->x[(size_t)t * c->ldx + d];
}

static void conv(const struct ssm_conv *c, size_t d0, size_t d1)
{
    int64_t past = (int64_t)c->K - 1;
    for (size_t d = d0; d < d1; d++) {
        for (int64_t t = 0; t < c->T; t++) {
            float sum = 0.0f;
            for (int64_t w = 0; w <= past; w++)
                sum += c->w[(size_t)w * c->Dp + d] * input(c, t - past + w, d);
            c->y[(size_t)t * c->ldy + d] = silu(sum + c->b[d]);
        }
        for (int64_t w = 0; w < past; w++) /* oldest first: each is read before it is overwritten */
            c->window[(size_t)w * c->Dp + d] = input(c, c->T - past + w, d);
    }
}

static void scan(const struct ssm_scan *s, size_t d0, size_t d1)
{
    for (size_t d = d0; d < d1; d++) {
        for (uint32_t t = 0; t < s->T; t++) {
            float x = s->x[t * s->ldx + d], z = s->z[t * s->ldz + d];
            float delta = softplus(s->dt[t * s->lddt + d]), sum = 0.0f;
            float decay = s->g ? delta * s->g[t] : delta;
            for (uint32_t n = 0; n < s->N; n++) {
                float *h = s->h + n * s->Dp + d;
                *h = expf(decay * s->A[n * s->Dp + d]) * *h + delta * s->B[t * s->ldbc + n] * x;
                sum += *h * s->C[t * s->ldbc + n];
            }
            s->y[t * s->ldy + d] = (sum + s->skip[d] * x) * silu(z);
        }
    }
}

const struct ssm_ops ssm_ops_ref = {
    .name = "ref",
    .usable = usable,
    .takes = takes,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .n_step = 1,
    .scratch_bytes = scratch_bytes,
    .gemm = gemm,
    .rmsnorm = rmsnorm,
    .conv = conv,
    .scan = scan,
};
