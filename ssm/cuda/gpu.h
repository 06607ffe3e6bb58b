/* gpu.h: what the files of the CUDA backend share: a model's weights on the device, the work of one pass, and the
 * regimes that can do it. C and CUDA C++; every pointer marked "device" is device memory.
 *
 * Letters as in ssm/ops.h; p: padded to 16. A row is one model step of one slot; a run is a stretch of rows of one slot
 * in time order; a pass is as many rows as go through the model together. The host plans a pass (plan.c), one regime
 * computes it:
 *
 *   cluster   signal-sized models, few rows:  one cluster of blocks per tile of up to 8 rows    cluster.cu
 *   resident  signal-sized models, many rows: one block per tile of up to 64 rows, all layers   resident.cu
 *   few       large models, up to 8 rows: one kernel over the whole chip, weights streamed      few.cu
 *   wide      any number of rows, layer by layer                                                wide.cu
 *   plain     fp32 weights and odd shapes, any number of rows                                   plain.cu
 *
 * The first four use the arithmetic of arith.cuh in one order and give the same bits, whatever the number of rows. */
#ifndef SSM_CUDA_GPU_H
#define SSM_CUDA_GPU_H

#include <cuda_runtime_api.h>

#include "ssm/model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_PADDED(n) (((n) + 15u) / 16u * 16u)

enum {
    GPU_CHUNK = 256,  /* k's summed in one accumulator; chunks are added in ascending order */
    GPU_FEW_ROWS = 8, /* the N of one mma */
    GPU_TILE_ROWS_MAX = 64
};
#define GPU_NOT_PICKED 0xffffffffu

/* y = scale · (W·x) + bias, W [n][k]. Half-precision models hold W·(1/scale) as fp16, scale a power of two per matrix
 * that brings the largest weight near 2^13: bf16 weights lose nothing (their 8 bits fit into fp16's 11, and what falls
 * below fp16's range is 2^-31 of the largest), and activations keep fp16's 11 bits instead of bf16's 8. */
struct gpu_matrix {
    uint32_t n, k;         /* rows and columns that mean something */
    uint32_t np, kp;       /* padded to 16 with zeros */
    const uint16_t *tiled; /* device, fp16 [np/8][kp/8][8][8]: core matrices of 8 outputs × 8 k's (ldmatrix, wgmma) */
    const uint16_t *fragments; /* device, fp16 [np/16][kp/16][32][8]: A fragments of mma.m16n8k16 by lane; signal-sized
                                  models only, else NULL */
    const float *columns;      /* device, fp32 [k][np]: plain models only, else NULL */
    float scale;
    const float *bias;                      /* device [np], zeros where the model has none */
    bool biased;                            /* it has one */
    const struct gpu_cublas_matrix *cublas; /* see cublas.h; NULL: its products are those of arith.cuh for any rows */
};

struct gpu_layer {
    const float *norm;         /* device [E] */
    struct gpu_matrix in_proj; /* n = 2D: x at 0, z at D */
    const float *conv;         /* device [K][D], oldest tap first */
    const float *conv_bias;    /* device [D] */
    struct gpu_matrix x_proj;  /* n = Rp + 2N: Δ's rank at 0 (rows R..Rp are zero), B at Rp, C at Rp + N */
    struct gpu_matrix dt_proj; /* n = D, k = R */
    const float *A;            /* device, −exp(A_log)·log2 e in the layout of a state of fp32: see struct gpu_slab */
    const float *skip;         /* device [D], the paper's D */
    struct gpu_matrix out_proj;
};

struct gpu_dims {
    uint32_t E, D, N, K, R, Rp, L, F, outputs;
    float eps;
};

struct gpu_model {
    const struct ssm_model *model;
    struct gpu_dims d;
    enum ssm_dtype dtype;     /* as asked for */
    bool fast;                /* half weights, N = 16, K = 4, E % 16 = 0, D % 64 = 0, Rp ≤ 256: all but plain.cu */
    bool resident;            /* fast, and small enough for resident.cu and cluster.cu (they say so) */
    const void *embedding;    /* device [vocab][E] in `dtype`; tokens */
    struct gpu_matrix input;  /* [E][F]; samples */
    struct gpu_layer *layers; /* [L] */
    const struct gpu_layer *layers_device; /* the same on the device */
    const float *norm_f;                   /* device */
    struct gpu_matrix head;                /* [outputs][E]; n = 0: none */
    void *block;                           /* the one device allocation behind all of it */
    size_t bytes;
    struct gpu_cublas *cublas; /* gpu_cublas_open(); NULL: deterministic */
};

int gpu_model_open(const struct ssm_model *model, enum ssm_dtype dtype, struct gpu_model *ret, char *reterr);
void gpu_model_close(struct gpu_model *m);

/* Slots' states, in chunks that are allocated when a slot in them is first reset. A slot's bytes: for every layer the
 * conv window, then for every layer the SSM state.
 *
 *   conv window  [K−1][D], oldest first; fp16 in fast models (inputs of the convolution are fp16 there), else fp32
 *   SSM state    [⌈D/32⌉][⌈N/e⌉][32][e] with e = 16 bytes' worth of states: lane d % 32 of a warp reads 16 bytes at a
 * time, neighbours next to each other. Pads are zero and stay so. */
struct gpu_slab {
    enum ssm_dtype conv, state;
    size_t conv_layer, ssm_layer; /* bytes from one layer to the next, multiples of 16 */
    size_t ssm_at;                /* of layer 0's state; conv of layer 0 is at 0 */
    size_t stride;                /* bytes of a slot, a multiple of 128 */
    uint32_t per_chunk, n_chunks; /* slots */
    uint8_t **chunks;             /* host array of device pointers; NULL where not allocated yet */
    uint8_t *image;               /* host, pinned: a slot's bytes on their way to or from the device */
};

int gpu_slab_open(const struct gpu_model *m, enum ssm_dtype state, uint32_t slots, struct gpu_slab *ret, char *reterr);
void gpu_slab_close(struct gpu_slab *s);
/* To zeros, in stream order. -ENOMEM: the device has no memory for another chunk. */
int gpu_slab_reset(struct gpu_slab *s, uint32_t slot, cudaStream_t stream);
int gpu_slab_copy(const struct gpu_slab *s, uint32_t from, uint32_t to, cudaStream_t stream); /* in stream order */
/* Sections "conv" and "ssm" of saved slots (ssm/slot.h): fp32 [L][K−1][D] and [L][N][D]. Both wait for the stream. */
int gpu_slab_save(const struct gpu_slab *s, const struct gpu_model *m, uint32_t slot, float *conv, float *ssm,
                  cudaStream_t stream);
int gpu_slab_restore(struct gpu_slab *s, const struct gpu_model *m, uint32_t slot, const float *conv, const float *ssm,
                     cudaStream_t stream);
static inline uint8_t *gpu_slab_at(const struct gpu_slab *s, uint32_t slot)
{
    return s->chunks[slot / s->per_chunk] + (size_t)(slot % s->per_chunk) * s->stride;
}

/* ---- one pass ---- */

struct gpu_run {
    uint8_t *slot; /* device */
    uint32_t row, T;
};

/* Rows [row, row + rows) that make up whole runs [run, run + n_runs). */
struct gpu_tile {
    uint32_t run, n_runs, row, rows;
};

/* Tiles that must be taken in order: a long run goes on from one into the next. Mostly n = 1. */
struct gpu_chain {
    uint32_t tile, n;
};

enum {
    GPU_ROWS = 65536, /* of a pass, at most */
    GPU_SLICE = 4096, /* of a slice: a block of scan.cu looks for segments with one thread per 16 */
    GPU_SLICES = GPU_ROWS / (GPU_SLICE / 2)
};

/* What the wide regime cuts a pass into: slice i is the rows from begin[i] to where the next one begins. */
struct gpu_slices {
    uint32_t n, begin[GPU_SLICES];
    bool waits[GPU_SLICES]; /* in each layer, for the scan of the one before */
    bool long_runs;
};

/* Counts of a pass, in device memory, so that a captured graph serves every batch of its bucket. */
struct gpu_head {
    uint32_t rows, n_runs, n_tiles, n_chains;
    uint32_t n_picked; /* rows of `out` */
    uint32_t n_out;    /* head outputs wanted of each, a multiple of 16, ≤ head.np; 0: none */
};

/* Passed to kernels by value. All device memory, made at open for `capacity` rows. */
struct gpu_pass {
    uint32_t capacity;
    struct gpu_slab_view {
        size_t conv_layer, ssm_layer, ssm_at;
    } slab;
    /* written by the host before the pass */
    bool carried; /* it is in struct gpu_carried, and not where these point */
    const struct gpu_head *head;
    const struct gpu_run *runs;   /* [n_runs], by row */
    const uint32_t *run_of;       /* [rows] index into runs */
    const float *g;               /* [rows] gap factors */
    const int32_t *tokens;        /* [rows], or NULL: */
    const float *features;        /* [rows][Fp] */
    const uint32_t *pick;         /* [rows] the row of `out` that this row's head outputs go to, or GPU_NOT_PICKED */
    const struct gpu_tile *tiles; /* cluster and resident only */
    const struct gpu_chain *chains;
    /* results */
    float *out; /* [n_picked][ldo] */
    float *f;   /* [rows][E] after the final norm, or NULL: not wanted */
    size_t ldo;
    /* in between; not every regime uses all. fp16 as uint16_t; in models that are not fast all of these are fp32 */
    float *r;       /* [rows][E] residual stream; with features, gpu_input() writes it before the regime runs */
    uint16_t *u;    /* [rows][E] normed */
    uint16_t *xz;   /* [rows][2D] in_proj's output */
    uint16_t *xc;   /* [rows][D] after the convolution */
    float *bc;      /* [rows][2N]: B, C */
    uint16_t *dt;   /* [rows][Rp] */
    uint16_t *y;    /* [rows][D] gated */
    float *partial; /* scratch of few.cu: gpu_few_scratch() bytes */
    uint32_t *sync; /* scratch for barriers and work counters, zero at open: GPU_SYNC_WORDS; every kernel leaves its
                       words as it needs to find them */
};
enum { GPU_SYNC_WORDS = 512 }; /* [0, 256): few, [256, 512): resident */

/* A small plan as an argument of a kernel, which saves a copy's way to the device: the head first, the rest as far from
 * it as p's pointers are from p->head. Kernels look through planned() of plan.cuh. */
struct gpu_carried {
    uint8_t block[1024] __attribute__((aligned(16)));
};

/* r = input·features, on mma, same bits for every number of rows. */
void gpu_input(const struct gpu_model *m, const struct gpu_pass *p, const struct gpu_carried *plan, uint32_t rows,
               cudaStream_t stream);

/* Each launches a pass of `rows` rows in `n_runs` runs on `stream` and returns; `state` is the slab's dtype. Errors are
 * left in cudaGetLastError(). gpu_*_open() is called once per engine (function attributes, occupancy); false: this
 * model is not for that regime. */
bool gpu_cluster_open(const struct gpu_model *m);
bool gpu_resident_open(const struct gpu_model *m);
bool gpu_few_open(const struct gpu_model *m);
size_t gpu_few_scratch(const struct gpu_model *m);
uint32_t gpu_cluster_rows(const struct gpu_model *m); /* the most rows for which it is the better choice */
uint32_t gpu_resident_tile(const struct gpu_model *m,
                           uint32_t rows); /* rows per tile for a pass of so many: 8, 16, 32 or 64 */
void gpu_cluster(const struct gpu_model *m, const struct gpu_pass *p, const struct gpu_carried *plan,
                 enum ssm_dtype state, uint32_t n_chains, cudaStream_t stream);
void gpu_resident(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t tile_rows,
                  uint32_t n_chains, cudaStream_t stream);
void gpu_few(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, cudaStream_t stream);

/* wide: norm, in_proj, select (convolution and x_proj), scan (dt_proj, scan, gate), out_proj; then the head. */
struct gpu_wide; /* what it keeps: products, streams and events for slices that overlap */
int gpu_wide_open(const struct gpu_model *m, const struct gpu_pass *p, struct gpu_wide **ret, char *reterr);
void gpu_wide_close(struct gpu_wide **w);
void gpu_wide_run(struct gpu_wide *w, const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state,
                  const struct gpu_slices *slices, uint32_t rows, uint32_t n_runs, uint32_t n_picked, uint32_t n_out,
                  cudaStream_t stream);

void gpu_plain(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t rows,
               uint32_t n_runs, uint32_t n_picked, uint32_t n_out, cudaStream_t stream);

/* One line for a person from a CUDA error: "MODEL: WHAT: cudaErrorX (text)". Returns -ENOMEM, -ENODEV or -EIO. */
int gpu_fail(char *reterr, const char *model, const char *what, cudaError_t e);

/* Waits for copies, zeros and kernels without a stream. cudaDeviceSynchronize() would break off what another engine's
 * thread captures. */
static inline cudaError_t gpu_sync_default(void)
{
    return cudaStreamSynchronize(cudaStreamLegacy);
}

#ifdef __cplusplus
}
#endif
#endif
