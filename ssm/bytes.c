/* bytes.c: see bytes.h. Sums over the 256 logits run in one order, in double; what is stored as float is rounded once.
 * Trap: a row's logits are needed for the byte after it, so they become log-probabilities only then. */
#include "ssm/bytes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct bytes {
    uint64_t known; /* there was a byte before: */
    double norm;    /* ln of the sum of its logits' exponentials, */
    float logits[SSM_BYTES];
};

size_t ssm_bytes_state(void)
{
    return sizeof(struct bytes);
}

void ssm_bytes_reset(void *state)
{
    memset(state, 0, sizeof(struct bytes));
}

/* ln Σ exp(x) */
static double norm_of(const float *x)
{
    float most = x[0];
    double sum = 0.0;
    for (int i = 1; i < SSM_BYTES; i++)
        most = x[i] > most ? x[i] : most;
    for (int i = 0; i < SSM_BYTES; i++)
        sum += (double)expf(x[i] - most);
    return log(sum) + (double)most;
}

static void normalise(float *row, double norm)
{
    for (int i = 0; i < SSM_BYTES; i++)
        row[i] = (float)((double)row[i] - norm);
}

void ssm_bytes_run(const struct ssm_item *item, void *state)
{
    struct bytes *s = state;
    const struct ssm_scored *to = &item->scored;
    float *before = s->logits;
    assert(to->surprise && item->out.logits);
    for (uint32_t k = 0; k < item->n; k++) {
        float *row = item->out.logits + k * item->out.logits_stride;
        to->surprise[k] = s->known ? (float)(s->norm - (double)before[item->tokens[k]]) : NAN;
        if (k > 0 && to->log_probs)
            normalise(before, s->norm);
        if (item->out.warmup)
            item->out.warmup[k] = 0;
        s->known = 1;
        s->norm = norm_of(row);
        before = row;
    }
    memcpy(s->logits, before, sizeof s->logits);
    if (to->log_probs)
        normalise(before, s->norm);
}
