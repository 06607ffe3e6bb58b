/* test_ops_time.c: the convolution and the selective scan of every table that this CPU runs against the recurrence in
 * double, over odd sizes and extreme values; the same bits however time and channels are cut; nothing written that is
 * not the op's. */
#include "tests/ssm/field.h"

static struct rng rng;
static const uint32_t steps[] = {1, 2, 3, 7, 31, 33, 129, 1024}, widths[] = {1, 3, 16, 64, 130},
                      states[] = {1, 4, 16, 17};

enum { STEPS = 8, WIDTHS = 5, STATES = 4, EXTRA = 16 };

enum kind { PLAIN, GAPS, EXTREME, SILENT };

static double silu(double v)
{
    return v / (1.0 + exp(-v));
}

static double softplus(double v)
{
    return v > 20.0 ? v : log1p(exp(v));
}

static void assert_near(const char *what, const struct ssm_ops *ops, double got, double truth, double size)
{
    if (!(fabs(got - truth) <= 2e-5 * size + 1e-30))
        fail_msg("%s of %s: %.9g, not %.9g (terms of %.3g)", what, ops->name, got, truth, size);
}

/* ---- convolution ---- */

static void conv_run(const struct ssm_ops *ops, struct ssm_conv c, uint32_t chunk_max)
{
    uint32_t T = c.T;
    for (uint32_t t = 0; t < T; t += c.T) {
        c.T = chunk_max < T ? 1 + rig_below(&rng, chunk_max) : T;
        c.T = c.T < T - t ? c.T : T - t;
        size_t step = chunk_max < T ? SSM_LANES * (1 + rig_below(&rng, 4)) : c.Dp;
        for (size_t d = 0; d < c.Dp; d += step)
            ops->conv(&c, d, d + step < c.Dp ? d + step : c.Dp);
        c.x += c.T * c.ldx;
        c.y += c.T * c.ldy;
    }
}

static void conv_check(const struct ssm_ops *ops, const struct ssm_conv *c, const struct field *before,
                       const struct field *y, const struct field *window)
{
    for (int64_t t = 0; t < c->T + (int64_t)c->K - 1; t++) { /* outputs, then what the window is to hold */
        for (size_t d = 0; d < y->cols; d++) {
            double sum = c->b[d], size = fabs(sum);
            for (int64_t k = 0, at = t - (int64_t)c->K + 1; k < c->K && t < c->T; k++, at++) {
                double x = at < 0 ? field_row(before, (size_t)(at + c->K - 1))[d] : c->x[(size_t)at * c->ldx + d];
                sum += x * c->w[(size_t)k * c->Dp + d], size += fabs(x * c->w[(size_t)k * c->Dp + d]);
            }
            if (t < c->T) {
                assert_near("conv", ops, field_row(y, (size_t)t)[d], silu(sum), size);
                continue;
            }
            int64_t row = t - c->T, at = row + c->T - (int64_t)c->K + 1;
            float kept = at < 0 ? field_row(before, (size_t)(at + c->K - 1))[d] : c->x[(size_t)at * c->ldx + d];
            assert_memory_equal(&field_row(window, (size_t)row)[d], &kept, sizeof kept);
        }
    }
}

static void one_conv(const struct ssm_ops *ops, uint32_t T, uint32_t D, uint32_t K)
{
    struct field x = field_random(T, D, EXTRA, &rng, 3.0), w = field_random(K, D, 0, &rng, 1.0);
    struct field b = field_random(1, D, 0, &rng, 1.0), before = field_random(K - 1, D, 0, &rng, 3.0);
    struct field y = field_new(T, D, EXTRA), y_cut = field_new(T, D, EXTRA);
    struct field window = field_copy(&before), window_cut = field_copy(&before);
    struct ssm_conv c = {.x = x.at,
                         .ldx = x.ld,
                         .y = y.at,
                         .ldy = y.ld,
                         .window = window.at,
                         .w = w.at,
                         .b = b.at,
                         .T = T,
                         .K = K,
                         .Dp = SSM_PADDED(D)};
    conv_run(ops, c, T);
    conv_check(ops, &c, &before, &y, &window);
    c.y = y_cut.at, c.window = window_cut.at;
    conv_run(ops, c, T < 4 ? 1 : 9);
    assert_true(field_same(&y, &y_cut) && field_same(&window, &window_cut));
    assert_true(field_intact(&y) && field_intact(&y_cut) && field_intact(&window) && field_pads_finite(&y));
    field_free(&x), field_free(&w), field_free(&b), field_free(&before);
    field_free(&y), field_free(&y_cut), field_free(&window), field_free(&window_cut);
}

static void conv(void **state)
{
    for (unsigned t = 0; t < STEPS; t++)
        for (unsigned d = 0; d < WIDTHS; d++)
            for (uint32_t K = 2; K <= 4; K++)
                one_conv(*state, steps[t], widths[d], K);
}

/* ---- scan ---- */

struct recurrence {
    struct field x, z, dt, B, C, A, skip, h0;
    float *g;
    struct ssm_scan s; /* y and h are set by each run */
};

/* EXTREME: channels whose Δ is 0 or huge, states that forget at once; SILENT: denormal states and no input. */
static struct recurrence recurrence_new(uint32_t T, uint32_t D, uint32_t N, enum kind kind)
{
    double loud = kind == SILENT ? 0.0 : 1.0;
    struct recurrence r = {
        .x = field_random(T, D, EXTRA, &rng, loud),
        .z = field_random(T, D, EXTRA, &rng, 2.0),
        .dt = field_random(T, D, EXTRA, &rng, 1.0),
        .B = field_random(T, N, 0, &rng, 1.0),
        .C = field_random(T, N, 0, &rng, 1.0),
        .A = field_random(N, D, 0, &rng, 1.0),
        .skip = field_random(1, D, 0, &rng, 1.0),
        .h0 = field_random(N, D, 0, &rng, kind == SILENT ? 1e-39 : 1.0),
    };
    for (uint32_t n = 0; n < N; n++)
        for (size_t d = 0; d < r.A.ld; d++) {
            float *A = &field_row(&r.A, n)[d];
            *A = kind == EXTREME && (n + d) % 3 == 0 ? -1e30f : -expf(*A + logf((float)n + 1.0f));
        }
    for (uint32_t t = 0; t < T; t++)
        for (size_t d = 0; d < SSM_PADDED(D); d++)
            field_row(&r.dt, t)[d] += kind == EXTREME ? (float)((int)(d % 3) - 1) * 100.0f : -2.0f;
    r.g = malloc(T * sizeof(float));
    for (uint32_t t = 0; t < T; t++)
        r.g[t] = rig_below(&rng, 4) ? 1.0f : rig_below(&rng, 2) ? 0.0f : (float)rig_below(&rng, 1000000) / 64.0f;
    r.s = (struct ssm_scan){.x = r.x.at,
                            .z = r.z.at,
                            .dt = r.dt.at,
                            .ldx = r.x.ld,
                            .ldz = r.z.ld,
                            .lddt = r.dt.ld,
                            .B = r.B.at,
                            .C = r.C.at,
                            .ldbc = r.B.ld,
                            .g = kind == PLAIN ? NULL : r.g,
                            .A = r.A.at,
                            .skip = r.skip.at,
                            .T = T,
                            .N = N,
                            .Dp = SSM_PADDED(D)};
    return r;
}

static void recurrence_free(struct recurrence *r)
{
    struct field *all[] = {&r->x, &r->z, &r->dt, &r->B, &r->C, &r->A, &r->skip, &r->h0};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        field_free(all[i]);
    free(r->g);
}

/* Runs the scan in chunks of up to chunk_max steps and random groups of channels; T: in one go. */
static void scan_run(const struct ssm_ops *ops, struct ssm_scan s, struct field *y, struct field *h, uint32_t chunk_max)
{
    uint32_t T = s.T;
    s.y = y->at, s.ldy = y->ld, s.h = h->at;
    for (uint32_t t = 0; t < T; t += s.T) {
        s.T = chunk_max < T ? 1 + rig_below(&rng, chunk_max) : T;
        s.T = s.T < T - t ? s.T : T - t;
        size_t step = chunk_max < T ? SSM_LANES * (1 + rig_below(&rng, 4)) : s.Dp;
        for (size_t d = 0; d < s.Dp; d += step)
            ops->scan(&s, d, d + step < s.Dp ? d + step : s.Dp);
        s.x += s.T * s.ldx, s.z += s.T * s.ldz, s.dt += s.T * s.lddt, s.B += s.T * s.ldbc, s.C += s.T * s.ldbc;
        s.y += s.T * s.ldy;
        s.g = s.g ? s.g + s.T : NULL;
    }
}

/* One channel in double, with the size of the terms beside every sum. */
static void scan_check(const struct ssm_ops *ops, const struct recurrence *r, size_t d, const struct field *y,
                       const struct field *h)
{
    double state[17], size[17];
    const struct ssm_scan *s = &r->s;
    for (uint32_t n = 0; n < s->N; n++)
        state[n] = field_row(&r->h0, n)[d], size[n] = fabs(state[n]);
    for (uint32_t t = 0; t < s->T; t++) {
        double x = field_row(&r->x, t)[d], gate = silu(field_row(&r->z, t)[d]),
               delta = softplus(field_row(&r->dt, t)[d]);
        double sum = s->skip[d] * x, terms = fabs(sum);
        for (uint32_t n = 0; n < s->N; n++) {
            double decay = exp(delta * field_row(&r->A, n)[d] * (s->g ? s->g[t] : 1.0f));
            double in = delta * field_row(&r->B, t)[n] * x;
            state[n] = decay * state[n] + in, size[n] = decay * size[n] + fabs(in);
            sum += state[n] * field_row(&r->C, t)[n], terms += fabs(size[n] * field_row(&r->C, t)[n]);
        }
        assert_near("scan", ops, field_row(y, t)[d], sum * gate, terms * fabs(gate));
    }
    for (uint32_t n = 0; n < s->N; n++)
        assert_near("state", ops, field_row(h, n)[d], state[n], size[n]);
}

static void one_scan(const struct ssm_ops *ops, uint32_t T, uint32_t D, uint32_t N, enum kind kind)
{
    struct recurrence r = recurrence_new(T, D, N, kind);
    struct field y = field_new(T, D, EXTRA), h = field_copy(&r.h0);
    struct field y_cut = field_new(T, D, EXTRA), h_cut = field_copy(&r.h0);
    scan_run(ops, r.s, &y, &h, T);
    for (size_t d = 0; d < D; d++)
        scan_check(ops, &r, d, &y, &h);
    for (uint32_t t = 0; t < T && kind == PLAIN; t++)
        r.g[t] = 1.0f;
    r.s.g = r.g; /* in the plain case: g = 1 must not change a bit */
    scan_run(ops, r.s, &y_cut, &h_cut, T < 4 ? 1 : 1 + rig_below(&rng, 80));
    assert_true(field_same(&y, &y_cut) && field_same(&h, &h_cut));
    assert_true(field_intact(&y) && field_intact(&y_cut) && field_intact(&h) && field_pads_finite(&y));
    field_free(&y), field_free(&y_cut), field_free(&h), field_free(&h_cut);
    recurrence_free(&r);
}

static void scan_kind(const struct ssm_ops *ops, enum kind kind, uint32_t T_max)
{
    for (unsigned t = 0; t < STEPS && steps[t] <= T_max; t++)
        for (unsigned d = 0; d < WIDTHS; d++)
            for (unsigned n = 0; n < STATES; n++)
                one_scan(ops, steps[t], widths[d], states[n], kind);
}

static void scan(void **state)
{
    scan_kind(*state, PLAIN, 1024);
}

static void scan_gaps(void **state)
{
    scan_kind(*state, GAPS, 33);
}

static void scan_extreme(void **state)
{
    scan_kind(*state, EXTREME, 33);
}

static void scan_silent(void **state)
{
    scan_kind(*state, SILENT, 33);
}

int main(void)
{
    static const struct field_test tests[] = {
        {"conv", conv},
        {"scan", scan},
        {"scan, gap factors", scan_gaps},
        {"scan, extreme values", scan_extreme},
        {"scan, denormal states", scan_silent},
    };
    rng = rig_rng("ops_time");
    return field_run("ops_time", tests, sizeof tests / sizeof *tests);
}
