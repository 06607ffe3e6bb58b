/* scan.cu: Δ = softplus(dt_proj·dt), the selective scan, skip and gate: what reads and writes the states. Two kernels
 * with the same bits; gpu_scan() launches one or both.
 *
 * Short segments (steps of many streams): a unit of two warps has 64 channels of the segments that begin in 16 rows, a
 * lane one channel. It multiplies dt_proj for its rows, then goes from segment to segment with the next states already
 * on their way: 64 bytes a lane, 32 KB an SM. This is the memory's: mamba-130m, 4096 streams, bf16 states: 403 MB a
 * layer, 141 µs at 2.85 TB/s, against 53 µs of issues (200 per step of 32 channels, and 1300 per tile). One block per
 * SM, so that a scan can leave the others to the products of another slice.
 *
 * Long segments (few runs, thousands of steps): a block has 32 channels of one segment. Warps 0–3 do nothing but step:
 * four lanes a channel, four states a lane. Warps 4–7 make their operands (dt_proj, softplus, Δ·g, Δ·x) a stage of 32
 * steps ahead, gate what the others left a stage behind, and have the inputs of the stage after on their way from
 * memory. Per step and quarter of an SM: 38 clk of special functions (32 of them ex2 of the stepping warp), 28 issues
 * by the stepping warp and 22 by its partner: 50 clk. mamba-130m: 48 blocks a run; 65536 steps × 24 layers × 50 clk are
 * 40 ms, on 48 SMs, beside which others work; 16 × 8192 steps are 26 ms of the whole chip.
 *
 * Ladder (mamba-130m, one layer: 4096 one-row runs, bf16 states / 2048 steps of one run, fp32):
 *   1. units of two warps, 8 an SM / four lanes a channel, stages of 32 steps
 *
 * Traps: a segment's old conv window must be read before the new one is written (keep_window(), by the thread that has
 * the channel), and select.cu of the same slice must be done with it. All warps of a unit take the same turns through
 * its barrier, both halves of a long segment's block through __syncthreads(). */
#include <cassert>

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/mma.cuh"
#include "ssm/cuda/wide.h"

enum {
    STATES = 16,
    SHORT = 16,    /* rows in which a unit's segments begin; longer ones are the long kernel's where it runs */
    WINDOW = 32,   /* rows that a unit has before it */
    UNIT = 64,     /* threads, and channels of a tile */
    UNITS = 8,     /* of a block at most: 128 registers a thread */
    DT_STEPS = 3,  /* of 16 k's on their way together */
    DELTA_LD = 36, /* floats: mma's accumulators go to distinct banks */
    HALF = 128,    /* threads that step along a long segment; as many feed them */
    STAGE = 32,    /* steps */
    FINDERS = 2 * HALF,
    X_LD = 40,    /* halves */
    PAIR_LD = 34, /* pairs of floats */
    SUM_LD = 40   /* floats */
};

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

/* Among some of a block's warps, which have this barrier to themselves. */
template <int THREADS> __device__ __forceinline__ void group_sync(uint32_t barrier)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
}

__device__ __forceinline__ float half_at(const uint16_t *at)
{
    return __half2float(__ushort_as_half(*at));
}

/* What a layer's scan knows beside the rows; by value. */
struct scan {
    struct gpu_pass p;
    struct gpu_slice s;
    struct gpu_matrix dt_proj;
    const float *A, *skip;
    size_t conv_at, ssm_at; /* of this layer, from a slot's begin */
    uint32_t D;
};

/* Channel d's conv window behind a segment of T > 1 rows; `x` is the channel's input of the last one. */
__device__ __forceinline__ void keep_window(uint16_t *window, const uint16_t *x, uint32_t D, uint32_t T)
{
    uint16_t oldest = T > 2 ? *(x - 4 * (size_t)D) : window[2 * (size_t)D];
    window[0] = oldest;
    window[D] = *(x - 2 * (size_t)D);
    window[2 * (size_t)D] = *x;
}

/* ---- short segments ---- */

struct warp_rows {
    float delta[WINDOW][DELTA_LD];
    uint16_t x[WINDOW][32], z[WINDOW][32];
    uint8_t *slot[WINDOW], *state[WINDOW]; /* the row's slot; there, its state of the warp's first channel */
    float g[WINDOW];
    uint32_t T[WINDOW]; /* of the row's segment */
};

struct short_shared {
    struct warp_rows warps[UNIT / 32];
    float bc[WINDOW][2 * STATES];
};

/* Bits are rows of a window: those that are ours, and of these the ones that begin and end what it has of a segment,
 * and the ones that end a segment of more than one row. */
struct window {
    uint32_t ours, heads, tails, ends;
};

/* Lane i looks row at + i up. */
template <enum ssm_dtype S>
__device__ __forceinline__ struct window find_rows(struct warp_rows *w, const struct scan &c, uint32_t rows,
                                                   uint32_t first, uint32_t at, uint32_t d0, uint32_t longest)
{
    const uint32_t lane = threadIdx.x % 32, i = at + lane;
    bool ours = false, head = false, tail = false, end = false;
    __syncwarp();
    if (i < rows) {
        const struct segment seg = segment_of(c.p, c.s, rows, i);
        const uint32_t T = seg.end - seg.begin;
        ours = seg.begin >= first && seg.begin < first + SHORT && T <= longest;
        head = ours && (i == seg.begin || lane == 0);
        tail = ours && (i + 1 == seg.end || lane == 31);
        end = ours && i + 1 == seg.end && T > 1;
        w->slot[lane] = seg.slot;
        w->state[lane] = state_at<S>(seg.slot + c.ssm_at, d0);
        w->g[lane] = c.p.g[c.s.begin + i];
        w->T[lane] = T;
    }
    __syncwarp();
    struct window v;
    v.ours = __ballot_sync(0xffffffffu, ours);
    v.heads = __ballot_sync(0xffffffffu, head);
    v.tails = __ballot_sync(0xffffffffu, tail);
    v.ends = __ballot_sync(0xffffffffu, end);
    return v;
}

/* Inputs of rows [from, to) of the window that begins at the pass's row `row0`: x, z of a warp's channels, B and C of
 * all. */
__device__ __forceinline__ void stage_rows(struct short_shared *sh, struct warp_rows *w, const struct scan &c,
                                           size_t row0, uint32_t from, uint32_t to, uint32_t d0)
{
    const uint32_t lane = threadIdx.x % 32, i = threadIdx.x % UNIT;
    const float *bc = c.p.bc + row0 * 2 * STATES + i * 4;
#pragma unroll
    for (uint32_t j = 0; j < WINDOW * 8 / UNIT; j++) {
        const uint32_t row = j * (UNIT / 8) + i / 8;
        if (row >= from && row < to)
            copy16(&sh->bc[row][i % 8 * 4], bc + j * UNIT * 4);
    }
    const uint16_t *x = c.p.xc + (row0 + lane / 4) * c.D + d0 + lane % 4 * 8;
    const uint16_t *z = c.p.xz + (row0 + lane / 4) * 2 * c.D + c.D + d0 + lane % 4 * 8;
#pragma unroll
    for (uint32_t j = 0; j < WINDOW / 8; j++) {
        const uint32_t row = j * 8 + lane / 4;
        if (row >= from && row < to) {
            copy16(&w->x[row][lane % 4 * 8], x + j * 8 * c.D);
            copy16(&w->z[row][lane % 4 * 8], z + j * 16 * c.D);
        }
    }
}

/* acc[m][n]: channels d0 + 16m …, rows `from` + 8n … of the window's first `end`. Core matrices by words: a lane's is
 * one of 32. */
__device__ __forceinline__ void short_dt_proj(float acc[2][2][4], const struct scan &c, size_t row0, uint32_t from,
                                              uint32_t end, uint32_t d0)
{
    const uint32_t lane = threadIdx.x % 32, Rp = c.dt_proj.kp, group = Rp / 8 * 32;
    const uint32_t *w = reinterpret_cast<const uint32_t *>(c.dt_proj.tiled) + d0 / 8 * (size_t)group + lane;
    const uint16_t *dt = c.p.dt + row0 * Rp + lane % 4 * 2;
    const uint16_t *low = dt + min(from + lane / 4, end - 1) * Rp, *high = dt + min(from + 8 + lane / 4, end - 1) * Rp;
#pragma unroll
    for (int i = 0; i < 16; i++)
        acc[i / 8][i / 4 % 2][i % 4] = 0.0f;
#pragma unroll 1
    for (uint32_t k = 0; k < Rp / 16; k += DT_STEPS) {
        uint32_t a[DT_STEPS][2][4], b[DT_STEPS][2][2];
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++) {
            if (k + j >= Rp / 16)
                continue;
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                a[j][i / 4][i % 4] = __ldg(w + (i / 4 * 2 + i % 2) * group + (k + j) * 64 + i % 4 / 2 * 32);
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                b[j][i / 2][i % 2] =
                    *reinterpret_cast<const uint32_t *>((i < 2 ? low : high) + (k + j) * 16 + i % 2 * 8);
        }
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++)
            if (k + j < Rp / 16)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    mma_16816(acc[i / 2][i % 2], a[j][i / 2], b[j][i % 2]);
    }
}

/* Δ of the window's rows below `end`. */
__device__ __forceinline__ void short_delta(struct warp_rows *w, const struct scan &c, size_t row0, uint32_t end,
                                            uint32_t d0)
{
    const uint32_t lane = threadIdx.x % 32;
    float bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        bias[i] = __ldg(c.dt_proj.bias + d0 + i * 8 + lane / 4);
#pragma unroll 1
    for (uint32_t from = 0; from < end; from += 16) {
        float acc[2][2][4];
        short_dt_proj(acc, c, row0, from, end, d0);
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) { /* 8·(i / 4) channels and 8·(i % 4 / 2) rows on */
            const float total = acc[i / 8][i % 4 / 2][i / 4 % 2 * 2 + i % 2];
            w->delta[from + i % 4 / 2 * 8 + lane % 4 * 2 + i % 2][i / 4 * 8 + lane / 4] =
                softplus(product(total, c.dt_proj.scale, bias[i / 4]));
        }
    }
}

__device__ __forceinline__ void load16(float v[16], const float *from)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 f = reinterpret_cast<const float4 *>(from)[i];
        v[4 * i] = f.x;
        v[4 * i + 1] = f.y;
        v[4 * i + 2] = f.z;
        v[4 * i + 3] = f.w;
    }
}

/* What a lane knows of its channel. */
struct channel {
    float A[STATES], skip;
    uint32_t d;
};

/* Row i of the window; h is left rounded, `state` holds its bits. */
template <enum ssm_dtype S>
__device__ __forceinline__ void short_step(state16<S> *state, float h[STATES], const struct warp_rows *w,
                                           const float (*bc)[2 * STATES], uint32_t i, const struct channel *ch,
                                           uint16_t *y)
{
    const uint32_t lane = threadIdx.x % 32;
    float B[STATES], C[STATES];
    load16(B, bc[i]);
    load16(C, bc[i] + STATES);
    float v = scan_step<S>(*state, h, ch->A, B, C, w->delta[i][lane], w->g[i], half_at(&w->x[i][lane]),
                           half_at(&w->z[i][lane]), ch->skip);
    *y = __half_as_ushort(to_half(v));
}

/* Rows [from, end), each a segment of its own; next[0] holds the first one's state, `y` is of row `from`. */
template <enum ssm_dtype S, int AHEAD>
__device__ __forceinline__ void short_singles(state16<S> next[AHEAD], const struct short_shared *sh,
                                              const struct warp_rows *w, const struct channel *ch, uint32_t from,
                                              uint32_t end, uint16_t *y, uint32_t D)
{
    const uint32_t lane = threadIdx.x % 32;
    for (int j = 1; j < AHEAD; j++)
        if (from + j < end)
            next[j].load(w->state[from + j] + lane * 16);
    for (uint32_t i = from; i < end; i += AHEAD) {
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            if (i + j >= end)
                break;
            state16<S> state = next[j];
            if (i + j + AHEAD < end)
                next[j].load(w->state[i + j + AHEAD] + lane * 16);
            float h[STATES];
            state.unpack(h);
            short_step<S>(&state, h, w, sh->bc, i + j, ch, y);
            y += D;
            state.store(w->state[i + j] + lane * 16);
        }
    }
}

/* Segments of any length, each with the next one's state on its way; `next` is the first one's. */
template <enum ssm_dtype S>
__device__ __forceinline__ void short_segments(state16<S> next, const struct short_shared *sh,
                                               const struct warp_rows *w, const struct scan &c,
                                               const struct channel *ch, const struct window &v, size_t row0)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t i = __ffs(v.ours) - 1;
    for (uint32_t heads = v.heads; heads;) {
        state16<S> state = next;
        heads &= heads - 1;
        if (heads)
            next.load(w->state[__ffs(heads) - 1] + lane * 16);
        float h[STATES];
        state.unpack(h);
        for (;; i++) {
            short_step<S>(&state, h, w, sh->bc, i, ch, c.p.y + (row0 + i) * c.D + ch->d);
            if (v.tails >> i & 1)
                break;
        }
        state.store(w->state[i] + lane * 16);
        if (v.ends >> i & 1)
            keep_window(reinterpret_cast<uint16_t *>(w->slot[i] + c.conv_at) + ch->d,
                        c.p.xz + (row0 + i) * 2 * c.D + ch->d, c.D, w->T[i]);
        i++;
    }
}

template <enum ssm_dtype S>
__device__ __forceinline__ void short_rows(state16<S> next, const struct short_shared *sh, const struct warp_rows *w,
                                           const struct scan &c, const struct window &v, size_t row0, uint32_t d)
{
    enum { AHEAD = S == SSM_F32 ? 1 : 2 };
    struct channel ch;
    ch.d = d;
    ch.skip = __ldg(c.skip + d);
    load_A(c.A, d, ch.A);
    if (v.heads == v.ours && v.tails == v.ours && v.ends == 0) {
        state16<S> states[AHEAD];
        states[0] = next;
        const uint32_t from = __ffs(v.ours) - 1;
        short_singles<S, AHEAD>(states, sh, w, &ch, from, 32 - __clz(v.ours), c.p.y + (row0 + from) * c.D + d, c.D);
    } else {
        short_segments<S>(next, sh, w, c, &ch, v, row0);
    }
}

/* Segments that begin in rows [first, first + 16) and have at most `longest` rows. Windows of 32 rows: one, unless one
 * of the segments reaches beyond it; it is then put down and taken up again. */
template <enum ssm_dtype S>
__device__ __forceinline__ void short_tile(struct short_shared *sh, const struct scan &c, uint32_t rows, uint32_t first,
                                           uint32_t d0, uint32_t longest, uint32_t barrier)
{
    struct warp_rows *w = &sh->warps[threadIdx.x / 32 % (UNIT / 32)];
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t at = first; at < rows; at += WINDOW) {
        const struct window v = find_rows<S>(w, c, rows, first, at, d0, longest);
        if (!v.ours)
            return; /* as do the unit's other warps */
        const uint32_t from = __ffs(v.ours) - 1, end = 32 - __clz(v.ours);
        const size_t row0 = (size_t)c.s.begin + at;
        state16<S> next;
        next.load(w->state[from] + lane * 16);
        group_sync<UNIT>(barrier); /* the window before is done with */
        stage_rows(sh, w, c, row0, from, end, d0);
        short_delta(w, c, row0, end, d0);
        copies_wait();
        group_sync<UNIT>(barrier);
        short_rows<S>(next, sh, w, c, v, row0, d0 + lane);
        if (end < WINDOW)
            return;
    }
}

/* Tiles of 16 rows × 64 channels, one after the other, to units of two warps; the units know nothing of each other. */
template <enum ssm_dtype S>
static __global__ void __launch_bounds__(UNITS *UNIT, 1) scan_short(const struct scan c, uint32_t longest)
{
    extern __shared__ __align__(16) uint8_t shared[];
    const uint32_t units = blockDim.x / UNIT, unit = threadIdx.x / UNIT, rows = slice_rows(c.s);
    const uint32_t across = c.D / UNIT, tiles = (rows + SHORT - 1) / SHORT * across;
    struct short_shared *sh = reinterpret_cast<struct short_shared *>(shared) + unit;
    for (uint32_t tile = blockIdx.x * units + unit; tile < tiles; tile += gridDim.x * units)
        short_tile<S>(sh, c, rows, tile / across * SHORT, tile % across * UNIT + threadIdx.x % UNIT / 32 * 32, longest,
                      1 + unit);
}

/* ---- long segments ---- */

/* Stage i is in [i % 3] of what is loaded and in [i % 2] of what is made. Behind it: dt_proj's 32 channels (core
 * matrices, 4 × Rp/8), then dt [2][STAGE][Rp + 8] in halves. */
struct long_shared {
    float2 pairs[2][STAGE][PAIR_LD]; /* Δ·g, Δ·x by channel */
    float sums[2][STAGE][SUM_LD];    /* C·h */
    float bc[3][STAGE][2 * STATES];
    float g[3][STAGE];
    uint16_t x[3][STAGE][X_LD], z[3][STAGE][X_LD];
    uint32_t found[FINDERS], n_found[FINDERS / 32];
};

/* One segment as its block's threads see it. */
struct course {
    struct segment seg;
    size_t row0; /* of the pass */
    uint32_t T, stages, d0;
};

/* One step of 4 states: their part of C·h. */
template <enum ssm_dtype S>
__device__ __forceinline__ float quarter_step(state4<S> *state, float h[4], const float A[4], float2 pair,
                                              const float *bc)
{
    const float4 b = *reinterpret_cast<const float4 *>(bc), e = *reinterpret_cast<const float4 *>(bc + STATES);
    const float B[4] = {b.x, b.y, b.z, b.w}, C[4] = {e.x, e.y, e.z, e.w};
    decay4(h, A, B, pair.x, pair.y);
    state->pack(h);
    return read4(h, C);
}

/* (s0 + s1) + (s2 + s3) over the four lanes of a channel, for four steps at once: lane q gets step q's. */
__device__ __forceinline__ float sum_of_step(const float s[4], uint32_t q)
{
    const bool odd = q & 1, high = q & 2;
    float a = __fadd_rn(odd ? s[1] : s[0], __shfl_xor_sync(0xffffffffu, odd ? s[0] : s[1], 1));
    float b = __fadd_rn(odd ? s[3] : s[2], __shfl_xor_sync(0xffffffffu, odd ? s[2] : s[3], 1));
    return __fadd_rn(high ? b : a, __shfl_xor_sync(0xffffffffu, high ? a : b, 2));
}

/* The stepping warps: n steps of a stage; channel `ch` of the block's 32. */
template <enum ssm_dtype S>
__device__ __forceinline__ void step_stage(state4<S> *state, float h[4], const float A[4],
                                           const float2 (*pairs)[PAIR_LD], const float (*bc)[2 * STATES],
                                           float (*sums)[SUM_LD], uint32_t n, uint32_t ch, uint32_t q)
{
    uint32_t t = 0;
#pragma unroll 1
    for (; t + 8 <= n; t += 8) {
        float s[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            s[j] = quarter_step<S>(state, h, A, pairs[t + j][ch], bc[t + j] + 4 * q);
        sums[t + q][ch] = sum_of_step(s, q);
        sums[t + 4 + q][ch] = sum_of_step(s + 4, q);
    }
#pragma unroll 1
    for (; t < n; t++) {
        float s = quarter_step<S>(state, h, A, pairs[t][ch], bc[t] + 4 * q);
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, 1));
        s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, 2));
        if (q == 0)
            sums[t][ch] = s;
    }
}

/* The feeding warps, thread i of HALF: inputs of stage `stage` on their way. */
__device__ __forceinline__ void load_stage(struct long_shared *sh, uint16_t *dt, const struct scan &c,
                                           const struct course &o, uint32_t stage, uint32_t slot, uint32_t i)
{
    const uint32_t n = min(o.T - stage * STAGE, (uint32_t)STAGE), Rp = c.dt_proj.kp, D = c.D;
    const size_t row0 = o.row0 + stage * STAGE;
    uint16_t *to = dt + stage % 2 * STAGE * (Rp + 8);
    if (i < n * 4) {
        copy16(&sh->x[slot][i / 4][i % 4 * 8], c.p.xc + (row0 + i / 4) * D + o.d0 + i % 4 * 8);
        copy16(&sh->z[slot][i / 4][i % 4 * 8], c.p.xz + (row0 + i / 4) * 2 * D + D + o.d0 + i % 4 * 8);
    }
    for (uint32_t j = i; j < n * 8; j += HALF)
        copy16(&sh->bc[slot][j / 8][j % 8 * 4], c.p.bc + row0 * 2 * STATES + j * 4);
    if (i < n * 4)
        for (uint32_t k = i % 4 * 8; k < Rp; k += 32)
            copy16(to + i / 4 * (Rp + 8) + k, c.p.dt + (row0 + i / 4) * Rp + k);
    if (i < n)
        copy4(&sh->g[slot][i], c.p.g + row0 + i);
}

/* Δ·g and Δ·x of a stage: feeding warp w has its rows 8w … */
__device__ __forceinline__ void make_pairs(struct long_shared *sh, const uint16_t *weights, const uint16_t *dt,
                                           const struct scan &c, const float bias[4], uint32_t stage, uint32_t slot,
                                           uint32_t w)
{
    const uint32_t lane = threadIdx.x % 32, Rp = c.dt_proj.kp, matrix = lane / 8, row = w * 8 + lane % 4 * 2;
    const uint32_t a_at = shared_address(weights) + (matrix % 2 * (Rp / 8) + matrix / 2) * 128 + lane % 8 * 16;
    const uint32_t b_at = shared_address(dt) + ((stage % 2 * STAGE + w * 8 + lane % 8) * (Rp + 8) + matrix % 2 * 8) * 2;
    float acc[2][4] = {};
    for (uint32_t k = 0; k < Rp / 16; k++) {
        uint32_t a[2][4], b[2];
        ldmatrix_x4(a[0], a_at + k * 256);
        ldmatrix_x4(a[1], a_at + (Rp / 8) * 256 + k * 256);
        ldmatrix_x2(b, b_at + k * 32);
        mma_16816(acc[0], a[0], b);
        mma_16816(acc[1], a[1], b);
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t r = row + i % 2, ch = i / 2 * 8 + lane / 4;
        const float delta = softplus(product(acc[i / 4][i % 4], c.dt_proj.scale, bias[i / 2]));
        sh->pairs[stage % 2][r][ch] =
            make_float2(__fmul_rn(delta, sh->g[slot][r]), __fmul_rn(delta, half_at(&sh->x[slot][r][ch])));
    }
}

__device__ __forceinline__ uint16_t gated(const struct long_shared *sh, float skip, uint32_t stage, uint32_t slot,
                                          uint32_t row, uint32_t ch)
{
    return __half_as_ushort(to_half(
        gate(sh->sums[stage % 2][row][ch], skip, half_at(&sh->x[slot][row][ch]), half_at(&sh->z[slot][row][ch]))));
}

/* y of a stage: feeding warp w has its rows 8w …, a lane one channel. */
__device__ __forceinline__ void gate_stage(const struct long_shared *sh, const struct scan &c, const struct course &o,
                                           float skip, uint32_t stage, uint32_t slot, uint32_t w)
{
    const uint32_t lane = threadIdx.x % 32, row = w * 8, left = o.T - stage * STAGE;
    uint16_t *y = c.p.y + (o.row0 + stage * STAGE + row) * c.D + o.d0 + lane;
    if (row + 8 <= left) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            y[(size_t)i * c.D] = gated(sh, skip, stage, slot, row + i, lane);
        return;
    }
    for (uint32_t i = 0; row + i < left; i++)
        y[(size_t)i * c.D] = gated(sh, skip, stage, slot, row + i, lane);
}

/* The rows of segments that the long kernel takes, in one order for all blocks: of all, one per run, where by_run, else
 * of those with more than SHORT rows, found by the first multiple of SHORT that they have. */
__device__ __forceinline__ uint32_t find_segments(struct long_shared *sh, const struct scan &c, uint32_t rows,
                                                  bool by_run)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t row = threadIdx.x * SHORT;
    bool found = false;
    if (by_run) {
        const uint32_t run = c.p.run_of[c.s.begin] + threadIdx.x;
        found = run <= c.p.run_of[c.s.begin + rows - 1];
        row = found && threadIdx.x > 0 ? c.p.runs[run].row - c.s.begin : 0;
    } else if (row < rows) {
        const struct segment seg = segment_of(c.p, c.s, rows, row);
        found = row < seg.begin + SHORT && seg.end - seg.begin > SHORT;
    }
    const uint32_t mask = __ballot_sync(0xffffffffu, found);
    if (lane == 0)
        sh->n_found[warp] = __popc(mask);
    __syncthreads();
    uint32_t before = 0, all = 0;
    for (uint32_t i = 0; i < FINDERS / 32; i++) {
        before += i < warp ? sh->n_found[i] : 0;
        all += sh->n_found[i];
    }
    if (found)
        sh->found[before + __popc(mask & ((1u << lane) - 1))] = row;
    __syncthreads();
    return all;
}

__device__ __forceinline__ uint32_t next_slot(uint32_t slot)
{
    return slot == 2 ? 0 : slot + 1;
}

__device__ __forceinline__ struct course course_of(const struct scan &c, uint32_t rows, uint32_t row)
{
    struct course o;
    o.seg = segment_of(c.p, c.s, rows, row);
    o.row0 = (size_t)c.s.begin + o.seg.begin;
    o.T = o.seg.end - o.seg.begin;
    o.stages = (o.T + STAGE - 1) / STAGE;
    o.d0 = blockIdx.x * 32;
    return o;
}

/* In turn i: stage i is made, i − 1 stepped, i − 2 gated. */
template <enum ssm_dtype S>
__device__ __forceinline__ void stepping(struct long_shared *sh, const struct scan &c, const struct course &o,
                                         const float A[4])
{
    const uint32_t ch = threadIdx.x / 4, q = threadIdx.x % 4;
    uint8_t *at = state4_at<S>(o.seg.slot + c.ssm_at, o.d0 + ch, q);
    state4<S> state;
    float h[4];
    state.load(at);
    state.unpack(h);
    __syncthreads(); /* turn 0 */
    for (uint32_t stage = 0, slot = 0; stage < o.stages; stage++, slot = next_slot(slot)) {
        step_stage<S>(&state, h, A, sh->pairs[stage % 2], sh->bc[slot], sh->sums[stage % 2],
                      min(o.T - stage * STAGE, (uint32_t)STAGE), ch, q);
        __syncthreads();
    }
    state.store(at);
    __syncthreads(); /* the last turn */
}

__device__ __forceinline__ void feeding(struct long_shared *sh, const uint16_t *weights, uint16_t *dt,
                                        const struct scan &c, const struct course &o, const float bias[4], float skip)
{
    const uint32_t i = threadIdx.x - HALF, w = i / 32;
    load_stage(sh, dt, c, o, 0, 0, i);
    for (uint32_t turn = 0, slot = 0; turn < o.stages + 2; turn++, slot = next_slot(slot)) {
        if (turn >= 2)
            gate_stage(sh, c, o, skip, turn - 2, next_slot(slot), w);
        copies_wait();
        group_sync<HALF>(1); /* stage `turn` is there, turn − 2 done with */
        if (turn + 1 < o.stages)
            load_stage(sh, dt, c, o, turn + 1, next_slot(slot), i);
        if (turn < o.stages)
            make_pairs(sh, weights, dt, c, bias, turn, slot, w);
        __syncthreads();
    }
    if (w == 0 && o.T > 1)
        keep_window(reinterpret_cast<uint16_t *>(o.seg.slot + c.conv_at) + o.d0 + i,
                    c.p.xz + (o.row0 + o.T - 1) * 2 * c.D + o.d0 + i, c.D, o.T);
}

/* 32 channels of the segments that find_segments() names; every gridDim.y-th is a block's. */
template <enum ssm_dtype S>
static __global__ void __launch_bounds__(2 * HALF, 3) scan_long(const struct scan c, bool by_run)
{
    extern __shared__ __align__(16) uint8_t shared[];
    struct long_shared *sh = reinterpret_cast<struct long_shared *>(shared);
    uint16_t *weights = reinterpret_cast<uint16_t *>(sh + 1), *dt = weights + 32 * c.dt_proj.kp;
    const uint32_t rows = slice_rows(c.s), d0 = blockIdx.x * 32;
    if (rows == 0)
        return;
    const uint32_t n = find_segments(sh, c, rows, by_run);
    if (blockIdx.y >= n)
        return;
    if (threadIdx.x < HALF) {
        const uint32_t d = d0 + threadIdx.x / 4, q = threadIdx.x % 4;
        const float4 a = __ldg(reinterpret_cast<const float4 *>(c.A + (size_t)(d / 32) * 512 + q * 128 + d % 32 * 4));
        const float A[4] = {a.x, a.y, a.z, a.w};
        for (uint32_t i = blockIdx.y; i < n; i += gridDim.y)
            stepping<S>(sh, c, course_of(c, rows, sh->found[i]), A);
    } else {
        const uint32_t lane = threadIdx.x % 32;
        const uint4 *from = reinterpret_cast<const uint4 *>(c.dt_proj.tiled + (size_t)d0 * c.dt_proj.kp);
        for (uint32_t i = threadIdx.x - HALF; i < 4 * c.dt_proj.kp; i += HALF)
            copy16(weights + i * 8, from + i);
        float bias[4], skip = __ldg(c.skip + d0 + lane);
        for (int i = 0; i < 4; i++)
            bias[i] = __ldg(c.dt_proj.bias + d0 + i * 8 + lane / 4);
        for (uint32_t i = blockIdx.y; i < n; i += gridDim.y)
            feeding(sh, weights, dt, c, course_of(c, rows, sh->found[i]), bias, skip);
    }
}

/* ---- host ---- */

static size_t long_bytes(const struct gpu_model *m)
{
    return sizeof(struct long_shared) + (32 * m->d.Rp + 2 * STAGE * (m->d.Rp + 8)) * sizeof(uint16_t);
}

template <enum ssm_dtype S> static cudaError_t allow(const struct gpu_model *m)
{
    const void *kernels[] = {(const void *)scan_short<S>, (const void *)scan_long<S>};
    const int bytes[] = {UNITS * (int)sizeof(struct short_shared), (int)long_bytes(m)};
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 2 && !e; i++) {
        e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes[i]);
        if (!e)
            e = cudaFuncSetAttribute(kernels[i], cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
    }
    return e;
}

cudaError_t gpu_scan_open(const struct gpu_model *m)
{
    cudaError_t e = allow<SSM_F32>(m);
    if (!e)
        e = allow<SSM_BF16>(m);
    return e ? e : allow<SSM_F16>(m);
}

/* The same number of units on every multiprocessor, and of tiles to every unit. */
template <enum ssm_dtype S>
static void launch_short(const struct scan &c, uint32_t longest, uint32_t sms, cudaStream_t stream)
{
    const uint32_t tiles = c.D / UNIT * ((c.s.bound + SHORT - 1) / SHORT);
    const uint32_t turns = (tiles + sms * UNITS - 1) / (sms * UNITS), units = (tiles + sms * turns - 1) / (sms * turns);
    const uint32_t blocks = (tiles + turns * units - 1) / (turns * units);
    scan_short<S><<<blocks, units * UNIT, units * sizeof(struct short_shared), stream>>>(c, longest);
}

/* Runs of one row: the short kernel alone, of any length. Few and long ones: the long kernel alone, of any length. */
template <enum ssm_dtype S>
static void launch(const struct gpu_model *m, const struct scan &c, uint32_t rows, uint32_t n_runs, uint32_t sms,
                   cudaStream_t stream)
{
    const bool single = n_runs >= rows, by_run = n_runs <= FINDERS && n_runs <= rows / STAGE;
    const uint32_t groups = c.D / 32, most = groups < 3 * sms ? 3 * sms / groups : 1;
    const uint32_t found = by_run ? n_runs : (c.s.bound + SHORT - 1) / SHORT;
    if (!by_run)
        launch_short<S>(c, single ? UINT32_MAX : SHORT, sms, stream);
    if (!single)
        scan_long<S><<<dim3(groups, found < most ? found : most), 2 * HALF, long_bytes(m), stream>>>(c, by_run);
}

void gpu_scan(const struct gpu_model *m, const struct gpu_pass *p, enum ssm_dtype state, uint32_t layer,
              struct gpu_slice s, uint32_t rows, uint32_t n_runs, uint32_t sms, cudaStream_t stream)
{
    assert(s.bound <= WIDE_SLICE_MAX);
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
