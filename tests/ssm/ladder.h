/* ladder.h: the two questions that every op table has to answer, as functions, so that the broken tables of
 * test_broken_ops are asked the same way as the good ones of test_golden and test_bitwise. */
#ifndef TEST_SSM_LADDER_H
#define TEST_SSM_LADDER_H

#include "tests/ssm/rig.h"

struct golden_errors {
    double logits, conv, ssm; /* relative to what PyTorch computed */
};

/* Runs golden folder `dir` on a table. States are compared where the weights are fp32, else 0. */
struct golden_errors golden_run(const char *dir, const char *ops, enum ssm_dtype dtype);

/* Several streams fed step by step, alone, on one thread; then the same in random chunks, batch mixes and thread
 * counts. True if every logit and every byte of the final states is the same. */
bool bitwise_run(const char *preset, const char *ops, enum ssm_dtype dtype, struct rng *r);

#endif
