/* speculate.c: see speculate.h. A round: the small model reads what it has not read and drafts, byte by byte, in a copy
 * of its slot; the large one reads what its slot is behind with and all drafts; then the drafts are judged in order,
 * each under the sampler as it is behind the bytes before it. */
#include "tools/speculate.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/bytes.h"

struct speculated {
    struct md_sampler *sampler;
    struct ssm_slot attempt;        /* of the large model: reads what may not stand */
    struct ssm_slot read;           /* of the small model, with text only, … */
    struct ssm_slot ahead;          /* … and with drafts */
    int32_t behind[SPECULATE_ROWS]; /* text that the large model's slot has not read; the last byte is always one */
    uint32_t n_behind;
    int32_t unread[SPECULATE_ROWS]; /* text that `read` has not; the last byte is always one */
    uint32_t n_unread;
    uint32_t n; /* drafts of this round */
    uint8_t drafts[SPECULATE_ROWS];
    float q[SPECULATE_ROWS][MD_BYTES]; /* what each was drawn from */
};

int speculation_open(struct speculation *s, struct ssm_engine *large, struct ssm_engine *small, struct ssm_slot *slots,
                     uint32_t n, uint32_t length)
{
    assert(length >= 1 && length < SPECULATE_ROWS);
    *s = (struct speculation){.large = large, .small = small, .n = n, .length = length, .slots = slots};
    s->samples = calloc(n, sizeof *s->samples);
    s->items = calloc(n, sizeof *s->items);
    s->tokens = calloc(n, SPECULATE_ROWS * sizeof *s->tokens);
    s->logits = calloc(n, SPECULATE_ROWS * MD_BYTES * sizeof *s->logits);
    int err = s->samples && s->items && s->tokens && s->logits ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < n && !err; i++) {
        struct speculated *v = &s->samples[i];
        err = ssm_slot_take(large, &v->attempt);
        if (!err)
            err = ssm_slot_take(small, &v->read);
        if (!err)
            err = ssm_slot_take(small, &v->ahead);
    }
    return err ? -ENOMEM : 0;
}

void speculation_close(struct speculation *s)
{
    free(s->samples);
    free(s->items);
    free(s->tokens);
    free(s->logits);
}

struct ssm_slot speculation_slot(const struct speculation *s, uint32_t sample)
{
    return s->samples[sample].read;
}

void speculation_begin(struct speculation *s, uint32_t sample, struct md_sampler *sampler, uint8_t byte)
{
    struct speculated *v = &s->samples[sample];
    v->sampler = sampler;
    v->behind[0] = v->unread[0] = byte;
    v->n_behind = v->n_unread = 1;
}

static float *logits_of(const struct speculation *s, uint32_t sample, uint32_t row)
{
    return s->logits + ((size_t)sample * SPECULATE_ROWS + row) * MD_BYTES;
}

static struct ssm_item item_of(struct ssm_slot slot, const int32_t *tokens, uint32_t n, float *logits)
{
    return (struct ssm_item){
        .slot = slot, .n = n, .tokens = tokens, .interval = 1, .out = {.logits = logits, .logits_stride = MD_BYTES}};
}

static int advance(struct speculation *s, struct ssm_engine *engine, uint32_t n_items)
{
    int err = ssm_advance(engine, s->items, n_items);
    s->failed = err ? engine : NULL;
    return err;
}

static int copy(struct speculation *s, struct ssm_engine *engine, struct ssm_slot from, struct ssm_slot to)
{
    int err = ssm_slot_copy(engine, from, to);
    s->failed = err ? engine : NULL;
    return err;
}

static void exchange(struct ssm_slot *a, struct ssm_slot *b)
{
    struct ssm_slot held = *a;
    *a = *b;
    *b = held;
}

/* ---- drafting --------------------------------------------------------------------------------------------- */

/* The k-th draft of a sample, from the small model's logits behind the one before; the last where it is not sure. */
static void draft(struct speculated *v, uint32_t k, const float *logits)
{
    struct md_sampler then = *v->sampler;
    for (uint32_t i = 0; i < k; i++)
        md_sampler_saw(&then, v->drafts[i]);
    md_sampler_weigh(&then, logits, v->q[k]);
    v->drafts[k] = md_sampler_pick(v->sampler, v->q[k]);
    if ((double)logits[v->drafts[k]] - ssm_bytes_norm(logits) < log(SPECULATE_SURE))
        v->n = k + 1;
}

/* What the small model reads for the k-th draft: all the text that it has not read, or, ahead, the draft before. */
static int read_item(struct speculation *s, uint32_t sample, uint32_t k, struct ssm_item *ret)
{
    struct speculated *v = &s->samples[sample];
    int32_t *token = s->tokens + (size_t)sample * SPECULATE_ROWS;
    float *logits = logits_of(s, sample, 0);
    *token = k > 0 ? v->drafts[k - 1] : 0;
    *ret = k > 0 ? item_of(v->ahead, token, 1, logits) : item_of(v->read, v->unread, v->n_unread, logits);
    return k == 1 ? copy(s, s->small, v->read, v->ahead) : 0;
}

/* The k-th draft of every sample that makes so many. Returns how many do, or -EIO. */
static int draft_all(struct speculation *s, uint32_t k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (k < s->samples[i].n && read_item(s, i, k, &s->items[n++]))
            return -EIO;
    if (n > 0 && advance(s, s->small, n))
        return -EIO;
    for (uint32_t i = 0; i < s->n; i++) {
        struct speculated *v = &s->samples[i];
        if (k >= v->n)
            continue;
        draft(v, k, logits_of(s, i, k > 0 ? 0 : v->n_unread - 1));
        v->n_unread = k > 0 ? v->n_unread : 0;
    }
    return (int)n;
}

/* ---- judging ---------------------------------------------------------------------------------------------- */

static struct ssm_item verify_item(struct speculation *s, uint32_t sample)
{
    struct speculated *v = &s->samples[sample];
    int32_t *tokens = s->tokens + (size_t)sample * SPECULATE_ROWS;
    memcpy(tokens, v->behind, v->n_behind * sizeof *tokens);
    for (uint32_t k = 0; k < v->n; k++)
        tokens[v->n_behind + k] = v->drafts[k];
    return item_of(v->n > 0 ? v->attempt : s->slots[sample], tokens, v->n_behind + v->n, logits_of(s, sample, 0));
}

/* The text has grown by these bytes; the first `stood` were drafts. Slots that have read just the text take their
 * places.
 */
static void settle(struct speculation *s, uint32_t sample, const uint8_t *bytes, uint32_t n, uint32_t stood)
{
    struct speculated *v = &s->samples[sample];
    const bool all = stood == v->n && n > stood;
    if (all && v->n > 0)
        exchange(&s->slots[sample], &v->attempt);
    if (all)
        v->n_behind = 0;
    for (uint32_t i = all ? n - 1 : 0; i < n; i++)
        v->behind[v->n_behind++] = bytes[i];
    const bool ahead = all && v->n > 1; /* has read all drafts but the last */
    if (ahead)
        exchange(&v->read, &v->ahead);
    for (uint32_t i = ahead ? n - 2 : 0; i < n; i++)
        v->unread[v->n_unread++] = bytes[i];
    assert(v->n_behind <= SPECULATE_ROWS && v->n_unread <= SPECULATE_ROWS);
}

/* Drafts stand until one does not, and another byte takes its place; behind the last one there is one more for nothing.
 */
static void judge(struct speculation *s, uint32_t sample, struct speculation_text text)
{
    struct speculated *v = &s->samples[sample];
    uint8_t bytes[SPECULATE_ROWS];
    float p[MD_BYTES];
    uint32_t n = 0, stood = 0, first = v->n_behind - 1;
    for (bool stands = true; stands && n <= v->n && text.room(text.ctx, sample) > 0; n++) {
        md_sampler_weigh(v->sampler, logits_of(s, sample, first + n), p);
        stands = n < v->n && md_sampler_accept(v->sampler, p, v->q[n], v->drafts[n], &bytes[n]);
        if (n == v->n)
            bytes[n] = md_sampler_pick(v->sampler, p);
        stood += stands;
        md_sampler_saw(v->sampler, bytes[n]);
        text.put(text.ctx, sample, bytes[n]);
    }
    s->rounds++;
    s->drafted += v->n;
    s->accepted += stood;
    settle(s, sample, bytes, n, stood);
}

int speculation_round(struct speculation *s, struct speculation_text text)
{
    uint32_t n = 0;
    int drafting = 1;
    for (uint32_t i = 0; i < s->n; i++) {
        struct speculated *v = &s->samples[i];
        uint64_t room = text.room(text.ctx, i);
        uint32_t rows = SPECULATE_ROWS - v->n_behind, most = s->length < rows ? s->length : rows;
        v->n = room == 0 ? 0 : room - 1 < most ? (uint32_t)(room - 1) : most;
        if (v->n > 0 && copy(s, s->large, s->slots[i], v->attempt)) /* a device does it beside the drafting */
            return -EIO;
    }
    for (uint32_t k = 0; k < s->length && drafting > 0; k++)
        drafting = draft_all(s, k);
    if (drafting < 0)
        return -EIO;
    for (uint32_t i = 0; i < s->n; i++)
        if (text.room(text.ctx, i) > 0)
            s->items[n++] = verify_item(s, i);
    if (advance(s, s->large, n))
        return -EIO;
    for (uint32_t i = 0; i < s->n; i++)
        if (text.room(text.ctx, i) > 0)
            judge(s, i, text);
    return 0;
}

int speculation_settle(struct speculation *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct speculated *v = &s->samples[i];
        if (v->n_behind > 1)
            s->items[n++] = item_of(s->slots[i], v->behind, v->n_behind - 1, NULL);
    }
    int err = advance(s, s->large, n);
    for (uint32_t i = 0; i < s->n; i++) {
        struct speculated *v = &s->samples[i];
        v->behind[0] = v->behind[v->n_behind - 1];
        v->n_behind = 1;
    }
    return err;
}
