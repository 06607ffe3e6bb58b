/* layer.c: the Mamba block (arXiv 2312.00752, sec. 3.4 and fig. 3), in the order of the paper, on the rows of a tile:
 *
 *   r += out_proj(scan(silu(conv(x)), Δ, B, C) · silu(z))     with x, z = in_proj(norm(r))
 *
 * Runs on every worker at once, each on its own channels or outputs; whichever way they are cut, every number is
 * computed by the same operations in the same order. Trap: the convolution and the scan of a run must see its rows in
 * time order, so the workers share channels there, never rows. */
#include "ssm/layer.h"

void ssm_share(size_t n, size_t unit, struct ssm_part_of part, size_t *ret_from, size_t *ret_to)
{
    size_t blocks = (n + unit - 1) / unit;
    size_t from = blocks * part.index / part.count * unit, to = blocks * (part.index + 1) / part.count * unit;
    *ret_from = from < n ? from : n;
    *ret_to = to < n ? to : n;
}

void ssm_layer_gemm(const struct ssm_tile *t, const struct ssm_weight *w, const float *x, size_t ldx, uint32_t M,
                    float *y, size_t ldy, bool add, uint32_t n0, uint32_t n1, struct ssm_part_of part,
                    const struct ssm_scratch *s)
{
    size_t from, to;
    ssm_share(n1 - n0, t->w->ops->n_step, part, &from, &to);
    if (to > from && M > 0)
        t->w->ops->gemm(w, x, ldx, M, y, ldy, add, n0 + (uint32_t)from, n0 + (uint32_t)to, s->gemm);
}

static void convolve(struct ssm_tile *t, uint32_t layer, size_t d0, size_t d1)
{
    const struct ssm_layer_weights *l = &t->w->layers[layer];
    for (uint32_t i = 0; i < t->n_runs; i++) {
        const struct ssm_run *run = &t->runs[i];
        struct ssm_conv c = {
            .x = t->xz + run->row * t->ldxz,
            .ldx = t->ldxz,
            .y = t->xc + run->row * t->ldd,
            .ldy = t->ldd,
            .window = ssm_slot_conv(t->layout, run->slot, layer),
            .window_next = i + 1 < t->n_runs ? ssm_slot_conv(t->layout, run[1].slot, layer) : NULL,
            .w = l->conv,
            .b = l->conv_bias,
            .T = run->T,
            .K = t->w->dims.K,
            .Dp = t->w->dims.Dp,
        };
        t->w->ops->conv(&c, d0, d1);
    }
}

/* u = RMSNorm(r);  x, z = in_proj·u;  x ← silu(conv1d(x)): a channel's convolution needs only its own x. */
void ssm_layer_in(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s)
{
    const struct ssm_dims *d = &t->w->dims;
    const struct ssm_layer_weights *l = &t->w->layers[layer];
    const struct ssm_ops *ops = t->w->ops;
    uint32_t n = l->in_proj.n;
    size_t from, to;
    ssm_share(d->z_at, d->unit, part, &from, &to);
    if (from == to)
        return;
    ops->rmsnorm(s->u, t->ldr, t->r, t->ldr, l->norm, t->rows, d->E, d->eps); /* cheaper than to wait for others' */
    if (to - from == d->z_at) {
        ops->gemm(&l->in_proj, s->u, t->ldr, t->rows, t->xz, t->ldxz, false, 0, n, s->gemm);
    } else {
        size_t z_to = d->z_at + to < n ? d->z_at + to : n;
        ops->gemm(&l->in_proj, s->u, t->ldr, t->rows, t->xz, t->ldxz, false, (uint32_t)from, (uint32_t)to, s->gemm);
        ops->gemm(&l->in_proj, s->u, t->ldr, t->rows, t->xz, t->ldxz, false, (uint32_t)(d->z_at + from), (uint32_t)z_to,
                  s->gemm);
    }
    convolve(t, layer, from, to < d->Dp ? to : d->Dp);
}

/* dt, B, C = x_proj·x: the selection, what makes A and B depend on the input (sec. 3.2). */
void ssm_layer_select(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s)
{
    const struct ssm_weight *w = &t->w->layers[layer].x_proj;
    ssm_layer_gemm(t, w, t->xc, t->ldd, t->rows, t->bc, t->ldbc, false, 0, w->n, part, s);
}

static void scan_runs(struct ssm_tile *t, uint32_t layer, size_t d0, size_t d1)
{
    const struct ssm_dims *d = &t->w->dims;
    const struct ssm_layer_weights *l = &t->w->layers[layer];
    for (uint32_t i = 0; i < t->n_runs; i++) {
        const struct ssm_run *run = &t->runs[i];
        float *x = t->xz + run->row * t->ldxz, *bc = t->bc + run->row * t->ldbc;
        struct ssm_scan scan = {
            .x = t->xc + run->row * t->ldd,
            .z = x + d->z_at,
            .dt = t->dt + run->row * t->ldd,
            .ldx = t->ldd,
            .ldz = t->ldxz,
            .lddt = t->ldd,
            .B = bc + d->Rp,
            .C = bc + d->Rp + d->Np,
            .ldbc = t->ldbc,
            .g = run->g,
            .A = l->A,
            .skip = l->skip,
            .h = ssm_slot_state(t->layout, run->slot, layer),
            .h_next = i + 1 < t->n_runs ? ssm_slot_state(t->layout, run[1].slot, layer) : NULL,
            .y = x, /* x before the convolution is used up */
            .ldy = t->ldxz,
            .T = run->T,
            .N = d->N,
            .Dp = d->Dp,
        };
        t->w->ops->scan(&scan, d0, d1);
    }
}

/* Δ = softplus(dt_proj·dt + bias);  h ← exp(Δ·g·A)·h + Δ·B·x;  y = (C·h + D·x)·silu(z), eq. 2a, 2b, alg. 2. */
void ssm_layer_scan(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s)
{
    const struct ssm_dims *d = &t->w->dims;
    const struct ssm_weight *w = &t->w->layers[layer].dt_proj;
    size_t from, to;
    ssm_share(d->z_at, d->unit, part, &from, &to);
    if (from == to)
        return;
    t->w->ops->gemm(w, t->bc, t->ldbc, t->rows, t->dt, t->ldd, false, (uint32_t)from, to < d->D ? (uint32_t)to : d->D,
                    s->gemm);
    scan_runs(t, layer, from, to < d->Dp ? to : d->Dp);
}

/* r += out_proj·y */
void ssm_layer_out(struct ssm_tile *t, uint32_t layer, struct ssm_part_of part, const struct ssm_scratch *s)
{
    const struct ssm_weight *w = &t->w->layers[layer].out_proj;
    ssm_layer_gemm(t, w, t->xz, t->ldxz, t->rows, t->r, t->ldr, true, 0, w->n, part, s);
}
