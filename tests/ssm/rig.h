/* rig.h: what the engine's tests are set up with: seeded random numbers, engines, folders that vanish. */
#ifndef TEST_SSM_RIG_H
#define TEST_SSM_RIG_H

#include "ssm/ops.h"
#include "ssm/ssm.h"

struct rng {
    uint64_t state;
};

struct rng rig_rng(const char *test);          /* seed from MAMBAD_TEST_SEED or the clock; printed */
uint32_t rig_below(struct rng *r, uint32_t n); /* uniform in [0, n) */
double rig_normal(struct rng *r);

struct ssm_model *rig_random(const char *preset);
struct ssm_engine *rig_engine(const struct ssm_model *m, const char *ops, enum ssm_dtype dtype, uint32_t threads,
                              uint32_t slots);
struct ssm_slot rig_slot(struct ssm_engine *e);

/* The i-th (table, dtype) pair that this machine can run; false past the last. */
bool rig_variant(unsigned i, const char **ret_ops, enum ssm_dtype *ret_dtype);

/* A new folder below TMPDIR; rig_sweep() removes all of them. */
const char *rig_folder(void);
void rig_sweep(void);
uint8_t *rig_read(const char *dir, const char *file, size_t *ret_bytes);
void rig_write(const char *dir, const char *file, const void *bytes, size_t n);

#endif
