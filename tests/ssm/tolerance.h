/* tolerance.h: every bound that the engine's tests use, why it is what it is, and the worst value seen so far. Errors
 * are ‖a − b‖₂ / ‖b‖₂. Compare as !(error <= bound), so that NaN fails. */
#ifndef TEST_SSM_TOLERANCE_H
#define TEST_SSM_TOLERANCE_H

/* Against fp32 arithmetic on the same rounded weights. fp32: sums in another order and other exp's, through tens of
 * layers. bf16: tables may also hold activations in 16 bits. These are the project's promises, not
 * what the tables need. */
#define TOLERANCE_F32 1e-4  /* seen against PyTorch: logits 1.3e-6, conv state 6e-7, SSM state 2e-6 */
#define TOLERANCE_BF16 1e-2 /* seen: 1.3e-6 where activations stay fp32 */
#define TOLERANCE_F16 1e-2  /* seen: 1.1e-6 */

#endif
