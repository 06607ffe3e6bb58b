/* resident_layer.cuh: what resident.cu does with a tile in each stretch of a layer, and the head. */
#ifndef SSM_CUDA_RESIDENT_LAYER_CUH
#define SSM_CUDA_RESIDENT_LAYER_CUH

#include "ssm/cuda/resident_block.cuh"

namespace
{

/* ---- norm ---- */

/* u = norm(r) · w of all M rows, zeros for those beyond the tile; f: fp32 copy in global memory, or NULL. */
template <int NT> __device__ __forceinline__ void norm(const struct args &k, const float *w, float *f)
{
    enum { PARTS = E_MAX / 128 };
    const struct self me = current();
    const struct gpu_tile &tile = tables()->tile;
    const uint32_t E = k.d.E, begin = me.lane * 4;
    float4 s[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++)
        s[i] = load_now(reinterpret_cast<const float4 *>(w + (begin + 128 * i < E ? begin + 128 * i : 0)));
    for (uint32_t row = me.warp; row < 8 * NT; row += k.warps) {
        float4 v[PARTS];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const uint32_t e = begin + 128 * i;
            v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (e < E && row < tile.rows) {
                v[i] = *reinterpret_cast<const float4 *>(memory + k.at.r + swizzled(row, e * 4, E * 4));
                sum = add_squares(sum, v[i]);
            }
        }
        const float rstd = rstd_of(sum, E, k.d.eps);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const uint32_t e = begin + 128 * i;
            if (e < E) {
                v[i] = normed4(v[i], rstd, s[i]);
                *reinterpret_cast<uint2 *>(memory + k.at.u + panelled<NT>(row, e * 2)) = to_half4(v[i]);
                if (f && row < tile.rows)
                    *reinterpret_cast<float4 *>(f + (size_t)(tile.row + row) * E + e) = v[i];
            }
        }
    }
}

/* ---- project in, convolution ---- */

/* 32 channels from 32 · pair of x or z, at `to`. */
template <int NT>
__device__ __forceinline__ void store_halves(const struct self &me, const float (&d)[2][NT][4], const biases<2> &bias,
                                             float scale, uint32_t pair, const uint8_t *to)
{
    uint32_t address = shared_address(to) + panelled<NT>(me.lane % 8, pair * 64 + me.lane / 8 * 16);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint32_t h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *v = d[i / 2][n] + i % 2 * 2, b = bias.of[i / 2][i % 2];
            h[i] = bits(to_half2(product(v[0], scale, b), product(v[1], scale, b)));
        }
        stmatrix_x4_trans(address + n * 1024, h);
    }
}

/* Windows of every other run from `from` on: `at` in a slot, taps `stride` apart. */
__device__ __forceinline__ void load_windows(uint32_t window[BATCH][3], uint32_t from, uint32_t n_runs, size_t at,
                                             uint32_t stride)
{
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
        window[i][0] = window[i][1] = window[i][2] = 0;
        if (from + 2 * i < n_runs) {
            const uint8_t *taps_at = tables()->slot[from + 2 * i] + at;
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = __ldcs(reinterpret_cast<const uint32_t *>(taps_at + j * stride));
        }
    }
}

/* The convolution's weights of channels d and d + 1. */
struct taps {
    float w[2][4], bias[2];

    __device__ __forceinline__ void load(const struct layer &l, uint32_t D, uint32_t d)
    {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float2 v = load_now(reinterpret_cast<const float2 *>(l.conv + j * D + d));
            w[0][j] = v.x;
            w[1][j] = v.y;
        }
        const float2 v = load_now(reinterpret_cast<const float2 *>(l.conv_bias + d));
        bias[0] = v.x;
        bias[1] = v.y;
    }
};

/* Two channels of a run through their window, in time order; x lies at byte `at` of its row. */
template <int NT>
__device__ __forceinline__ void convolve_run(uint32_t window[3], uint8_t *x, uint32_t at, uint32_t from, uint32_t to,
                                             const struct taps &c)
{
#pragma unroll 1
    for (uint32_t row = from; row < to; row++) {
        uint32_t *cell = reinterpret_cast<uint32_t *>(x + panelled<NT>(row, at)), now = *cell;
        const uint32_t in[4] = {window[0], window[1], window[2], now};
        float2 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = to_float2(in[j]);
        *cell = bits(__halves2half2(conv4(v[0].x, v[1].x, v[2].x, v[3].x, c.w[0], c.bias[0]),
                                    conv4(v[0].y, v[1].y, v[2].y, v[3].y, c.w[1], c.bias[1])));
        window[0] = window[1];
        window[1] = window[2];
        window[2] = now;
    }
}

/* Channels d and d + 1 of every run, a half warp per run; `window` holds the first batch. */
template <int NT>
__device__ __forceinline__ void convolve(const struct args &k, const struct self &me, const struct taps &c,
                                         size_t window_at, uint32_t n_runs, uint32_t d, uint32_t window[BATCH][3])
{
    const uint32_t stride = k.d.D * 2;
    for (uint32_t from = me.lane / 16; from < n_runs; from += 2 * BATCH) {
        uint32_t next[BATCH][3];
        load_windows(next, from + 2 * BATCH, n_runs, window_at, stride);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const uint32_t run = from + 2 * i;
            if (run < n_runs) {
                convolve_run<NT>(window[i], memory + k.at.x, d * 2, tables()->first[run], tables()->first[run + 1], c);
                uint8_t *to = tables()->slot[run] + window_at;
#pragma unroll
                for (int j = 0; j < 3; j++)
                    __stcs(reinterpret_cast<uint32_t *>(to + j * stride), window[i][j]);
            }
#pragma unroll
            for (int j = 0; j < 3; j++)
                window[i][j] = next[i][j];
        }
    }
}

/* Jobs are pairs of bands: those of x, then those of z. */
template <int NT>
__device__ __forceinline__ void project_in(const struct args &k, const struct layer &l, uint32_t index,
                                           stream<2, IN_DEPTH(NT)> &w)
{
    const struct self me = current();
    const uint32_t pairs = k.d.D / 32, stride = k.d.D * 2, n_runs = tables()->tile.n_runs;
    for (uint32_t job = me.warp; job < 2 * pairs; job += k.warps) {
        const uint32_t channel = job * 32 + me.lane % 16 * 2; /* of x */
        const size_t window_at = index * k.p.slab.conv_layer + channel * 2;
        uint32_t window[BATCH][3] = {};
        struct taps c = {};
        float d[2][NT][4] = {};
        const biases<2> bias(l.in_proj.bias, 2 * job, me.lane);
        if (NT == 1 && job < pairs)
            load_windows(window, me.lane / 16, n_runs, window_at, stride);
        operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        if (NT == 1 && job < pairs)
            c.load(l, k.d.D, channel);
        w = started<2, IN_DEPTH(NT)>(job + k.warps < 2 * pairs, l.in_proj, 2 * (job + k.warps), k.d.E, me.lane);
        if (job < pairs) {
            store_halves(me, d, bias, l.in_proj.scale, job, memory + k.at.x);
            if (NT > 1) {
                c.load(l, k.d.D, channel);
                load_windows(window, me.lane / 16, n_runs, window_at, stride);
            }
            __syncwarp();
            convolve<NT>(k, me, c, window_at, n_runs, channel, window);
            __syncwarp();
        } else {
            store_halves(me, d, bias, l.in_proj.scale, job - pairs, memory + k.at.z);
        }
    }
}

/* ---- select ---- */

/* Jobs are bands of 16 outputs, by half of the rows where there are more than 8. */
template <int NT> struct selection {
    enum { SPLIT = NT > 1 ? 2 : 1, TILES = NT / SPLIT };

    static __device__ __forceinline__ uint32_t jobs(const struct args &k)
    {
        return (k.d.Rp / 16 + 2) * SPLIT;
    }
};

template <int NT>
__device__ __forceinline__ void select(const struct args &k, const struct layer &l, stream<1, SELECT_DEPTH> &w)
{
    enum { SPLIT = selection<NT>::SPLIT, N = selection<NT>::TILES };
    const struct self me = current();
    const uint32_t jobs = selection<NT>::jobs(k);
    for (uint32_t job = me.warp; job < jobs; job += k.warps) {
        const uint32_t band = job / SPLIT, row = job % SPLIT * 8 * N;
        float d[1][N][4] = {};
        const biases<1> bias(l.x_proj.bias, band, me.lane);
        multiply_chunks(d, w, operand<N, NT>(memory + k.at.x + row * 128, me.lane));
        w = started<1, SELECT_DEPTH>(job + k.warps < jobs, l.x_proj, (job + k.warps) / SPLIT, k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t output = band * 16 + output_of(i, me.lane);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float v = product(d[0][n][i], l.x_proj.scale, bias.of[0][i / 2]);
                const uint32_t at = row + 8 * n + row_of(i, me.lane);
                if (output < k.d.Rp)
                    reinterpret_cast<__half *>(memory + k.at.dt)[at * (k.d.Rp + DT_PAD) + output] = to_half(v);
                else
                    reinterpret_cast<float *>(memory + k.at.bc)[at * BC_STRIDE + output - k.d.Rp] = v;
            }
        }
    }
}

/* ---- scan ---- */

/* What a lane holds through the scan of a layer: channel, runs, and the states of the first of them. */
template <enum ssm_dtype S> struct scanner {
    enum { AHEAD = AHEAD_BYTES / (16 * sizeof(typename state_type<S>::type)) }; /* runs */
    uint32_t channel, run, end;
    uint32_t at;                /* of the channel's first vector in a slot */
    float A[16], skip, bias[2]; /* bias: of Δ, see stage_deltas() */
    uint32_t dt[2][4];          /* first fragments of dt_proj; mostly there are no others */
    state16<S> next[AHEAD];

    __device__ __forceinline__ uint8_t *state(uint32_t i) const
    {
        uint8_t *first = tables()->slot[i] + at;
        asm volatile("" : "+l"(first)); /* one address, the other vectors by offset */
        return first;
    }
};

/* Runs that begin before row at / groups. */
__device__ __forceinline__ uint32_t runs_before(uint32_t lane, uint32_t n_runs, uint32_t groups, uint32_t at)
{
    uint32_t n = 0;
#pragma unroll
    for (uint32_t i = lane; i < GPU_TILE_ROWS_MAX; i += 32)
        n += __popc(__ballot_sync(0xffffffffu, i < n_runs && tables()->first[i] * groups < at));
    return n;
}

/* Warps beyond one per 32 channels share the runs. */
template <enum ssm_dtype S>
__device__ __forceinline__ void scan_begin(const struct args &k, const struct layer &l, uint32_t index, scanner<S> &s)
{
    const struct gpu_tile &tile = tables()->tile;
    const struct self me = current();
    const uint32_t blocks = k.d.D / 32, groups = k.warps / blocks, group = me.warp / blocks;
    s.channel = me.warp % blocks * 32 + me.lane;
    s.run = group < groups ? runs_before(me.lane, tile.n_runs, groups, group * tile.rows) : 0;
    s.end = group < groups ? runs_before(me.lane, tile.n_runs, groups, (group + 1) * tile.rows) : 0;
    s.at = (size_t)state_at<S>(reinterpret_cast<uint8_t *>(k.p.slab.ssm_at + index * k.p.slab.ssm_layer), s.channel);
#pragma unroll
    for (int i = 0; i < s.AHEAD; i++)
        if (s.run + i < s.end)
            s.next[i].load(s.state(s.run + i));
#pragma unroll
    for (int i = 0; i < 4; i++) { /* as load_A() has it */
        const float4 v = load_now(reinterpret_cast<const float4 *>(l.A) + s.channel / 32 * 128 + i * 32 + me.lane);
        s.A[4 * i] = v.x;
        s.A[4 * i + 1] = v.y;
        s.A[4 * i + 2] = v.z;
        s.A[4 * i + 3] = v.w;
    }
    s.skip = load_now(l.skip + s.channel);
#pragma unroll
    for (int m = 0; m < 2; m++) {
        s.bias[m] = load_now(l.dt_proj.bias + s.channel / 32 * 32 + m * 16 + me.lane / 2 % 2 * 8 + me.lane / 4);
        load_now(s.dt[m], l.dt_proj.fragments + (s.channel / 32 * 2 + m) * (k.d.Rp * 2) + me.lane, true);
    }
}

/* Δ of a warp's channels, rows `row` … + 3, to its stage. Columns 4 … 7 of the mma repeat 0 … 3, and the lanes that
 * hold them look after outputs 8 … 15 of each band. */
template <enum ssm_dtype S, int NT>
__device__ __forceinline__ void stage_deltas(const struct args &k, const struct self &me, const struct layer &l,
                                             const scanner<S> &s, uint32_t row, float *stage)
{
    const uint32_t steps = k.d.Rp / 16, high = me.lane / 2 % 2;
    const uint32_t from = shared_address(memory + k.at.dt) +
                          min(row + me.lane % 4, 8 * NT - 1) * (k.d.Rp + DT_PAD) * 2 + me.lane / 8 % 2 * 16;
    uint32_t b[2];
    float d[2][4] = {};
    ldmatrix_x2(b, from);
    mma_16816(d[0], s.dt[0], b);
    mma_16816(d[1], s.dt[1], b);
#pragma unroll 1
    for (uint32_t step = 1; step < steps; step++) {
        ldmatrix_x2(b, from + step * 32);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint4 v = __ldg(l.dt_proj.fragments + ((s.channel / 32 * 2 + m) * steps + step) * 32 + me.lane);
            const uint32_t a[4] = {v.x, v.y, v.z, v.w};
            mma_16816(d[m], a, b);
        }
    }
    __syncwarp(); /* the rows before are done with */
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            stage[(me.lane % 2 * 2 + i) * 32 + m * 16 + high * 8 + me.lane / 4] =
                softplus(product(high ? d[m][2 + i] : d[m][i], l.dt_proj.scale, s.bias[m]));
    __syncwarp();
}

__device__ __forceinline__ void load_row(const float *at, float B[16], float C[16])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float4 v = reinterpret_cast<const float4 *>(at)[i];
        float *to = i < 4 ? B + 4 * i : C + 4 * (i - 4);
        to[0] = v.x;
        to[1] = v.y;
        to[2] = v.z;
        to[3] = v.w;
    }
}

template <enum ssm_dtype S, int NT>
__device__ __forceinline__ void scan(const struct args &k, const struct layer &l, scanner<S> &s)
{
    enum { AHEAD = scanner<S>::AHEAD };
    const struct self me = current();
    const uint32_t begin = tables()->first[s.run];
    float *stage = reinterpret_cast<float *>(memory + k.at.stage + me.warp * STAGE_BYTES);
    uint32_t row = begin, x_at = k.at.x + s.channel / 64 * (NT * 1024), column = s.channel * 2 % 128;
    asm volatile("" : "+r"(x_at), "+r"(column)); /* not to be worked out again for every row */
    for (; s.run < s.end; s.run += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (s.run + i < s.end) {
                uint8_t *at = s.state(s.run + i);
                const uint32_t to = tables()->first[s.run + i + 1];
                state16<S> state;
                float h[16];
                s.next[i].unpack(h);
                if (s.run + i + AHEAD < s.end)
                    s.next[i].load(s.state(s.run + i + AHEAD));
                do {
                    if ((row - begin) % STAGE_ROWS == 0)
                        stage_deltas<S, NT>(k, me, l, s, row, stage);
                    float B[16], C[16];
                    load_row(reinterpret_cast<const float *>(memory + k.at.bc) + row * BC_STRIDE, B, C);
                    uint8_t *cell = memory + x_at + swizzled(row, column, 128);
                    __half *x = reinterpret_cast<__half *>(cell);
                    const __half z = *reinterpret_cast<const __half *>(cell + (k.at.z - k.at.x));
                    *x = to_half(scan_step(state, h, s.A, B, C, stage[(row - begin) % STAGE_ROWS * 32 + me.lane],
                                           tables()->g[row], __half2float(*x), __half2float(z), s.skip));
                } while (++row < to);
                state.store(at);
            }
        }
    }
}

/* ---- project out, head ---- */

template <int NT>
__device__ __forceinline__ void project_out(const struct args &k, const struct layer &l, stream<1, OUT_DEPTH(NT)> &w)
{
    const struct self me = current();
    for (uint32_t band = me.warp; band < k.d.E / 16; band += k.warps) {
        float d[1][NT][4] = {};
        const biases<1> bias(l.out_proj.bias, band, me.lane);
        multiply_chunks(d, w, operand<NT, NT>(memory + k.at.x, me.lane));
        w = started<1, OUT_DEPTH(NT)>(band + k.warps < k.d.E / 16, l.out_proj, band + k.warps, k.d.D, me.lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t e = band * 16 + output_of(i, me.lane);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float *r =
                    reinterpret_cast<float *>(memory + k.at.r + swizzled(8 * n + row_of(i, me.lane), e * 4, k.d.E * 4));
                *r = __fadd_rn(*r, product(d[0][n][i], l.out_proj.scale, bias.of[0][i / 2]));
            }
        }
    }
}

/* Sectors of 32 bytes are written whole: eight outputs of a row by eight lanes. */
template <int NT> __device__ __forceinline__ void head(const struct args &k, uint32_t bands, stream<1, 4> &w)
{
    const struct self me = current();
    const struct gpu_tile &tile = tables()->tile;
    uint32_t pick[NT][2];
#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
        const uint32_t row = i / 2 * 8 + row_of(i % 2, me.lane);
        pick[i / 2][i % 2] = row < tile.rows ? __ldg(k.p.pick + tile.row + row) : GPU_NOT_PICKED;
    }
    for (uint32_t band = me.warp; band < bands; band += k.warps) {
        float d[1][NT][4] = {};
        const biases<1> bias(k.head.bias, band, me.lane);
        operand<NT, NT> u(memory + k.at.u, me.lane);
        multiply(d, w, u, k.d.E / 16);
        w = started<1, 4>(band + k.warps < bands, k.head, band + k.warps, k.d.E, me.lane);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (pick[n][i % 2] != GPU_NOT_PICKED)
                    k.p.out[pick[n][i % 2] * k.p.ldo + band * 16 + output_of(i, me.lane)] =
                        product(d[0][n][i], k.head.scale, bias.of[0][i / 2]);
        __syncwarp();
    }
}

} // namespace

#endif
