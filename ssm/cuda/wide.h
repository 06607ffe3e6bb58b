/* wide.h: what the kernels of the wide regime share. wide.cu takes each slice of a pass through the layers; norm.cu,
 * select.cu and scan.cu are a layer's steps between the matrix products. Each launches on `stream` and returns; errors
 * stay in cudaGetLastError().
 *
 * A slice is treated as if it were a pass of its own: a run that crosses its border is handed on through the slot, conv
 * window and state, so slices that share a run must go through a layer's select and scan in order. A segment is what a
 * slice has of a run. Rows are counted from the slice's begin wherever a name does not say otherwise. */
#ifndef SSM_CUDA_WIDE_H
#define SSM_CUDA_WIDE_H

#include "ssm/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows [begin, begin + bound) of a pass that is cut. One that is not may be captured for others: of those rows it has
 * as many as the count on the device says. */
struct gpu_slice {
    uint32_t begin, bound; /* rows, ≤ GPU_SLICE */
    const uint32_t *rows;  /* device: of the pass */
    bool chained; /* the kernel may start before the one ahead of it in the stream has ended: launch_chained() */
};

/* Once per engine: shared memory. All ask for as much of it as a multiprocessor has, as the products do, so that
 * kernels of different slices can be on one at the same time. */
cudaError_t gpu_norm_open(void);
cudaError_t gpu_select_open(void);
cudaError_t gpu_scan_open(const struct gpu_model *m);

/* u = RMSNorm(r) as fp16; before layer 0 of token models r = embedding[token]. */
void gpu_norm(const struct gpu_model *m, const struct gpu_pass *p, uint32_t layer, struct gpu_slice s,
              cudaStream_t stream);

/* f = RMSNorm(r) where wanted, and as fp16 the picked rows into u[pick]. */
void gpu_norm_final(const struct gpu_model *m, const struct gpu_pass *p, uint32_t rows, bool chained,
                    cudaStream_t stream);

/* xc = silu(conv1d(x));  dt, B, C = x_proj·xc. Conv windows of segments of one row are taken on, the others' by the
 * scan. */
void gpu_select(const struct gpu_model *m, const struct gpu_pass *p, uint32_t layer, struct gpu_slice s, uint32_t sms,
                cudaStream_t stream);

/* Δ = softplus(dt_proj·dt);  h = exp(Δ·g·A)·h + Δ·B·xc;  y = (C·h + D·xc)·silu(z). `rows` and `n_runs` are the pass's
 * bounds, and only decide which kernels are launched: the closer to the truth, the faster. `sms`: multiprocessors that
 * may be filled. */
void gpu_scan(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t layer,
              struct gpu_slice s, uint32_t rows, uint32_t n_runs, uint32_t sms, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t slice_rows(const struct gpu_slice &s)
{
    return min(*s.rows, s.bound);
}

struct segment {
    uint8_t *slot;
    uint32_t begin, end;
};

/* What a slice of `rows` has of a run. */
__device__ __forceinline__ struct segment segment_in(const struct gpu_run &run, const struct gpu_slice &s,
                                                     uint32_t rows)
{
    struct segment seg;
    seg.slot = run.slot;
    seg.begin = run.row > s.begin ? run.row - s.begin : 0;
    seg.end = min(run.row + run.T - s.begin, rows);
    return seg;
}

/* The segment that row i < rows is part of. */
__device__ __forceinline__ struct segment segment_of(const struct gpu_pass &p, const struct gpu_slice &s, uint32_t rows,
                                                     uint32_t i)
{
    return segment_in(p.runs[p.run_of[s.begin + i]], s, rows);
}

/* ---- chained kernels ----
 *
 * A kernel that is launched chained begins when all blocks of the one ahead have said so, by start_next() (ptx.cuh), or
 * ended. It may do anything that needs nothing of that one until after_previous(). Every kernel calls both,
 * start_next() after after_previous(): then all kernels but the one ahead have ended when a kernel begins, and it may
 * read, but not write, what they left. `cluster`: blocks of one, as a part of the grid. Chained kernels must not follow
 * a wait for an event. */
template <class... Parameters, class... Arguments>
static inline void launch_chained(void (*kernel)(Parameters...), dim3 grid, uint32_t threads, size_t shared,
                                  dim3 cluster, bool chained, cudaStream_t stream, const Arguments &...arguments)
{
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = cluster.x;
    attributes[0].val.clusterDim.y = cluster.y;
    attributes[0].val.clusterDim.z = cluster.z;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = chained ? 2 : 1;
    cudaLaunchKernelEx(&config, kernel, arguments...);
}
#endif
#endif
