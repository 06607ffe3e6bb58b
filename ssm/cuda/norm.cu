/* norm.cu: RMSNorm of rows into fp16, the operand of the next product; one warp per row, which it keeps in registers.
 * Before layer 0 of token models it looks the rows up first.
 *
 * Bytes per row: 4E in (from L2 mostly, out_proj has just written it), 2E out. mamba-130m, 4096 rows: 19 MB,
 * 6.0 µs on one H200.
 *
 * Trap: lanes own the elements that row_rstd() gives them; the sums here are its sums. */
#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/ptx.cuh"
#include "ssm/cuda/wide.h"

enum {
    WARPS = 4,
    HELD_FEW = 8, /* vectors a lane keeps, and as many weights */
    HELD_MANY = 20
};

__device__ __forceinline__ float4 load4(const float *at)
{
    return *reinterpret_cast<const float4 *>(at);
}

/* Where a row's normed values go; NULL: not wanted. */
struct destination {
    float *f;
    uint16_t *u;
};

__device__ __forceinline__ void store_normed(const struct destination &to, uint32_t e, float4 v)
{
    if (to.f)
        *reinterpret_cast<float4 *>(to.f + e) = v;
    if (to.u)
        *reinterpret_cast<uint2 *>(to.u + e) = to_half4(v);
}

/* HELD vectors of 4 a lane are enough for the row; 0: it is read twice. Weights are on their way before the kernel
 * ahead has ended. */
template <int HELD>
__device__ __forceinline__ void norm_row(const float *r, const float *w, uint32_t E, float eps,
                                         const struct destination &to)
{
    const uint32_t first = threadIdx.x % 32 * 4;
    if constexpr (HELD == 0) {
        after_previous();
        start_next();
        float rstd = row_rstd(r, E, eps);
        for (uint32_t e = first; e < E; e += 128)
            store_normed(to, e, normed4(load4(r + e), rstd, load4(w + e)));
    } else {
        float4 v[HELD], k[HELD];
        float s = 0.0f;
#pragma unroll
        for (int i = 0; i < HELD_FEW; i++)
            if (i < HELD && first + i * 128 < E)
                k[i] = load4(w + first + i * 128);
        after_previous();
        start_next();
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (first + i * 128 < E)
                v[i] = load4(r + first + i * 128);
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (first + i * 128 < E)
                s = add_squares(s, v[i]);
        float rstd = rstd_of(s, E, eps);
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (first + i * 128 < E)
                store_normed(to, first + i * 128,
                             normed4(v[i], rstd, i < HELD_FEW ? k[i] : load4(w + first + i * 128)));
    }
}

__device__ __forceinline__ void embed(float *r, const void *table, enum ssm_dtype dtype, size_t at, uint32_t E)
{
    for (uint32_t e = threadIdx.x % 32 * 4; e < E; e += 128)
        *reinterpret_cast<float4 *>(r + e) =
            make_float4(embedded(table, dtype, at + e), embedded(table, dtype, at + e + 1),
                        embedded(table, dtype, at + e + 2), embedded(table, dtype, at + e + 3));
}

/* table NULL: r is there already. */
template <int HELD>
static __global__ void __launch_bounds__(32 * WARPS)
    norm_rows(const struct gpu_pass p, const struct gpu_slice s, const float *w, const void *table,
              enum ssm_dtype dtype, uint32_t E, float eps)
{
    uint32_t i = blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= slice_rows(s))
        return;
    uint32_t row = s.begin + i;
    float *r = p.r + (size_t)row * E;
    if (table)
        embed(r, table, dtype, (size_t)p.tokens[row] * E, E);
    struct destination to = {NULL, p.u + (size_t)row * E};
    norm_row<HELD>(r, w, E, eps, to);
}

template <int HELD>
static __global__ void __launch_bounds__(32 * WARPS)
    norm_last(const struct gpu_pass p, const float *w, uint32_t E, float eps)
{
    uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= p.head->rows)
        return;
    uint32_t pick = p.pick[row];
    struct destination to = {};
    if (p.f)
        to.f = p.f + (size_t)row * E;
    if (pick != GPU_NOT_PICKED)
        to.u = p.u + (size_t)pick * E;
    if (to.f || to.u)
        norm_row<HELD>(p.r + (size_t)row * E, w, E, eps, to);
    else
        after_previous(); /* if nobody wants anything, the kernel must not end before the one ahead all the same */
}

cudaError_t gpu_norm_open(void)
{
    const void *kernels[] = {(const void *)norm_rows<0>, (const void *)norm_rows<HELD_FEW>,
                             (const void *)norm_rows<HELD_MANY>};
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 3 && !e; i++)
        e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
    return e;
}

void gpu_norm(const struct gpu_model *m, const struct gpu_pass *p, uint32_t layer, struct gpu_slice s,
              cudaStream_t stream)
{
    const void *table = layer == 0 && p->tokens ? m->embedding : NULL;
    const uint32_t E = m->d.E;
    auto *kernel = E <= 128 * HELD_FEW    ? norm_rows<HELD_FEW>
                   : E <= 128 * HELD_MANY ? norm_rows<HELD_MANY>
                                          : norm_rows<0>;
    launch_chained(kernel, (s.bound + WARPS - 1) / WARPS, 32 * WARPS, 0, 1, s.chained, stream, *p, s,
                   m->layers[layer].norm, table, m->dtype, E, m->d.eps);
}

void gpu_norm_final(const struct gpu_model *m, const struct gpu_pass *p, uint32_t rows, bool chained,
                    cudaStream_t stream)
{
    const uint32_t E = m->d.E;
    auto *kernel = E <= 128 * HELD_FEW    ? norm_last<HELD_FEW>
                   : E <= 128 * HELD_MANY ? norm_last<HELD_MANY>
                                          : norm_last<0>;
    launch_chained(kernel, (rows + WARPS - 1) / WARPS, 32 * WARPS, 0, 1, chained, stream, *p, m->norm_f, E, m->d.eps);
}
