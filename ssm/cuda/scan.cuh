/* scan.cuh: what scan.cu's two kernels share. */
#ifndef SSM_CUDA_SCAN_CUH
#define SSM_CUDA_SCAN_CUH

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"
#include "ssm/cuda/wide.h"

enum {
    STATES = 16,
    SHORT = 16,  /* most rows in which a unit's segments begin; longer ones are the long kernel's where it runs */
    DT_STEPS = 3 /* of 16 k's on their way together */
};

/* What a layer's scan knows beside the rows; by value. */
struct scan {
    struct gpu_pass p;
    struct gpu_slice s;
    struct gpu_matrix dt_proj;
    const float *A, *skip;
    size_t conv_at, ssm_at; /* of this layer, from a slot's begin */
    uint32_t D;
};

__device__ __forceinline__ float half_at(const uint16_t *at)
{
    return __half2float(__ushort_as_half(*at));
}

/* Channel d's conv window behind a segment of T > 1 rows; `x` is the channel's input of the last one. */
__device__ __forceinline__ void keep_window(uint16_t *window, const uint16_t *x, uint32_t D, uint32_t T)
{
    uint16_t oldest = T > 2 ? *(x - 4 * (size_t)D) : window[2 * (size_t)D];
    window[0] = oldest;
    window[D] = *(x - 2 * (size_t)D);
    window[2 * (size_t)D] = *x;
}

#endif
