/* scan.cu: Δ = softplus(dt_proj·dt), the selective scan, skip and gate: what reads and writes the states. Two kernels
 * with the same bits; gpu_scan() launches one or both: scan_short.cuh, scan_long.cuh.
 *
 * Ladder (mamba-130m, one layer: 2048 one-row runs, bf16 states / one run of 2048 rows / 16 runs of 128):
 *   1. units of two warps, 8 an SM / four lanes a channel, 32 channels a block: 97.4 / 146 / 61.9 µs
 *   2. tiles of even height / 16 channels a block, steps pipelined, four warps that feed two, no turn in common:
 *      4096 rows 170 µs / one run of 4096 rows 163 / 16 of 256 129
 *   3. warps of three roles, 32 channels a block: H200: one run of 4096 rows 235 µs on 48 multiprocessors, 16 of 256 95
 *   4. 64 channels a block, stages unrolled: H200: 365 µs on 24, 75
 *   5. not unrolled, 32 channels a block for a run alone: H200, the whole layer: one run of 4096 rows 314 µs, 16 of 256
 *      165 (2.: 318, 214; 3.: 328, 185; 4.: 457, 164); many slices: wide.cu
 *   6. states of four rows ahead into L2: H200: 1024 / 4096 one-row runs 34.7 / 124 µs (before: 35.7 / 140)
 *   7. softplus without range reduction: long scans and whole steps in wide.cu
 *
 * Trap: a segment's old conv window must be read before the new one is written (keep_window(), by the thread that has
 * the channel), and select.cu of the same slice must be done with it. */
#include <cassert>

#include "ssm/cuda/scan_long.cuh"
#include "ssm/cuda/scan_short.cuh"

enum { SHARED_MAX = 227 * 1024 }; /* of a block */

/* What a kernel may have is the process's: the same for every model, or the last to open would limit the others. */
template <enum ssm_dtype S> static cudaError_t allow(void)
{
    const void *kernels[] = {(const void *)scan_short<S>, (const void *)scan_long<S, PACKED>,
                             (const void *)scan_long<S, SPREAD>};
    const int bytes[] = {UNITS * (int)sizeof(struct short_shared), SHARED_MAX, SHARED_MAX};
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 3 && !e; i++) {
        e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes[i]);
        if (!e)
            e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
    }
    return e;
}

cudaError_t gpu_scan_open(const struct gpu_model *m)
{
    cudaError_t e = long_bytes<PACKED>(m) <= SHARED_MAX ? allow<SSM_F32>() : cudaErrorInvalidValue;
    if (!e)
        e = allow<SSM_BF16>();
    return e ? e : allow<SSM_F16>();
}

/* Runs of one row: the short kernel alone, of any length. Few and long ones: the long kernel alone, of any length. */
template <enum ssm_dtype S>
static void launch(const struct gpu_model *m, const struct scan &c, uint32_t rows, uint32_t n_runs, uint32_t sms,
                   cudaStream_t stream)
{
    const bool single = n_runs >= rows, by_run = n_runs <= FINDERS && n_runs <= rows / STAGE;
    const uint32_t found = by_run ? n_runs : (c.s.bound + SHORT - 1) / SHORT;
    if (!by_run)
        launch_short<S>(c, single ? UINT32_MAX : SHORT, sms, stream);
    if (single)
        return;
    if (c.D / SPREAD * found <= sms)
        launch_long<S, SPREAD>(m, c, by_run, c.D / SPREAD * found, sms, stream);
    else
        launch_long<S, PACKED>(m, c, by_run, c.D / PACKED * found, sms, stream);
}

void gpu_scan(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t layer,
              struct gpu_slice s, uint32_t rows, uint32_t n_runs, uint32_t sms, cudaStream_t stream)
{
    assert(s.bound <= GPU_SLICE);
    const struct gpu_layer *l = &m->layers[layer];
    struct scan c = {};
    c.p = *p;
    c.s = s;
    c.dt_proj = l->dt_proj;
    c.A = l->A;
    c.skip = l->skip;
    c.conv_at = layer * p->slab.conv_layer;
    c.ssm_at = p->slab.ssm_at + layer * p->slab.ssm_layer;
    c.D = m->d.D;
    if (state == SSM_F32)
        launch<SSM_F32>(m, c, rows, n_runs, sms, stream);
    else if (state == SSM_BF16)
        launch<SSM_BF16>(m, c, rows, n_runs, sms, stream);
    else
        launch<SSM_F16>(m, c, rows, n_runs, sms, stream);
}
