/* ptx.cuh: the tensor-core, copy, barrier and cluster instructions that kernels share, one function each (PTX ISA 8.0,
 * sm_90a). Shared-memory addresses are 32-bit, from shared_address(). wgmma and tensor maps are gemm.cu's own. */
#ifndef SSM_CUDA_PTX_CUH
#define SSM_CUDA_PTX_CUH

#include <cstdint>

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* d += A·B: A 16 outputs × 16 k (fragments order), B 16 k × 8 rows. Lane 4g+t holds d[0], d[1] = output g of rows 2t,
 * 2t+1 and d[2], d[3] = output g+8 of the same. */
__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8×8 matrices of 16-bit elements; lane 8i+j gives the address of row j of matrix i. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t r[2], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

/* Where ldmatrix_x4() would find them. */
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t r[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* Four 8×8 matrices of 16-bit elements, transposed: lane 4g+t holds elements 2t and 2t+1 of row g, which become element
 * g of rows 2t and 2t+1 in memory; lane 8i+j gives the address of row j there of matrix i. */
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, const uint32_t r[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* ---- mbarriers and bulk copies ---- */

__device__ __forceinline__ void mbarrier_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/* By who has made barriers: after a cluster barrier, relaxed or not, all blocks may use them. */
__device__ __forceinline__ void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* At the same place in block `rank` of the cluster. */
__device__ __forceinline__ void mbarrier_arrive_at(uint32_t bar, uint32_t rank)
{
    asm volatile(
        "{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [a];\n}" ::"r"(
            bar),
        "r"(rank)
        : "memory");
}

__device__ __forceinline__ void mbarrier_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\nw: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra w;\n}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* bytes: a multiple of 16, both addresses 16-byte aligned; completes on `bar`. */
__device__ __forceinline__ void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}

/* The same for what is read once: the first to leave the L2 cache. */
__device__ __forceinline__ uint64_t evict_first(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ void bulk_load_once(uint32_t to, const void *from, uint32_t bytes, uint32_t bar,
                                               uint64_t policy)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(bar), "l"(policy)
        : "memory");
}

__device__ __forceinline__ void prefetch_l2(const void *from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/* Of shared memory: what this thread has stored, before the copy engine or wgmma reads it; what it has read, before the
 * copy engine writes over it. By each such thread, ahead of the barrier that tells. */
__device__ __forceinline__ void fence_async_proxy(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- copies by the threads themselves, into their block's shared memory ---- */

__device__ __forceinline__ void copy16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void copy4(void *to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- clusters ---- */

__device__ __forceinline__ uint32_t cluster_rank(void)
{
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

/* The same shared address in block `rank` of the cluster. */
__device__ __forceinline__ uint32_t address_in(uint32_t address, uint32_t rank)
{
    uint32_t r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}

/* Waits until what has been stored is there for all who wait. */
__device__ __forceinline__ void cluster_arrive(void)
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

/* Without a wait for what has been stored. */
__device__ __forceinline__ void cluster_arrive_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* To an address_in() a block, whose mbarrier `bar` counts the bytes when they are there. */
__device__ __forceinline__ void send16(uint32_t to, const void *from, uint32_t bar)
{
    uint4 v = *static_cast<const uint4 *>(from);
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
        "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar)
        : "memory");
}

__device__ __forceinline__ void send8(uint32_t to, float lo, float hi, uint32_t bar)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to),
                 "f"(lo), "f"(hi), "r"(bar)
                 : "memory");
}

/* ---- warps of a block ---- */

/* Among some of a block's warps, which have this barrier to themselves. */
template <int THREADS> __device__ __forceinline__ void group_sync(uint32_t barrier)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
}

/* A warpgroup's registers a thread, up to N or down to N. */
template <int N> __device__ __forceinline__ void registers_raise(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void registers_lower(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- programmatic launches ---- */

/* Returns when the kernel ahead in the stream has ended and what it wrote is there. */
__device__ __forceinline__ void after_previous(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* The next kernel may begin when all blocks have said so, or ended. */
__device__ __forceinline__ void start_next(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#endif
