/* cublas.h: the products of the wide regime by cuBLASLt, for models that need not be deterministic: for each shape the
 * algorithm that it picks, so that a row's bits depend on the rows beside it. gpu_gemm_run() comes here for every
 * matrix that has a copy as cuBLASLt wants it, and computes by itself what is declined.
 *
 * cuBLASLt cannot read the count of rows on the device: all of the bound's rows are computed and written. Those beyond
 * the count hold what their stale activations give; nobody reads them, rows do not mix, and never is one beyond the
 * bound touched, which may be another slice's. So y has room for the bound, as gemm.h asks of every caller. */
#ifndef SSM_CUDA_CUBLAS_H
#define SSM_CUDA_CUBLAS_H

#include "ssm/cuda/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens libcublasLt and copies m's matrices of the wide regime on the device: m->cublas, and `cublas` of each matrix. m
 * is where it stays. Nothing for models that are not fast, which are deterministic in any case. -ELIBACC: the library
 * is not there, or is another one. Close it before the model. */
int gpu_cublas_open(struct gpu_model *m, char *reterr);
void gpu_cublas_close(struct gpu_model *m);

/* Rows [0, rows_bound) and columns [0, n_out) of y. False: nothing was done, and this product is not for cuBLASLt. It
 * can be captured; graphs that were captured from one stream must not run at the same time, for they share its
 * workspace. */
bool gpu_cublas_run(const struct gpu_gemm *g, enum gpu_gemm_end end, void *y, size_t ldy, uint32_t n_out,
                    uint32_t rows_bound, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
