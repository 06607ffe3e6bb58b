/* bench.h: measuring the engine: options, the model under test, floors of this machine, a peer in alternation.
 * `mambactl bench --help` describes the commands. Everything runs on the calling thread and the engine's workers. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "ssm/ops.h"
#include "ssm/ssm.h"

enum { BENCH_RUNS_MAX = 99 };

/* One line of a table: B streams, each advanced by T steps in one call, over and over. */
struct bench_case {
    const char *preset; /* or NULL: */
    const char *dir;    /* a model folder */
    enum ssm_dtype weights;
    uint32_t streams, steps;
};

struct bench_options {
    struct bench_case one;
    bool all;        /* the published table instead */
    const char *ops; /* NULL: the best */
    const char *peer;
    uint32_t threads, runs;
    double seconds; /* of one run */
    bool json;
};

/* -1: go on; else the exit code to leave with. */
int bench_parse(struct bench_options *o, int argc, char **argv, const char *usage);

/* ---- the model under test ---- */

struct bench_rig {
    const struct bench_case *what;
    struct ssm_model *model;
    const struct ssm_model_info *info;
    struct ssm_engine *engine;
    struct ssm_slot *slots;
    struct ssm_item *items;
    int32_t *tokens;
    double *samples;
    float *out;
    uint64_t seed;
};

/* 0 or an exit code, the message printed. */
int bench_rig_open(struct bench_rig *rig, const struct bench_case *what, const char *ops, uint32_t threads);
void bench_rig_close(struct bench_rig *rig);
double bench_rig_rate(struct bench_rig *rig, double seconds); /* steps/s of a run of at least so long */

/* ‖a − b‖/‖b‖ of the outputs of a few calls, against ops_ref. 0 or an exit code, the message printed. */
int bench_verify(const struct bench_case *what, const char *ops, uint32_t threads, double *ret_error);

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

#endif
