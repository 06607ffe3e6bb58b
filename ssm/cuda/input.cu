/* input.cu: r = input·features for models of samples: the features of a row, fp32 from the host, become fp16 operands
 * of mma. A block takes 8 rows, its warps every fourth 16 outputs; the weights are a few KB and stay in L1. Bytes per
 * row: 4·Fp in, 4E out; the whole is a launch's time for any pass the signal models see. */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/plan.cuh"
#include "ssm/cuda/ptx.cuh"

enum { WARPS = 4 };

__device__ __forceinline__ uint32_t half_pair(const float *x)
{
    float2 v = *reinterpret_cast<const float2 *>(x);
    return bits(to_half2(v.x, v.y));
}

/* k's [k, k + 16) of one lane's row; NULL: a row beyond the last. */
__device__ __forceinline__ void load_pair(uint32_t b[2], const float *x, uint32_t k)
{
    b[0] = x ? half_pair(x + k) : 0;
    b[1] = x ? half_pair(x + k + 8) : 0;
}

/* 16 outputs of 8 rows: the total over k. */
__device__ __forceinline__ void dot(float total[4], const struct gpu_matrix &w, uint32_t tile, const float *x)
{
    uint32_t lane = threadIdx.x % 32, cores = w.kp / 8;
    const uint32_t *tiled = reinterpret_cast<const uint32_t *>(w.tiled) + (size_t)tile * 2 * cores * 32 + lane;
    for (uint32_t from = 0; from < w.kp; from += GPU_CHUNK) {
        float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (uint32_t k = from; k < w.kp && k < from + GPU_CHUNK; k += 16) {
            uint32_t a[4], b[2];
            for (uint32_t i = 0; i < 4; i++)
                a[i] = __ldg(tiled + ((size_t)(i % 2) * cores + k / 8 + i / 2) * 32);
            load_pair(b, x, k + lane % 4 * 2);
            mma_16816(acc, a, b);
        }
        for (uint32_t i = 0; i < 4; i++)
            total[i] = from == 0 ? acc[i] : __fadd_rn(total[i], acc[i]);
    }
}

static __global__ void __launch_bounds__(32 * WARPS)
    input_rows(const __grid_constant__ struct gpu_pass p, const __grid_constant__ struct gpu_matrix w,
               const __grid_constant__ struct gpu_carried carried)
{
    uint32_t rows = planned(p, carried, p.head)->rows, first = blockIdx.x * 8, lane = threadIdx.x % 32;
    if (first >= rows)
        return;
    const float *x =
        first + lane / 4 < rows ? planned(p, carried, p.features) + (size_t)(first + lane / 4) * w.kp : NULL;
    for (uint32_t tile = threadIdx.x / 32; tile < w.np / 16; tile += WARPS) {
        float total[4];
        dot(total, w, tile, x);
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = first + lane % 4 * 2 + i % 2, e = tile * 16 + lane / 4 + i / 2 * 8;
            if (row < rows)
                p.r[(size_t)row * w.n + e] = product(total[i], w.scale, w.bias[e]);
        }
    }
}

void gpu_input(const struct gpu_model *m, const struct gpu_pass *p, const struct gpu_carried *plan, uint32_t rows,
               cudaStream_t stream)
{
    input_rows<<<(rows + 7) / 8, 32 * WARPS, 0, stream>>>(*p, m->input, *plan);
}
