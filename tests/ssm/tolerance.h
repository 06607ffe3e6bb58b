/* tolerance.h: every bound that the engine's tests use, why it is what it is, and the worst value seen so far. Errors
 * are ‖a − b‖₂ / ‖b‖₂. Compare as !(error <= bound), so that NaN fails. */
#ifndef TEST_SSM_TOLERANCE_H
#define TEST_SSM_TOLERANCE_H

/* Against fp32 arithmetic on the same rounded weights. fp32: sums in another order and other exp's, through tens of
 * layers. bf16, fp16: tables may also round activations to the weights' dtype. These are the project's promises, not
 * what the tables need. */
#define TOLERANCE_F32 1e-4
#define TOLERANCE_BF16 1e-2
#define TOLERANCE_BF16_DEEP 2e-2 /* from 24 layers */
#define TOLERANCE_F16 1e-2

#endif
