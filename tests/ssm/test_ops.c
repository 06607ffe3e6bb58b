/* test_ops.c: GEMM and RMSNorm of every table that this CPU runs against a sum in double, over odd sizes; the same bits
 * however rows and outputs are cut; nothing written that is not the op's; pads never matter. */
#include "tests/ssm/field.h"

#include "ssm/dtype.h"

static struct rng rng;
static const uint32_t sizes[] = {1, 3, 16, 64, 130}, row_counts[] = {1, 2, 3, 7, 16, 17, 31, 33, 129};

enum { SIZES = sizeof sizes / sizeof *sizes, ROW_COUNTS = sizeof row_counts / sizeof *row_counts, EXTRA = 16 };

/* What a GEMM test is about. */
struct product {
    const struct ssm_ops *ops;
    struct ssm_weight w;
    struct field rows; /* [n][k], dense */
    struct field x;
    void *scratch;
    bool add;
};

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(SSM_ALIGN, (bytes + SSM_ALIGN) / SSM_ALIGN * SSM_ALIGN);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    return p;
}

/* Tables that split activations into bf16 are given ones that bf16 holds, and then owe the precision of the others. */
static struct product product_new(const struct ssm_ops *ops, enum ssm_dtype dtype, uint32_t n, uint32_t k, uint32_t M,
                                  double scale)
{
    struct product p = {.ops = ops, .w = {.n = n, .k = k, .dtype = dtype}, .add = rig_below(&rng, 2)};
    float *rows = aligned((size_t)n * k * sizeof(float));
    for (size_t i = 0; i < (size_t)n * k; i++)
        rows[i] = ssm_rounded(dtype, (float)rig_normal(&rng));
    p.rows = (struct field){.at = rows, .rows = n, .cols = k, .ld = k, .memory = rows};
    p.w.packed = aligned(ops->packed_bytes(dtype, n, k));
    ops->pack(&p.w, rows);
    if (rig_below(&rng, 2)) {
        float *bias = aligned(SSM_PADDED(n) * sizeof(float));
        for (size_t i = 0; i < SSM_PADDED(n); i++)
            bias[i] = (float)rig_normal(&rng);
        p.w.bias = bias;
    }
    p.x = field_random(M, k, 0, &rng, scale);
    for (size_t i = 0; i < M * p.x.ld; i++)
        p.x.at[i] = i % p.x.ld < k ? ssm_rounded(SSM_BF16, p.x.at[i]) : 3e38f; /* pads: finite, and as bad as can be */
    p.scratch = aligned(ops->scratch_bytes(M, k));
    return p;
}

static void product_free(struct product *p)
{
    free(p->rows.memory);
    free(p->w.packed);
    free((void *)(uintptr_t)p->w.bias);
    field_free(&p->x);
    free(p->scratch);
}

static void product_run(const struct product *p, struct field *y, size_t m0, size_t m1, uint32_t n0, uint32_t n1)
{
    p->ops->gemm(&p->w, field_row(&p->x, m0), p->x.ld, (uint32_t)(m1 - m0), field_row(y, m0), y->ld, p->add, n0, n1,
                 p->scratch);
}

/* |y − truth| ≤ tolerance · Σ|w·x|, truth summed in double */
static void product_check(const struct product *p, const struct field *before, const struct field *y, double tolerance)
{
    for (size_t m = 0; m < y->rows; m++) {
        for (size_t n = 0; n < y->cols; n++) {
            double truth = p->w.bias ? p->w.bias[n] : 0.0, size = fabs(truth);
            if (p->add)
                truth += field_row(before, m)[n], size += fabs(field_row(before, m)[n]);
            for (uint32_t k = 0; k < p->w.k; k++) {
                double term = (double)field_row(&p->rows, n)[k] * field_row(&p->x, m)[k];
                truth += term, size += fabs(term);
            }
            double got = field_row(y, m)[n];
            if (!(fabs(got - truth) <= tolerance * size + 1e-30))
                fail_msg("%s %s n=%u k=%u M=%zu: y[%zu][%zu] = %.9g, not %.9g", p->ops->name,
                         ssm_dtype_name(p->w.dtype), p->w.n, p->w.k, y->rows, m, n, got, truth);
        }
    }
}

/* Row by row, and outputs in steps, gives the bits of the whole. */
static void product_cuts(const struct product *p, const struct field *before, const struct field *y)
{
    struct field cut = field_copy(before);
    for (size_t m0 = 0, m1; m0 < y->rows; m0 = m1) {
        m1 = m0 + 1 + rig_below(&rng, y->rows > 8 ? 8 : 2);
        m1 = m1 < y->rows ? m1 : y->rows;
        for (uint32_t n0 = 0, n1; n0 < p->w.n; n0 = n1) {
            n1 = n0 + p->ops->n_step * (1 + rig_below(&rng, 3));
            n1 = n1 < p->w.n ? n1 : p->w.n;
            product_run(p, &cut, m0, m1, n0, n1);
        }
    }
    assert_true(field_same(&cut, y));
    assert_true(field_intact(&cut));
    field_free(&cut);
}

static void one_product(const struct ssm_ops *ops, enum ssm_dtype dtype, uint32_t n, uint32_t k, uint32_t M,
                        double scale)
{
    struct product p = product_new(ops, dtype, n, k, M, scale);
    struct field before = field_new(M, n, EXTRA);
    if (p.add)
        field_fill(&before, &rng, scale);
    struct field y = field_copy(&before);
    product_run(&p, &y, 0, M, 0, n);
    assert_true(field_intact(&y));
    assert_true(!strcmp(ops->name, "ref") || field_pads_finite(&y)); /* ref writes no pads */
    product_check(&p, &before, &y, 0x1p-20);
    product_cuts(&p, &before, &y);
    field_free(&before);
    field_free(&y);
    product_free(&p);
}

static void gemm(void **state)
{
    const struct ssm_ops *ops = *state;
    for (int dtype = SSM_F32; dtype <= SSM_F16; dtype++)
        for (unsigned n = 0; n < SIZES && ops->takes(dtype); n++)
            for (unsigned k = 0; k < SIZES; k++)
                for (unsigned m = 0; m < ROW_COUNTS; m++)
                    one_product(ops, dtype, sizes[n], sizes[k], row_counts[m], 1.0);
}

static void gemm_long_sums(void **state)
{
    const struct ssm_ops *ops = *state;
    for (int dtype = SSM_F32; dtype <= SSM_F16; dtype++)
        for (uint32_t M = 1; M < 100 && ops->takes(dtype); M += 32)
            one_product(ops, dtype, 200, 1027, M, 1.0);
}

static void gemm_zeros_and_denormals(void **state)
{
    const struct ssm_ops *ops = *state;
    for (int dtype = SSM_F32; dtype <= SSM_F16; dtype++) {
        if (!ops->takes(dtype))
            continue;
        one_product(ops, dtype, 64, 33, 7, 0.0);
        one_product(ops, dtype, 64, 33, 7, 1e-40);
    }
}

/* Activations that bf16 does not hold: the tables that split them into two of its numbers keep 16 bits of each. */
static void gemm_splits_activations(void **state)
{
    const struct ssm_ops *ops = *state;
    for (unsigned m = 0; m < ROW_COUNTS && ops->takes(SSM_BF16); m++) {
        struct product p = product_new(ops, SSM_BF16, 130, 130, row_counts[m], 1.0);
        field_fill(&p.x, &rng, 1.0);
        struct field before = field_random(row_counts[m], 130, 0, &rng, 1.0), y = field_copy(&before);
        product_run(&p, &y, 0, row_counts[m], 0, 130);
        product_check(&p, &before, &y, 0x1p-16);
        product_cuts(&p, &before, &y);
        field_free(&before);
        field_free(&y);
        product_free(&p);
    }
}

static void one_norm(const struct ssm_ops *ops, uint32_t M, uint32_t E, double scale)
{
    struct field x = field_random(M, E, 0, &rng, scale), w = field_random(1, E, 0, &rng, 1.0);
    struct field y = field_new(M, E, EXTRA), cut = field_new(M, E, EXTRA);
    for (size_t i = E; i < x.ld; i++)
        x.at[i] = w.at[i] = 3e38f;
    ops->rmsnorm(y.at, y.ld, x.at, x.ld, w.at, M, E, 1e-5f);
    for (uint32_t m = 0; m < M; m++) {
        double squares = 0.0;
        for (uint32_t e = 0; e < E; e++)
            squares += (double)field_row(&x, m)[e] * field_row(&x, m)[e];
        for (uint32_t e = 0; e < E; e++) {
            double truth = field_row(&x, m)[e] / sqrt(squares / E + 1e-5) * w.at[e];
            assert_true(fabs(field_row(&y, m)[e] - truth) <= 2e-6 * fabs(truth) + 1e-30);
        }
        ops->rmsnorm(field_row(&cut, m), cut.ld, field_row(&x, m), x.ld, w.at, 1, E, 1e-5f);
    }
    assert_true(field_same(&y, &cut));
    assert_true(field_intact(&y) && field_intact(&cut));
    field_free(&x), field_free(&w), field_free(&y), field_free(&cut);
}

static void rmsnorm(void **state)
{
    for (unsigned e = 0; e < SIZES; e++)
        for (unsigned m = 0; m < ROW_COUNTS; m++)
            for (double scale = 1e-40; scale < 1e10; scale *= 1e20)
                one_norm(*state, row_counts[m], sizes[e], scale);
    one_norm(*state, 3, 1027, 0.0);
}

int main(void)
{
    static const struct field_test tests[] = {
        {"gemm", gemm},
        {"gemm, long sums", gemm_long_sums},
        {"gemm, zeros and denormals", gemm_zeros_and_denormals},
        {"gemm, activations", gemm_splits_activations},
        {"rmsnorm", rmsnorm},
    };
    rng = rig_rng("ops");
    return field_run("ops", tests, sizeof tests / sizeof *tests);
}
