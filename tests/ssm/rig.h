/* rig.h: what the engine's tests are set up with: what they run on, seeded random numbers, engines, folders that
 * vanish.
 *
 * One suite for every device. A test program takes, beside its own arguments, "cuda" (it runs on the GPU with every
 * dtype of weights and states instead of on the CPU's op tables; without a GPU it exits with 77, or fails where
 * MAMBAD_REQUIRE_GPU=1) and "light" (a few small cases, for compute-sanitizer). */
#ifndef TEST_SSM_RIG_H
#define TEST_SSM_RIG_H

#include "ssm/ops.h"
#include "ssm/ssm.h"

struct rng {
    uint64_t state;
};

struct rng rig_rng(const char *test);          /* from test_seed() of tests/seed.h */
uint32_t rig_below(struct rng *r, uint32_t n); /* uniform in [0, n) */
double rig_normal(struct rng *r);

/* What a case runs on. */
struct rig_variant {
    const char *device, *ops; /* ops: of the CPU, NULL for the best */
    enum ssm_dtype weights, state;
};

/* Takes "cuda" and "light" out of argv. 0: go on; else the code to exit with, the reason printed. */
int rig_begin(int *argc, char **argv);
bool rig_cuda(void);
bool rig_light(void);

bool rig_variant(unsigned i, struct rig_variant *ret); /* the i-th that this machine can run; false past the last */
struct rig_variant rig_common(void);                   /* the one for tests that need no more than one */
struct rig_variant rig_cpu(const char *ops, enum ssm_dtype weights);
extern const struct rig_variant rig_ref;              /* the scalar truth, fp32 */
struct rig_variant rig_truth(enum ssm_dtype weights); /* the fastest CPU table that keeps activations in fp32 */
const char *rig_name(const struct rig_variant *v);    /* "cuda bf16 weights fp32 state"; valid until the next call */

/* The i-th size of a small signal model, as of ssm_model_random(): one for each way that the device has through such
 * models; NULL past the last. */
const char *rig_signal_size(unsigned i);

struct ssm_model *rig_random(const char *preset);
/* The same with smaller skips and larger projections: in freshly initialised models the states say next to nothing in
 * the outputs, and what is wrong with them would not be seen there. */
struct ssm_model *rig_vivid(const char *preset);
struct ssm_engine *rig_engine(const struct ssm_model *m, const struct rig_variant *v, uint32_t threads, uint32_t slots);
struct ssm_slot rig_slot(struct ssm_engine *e);

/* A new folder below TMPDIR; rig_sweep() removes all of them. */
const char *rig_folder(void);
void rig_sweep(void);
uint8_t *rig_read(const char *dir, const char *file, size_t *ret_bytes);
void rig_write(const char *dir, const char *file, const void *bytes, size_t n);

#endif
