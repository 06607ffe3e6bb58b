/* test_joint.c: p-values of a stream as a whole: uniform where nothing changes, small where channels leave their usual
 * relation or level, small for as long as that lasts, and the same however the samples are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/joint.h"
#include "tests/seed.h"
#include "tests/ssm/noise.h"

enum { WARMUP = 200, CHANNELS_MAX = 200 };

static const struct ssm_calibration settings = {.warmup = WARMUP, .memory = 20000};

struct stream {
    uint32_t n, channels, patch;
    double *x;    /* [n][channels] */
    float *rows;  /* [n][channels][3]: what the channels' heads said */
    float *joint; /* [n][3] */
    void *sections[CHANNELS_MAX];
};

/* Heads that say nothing, or p-values that mean what they say. */
static struct stream *stream_new(uint32_t n, uint32_t channels, uint32_t patch, bool forecasts)
{
    struct stream *s = calloc(1, sizeof *s);
    *s = (struct stream){.n = n, .channels = channels, .patch = patch};
    s->x = calloc((size_t)n * channels, sizeof *s->x);
    s->rows = calloc((size_t)n * channels * 3, sizeof *s->rows);
    s->joint = calloc((size_t)n * 3, sizeof *s->joint);
    for (size_t i = 0; i < (size_t)n * channels; i++) {
        s->rows[3 * i] = s->rows[3 * i + 2] = 0.5f;
        s->rows[3 * i + 1] = forecasts ? (float)uniform() : NAN;
    }
    for (uint32_t c = 0; c < channels; c++) {
        s->sections[c] = malloc(ssm_joint_bytes(patch));
        ssm_joint_reset(patch, s->sections[c]);
    }
    return s;
}

static void stream_free(struct stream *s)
{
    for (uint32_t c = 0; c < s->channels; c++)
        free(s->sections[c]);
    free(s->x);
    free(s->rows);
    free(s->joint);
    free(s);
}

/* Samples [from, to). */
static void advance(struct stream *s, uint32_t from, uint32_t to)
{
    struct ssm_item items[CHANNELS_MAX] = {0};
    uint32_t row = from / s->patch * s->patch;
    for (uint32_t c = 0; c < s->channels; c++)
        items[c] = (struct ssm_item){.n = to - from,
                                     .x = s->x + (size_t)from * s->channels + c,
                                     .x_stride = s->channels,
                                     .out.anomaly = s->rows + ((size_t)row * s->channels + c) * 3,
                                     .out.anomaly_stride = 3 * s->channels};
    items[0].channels = s->channels;
    items[0].joint = s->joint + 3 * (size_t)row;
    ssm_joint_run(&settings, s->patch, items, s->sections);
}

static double p_at(const struct stream *s, uint32_t i)
{
    return (double)s->joint[3 * (size_t)i + 1];
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill_normal(struct stream *s)
{
    for (size_t i = 0; i < (size_t)s->n * s->channels; i++)
        s->x[i] = 1e3 * (double)(i % s->channels) + normal();
}

static void p_is_uniform(void **state)
{
    static const uint32_t channels[] = {1, 2, 7};
    enum { N = 60000, FROM = 2000 };
    double *p = malloc(N * sizeof *p);
    for (size_t k = 0; k < 6; k++) {
        struct stream *s = stream_new(N, channels[k % 3], 1, k >= 3);
        fill_normal(s);
        advance(s, 0, N);
        unsigned below_2 = 0, below_3 = 0;
        for (uint32_t i = FROM; i < N; i++) {
            p[i - FROM] = p_at(s, i);
            below_2 += p[i - FROM] < 1e-2;
            below_3 += p[i - FROM] < 1e-3;
        }
        double n = N - FROM, worst = 0.0;
        qsort(p, N - FROM, sizeof *p, by_value);
        for (uint32_t i = 0; i < N - FROM; i++)
            worst = fmax(worst, fabs(p[i] - (i + 0.5) / n));
        printf("%u channels: KS distance %.3f, P(p < 1e-2) %.2e, 1e-3: %.2e\n", s->channels, worst, below_2 / n,
               below_3 / n);
        assert_true(worst < 0.08); /* the terms depend on each other */
        assert_true(below_2 / n > 3e-3 && below_2 / n < 2e-2 && below_3 / n > 2e-4 && below_3 / n < 2e-3);
        stream_free(s);
    }
    free(p);
}

/* Two channels that follow each other part, while each stays within its own range. */
static void a_broken_relation_is_seen(void **state)
{
    enum { N = 4000, BREAK = 3900, SEEN = 3920 };
    struct stream *s = stream_new(N, 3, 1, false);
    for (uint32_t i = 0; i < N; i++) {
        double a = normal(), *x = s->x + 3 * i;
        x[0] = a;
        x[1] = 5e6 + 1e6 * ((i < BREAK ? a : -a) + 0.1 * normal());
        x[2] = 1e-9 * normal();
    }
    advance(s, 0, N);
    double mean = 0.0;
    for (uint32_t i = BREAK; i < SEEN; i++)
        mean += log(p_at(s, i)) / (SEEN - BREAK);
    printf("mean ln p: %.1f\n", mean);
    assert_true(mean < log(1e-3));
    stream_free(s);
}

/* A level that lasts is small to its end, is over soon when it is over, and is normal once it has stayed. */
static void a_long_anomaly_stays_one(void **state)
{
    enum { N = 12000, FROM = 2000, TO = 2600, STAYS = 4000 };
    struct stream *s = stream_new(N, 4, 1, false);
    fill_normal(s);
    for (uint32_t i = 0; i < N; i++)
        if ((i >= FROM && i < TO) || i >= STAYS)
            s->x[4 * (size_t)i] += 12.0;
    advance(s, 0, N);
    unsigned small = 0, after = 0, settled = 0;
    for (uint32_t i = FROM + 10; i < TO; i++)
        small += p_at(s, i) < 1e-2;
    for (uint32_t i = TO + 50; i < TO + 250; i++)
        after += p_at(s, i) < 1e-2;
    for (uint32_t i = N - 500; i < N; i++)
        settled += p_at(s, i) < 1e-2;
    printf("p < 1e-2: %u of %u rows of it, %u of 200 after it, %u of 500 when it has stayed\n", small, TO - FROM - 10,
           after, settled);
    assert_true(small > (TO - FROM - 10) * 0.9 && after < 20 && settled < 50);
    stream_free(s);
}

/* A level that often wanders off for a while: each time is strange, its hundred rows are not a hundred rare ones. */
static void a_spell_counts_as_few_rows(void **state)
{
    enum { N = 30000, EVERY = 3000, LASTS = 100 };
    struct stream *s = stream_new(N, 2, 1, false);
    fill_normal(s);
    for (uint32_t i = EVERY; i < N; i++)
        s->x[2 * (size_t)i] += i % EVERY < LASTS ? 5.0 + (double)(i / EVERY) : 0.0;
    advance(s, 0, N);
    unsigned spells = 0, rare = 0, strange = 0;
    for (uint32_t from = EVERY; from < N; from += EVERY) {
        double least = 1.0;
        for (uint32_t i = from; i < from + LASTS; i++) {
            least = fmin(least, p_at(s, i));
            rare += p_at(s, i) <= 1e-3;
            strange += p_at(s, i) < 1e-2;
        }
        spells += least < 1e-3;
    }
    printf("of 9 spells %u have a row with p < 1e-3; rows with p <= 1e-3: %u, p < 1e-2: %u of 900\n", spells, rare,
           strange);
    assert_true(spells == 9 && rare <= 3 * spells && strange > 700);
    stream_free(s);
}

/* One channel of normal rows with forecasts, the same for the same state of the generator. */
static struct stream *normal_again(uint64_t begin, uint32_t n)
{
    rng_state = begin;
    struct stream *s = stream_new(n, 1, 1, true);
    fill_normal(s);
    return s;
}

/* Of two streams that differ in the last row, which is no news in either, the stranger one's is the rarer. */
static void rows_of_a_spell_keep_their_order(void **state)
{
    enum { N = 4000, FROM = 3990 };
    uint64_t begin = rng_state;
    double p[2];
    for (int i = 0; i < 2; i++) {
        struct stream *s = normal_again(begin, N);
        for (uint32_t row = FROM; row < N; row++)
            s->rows[3 * (size_t)row + 1] = row == FROM ? 1e-9f : row < N - 1 ? 1e-5f : i ? 1e-6f : 1e-4f;
        advance(s, 0, N);
        assert_true(p_at(s, FROM) < 1e-8);
        p[i] = p_at(s, N - 1);
        stream_free(s);
    }
    printf("p of a spell's row: %.5f, of a stranger one %.5f\n", p[0], p[1]);
    assert_true(p[0] > 1.1 * p[1] && p[1] > 1e-3);
}

/* A forecast that fails says more where the channels were a little strange for a while: to and fro, so that they are
 * not when it does. */
static void what_lasts_is_stranger(void **state)
{
    enum { N = 4000, FROM = 3960, TO = 3990 };
    uint64_t begin = rng_state;
    double p[2];
    for (int i = 0; i < 2; i++) {
        struct stream *s = normal_again(begin, N);
        for (uint32_t row = FROM; row < N; row++)
            s->x[row] = i && row < TO ? (row % 2 ? 2.3 : -2.3) : 0.0;
        s->rows[3 * (size_t)(N - 1) + 1] = 2e-3f;
        advance(s, 0, N);
        p[i] = p_at(s, N - 1);
        stream_free(s);
    }
    printf("p of a failed forecast: %.5f, after strange rows %.5f\n", p[0], p[1]);
    assert_true(p[1] < 0.75 * p[0]);
}

/* Rows behind the last strange one until 16 in a row have p > 0.1, which ends an alarm: no more than if nothing had
 * been. */
static void calm_comes_at_once(void **state)
{
    enum { N = 4400, FROM = 4000, TO = 4030, STREAMS = 40 };
    uint32_t rows = 0;
    for (int i = 0; i < STREAMS; i++) {
        struct stream *s = stream_new(N, 3, 1, true);
        fill_normal(s);
        for (uint32_t k = 3 * FROM; k < 3 * TO; k++)
            s->x[k] += k / 3 % 2 ? 8 : -8;
        advance(s, 0, N);
        for (uint32_t row = TO, calm = 0; calm < 16 && row < N; row++, rows++)
            calm = p_at(s, row) > 0.1 ? calm + 1 : 0;
        stream_free(s);
    }
    printf("%.1f rows until 16 are calm\n", (double)rows / STREAMS);
    assert_true(rows < 55 * STREAMS);
}

static void cuts_do_not_matter(void **state)
{
    enum { N = 3001, P = 4 };
    uint64_t begin = rng_state;
    struct stream *whole = stream_new(N, 5, P, true);
    rng_state = begin;
    struct stream *cut = stream_new(N, 5, P, true);
    fill_normal(whole);
    for (uint32_t i = 0; i < N; i += 7)
        whole->x[5 * i + i % 5] = i % 3 ? NAN : 40.0;
    memcpy(cut->x, whole->x, N * 5 * sizeof *cut->x);
    advance(whole, 0, N);
    for (uint32_t at = 0, to; at < N; at = to) {
        to = at + 1 + (uint32_t)(uniform() * 9.0);
        advance(cut, at, to < N ? to : N);
    }
    assert_memory_equal(whole->joint, cut->joint, N * 3 * sizeof(float));
    for (unsigned c = 0; c < 5; c++)
        assert_memory_equal(whole->sections[c], cut->sections[c], ssm_joint_bytes(P));
    assert_true(isfinite(p_at(cut, N - 2)));
    stream_free(whole);
    stream_free(cut);
}

/* A row without any sample is NaN and leaves no trace; a channel that comes late or never is no anomaly. */
static void missing_samples(void **state)
{
    enum { N = 3000, LATE = 1000 };
    struct stream *s = stream_new(N, 4, 1, false), *without = stream_new(N, 4, 1, false);
    fill_normal(s);
    for (uint32_t i = 0; i < N; i++) {
        s->x[4 * i + 3] = NAN;
        if (i < LATE)
            s->x[4 * i + 1] = INFINITY;
        if (i % 10 == 7)
            s->x[4 * i] = s->x[4 * i + 1] = s->x[4 * i + 2] = NAN;
    }
    for (uint32_t i = 0, n = 0; i < N; i++)
        if (i % 10 != 7)
            memcpy(without->x + 4 * n++, s->x + 4 * i, 4 * sizeof *s->x);
    advance(s, 0, N);
    advance(without, 0, N - N / 10);
    unsigned small = 0;
    for (uint32_t i = 0, n = 0; i < N; i++) {
        if (i % 10 == 7)
            assert_true(isnan(p_at(s, i)));
        else
            assert_memory_equal(s->joint + 3 * i, without->joint + 3 * n++, 3 * sizeof(float));
        small += i > LATE && p_at(s, i) < 1e-3;
    }
    assert_true(small < 10);
    stream_free(s);
    stream_free(without);
}

static void wild_samples(void **state)
{
    enum { N = 5000 };
    for (uint32_t channels = 1; channels <= CHANNELS_MAX; channels += CHANNELS_MAX - 1) {
        struct stream *s = stream_new(N, channels, 1, true);
        for (size_t i = 0; i < (size_t)N * channels; i++) {
            double u = uniform();
            s->x[i] = i % channels % 3 == 1 ? 7.0 : u < 1e-3 ? 1e308 : u < 2e-3 ? -5e-324 : normal();
            s->rows[3 * i + 1] = u < 0.01 ? 0.0f : s->rows[3 * i + 1];
        }
        advance(s, 0, N);
        for (uint32_t i = 0; i < N; i++)
            assert_true(i < WARMUP + 1 || (p_at(s, i) >= 0.0 && p_at(s, i) <= 1.0));
        stream_free(s);
    }
}

/* A constant that moves for the first time is an anomaly at once. */
static void a_first_move(void **state)
{
    enum { N = 2000, MOVE = 1500 };
    struct stream *s = stream_new(N, 3, 1, false);
    fill_normal(s);
    for (uint32_t i = 0; i < N; i++)
        s->x[3 * i + 1] = i < MOVE ? 20.0 : 20.5;
    advance(s, 0, N);
    assert_true(p_at(s, MOVE) < 1e-4);
    stream_free(s);
}

static void a_section_fits_its_budget(void **state)
{
    assert_true(ssm_joint_bytes(1) + ssm_calibrate_bytes() <= 4096);
}

int main(void)
{
    rng_state = test_seed() | 1;
    printf("seed %llu\n", (unsigned long long)rng_state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(p_is_uniform),
        cmocka_unit_test(a_broken_relation_is_seen),
        cmocka_unit_test(cuts_do_not_matter),
        cmocka_unit_test(a_long_anomaly_stays_one),
        cmocka_unit_test(missing_samples),
        cmocka_unit_test(wild_samples),
        cmocka_unit_test(a_first_move),
        cmocka_unit_test(a_section_fits_its_budget),
        cmocka_unit_test(a_spell_counts_as_few_rows),
        cmocka_unit_test(rows_of_a_spell_keep_their_order),
        cmocka_unit_test(what_lasts_is_stranger),
        cmocka_unit_test(calm_comes_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
