/* plan.cuh: where a kernel finds what the host planned: device memory, or struct gpu_carried (gpu.h). */
#ifndef SSM_CUDA_PLAN_CUH
#define SSM_CUDA_PLAN_CUH

#include "ssm/cuda/gpu.h"

template <typename T>
static __device__ __forceinline__ const T *planned(const struct gpu_pass &p, const struct gpu_carried &carried,
                                                   const T *at)
{
    const ptrdiff_t place = reinterpret_cast<const uint8_t *>(at) - reinterpret_cast<const uint8_t *>(p.head);
    return p.carried ? reinterpret_cast<const T *>(carried.block + place) : at;
}

#endif
