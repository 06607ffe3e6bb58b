/* resample.c: polyphase FIR. With to/from = L/M in lowest terms, output row k lies at input time k·M/L = i + p/L; phase
 * p has a filter of its own, `taps` long, over the input rows i − taps/2 + 1 … i + taps/2.
 *
 * Any thread, one at a time per resampler. Trap: the order in which a dot product is summed is fixed (eight lanes, then
 * a tree), for every instruction set and every cut of the input; that is what makes outputs bitwise reproducible. */
#include "io/resample.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/source.h"

enum { LANES = 8, PIECE = 256, BANK_MAX = 8 << 20 };

static const double stopband_db = 130, passband = 0.91; /* of the lower Nyquist frequency */

struct io_resample_plan {
    uint32_t up, down; /* L, M */
    uint32_t taps;     /* per phase; a multiple of LANES */
    double (*dot)(const double *a, const double *b, size_t n);
    double bank[]; /* [up][taps] */
};

/* ---- dot product ------------------------------------------------------------------------------------------ */

typedef double quad __attribute__((vector_size(32)));
typedef double quad_anywhere __attribute__((vector_size(32), aligned(8)));

static inline __attribute__((always_inline)) double dot_lanes(const double *a, const double *b, size_t n)
{
    quad s = {0}, t = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const quad_anywhere *x = (const quad_anywhere *)(a + i), *y = (const quad_anywhere *)(b + i);
        s += x[0] * y[0];
        t += x[1] * y[1];
    }
    s += t;
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static double dot_any(const double *a, const double *b, size_t n)
{
    return dot_lanes(a, b, n);
}

#ifdef __x86_64__
/* Without FMA, so that it rounds as dot_any does. */
__attribute__((target("avx2"))) static double dot_avx2(const double *a, const double *b, size_t n)
{
    return dot_lanes(a, b, n);
}
#endif

/* ---- filter bank ------------------------------------------------------------------------------------------ */

static double bessel_i0(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; term > 1e-17 * sum; k++) {
        term *= (x / (2 * k)) * (x / (2 * k));
        sum += term;
    }
    return sum;
}

/* The ratio of two rates in lowest terms; rates with up to six decimals are exact. */
static bool lowest_terms(double from, double to, uint64_t *ret_up, uint64_t *ret_down)
{
    for (double scale = 1; scale < 2e6; scale *= 10) {
        double f = round(from * scale), t = round(to * scale);
        if (f < 1 || t < 1 || fabs(f - from * scale) > 1e-9 * f || fabs(t - to * scale) > 1e-9 * t)
            continue;
        uint64_t a = (uint64_t)f, b = (uint64_t)t;
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        *ret_up = (uint64_t)t / a;
        *ret_down = (uint64_t)f / a;
        return true;
    }
    return false;
}

/* Phase p: the windowed sinc at the distances of its taps, scaled so that a constant passes unchanged. */
static void fill_phase(double *g, uint32_t taps, double distance, double cutoff, double beta)
{
    double half = taps / 2.0, sum = 0, peak = bessel_i0(beta);
    for (uint32_t j = 0; j < taps; j++) {
        double d = j + 1 - half - distance, u = d / half, a = M_PI * cutoff * d;
        double window = fabs(u) < 1 ? bessel_i0(beta * sqrt(1 - u * u)) / peak : fabs(u) == 1 ? 1 / peak : 0;
        g[j] = window * (fabs(a) < 1e-12 ? 1 : sin(a) / a);
        sum += g[j];
    }
    for (uint32_t j = 0; j < taps; j++)
        g[j] /= sum;
}

static int refuse(int error, double from, double to, const char *why, char *reterr)
{
    snprintf(reterr, IO_ERR, "cannot resample %.10g Hz to %.10g Hz: %s", from, to, why);
    return error;
}

int io_resample_plan_new(double from, double to, struct io_resample_plan **ret, char *reterr)
{
    uint64_t up, down;
    if (!(from > 0 && to > 0 && from <= 1e9 && to <= 1e9))
        return refuse(-EINVAL, from, to, "rates lie above 0 and at most at 1e9 Hz", reterr);
    if (!lowest_terms(from, to, &up, &down))
        return refuse(-ERANGE, from, to, "rates have six decimals at most", reterr);
    double narrow = up < down ? (double)up / (double)down : 1; /* the lower Nyquist frequency, of the input's */
    double taps = (stopband_db - 7.95) / (2.285 * M_PI * (1 - passband) * narrow) + 1;
    taps = ceil(taps / LANES) * LANES;
    if ((double)up * taps * sizeof(double) > BANK_MAX)
        return refuse(-ERANGE, from, to, "the ratio of these rates needs a filter bank above 8 MiB", reterr);
    struct io_resample_plan *p = malloc(sizeof *p + (size_t)up * (size_t)taps * sizeof(double));
    if (!p)
        return refuse(-ENOMEM, from, to, "out of memory", reterr);
    *p = (struct io_resample_plan){.up = (uint32_t)up, .down = (uint32_t)down, .taps = (uint32_t)taps, .dot = dot_any};
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        p->dot = dot_avx2;
#endif
    for (uint32_t i = 0; i < p->up; i++)
        fill_phase(p->bank + (size_t)i * p->taps, p->taps, (double)i / p->up, (1 + passband) / 2 * narrow,
                   0.1102 * (stopband_db - 8.7));
    *ret = p;
    return 0;
}

void io_resample_plan_free(struct io_resample_plan **plan)
{
    free(*plan);
    *plan = NULL;
}

/* ---- one stream ------------------------------------------------------------------------------------------- */

/* What save() writes before the history. */
struct header {
    uint64_t rows;  /* taken, those held after the end included */
    uint64_t next;  /* i of the next output row */
    uint32_t phase; /* p of the next output row */
    uint32_t held;  /* rows appended by flush() */
    uint32_t up, down, taps, channels;
};

struct io_resampler {
    const struct io_resample_plan *plan;
    struct header h;
    size_t stride; /* of `line`: taps − 1 + PIECE */
    double line[]; /* [channels][stride]: the last taps − 1 rows, then the piece at hand */
};

int io_resampler_new(const struct io_resample_plan *plan, uint32_t channels, struct io_resampler **ret)
{
    size_t stride = plan->taps - 1 + PIECE;
    struct io_resampler *r = calloc(1, sizeof *r + channels * stride * sizeof(double));
    if (!r)
        return -ENOMEM;
    r->plan = plan;
    r->stride = stride;
    r->h = (struct header){.up = plan->up, .down = plan->down, .taps = plan->taps, .channels = channels};
    *ret = r;
    return 0;
}

void io_resampler_free(struct io_resampler **r)
{
    free(*r);
    *r = NULL;
}

size_t io_resampler_room(const struct io_resampler *r, size_t n)
{
    return n * r->plan->up / r->plan->down + 2;
}

/* Lays m rows behind the history; the first row of all is also what came before it. */
static void append(struct io_resampler *r, const double *in, size_t m)
{
    size_t past = r->plan->taps - 1, channels = r->h.channels;
    for (size_t c = 0; c < channels; c++) {
        double *line = r->line + c * r->stride;
        for (size_t i = 0; r->h.rows == 0 && i < past; i++)
            line[i] = in[c];
        for (size_t i = 0; i < m; i++)
            line[past + i] = in[i * channels + c];
    }
}

/* Writes the output rows below input time `end` that the m appended rows complete, then moves the history up. */
static size_t produce(struct io_resampler *r, size_t m, uint64_t end, double *out)
{
    const struct io_resample_plan *p = r->plan;
    size_t half = p->taps / 2, past = p->taps - 1, channels = r->h.channels, made = 0;
    for (; r->h.next + half < r->h.rows + m && r->h.next < end; made++) {
        /* line[0] is row rows − past; the window begins with row next − half + 1, taps − 1 rows before that at most */
        const double *window = r->line + (size_t)(r->h.next + past + 1 - half - r->h.rows);
        const double *filter = p->bank + (size_t)r->h.phase * p->taps;
        for (size_t c = 0; c < channels; c++)
            *out++ = p->dot(window + c * r->stride, filter, p->taps);
        uint64_t phase = (uint64_t)r->h.phase + p->down;
        r->h.next += phase / p->up;
        r->h.phase = (uint32_t)(phase % p->up);
    }
    for (size_t c = 0; c < channels; c++)
        memmove(r->line + c * r->stride, r->line + c * r->stride + m, past * sizeof(double));
    r->h.rows += m;
    return made;
}

size_t io_resampler_push(struct io_resampler *r, const double *in, size_t n, double *out)
{
    size_t channels = r->h.channels, made = 0;
    for (size_t m; n > 0; n -= m, in += m * channels) {
        m = n < PIECE ? n : PIECE;
        append(r, in, m);
        made += produce(r, m, UINT64_MAX, out + made * channels);
    }
    return made;
}

/* Appends the last row again, half a filter long in all, in steps whose output fits. */
size_t io_resampler_flush(struct io_resampler *r, double *out, size_t cap)
{
    size_t past = r->plan->taps - 1, half = r->plan->taps / 2, made = 0;
    uint64_t end = r->h.rows - r->h.held;
    while (made == 0 && r->h.held < half && r->h.rows > 0) {
        size_t m = half - r->h.held < PIECE ? half - r->h.held : PIECE;
        while (m > 1 && io_resampler_room(r, m) > cap)
            m /= 2;
        for (size_t c = 0; c < r->h.channels; c++) {
            double *line = r->line + c * r->stride;
            for (size_t i = 0; i < m; i++)
                line[past + i] = line[past - 1];
        }
        made = produce(r, m, end, out);
        r->h.held += (uint32_t)m;
    }
    return made;
}

/* ---- state ------------------------------------------------------------------------------------------------ */

size_t io_resampler_state_bytes(const struct io_resampler *r)
{
    return sizeof r->h + r->h.channels * (size_t)(r->h.taps - 1) * sizeof(double);
}

void io_resampler_save(const struct io_resampler *r, void *bytes)
{
    unsigned char *to = bytes;
    size_t n = (r->h.taps - 1) * sizeof(double);
    memcpy(to, &r->h, sizeof r->h);
    for (size_t c = 0; c < r->h.channels; c++)
        memcpy(to + sizeof r->h + c * n, r->line + c * r->stride, n);
}

int io_resampler_restore(struct io_resampler *r, const void *bytes)
{
    const unsigned char *from = bytes;
    struct header h;
    size_t n = (r->h.taps - 1) * sizeof(double);
    memcpy(&h, from, sizeof h);
    bool same = h.up == r->h.up && h.down == r->h.down && h.taps == r->h.taps && h.channels == r->h.channels;
    if (!same || h.phase >= h.up || h.held > h.taps / 2 || h.held > h.rows || h.next + h.taps / 2 < h.rows)
        return -EINVAL;
    r->h = h;
    for (size_t c = 0; c < h.channels; c++)
        memcpy(r->line + c * r->stride, from + sizeof h + c * n, n);
    return 0;
}
