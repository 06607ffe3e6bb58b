/* scan_short.cuh: scan.cu's kernel for short segments (steps of many streams).
 *
 * A unit of two warps has 64 channels of the segments that begin in up to 16 rows, a lane one channel. It multiplies
 * dt_proj for its rows, then goes from segment to segment with the next states already on their way: 64 bytes a lane,
 * 32 KB an SM, and those of the rows behind them into L2. This is the memory's: mamba-130m, 4096 streams, bf16 states:
 * 403 MB a layer, 124 µs at 3.25 TB/s (one H200), against 53 µs of issues (202 per step of 32 channels, and 1300 per
 * tile). One block per SM, so that a scan can leave the others to the products of another slice; tiles are of as many
 * rows as let all units take the same number of them.
 *
 * FETCHED, of a step of 1024 / 4096 streams (one H200, µs): none 1814 / 6330; 3: 1751 / 6009; 4: 1743 / 5972; 5: 1744 /
 * 5970; 4, but none before the tile's first row: 1752 / 6034. A tile's rows all at once: 1822 / 6379; the next tile's
 * too: 1887 / 7076, or its first four: 1769 / 6069. Stores that need not leave L2 first: 1766 / 5961. Tiles of up to 24
 * or 32 rows: 1804, 1805 / 6103, 6039 from 1770 / 6014. A, dt_proj and biases sent for before the kernel ahead has
 * ended: 1728 / 6042 from 1732 / 6028.
 *
 * Trap: all warps of a unit take the same turns through its barrier. */
#ifndef SSM_CUDA_SCAN_SHORT_CUH
#define SSM_CUDA_SCAN_SHORT_CUH

#include "ssm/cuda/scan.cuh"

enum {
    SHORT_MIN = 4, /* rows, as SHORT */
    WINDOW = 32,   /* rows that a unit has before it */
    UNIT = 64,     /* threads, and channels of a tile */
    UNITS = 8,     /* of a block at most: 128 registers a thread */
    FETCHED = 4,   /* rows from the one at hand on whose states are here or on their way */
    DELTA_LD = 36  /* floats: mma's accumulators go to distinct banks */
};

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

/* The state of a warp's channels, into L2. */
template <enum ssm_dtype S> __device__ __forceinline__ void fetch_state(const uint8_t *state)
{
    prefetch_l2(state, 32 * sizeof(state16<S>));
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
            if (i + j + FETCHED < end && lane == 0)
                fetch_state<S>(w->state[i + j + FETCHED]);
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
        if ((v.heads >> lane & 1) && lane > from && lane < from + FETCHED)
            fetch_state<S>(w->state[lane]);
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
    after_previous(); /* if no segment is short, the kernel must not end before the one ahead all the same */
}

/* ---- host ---- */

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

#endif
