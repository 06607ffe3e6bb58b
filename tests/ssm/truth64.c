/* truth64.c: see truth64.h. Built for whatever vectors this machine's tests may use (meson.build): the loops over
 * channels are what costs. */
#include "tests/ssm/truth64.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "ssm/model.h"

/* Within 3 ulp for −700 ≤ v ≤ 700, without a branch, so that a loop over channels becomes vectors: 2^n of the integer
 * nearest to v / ln 2, times the Taylor sum of the rest, which is within ± ln 2 / 2. */
static inline double exp_of(double v)
{
    const double shift = 0x1.8p52; /* puts the integer into the low bits */
    double k = v * 0x1.71547652b82fep0 + shift, n = k - shift;
    double r = (v - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33, p = 1.0 / 6227020800.0;
    int64_t bits, power;

    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &k, sizeof power);
    bits += (int64_t)((uint64_t)power << 52);
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline double silu(double v)
{
    return v / (1.0 + exp_of(-v));
}

/* Rows [rows][cols] of the file into columns. */
static void transpose(const struct ssm_tensor *t, uint32_t rows, uint32_t cols, double *to)
{
    float row[64];
    char why[SSM_ERR];
    assert(t->rows == rows && t->cols == cols && cols <= 64);
    for (uint32_t r = 0; r < rows; r++) {
        int err = ssm_tensor_read(t, r, 1, row, why);
        assert(!err);
        for (uint32_t c = 0; c < cols; c++)
            to[c * rows + r] = (double)row[c];
    }
}

void truth64_init(struct truth64 *t, const struct ssm_model *m)
{
    const struct ssm_config *c = &m->config;
    assert(c->E == T64_E && c->L == T64_L && c->D == T64_D && c->N == T64_N && c->K == T64_K && c->R == 1);
    memset(t, 0, sizeof *t);
    for (uint32_t v = 0; v < T64_V; v++) {
        float row[T64_E];
        char why[SSM_ERR];
        int err = ssm_tensor_read(&m->embedding, v, 1, row, why);
        assert(!err);
        for (uint32_t e = 0; e < T64_E; e++)
            t->embedding[v][e] = (double)row[e];
    }
    for (uint32_t i = 0; i < T64_L; i++) {
        const struct ssm_layer_tensors *f = &m->layers[i];
        struct truth64_layer *l = &t->layer[i];
        assert(!f->in_bias.rows && !f->out_bias.rows);
        transpose(&f->norm, 1, T64_E, l->norm);
        transpose(&f->in_proj, 2 * T64_D, T64_E, l->in[0]);
        transpose(&f->conv, T64_D, T64_K, l->conv[0]);
        transpose(&f->conv_bias, 1, T64_D, l->conv_bias);
        transpose(&f->x_proj, 1 + 2 * T64_N, T64_D, l->select[0]);
        transpose(&f->dt_proj, T64_D, 1, l->dt);
        transpose(&f->dt_bias, 1, T64_D, l->dt_bias);
        transpose(&f->A_log, T64_D, T64_N, l->A[0]);
        transpose(&f->D, 1, T64_D, l->skip);
        transpose(&f->out_proj, T64_E, T64_D, l->out[0]);
        for (uint32_t n = 0; n < T64_N; n++)
            for (uint32_t d = 0; d < T64_D; d++)
                l->A[n][d] = -exp(l->A[n][d]);
    }
}

/* x ← silu(conv1d(x)), and the window moves on. */
static void convolve(struct truth64_layer *l, double *x)
{
    double sum[T64_D];
    for (int d = 0; d < T64_D; d++)
        sum[d] = l->conv_bias[d] + l->conv[T64_K - 1][d] * x[d];
    for (int w = 0; w < T64_K - 1; w++)
        for (int d = 0; d < T64_D; d++)
            sum[d] += l->conv[w][d] * l->window[w][d];
    memmove(l->window[0], l->window[1], sizeof l->window - sizeof l->window[0]);
    memcpy(l->window[T64_K - 2], x, sizeof l->window[0]);
    for (int d = 0; d < T64_D; d++)
        x[d] = silu(sum[d]);
}

static void step_layer(struct truth64_layer *l, double *r)
{
    double squares = 0.0, xz[2 * T64_D] = {0}, bc[1 + 2 * T64_N] = {0}, delta[T64_D], y[T64_D] = {0};
    double *x = xz, *z = xz + T64_D, *B = bc + 1, *C = B + T64_N;
    for (int e = 0; e < T64_E; e++)
        squares += r[e] * r[e];
    double scale = 1.0 / sqrt(squares / T64_E + 1e-5);
    for (int e = 0; e < T64_E; e++)
        for (int i = 0; i < 2 * T64_D; i++)
            xz[i] += l->in[e][i] * (r[e] * scale * l->norm[e]);
    convolve(l, x);
    for (int d = 0; d < T64_D; d++)
        for (int i = 0; i < 1 + 2 * T64_N; i++)
            bc[i] += l->select[d][i] * x[d];
    for (int d = 0; d < T64_D; d++)
        delta[d] = exp_of(l->dt[d] * bc[0] + l->dt_bias[d]);
    for (int d = 0; d < T64_D; d++)
        delta[d] = log1p(delta[d]); /* softplus; nothing here comes near its overflow */
    for (int n = 0; n < T64_N; n++)
        for (int d = 0; d < T64_D; d++) {
            l->h[n][d] = exp_of(delta[d] * l->A[n][d]) * l->h[n][d] + delta[d] * B[n] * x[d];
            y[d] += l->h[n][d] * C[n];
        }
    for (int d = 0; d < T64_D; d++)
        y[d] = (y[d] + l->skip[d] * x[d]) * silu(z[d]);
    for (int d = 0; d < T64_D; d++)
        for (int e = 0; e < T64_E; e++)
            r[e] += l->out[d][e] * y[d];
}

void truth64_step(struct truth64 *t, int32_t token)
{
    double r[T64_E];
    memcpy(r, t->embedding[token], sizeof r);
    for (int i = 0; i < T64_L; i++)
        step_layer(&t->layer[i], r);
}
