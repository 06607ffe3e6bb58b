/* test_alarm.c: when alarms start and end, what they say, and that cuts do not matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "daemon/alarm.h"

enum { N = 3000 };
#define THRESHOLD 1e-3

static float p[N];

static int calm_rows(void **state)
{
    for (unsigned i = 0; i < N; i++)
        p[i] = 0.2f + 0.001f * (float)(i * 7 % 700);
    return 0;
}

/* Rows [from, to) in calls of at most `most`; the turns' rows, alternately starts and ends. */
static unsigned follow(struct md_alarm *a, uint32_t from, uint32_t to, uint32_t most, int64_t *turns)
{
    unsigned n = 0;
    for (uint32_t at = from; at < to;) {
        enum md_alarm_turn turn;
        at += md_alarm_rows(a, THRESHOLD, at, p + at, 1, to - at < most ? to - at : most, &turn);
        if (turn == MD_ALARM_NONE)
            continue;
        assert_int_equal(turn, n % 2 ? MD_ALARM_END : MD_ALARM_START);
        turns[n++] = at - 1;
    }
    return n;
}

static void one_alarm_from_start_to_calm(void **state)
{
    struct md_alarm a = {0};
    int64_t turns[8];
    p[500] = 9e-4f;
    p[505] = 1e-5f;
    p[506] = NAN;
    p[515] = 0.05f; /* not yet normal */
    assert_int_equal(follow(&a, 0, N, N, turns), 2);
    assert_int_equal(turns[0], 500);
    assert_int_equal(turns[1], 515 + MD_ALARM_CALM);
    assert_int_equal(a.from, 500);
    assert_int_equal(a.last, 515);
    assert_int_equal(a.count, 2);
}

static void missing_rows_say_nothing(void **state)
{
    struct md_alarm a = {0};
    int64_t turns[8];
    p[10] = 1e-9f;
    for (unsigned i = 14; i < 1000; i++)
        p[i] = NAN;
    assert_int_equal(follow(&a, 0, N, N, turns), 2);
    assert_int_equal(turns[1], 1000 + MD_ALARM_CALM - 3 - 1);
}

static void who_cries_wolf_is_heard_less(void **state)
{
    struct md_alarm a = {0};
    int64_t turns[200];
    for (unsigned i = 1; i < N; i += 20)
        p[i] = p[i + 1] = 8e-4f;
    unsigned n = follow(&a, 0, N, N, turns);
    assert_true(n >= 2 && n < 40);
    a = (struct md_alarm){0};
    p[N - 10] = 1e-5f; /* by far: heard all the same */
    n = follow(&a, 0, N, N, turns);
    assert_true(a.active && turns[n - 1] == N - 10);
}

static void cuts_do_not_matter(void **state)
{
    int64_t whole[300], cut[300];
    struct md_alarm a = {0}, b = {0};
    for (unsigned i = 0; i < N; i += 37)
        p[i] = i % 5 ? 2e-4f : 0.06f;
    unsigned n = follow(&a, 0, N, N, whole);
    assert_true(n > 10);
    assert_int_equal(follow(&b, 0, N, 3, cut), n);
    assert_memory_equal(whole, cut, n * sizeof *cut);
    assert_memory_equal(&a.crowd, &b.crowd, sizeof a.crowd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_alarm_from_start_to_calm, calm_rows),
        cmocka_unit_test_setup(missing_rows_say_nothing, calm_rows),
        cmocka_unit_test_setup(who_cries_wolf_is_heard_less, calm_rows),
        cmocka_unit_test_setup(cuts_do_not_matter, calm_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
