/* scan.cu: Δ = softplus(dt_proj·dt), the selective scan, skip and gate: what reads and writes the states. Two kernels
 * with the same bits; gpu_scan() launches one or both.
 *
 * Short segments (steps of many streams): a unit of two warps has 64 channels of the segments that begin in up to 16
 * rows, a lane one channel. It multiplies dt_proj for its rows, then goes from segment to segment with the next states
 * already on their way: 64 bytes a lane, 32 KB an SM. This is the memory's: mamba-130m, 4096 streams, bf16 states: 403
 * MB a layer, 141 µs at 2.85 TB/s, against 53 µs of issues (202 per step of 32 channels, and 1300 per tile). One block
 * per SM, so that a scan can leave the others to the products of another slice; tiles are of as many rows as let all
 * units take the same number of them.
 *
 * Long segments (few runs, thousands of steps): a block has 16 channels of one segment. Two warps do nothing but step:
 * four lanes a channel, four states a lane; all but h = a·h + b and C·h is done two to four steps ahead, and the sum
 * over the lanes four steps behind. Four warps make their operands (dt_proj, softplus, Δ·g, Δ·x) a stage of 32 steps
 * ahead, gate what the others left a stage behind, and have the inputs of the stage after on their way from memory.
 * Stages are handed over by named barriers, one pair per direction. A stepping warp's step is 32 clk of special
 * functions (four ex2) and 30 issues (fp32) or 36 (half-precision states). mamba-130m: 96 blocks a run; where each is
 * alone on its multiprocessor, a stepping warp has a quarter of that to itself, and 65536 steps × 24 layers × 36 clk
 * are 29 ms.
 *
 * Ladder (mamba-130m, one layer: 2048 one-row runs, bf16 states / one run of 2048 rows / 16 runs of 128):
 *   1. units of two warps, 8 an SM / four lanes a channel, 32 channels a block: 97.4 / 146 / 61.9 µs
 *   2. tiles of even height / 16 channels a block, steps pipelined, four warps that feed two, no turn in common:
 *      4096 rows 170 µs / one run of 4096 rows 163 / 16 of 256 129
 *
 * Traps: a segment's old conv window must be read before the new one is written (keep_window(), by the thread that has
 * the channel), and select.cu of the same slice must be done with it. All warps of a unit take the same turns through
 * its barrier. In long segments, what is loaded for a stage is overwritten three stages later, what is made and what is
 * summed two later: feeding() waits for "stepped" before it does either. */
#include <cassert>

#include "ssm/cuda/arith.cuh"
#include "ssm/cuda/mma.cuh"
#include "ssm/cuda/wide.h"

enum {
    STATES = 16,
    SHORT = 16, /* most rows in which a unit's segments begin; longer ones are the long kernel's where it runs */
    SHORT_MIN = 4,
    SHARED_MAX = 227 * 1024,          /* of a block */
    WINDOW = 32,                      /* rows that a unit has before it */
    UNIT = 64,                        /* threads, and channels of a tile */
    UNITS = 8,                        /* of a block at most: 128 registers a thread */
    DT_STEPS = 3,                     /* of 16 k's on their way together */
    DELTA_LD = 36,                    /* floats: mma's accumulators go to distinct banks */
    LONG = 16,                        /* channels of a block in long segments */
    STEPPERS = 64,                    /* threads that step along one */
    FEEDERS = 128,                    /* and that feed them */
    STAGE = 32,                       /* steps */
    FINDERS = WIDE_SLICE_MAX / SHORT, /* segments that a slice may have for the long kernel */
    X_LD = 24,                        /* halves */
    PAIR_LD = 18,                     /* float4s */
    SUM_LD = 24                       /* floats */
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

template <int THREADS> __device__ __forceinline__ void group_arrive(uint32_t barrier)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
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
                                                   uint32_t first, uint32_t last, uint32_t at, uint32_t d0,
                                                   uint32_t longest)
{
    const uint32_t lane = threadIdx.x % 32, i = at + lane;
    bool ours = false, head = false, tail = false, end = false;
    __syncwarp();
    if (i < rows) {
        const struct segment seg = segment_of(c.p, c.s, rows, i);
        const uint32_t T = seg.end - seg.begin;
        ours = seg.begin >= first && seg.begin <= last && T <= longest;
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

/* Segments that begin in rows first … last, 16 at most, and have at most `longest` rows. Windows of 32 rows: one,
 * unless one of the segments reaches beyond it; it is then put down and taken up again. */
template <enum ssm_dtype S>
__device__ __forceinline__ void short_tile(struct short_shared *sh, const struct scan &c, uint32_t rows, uint32_t first,
                                           uint32_t last, uint32_t d0, uint32_t longest, uint32_t barrier)
{
    struct warp_rows *w = &sh->warps[threadIdx.x / 32 % (UNIT / 32)];
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t at = first; at < rows; at += WINDOW) {
        const struct window v = find_rows<S>(w, c, rows, first, last, at, d0, longest);
        if (!v.ours)
            return; /* as do the unit's other warps */
        const uint32_t from = __ffs(v.ours) - 1, end = 32 - __clz(v.ours);
        const size_t row0 = (size_t)c.s.begin + at;
        state16<S> next;
        next.load(w->state[from] + lane * 16);
        after_previous();
        start_next();
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

/* Tiles of `height` rows × 64 channels, one after the other, to units of two warps; the units know nothing of each
 * other. Slots and states are those that the kernel ahead has left alone. */
template <enum ssm_dtype S>
static __global__ void __launch_bounds__(UNITS *UNIT, 1)
    scan_short(const struct scan c, uint32_t longest, uint32_t height)
{
    extern __shared__ __align__(16) uint8_t shared[];
    const uint32_t units = blockDim.x / UNIT, unit = threadIdx.x / UNIT, rows = slice_rows(c.s);
    const uint32_t across = c.D / UNIT, tiles = (rows + height - 1) / height * across;
    struct short_shared *sh = reinterpret_cast<struct short_shared *>(shared) + unit;
    for (uint32_t tile = blockIdx.x * units + unit; tile < tiles; tile += gridDim.x * units) {
        const uint32_t first = tile / across * height, d0 = tile % across * UNIT + threadIdx.x % UNIT / 32 * 32;
        short_tile<S>(sh, c, rows, first, first + height - 1, d0, longest, 1 + unit);
    }
}

/* ---- long segments ---- */

/* Stage i is in [i % 3] of what is loaded and in [i % 2] of what is made; the stepping warps look two steps beyond its
 * end. Behind it: dt_proj's 16 channels (core matrices, 2 × Rp/8), then dt [2][STAGE][Rp + 8] in halves. */
struct long_shared {
    float4 pairs[2][STAGE / 2 + 2][PAIR_LD]; /* by channel: Δ·g, Δ·x of two steps */
    float sums[2][4 + STAGE][SUM_LD];        /* C·h, behind four that mean nothing */
    float bc[3][STAGE + 4][2 * STATES];
    float g[3][STAGE];
    uint16_t x[3][STAGE][X_LD], z[3][STAGE][X_LD];
    uint32_t found[FINDERS], n_found[FINDERS / 32];
};

/* A block's named barriers: the feeding warps among themselves, then, by stage % 2, "made" and "stepped". */
enum { FEED_BARRIER = 1, MADE_BARRIER = 2, STEPPED_BARRIER = 4 };

/* Barriers are constants, so that a block takes six of the multiprocessor's. */
template <int BARRIER> __device__ __forceinline__ void handover_wait(uint32_t odd)
{
    if (odd)
        group_sync<STEPPERS + FEEDERS>(BARRIER + 1);
    else
        group_sync<STEPPERS + FEEDERS>(BARRIER);
}

template <int BARRIER> __device__ __forceinline__ void handover(uint32_t odd)
{
    if (odd)
        group_arrive<STEPPERS + FEEDERS>(BARRIER + 1);
    else
        group_arrive<STEPPERS + FEEDERS>(BARRIER);
}

/* One segment as its block's threads see it. */
struct course {
    struct segment seg;
    size_t row0; /* of the pass */
    uint32_t T, stages, d0;
};

/* What two steps of 4 states need beside C: decays and Δ·x·B. */
struct operands {
    float a[2][4], b[2][4];
};

struct inputs {
    float4 pair, B[2];
};

__device__ __forceinline__ struct inputs load_inputs(const float4 *pair, const float *bc)
{
    struct inputs in;
    in.pair = *pair;
    in.B[0] = *reinterpret_cast<const float4 *>(bc);
    in.B[1] = *reinterpret_cast<const float4 *>(bc + 2 * STATES);
    return in;
}

__device__ __forceinline__ struct operands make_operands(const struct inputs &in, const float A[4])
{
    const float dg[2] = {in.pair.x, in.pair.z}, dx[2] = {in.pair.y, in.pair.w};
    struct operands o;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float B[4] = {in.B[i].x, in.B[i].y, in.B[i].z, in.B[i].w};
        decay4_operands(o.a[i], o.b[i], A, B, dg[i], dx[i]);
    }
    return o;
}

/* One step of 4 states: their part of C·h. */
template <enum ssm_dtype S>
__device__ __forceinline__ float quarter_step(state4<S> *state, float h[4], const float a[4], const float b[4],
                                              float4 c)
{
    const float C[4] = {c.x, c.y, c.z, c.w};
    decay4_apply(h, a, b);
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

__device__ __forceinline__ float4 load_C(const float *bc)
{
    return *reinterpret_cast<const float4 *>(bc + STATES);
}

/* Where a lane finds a step's operands and leaves its sum, four rows on: `pairs` is of the channel, `bc` of the
 * quarter. */
struct place {
    const float4 *pairs;
    const float *bc;
    float *sums;
};

/* What is on its way at a step: inputs of the second pair of steps from it, operands of the first, sums of the four
 * steps before it. */
struct ahead {
    struct inputs in;
    struct operands o;
    float4 C[2];
    float s[4];
};

__device__ __forceinline__ void begin_ahead(struct ahead *p, const struct place &at, const float A[4])
{
    p->o = make_operands(load_inputs(at.pairs, at.bc), A);
    p->in = load_inputs(at.pairs + PAIR_LD, at.bc + 4 * STATES);
    p->C[0] = load_C(at.bc);
    p->C[1] = load_C(at.bc + 2 * STATES);
    for (int i = 0; i < 4; i++)
        p->s[i] = 0.0f;
}

/* Eight steps; `next` is the place of those after them. The sums of the last four are left to p->s. */
template <enum ssm_dtype S>
__device__ __forceinline__ void step8(state4<S> *state, float h[4], struct ahead *p, const float A[4],
                                      const struct place &at, const struct place &next, uint32_t q)
{
    float s[8];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const struct inputs in = j < 2 ? load_inputs(at.pairs + (j + 2) * PAIR_LD, at.bc + (j + 2) * 4 * STATES)
                                       : load_inputs(next.pairs + (j - 2) * PAIR_LD, next.bc + (j - 2) * 4 * STATES);
        const float *c = j < 3 ? at.bc + (j + 1) * 4 * STATES : next.bc;
        const float4 C[2] = {load_C(c), load_C(c + 2 * STATES)};
        const struct operands o = make_operands(p->in, A);
        s[2 * j] = quarter_step<S>(state, h, p->o.a[0], p->o.b[0], p->C[0]);
        s[2 * j + 1] = quarter_step<S>(state, h, p->o.a[1], p->o.b[1], p->C[1]);
        p->in = in;
        p->o = o;
        p->C[0] = C[0];
        p->C[1] = C[1];
        if (j == 0)
            at.sums[q * SUM_LD] = sum_of_step(p->s, q);
        else if (j == 2)
            at.sums[(4 + q) * SUM_LD] = sum_of_step(s, q);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        p->s[i] = s[4 + i];
}

/* One step of the last few. */
template <enum ssm_dtype S>
__device__ __forceinline__ void step1(state4<S> *state, float h[4], const float A[4], const struct place &at,
                                      uint32_t t, uint32_t q)
{
    const float2 pair = reinterpret_cast<const float2 *>(at.pairs + t / 2 * PAIR_LD)[t % 2];
    const float4 b = *reinterpret_cast<const float4 *>(at.bc + t * 2 * STATES);
    const float B[4] = {b.x, b.y, b.z, b.w};
    float a[4], add[4];
    decay4_operands(a, add, A, B, pair.x, pair.y);
    float s = quarter_step<S>(state, h, a, add, load_C(at.bc + t * 2 * STATES));
    s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, 1));
    s = __fadd_rn(s, __shfl_xor_sync(0xffffffffu, s, 2));
    if (q == 0)
        at.sums[(4 + t) * SUM_LD] = s;
}

/* The feeding warps, thread i of FEEDERS: inputs of stage `stage` on their way. */
__device__ __forceinline__ void load_stage(struct long_shared *sh, uint16_t *dt, const struct scan &c,
                                           const struct course &o, uint32_t stage, uint32_t slot, uint32_t i)
{
    const uint32_t n = min(o.T - stage * STAGE, (uint32_t)STAGE), Rp = c.dt_proj.kp, D = c.D;
    const uint32_t row = i / 4, part = i % 2 * 8;
    const size_t row0 = o.row0 + stage * STAGE;
    if (row < n) {
        if (i % 4 < 2)
            copy16(&sh->x[slot][row][part], c.p.xc + (row0 + row) * D + o.d0 + part);
        else
            copy16(&sh->z[slot][row][part], c.p.xz + (row0 + row) * 2 * D + D + o.d0 + part);
        const float *bc = c.p.bc + (row0 + row) * 2 * STATES + i % 4 * 8;
        copy16(&sh->bc[slot][row][i % 4 * 8], bc);
        copy16(&sh->bc[slot][row][i % 4 * 8 + 4], bc + 4);
        uint16_t *to = dt + (stage % 2 * STAGE + row) * (Rp + 8);
        const uint16_t *from = c.p.dt + (row0 + row) * Rp;
        for (uint32_t k = i % 4 * 8; k < Rp; k += 32)
            copy16(to + k, from + k);
    }
    if (i < n)
        copy4(&sh->g[slot][i], c.p.g + row0 + i);
}

/* Of channels 0 and 8 on, two rows each, as an mma leaves them. */
__device__ __forceinline__ void softplus4(float delta[4], const float acc[4], float scale, const float bias[2])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        delta[i] = softplus(product(acc[i], scale, bias[i / 2]));
}

/* Δ·g and Δ·x of a stage: feeding warp w has its rows 8w … */
__device__ __forceinline__ void make_pairs(struct long_shared *sh, const uint16_t *weights, const uint16_t *dt,
                                           const struct scan &c, const float bias[2], uint32_t stage, uint32_t slot,
                                           uint32_t w)
{
    const uint32_t lane = threadIdx.x % 32, Rp = c.dt_proj.kp, matrix = lane / 8, row = w * 8 + lane % 4 * 2;
    const uint32_t a_at = shared_address(weights) + (matrix % 2 * (Rp / 8) + matrix / 2) * 128 + lane % 8 * 16;
    const uint32_t b_at = shared_address(dt) + ((stage % 2 * STAGE + w * 8 + lane % 8) * (Rp + 8) + matrix % 2 * 8) * 2;
    float acc[4] = {};
#pragma unroll 1
    for (uint32_t k = 0; k < Rp / 16; k += DT_STEPS) {
        uint32_t a[DT_STEPS][4], b[DT_STEPS][2];
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++) {
            if (k + j >= Rp / 16)
                continue;
            ldmatrix_x4(a[j], a_at + (k + j) * 256);
            ldmatrix_x2(b[j], b_at + (k + j) * 32);
        }
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++)
            if (k + j < Rp / 16)
                mma_16816(acc, a[j], b[j]);
    }
    float delta[4];
    softplus4(delta, acc, c.dt_proj.scale, bias);
    const float g[2] = {sh->g[slot][row], sh->g[slot][row + 1]};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t ch = i * 8 + lane / 4;
        const float *of = delta + 2 * i;
        sh->pairs[stage % 2][row / 2][ch] =
            make_float4(__fmul_rn(of[0], g[0]), __fmul_rn(of[0], half_at(&sh->x[slot][row][ch])),
                        __fmul_rn(of[1], g[1]), __fmul_rn(of[1], half_at(&sh->x[slot][row + 1][ch])));
    }
}

/* y of a stage: feeding warp w has its rows 8w …, a lane two channels of two of them. */
__device__ __forceinline__ void gate_stage(const struct long_shared *sh, const struct scan &c, const struct course &o,
                                           float2 skip, uint32_t stage, uint32_t slot, uint32_t w)
{
    const uint32_t lane = threadIdx.x % 32, row = w * 8 + lane / 8, ch = lane % 8 * 2, left = o.T - stage * STAGE;
    uint16_t *y = c.p.y + (o.row0 + stage * STAGE + row) * c.D + o.d0 + ch;
    __half2 v[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const float2 sum = *reinterpret_cast<const float2 *>(&sh->sums[stage % 2][4 + row + 4 * i][ch]);
        const float2 x = __half22float2(*reinterpret_cast<const __half2 *>(&sh->x[slot][row + 4 * i][ch]));
        const float2 z = __half22float2(*reinterpret_cast<const __half2 *>(&sh->z[slot][row + 4 * i][ch]));
        v[i] = to_half2(gate(sum.x, skip.x, x.x, z.x), gate(sum.y, skip.y, x.y, z.y));
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
        if (row + 4 * i < left)
            *reinterpret_cast<__half2 *>(y + 4 * i * (size_t)c.D) = v[i];
}

/* Whether candidate i for the long kernel is one, and then a row of it. By run: each run is. Otherwise: multiples of
 * SHORT rows, each for the segment that has it, longer than SHORT, and no earlier one. */
__device__ __forceinline__ bool candidate(const struct scan &c, uint32_t rows, bool by_run, uint32_t i, uint32_t *row)
{
    if (by_run) {
        const uint32_t run = c.p.run_of[c.s.begin] + i;
        if (run > c.p.run_of[c.s.begin + rows - 1])
            return false;
        *row = i > 0 ? c.p.runs[run].row - c.s.begin : 0;
        return true;
    }
    *row = i * SHORT;
    if (*row >= rows)
        return false;
    const struct segment seg = segment_of(c.p, c.s, rows, *row);
    return *row < seg.begin + SHORT && seg.end - seg.begin > SHORT;
}

/* A row of each segment that the long kernel takes, in one order for all blocks. */
__device__ __forceinline__ uint32_t find_segments(struct long_shared *sh, const struct scan &c, uint32_t rows,
                                                  bool by_run)
{
    enum { TURNS = (FINDERS + STEPPERS + FEEDERS - 1) / (STEPPERS + FEEDERS) };
    uint32_t row[TURNS], mask[TURNS];
    bool found[TURNS];
#pragma unroll
    for (uint32_t j = 0; j < TURNS; j++) {
        const uint32_t i = threadIdx.x + j * blockDim.x;
        found[j] = i < FINDERS && candidate(c, rows, by_run, i, &row[j]);
        mask[j] = __ballot_sync(0xffffffffu, found[j]);
        if (i < FINDERS && i % 32 == 0)
            sh->n_found[i / 32] = __popc(mask[j]);
    }
    __syncthreads();
    uint32_t all = 0;
    for (uint32_t i = 0; i < FINDERS / 32; i++)
        all += sh->n_found[i];
#pragma unroll
    for (uint32_t j = 0; j < TURNS; j++) {
        uint32_t before = __popc(mask[j] & ((1u << threadIdx.x % 32) - 1));
        for (uint32_t i = 0; i < FINDERS / 32; i++)
            before += i < (threadIdx.x + j * blockDim.x) / 32 ? sh->n_found[i] : 0;
        if (found[j])
            sh->found[before] = row[j];
    }
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
    o.d0 = blockIdx.x * LONG;
    return o;
}

__device__ __forceinline__ struct place place_of(struct long_shared *sh, uint32_t stage, uint32_t slot)
{
    const uint32_t ch = threadIdx.x / 4, q = threadIdx.x % 4;
    struct place at;
    at.pairs = &sh->pairs[stage % 2][0][ch];
    at.bc = &sh->bc[slot][0][4 * q];
    at.sums = &sh->sums[stage % 2][0][ch];
    return at;
}

/* Stages go over into each other: the last eight steps of one look ahead into the next. */
template <enum ssm_dtype S>
__device__ __forceinline__ void stepping(struct long_shared *sh, const struct scan &c, const struct course &o,
                                         const float A[4])
{
    const uint32_t ch = threadIdx.x / 4, q = threadIdx.x % 4;
    uint8_t *home = state4_at<S>(o.seg.slot + c.ssm_at, o.d0 + ch, q);
    state4<S> state;
    float h[4];
    state.load(home);
    after_previous();
    state.unpack(h);
    handover_wait<MADE_BARRIER>(0);
    struct place at = place_of(sh, 0, 0);
    struct ahead p;
    begin_ahead(&p, at, A);
    for (uint32_t stage = 0, slot = 0; stage < o.stages; stage++, slot = next_slot(slot)) {
        const uint32_t n = min(o.T - stage * STAGE, (uint32_t)STAGE);
        float *sums = at.sums;
#pragma unroll 1
        for (uint32_t t = 0; t + 8 <= n; t += 8) {
            struct place next = {at.pairs + 4 * PAIR_LD, at.bc + 16 * STATES, at.sums + 8 * SUM_LD};
            if (t == STAGE - 8 && stage + 1 < o.stages) {
                handover_wait<MADE_BARRIER>((stage + 1) % 2);
                next = place_of(sh, stage + 1, next_slot(slot));
            }
            step8<S>(&state, h, &p, A, at, next, q);
            sums = at.sums + 8 * SUM_LD;
            at = next;
        }
        if (n >= 8)
            sums[q * SUM_LD] = sum_of_step(p.s, q);
#pragma unroll 1
        for (uint32_t t = 0; t < n % 8; t++)
            step1<S>(&state, h, A, at, t, q);
        handover<STEPPED_BARRIER>(stage % 2);
    }
    state.store(home);
}

/* In turn i: stage i is made and i − 2 gated, while i − 1 is stepped. */
__device__ __forceinline__ void feeding(struct long_shared *sh, const uint16_t *weights, uint16_t *dt,
                                        const struct scan &c, const struct course &o, const float bias[2], float2 skip,
                                        uint32_t i)
{
    const uint32_t w = i / 32;
    group_sync<FEEDERS>(FEED_BARRIER); /* the course before is done with */
    load_stage(sh, dt, c, o, 0, 0, i);
    for (uint32_t turn = 0, slot = 0; turn < o.stages + 2; turn++, slot = next_slot(slot)) {
        if (turn >= 2) {
            handover_wait<STEPPED_BARRIER>(turn % 2);
            gate_stage(sh, c, o, skip, turn - 2, next_slot(slot), w);
        }
        copies_wait();
        group_sync<FEEDERS>(FEED_BARRIER); /* stage `turn` is there, turn − 2 done with */
        if (turn + 1 < o.stages)
            load_stage(sh, dt, c, o, turn + 1, next_slot(slot), i);
        if (turn < o.stages) {
            make_pairs(sh, weights, dt, c, bias, turn, slot, w);
            handover<MADE_BARRIER>(turn % 2);
        }
    }
    if (i < LONG && o.T > 1)
        keep_window(reinterpret_cast<uint16_t *>(o.seg.slot + c.conv_at) + o.d0 + i,
                    c.p.xz + (o.row0 + o.T - 1) * 2 * c.D + o.d0 + i, c.D, o.T);
}

/* A block's threads beyond those that step: which of the FEEDERS one is. Of eight warps two are left out, so that the
 * warps that step have their quarters of the multiprocessor to themselves. */
__device__ __forceinline__ uint32_t feeder(void)
{
    const uint32_t i = threadIdx.x - STEPPERS;
    if (blockDim.x == STEPPERS + FEEDERS || i < FEEDERS / 2)
        return i;
    return i < FEEDERS ? FEEDERS : i - FEEDERS / 2;
}

/* 16 channels of the segments that find_segments() names; every gridDim.y-th is a block's. */
template <enum ssm_dtype S>
static __global__ void __launch_bounds__(STEPPERS + FEEDERS + STEPPERS, 2) scan_long(const struct scan c, bool by_run)
{
    extern __shared__ __align__(16) uint8_t shared[];
    struct long_shared *sh = reinterpret_cast<struct long_shared *>(shared);
    uint16_t *weights = reinterpret_cast<uint16_t *>(sh + 1), *dt = weights + LONG * c.dt_proj.kp;
    const uint32_t rows = slice_rows(c.s), d0 = blockIdx.x * LONG;
    if (rows == 0)
        return;
    const uint32_t n = find_segments(sh, c, rows, by_run);
    if (threadIdx.x < STEPPERS) {
        const uint32_t d = d0 + threadIdx.x / 4, q = threadIdx.x % 4;
        const float4 a = __ldg(reinterpret_cast<const float4 *>(c.A + (size_t)(d / 32) * 512 + q * 128 + d % 32 * 4));
        const float A[4] = {a.x, a.y, a.z, a.w};
        for (uint32_t i = blockIdx.y; i < n; i += gridDim.y)
            stepping<S>(sh, c, course_of(c, rows, sh->found[i]), A);
    } else if (feeder() < FEEDERS) {
        const uint32_t lane = threadIdx.x % 32;
        const uint4 *from = reinterpret_cast<const uint4 *>(c.dt_proj.tiled + (size_t)d0 * c.dt_proj.kp);
        for (uint32_t i = feeder(); i < LONG / 8 * c.dt_proj.kp; i += FEEDERS)
            copy16(weights + i * 8, from + i);
        const float bias[2] = {__ldg(c.dt_proj.bias + d0 + lane / 4), __ldg(c.dt_proj.bias + d0 + 8 + lane / 4)};
        const float2 skip = __ldg(reinterpret_cast<const float2 *>(c.skip + d0 + lane % 8 * 2));
        after_previous();
        start_next();
        for (uint32_t i = blockIdx.y; i < n; i += gridDim.y)
            feeding(sh, weights, dt, c, course_of(c, rows, sh->found[i]), bias, skip, feeder());
        copies_wait();
    }
}

/* ---- host ---- */

static size_t long_bytes(const struct gpu_model *m)
{
    return sizeof(struct long_shared) + (LONG * m->d.Rp + 2 * STAGE * (m->d.Rp + 8)) * sizeof(uint16_t);
}

/* What a kernel may have is the process's: the same for every model, or the last to open would limit the others. */
template <enum ssm_dtype S> static cudaError_t allow(void)
{
    const void *kernels[] = {(const void *)scan_short<S>, (const void *)scan_long<S>};
    const int bytes[] = {UNITS * (int)sizeof(struct short_shared), SHARED_MAX};
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
    cudaError_t e = long_bytes(m) <= SHARED_MAX ? allow<SSM_F32>() : cudaErrorInvalidValue;
    if (!e)
        e = allow<SSM_BF16>();
    return e ? e : allow<SSM_F16>();
}

/* The same number of units on every multiprocessor, and of tiles to every unit: as few as there can be of 16 rows, then
 * as low as they can be. */
template <enum ssm_dtype S>
static void launch_short(const struct scan &c, uint32_t longest, uint32_t sms, cudaStream_t stream)
{
    const uint32_t across = c.D / UNIT, most = sms * UNITS, at_once = most > across ? most / across : 1;
    const uint32_t deep = (c.s.bound + at_once * SHORT - 1) / (at_once * SHORT);
    const uint32_t even = (c.s.bound + at_once * deep - 1) / (at_once * deep);
    const uint32_t height = even > SHORT_MIN ? even : SHORT_MIN;
    const uint32_t tiles = across * ((c.s.bound + height - 1) / height);
    const uint32_t turns = (tiles + most - 1) / most, units = (tiles + sms * turns - 1) / (sms * turns);
    const uint32_t blocks = (tiles + turns * units - 1) / (turns * units);
    launch_chained(scan_short<S>, dim3(blocks), units * UNIT, units * sizeof(struct short_shared), dim3(1, 1, 1),
                   c.s.chained, stream, c, longest, height);
}

/* Runs of one row: the short kernel alone, of any length. Few and long ones: the long kernel alone, of any length. */
template <enum ssm_dtype S>
static void launch(const struct gpu_model *m, const struct scan &c, uint32_t rows, uint32_t n_runs, uint32_t sms,
                   cudaStream_t stream)
{
    const bool single = n_runs >= rows, by_run = n_runs <= FINDERS && n_runs <= rows / STAGE;
    const uint32_t groups = c.D / LONG, most = groups < 3 * sms ? 3 * sms / groups : 1;
    const uint32_t found = by_run ? n_runs : (c.s.bound + SHORT - 1) / SHORT;
    if (!by_run)
        launch_short<S>(c, single ? UINT32_MAX : SHORT, sms, stream);
    if (!single) {
        const dim3 grid(groups, found < most ? found : most);
        const uint32_t idle = grid.x * grid.y <= sms ? STEPPERS : 0;
        launch_chained(scan_long<S>, grid, STEPPERS + FEEDERS + idle, long_bytes(m), dim3(1, 1, 1), c.s.chained, stream,
                       c, by_run);
    }
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
