/* test_notice.c: a channel that stops and one that moves to another level are noticed, once; what is constant, coarse,
 * wandering or slow by nature is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "ssm/notice.h"
#include "tests/seed.h"
#include "tests/ssm/noise.h"

enum { CALM = 4000 };

struct tally {
    uint32_t flat, up, down;
    uint32_t flat_at, shift_at; /* sample of the last one */
    struct ssm_notice last;
};

static void see(struct ssm_watch *w, struct tally *t, uint32_t i, double x)
{
    struct ssm_notice n = {0};
    ssm_watch_sample(w, x, &n);
    t->flat += n.flatline > 0;
    t->up += n.level_up > 0;
    t->down += n.level_down > 0;
    if (n.flatline)
        t->flat_at = i;
    if (n.level_up || n.level_down)
        t->shift_at = i;
    if (n.flatline || n.level_up || n.level_down)
        t->last = n;
}

static void a_stop_is_noticed_once(void **state)
{
    struct ssm_watch w = {0};
    struct tally t = {0};
    uint32_t i = 0;
    for (; i < CALM; i++)
        see(&w, &t, i, 7.0 + floor(0.7 * normal())); /* coarse: runs of a few */
    assert_int_equal(t.flat, 0);
    double longest = w.longest;
    for (; i < CALM + 1000; i++)
        see(&w, &t, i, 6.0);
    assert_int_equal(t.flat, 1);
    assert_true(t.last.flatline > 64 && t.last.flatline <= 8 * longest + 65);
    assert_in_range(t.flat_at - t.last.flatline + 1, CALM - 10, CALM);
    for (; i < CALM + 2000; i++) /* and is known from then on */
        see(&w, &t, i, i == CALM + 1500 ? 7.0 : 6.0);
    assert_int_equal(t.flat, 1);
}

static void a_move_that_stays_is_noticed_once(void **state)
{
    for (int way = -1; way <= 1; way += 2) {
        struct ssm_watch w = {0};
        struct tally t = {0};
        uint32_t i = 0;
        for (; i < CALM; i++)
            see(&w, &t, i, 1e6 + normal());
        for (; i < CALM + 40; i++) /* too short */
            see(&w, &t, i, 1e6 + 6.0 * way + normal());
        for (; i < 2 * CALM; i++)
            see(&w, &t, i, 1e6 + normal());
        assert_int_equal(t.up + t.down, 0);
        for (; i < 4 * CALM; i++)
            see(&w, &t, i, 1e6 + 20.0 * way + normal());
        assert_int_equal(t.up, way > 0);
        assert_int_equal(t.down, way < 0);
        assert_in_range(t.shift_at, 2 * CALM + 127, 2 * CALM + 159);
    }
}

/* Each with 200 000 samples. */
static void nature_is_not(void **state)
{
    enum { KINDS = 7, N = 200000 };
    struct ssm_watch w[KINDS] = {0};
    struct tally t[KINDS] = {0};
    double walk = 0.0, held = 0.0;
    for (uint32_t i = 0; i < N; i++) {
        double z = normal();
        walk += z;
        held = uniform() < 0.02 ? floor(10.0 * uniform()) : held;
        const double x[KINDS] = {5.0,
                                 uniform() < 0.01 ? 1.0 : 0.0,           /* seldom not 0 */
                                 held,                                   /* a set-point */
                                 walk,
                                 1e-3 * i + z,                           /* a trend */
                                 20.0 * sin(i * 6.2831853 / 1440.0) + z, /* a day */
                                 floor(3.0 * sin(i * 6.2831853 / 96.0) + 0.3 * z)};
        for (int k = 0; k < KINDS; k++)
            see(&w[k], &t[k], i, x[k]);
    }
    for (int k = 0; k < KINDS; k++) {
        printf("kind %d: flat %u, up %u, down %u\n", k, t[k].flat, t[k].up, t[k].down);
        assert_int_equal(t[k].flat, 0);
        assert_true(t[k].up + t[k].down <= 1);
    }
}

int main(void)
{
    rng_state = test_seed() | 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_is_noticed_once),
        cmocka_unit_test(a_move_that_stays_is_noticed_once),
        cmocka_unit_test(nature_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
