/* queue.h: the device's half of a pass: its buffers, its way there and back, and the regime that computes it. Called by
 * the engine's thread.
 *
 * Passes go through one of two sets of buffers in turn and are completed in the order in which they were sent, so that
 * the host plans one, or writes the outputs of one, while the device computes another. The first error of the device
 * is kept: from then on nothing is launched and nothing comes back. */
#ifndef SSM_CUDA_QUEUE_H
#define SSM_CUDA_QUEUE_H

#include "ssm/cuda/plan.h"

enum { GPU_SETS = 2, GPU_GRAPHS = 64 };

enum gpu_regime { GPU_CLUSTER, GPU_RESIDENT, GPU_FEW, GPU_WIDE, GPU_PLAIN };

struct gpu_set {
    struct gpu_plan plan;
    struct gpu_pass pass;
    enum gpu_regime regime;
    uint32_t tile_rows;
    uint64_t batch;
    bool sent;   /* has a part for the device */
    bool sliced; /* its logits come back a slice at a time, when they are fetched */
    bool small;  /* its kernel itself writes to `out` and `f`, and the host watches */
    bool owes;   /* was waited for, and its time is not in `busy` yet */
    uint8_t *in, *in_device;
    float *out, *f; /* pinned */
    float *out_device, *f_device;
    cudaEvent_t staged, begun, computed, done;
};

/* A captured pass of a bucket. */
struct gpu_graph {
    struct gpu_graph_key {
        uint32_t set, rows, n_runs, n_picked, n_out, f;
    } key;
    cudaGraphExec_t exec;
};

struct gpu_queue {
    const struct gpu_model *m;
    enum ssm_dtype state;
    bool samples, resident, few;
    uint32_t cluster_rows; /* of a pass, at most; 0: not for this model */
    struct gpu_wide *wide;
    uint32_t capacity, out_capacity; /* rows of a pass, and of its `out` */
    size_t ring;                     /* bytes of a set's pinned `out` */
    uint8_t *device, *pinned;        /* blocks behind all buffers */
    size_t device_bytes, pinned_bytes;
    struct gpu_pass pass; /* what all passes have in common */
    cudaStream_t compute, up, down;
    cudaEvent_t slices[2];
    struct gpu_set sets[GPU_SETS];
    unsigned next, under_way; /* set of the next pass; passes sent and not dropped */
    struct gpu_graph graphs[GPU_GRAPHS];
    unsigned n_graphs;
    bool no_graphs;
    double busy; /* seconds */
    int err;
    char why[SSM_ERR];
};

/* 0 or a negative errno; gpu_queue_close() in either case. */
int gpu_queue_open(struct gpu_queue *q, const struct gpu_model *m, const struct gpu_slab *slab,
                   const struct ssm_layout *layout, enum ssm_dtype state, char *reterr);
void gpu_queue_close(struct gpu_queue *q);

/* Keeps the first error; true while there is none. */
bool gpu_queue_check(struct gpu_queue *q, const char *what, cudaError_t e);

/* The plan of the next pass; fewer than GPU_SETS are under way. */
struct gpu_plan *gpu_queue_plan(struct gpu_queue *q);
/* Sends it, with its rows planned, as part of `batch`. */
void gpu_queue_send(struct gpu_queue *q, uint64_t batch);

/* Of the oldest pass under way. wait: until it is computed and what is not sliced is back; false: the device failed. */
struct gpu_set *gpu_queue_oldest(struct gpu_queue *q);
bool gpu_queue_wait(struct gpu_queue *q);
bool gpu_queue_done(struct gpu_queue *q, uint64_t batch); /* nothing up to this batch would have to be waited for */
/* After wait: lines [from, *ret_to) of its `out`; asked for in order, and the lines before are not needed any more. */
const float *gpu_queue_lines(struct gpu_queue *q, uint32_t from, uint32_t *ret_to);
void gpu_queue_drop(struct gpu_queue *q);

double gpu_queue_busy(struct gpu_queue *q); /* seconds, of all passes that were waited for */

/* The device's part of the last pass, `times` times on end; nothing is under way. */
int gpu_queue_replay(struct gpu_queue *q, uint32_t times, float *ret_us);

#endif
