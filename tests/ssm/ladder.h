/* ladder.h: the two questions that every device has to answer, as functions, so that the broken tables of
 * test_broken_ops are asked the same way as the good ones of test_golden and test_bitwise. */
#ifndef TEST_SSM_LADDER_H
#define TEST_SSM_LADDER_H

#include "tests/ssm/play.h"

struct golden_errors {
    double logits, conv, ssm; /* relative to what PyTorch computed */
};

/* Runs golden folder `dir` on a variant. States are compared where weights and states are fp32, else 0. */
struct golden_errors golden_run(const char *dir, const struct rig_variant *v);

/* Several streams fed step by step, alone, on one thread; then the same in random chunks, batch mixes and thread
 * counts. True if every logit and every byte of the final states is the same; else `why` [PLAY_WHY] says where. */
bool bitwise_run(const char *preset, const struct rig_variant *v, struct rng *r, char *why);

#endif
