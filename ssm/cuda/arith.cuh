/* arith.cuh: the arithmetic of a model step, once. cluster.cu, resident.cu, few.cu and wide.cu's kernels use these and
 * nothing else for numbers that reach a slot or an output, so that they agree bit for bit. The order of every sum is
 * part of it:
 *
 *   products  W·x by mma.m16n8k16 (or wgmma, which gives the same bits: tests/ssm/test_cuda), ascending k, one fp32
 *             accumulator per GPU_CHUNK k's starting from zero; total = chunk 0, then + chunk 1, + chunk 2 …
 *   norm      see row_rstd()
 *   states    y's sum over n: four chains of four, (s0 + s1) + (s2 + s3)
 *
 * Explicit _rn intrinsics: the compiler must not contract or reorder. */
#ifndef SSM_CUDA_ARITH_CUH
#define SSM_CUDA_ARITH_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ssm/cuda/gpu.h"

#define LOG2E 1.4426950408889634f

__device__ __forceinline__ float ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* To fp16, saturated at ±65504: an activation beyond is clipped, never infinite. NaN stays NaN. */
__device__ __forceinline__ __half to_half(float x)
{
    uint16_t h;
    asm("cvt.rn.satfinite.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return __ushort_as_half(h);
}

__device__ __forceinline__ __half2 to_half2(float lo, float hi)
{
    uint32_t h;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(hi), "f"(lo));
    return *reinterpret_cast<__half2 *>(&h);
}

/* Two halves as a word, and the numbers that a word holds. */
__device__ __forceinline__ uint32_t bits(__half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

__device__ __forceinline__ float2 to_float2(uint32_t bits)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(&bits));
}

__device__ __forceinline__ uint2 to_half4(float4 v)
{
    return make_uint2(bits(to_half2(v.x, v.y)), bits(to_half2(v.z, v.w)));
}

/* The end of a product: total of all chunks, the matrix's scale and bias (0 where there is none). */
__device__ __forceinline__ float product(float total, float scale, float bias)
{
    return __fmaf_rn(total, scale, bias);
}

/* x / (1 + e^-x). The divisor is at least 1, so that no scaling keeps it from underflow, as __fdividef() would. */
__device__ __forceinline__ float silu(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(__fadd_rn(1.0f, ex2(__fmul_rn(-LOG2E, x)))));
    return __fmul_rn(x, y);
}

/* log(1 + e^x) = max(x, 0) + log1p(t), t = e^-|x| ≤ 1, for which 1 + t·(a minimax polynomial) is log1p(t) / t
 * to 3.3e-8; the whole is within 1.8e-7 where |x| < 1 and e^x's own error below. */
__device__ __forceinline__ float softplus(float x)
{
    const float t = ex2(__fmul_rn(-LOG2E, fabsf(x)));
    float p = 0.0053648753091692924f;
    p = __fmaf_rn(p, t, -0.030066007748246193f);
    p = __fmaf_rn(p, t, 0.07920489460229874f);
    p = __fmaf_rn(p, t, -0.13753831386566162f);
    p = __fmaf_rn(p, t, 0.19153666496276855f);
    p = __fmaf_rn(p, t, -0.24857166409492493f);
    p = __fmaf_rn(p, t, 0.3332132399082184f);
    p = __fmaf_rn(p, t, -0.49999648332595825f);
    p = __fmaf_rn(p, t, 1.0f);
    return __fmaf_rn(t, p, fmaxf(x, 0.0f));
}

/* Causal convolution of width 4 and SiLU; x0 is the oldest input. */
__device__ __forceinline__ __half conv4(float x0, float x1, float x2, float x3, const float w[4], float bias)
{
    float a = __fmaf_rn(w[0], x0, bias);
    a = __fmaf_rn(w[1], x1, a);
    a = __fmaf_rn(w[2], x2, a);
    a = __fmaf_rn(w[3], x3, a);
    return to_half(silu(a));
}

/* 1/sqrt(mean(r²) + eps) of a row of E floats (E % 4 = 0, 16-byte aligned), by all 32 lanes of a warp: lane i sums
 * elements 128·j + 4·i + 0…3 in that order, then a butterfly. Every lane gets the result. */
__device__ __forceinline__ float add_squares(float s, float4 v)
{
    s = __fmaf_rn(v.x, v.x, s);
    s = __fmaf_rn(v.y, v.y, s);
    s = __fmaf_rn(v.z, v.z, s);
    return __fmaf_rn(v.w, v.w, s);
}
__device__ __forceinline__ float rstd_of(float s, uint32_t E, float eps) /* s: this lane's sum */
{
    for (int m = 16; m > 0; m >>= 1)
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, m));
    return rsqrtf(__fadd_rn(__fdiv_rn(s, (float)E), eps));
}
__device__ __forceinline__ float row_rstd(const float *r, uint32_t E, float eps)
{
    float s = 0.0f;
    for (uint32_t e = (threadIdx.x & 31) * 4; e < E; e += 128)
        s = add_squares(s, *reinterpret_cast<const float4 *>(r + e));
    return rstd_of(s, E, eps);
}

__device__ __forceinline__ float normed(float r, float rstd, float w)
{
    return __fmul_rn(__fmul_rn(r, rstd), w);
}

__device__ __forceinline__ float4 normed4(float4 r, float rstd, float4 w)
{
    return make_float4(normed(r.x, rstd, w.x), normed(r.y, rstd, w.y), normed(r.z, rstd, w.z), normed(r.w, rstd, w.w));
}

/* ---- states ---- */

template <enum ssm_dtype S> struct state_type;
template <> struct state_type<SSM_F32> {
    typedef float type;
};
template <> struct state_type<SSM_BF16> {
    typedef __nv_bfloat16 type;
};
template <> struct state_type<SSM_F16> {
    typedef __half type;
};

/* In the upper half of the word, zeros below: a float again. */
__device__ __forceinline__ float rounded_bf16(float h)
{
    __nv_bfloat162 b = __floats2bfloat162_rn(0.0f, h);
    return __uint_as_float(*reinterpret_cast<uint32_t *>(&b));
}

/* 16 states of one channel: 16/PER vectors of 16 bytes, `32` vectors (one warp's worth) apart in memory. */
template <enum ssm_dtype S> struct state16 {
    enum { PER = S == SSM_F32 ? 4 : 8, VECTORS = 16 / PER };
    uint4 raw[VECTORS];

    __device__ __forceinline__ void load(const uint8_t *at) /* address of this lane's first vector */
    {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            raw[i] = __ldcs(reinterpret_cast<const uint4 *>(at + (size_t)i * 512));
    }
    __device__ __forceinline__ void store(uint8_t *at) const
    {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            __stcs(reinterpret_cast<uint4 *>(at + (size_t)i * 512), raw[i]);
    }
    __device__ __forceinline__ void unpack(float h[16]) const
    {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const uint32_t w[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (S == SSM_F32) {
                    h[i * PER + j] = __uint_as_float(w[j]);
                } else if (S == SSM_BF16) {
                    h[i * PER + 2 * j] = __uint_as_float(w[j] << 16);
                    h[i * PER + 2 * j + 1] = __uint_as_float(w[j] & 0xffff0000u);
                } else {
                    float2 f = to_float2(w[j]);
                    h[i * PER + 2 * j] = f.x;
                    h[i * PER + 2 * j + 1] = f.y;
                }
            }
        }
    }
    /* Rounds h to the state's dtype, keeps the bits; h is left rounded. bf16: to the upper half of a word each, so that
     * h need not be unpacked again; what is kept is put together where it is stored. */
    __device__ __forceinline__ void pack(float h[16])
    {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            uint32_t w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (S == SSM_F32) {
                    w[j] = __float_as_uint(h[i * PER + j]);
                } else if (S == SSM_BF16) {
#pragma unroll
                    for (int k = 0; k < 2; k++)
                        h[i * PER + 2 * j + k] = rounded_bf16(h[i * PER + 2 * j + k]);
                    w[j] = __byte_perm(__float_as_uint(h[i * PER + 2 * j]), __float_as_uint(h[i * PER + 2 * j + 1]),
                                       0x7632);
                } else {
                    w[j] = bits(to_half2(h[i * PER + 2 * j], h[i * PER + 2 * j + 1]));
                }
            }
            raw[i] = make_uint4(w[0], w[1], w[2], w[3]);
        }
        if (S == SSM_F16)
            unpack(h);
    }
};

/* Where lane d % 32 finds the first vector of channel d's 16 states: `layer` is the address of the layer's state. */
template <enum ssm_dtype S> __device__ __forceinline__ uint8_t *state_at(uint8_t *layer, uint32_t d)
{
    return layer + (size_t)(d / 32) * state16<S>::VECTORS * 512 + (d % 32) * 16;
}

/* A quarter of a channel's states, 4q … 4q+3, where four lanes share a channel; the same rounding. */
template <enum ssm_dtype S> struct state4 {
    enum { WORDS = S == SSM_F32 ? 4 : 2 };
    uint32_t raw[WORDS];

    __device__ __forceinline__ void load(const uint8_t *at) /* from state4_at() */
    {
        if constexpr (S == SSM_F32) {
            uint4 v = __ldcs(reinterpret_cast<const uint4 *>(at));
            raw[0] = v.x, raw[1] = v.y, raw[2] = v.z, raw[3] = v.w;
        } else {
            uint2 v = __ldcs(reinterpret_cast<const uint2 *>(at));
            raw[0] = v.x, raw[1] = v.y;
        }
    }
    __device__ __forceinline__ void store(uint8_t *at) const
    {
        if constexpr (S == SSM_F32)
            __stcs(reinterpret_cast<uint4 *>(at), make_uint4(raw[0], raw[1], raw[2], raw[3]));
        else
            __stcs(reinterpret_cast<uint2 *>(at), make_uint2(raw[0], raw[1]));
    }
    __device__ __forceinline__ void unpack(float h[4]) const
    {
#pragma unroll
        for (int j = 0; j < WORDS; j++) {
            if constexpr (S == SSM_F32) {
                h[j] = __uint_as_float(raw[j]);
            } else if constexpr (S == SSM_BF16) {
                h[2 * j] = __uint_as_float(raw[j] << 16);
                h[2 * j + 1] = __uint_as_float(raw[j] & 0xffff0000u);
            } else {
                float2 f = to_float2(raw[j]);
                h[2 * j] = f.x;
                h[2 * j + 1] = f.y;
            }
        }
    }
    __device__ __forceinline__ void pack(float h[4])
    {
#pragma unroll
        for (int j = 0; j < WORDS; j++) {
            if constexpr (S == SSM_F32) {
                raw[j] = __float_as_uint(h[j]);
            } else if constexpr (S == SSM_BF16) {
                __nv_bfloat162 b = __floats2bfloat162_rn(h[2 * j], h[2 * j + 1]);
                raw[j] = *reinterpret_cast<uint32_t *>(&b);
            } else {
                raw[j] = bits(to_half2(h[2 * j], h[2 * j + 1]));
            }
        }
        if (S != SSM_F32)
            unpack(h);
    }
};

template <enum ssm_dtype S> __device__ __forceinline__ uint8_t *state4_at(uint8_t *layer, uint32_t d, uint32_t q)
{
    enum { BYTES = state4<S>::WORDS * 4, PER_VECTOR = 16 / BYTES };
    return layer + ((size_t)(d / 32) * state16<S>::VECTORS + q / PER_VECTOR) * 512 + (d % 32) * 16 +
           q % PER_VECTOR * BYTES;
}

/* A of channel d, from the layer's table in fp32 state layout. */
__device__ __forceinline__ void load_A(const float *table, uint32_t d, float A[16])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 v = __ldg(reinterpret_cast<const float4 *>(table + (size_t)(d / 32) * 512 + i * 128 + (d % 32) * 4));
        A[4 * i] = v.x;
        A[4 * i + 1] = v.y;
        A[4 * i + 2] = v.z;
        A[4 * i + 3] = v.w;
    }
}

/* The part of y that states n0 … n0+3 add, and their update (eq. 2a, 2b; Euler B̄ = Δ·B). `dg` = Δ·g, `dx` = Δ·x. h is
 * to be rounded to the state's dtype between the two. decay4()'s halves: what does not need the state, and what does.
 */
__device__ __forceinline__ void decay4_operands(float a[4], float b[4], const float A[4], const float B[4], float dg,
                                                float dx)
{
#pragma unroll
    for (int n = 0; n < 4; n++) {
        a[n] = ex2(__fmul_rn(dg, A[n]));
        b[n] = __fmul_rn(dx, B[n]);
    }
}
__device__ __forceinline__ void decay4_apply(float h[4], const float a[4], const float b[4])
{
#pragma unroll
    for (int n = 0; n < 4; n++)
        h[n] = __fmaf_rn(a[n], h[n], b[n]);
}
__device__ __forceinline__ void decay4(float h[4], const float A[4], const float B[4], float dg, float dx)
{
    float a[4], b[4];
    decay4_operands(a, b, A, B, dg, dx);
    decay4_apply(h, a, b);
}
__device__ __forceinline__ float read4(const float h[4], const float C[4])
{
    float s = __fmul_rn(h[0], C[0]);
#pragma unroll
    for (int n = 1; n < 4; n++)
        s = __fmaf_rn(h[n], C[n], s);
    return s;
}

/* One step of one channel, all 16 states: returns the gated y. */
__device__ __forceinline__ float gate(float s01_23, float skip, float x, float z)
{
    return __fmul_rn(__fmaf_rn(skip, x, s01_23), silu(z));
}
template <enum ssm_dtype S>
__device__ __forceinline__ float scan_step(state16<S> &state, float h[16], const float A[16], const float *B,
                                           const float *C, float delta, float g, float x, float z, float skip)
{
    float dg = __fmul_rn(delta, g), dx = __fmul_rn(delta, x), s[4];
#pragma unroll
    for (int q = 0; q < 4; q++)
        decay4(h + 4 * q, A + 4 * q, B + 4 * q, dg, dx);
    state.pack(h);
#pragma unroll
    for (int q = 0; q < 4; q++)
        s[q] = read4(h + 4 * q, C + 4 * q);
    return gate(__fadd_rn(__fadd_rn(s[0], s[1]), __fadd_rn(s[2], s[3])), skip, x, z);
}

/* Element e of a token's embedding as fp32. */
__device__ __forceinline__ float embedded(const void *table, enum ssm_dtype dtype, size_t at)
{
    if (dtype == SSM_F32)
        return static_cast<const float *>(table)[at];
    if (dtype == SSM_BF16)
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(table)[at]);
    return __half2float(static_cast<const __half *>(table)[at]);
}

#endif
