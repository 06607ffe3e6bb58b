/* gemm.cu: Y[rows][n] from X[rows][k] and W, for many rows: wgmma fed by the copy engine.
 *
 * One persistent block computes tiles of 64·GROUPS rows × BN outputs. Its last warp loads, 64 k's a stage: X through a
 * tensor map with the 128-byte swizzle, W, which lies in core matrices already, through one without. Two blocks of a
 * cluster take tiles one above the other and each loads half of the W that both need, into both. Each of the other
 * warpgroups owns 64 rows: `total` and, after the first GPU_CHUNK k's, a second set of accumulators that is added to it
 * chunk by chunk. Tiles are walked down columns of 4096 rows, so that a large W is read from memory once for them.
 *
 * Traps: a stage is free when the consumers of both blocks have left it, for the other block writes here too; and a
 * block may not end before its last stages are free. Both see the same row count and take the same number of steps; a
 * tile beyond the rows is computed and not written.
 *
 * Ladder (mamba-130m, in_proj / out_proj / head of 1024 rows, then of 4096, µs):
 *   12.1 / 11.6 / 191, 36.1 / 21.7 / 713   H100: tiles of 128 × 192 in clusters of two, 5 stages
 *   13.5 / 12.7 / 179                      the same on one H200, by ncu
 *   12.1 / 10.2 / 148, 34.1 / 24.6 / 549   no loads of a bias of zeros, out_proj's tiles 9 stages deep, no cluster
 *                                          barrier at the end: at 4096 rows 567, 393, 576 TFLOP/s
 *   12.4 / 10.2 / 147                      another H200: no bank conflicts at a tile's end (before: 12.4, 10.3, 150)
 * Without its end (nothing written) the head of 1024 rows takes 43 µs less, of 4096 160.
 * Tried, a step of 1024 / 4096 streams: clusters of four and eight, 2149 to 2174 / 7169 to 7190 µs from 2060 / 6603
 * (in_proj); a tile written while the next one's first chunk is multiplied, 2018 / 6689 from 1976 / 6507; the second
 * warpgroup 200, 500, 1200 clocks behind the first, 1809, 1810, 1815 / 6310, 6312, 6320 from 1810 / 6328; the head
 * written row by row by the copy engine while the next tile is multiplied, half a tile beside 4 stages or a whole one
 * beside 3, 1735, 1745 / 6042, 6078 from 1732 / 6028. */
#include "ssm/cuda/gemm.h"

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/cublas.h"
#include "ssm/cuda/ptx.cuh"
#include "ssm/cuda/wide.h"

enum {
    STEP = 64,         /* k's of a stage: 128 bytes of a row */
    BOX = 48,          /* outputs loaded at a time */
    PITCH = 192,       /* bytes from row to row of a warp's staging, see swizzle() */
    COLUMN_ROWS = 4096 /* tiles are walked down before the next outputs are taken */
};

template <int GROUPS_, int BN_, int STAGES_, int CLUSTER_, int BLOCKS_> struct tile {
    enum {
        GROUPS = GROUPS_,
        BM = 64 * GROUPS_,
        BN = BN_,
        STAGES = STAGES_,
        CLUSTER = CLUSTER_,
        BLOCKS = BLOCKS_, /* of a multiprocessor */
        WARPS = 4 * GROUPS_,
        LOADERS = GROUPS_ == 1 ? 1 : 4, /* warps; four, of which one loads, to give their registers away */
        THREADS = 32 * (WARPS + LOADERS),
        X_BYTES = BM * STEP * 2,
        W_BYTES = BN * STEP * 2,
        STAGE_BYTES = X_BYTES + W_BYTES,
        STAGING = STAGES * STAGE_BYTES, /* where in shared memory */
        BARRIERS = STAGING + WARPS * 16 * PITCH,
        SHARED = BARRIERS + 2 * STAGES * 8
    };
};
typedef tile<2, 192, 5, 2, 1> tile_128x192;
typedef tile<2, 96, 6, 2, 1> tile_128x96;
typedef tile<1, 96, 9, 2, 1> tile_64x96;
typedef tile<1, 48, 6, 1, 2> tile_64x48;

struct product_args {
    const uint32_t *rows;
    const float *bias; /* NULL: none */
    void *y;
    size_t ldy;
    uint32_t rows_bound, n_out, steps;
    float scale;
    uint32_t begin; /* the first row, in x */
};

/* ---- instructions ---- */

__device__ __forceinline__ void load_x(uint32_t to, const CUtensorMap *map, uint32_t k, uint32_t row, uint32_t bar)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(k), "r"(row), "r"(bar)
        : "memory");
}

/* To the same place in every block of the cluster, completing on each one's barrier. */
template <int CLUSTER>
__device__ __forceinline__ void load_w(uint32_t to, const CUtensorMap *map, uint32_t k8, uint32_t n8, uint32_t bar)
{
    if (CLUSTER == 1)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                     "%4}], [%5];" ::"r"(to),
                     "l"(map), "r"(0), "r"(k8), "r"(n8), "r"(bar)
                     : "memory");
    else
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
            "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
            "l"(map), "r"(0), "r"(k8), "r"(n8), "r"(bar), "h"((uint16_t)((1 << CLUSTER) - 1))
            : "memory");
}

/* Of a matrix in this block's shared memory; in a cluster an address says of which block it is, in its upper bits.
 * 64 rows × 64 k's, swizzled; 32 bytes on per 16 k's. */
__device__ __forceinline__ uint64_t x_descriptor(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* [outputs/8][8][8][8]; 256 bytes on per 16 k's. */
__device__ __forceinline__ uint64_t w_descriptor(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(128 >> 4) << 16 | (uint64_t)(1024 >> 4) << 32;
}

__device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int LEFT> __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* Keeps the compiler from reading accumulators before the wait that ends their products. */
template <int C> __device__ __forceinline__ void settle(float (&d)[C])
{
#pragma unroll
    for (int i = 0; i < C; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#define D8(d, i)                                                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define D24(d, i) D8(d, i), D8(d, i + 8), D8(d, i + 16)
#define D48(d, i) D24(d, i), D24(d, i + 24)
#define D96(d, i) D48(d, i), D48(d, i + 48)
#define LIST24 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23"
#define LIST48 LIST24 ",%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LIST96                                                                                                         \
    LIST48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,"         \
           "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define WGMMA(N, LIST, OPERANDS, x, w, add, x_at, w_at, add_at)                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" add_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" N               \
                 "k16.f32.f16.f16 {" LIST "}, %" x_at ", %" w_at ", p, 1, 1, 0, 0;\n}"                                 \
                 : OPERANDS                                                                                            \
                 : "l"(x), "l"(w), "n"(add))

/* d = X·Wᵀ of 16 k's, + d if ADD. Lane 4g+t of warp w holds d[4j], d[4j+1] = outputs 8j+2t, 8j+2t+1 of row 16w+g and
 * d[4j+2], d[4j+3] = the same of row 16w+g+8. */
template <int ADD, int C> __device__ __forceinline__ void wgmma(float (&d)[C], uint64_t x, uint64_t w)
{
    if constexpr (C == 24)
        WGMMA("48", LIST24, D24(d, 0), x, w, ADD, "24", "25", "26");
    else if constexpr (C == 48)
        WGMMA("96", LIST48, D48(d, 0), x, w, ADD, "48", "49", "50");
    else
        WGMMA("192", LIST96, D96(d, 0), x, w, ADD, "96", "97", "98");
}

/* ---- stages and tiles ---- */

struct ring {
    uint32_t slot, phase;
};

template <class S> __device__ __forceinline__ void advance(struct ring &r)
{
    if (++r.slot == S::STAGES) {
        r.slot = 0;
        r.phase ^= 1;
    }
}

template <class S> __device__ __forceinline__ uint32_t full_barrier(uint32_t shared, uint32_t slot)
{
    return shared + S::BARRIERS + slot * 8;
}

template <class S> __device__ __forceinline__ uint32_t empty_barrier(uint32_t shared, uint32_t slot)
{
    return shared + S::BARRIERS + (S::STAGES + slot) * 8;
}

/* Tile t of a cluster: its first row in this block, its first output. */
struct place {
    uint32_t row, column;
};

template <class S> __host__ __device__ __forceinline__ uint32_t tiles_down(uint32_t rows)
{
    return (rows + S::BM * S::CLUSTER - 1) / (S::BM * S::CLUSTER);
}

template <class S> __host__ __device__ __forceinline__ uint32_t tiles_across(uint32_t n_out)
{
    return (n_out + S::BN - 1) / S::BN;
}

template <class S>
__device__ __forceinline__ struct place place_of(uint32_t t, uint32_t down, uint32_t across, uint32_t rank)
{
    const uint32_t per_column = COLUMN_ROWS / (S::BM * S::CLUSTER), first = t / (per_column * across) * per_column;
    const uint32_t rest = t % (per_column * across), height = min(per_column, down - first);
    return {((first + rest % height) * S::CLUSTER + rank) * S::BM, rest / height * S::BN};
}

/* This block's share of stage `slot`'s W: 64 k's of step s, outputs from `column` on. */
template <class S>
__device__ __forceinline__ void load_outputs(const CUtensorMap *w, uint32_t s, uint32_t column, uint32_t rank,
                                             uint32_t shared, uint32_t slot)
{
    const uint32_t share = S::BN / BOX / S::CLUSTER, bar = full_barrier<S>(shared, slot);
    mbarrier_expect(bar, S::STAGE_BYTES);
#pragma unroll
    for (uint32_t i = 0; i < share; i++) {
        const uint32_t box = rank * share + i;
        load_w<S::CLUSTER>(shared + slot * S::STAGE_BYTES + S::X_BYTES + box * (BOX * STEP * 2), w, s * (STEP / 8),
                           column / 8 + box * (BOX / 8), bar);
    }
}

/* W of the first stages comes before the kernel ahead has ended. */
template <class S>
__device__ __forceinline__ void produce(const CUtensorMap *x, const CUtensorMap *w, uint32_t begin, uint32_t steps,
                                        uint32_t down, uint32_t across, uint32_t shared)
{
    const uint32_t rank = S::CLUSTER == 1 ? 0 : cluster_rank();
    const uint32_t first = place_of<S>(blockIdx.x / S::CLUSTER, down, across, rank).column;
    uint32_t loaded = min(steps, (uint32_t)S::STAGES);
#pragma unroll 1
    for (uint32_t s = 0; s < loaded; s++)
        load_outputs<S>(w, s, first, rank, shared, s);
    after_previous();
    start_next();
    struct ring r = {0, 0};
    for (uint32_t t = blockIdx.x / S::CLUSTER; t < down * across; t += gridDim.x / S::CLUSTER) {
        struct place at = place_of<S>(t, down, across, rank);
#pragma unroll 1
        for (uint32_t s = 0; s < steps; s++, advance<S>(r)) {
            const uint32_t bar = full_barrier<S>(shared, r.slot), to = shared + r.slot * S::STAGE_BYTES;
            if (s >= loaded) {
                mbarrier_wait(empty_barrier<S>(shared, r.slot), r.phase ^ 1);
                load_outputs<S>(w, s, at.column, rank, shared, r.slot);
            }
#pragma unroll
            for (uint32_t i = 0; i < S::GROUPS; i++)
                load_x(to + i * (64 * STEP * 2), x, s * STEP, begin + at.row + 64 * i, bar);
        }
        loaded = 0;
    }
    /* This block must be there until the other one has left the last stages, for it says so here. */
#pragma unroll 1
    for (uint32_t s = 0; s < S::STAGES; s++, advance<S>(r))
        mbarrier_wait(empty_barrier<S>(shared, r.slot), r.phase ^ 1);
}

template <class S> __device__ __forceinline__ void release(uint32_t shared, uint32_t slot)
{
    const uint32_t lane = threadIdx.x % 32;
    if (S::CLUSTER == 1) {
        if (lane == 0)
            mbarrier_arrive(empty_barrier<S>(shared, slot));
    } else if (lane < S::CLUSTER) {
        mbarrier_arrive_at(empty_barrier<S>(shared, slot), lane);
    }
}

/* Starts the products of one stage. The first of a chunk does not read d: a constant, so that d needs no registers
 * before. */
template <class S, int FIRST>
__device__ __forceinline__ void multiply(float (&d)[S::BN / 2], const struct ring &r, uint32_t shared, uint32_t x_at)
{
    const uint32_t stage = shared + r.slot * S::STAGE_BYTES;
    const uint64_t x = x_descriptor(stage + x_at), w = w_descriptor(stage + S::X_BYTES);
    mbarrier_wait(full_barrier<S>(shared, r.slot), r.phase);
    wgmma_fence();
    wgmma<!FIRST>(d, x, w);
#pragma unroll
    for (uint32_t q = 1; q < STEP / 16; q++)
        wgmma<1>(d, x + q * 2, w + q * 16);
    wgmma_commit();
}

/* d = the products of one chunk, of `steps` stages. */
template <class S>
__device__ __forceinline__ void chunk(float (&d)[S::BN / 2], uint32_t steps, struct ring &r, uint32_t shared,
                                      uint32_t x_at)
{
    multiply<S, 1>(d, r, shared, x_at);
#pragma unroll 1
    for (uint32_t s = 1; s < steps; s++) {
        const uint32_t last = r.slot;
        advance<S>(r);
        multiply<S, 0>(d, r, shared, x_at);
        wgmma_wait<1>();
        release<S>(shared, last);
    }
    wgmma_wait<0>();
    settle(d);
    release<S>(shared, r.slot);
    advance<S>(r);
}

/* ---- the end of a tile: 16 rows of a warp, through its staging, in passes of up to 192 bytes of a row ---- */

/* Bytes within a row where the vectors of 16 change places, by fours: at PITCH, what a lane group stores (a vector of
 * eight rows, or two of four) and what eight lanes load (of rows of twelve vectors, on end) then lie in different
 * banks. */
__device__ __forceinline__ uint32_t swizzle(uint32_t row)
{
    return (row & 2) << 4 | (row & 4) << 2;
}

/* Of a lane's outputs. Volatile: these are to be loaded a pass at a time, or registers run out. Predicated: the first
 * use would wait for a load of zeros too. */
template <int COLUMNS>
__device__ __forceinline__ void load_bias(float2 (&bias)[COLUMNS / 8], const struct product_args &p, uint32_t column)
{
#pragma unroll
    for (uint32_t j = 0; j < COLUMNS / 8; j++)
        asm volatile("{\n.reg .pred p;\nsetp.ne.b64 p, %3, 0;\n@p ld.global.nc.v2.f32 {%0, %1}, [%2];\n}"
                     : "+f"(bias[j].x), "+f"(bias[j].y)
                     : "l"(p.bias + min(column + 8 * j + threadIdx.x % 4 * 2, p.n_out - 2)), "l"(p.bias));
}

template <int COLUMNS>
__device__ __forceinline__ void stage_half(const float *d, const struct product_args &p, uint32_t column, uint32_t to)
{
    float2 bias[COLUMNS / 8] = {};
    load_bias<COLUMNS>(bias, p, column);
    /* matrices: rows 0, rows 8, rows 0 of the next 8 outputs, rows 8 of those */
    const uint32_t row = threadIdx.x % 16, first = threadIdx.x % 32 / 16 * 16 ^ swizzle(row);
    to += row * PITCH;
    const uint32_t at[2] = {to + first, to + (first ^ 32)};
#pragma unroll
    for (uint32_t j = 0; j < COLUMNS / 8; j += 2) {
        uint32_t r[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const float *v = d + 4 * j + 2 * i;
            const float2 b = bias[j + i / 2];
            r[i] = bits(to_half2(product(v[0], p.scale, b.x), product(v[1], p.scale, b.y)));
        }
        stmatrix_x4(at[j / 2 % 2] + j / 4 * 64, r);
    }
}

template <int COLUMNS>
__device__ __forceinline__ void stage_float(const float *d, const struct product_args &p, uint32_t column, uint8_t *to)
{
    float2 bias[COLUMNS / 8] = {};
    load_bias<COLUMNS>(bias, p, column);
    const uint32_t row = threadIdx.x % 32 / 4, first = threadIdx.x % 4 * 8 ^ swizzle(row);
    to += row * PITCH;
    uint8_t *const at[2] = {to + first, to + (first ^ 32)};
#pragma unroll
    for (uint32_t j = 0; j < COLUMNS / 8; j++) {
        const float *v = d + 4 * j;
        uint8_t *const to_j = at[j % 2] + j / 2 * 64;
        *reinterpret_cast<float2 *>(to_j) =
            make_float2(product(v[0], p.scale, bias[j].x), product(v[1], p.scale, bias[j].y));
        *reinterpret_cast<float2 *>(to_j + 8 * PITCH) =
            make_float2(product(v[2], p.scale, bias[j].x), product(v[3], p.scale, bias[j].y));
    }
}

/* A pass between staging and y: of the 16 rows, ROWS at a time, by 24 of the warp's lanes. */
template <class S, int END> struct pass {
    enum {
        BYTES = END == GPU_GEMM_HALF ? 2 : 4,
        COLUMNS = S::BN * BYTES < 192 ? (int)S::BN : 192 / BYTES,
        COUNT = S::BN / COLUMNS,
        VECTORS = COLUMNS * BYTES / 16, /* of a row: 12, or 6 */
        ROWS = 24 / VECTORS,
        EACH = 16 / ROWS /* of a lane */
    };
};

/* Of a pass, where this lane's first vector lies. */
template <class P> __device__ __forceinline__ struct place first_vector(struct place at, uint32_t c)
{
    const uint32_t lane = threadIdx.x % 32;
    return {at.row + lane / P::VECTORS, at.column + c * P::COLUMNS + lane % P::VECTORS * (16 / P::BYTES)};
}

/* Of pass c. What is not there is read from where something is: loads without a condition are all in flight
 * together. */
template <class P>
__device__ __forceinline__ void load_old(float4 (&old)[P::EACH], const struct product_args &p, uint32_t rows,
                                         struct place at, uint32_t c)
{
    const struct place first = first_vector<P>(at, c);
    const float *y = static_cast<const float *>(p.y) + min(first.column, p.n_out - 4);
#pragma unroll
    for (uint32_t i = 0; i < P::EACH; i++)
        old[i] = *reinterpret_cast<const float4 *>(y + min(first.row + i * P::ROWS, rows - 1) * p.ldy);
}

/* Of two passes, as finish() wants it. */
template <class P, int END>
__device__ __forceinline__ void load_first_old(float4 (&old)[2][P::EACH], const struct product_args &p, uint32_t rows,
                                               struct place at)
{
    if (END == GPU_GEMM_ADD) {
        load_old<P>(old[0], p, rows, at, 0);
        if (P::COUNT > 1)
            load_old<P>(old[1], p, rows, at, 1);
    }
}

template <class P, int END>
__device__ __forceinline__ void store(const uint8_t *staging, const float4 (&old)[P::EACH],
                                      const struct product_args &p, uint32_t rows, struct place at, uint32_t c)
{
    const struct place first = first_vector<P>(at, c);
    if (threadIdx.x % 32 >= 24 || first.column >= p.n_out)
        return;
    uint8_t *y = static_cast<uint8_t *>(p.y) + (first.row * p.ldy + first.column) * P::BYTES;
    const uint32_t row = threadIdx.x % 32 / P::VECTORS, vector = threadIdx.x % 32 % P::VECTORS * 16;
    float4 v[P::EACH];
#pragma unroll
    for (uint32_t i = 0; i < P::EACH; i++)
        v[i] = *reinterpret_cast<const float4 *>(staging + (row + i * P::ROWS) * PITCH +
                                                 (vector ^ swizzle(row + i * P::ROWS)));
#pragma unroll
    for (uint32_t i = 0; i < P::EACH; i++) {
        if (END == GPU_GEMM_ADD)
            v[i] = make_float4(__fadd_rn(old[i].x, v[i].x), __fadd_rn(old[i].y, v[i].y), __fadd_rn(old[i].z, v[i].z),
                               __fadd_rn(old[i].w, v[i].w));
        float4 *to = reinterpret_cast<float4 *>(y + i * P::ROWS * p.ldy * P::BYTES);
        if (first.row + i * P::ROWS < rows) {
            if (END == GPU_GEMM_FLOAT)
                __stcs(to, v[i]);
            else
                *to = v[i];
        }
    }
}

template <class S, int END>
__device__ __forceinline__ void finish(const float (&total)[S::BN / 2], float4 (&old)[2][pass<S, END>::EACH],
                                       const struct product_args &p, uint32_t rows, struct place at, uint8_t *staging)
{
    typedef pass<S, END> P;
#pragma unroll
    for (uint32_t c = 0; c < P::COUNT; c++) {
        if constexpr (END == GPU_GEMM_HALF)
            stage_half<P::COLUMNS>(total + c * P::COLUMNS / 2, p, at.column + c * P::COLUMNS, shared_address(staging));
        else
            stage_float<P::COLUMNS>(total + c * P::COLUMNS / 2, p, at.column + c * P::COLUMNS, staging);
        __syncwarp();
        store<P, END>(staging, old[c % 2], p, rows, at, c);
        if (END == GPU_GEMM_ADD && c + 2 < P::COUNT)
            load_old<P>(old[c % 2], p, rows, at, c + 2);
        __syncwarp();
    }
}

template <class S, int END>
__device__ __forceinline__ void consume(const struct product_args &p, uint32_t rows, uint32_t down, uint32_t across,
                                        uint8_t *shared)
{
    typedef pass<S, END> P;
    const uint32_t warp = threadIdx.x / 32, group = warp / 4, rank = S::CLUSTER == 1 ? 0 : cluster_rank();
    const uint32_t at_stage = shared_address(shared), x_at = group * (64 * STEP * 2), per_chunk = GPU_CHUNK / STEP;
    struct ring r = {0, 0};
    for (uint32_t t = blockIdx.x / S::CLUSTER; t < down * across; t += gridDim.x / S::CLUSTER) {
        struct place at = place_of<S>(t, down, across, rank);
        at.row += warp * 16;
        float total[S::BN / 2];
        float4 old[2][P::EACH];
        if (S::BN <= 96) /* wider ones have no registers to spare beside the products */
            load_first_old<P, END>(old, p, rows, at);
        chunk<S>(total, min(per_chunk, p.steps), r, at_stage, x_at);
#pragma unroll 1
        for (uint32_t s = per_chunk; s < p.steps; s += per_chunk) {
            float more[S::BN / 2];
            chunk<S>(more, min(per_chunk, p.steps - s), r, at_stage, x_at);
#pragma unroll
            for (int i = 0; i < S::BN / 2; i++)
                total[i] = __fadd_rn(total[i], more[i]);
        }
        if (S::BN > 96)
            load_first_old<P, END>(old, p, rows, at);
        if (at.row < rows)
            finish<S, END>(total, old, p, rows, at, shared + S::STAGING + warp * 16 * PITCH);
    }
}

template <class S, int END>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
    gemm(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
         const __grid_constant__ struct product_args p)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t at = shared_address(shared), rows = min(*p.rows, p.rows_bound);
    const uint32_t down = tiles_down<S>(rows), across = tiles_across<S>(p.n_out);
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < S::STAGES; s++) {
            mbarrier_init(full_barrier<S>(at, s), 1);
            mbarrier_init(empty_barrier<S>(at, s), S::CLUSTER * S::WARPS);
        }
        mbarrier_init_fence();
    }
    if (S::CLUSTER == 1) {
        __syncthreads();
    } else {
        cluster_arrive_relaxed();
        cluster_wait();
    }
    if (blockIdx.x / S::CLUSTER >= down * across) { /* not before: the count of rows comes meanwhile */
        after_previous();                           /* or, without rows, the kernel would end before the one ahead */
        return;
    }
    if (threadIdx.x / 32 < S::WARPS) {
        if (S::LOADERS == 4)
            registers_raise<240>();
        after_previous();
        consume<S, END>(p, rows, down, across, shared);
    } else {
        if (S::LOADERS == 4)
            registers_lower<24>();
        if (threadIdx.x == 32 * S::WARPS)
            produce<S>(&x, &w, p.begin, p.steps, down, across, at);
    }
}

/* ---- host ---- */

template <class S, int END>
static void launch(const struct gpu_gemm *g, const struct product_args &p, cudaStream_t stream)
{
    const uint32_t tiles = tiles_down<S>(p.rows_bound) * tiles_across<S>(p.n_out),
                   most = g->sms * S::BLOCKS / S::CLUSTER;
    launch_chained(gemm<S, END>, S::CLUSTER * (tiles < most ? tiles : most), S::THREADS, S::SHARED, S::CLUSTER,
                   g->chained, stream, g->x, g->w, p);
}

template <class S> static cudaError_t prepare(void)
{
    const void *ends[] = {(const void *)gemm<S, GPU_GEMM_HALF>, (const void *)gemm<S, GPU_GEMM_ADD>,
                          (const void *)gemm<S, GPU_GEMM_FLOAT>};
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 3 && !e; i++)
        e = cudaFuncSetAttribute(ends[i], cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED);
    return e;
}

/* Clocks, roughly: BN/2 for 64 rows × 16 k's, 32 bytes a clock from L2, 1500 for a tile's beginning and end. */
template <class S> static uint64_t cost(uint32_t rows, uint32_t n_out, uint32_t steps, uint32_t sms)
{
    const uint64_t tiles = (uint64_t)tiles_down<S>(rows) * S::CLUSTER * tiles_across<S>(n_out),
                   blocks = (uint64_t)sms * S::BLOCKS;
    const uint64_t multiply = S::GROUPS * 2 * S::BN, load = (S::X_BYTES + S::W_BYTES / S::CLUSTER) / 32;
    return (tiles + sms - 1) / sms * steps * (multiply > load ? multiply : load) + (tiles + blocks - 1) / blocks * 1500;
}

static const struct {
    uint64_t (*cost)(uint32_t rows, uint32_t n_out, uint32_t steps, uint32_t sms);
    cudaError_t (*prepare)(void);
    void (*launch[3])(const struct gpu_gemm *g, const struct product_args &p, cudaStream_t stream);
} tiles[] = {
#define TILE(S)                                                                                                        \
    {                                                                                                                  \
        cost<S>, prepare<S>,                                                                                           \
        {                                                                                                              \
            launch<S, GPU_GEMM_HALF>, launch<S, GPU_GEMM_ADD>, launch<S, GPU_GEMM_FLOAT>                               \
        }                                                                                                              \
    }
    TILE(tile_64x48), TILE(tile_64x96), TILE(tile_128x96), TILE(tile_128x192)
#undef TILE
};
enum { N_TILES = sizeof tiles / sizeof *tiles };

static int cheapest(uint32_t rows, uint32_t n_out, uint32_t steps, uint32_t sms)
{
    int best = 0;
    for (int i = 1; i < N_TILES; i++)
        if (tiles[i].cost(rows, n_out, steps, sms) < tiles[best].cost(rows, n_out, steps, sms))
            best = i;
    return best;
}

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* fp16, `rank` dimensions, the innermost dense; strides in bytes of the others. Beyond the edges: zeros. */
static cudaError_t encode(encode_fn fn, CUtensorMap *ret, uint32_t rank, const void *base, const cuuint64_t *dims,
                          const cuuint64_t *strides, const cuuint32_t *box, CUtensorMapSwizzle swizzle)
{
    const cuuint32_t ones[3] = {1, 1, 1};
    CUresult e = fn(ret, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank, (void *)base, dims, strides, box, ones,
                    CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t gpu_gemm_open(struct gpu_gemm *ret, const struct gpu_matrix *matrix, const uint16_t *x, size_t ldx,
                          uint32_t capacity)
{
    void *fn = NULL;
    cudaDriverEntryPointQueryResult found;
    int device = 0, sms = 0;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &found);
    if (!e && (found != cudaDriverEntryPointSuccess || !fn))
        e = cudaErrorNotSupported;
    if (!e)
        e = cudaGetDevice(&device);
    if (!e)
        e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    for (int i = 0; i < N_TILES && !e; i++)
        e = tiles[i].prepare();
    if (e)
        return e;

    struct gpu_gemm g = {};
    g.matrix = matrix;
    g.sms = sms;
    g.activations = x;
    g.ldx = ldx;
    g.capacity = capacity;
    const cuuint64_t x_dims[] = {matrix->k, capacity}, x_strides[] = {ldx * 2};
    const cuuint32_t x_box[] = {STEP, 64};
    const cuuint64_t w_dims[] = {64, matrix->kp / 8, matrix->np / 8}, w_strides[] = {128, (cuuint64_t)matrix->kp * 16};
    const cuuint32_t w_box[] = {64, STEP / 8, BOX / 8};
    e = encode((encode_fn)fn, &g.x, 2, x, x_dims, x_strides, x_box, CU_TENSOR_MAP_SWIZZLE_128B);
    if (!e)
        e = encode((encode_fn)fn, &g.w, 3, matrix->tiled, w_dims, w_strides, w_box, CU_TENSOR_MAP_SWIZZLE_NONE);
    if (!e)
        *ret = g;
    return e;
}

void gpu_gemm_run(const struct gpu_gemm *g, enum gpu_gemm_end end, void *y, size_t ldy, uint32_t n_out,
                  const uint32_t *rows, uint32_t rows_bound, cudaStream_t stream)
{
    const struct gpu_matrix *m = g->matrix;
    const float *bias = m->biased ? m->bias : NULL;
    const uint32_t steps = (m->kp + STEP - 1) / STEP;
    const struct product_args p = {rows, bias, y, ldy, rows_bound, n_out, steps, m->scale, g->begin};
    if (!rows_bound || !n_out)
        return;
    if (!m->cublas || !gpu_cublas_run(g, end, y, ldy, n_out, rows_bound, stream))
        tiles[cheapest(rows_bound, n_out, steps, g->sms)].launch[end](g, p, stream);
}
