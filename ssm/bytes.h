/* bytes.h: what a byte model says of the bytes that it reads: how much each surprised it, and how strange each record
 * was by the stream's own measure (docs/bytes.md). Works on the host, on the logits that any device gave; the state is
 * the section "bytes" of the stream's slot. Pure functions of one stream; any thread. */
#ifndef SSM_BYTES_H
#define SSM_BYTES_H

#include "ssm/ssm.h"

enum { SSM_BYTES = 256, SSM_RECORDS_WARM = 256 /* records before the calibrator is warm */ };

size_t ssm_bytes_state(void); /* bytes of a slot's section */
void ssm_bytes_reset(void *state);
void ssm_bytes_copy(const void *from, void *to);

double ssm_bytes_norm(const float *logits); /* ln Σ exp over SSM_BYTES logits: byte b has −ln p = this − logits[b] */
const float *ssm_bytes_logits(const void *state); /* behind the last byte; NULL: there was none */

/* What one advance gave: the item as in ssm.h, its logits written. */
void ssm_bytes_run(const struct ssm_item *item, void *state);

#endif
