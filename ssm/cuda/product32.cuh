/* product32.cuh: plain.cu's matrix product, in fp32. It sums SUM_CHUNK k's at a time, ascending, from zero, and adds
 * the chunks' sums in ascending order. Two kernels do that, one for few rows and one for many, with the same bits, so
 * either may serve any number of rows. Both take their counts from device memory and stride over the tiles. */
#ifndef SSM_CUDA_PRODUCT32_CUH
#define SSM_CUDA_PRODUCT32_CUH

#include "ssm/cuda/gpu.h"

enum {
    SUM_CHUNK = 64,   /* short, so that the chunks of a lone row fill the chip */
    FEW_OUTPUTS = 32, /* of a block of product_few: one per lane */
    FEW_ROWS = 8,
    FEW_WARPS = 16,  /* at most: chunks at a time */
    FEW_LOADS = 32,  /* weights in flight per thread */
    MANY_ROWS = 128, /* tile of product_many */
    MANY_OUTPUTS = 64,
    MANY_K = 16,
    MANY_BLOCK = 256,
    MANY_TILES = 132 /* from so many on product_many is the faster one */
};

static __host__ __device__ __forceinline__ uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* y[m][n] (+)= Σ_k W[n][k]·x[m][k] + bias[n]; outputs from `split` on go to y2 instead. */
struct product32 {
    const float *columns, *bias; /* [k][np], [np] */
    uint32_t n, np, k;
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy;
    uint32_t split;
    float *y2;
    size_t ldy2;
    bool add;
    const uint32_t *rows;   /* device */
    const uint32_t *wanted; /* device: how many outputs, up to np; NULL: n */
};

static __device__ __forceinline__ uint32_t wanted_of(const struct product32 &a)
{
    return a.wanted ? min(*a.wanted, a.np) : a.n;
}

static __device__ __forceinline__ void put(const struct product32 &a, uint32_t row, uint32_t n, float total)
{
    float v = __fadd_rn(total, __ldg(a.bias + n));
    float *at = n < a.split ? a.y + row * a.ldy + n : a.y2 + row * a.ldy2 + (n - a.split);
    *at = a.add ? __fadd_rn(*at, v) : v;
}

/* A warp's chunk of x to shared memory as [k][row], zeros beyond the ends. */
static __device__ __forceinline__ void stage_few(const struct product32 &a, uint32_t row, uint32_t rows, uint32_t k0,
                                                 float *to)
{
#pragma unroll
    for (uint32_t j = 0; j < SUM_CHUNK / 32 * FEW_ROWS; j++) {
        uint32_t i = j / FEW_ROWS * 32 + threadIdx.x, m = j % FEW_ROWS;
        to[i * FEW_ROWS + m] = row + m < rows && k0 + i < a.k ? __ldg(a.x + (row + m) * a.ldx + k0 + i) : 0.0f;
    }
}

static __device__ __forceinline__ void load_few(const struct product32 &a, uint32_t n, uint32_t k, float w[FEW_LOADS])
{
#pragma unroll
    for (uint32_t i = 0; i < FEW_LOADS; i++)
        w[i] = n < a.np && k + i < a.k ? __ldg(a.columns + (size_t)(k + i) * a.np + n) : 0.0f;
}

/* One chunk of one output, all rows of the tile; x: FEW_ROWS·SUM_CHUNK floats of the warp's own. */
static __device__ __forceinline__ void sum_few(const struct product32 &a, uint32_t n, uint32_t row, uint32_t rows,
                                               uint32_t k0, float *x, float sum[FEW_ROWS])
{
    float w[FEW_LOADS];
    load_few(a, n, k0, w);
    stage_few(a, row, rows, k0, x);
    __syncwarp();
#pragma unroll
    for (uint32_t from = 0; from < SUM_CHUNK; from += FEW_LOADS) {
        if (from > 0)
            load_few(a, n, k0 + from, w);
#pragma unroll
        for (uint32_t i = 0; i < FEW_LOADS; i++) {
            const float4 *v = reinterpret_cast<const float4 *>(x + (from + i) * FEW_ROWS);
            float4 lo = v[0], hi = v[1];
            sum[0] = __fmaf_rn(w[i], lo.x, sum[0]);
            sum[1] = __fmaf_rn(w[i], lo.y, sum[1]);
            sum[2] = __fmaf_rn(w[i], lo.z, sum[2]);
            sum[3] = __fmaf_rn(w[i], lo.w, sum[3]);
            sum[4] = __fmaf_rn(w[i], hi.x, sum[4]);
            sum[5] = __fmaf_rn(w[i], hi.y, sum[5]);
            sum[6] = __fmaf_rn(w[i], hi.z, sum[6]);
            sum[7] = __fmaf_rn(w[i], hi.w, sum[7]);
        }
    }
}

/* Tiles of 32 outputs × 8 rows: each warp a chunk at a time, then the chunks' sums in order. Warp w adds up rows w,
 * w + warps, … */
static __global__ void __launch_bounds__(32 * FEW_WARPS) product_few(struct product32 a)
{
    extern __shared__ float4 shared[];
    float *x = reinterpret_cast<float *>(shared) + threadIdx.y * (SUM_CHUNK * FEW_ROWS);
    float *sums = reinterpret_cast<float *>(shared) + blockDim.y * (SUM_CHUNK * FEW_ROWS); /* [warp][row][output] */
    uint32_t rows = *a.rows, wanted = wanted_of(a), across = ceil_div(wanted, FEW_OUTPUTS);
    uint32_t items = across * ceil_div(rows, FEW_ROWS), chunks = ceil_div(a.k, SUM_CHUNK);
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        uint32_t n = item % across * FEW_OUTPUTS + threadIdx.x, row = item / across * FEW_ROWS;
        float total[FEW_ROWS] = {};
        for (uint32_t first = 0; first < chunks; first += blockDim.y) {
            uint32_t count = min(blockDim.y, chunks - first);
            if (threadIdx.y < count) {
                float sum[FEW_ROWS] = {};
                sum_few(a, n, row, rows, (first + threadIdx.y) * SUM_CHUNK, x, sum);
#pragma unroll
                for (uint32_t m = 0; m < FEW_ROWS; m++)
                    sums[(threadIdx.y * FEW_ROWS + m) * FEW_OUTPUTS + threadIdx.x] = sum[m];
            }
            __syncthreads();
#pragma unroll
            for (uint32_t m = 0; m < FEW_ROWS; m++)
                for (uint32_t c = 0; m % blockDim.y == threadIdx.y && row + m < rows && c < count; c++)
                    total[m] = __fadd_rn(total[m], sums[(c * FEW_ROWS + m) * FEW_OUTPUTS + threadIdx.x]);
            __syncthreads();
        }
#pragma unroll
        for (uint32_t m = 0; m < FEW_ROWS; m++)
            if (m % blockDim.y == threadIdx.y && row + m < rows && n < wanted)
                put(a, row + m, n, total[m]);
    }
}

/* What a thread carries from global to shared memory for MANY_K k's. */
struct many_load {
    float4 w;
    float x[MANY_ROWS / 16];
};

struct __align__(16) many_tile
{
    float w[MANY_K][MANY_OUTPUTS];
    float x[MANY_K][MANY_ROWS + 4]; /* the pad spreads a column of stores over the banks */
};

static __device__ __forceinline__ void load_many(const struct product32 &a, uint32_t n0, uint32_t row, uint32_t rows,
                                                 uint32_t k0, struct many_load *v)
{
    uint32_t lo = threadIdx.x % 16, hi = threadIdx.x / 16, n = n0 + lo * 4;
    v->w = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (n < a.np && k0 + hi < a.k)
        v->w = __ldg(reinterpret_cast<const float4 *>(a.columns + (size_t)(k0 + hi) * a.np + n));
#pragma unroll
    for (uint32_t i = 0; i < MANY_ROWS / 16; i++) {
        uint32_t m = row + hi + 16 * i;
        v->x[i] = m < rows && k0 + lo < a.k ? __ldg(a.x + m * a.ldx + k0 + lo) : 0.0f;
    }
}

static __device__ __forceinline__ void store_many(struct many_tile *tile, const struct many_load *v)
{
    uint32_t lo = threadIdx.x % 16, hi = threadIdx.x / 16;
    *reinterpret_cast<float4 *>(&tile->w[hi][lo * 4]) = v->w;
#pragma unroll
    for (uint32_t i = 0; i < MANY_ROWS / 16; i++)
        tile->x[lo][hi + 16 * i] = v->x[i];
}

static __device__ __forceinline__ void sum_many(const struct many_tile *tile, float sum[8][4])
{
    uint32_t lo = threadIdx.x % 16, hi = threadIdx.x / 16;
#pragma unroll
    for (uint32_t k = 0; k < MANY_K; k++) {
        float4 w = *reinterpret_cast<const float4 *>(&tile->w[k][lo * 4]);
        float4 x[2] = {*reinterpret_cast<const float4 *>(&tile->x[k][hi * 8]),
                       *reinterpret_cast<const float4 *>(&tile->x[k][hi * 8 + 4])};
        const float of[8] = {x[0].x, x[0].y, x[0].z, x[0].w, x[1].x, x[1].y, x[1].z, x[1].w};
#pragma unroll
        for (uint32_t m = 0; m < 8; m++) {
            sum[m][0] = __fmaf_rn(w.x, of[m], sum[m][0]);
            sum[m][1] = __fmaf_rn(w.y, of[m], sum[m][1]);
            sum[m][2] = __fmaf_rn(w.z, of[m], sum[m][2]);
            sum[m][3] = __fmaf_rn(w.w, of[m], sum[m][3]);
        }
    }
}

static __device__ __forceinline__ void end_chunk(float total[8][4], float sum[8][4])
{
#pragma unroll
    for (uint32_t i = 0; i < 32; i++) {
        total[i / 4][i % 4] = __fadd_rn(total[i / 4][i % 4], sum[i / 4][i % 4]);
        sum[i / 4][i % 4] = 0.0f;
    }
}

/* Tiles of 64 outputs × 128 rows through shared memory, 4 outputs × 8 rows per thread. */
static __global__ void __launch_bounds__(MANY_BLOCK, 2) product_many(struct product32 a)
{
    __shared__ struct many_tile tile;
    uint32_t lo = threadIdx.x % 16, hi = threadIdx.x / 16;
    uint32_t rows = *a.rows, wanted = wanted_of(a), across = ceil_div(wanted, MANY_OUTPUTS);
    uint32_t items = across * ceil_div(rows, MANY_ROWS);
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        uint32_t n0 = item % across * MANY_OUTPUTS, row = item / across * MANY_ROWS;
        float total[8][4] = {}, sum[8][4] = {};
        struct many_load next;
        load_many(a, n0, row, rows, 0, &next);
        for (uint32_t k = 0; k < a.k; k += MANY_K) {
            store_many(&tile, &next);
            __syncthreads();
            if (k + MANY_K < a.k)
                load_many(a, n0, row, rows, k + MANY_K, &next);
            sum_many(&tile, sum);
            if ((k + MANY_K) % SUM_CHUNK == 0 || k + MANY_K >= a.k)
                end_chunk(total, sum);
            __syncthreads();
        }
#pragma unroll
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t m = row + hi * 8 + i / 4, n = n0 + lo * 4 + i % 4;
            if (m < rows && n < wanted)
                put(a, m, n, total[i / 4][i % 4]);
        }
    }
}

/* The product of `w`, all outputs, of `rows` rows. */
static struct product32 whole_product(const struct gpu_matrix *w, const uint32_t *rows, const float *x, size_t ldx,
                                      float *y, size_t ldy)
{
    struct product32 a = {};
    a.columns = w->columns;
    a.bias = w->bias;
    a.n = w->n;
    a.np = w->np;
    a.k = w->k;
    a.x = x;
    a.ldx = ldx;
    a.y = y;
    a.ldy = ldy;
    a.split = w->np;
    a.rows = rows;
    return a;
}

static void multiply(const struct product32 *a, uint32_t rows, uint32_t n, cudaStream_t stream)
{
    uint32_t tiles = ceil_div(n, MANY_OUTPUTS) * ceil_div(rows, MANY_ROWS);
    if (tiles >= MANY_TILES) {
        product_many<<<tiles, MANY_BLOCK, 0, stream>>>(*a);
        return;
    }
    uint32_t chunks = ceil_div(a->k, SUM_CHUNK), warps = chunks < FEW_WARPS ? chunks : FEW_WARPS;
    size_t shared = warps * (SUM_CHUNK + FEW_OUTPUTS) * FEW_ROWS * sizeof(float);
    dim3 block(32, warps);
    product_few<<<ceil_div(n, FEW_OUTPUTS) * ceil_div(rows, FEW_ROWS), block, shared, stream>>>(*a);
}

#endif
