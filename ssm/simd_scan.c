/* simd_scan.c: the selective scan, a channel to a lane; built once per vector instruction family. Work is cut into
 * chunks of at most CHUNK vectors: one group of channels over many steps (states stay in registers), or, where there
 * are few steps, many groups at one step (states stream through). A chunk first makes Δ, then runs the states over it,
 * then applies skip and gate. Every value depends on its own channel and the steps before it alone, in one order,
 * however the work is cut. Worker threads; pure but for the state.
 *
 * Trap: a state that decays towards zero becomes denormal, and every operation on it a hundred times slower; the scan
 * flushes denormals to zero. Compilers do not know that MXCSR matters, so scan_channels() must not be inlined. */
#include "ssm/simd_ops.h"

#include "ssm/simd.h"

enum { CHUNK = 64, WIDE_STEPS = 7, FLUSH_DENORMALS = 0x8040 };

struct chunk {
    const struct ssm_scan *s;
    size_t d;            /* first channel */
    uint32_t t;          /* first step */
    uint32_t count;      /* vectors */
    bool wide;           /* they are groups of channels, not steps */
    simd_f rate[CHUNK];  /* Δ·g·log2(e): the decay of state n is 2^(rate·A[n]) */
    simd_f input[CHUNK]; /* Δ·x */
    simd_f sum[CHUNK];   /* Σ_n h[n]·C[n] */
};

/* Δ = softplus(dt) */
static void chunk_prepare(struct chunk *c)
{
    const struct ssm_scan *s = c->s;
    const float *dt = s->dt + c->t * s->lddt + c->d, *x = s->x + c->t * s->ldx + c->d, *g = s->g ? s->g + c->t : NULL;
    size_t step_dt = c->wide ? SIMD_LANES : s->lddt, step_x = c->wide ? SIMD_LANES : s->ldx, step_g = !c->wide;
    for (uint32_t i = 0; i < c->count; i++) {
        simd_f delta = simd_softplus(simd_load(dt + i * step_dt));
        simd_f rate = simd_mul(delta, simd_set1(LOG2E_HI));
        c->rate[i] = g ? simd_mul(rate, simd_set1(g[i * step_g])) : rate;
        c->input[i] = simd_mul(delta, simd_load(x + i * step_x));
        c->sum[i] = simd_set1(0.0f);
    }
}

/* h = exp(Δ·A·g)·h + Δ·B·x */
SIMD_INLINE simd_f state_next(simd_f h, simd_f rate, simd_f A, simd_f input, float B)
{
    simd_f decay = simd_exp2(simd_mul(rate, A));
    return simd_fma(decay, h, simd_mul(input, simd_set1(B)));
}

/* Many groups, one step: the rows of states n0 .. n0 + states are read and written in order. */
SIMD_INLINE void chunk_states_wide(struct chunk *c, uint32_t n0, uint32_t states)
{
    const struct ssm_scan *s = c->s;
    const size_t row = s->Dp, at = n0 * row + c->d; /* locals: a vector store may alias what a pointer leads to */
    const float *B = s->B + c->t * s->ldbc + n0, *C = s->C + c->t * s->ldbc + n0;
    const float *A = s->A + at, *next = (s->h_next ? s->h_next : s->A) + at; /* A: something that is near anyway */
    float *state = s->h + at;
    const uint32_t count = c->count;
    for (uint32_t i = 0; i < count; i++, A += SIMD_LANES, state += SIMD_LANES, next += SIMD_LANES) {
        simd_f rate = c->rate[i], input = c->input[i], sum = c->sum[i];
        SIMD_UNROLL
        for (uint32_t n = 0; n < states; n++) {
            simd_f h = state_next(simd_load(state + n * row), rate, simd_load(A + n * row), input, B[n]);
            simd_store(state + n * row, h);
            _mm_prefetch((const char *)(next + n * row), _MM_HINT_T1);
            sum = simd_fma(h, simd_set1(C[n]), sum);
        }
        c->sum[i] = sum;
    }
}

static void chunk_run_wide(struct chunk *c)
{
    uint32_t n = 0;
    for (; n + 4 <= c->s->N; n += 4)
        chunk_states_wide(c, n, 4);
    for (; n < c->s->N; n++)
        chunk_states_wide(c, n, 1);
}

/* One group, many steps: states n0 .. n0 + states stay in registers. */
SIMD_INLINE void chunk_states(struct chunk *c, uint32_t n0, uint32_t states)
{
    const struct ssm_scan *s = c->s;
    const size_t row = s->Dp, step = s->ldbc;
    const float *A = s->A + n0 * row + c->d, *B = s->B + c->t * step + n0, *C = s->C + c->t * step + n0;
    float *state = s->h + n0 * row + c->d;
    const uint32_t count = c->count;
    simd_f h[SIMD_STATES];
    SIMD_UNROLL
    for (uint32_t n = 0; n < states; n++)
        h[n] = simd_load(state + n * row);
    for (uint32_t i = 0; i < count; i++, B += step, C += step) {
        simd_f rate = c->rate[i], input = c->input[i], sum = c->sum[i];
        SIMD_UNROLL
        for (uint32_t n = 0; n < states; n++) {
            h[n] = state_next(h[n], rate, simd_load(A + n * row), input, B[n]);
            sum = simd_fma(h[n], simd_set1(C[n]), sum);
        }
        c->sum[i] = sum;
    }
    SIMD_UNROLL
    for (uint32_t n = 0; n < states; n++)
        simd_store(state + n * row, h[n]);
}

static void chunk_run_long(struct chunk *c)
{
    uint32_t n = 0;
    for (; n + SIMD_STATES <= c->s->N; n += SIMD_STATES)
        chunk_states(c, n, SIMD_STATES);
    for (; n + 4 <= c->s->N; n += 4)
        chunk_states(c, n, 4);
    for (; n < c->s->N; n++)
        chunk_states(c, n, 1);
}

/* y = (Σ_n h·C + skip·x) · silu(z) */
static void chunk_finish(const struct chunk *c)
{
    const struct ssm_scan *s = c->s;
    const float *x = s->x + c->t * s->ldx + c->d, *z = s->z + c->t * s->ldz + c->d, *skip = s->skip + c->d;
    float *y = s->y + c->t * s->ldy + c->d;
    size_t step_x = c->wide ? SIMD_LANES : s->ldx, step_z = c->wide ? SIMD_LANES : s->ldz;
    size_t step_y = c->wide ? SIMD_LANES : s->ldy, step_skip = c->wide ? SIMD_LANES : 0;
    for (uint32_t i = 0; i < c->count; i++) {
        simd_f sum = simd_fma(simd_load(skip + i * step_skip), simd_load(x + i * step_x), c->sum[i]);
        simd_store(y + i * step_y, simd_mul(sum, simd_silu(simd_load(z + i * step_z))));
    }
}

static __attribute__((noinline)) void scan_channels(const struct ssm_scan *s, size_t d0, size_t d1)
{
    struct chunk c;
    c.s = s;
    c.wide = s->T <= WIDE_STEPS;
    size_t groups = c.wide ? CHUNK : 1;
    uint32_t steps = c.wide ? 1 : CHUNK;
    for (c.d = d0; c.d < d1; c.d += groups * SIMD_LANES) {
        size_t groups_left = (d1 - c.d) / SIMD_LANES;
        for (c.t = 0; c.t < s->T; c.t += steps) {
            uint32_t left = c.wide ? (uint32_t)groups_left : s->T - c.t;
            c.count = left < CHUNK ? left : CHUNK;
            chunk_prepare(&c);
            if (c.wide)
                chunk_run_wide(&c);
            else
                chunk_run_long(&c);
            chunk_finish(&c);
        }
    }
}

void SIMD_NAME(scan)(const struct ssm_scan *s, size_t d0, size_t d1)
{
    unsigned mxcsr = _mm_getcsr();
    _mm_setcsr(mxcsr | FLUSH_DENORMALS);
    scan_channels(s, d0, d1);
    _mm_setcsr(mxcsr);
}
