/* bench.h: measuring the engine: options, the model under test, floors of this machine, a peer in alternation; on GPUs
 * the published table against published peers. `mambactl bench --help` describes the commands. Everything runs on the
 * calling thread and the engine's workers. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "ssm/backend.h"

enum { BENCH_RUNS_MAX = 99 };
#define BENCH_ERROR_MAX 2e-2 /* beyond it nothing is timed */

/* One line of a table: B streams, each advanced by T steps in one call, over and over. */
struct bench_case {
    const char *preset; /* or NULL: */
    const char *dir;    /* a model folder */
    enum ssm_dtype weights, state;
    uint32_t streams, steps, spare; /* spare: slots beyond the streams' */
    bool last;                      /* logits of each stream's last step only; language models, T > 1 */
};

struct bench_options {
    struct bench_case one;
    bool all; /* the published table instead */
    const char *device;
    bool not_deterministic;
    const char *ops; /* NULL: the best */
    const char *peer;
    const char *draft; /* preset or folder of bench generate's small model; NULL: none */
    uint32_t draft_length;
    uint32_t threads, runs;
    double seconds; /* of one run; 0: as the device needs */
    bool json;
};

/* -1: go on; else the exit code to leave with. */
int bench_parse(struct bench_options *o, int argc, char **argv, const char *usage);

/* ---- the model under test ---- */

struct bench_rig {
    const struct bench_case *what;
    const struct bench_options *options;
    struct ssm_model *model;
    const struct ssm_model_info *info;
    struct ssm_engine *engine;
    uint32_t steps; /* of a call; ≤ what->steps */
    struct ssm_slot *slots;
    struct ssm_item *items;
    int32_t *tokens;
    double *samples;
    float *out;
    uint64_t seed;
};

/* 0 or an exit code, the message printed. */
int bench_rig_open(struct bench_rig *rig, const struct bench_case *what, const struct bench_options *o);
void bench_rig_close(struct bench_rig *rig);

/* ‖a − b‖/‖b‖ of what a few streams of the whole batch put out, in a few calls of as many steps as that takes seconds
 * for, against ops_ref, or, for large models, against the best CPU table. 0 or an exit code, the message printed. */
int bench_verify(struct bench_rig *rig, double *ret_error);

int bench_rig_rate(struct bench_rig *rig, double seconds,
                   double *ret_rate); /* steps/s over at least so long; 0 or -EIO */
/* µs of a call by the device's clock, median of `runs` stretches of at least so long, inputs and outputs on the device;
 * -ENOTSUP where the device has no clock, -EINVAL where the batch is more than it takes at once. */
int bench_rig_replay(struct bench_rig *rig, uint32_t runs, double seconds, double *ret_us);

/* Work of one call. */
struct bench_work {
    double bytes; /* weights read once, states read and written once */
    double flops; /* of the matrix products and the scan */
};
struct bench_work bench_work_of(const struct bench_rig *rig);

/* ---- floors ---- */

double bench_floor_read(double bytes, uint32_t threads);     /* bytes/s of a read loop over so many bytes */
double bench_floor_flops(const char *ops, uint32_t threads); /* of multiply-adds as that table does them; 0: unknown */

/* Verifies, warms up, times and prints one case; `header` prints the column heads first. An exit code. */
int bench_measure(const struct bench_options *o, const struct bench_case *what, bool header);

/* Runs `peer PRESET` (or folder) and takes the last number of its standard output; negative: failed, said on stderr. */
double bench_peer_rate(const char *peer, const char *preset);

double bench_median(double *values, uint32_t n); /* sorts them */
const char *bench_dtype(enum ssm_dtype d);

/* ---- GPUs ---- */

bool bench_on_gpu(const struct bench_options *o);
int bench_gpu(const struct bench_options *o, bool scans); /* the table, or o->one; an exit code */

#endif
