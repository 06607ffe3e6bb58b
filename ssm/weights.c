/* weights.c: reads every tensor of a model once, rounds it to the engine's weight dtype and packs it as the op table
 * likes. Runs at engine open. The layout is walked twice with the same code: once to count bytes, once to fill. Trap:
 * GEMM outputs that feed whole vectors (x, z, B, C) start on vector boundaries, so their matrices get rows of zeros
 * between. */
#include "ssm/weights.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ssm/dtype.h"
#include "ssm/fail.h"

struct packer {
    const struct ssm_ops *ops;
    enum ssm_dtype dtype;
    uint8_t *block; /* NULL while counting */
    size_t used;
    float *rows; /* one matrix, while it is being packed */
    char *reterr;
};

/* A place of its own: which rows of the packed matrix the tensor's rows [from, from + n) go to. */
struct piece {
    uint32_t from, n;
    size_t to;
};

static void *take(struct packer *p, size_t bytes)
{
    void *at = p->block ? p->block + p->used : NULL;
    p->used += (bytes + SSM_ALIGN - 1) / SSM_ALIGN * SSM_ALIGN;
    return at;
}

/* [cols] as fp32, padded with `pad`. */
static int take_vector(struct packer *p, const struct ssm_tensor *t, float pad, const float **ret)
{
    size_t padded = SSM_PADDED(t->cols);
    float *v = take(p, padded * sizeof *v);
    *ret = v;
    if (!v)
        return 0;
    for (size_t i = t->cols; i < padded; i++)
        v[i] = pad;
    return ssm_tensor_read(t, 0, 1, v, p->reterr);
}

static int round_rows(const struct packer *p, const struct ssm_tensor *t, float *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rows[i] = ssm_rounded(p->dtype, rows[i]);
        if (!isfinite(rows[i]))
            return ssm_fail(p->reterr, -EBADMSG, "tensor '%s': a value does not fit %s", t->name,
                            ssm_dtype_name(p->dtype));
    }
    return 0;
}

/* The bias goes where its rows go. */
static int take_bias(struct packer *p, const struct ssm_tensor *bias, const struct piece *pieces, unsigned n_pieces,
                     uint32_t n, const float **ret)
{
    *ret = NULL;
    if (!bias || !bias->rows)
        return 0;
    float *out = take(p, SSM_PADDED(n) * sizeof *out);
    *ret = out;
    if (!out)
        return 0;
    int err = ssm_tensor_read(bias, 0, 1, p->rows, p->reterr);
    for (unsigned i = 0; i < n_pieces; i++)
        memcpy(out + pieces[i].to, p->rows + pieces[i].from, pieces[i].n * sizeof *out);
    return err;
}

static int take_matrix(struct packer *p, const struct ssm_tensor *t, const struct ssm_tensor *bias,
                       const struct piece *pieces, unsigned n_pieces, struct ssm_weight *w)
{
    const struct piece *last = &pieces[n_pieces - 1];
    w->n = (uint32_t)last->to + last->n;
    w->k = t->cols;
    w->dtype = p->dtype;
    w->packed = take(p, p->ops->packed_bytes(w->dtype, w->n, w->k));
    int err = take_bias(p, bias, pieces, n_pieces, w->n, &w->bias);
    if (err || !p->block)
        return err;
    memset(p->rows, 0, (size_t)w->n * w->k * sizeof *p->rows);
    for (unsigned i = 0; i < n_pieces; i++) {
        float *rows = p->rows + pieces[i].to * w->k;
        if ((err = ssm_tensor_read(t, pieces[i].from, pieces[i].n, rows, p->reterr)) ||
            (err = round_rows(p, t, rows, (size_t)pieces[i].n * w->k)))
            return err;
    }
    p->ops->pack(w, p->rows);
    return 0;
}

static int take_plain(struct packer *p, const struct ssm_tensor *t, const struct ssm_tensor *bias, struct ssm_weight *w)
{
    struct piece whole = {0, t->rows, 0};
    return take_matrix(p, t, bias, &whole, 1, w);
}

/* [D][n] of the file to [n][Dp], so that lanes are channels. */
static int take_transposed(struct packer *p, const struct ssm_tensor *t, float pad, float (*map)(float),
                           const float **ret)
{
    size_t Dp = SSM_PADDED(t->rows);
    float *out = take(p, t->cols * Dp * sizeof *out);
    *ret = out;
    if (!out)
        return 0;
    int err = ssm_tensor_read(t, 0, t->rows, p->rows, p->reterr);
    for (size_t n = 0; n < t->cols; n++)
        for (size_t d = 0; d < Dp; d++)
            out[n * Dp + d] = d < t->rows ? map(p->rows[d * t->cols + n]) : pad;
    return err;
}

static float same(float v)
{
    return v;
}

/* Finite, so that Δ = 0 leaves the state as it is and not NaN. */
static float negative_exp(float v)
{
    return fmaxf(-expf(v), -FLT_MAX);
}

static int take_zeros(struct packer *p, size_t n, const float **ret)
{
    *ret = take(p, n * sizeof **ret); /* the block is fresh from mmap */
    return 0;
}

static int pack_layer(struct packer *p, const struct ssm_dims *d, const struct ssm_layer_tensors *t,
                      struct ssm_layer_weights *l)
{
    struct piece in[] = {{0, d->D, 0}, {d->D, d->D, d->z_at}};
    struct piece select[] = {{0, d->R, 0}, {d->R, d->N, d->Rp}, {d->R + d->N, d->N, d->Rp + d->Np}};
    int err;
    if ((err = take_vector(p, &t->norm, 0.0f, &l->norm)) ||
        (err = take_matrix(p, &t->in_proj, &t->in_bias, in, 2, &l->in_proj)) ||
        (err = take_transposed(p, &t->conv, 0.0f, same, &l->conv)) ||
        (err = t->conv_bias.rows ? take_vector(p, &t->conv_bias, 0.0f, &l->conv_bias)
                                 : take_zeros(p, d->Dp, &l->conv_bias)) ||
        (err = take_matrix(p, &t->x_proj, NULL, select, 3, &l->x_proj)) ||
        (err = take_plain(p, &t->dt_proj, &t->dt_bias, &l->dt_proj)) ||
        (err = take_transposed(p, &t->A_log, -1.0f, negative_exp, &l->A)) ||
        (err = take_vector(p, &t->D, 0.0f, &l->skip)) ||
        (err = take_plain(p, &t->out_proj, &t->out_bias, &l->out_proj)))
        return err;
    return 0;
}

static int pack_embedding(struct packer *p, const struct ssm_tensor *t, const void **ret)
{
    size_t width = ssm_dtype_bytes(p->dtype);
    uint8_t *out = take(p, (size_t)t->rows * t->cols * width);
    *ret = out;
    for (uint32_t row = 0; out && row < t->rows; row++) {
        int err = ssm_tensor_read(t, row, 1, p->rows, p->reterr);
        if (!err)
            err = round_rows(p, t, p->rows, t->cols);
        if (err)
            return err;
        for (uint32_t e = 0; e < t->cols; e++, out += width) {
            uint16_t half = p->dtype == SSM_BF16 ? ssm_to_bf16(p->rows[e]) : ssm_to_f16(p->rows[e]);
            memcpy(out, p->dtype == SSM_F32 ? (void *)&p->rows[e] : &half, width);
        }
    }
    return 0;
}

static int pack_all(struct packer *p, const struct ssm_model *m, struct ssm_weights *w)
{
    bool tokens = m->config.input == SSM_TOKENS;
    int err =
        tokens ? pack_embedding(p, &m->embedding, &w->embedding) : take_plain(p, &m->input, &m->input_bias, &w->input);
    for (uint32_t i = 0; !err && i < w->dims.L; i++)
        err = pack_layer(p, &w->dims, &m->layers[i], &w->layers[i]);
    if (!err)
        err = take_vector(p, &m->norm_f, 0.0f, &w->norm_f);
    if (!err && w->dims.outputs)
        err = take_plain(p, &m->head, &m->head_bias, &w->head);
    return err;
}

static struct ssm_dims dims_of(const struct ssm_model *m, const struct ssm_ops *ops)
{
    const struct ssm_config *c = &m->config;
    struct ssm_dims d = {
        .E = c->E, .D = c->D, .N = c->N, .K = c->K, .R = c->R, .L = c->L, .F = c->front.features, .eps = c->eps};
    d.Ep = SSM_PADDED(d.E);
    d.Dp = SSM_PADDED(d.D);
    d.Np = SSM_PADDED(d.N);
    d.Rp = SSM_PADDED(d.R);
    d.Fp = SSM_PADDED(d.F);
    d.unit = SSM_LANES;
    while (d.unit % ops->n_step)
        d.unit += SSM_LANES;
    d.z_at = (d.D + d.unit - 1) / d.unit * d.unit;
    d.outputs = c->input == SSM_TOKENS ? c->vocab : c->horizon * c->n_quantiles;
    d.Op = SSM_PADDED(d.outputs);
    return d;
}

static size_t largest_matrix(const struct ssm_model *m, const struct ssm_dims *d)
{
    size_t head = (size_t)d->outputs * d->E, in = (d->z_at + d->D) * d->E, input = (size_t)d->E * d->F;
    size_t select = (d->Rp + d->Np + d->N) * d->D, dt = (size_t)d->D * d->R,
           A = (size_t)d->D * (d->N > d->K ? d->N : d->K);
    size_t sizes[] = {head, in, input, select, dt, A, 2 * (size_t)d->D, d->outputs}, max = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        max = sizes[i] > max ? sizes[i] : max;
    return max;
}

int ssm_weights_pack(const struct ssm_model *model, const struct ssm_ops *ops, enum ssm_dtype dtype,
                     struct ssm_weights *ret, char *reterr)
{
    struct ssm_weights w = {.ops = ops, .dtype = dtype, .dims = dims_of(model, ops)};
    struct packer p = {.ops = ops, .dtype = dtype, .reterr = reterr};
    int err = -ENOMEM;
    void *block = MAP_FAILED;
    w.layers = calloc(w.dims.L, sizeof *w.layers);
    if (!w.layers)
        goto fail;
    pack_all(&p, model, &w); /* counts; cannot fail */
    w.bytes = p.used;
    block = mmap(NULL, w.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p.rows = malloc(largest_matrix(model, &w.dims) * sizeof *p.rows);
    if (block == MAP_FAILED || !p.rows)
        goto fail;
    madvise(block, w.bytes, MADV_HUGEPAGE); /* large models miss the TLB otherwise; a refusal costs speed only */
    w.block = p.block = block;
    p.used = 0;
    if ((err = pack_all(&p, model, &w)))
        goto fail;
    free(p.rows);
    *ret = w;
    return 0;

fail:
    if (err == -ENOMEM)
        ssm_fail(reterr, err, "%s: no memory for %zu bytes of weights", model->name, w.bytes);
    if (block != MAP_FAILED)
        munmap(block, w.bytes);
    free(p.rows);
    free(w.layers);
    return err;
}

void ssm_weights_done(struct ssm_weights *w)
{
    if (w->block)
        munmap(w->block, w->bytes);
    free(w->layers);
    *w = (struct ssm_weights){0};
}

void ssm_weights_embed(const struct ssm_weights *w, int32_t token, float *dst)
{
    size_t E = w->dims.E, first = (size_t)token * E;
    const uint16_t *half = w->embedding;
    if (w->dtype == SSM_F32)
        memcpy(dst, (const float *)w->embedding + first, E * sizeof *dst);
    for (size_t e = 0; w->dtype != SSM_F32 && e < E; e++)
        dst[e] = w->dtype == SSM_BF16 ? ssm_from_bf16(half[first + e]) : ssm_from_f16(half[first + e]);
}
