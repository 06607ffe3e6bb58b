/* cluster_layer.cuh: what cluster.cu's first eight warps compute: products of 8 rows, a layer's steps, the head. */
#ifndef SSM_CUDA_CLUSTER_LAYER_CUH
#define SSM_CUDA_CLUSTER_LAYER_CUH

#include "ssm/cuda/cluster_block.cuh"

enum {
    GROUP = 4, /* runs that a warp's scan takes side by side */
    CHUNK_STEPS = GPU_CHUNK / 16
};

/* ---- products ---- */

/* Operands of four k steps; of two chunks, where two are summed side by side. */
template <int CHUNKS> struct operands {
    uint32_t w[CHUNKS][4][4], x[CHUNKS][2][4];

    __device__ __forceinline__ void fetch(const uint4 *fragments, uint32_t rows)
    {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            ldmatrix_x4(x[c][0], rows + c * GPU_CHUNK * 2);
            ldmatrix_x4(x[c][1], rows + c * GPU_CHUNK * 2 + 64);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint4 v = fragments[(c * CHUNK_STEPS + i) * 32];
                w[c][i][0] = v.x, w[c][i][1] = v.y, w[c][i][2] = v.z, w[c][i][3] = v.w;
            }
        }
    }
    __device__ __forceinline__ void multiply(float sum[CHUNKS][4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
                mma_16816(sum[c], w[c][i], &x[c][i / 2][i % 2 * 2]);
    }
};

/* One k step; of `rows` lanes 0 … 15 count. */
static __device__ __forceinline__ void multiply_step(float sum[4], const uint4 *fragments, uint32_t rows)
{
    uint32_t x[2];
    ldmatrix_x2(x, rows);
    uint4 v = *fragments;
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    mma_16816(sum, w, x);
}

/* Sums of chunks of `steps` k steps each, from zero. Fetches are four steps ahead. */
template <int CHUNKS>
static __device__ __forceinline__ void multiply_chunks(float sum[CHUNKS][4], const uint4 *fragments, uint32_t rows,
                                                       uint32_t steps)
{
    struct operands<CHUNKS> o[2];
    uint32_t quads = steps / 4;
#pragma unroll
    for (int i = 0; i < CHUNKS * 4; i++)
        sum[i / 4][i % 4] = 0.0f;
    if (quads > 0)
        o[0].fetch(fragments, rows);
#pragma unroll
    for (int q = 0; q < CHUNK_STEPS / 4; q++) {
        if (q + 1 < quads)
            o[(q + 1) % 2].fetch(fragments + (q + 1) * 4 * 32, rows + (q + 1) * 128);
        if (q < quads)
            o[q % 2].multiply(sum);
    }
#pragma unroll 1
    for (uint32_t i = quads * 4; CHUNKS == 1 && i < steps; i++)
        multiply_step(sum[0], fragments + i * 32, rows + i * 32);
}

/* This lane's row address for ldmatrix. */
static __device__ __forceinline__ uint32_t rows_address(const struct block &b, uint32_t at, uint32_t ld)
{
    return b.base + at + (b.lane % 8) * ld * 2 + b.lane / 8 * 16;
}

/* total = W·x for a tile of 16 outputs: `tile` its fragments, x the rows [8][ld] at `at`. */
static __device__ __forceinline__ void multiply(const struct block &b, float total[4], const uint8_t *tile, uint32_t at,
                                                uint32_t ld, uint32_t k)
{
    const uint4 *fragments = reinterpret_cast<const uint4 *>(tile) + b.lane;
    uint32_t rows = rows_address(b, at, ld), steps = k / 16, pairs = steps / (2 * CHUNK_STEPS), done = 0;
    for (uint32_t p = 0; p < pairs; p++, done += 2 * CHUNK_STEPS) {
        float sum[2][4];
        multiply_chunks<2>(sum, fragments + done * 32, rows + done * 32, CHUNK_STEPS);
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[i] = __fadd_rn(p == 0 ? sum[0][i] : __fadd_rn(total[i], sum[0][i]), sum[1][i]);
    }
    for (; done < steps; done += CHUNK_STEPS) {
        float sum[1][4];
        multiply_chunks<1>(sum, fragments + done * 32, rows + done * 32, min(steps - done, (uint32_t)CHUNK_STEPS));
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[i] = done == 0 ? sum[0][i] : __fadd_rn(total[i], sum[0][i]);
    }
}

/* ---- the steps of a layer ---- */

/* Four elements of a row, normed: to u as fp16, to f unless that is NULL. */
static __device__ __forceinline__ void put_normed(float4 r, float rstd, float4 w, __half *u, float *f)
{
    float4 v = normed4(r, rstd, w);
    *reinterpret_cast<uint2 *>(u) = to_half4(v);
    if (f)
        *reinterpret_cast<float4 *>(f) = v;
}

/* u = RMSNorm(r) of row `warp`, and f, unless that is NULL. Known widths stay in registers. */
static __device__ __forceinline__ void normalise(const struct args &a, const struct block &b, const float *weights,
                                                 float *f)
{
    const float4 *r = reinterpret_cast<const float4 *>(floats(b, b.d.r) + b.warp * b.d.E) + b.lane;
    const float4 *w = reinterpret_cast<const float4 *>(weights) + b.lane;
    __half *u = halfs(b, b.d.u) + b.warp * b.d.ldu + b.lane * 4;
    f = f ? f + b.lane * 4 : f;
    if (b.d.E == 128) {
        float4 v = r[0], q = w[0];
        put_normed(v, rstd_of(add_squares(0.0f, v), b.d.E, a.eps), q, u, f);
    } else if (b.d.E == 256) {
        float4 v[2] = {r[0], r[32]}, q[2] = {w[0], w[32]};
        float rstd = rstd_of(add_squares(add_squares(0.0f, v[0]), v[1]), b.d.E, a.eps);
        put_normed(v[0], rstd, q[0], u, f);
        put_normed(v[1], rstd, q[1], u + 128, f ? f + 128 : f);
    } else {
        float rstd = row_rstd(floats(b, b.d.r) + b.warp * b.d.E, b.d.E, a.eps);
        for (uint32_t i = 0; b.lane * 4 + i * 128 < b.d.E; i++)
            put_normed(r[i * 32], rstd, w[i * 32], u + i * 128, f ? f + i * 128 : f);
    }
}

/* A lane's share of the convolution of 16 channels: channel lane % 16 of rows lane / 16 + 2i. */
struct taps {
    uint32_t t[ROWS / 2], left[ROWS / 2];
    __half x[ROWS / 2][3]; /* inputs of the three steps before the row: from before the run, where it sees that far,
                              then all; after the convolution those of the step after the row */
};

static __device__ __forceinline__ uint32_t taps_row(const struct block &b, uint32_t i)
{
    return b.lane / 16 + 2 * i;
}

static __device__ __forceinline__ __half *window_at(const struct args &a, const struct block &b, uint32_t l,
                                                    uint32_t row)
{
    uint8_t *window = b.info->slot[b.info->run[row]] + l * a.p.slab.conv_layer;
    return reinterpret_cast<__half *>(window) + b.rank * b.d.channels + b.warp * 16 + b.lane % 16;
}

static __device__ __forceinline__ void load_taps(const struct args &a, const struct block &b, uint32_t l,
                                                 struct taps *taps)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows) {
            const __half *window = window_at(a, b, l, row);
            taps->t[i] = b.info->t[row];
            taps->left[i] = b.info->left[row];
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                if (taps->t[i] + k < 3)
                    taps->x[i][k] = __ldcs(window + (taps->t[i] + k) * b.d.D);
        }
    }
}

/* x ← silu(conv1d(x)) of the 16 channels of this warp. */
static __device__ __forceinline__ void convolve(const struct block &b, const uint8_t *front, struct taps *taps)
{
    uint32_t c = b.warp * 16 + b.lane % 16;
    const float *w = floats_at(front, b.d.conv) + c;
    const float of[4] = {w[0], w[b.d.channels], w[2 * b.d.channels], w[3 * b.d.channels]};
    float bias = floats_at(front, b.d.conv_bias)[c];
    const __half *in = halfs(b, b.d.own_in) + c;
    __half *out = halfs(b, b.d.own_x) + c;
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows) {
            __half *x = taps->x[i], now = in[row * b.d.ldc];
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                if (taps->t[i] + k >= 3)
                    x[k] = in[(row + k - 3) * b.d.ldc];
            out[row * b.d.ldc] =
                conv4(__half2float(x[0]), __half2float(x[1]), __half2float(x[2]), __half2float(now), of, bias);
            x[0] = x[1], x[1] = x[2], x[2] = now;
        }
    }
}

/* The last row of a run leaves its window for the next. */
static __device__ __forceinline__ void store_taps(const struct args &a, const struct block &b, uint32_t l,
                                                  const struct taps &taps)
{
#pragma unroll
    for (uint32_t i = 0; i < ROWS / 2 && 2 * i < b.rows; i++) {
        uint32_t row = taps_row(b, i);
        if (row < b.rows && taps.left[i] == 0) {
            __half *window = window_at(a, b, l, row);
#pragma unroll
            for (uint32_t k = 0; k < 3; k++)
                __stcs(window + k * b.d.D, taps.x[i][k]);
        }
    }
}

/* A tile of in_proj: fragments, biases and outputs at these offsets. */
static __device__ __forceinline__ void in_proj_tile(const struct block &b, const uint8_t *front, float scale,
                                                    uint32_t tile, uint32_t fragments, uint32_t biases, uint32_t to)
{
    const struct dims &d = b.d;
    uint32_t c = tile * 16 + b.lane / 4;
    const float *v = floats_at(front, biases) + c, bias[2] = {v[0], v[8]};
    __half *out = halfs(b, to) + b.lane % 4 * 2 * d.ldc + c;
    float total[4];
    multiply(b, total, front + fragments + tile * d.E * 32, d.u, d.ldu, d.E);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        out[i % 2 * d.ldc + i / 2 * 8] = to_half(product(total[i], scale, bias[i / 2]));
}

/* x, z = in_proj·u of this block's channels, a tile of x to each of the first warps, of z to those after them; x goes
 * on through the convolution and to all blocks. */
static __device__ __forceinline__ void in_proj(const struct args &a, const struct block &b, const uint8_t *front,
                                               uint32_t l, struct taps *taps)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).in_proj.scale;
    if (b.warp < d.tiles) {
        in_proj_tile(b, front, scale, b.warp, d.in_x, d.bias_x, d.own_in);
        __syncwarp();
        convolve(b, front, taps);
        __syncwarp();
        send_rows(b, d.own_x, d.x, 0, b.rows, b.warp * 16, 2, EXCHANGE_X);
        store_taps(a, b, l, *taps);
    } else if (b.warp < 2 * d.tiles) {
        in_proj_tile(b, front, scale, b.warp - d.tiles, d.in_z, d.bias_z, d.own_z);
    }
    if (b.warp + WARPS < 2 * d.tiles)
        in_proj_tile(b, front, scale, b.warp + WARPS - d.tiles, d.in_z, d.bias_z, d.own_z);
}

/* dt, B, C = x_proj·x, whole. */
static __device__ __forceinline__ void x_proj(const struct args &a, const struct block &b, struct cursor select,
                                              uint32_t l, uint32_t parity)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).x_proj.scale;
    for (uint32_t job = (b.warp + WARPS / 2) % WARPS; job < d.Rp / 16 + 2; job += WARPS) {
        const uint8_t *piece = acquire(a, b, SELECT, select);
        uint32_t o = job * 16 + b.lane / 4, row = b.lane % 4 * 2;
        const float *biases = floats_at(piece, d.x_bias) + o, bias[2] = {biases[0], biases[8]};
        float total[4];
        wait_exchange(b, EXCHANGE_X, parity);
        multiply(b, total, piece + d.x_proj + job * d.D * 32, d.x, d.ldx, d.D);
        if (job * 16 < d.Rp) {
            __half *dt = halfs(b, d.dt) + row * d.lddt + o;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                dt[i % 2 * d.lddt + i / 2 * 8] = to_half(product(total[i], scale, bias[i / 2]));
        } else {
            float *bc = floats(b, d.bc) + row * LDBC + o - d.Rp;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                bc[i % 2 * LDBC + i / 2 * 8] = product(total[i], scale, bias[i / 2]);
        }
    }
}

/* In the scan a warp has 8 of the channels of a tile (or, where there is but one warp to a tile, one 8 after the
 * other): lane / 4 is the channel, lane % 4 the quarter of its states. */
static __device__ __forceinline__ uint32_t scan_channel(const struct block &b, uint32_t half)
{
    return b.tile * 16 + half * 8 + b.lane / 4;
}

template <enum ssm_dtype S>
static __device__ __forceinline__ uint8_t *scan_state(const struct args &a, const struct block &b, uint32_t l,
                                                      uint32_t half, uint32_t run)
{
    return state4_at<S>(b.info->slot[run] + a.p.slab.ssm_at + l * a.p.slab.ssm_layer,
                        b.rank * b.d.channels + scan_channel(b, half), b.lane % 4);
}

/* GROUP runs, run_stride apart; T = 0: there is none. */
template <enum ssm_dtype S> struct group {
    uint32_t first[GROUP], T[GROUP];
    struct state4<S> state[GROUP];
};

template <enum ssm_dtype S>
static __device__ __forceinline__ void load_group(const struct args &a, const struct block &b, uint32_t l,
                                                  uint32_t half, uint32_t run, struct group<S> *ret)
{
#pragma unroll
    for (uint32_t j = 0; j < GROUP; j++, run += b.run_stride) {
        bool is = run < b.n_runs;
        ret->first[j] = is ? b.info->first[run] : 0;
        ret->T[j] = is ? b.info->T[run] : 0;
        if (is)
            ret->state[j].load(scan_state<S>(a, b, l, half, run));
    }
}

/* What the scan knows of a lane's channel. */
struct lane_channel {
    uint32_t c;
    float A[4], skip;
    float delta[2]; /* of rows 2·(lane % 4) and the next */
};

/* Δ = softplus(dt_proj·dt + bias) for half the channels of a tile. */
static __device__ __forceinline__ struct lane_channel prepare_channel(const struct args &a, const struct block &b,
                                                                      const uint8_t *back, float scale, uint32_t half)
{
    const struct dims &d = b.d;
    uint32_t c = scan_channel(b, half), steps = d.Rp / 16, rows = rows_address(b, d.dt, d.lddt);
    float4 A = reinterpret_cast<const float4 *>(back + d.A)[c / 32 * 128 + b.lane % 4 * 32 + c % 32];
    float bias = floats_at(back, d.dt_bias)[c], sum[4] = {};
    const uint4 *fragments = reinterpret_cast<const uint4 *>(back + d.dt_proj) + b.tile * steps * 32 + b.lane;
    struct lane_channel ret = {c, {A.x, A.y, A.z, A.w}, floats_at(back, d.skip)[c]};
    for (uint32_t i = 0; i < steps; i++)
        multiply_step(sum, fragments + i * 32, rows + i * 32);
    ret.delta[0] = softplus(product(half ? sum[2] : sum[0], scale, bias));
    ret.delta[1] = softplus(product(half ? sum[3] : sum[1], scale, bias));
    return ret;
}

/* h ← exp(Δ·g·A)·h + Δ·B·x;  y = (C·h + D·x)·silu(z) of COUNT runs side by side, each in time order. A run that is over
 * before the others repeats its last row and drops it. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_rows(const struct block &b, const struct lane_channel &c,
                                                 struct group<S> *g)
{
    const struct dims &d = b.d;
    uint32_t q = b.lane % 4, steps = 0;
    float h[COUNT][4];
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        steps = max(steps, g->T[j]);
        g->state[j].unpack(h[j]);
    }
#pragma unroll 1
    for (uint32_t t = 0; t < steps; t++) {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            uint32_t row = g->first[j] + (COUNT == 1 || t < g->T[j] ? t : max(g->T[j], 1u) - 1);
            float delta = __shfl_sync(0xffffffffu, row % 2 ? c.delta[1] : c.delta[0], b.lane / 4 * 4 + row / 2);
            float x = __half2float(halfs(b, d.own_x)[row * d.ldc + c.c]);
            float z = __half2float(halfs(b, d.own_z)[row * d.ldc + c.c]);
            const float4 *bc = reinterpret_cast<const float4 *>(floats(b, d.bc) + row * LDBC);
            float4 B4 = bc[q], C4 = bc[4 + q];
            const float B[4] = {B4.x, B4.y, B4.z, B4.w}, C[4] = {C4.x, C4.y, C4.z, C4.w};
            struct state4<S> next;
            float n[4] = {h[j][0], h[j][1], h[j][2], h[j][3]};
            decay4(n, c.A, B, __fmul_rn(delta, b.info->g[row]), __fmul_rn(delta, x));
            next.pack(n);
            float sum = read4(n, C);
            sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
            sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
            __half y = to_half(gate(sum, c.skip, x, z));
            if (COUNT == 1 || t < g->T[j]) {
                g->state[j] = next;
                h[j][0] = n[0], h[j][1] = n[1], h[j][2] = n[2], h[j][3] = n[3];
                if (q == 0)
                    halfs(b, d.own_y)[row * d.ldc + c.c] = y;
            }
        }
    }
}

/* The first COUNT runs of a group, which begins at `run`: y to all blocks, states back to their slots. */
template <enum ssm_dtype S, int COUNT>
static __device__ __forceinline__ void scan_group(const struct args &a, const struct block &b,
                                                  const struct lane_channel &c, uint32_t l, uint32_t half, uint32_t run,
                                                  struct group<S> *g)
{
    scan_rows<S, COUNT>(b, c, g);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        send_rows(b, b.d.own_y, b.d.y, g->first[j], g->T[j], b.tile * 16 + half * 8, 1, EXCHANGE_Y);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        if (g->T[j] > 0)
            g->state[j].store(scan_state<S>(a, b, l, half, run + j * b.run_stride));
}

/* `g`: the first group, loaded early. */
template <enum ssm_dtype S>
static __device__ __forceinline__ void scan(const struct args &a, const struct block &b, const uint8_t *back,
                                            uint32_t l, struct group<S> *g)
{
    float scale = layer_of(a, b, l).dt_proj.scale;
    bool early = true;
#pragma unroll 1
    for (uint32_t half = b.half; half < 2 && b.run < b.n_runs; half += b.d.shares == 1 ? 1 : 2) {
        struct lane_channel c = prepare_channel(a, b, back, scale, half);
#pragma unroll 1
        for (uint32_t run = b.run; run < b.n_runs; run += GROUP * b.run_stride, early = false) {
            if (!early)
                load_group<S>(a, b, l, half, run, g);
            if (run + b.run_stride >= b.n_runs)
                scan_group<S, 1>(a, b, c, l, half, run, g);
            else
                scan_group<S, GROUP>(a, b, c, l, half, run, g);
        }
    }
}

/* r += out_proj·y, this block's outputs, to all blocks. */
static __device__ __forceinline__ void out_proj(const struct args &a, const struct block &b, const uint8_t *back,
                                                uint32_t l, uint32_t parity)
{
    const struct dims &d = b.d;
    float scale = layer_of(a, b, l).out_proj.scale, *stage = floats(b, d.stage) + b.warp * ROWS * LDSTAGE;
#pragma unroll 1
    for (uint32_t job = WARPS - 1 - b.warp; job < b.out_n; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2, at = (b.out_first + job) * 16;
        const float *biases = floats_at(back, d.out_bias) + job * 16 + o, *r = floats(b, d.r) + row * d.E + at + o;
        const float bias[2] = {biases[0], biases[8]}, before[4] = {r[0], r[d.E], r[8], r[d.E + 8]};
        float total[4];
        wait_exchange(b, EXCHANGE_Y, parity);
        multiply(b, total, back + d.out_proj + job * d.D * 32, d.y, d.ldx, d.D);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            stage[(row + i % 2) * LDSTAGE + o + i / 2 * 8] =
                __fadd_rn(before[i], product(total[i], scale, bias[i / 2]));
        __syncwarp();
#pragma unroll 1
        for (uint32_t i = b.item; i < b.rows * 4; i += b.stride)
            send16(b.to + d.r + (i / 4 * d.E + at + i % 4 * 4) * 4, stage + i / 4 * LDSTAGE + i % 4 * 4,
                   b.to + exchange_barrier(EXCHANGE_R));
        __syncwarp();
    }
}

/* Outputs [0, n_out) of the picked rows. */
static __device__ __forceinline__ void head(const struct args &a, const struct block &b, const uint8_t *piece,
                                            uint32_t n_out)
{
    uint32_t first = first_tile(b.d, a.head_tiles, b.rank), n = first_tile(b.d, a.head_tiles, b.rank + 1) - first;
#pragma unroll 1
    for (uint32_t job = b.warp; job < n && (first + job) * 16 < n_out; job += WARPS) {
        uint32_t o = b.lane / 4, row = b.lane % 4 * 2;
        const float *biases = floats_at(piece, a.head_bias) + job * 16 + o, bias[2] = {biases[0], biases[8]};
        float total[4];
        multiply(b, total, piece + b.d.head + job * b.d.E * 32, b.d.u, b.d.ldu, b.d.E);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t to = row + i < b.rows ? b.info->pick[row + i] : GPU_NOT_PICKED;
            if (to != GPU_NOT_PICKED) {
                float *out = a.p.out + (size_t)to * a.p.ldo + (first + job) * 16 + o;
                out[0] = product(total[i], a.head.scale, bias[0]);
                out[8] = product(total[i + 2], a.head.scale, bias[1]);
            }
        }
    }
}

#endif
