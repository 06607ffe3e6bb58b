/* test_sampler.c: what is ruled out and what is left, by hand-computed cases, and that draws follow the distribution.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sampler.h"

static const struct md_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

/* Bytes 10, 11, 12, 13 have .5, .25, .15, .1; the others next to nothing. */
static void four(float logits[MD_BYTES])
{
    static const float p[] = {.5f, .25f, .15f, .1f};
    for (int i = 0; i < MD_BYTES; i++)
        logits[i] = i >= 10 && i < 14 ? logf(p[i - 10]) : -80;
}

static void weigh(struct md_sampling how, const uint8_t *seen, float p[MD_BYTES])
{
    struct md_sampler s;
    float logits[MD_BYTES];
    four(logits);
    md_sampler_init(&s, &how, 0);
    if (seen)
        md_sampler_saw(&s, *seen);
    md_sampler_weigh(&s, logits, p);
}

static void check(const float p[MD_BYTES], float a, float b, float c, float d)
{
    const float want[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(p[10 + i] - want[i]) < 1e-6f);
}

static void what_is_left(void **state)
{
    float p[MD_BYTES];
    struct md_sampling how = plain;
    weigh(how, NULL, p);
    check(p, .5f, .25f, .15f, .1f);
    how.top_k = 2;
    weigh(how, NULL, p);
    check(p, 2 / 3.f, 1 / 3.f, 0, 0);
    how = plain, how.top_p = .7f; /* .5 is not enough, .75 is */
    weigh(how, NULL, p);
    check(p, 2 / 3.f, 1 / 3.f, 0, 0);
    how = plain, how.min_p = .25f; /* at least .125 */
    weigh(how, NULL, p);
    check(p, .5f / .9f, .25f / .9f, .15f / .9f, 0);
    how = plain, how.temperature = .5f; /* squares */
    weigh(how, NULL, p);
    check(p, .25f / .345f, .0625f / .345f, .0225f / .345f, .01f / .345f);
    how = plain, how.temperature = 0;
    weigh(how, NULL, p);
    check(p, 1, 0, 0, 0);
}

static void what_was_seen(void **state)
{
    float p[MD_BYTES];
    struct md_sampling how = plain;
    const uint8_t seen = 10;
    how.repetition_penalty = 2; /* log .5 is below zero: twice as far, .25 */
    weigh(how, &seen, p);
    check(p, .25f / .75f, .25f / .75f, .15f / .75f, .1f / .75f);
    how.temperature = 0; /* of equals the lowest */
    weigh(how, &seen, p);
    check(p, 1, 0, 0, 0);
}

struct ranked {
    float logit;
    int byte;
};

/* Descending; of equals the lower byte is before. */
static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->byte - y->byte;
}

/* Far apart; many equals; apart in their lowest bits only; denormal. */
static float logit_of_kind(int kind, double u)
{
    switch (kind) {
    case 0:
        return (float)(20 * u - 10);
    case 1:
        return (float)floor(8 * u) - 3.5f;
    case 2:
        return 1 + (float)floor(2000 * u) * 0x1p-23f;
    default:
        return (float)(u - .5) * 1e-40f;
    }
}

static void ranks_are_those_of_a_plain_sort(void **state)
{
    struct md_sampler numbers;
    md_sampler_init(&numbers, &plain, 0);
    for (int round = 0; round < 40; round++) {
        struct md_sampler s;
        struct md_sampling how = plain;
        struct ranked ranked[MD_BYTES];
        float logits[MD_BYTES], p[MD_BYTES];
        how.repetition_penalty = 1.25f;
        md_sampler_init(&s, &how, 0);
        for (int i = 0; i < MD_BYTES; i++) {
            const float logit = logits[i] = logit_of_kind(round % 4, md_sampler_uniform(&numbers));
            const bool seen = md_sampler_uniform(&numbers) < .3;
            if (seen)
                md_sampler_saw(&s, (uint8_t)i);
            ranked[i] = (struct ranked){!seen ? logit : logit > 0 ? logit / 1.25f : logit * 1.25f, i};
        }
        qsort(ranked, MD_BYTES, sizeof *ranked, by_rank);
        for (int k = 1; k <= MD_BYTES; k++) {
            s.how.top_k = (uint32_t)k;
            md_sampler_weigh(&s, logits, p);
            for (int i = 0; i < MD_BYTES; i++)
                assert_true((p[ranked[i].byte] > 0) == (i < k));
        }
        s.how.temperature = 0;
        md_sampler_weigh(&s, logits, p);
        assert_true(p[ranked[0].byte] == 1);
    }
}

static void draws_follow(void **state)
{
    enum { N = 100000 };
    struct md_sampler a, b, other;
    unsigned hits[MD_BYTES] = {0}, differ = 0;
    float p[MD_BYTES];
    weigh(plain, NULL, p);
    md_sampler_init(&a, &plain, 0);
    md_sampler_init(&b, &plain, 0);
    md_sampler_init(&other, &plain, 1);
    for (int i = 0; i < N; i++) {
        if (i == N / 2)
            memcpy(&b, &a, sizeof a); /* as from a file */
        double u = md_sampler_uniform(&a), v = md_sampler_uniform(&b);
        assert_true(u == v && u >= 0 && u < 1);
        differ += md_sampler_uniform(&other) != u;
        hits[md_sampler_draw(p, u)]++;
    }
    assert_true(differ > N - 10);
    for (int i = 0; i < MD_BYTES; i++) /* five standard deviations */
        assert_true(fabs(hits[i] - N * (double)p[i]) <= 5 * sqrt(N * (double)p[i]) + 1e-3);
    assert_int_equal(md_sampler_draw(p, 0), 10);
}

static void the_last_is_never_one_without_probability(void **state)
{
    float p[MD_BYTES] = {0};
    p[3] = p[7] = .5f;
    assert_int_equal(md_sampler_draw(p, 1 - 0x1p-53), 7);
}

/* Chi-square of N outcomes against p, as a standard normal variable (Wilson and Hilferty). */
static double deviation(const unsigned *hits, const float *p, int n)
{
    double chi = 0, freedom = -1;
    for (int i = 0; i < MD_BYTES; i++) {
        if (p[i] <= 0)
            assert_int_equal(hits[i], 0);
        else
            chi += (hits[i] - n * (double)p[i]) * (hits[i] - n * (double)p[i]) / (n * (double)p[i]), freedom++;
    }
    return (cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom));
}

/* Whatever the drafts are drawn from, what comes out has the distribution that is wanted. */
static void drafts_pass_or_are_replaced(void **state)
{
    enum { N = 200000 };
    static const struct {
        float p[4], q[4];
        double stand; /* the share that does: Σ min(p, q) */
    } cases[] = {
        {{.5f, .25f, .15f, .1f}, {.5f, .25f, .15f, .1f}, 1}, {{.5f, .25f, .15f, .1f}, {.1f, .2f, .3f, .4f}, .55},
        {{.7f, .3f, 0, 0}, {0, .5f, .25f, .25f}, .3},        {{.5f, .5f, 0, 0}, {0, 0, .5f, .5f}, 0},
        {{.25f, .25f, .25f, .25f}, {0, 1, 0, 0}, .25},
    };
    for (unsigned c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct md_sampler s;
        float p[MD_BYTES] = {0}, q[MD_BYTES] = {0};
        unsigned hits[MD_BYTES] = {0}, stood = 0;
        md_sampler_init(&s, &plain, c);
        memcpy(p + 10, cases[c].p, sizeof cases[c].p);
        memcpy(q + 10, cases[c].q, sizeof cases[c].q);
        for (int i = 0; i < N; i++) {
            uint8_t byte, draft = md_sampler_pick(&s, q);
            bool stands = md_sampler_accept(&s, p, q, draft, &byte);
            assert_true(!stands || byte == draft);
            stood += stands;
            hits[byte]++;
        }
        assert_true(fabs(stood - N * cases[c].stand) <= 5 * sqrt(N * .25));
        assert_true(deviation(hits, p, N) < 5);
    }
}

static void without_temperature_no_number_is_used_up(void **state)
{
    struct md_sampling how = plain;
    struct md_sampler s;
    float p[MD_BYTES] = {0}, q[MD_BYTES] = {0};
    uint8_t byte;
    how.temperature = 0;
    md_sampler_init(&s, &how, 0);
    p[3] = q[4] = 1;
    assert_int_equal(md_sampler_pick(&s, p), 3);
    assert_true(md_sampler_accept(&s, p, p, 3, &byte) && byte == 3);
    assert_true(!md_sampler_accept(&s, p, q, 4, &byte) && byte == 3);
    assert_int_equal(s.drawn, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left),
        cmocka_unit_test(what_was_seen),
        cmocka_unit_test(ranks_are_those_of_a_plain_sort),
        cmocka_unit_test(draws_follow),
        cmocka_unit_test(the_last_is_never_one_without_probability),
        cmocka_unit_test(drafts_pass_or_are_replaced),
        cmocka_unit_test(without_temperature_no_number_is_used_up),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
