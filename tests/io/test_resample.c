/* The resampler against soxr (VHQ, double) and against what it promises of itself. */
#include "io/resample.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <soxr.h>

#include "io/source.h"

static char reterr[IO_ERR];

static const struct {
    double from, to;
} ratios[] = {
    {48000, 16000}, {44100, 16000}, {16000, 8000},  {8000, 16000},  {22050, 16000}, {11025, 48000},
    {32000, 16000}, {44100, 48000}, {48000, 44100}, {96000, 16000}, {360, 100},     {0.1, 0.25},
};
enum { RATIOS = sizeof ratios / sizeof *ratios, ROWS = 20000, DELAY = 2000 /* taps/2 at most, here */ };

static uint64_t seed = 20240607;

static double uniform(void) /* −1 … 1 */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(seed >> 11) / (double)(1ull << 52) - 1;
}

static struct io_resampler *resampler(double from, double to, uint32_t channels, struct io_resample_plan **ret_plan)
{
    struct io_resampler *r;
    if (io_resample_plan_new(from, to, ret_plan, reterr))
        fail_msg("%s", reterr);
    assert_int_equal(io_resampler_new(*ret_plan, channels, &r), 0);
    return r;
}

/* The whole signal through a resampler in pieces of random length up to `cut` (0: in one). */
static double *through(struct io_resampler *r, const double *in, size_t n, uint32_t channels, size_t cut, size_t *ret_n)
{
    size_t cap = io_resampler_room(r, n + DELAY), made = 0;
    double *out = malloc(cap * channels * sizeof *out);
    for (size_t at = 0, m; at < n; at += m) {
        m = cut ? 1 + (size_t)((uniform() + 1) / 2 * (double)(cut - 1)) : n;
        m = m < n - at ? m : n - at;
        size_t got = io_resampler_push(r, in + at * channels, m, out + made * channels);
        assert_true(got <= io_resampler_room(r, m));
        made += got;
    }
    size_t room = io_resampler_room(r, cut ? 1 : 300);
    double *tail = malloc(room * channels * sizeof *tail);
    for (size_t got; (got = io_resampler_flush(r, tail, room)); made += got) {
        assert_true(got <= room && made + got <= cap);
        memcpy(out + made * channels, tail, got * channels * sizeof *tail);
    }
    free(tail);
    *ret_n = made;
    return out;
}

static double *resampled(double from, double to, const double *in, size_t n, uint32_t channels, size_t cut,
                         size_t *ret_n)
{
    struct io_resample_plan *plan;
    struct io_resampler *r = resampler(from, to, channels, &plan);
    double *out = through(r, in, n, channels, cut, ret_n);
    io_resampler_free(&r);
    io_resample_plan_free(&plan);
    return out;
}

/* ROLLOFF_NONE, for by default soxr droops by 0.01 dB towards the edge of its passband. */
static double *by_soxr(double from, double to, const double *in, size_t n, size_t *ret_n)
{
    size_t cap = (size_t)((double)n * to / from) + 64;
    double *out = malloc(cap * sizeof *out);
    soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT64_I, SOXR_FLOAT64_I);
    soxr_quality_spec_t quality = soxr_quality_spec(SOXR_VHQ, SOXR_DOUBLE_PRECISION | SOXR_ROLLOFF_NONE);
    assert_null(soxr_oneshot(from, to, 1, in, n, NULL, out, cap, ret_n, &io, &quality, NULL));
    return out;
}

/* Signal over difference in dB, edges left out: beyond its ends soxr takes a signal to be zero. */
static double snr(const double *a, const double *b, size_t n, size_t edge)
{
    double signal = 0, noise = 1e-300;
    for (size_t i = edge; i + edge < n; i++) {
        signal += a[i] * a[i];
        noise += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return 10 * log10(signal / noise);
}

static void sweep(double *x, size_t n, double top) /* 0 … top, as a fraction of the sampling rate */
{
    for (size_t i = 0; i < n; i++)
        x[i] = 0.9 * sin(M_PI * top * (double)i * (double)i / (double)n);
}

static void noise(double *x, size_t n, double top) /* white up to top: 400 sines at random */
{
    memset(x, 0, n * sizeof *x);
    for (int k = 0; k < 400; k++) {
        double f = top * (uniform() + 1) / 2, phase = M_PI * uniform();
        double s = 0.05 * sin(phase), c = 0.05 * cos(phase), ds = sin(2 * M_PI * f), dc = cos(2 * M_PI * f);
        for (size_t i = 0; i < n; i++) {
            x[i] += s;
            double turned = s * dc + c * ds;
            c = c * dc - s * ds;
            s = turned;
        }
    }
}

static void against_soxr(void **state)
{
    double *x = malloc(ROWS * sizeof *x), worst = 1e9;
    for (size_t k = 0; k < RATIOS; k++) {
        double from = ratios[k].from, to = ratios[k].to, top = 0.905 * (to < from ? to / from : 1) / 2;
        for (int kind = 0; kind < 2; kind++) {
            (kind ? noise : sweep)(x, ROWS, top);
            size_t n, m;
            double *ours = resampled(from, to, x, ROWS, 1, 0, &n), *theirs = by_soxr(from, to, x, ROWS, &m);
            double db = snr(theirs, ours, n < m ? n : m, n / 20);
            print_message("%g -> %g Hz, %s: %.1f dB\n", from, to, kind ? "noise" : "sweep", db);
            assert_true(db >= 100);
            worst = db < worst ? db : worst;
            free(ours);
            free(theirs);
        }
    }
    print_message("worst: %.1f dB\n", worst);
    free(x);
}

/* What lies above the lower Nyquist frequency is gone; what lies below 0.9 of it is there, in place. */
static void bands(void **state)
{
    double *x = malloc(ROWS * sizeof *x);
    for (size_t k = 0; k < RATIOS; k++) {
        double from = ratios[k].from, to = ratios[k].to, low = (to < from ? to / from : 1) / 2;
        for (int step = 0; step < 24; step++) {
            double f =
                to < from && step >= 12 ? low + (0.5 - low) * (step - 12 + 0.01) / 12 : 0.9 * low * (step % 12) / 12;
            bool stop = f > low;
            for (size_t i = 0; i < ROWS; i++)
                x[i] = sin(2 * M_PI * f * (double)i + 0.3);
            size_t n;
            double *y = resampled(from, to, x, ROWS, 1, 0, &n), worst = 0;
            for (size_t i = n / 20; i < n - n / 20; i++) {
                double want = stop ? 0 : sin(2 * M_PI * f * (double)i * from / to + 0.3);
                worst = fmax(worst, fabs(y[i] - want));
            }
            if (!(worst < (stop ? 1e-6 : 2e-6)))
                fail_msg("%g -> %g Hz: %g of the input's rate is off by %g", from, to, f, worst);
            free(y);
        }
    }
    free(x);
}

static void counts(void **state)
{
    double *x = calloc(3000, sizeof *x);
    const size_t sizes[] = {0, 1, 2, 3, 7, 31, 33, 129, 1024, 2999};
    for (size_t k = 0; k < RATIOS; k++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            size_t n;
            free(resampled(ratios[k].from, ratios[k].to, x, sizes[s], 1, s % 2 ? 5 : 0, &n));
            assert_int_equal(n, (size_t)ceil((double)sizes[s] * ratios[k].to / ratios[k].from - 1e-9));
        }
    }
    free(x);
}

/* A constant stays that constant from the first row to the last, at any level. */
static void constants(void **state)
{
    double *x = malloc(5000 * sizeof *x);
    for (size_t k = 0; k < RATIOS; k++) {
        for (size_t i = 0; i < 5000; i++)
            x[i] = 1e9 + 1;
        size_t n;
        double *y = resampled(ratios[k].from, ratios[k].to, x, 5000, 1, 0, &n);
        for (size_t i = 0; i < n; i++)
            assert_true(fabs(y[i] - x[0]) <= 1e-14 * x[0]);
        free(y);
    }
    free(x);
}

static void any_cut(void **state)
{
    enum { C = 3, N = 7001 };
    double *x = malloc(N * C * sizeof *x), *one = malloc(N * sizeof *one);
    for (size_t i = 0; i < N * C; i++)
        x[i] = uniform();
    for (size_t k = 0; k < RATIOS; k++) {
        double from = ratios[k].from, to = ratios[k].to;
        size_t n, m;
        double *whole = resampled(from, to, x, N, C, 0, &n);
        const size_t cuts[] = {1, 2, 31, 255, 256, 257, 1024};
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            double *cut = resampled(from, to, x, N, C, cuts[i], &m);
            assert_int_equal(n, m);
            assert_memory_equal(whole, cut, n * C * sizeof *cut);
            free(cut);
        }
        for (uint32_t c = 0; c < C; c++) { /* a channel's rows do not depend on the others */
            for (size_t i = 0; i < N; i++)
                one[i] = x[i * C + c];
            double *alone = resampled(from, to, one, N, 1, 0, &m);
            for (size_t i = 0; i < n; i++)
                assert_memory_equal(&alone[i], &whole[i * C + c], sizeof *alone);
            free(alone);
        }
        free(whole);
    }
    free(one);
    free(x);
}

/* Saved anywhere, restored into another resampler: the rest is bitwise the same. Equal signals have equal states. */
static void saved(void **state)
{
    enum { C = 2, N = 3000 };
    double *x = malloc(N * C * sizeof *x);
    for (size_t i = 0; i < N * C; i++)
        x[i] = uniform();
    for (size_t k = 0; k < RATIOS; k++) {
        for (size_t at = 1; at < N; at += 611) {
            struct io_resample_plan *plan;
            struct io_resampler *a = resampler(ratios[k].from, ratios[k].to, C, &plan), *b, *c;
            assert_int_equal(io_resampler_new(plan, C, &b), 0);
            assert_int_equal(io_resampler_new(plan, C + 1, &c), 0);
            double *skipped = malloc(io_resampler_room(a, N) * C * sizeof *skipped);
            io_resampler_push(a, x, at, skipped);
            size_t bytes = io_resampler_state_bytes(a), n, m;
            unsigned char *one = malloc(bytes), *two = malloc(bytes);
            io_resampler_save(a, one);
            for (size_t i = 0; i < at; i++)
                io_resampler_push(b, x + i * C, 1, skipped);
            io_resampler_save(b, two);
            assert_memory_equal(one, two, bytes);
            double *want = through(a, x + at * C, N - at, C, 0, &n);
            assert_int_equal(io_resampler_restore(b, one), 0);
            assert_int_equal(io_resampler_restore(c, one), -EINVAL);
            double *got = through(b, x + at * C, N - at, C, 17, &m);
            assert_int_equal(n, m);
            assert_memory_equal(want, got, n * C * sizeof *got);
            free(want);
            free(got);
            free(one);
            free(two);
            free(skipped);
            io_resampler_free(&a);
            io_resampler_free(&b);
            io_resampler_free(&c);
            io_resample_plan_free(&plan);
        }
    }
    free(x);
}

static void refused(void **state)
{
    struct io_resample_plan *plan = NULL;
    const struct {
        double from, to;
        int error;
    } bad[] = {
        {44100, 47999, -ERANGE}, {1e6, 1, -ERANGE},    {16000, M_PI, -ERANGE}, {0, 16000, -EINVAL},
        {16000, -1, -EINVAL},    {NAN, 1000, -EINVAL}, {INFINITY, 1, -EINVAL}, {1e-9, 1, -ERANGE},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        reterr[0] = '\0';
        assert_int_equal(io_resample_plan_new(bad[i].from, bad[i].to, &plan, reterr), bad[i].error);
        assert_non_null(strstr(reterr, "cannot resample"));
        assert_null(plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_soxr), cmocka_unit_test(bands), cmocka_unit_test(counts),  cmocka_unit_test(constants),
        cmocka_unit_test(any_cut),      cmocka_unit_test(saved), cmocka_unit_test(refused),
    };
    print_message("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests_name("resample", tests, NULL, NULL);
}
