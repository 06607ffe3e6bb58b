/* contexts.h: what a stream's own bytes have shown: how often each followed the few before it, and how much bytes behind
 * these surprised. Joined with what a byte model thinks it says how surprising a byte was here, also where the model has
 * read nothing like it. Plain state without pointers, a part of the slot; its size is fixed, old counts fade.
 * docs/bytes.md has the formulas. */
#ifndef SSM_CONTEXTS_H
#define SSM_CONTEXTS_H

#include <stddef.h>
#include <stdint.h>

size_t ssm_contexts_bytes(void); /* of a state; a multiple of 8 */
void ssm_contexts_reset(void *state);
void ssm_contexts_copy(const void *from, void *to); /* for next to nothing where neither has learnt anything */

/* How much `byte`, to which the model gave probability p, surprised in this stream, in nats, and how much bytes at such
 * places usually do; then learns it. */
double ssm_contexts_read(void *state, uint8_t byte, double p, double *ret_usual);

#endif
