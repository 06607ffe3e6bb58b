/* scan_long.cuh: scan.cu's kernel for long segments (few runs, thousands of steps).
 *
 * A block has 64 channels of one segment and warps of three roles. Eight do nothing but step: four lanes a channel,
 * four states a lane, the operands of the next four steps made and the inputs of the four after those on their way.
 * Four make what these need (dt_proj, softplus, Δ·g, Δ·x), up to four stages of 32 steps ahead; four sum and gate what
 * they leave. Roles hand stages over by mbarriers and go on across segments. A scheduler has two stepping warps, one of
 * each of the others, and 103 issues a step (28 a stepping warp; 64 clk of special functions): two warps, because one
 * waits for its exponentials half the time. So a run is on 24 multiprocessors (mamba-130m), as few as can be, and
 * leaves the others to other slices. Where there is nothing to leave them to, a block has 32 channels.
 *
 * Trap: what steps is not unrolled beyond four steps, see step_fours(). */
#ifndef SSM_CUDA_SCAN_LONG_CUH
#define SSM_CUDA_SCAN_LONG_CUH

#include "ssm/cuda/scan.cuh"

enum {
    PACKED = 64,  /* channels that a block has of a long segment at a time, */
    SPREAD = 32,  /* or where there are multiprocessors for all of half as many */
    MAKERS = 128, /* threads that make what a block's stepping ones need */
    STAGE = 32,   /* steps */
    FOURS = STAGE / 4,
    RING = 4,                   /* stages on their way: a power of two */
    MAKING_BARRIER = 1,         /* the making warps' own */
    FINDERS = GPU_SLICE / SHORT /* segments that a slice may have for the long kernel */
};

/* Of a block that has LONG channels of a segment at a time. */
template <uint32_t LONG> struct shape {
    enum : uint32_t {
        STEPPERS = LONG * 4, /* threads that step along it, */
        GATERS = LONG * 2,   /* that gate what they leave, */
        THREADS = STEPPERS + MAKERS + GATERS,
        X_LD = LONG + 8,    /* halves */
        PAIR_LD = LONG + 2, /* float4s, as are */
        SUM_LD = LONG + 2
    };
};

/* Stage `turn` of all that a block does is in [turn % RING] of what the stepping warps read, in [turn % 2] of the rest.
 * Behind it, in halves: dt_proj's LONG channels (core matrices, LONG/8 × Rp/8), then dt [2][STAGE][Rp + 8]. */
template <uint32_t LONG> struct long_shared : shape<LONG> {
    float4 pairs[RING][STAGE / 2][LONG + 2]; /* by channel: Δ·g, Δ·x of two steps */
    float4 sums[2][FOURS][4][LONG + 2];      /* by quarter of the states and sum_at(channel): C·h of four steps */
    float bc[RING][STAGE][2 * STATES];
    float bias[LONG];
    float g[2][STAGE];
    uint16_t x[2][STAGE][LONG + 8];
    uint64_t made[RING], stepped[RING], gated[2]; /* mbarriers, by the threads of a role */
    struct segment found[FINDERS];
    uint32_t n_found[FINDERS / 32];
};

/* One segment's LONG channels from d0 on: number `number` of those that the block does. `stage` is where one is. */
struct course {
    struct segment seg;
    size_t row0; /* of the pass */
    uint32_t T, stages, d0;
    uint32_t number, stage;
};

/* Courses are dealt out to the blocks in turn, neighbouring channels of a segment next to each other. */
template <uint32_t LONG>
__device__ __forceinline__ bool course_of(struct course *o, const struct long_shared<LONG> *sh, const struct scan &c,
                                          uint32_t n_found, uint32_t number)
{
    const uint32_t groups = c.D / LONG, i = blockIdx.x + number * gridDim.x;
    if (i >= n_found * groups)
        return false;
    o->seg = sh->found[i / groups];
    o->row0 = (size_t)c.s.begin + o->seg.begin;
    o->T = o->seg.end - o->seg.begin;
    o->stages = (o->T + STAGE - 1) / STAGE;
    o->d0 = i % groups * LONG;
    o->number = number;
    o->stage = 0;
    return true;
}

/* To the block's next stage. */
template <uint32_t LONG>
__device__ __forceinline__ bool next_stage(struct course *o, const struct long_shared<LONG> *sh, const struct scan &c,
                                           uint32_t n_found)
{
    return ++o->stage < o->stages || course_of(o, sh, c, n_found, o->number + 1);
}

/* Rows of the stage that are the segment's. */
__device__ __forceinline__ uint32_t stage_rows_of(const struct course &o)
{
    return min(o.T - o.stage * STAGE, (uint32_t)STAGE);
}

/* What this thread has read and written is done. By every thread: racecheck does not see that one lane can speak for a
 * warp, and it takes no longer. */
__device__ __forceinline__ void hand_over(uint64_t *barrier)
{
    mbarrier_arrive(shared_address(barrier));
}

/* Phase `phase` of a barrier has ended; −1: has not to. */
__device__ __forceinline__ void wait_for(uint64_t *barrier, uint32_t phase)
{
    mbarrier_wait(shared_address(barrier), phase & 1);
}

/* Where among a quarter's sums a channel is: two channels of four quarters are written, and every fourth channel read,
 * to and from all banks. */
template <uint32_t LONG> __device__ __forceinline__ uint32_t sum_at(uint32_t ch)
{
    return ch % 4 * (LONG / 4) + (ch % 4 + 1) / 2 + ch / 4;
}

/* ---- the stepping warps: four lanes a channel, four states a lane ---- */

/* What four states are yet to meet: operands of four steps, and inputs of the four after them. */
struct ahead {
    float a[4][4], b[4][4]; /* decays, Δ·x·B */
    float4 C[4];
    float4 pair[2], B[4];
};

__device__ __forceinline__ float4 float4_at(const float *at)
{
    return *reinterpret_cast<const float4 *>(at);
}

__device__ __forceinline__ void make_operands(struct ahead *p, int j, const float A[4])
{
    const float B[4] = {p->B[j].x, p->B[j].y, p->B[j].z, p->B[j].w};
    if (j % 2 == 0)
        decay4_operands(p->a[j], p->b[j], A, B, p->pair[j / 2].x, p->pair[j / 2].y);
    else
        decay4_operands(p->a[j], p->b[j], A, B, p->pair[j / 2].z, p->pair[j / 2].w);
}

/* Inputs of step j, of those of which `pairs` and `bc` are. */
template <uint32_t LONG>
__device__ __forceinline__ void load_inputs(struct ahead *p, int j, const float4 *pairs, const float *bc)
{
    p->B[j] = float4_at(bc + j * 2 * STATES);
    if (j % 2 == 1)
        p->pair[j / 2] = pairs[j / 2 * shape<LONG>::PAIR_LD];
}

/* One step of 4 states: their part of C·h. */
template <enum ssm_dtype S>
__device__ __forceinline__ float quarter_step(state4<S> *state, float h[4], const struct ahead &p, int j)
{
    const float C[4] = {p.C[j].x, p.C[j].y, p.C[j].z, p.C[j].w};
    decay4_apply(h, p.a[j], p.b[j]);
    state->pack(h);
    return read4(h, C);
}

/* Four steps. What they take from `p` makes room for the four after them, whose C is at `bc1`, and the inputs of the
 * four after those: nothing that is waited for is wanted before the next call. */
template <enum ssm_dtype S, uint32_t LONG>
__device__ __forceinline__ float4 step4(state4<S> *state, float h[4], struct ahead *p, const float A[4],
                                        const float *bc1, const float4 *pairs2, const float *bc2)
{
    float s[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        s[j] = quarter_step<S>(state, h, *p, j);
        p->C[j] = float4_at(bc1 + j * 2 * STATES + STATES);
        make_operands(p, j, A);
        load_inputs<LONG>(p, j, pairs2, bc2);
    }
    return make_float4(s[0], s[1], s[2], s[3]);
}

/* The same for the last n < 4 of a segment. */
template <enum ssm_dtype S>
__device__ __forceinline__ float4 step_last(state4<S> *state, float h[4], const struct ahead &p, uint32_t n)
{
    float s[3] = {};
#pragma unroll
    for (int j = 0; j < 3; j++)
        if (j < n)
            s[j] = quarter_step<S>(state, h, p, j);
    return make_float4(s[0], s[1], s[2], 0.0f);
}

/* A course's first steps, the first of a stage of which `pairs` and `bc` are. */
template <uint32_t LONG>
__device__ __forceinline__ void begin_ahead(struct ahead *p, const float A[4], const float4 *pairs, const float *bc)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        load_inputs<LONG>(p, j, pairs, bc);
        p->C[j] = float4_at(bc + j * 2 * STATES + STATES);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        make_operands(p, j, A);
#pragma unroll
    for (int j = 0; j < 4; j++)
        load_inputs<LONG>(p, j, pairs + 2 * shape<LONG>::PAIR_LD, bc + 8 * STATES);
}

/* A course's states and the channel's A, on their way. */
template <enum ssm_dtype S> struct origin {
    uint8_t *home;
    state4<S> state;
    float4 A;
};

template <enum ssm_dtype S>
__device__ __forceinline__ void fetch_origin(struct origin<S> *from, const struct scan &c, const struct course &o)
{
    const uint32_t d = o.d0 + threadIdx.x / 4, q = threadIdx.x % 4;
    from->home = state4_at<S>(o.seg.slot + c.ssm_at, d, q);
    from->state.load(from->home);
    from->A = __ldg(reinterpret_cast<const float4 *>(c.A + (size_t)(d / 32) * 512 + q * 128 + d % 32 * 4));
}

/* Fours [from, to) of stage `turn`, of which the last two have ahead what is in stage `next`. Not unrolled: across
 * fours the compiler would put each exponential right before its use, and a step would wait for all of them. */
template <enum ssm_dtype S, uint32_t LONG>
__device__ __forceinline__ void step_fours(struct long_shared<LONG> *sh, state4<S> *state, float h[4], struct ahead *p,
                                           const float A[4], uint32_t turn, uint32_t next, uint32_t from, uint32_t to)
{
    const uint32_t ch = threadIdx.x / 4, q = threadIdx.x % 4;
    const uint32_t here = turn % RING * FOURS, there = next % RING * FOURS - FOURS;
    const float4 *pairs = &sh->pairs[0][0][ch];
    const float *bc = &sh->bc[0][0][4 * q];
#pragma unroll 1
    for (uint32_t t = from; t < to; t++) {
        const uint32_t t1 = t + 1 + (t + 1 < FOURS ? here : there), t2 = t + 2 + (t + 2 < FOURS ? here : there);
        sh->sums[turn % 2][t][q][sum_at<LONG>(ch)] = step4<S, LONG>(
            state, h, p, A, bc + t1 * 8 * STATES, pairs + t2 * 2 * shape<LONG>::PAIR_LD, bc + t2 * 8 * STATES);
    }
}

/* The stages of one course, from turn `turn` on. */
template <enum ssm_dtype S, uint32_t LONG>
__device__ __forceinline__ void step_course(struct long_shared<LONG> *sh, state4<S> *state, const float A[4],
                                            const struct course &o, uint32_t turn)
{
    const uint32_t ch = threadIdx.x / 4, q = threadIdx.x % 4;
    float h[4];
    state->unpack(h);
    struct ahead p;
    wait_for(&sh->made[turn % RING], turn / RING);
    begin_ahead<LONG>(&p, A, &sh->pairs[turn % RING][0][ch], &sh->bc[turn % RING][0][4 * q]);
#pragma unroll 1
    for (uint32_t left = o.T; left > 0; turn++) {
        const uint32_t n = min(left, (uint32_t)STAGE);
        left -= n;
        const uint32_t next = left > 0 ? turn + 1 : turn; /* or anything, behind the end */
        wait_for(&sh->gated[turn % 2], turn / 2 - 1);
        step_fours<S, LONG>(sh, state, h, &p, A, turn, next, 0, min(n / 4, (uint32_t)FOURS - 2));
        if (left > 0)
            wait_for(&sh->made[next % RING], next / RING);
        step_fours<S, LONG>(sh, state, h, &p, A, turn, next, FOURS - 2, n / 4);
        if (n % 4)
            sh->sums[turn % 2][n / 4][q][sum_at<LONG>(ch)] = step_last<S>(state, h, p, n % 4);
        hand_over(&sh->stepped[turn % RING]);
    }
}

template <enum ssm_dtype S, uint32_t LONG>
__device__ __forceinline__ void stepping(struct long_shared<LONG> *sh, const struct scan &c, uint32_t n_found)
{
    struct course o;
    struct origin<S> next;
    bool more = course_of(&o, sh, c, n_found, 0);
    if (more)
        fetch_origin<S>(&next, c, o);
    after_previous();
    for (uint32_t turn = 0; more;) {
        struct origin<S> from = next;
        const struct course course = o;
        const float A[4] = {from.A.x, from.A.y, from.A.z, from.A.w};
        more = course_of(&o, sh, c, n_found, course.number + 1);
        if (more)
            fetch_origin<S>(&next, c, o);
        step_course<S, LONG>(sh, &from.state, A, course, turn);
        turn += course.stages;
        from.state.store(from.home);
    }
}

/* ---- the making warps: their operands ---- */

/* Thread i's part of a stage's inputs, on their way. */
template <uint32_t LONG>
__device__ __forceinline__ void load_stage(struct long_shared<LONG> *sh, uint16_t *dt, const struct scan &c,
                                           const struct course &o, uint32_t turn, uint32_t i)
{
    const uint32_t Rp = c.dt_proj.kp, row = i / 4, part = i % 4 * 8, n = stage_rows_of(o);
    const size_t first = o.row0 + o.stage * STAGE, at = first + row;
    if (row < n) {
        const uint16_t *x = c.p.xc + at * c.D + o.d0 + part;
        const float *bc = c.p.bc + at * 2 * STATES + part;
        for (uint32_t k = 0; k < LONG; k += 32)
            copy16(&sh->x[turn % 2][row][part + k], x + k);
        copy16(&sh->bc[turn % RING][row][part], bc);
        copy16(&sh->bc[turn % RING][row][part + 4], bc + 4);
        for (uint32_t k = part; k < Rp; k += 32)
            copy16(dt + (turn % 2 * STAGE + row) * (Rp + 8) + k, c.p.dt + at * Rp + k);
    }
    if (i < n)
        copy4(&sh->g[turn % 2][i], c.p.g + first + i);
}

/* And of a course's part of dt_proj. */
template <uint32_t LONG>
__device__ __forceinline__ void load_weights(struct long_shared<LONG> *sh, uint16_t *weights, const struct scan &c,
                                             const struct course &o, uint32_t i)
{
    const uint16_t *from = c.dt_proj.tiled + (size_t)o.d0 * c.dt_proj.kp;
    for (uint32_t k = i * 8; k < LONG * c.dt_proj.kp; k += MAKERS * 8)
        copy16(weights + k, from + k);
    if (i < LONG)
        copy4(&sh->bias[i], c.dt_proj.bias + o.d0 + i);
}

/* dt_proj's acc[m] of channels 16m … and eight rows: `a` and `b` are where a lane finds its rows of the first k's. */
__device__ __forceinline__ void long_dt_proj(float acc[2][4], uint32_t a, uint32_t b, uint32_t Rp)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        acc[i / 4][i % 4] = 0.0f;
#pragma unroll 1
    for (uint32_t k = 0; k < Rp / 16; k += DT_STEPS) {
        uint32_t w[DT_STEPS][2][4], d[DT_STEPS][2];
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++) {
            if (k + j >= Rp / 16)
                continue;
            ldmatrix_x4(w[j][0], a + (k + j) * 256);
            ldmatrix_x4(w[j][1], a + Rp / 8 * 256 + (k + j) * 256);
            ldmatrix_x2(d[j], b + (k + j) * 32);
        }
#pragma unroll
        for (uint32_t j = 0; j < DT_STEPS; j++)
            if (k + j < Rp / 16)
#pragma unroll
                for (int m = 0; m < 2; m++)
                    mma_16816(acc[m], w[j][m], d[j]);
    }
}

/* Δ·g and Δ·x of a stage: warp w has its rows 8w …, 32 channels at a time. */
template <uint32_t LONG>
__device__ __forceinline__ void make_pairs(struct long_shared<LONG> *sh, const uint16_t *weights, const uint16_t *dt,
                                           const struct scan &c, uint32_t turn, uint32_t w)
{
    const uint32_t lane = threadIdx.x % 32, Rp = c.dt_proj.kp, matrix = lane / 8, row = w * 8 + lane % 4 * 2;
    const uint32_t a = shared_address(weights) + (matrix % 2 * (Rp / 8) + matrix / 2) * 128 + lane % 8 * 16;
    const uint32_t b = shared_address(dt) + ((turn % 2 * STAGE + w * 8 + lane % 8) * (Rp + 8) + matrix % 2 * 8) * 2;
    const float2 g = *reinterpret_cast<const float2 *>(&sh->g[turn % 2][row]);
#pragma unroll 1
    for (uint32_t from = 0; from < LONG; from += 32) {
        float acc[2][4];
        long_dt_proj(acc, a + from * Rp * 2, b, Rp);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t ch = from + i * 8 + lane / 4;
            const uint16_t *x = &sh->x[turn % 2][row][ch];
            const float low = softplus(product(acc[i / 2][i % 2 * 2], c.dt_proj.scale, sh->bias[ch]));
            const float high = softplus(product(acc[i / 2][i % 2 * 2 + 1], c.dt_proj.scale, sh->bias[ch]));
            sh->pairs[turn % RING][row / 2][ch] =
                make_float4(__fmul_rn(low, g.x), __fmul_rn(low, half_at(x)), __fmul_rn(high, g.y),
                            __fmul_rn(high, half_at(x + shape<LONG>::X_LD)));
        }
    }
}

/* Thread i of the role. The inputs of a stage are on their way while the one before it is made. */
template <uint32_t LONG>
__device__ __forceinline__ void making(struct long_shared<LONG> *sh, uint16_t *weights, uint16_t *dt,
                                       const struct scan &c, uint32_t n_found, uint32_t i)
{
    struct course o;
    bool more = course_of(&o, sh, c, n_found, 0);
    if (more)
        load_stage(sh, dt, c, o, 0, i);
    for (uint32_t turn = 0; more; turn++) {
        copies_wait();
        group_sync<MAKERS>(MAKING_BARRIER); /* the stage is there, the one before made */
        if (o.stage == 0) {
            load_weights(sh, weights, c, o, i);
            copies_wait();
            group_sync<MAKERS>(MAKING_BARRIER);
        }
        more = next_stage(&o, sh, c, n_found);
        if (more) {
            wait_for(&sh->stepped[(turn + 1) % RING], (turn + 1) / RING - 1);
            load_stage(sh, dt, c, o, turn + 1, i);
        }
        make_pairs(sh, weights, dt, c, turn, i / 32);
        hand_over(&sh->made[turn % RING]);
    }
}

/* ---- the gating warps: y of what was stepped ---- */

/* (s0 + s1) + (s2 + s3) of four steps. */
template <uint32_t LD>
__device__ __forceinline__ void sum_quarters(float y[4], const float4 (*quarters)[LD], uint32_t at)
{
    const float4 s[4] = {quarters[0][at], quarters[1][at], quarters[2][at], quarters[3][at]};
    y[0] = __fadd_rn(__fadd_rn(s[0].x, s[1].x), __fadd_rn(s[2].x, s[3].x));
    y[1] = __fadd_rn(__fadd_rn(s[0].y, s[1].y), __fadd_rn(s[2].y, s[3].y));
    y[2] = __fadd_rn(__fadd_rn(s[0].z, s[1].z), __fadd_rn(s[2].z, s[3].z));
    y[3] = __fadd_rn(__fadd_rn(s[0].w, s[1].w), __fadd_rn(s[2].w, s[3].w));
}

__device__ __forceinline__ uint32_t gate2(float low, float high, float2 skip, uint32_t x, uint32_t z)
{
    const float2 xf = to_float2(x), zf = to_float2(z);
    return bits(to_half2(gate(low, skip.x, xf.x, zf.x), gate(high, skip.y, xf.y, zf.y)));
}

/* Thread i of the role: channels 4·(i % ACROSS) …, rows 4·(i / ACROSS) … of a stage. Its inputs are on their way while
 * the stage is stepped. */
template <uint32_t LONG>
__device__ __forceinline__ void gate_stage(struct long_shared<LONG> *sh, const struct scan &c, const struct course &o,
                                           uint32_t turn, uint32_t i)
{
    enum { ACROSS = LONG / 4 };
    static_assert(shape<LONG>::GATERS / ACROSS * 4 == STAGE, "a thread has four rows and four channels");
    const uint32_t four = i % ACROSS, row = i / ACROSS * 4, d = o.d0 + four * 4, n = stage_rows_of(o);
    const size_t at = o.row0 + o.stage * STAGE + row;
    const uint16_t *from_x = c.p.xc + at * c.D + d, *from_z = c.p.xz + at * 2 * c.D + c.D + d;
    uint16_t *to = c.p.y + at * c.D + d;
    uint2 x[4] = {}, z[4] = {};
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (row + j < n) {
            x[j] = *reinterpret_cast<const uint2 *>(from_x + j * c.D);
            z[j] = *reinterpret_cast<const uint2 *>(from_z + j * 2 * c.D);
        }
    const float4 skip = __ldg(reinterpret_cast<const float4 *>(c.skip + d));
    wait_for(&sh->stepped[turn % RING], turn / RING);
    float y[4][4];
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
        sum_quarters(y[k], sh->sums[turn % 2][row / 4], sum_at<LONG>(k) + four);
    hand_over(&sh->gated[turn % 2]);
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (row + j < n)
            *reinterpret_cast<uint2 *>(to + j * c.D) =
                make_uint2(gate2(y[0][j], y[1][j], make_float2(skip.x, skip.y), x[j].x, z[j].x),
                           gate2(y[2][j], y[3][j], make_float2(skip.z, skip.w), x[j].y, z[j].y));
}

template <uint32_t LONG>
__device__ __forceinline__ void gating(struct long_shared<LONG> *sh, const struct scan &c, uint32_t n_found, uint32_t i)
{
    struct course o;
    bool more = course_of(&o, sh, c, n_found, 0);
    for (uint32_t turn = 0; more; turn++) {
        gate_stage(sh, c, o, turn, i);
        if (o.stage + 1 == o.stages && o.T > 1 && i < LONG)
            keep_window(reinterpret_cast<uint16_t *>(o.seg.slot + c.conv_at) + o.d0 + i,
                        c.p.xz + (o.row0 + o.T - 1) * 2 * c.D + o.d0 + i, c.D, o.T);
        more = next_stage(&o, sh, c, n_found);
    }
}

/* ---- the kernel for them ---- */

/* Whether candidate i for the long kernel is one, and which segment it names. By run: each run is. Otherwise: multiples
 * of SHORT rows, each for the segment that has it, longer than SHORT, and no earlier one. */
__device__ __forceinline__ bool candidate(const struct scan &c, uint32_t rows, bool by_run, uint32_t i,
                                          struct segment *ret)
{
    if (by_run) {
        const uint32_t run = c.p.run_of[c.s.begin] + i;
        if (run > c.p.run_of[c.s.begin + rows - 1])
            return false;
        *ret = segment_of(c.p, c.s, rows, i > 0 ? c.p.runs[run].row - c.s.begin : 0);
        return true;
    }
    if (i * SHORT >= rows)
        return false;
    *ret = segment_of(c.p, c.s, rows, i * SHORT);
    return i * SHORT < ret->begin + SHORT && ret->end - ret->begin > SHORT;
}

/* The segments that the long kernel takes, in one order for all blocks: how many. */
template <uint32_t LONG>
__device__ __forceinline__ uint32_t find_segments(struct long_shared<LONG> *sh, const struct scan &c, uint32_t rows,
                                                  bool by_run)
{
    static_assert(shape<LONG>::THREADS >= FINDERS, "a thread has one candidate");
    const uint32_t i = threadIdx.x;
    struct segment seg;
    const bool found = i < FINDERS && candidate(c, rows, by_run, i, &seg);
    const uint32_t mask = __ballot_sync(0xffffffffu, found);
    if (i < FINDERS && i % 32 == 0)
        sh->n_found[i / 32] = __popc(mask);
    __syncthreads();
    uint32_t all = 0, before = __popc(mask & ((1u << i % 32) - 1));
    for (uint32_t j = 0; j < FINDERS / 32; j++) {
        before += j < i / 32 ? sh->n_found[j] : 0;
        all += sh->n_found[j];
    }
    if (found)
        sh->found[before] = seg;
    __syncthreads();
    return all;
}

template <enum ssm_dtype S, uint32_t LONG>
static __global__ void __launch_bounds__(shape<LONG>::THREADS, 1) scan_long(const struct scan c, bool by_run)
{
    extern __shared__ __align__(16) uint8_t shared[];
    enum { STEPPERS = shape<LONG>::STEPPERS };
    struct long_shared<LONG> *sh = reinterpret_cast<struct long_shared<LONG> *>(shared);
    uint16_t *weights = reinterpret_cast<uint16_t *>(sh + 1), *dt = weights + LONG * c.dt_proj.kp;
    const uint32_t rows = slice_rows(c.s), i = threadIdx.x;
    if (rows == 0)
        return;
    if (i < RING) {
        mbarrier_init(shared_address(&sh->made[i]), MAKERS);
        mbarrier_init(shared_address(&sh->stepped[i]), STEPPERS);
    } else if (i < RING + 2) {
        mbarrier_init(shared_address(&sh->gated[i - RING]), shape<LONG>::GATERS);
    }
    const uint32_t n_found = find_segments(sh, c, rows, by_run);
    if (i < STEPPERS) {
        stepping<S, LONG>(sh, c, n_found);
    } else {
        after_previous();
        start_next();
        if (i < STEPPERS + MAKERS)
            making(sh, weights, dt, c, n_found, i - STEPPERS);
        else
            gating(sh, c, n_found, i - STEPPERS - MAKERS);
    }
}

/* ---- host ---- */

template <uint32_t LONG> static size_t long_bytes(const struct gpu_model *m)
{
    return sizeof(struct long_shared<LONG>) + (LONG * m->d.Rp + 2 * STAGE * (m->d.Rp + 8)) * sizeof(uint16_t);
}

/* The same number of courses for every block, as few as there can be. */
template <enum ssm_dtype S, uint32_t LONG>
static void launch_long(const struct gpu_model *m, const struct scan &c, bool by_run, uint32_t courses, uint32_t sms,
                        cudaStream_t stream)
{
    const uint32_t turns = (courses + sms - 1) / sms;
    launch_chained(scan_long<S, LONG>, dim3((courses + turns - 1) / turns), shape<LONG>::THREADS, long_bytes<LONG>(m),
                   dim3(1, 1, 1), c.s.chained, stream, c, by_run);
}

#endif
