/* test_contexts.c: counts of what followed what: beside plain counting, as a probability, over a stream that changes,
 * and in memory that has long been full. */
#include "ssm/contexts.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/ssm/noise.h"

enum { N = 400, BELIEF = 64 };

static void *state;

static int begin(void **unused)
{
    (void)unused;
    state = realloc(state, ssm_contexts_bytes());
    ssm_contexts_reset(state);
    rng_state = 77;
    return 0;
}

/* The surprise of text[at] from what stands before it, counted anew. `surprise`: of the bytes before. */
static double counted(const uint8_t *text, const double *surprise, int at, double p, double *ret_usual)
{
    static const int lengths[] = {0, 1, 2, 3, 4, 6};
    double usual = 1;
    for (int k = 0; k < 6; k++) {
        int length = lengths[k], n = 0, same = 0;
        double sum = 0;
        uint8_t padded[6 + N] = {0}; /* nothing came before the first byte: zeros */
        memcpy(padded + 6, text, (size_t)at + 1);
        for (int i = 0; i < at; i++)
            if (memcmp(padded + 6 + i - length, padded + 6 + at - length, (size_t)length) == 0) {
                n++;
                same += text[i] == text[at];
                sum += surprise[i];
            }
        p = (same + BELIEF * p) / (n + BELIEF);
        usual = (sum + BELIEF * usual) / (n + BELIEF);
    }
    *ret_usual = usual;
    return -log(p);
}

static void are_counts(void **unused)
{
    uint8_t text[N];
    double surprise[N], usual, want_usual;
    (void)unused;
    for (int i = 0; i < N; i++) {
        text[i] = uniform() < 0.7 ? 'a' : 'b';
        double want = counted(text, surprise, i, 0.3, &want_usual);
        surprise[i] = ssm_contexts_read(state, text[i], 0.3, &usual);
        assert_true(fabs(surprise[i] - want) <= 1e-12);
        assert_true(fabs(usual - want_usual) <= 1e-5);
    }
}

/* Of all bytes together, whatever was read: 1. */
static void is_a_probability(void **unused)
{
    void *copy = malloc(ssm_contexts_bytes());
    double sum = 0, usual;
    (void)unused;
    for (int i = 0; i < 2000; i++)
        ssm_contexts_read(state, (uint8_t) "the log of a log\n"[i % 17], 0.01, &usual);
    for (int b = 0; b < 256; b++) {
        memcpy(copy, state, ssm_contexts_bytes());
        sum += exp(-ssm_contexts_read(copy, (uint8_t)b, 1.0 / 256, &usual));
    }
    free(copy);
    assert_true(fabs(sum - 1) <= 1e-12);
}

static double surprise_at_end(const char *line, uint8_t last)
{
    double usual;
    for (const char *c = line; *c; c++)
        ssm_contexts_read(state, (uint8_t)*c, 0.001, &usual);
    return ssm_contexts_read(state, last, 0.001, &usual);
}

/* What comes again and again is expected, what never came is not; when the stream changes, so does that. */
static void follows_the_stream(void **unused)
{
    (void)unused;
    for (int i = 0; i < 40000; i++)
        surprise_at_end("day ", 'A');
    assert_true(surprise_at_end("day ", 'A') < 0.01);
    assert_true(surprise_at_end("day ", 'B') > 10);
    for (int i = 0; i < 40000; i++)
        surprise_at_end("day ", 'B');
    assert_true(surprise_at_end("day ", 'B') < 0.5);
    for (int i = 0; i < 200000; i++)
        surprise_at_end("day ", 'B');
    assert_true(surprise_at_end("day ", 'A') > 5);
}

/* Megabytes of noise fill all cells; a line that comes between is still known, one that never came is not. */
static void noise_does_not_drown_it(void **unused)
{
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        for (int k = 0; k < 100; k++) {
            double usual, surprise = ssm_contexts_read(state, (uint8_t)(256 * uniform()), 0.004, &usual);
            assert_true(surprise >= 0 && usual >= 0 && usual < 20);
        }
        surprise_at_end("\nstatus ", '1');
    }
    assert_true(surprise_at_end("\nstatus ", '1') < 1);
    assert_true(surprise_at_end("\nstatus ", '2') > 5);
}

/* Digits of an id surprise, as usual; the byte behind a name does not. */
static void knows_where_surprise_is_usual(void **unused)
{
    double ids, names;
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        surprise_at_end("\nid=", (uint8_t)('0' + (int)(10 * uniform())));
        surprise_at_end("\nname=", 'x');
    }
    surprise_at_end("\nid", '=');
    ssm_contexts_read(state, '7', 0.001, &ids);
    surprise_at_end("\nname", '=');
    ssm_contexts_read(state, 'x', 0.001, &names);
    assert_true(fabs(ids - log(10)) < 0.2 && names < 0.2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(are_counts, begin),
        cmocka_unit_test_setup(is_a_probability, begin),
        cmocka_unit_test_setup(follows_the_stream, begin),
        cmocka_unit_test_setup(noise_does_not_drown_it, begin),
        cmocka_unit_test_setup(knows_where_surprise_is_usual, begin),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(state);
    return failed;
}
