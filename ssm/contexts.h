/* contexts.h: what a stream's own bytes have shown: how often each followed the few before it. Joined with what a byte
 * model thinks it says how likely a byte was here, also where the model has read nothing like it. Plain state without
 * pointers, a part of the slot; memory does not grow, old counts fade. docs/bytes.md has the formulas. */
#ifndef SSM_CONTEXTS_H
#define SSM_CONTEXTS_H

#include <stddef.h>
#include <stdint.h>

size_t ssm_contexts_bytes(void); /* of a state; a multiple of 8 */
void ssm_contexts_reset(void *state);

/* The probability that `byte` had, where the model gave it `p`; then learns the byte. */
double ssm_contexts_read(void *state, uint8_t byte, double p);

#endif
