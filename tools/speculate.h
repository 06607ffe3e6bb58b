/* speculate.h: speculative generation: a small byte model drafts some bytes, the large one reads them in one call, and
 * as many stand as may pass for its own (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318). What comes
 * out has the large model's distribution, exactly; without temperature it is byte for byte what it would have written
 * alone.
 *
 * A rejected draft must leave no trace in the state. So each sample has two slots of the large model: drafts are read
 * in a copy, which takes the slot's place where all of them stood; otherwise the bytes that stood are read again
 * together with the next drafts, in one call. A device that streams its weights once for a few rows does that for
 * nothing.
 *
 * A round has fewer drafts where the small model is not sure: behind one that it gives less than SPECULATE_SURE it
 * drafts no more. That is known before the large model has read anything, so what comes out is the same. */
#ifndef TOOLS_SPECULATE_H
#define TOOLS_SPECULATE_H

#include "daemon/sampler.h"
#include "ssm/ssm.h"

enum { SPECULATE_ROWS = 8, SPECULATE_LENGTH = 6 }; /* most rows of a call and sample; most bytes drafted unless told */

#define SPECULATE_SURE 0.3

/* Where the bytes go. A sample's last byte is the one behind which `room` is 0. */
struct speculation_text {
    void *ctx;
    uint64_t (*room)(void *ctx, uint32_t sample); /* bytes that are wanted of it yet */
    void (*put)(void *ctx, uint32_t sample, uint8_t byte);
};

struct speculated; /* what is kept of a sample */

struct speculation {
    struct ssm_engine *large, *small;
    struct ssm_engine *failed; /* behind an -EIO */
    uint32_t n, length;
    struct ssm_slot *slots; /* [n] of the large model, the caller's; exchanged for others */
    struct speculated *samples;
    struct ssm_item *items;
    int32_t *tokens;                    /* [n][SPECULATE_ROWS] */
    float *logits;                      /* [n][SPECULATE_ROWS][MD_BYTES] */
    uint64_t rounds, drafted, accepted; /* summed over samples */
};

/* Takes n slots of the large engine and 2 n of the small one. 0 or -ENOMEM. length < SPECULATE_ROWS. */
int speculation_open(struct speculation *s, struct ssm_engine *large, struct ssm_engine *small, struct ssm_slot *slots,
                     uint32_t n, uint32_t length);
void speculation_close(struct speculation *s); /* the slots go with their engines */

/* The small model's slot of a sample, to read with what the large one has read, before: */
struct ssm_slot speculation_slot(const struct speculation *s, uint32_t sample);
/* the sample goes on behind this byte, which neither has read. The sampler stays the caller's. */
void speculation_begin(struct speculation *s, uint32_t sample, struct md_sampler *sampler, uint8_t byte);

/* Takes every sample that has room on by at least one byte. 0 or -EIO. */
int speculation_round(struct speculation *s, struct speculation_text text);
/* Leaves each sample's slot of the large model behind all of its text but the last byte. 0 or -EIO. */
int speculation_settle(struct speculation *s);

#endif
