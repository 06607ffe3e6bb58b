/* gemm.h: the matrix product of the wide regime, for rows 9 … 16384 and more. A gpu_gemm is one product as a caller
 * keeps it, made at open: these activations times this matrix. Running it takes nothing but a launch, and the true
 * number of rows is read on the device, so that a captured graph serves every batch of its bucket. Numbers are those of
 * arith.cuh, whatever the rows and the tile. */
#ifndef SSM_CUDA_GEMM_H
#define SSM_CUDA_GEMM_H

#include <cuda.h>

#include "ssm/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

enum gpu_gemm_end {
    GPU_GEMM_HALF, /* y[row][j] = to_half(product), fp16 */
    GPU_GEMM_ADD,  /* y[row][j] += product, fp32 */
    GPU_GEMM_FLOAT /* y[row][j] = product, fp32, written past the caches */
};

struct gpu_gemm {
    CUtensorMap x, w; /* 64-byte aligned, and so must this be: new or aligned_alloc */
    const struct gpu_matrix *matrix;
    uint32_t sms;
    uint32_t begin; /* row of x that is the product's first; 0 after open */
    bool chained;   /* see launch_chained() in wide.h; false after open */
    /* what x is made of, for cuBLASLt, which takes no map */
    const uint16_t *activations;
    size_t ldx;
    uint32_t capacity;
};

/* x: device, fp16 [capacity][ldx], 16-byte aligned, ldx % 8 = 0; elements from matrix->k on are not read. `matrix` is
 * kept by reference. cudaErrorNotSupported: the driver cannot make tensor maps. */
cudaError_t gpu_gemm_open(struct gpu_gemm *ret, const struct gpu_matrix *matrix, const uint16_t *x, size_t ldx,
                          uint32_t capacity);

/* Writes rows [0, min(*rows, rows_bound)), the product's of x from g->begin on, and columns [0, n_out) of y; the tile
 * is chosen by rows_bound. `rows` is device memory. y has room for rows_bound rows, for with matrix->cublas those
 * beyond the count are written too; it is 16-byte aligned and ldy and n_out are multiples of 8 (HALF) or 4; n_out ≤
 * matrix->np. */
void gpu_gemm_run(const struct gpu_gemm *g, enum gpu_gemm_end end, void *y, size_t ldy, uint32_t n_out,
                  const uint32_t *rows, uint32_t rows_bound, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
