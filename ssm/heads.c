/* heads.c: final norm and head products. A signal model's head has a near part, computed for every row because the next
 * patch is scored under it, and a far part, computed for rows that publish a forecast; a token model's head is all far.
 * Runs on the workers of a tile. Trap: what is requested may only decide what is computed, never what enters a slot. */
#include "ssm/heads.h"

#include <string.h>

static bool wants_far(const struct ssm_tile *t, const struct ssm_entry *e, uint32_t k)
{
    return t->layout->model->config.input == SSM_TOKENS ? e->item->out.logits != NULL : ssm_signal_wants_far(t, e, k);
}

/* How many head outputs an entry's picked rows need. */
static uint32_t outputs_of(const struct ssm_tile *t, const struct ssm_entry *e)
{
    const struct ssm_config *c = &t->layout->model->config;
    return c->input == SSM_TOKENS ? c->vocab : ssm_signal_far(c, e->item) * c->n_quantiles;
}

void ssm_heads_pick(struct ssm_tile *t)
{
    t->far_n = 0;
    for (uint32_t i = 0; i < t->n_entries; i++) {
        struct ssm_entry *e = &t->entries[i];
        e->picked = t->n_picked;
        for (uint32_t k = 0; k < e->T; k++)
            if (wants_far(t, e, k))
                t->picked[t->n_picked++] = e->row + k;
        if (t->n_picked > e->picked && outputs_of(t, e) > t->far_n)
            t->far_n = outputs_of(t, e);
    }
}

/* f = RMSNorm(r), by rows; the picked ones are set side by side for their GEMM. */
void ssm_heads_norm(struct ssm_tile *t, struct ssm_part_of part)
{
    const struct ssm_dims *d = &t->w->dims;
    size_t from, to;
    ssm_share(t->rows, 1, part, &from, &to);
    if (to > from)
        t->w->ops->rmsnorm(t->f + from * t->ldr, t->ldr, t->r + from * t->ldr, t->ldr, t->w->norm_f,
                           (uint32_t)(to - from), d->E, d->eps);
    for (uint32_t i = 0; i < t->n_picked; i++)
        if (t->picked[i] >= from && t->picked[i] < to)
            memcpy(t->picked_f + i * t->ldr, t->f + t->picked[i] * t->ldr, d->Ep * sizeof(float));
}

static uint32_t whole_steps(const struct ssm_tile *t, uint32_t n)
{
    uint32_t step = t->w->ops->n_step, up = (n + step - 1) / step * step;
    return up < t->w->head.n ? up : t->w->head.n;
}

void ssm_heads_gemm(struct ssm_tile *t, struct ssm_part_of part, const struct ssm_scratch *s)
{
    const struct ssm_config *c = &t->layout->model->config;
    const struct ssm_weight *head = &t->w->head;
    uint32_t near_n = ssm_near(c) * c->n_quantiles, step = t->w->ops->n_step;
    if (near_n)
        ssm_layer_gemm(t, head, t->f, t->ldr, t->rows, t->near, t->ldnear, false, 0, whole_steps(t, near_n), part, s);
    if (t->n_picked)
        ssm_layer_gemm(t, head, t->picked_f, t->ldr, t->n_picked, t->out, t->ldo, false, near_n / step * step,
                       whole_steps(t, t->far_n), part, s);
}

static void write_logits(struct ssm_tile *t, const struct ssm_entry *e)
{
    const struct ssm_out *out = &e->item->out;
    uint64_t done = e->step - e->call_step;
    if (!out->logits)
        return;
    for (uint32_t k = 0; k < e->T; k++)
        memcpy(out->logits + (done + k) * out->logits_stride, t->out + (e->picked + k) * t->ldo,
               t->w->dims.outputs * sizeof(float));
}

void ssm_heads_write(struct ssm_tile *t, struct ssm_part_of part)
{
    size_t from, to;
    ssm_share(t->n_entries, 1, part, &from, &to);
    for (size_t i = from; i < to; i++) {
        if (t->layout->model->config.input == SSM_TOKENS)
            write_logits(t, &t->entries[i]);
        else
            ssm_signal_write(t, &t->entries[i]);
    }
}
