/* test_stream_cache.c: the cache of stream handles against a plain list, through growth, drops and the limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/stream_cache.h"
#include "tests/seed.h"

static unsigned freed;

static void free_extra(void *extra)
{
    freed += extra != NULL;
    free(extra);
}

static unsigned given_back;

/* Of streams of even numbers the daemon says that they have ended. */
static bool let_go(void *self, struct io_stream *stream, bool always)
{
    bool gone = always || (stream && (uintptr_t)stream % 2 == 0);

    given_back += gone;
    return gone;
}

static const struct io_host host = {.let_go = let_go};

static void agrees_with_a_list(void **state)
{
    enum { IDS = 3000, ROUNDS = 200000 };
    static bool there[IDS];
    struct io_stream_cache c;
    unsigned seed = (unsigned)test_seed(), shaken = seed, n = 0, added = 0;
    char id[64];

    assert_int_equal(io_stream_cache_init(&c, seed, &host, free_extra), 0);
    for (unsigned k = 0; k < ROUNDS; k++) {
        unsigned i = (unsigned)rand_r(&shaken) % IDS;
        snprintf(id, sizeof id, "%.*s%u", (int)(i % 20), "sensor/with/a/longer/name", i);
        struct io_cached *e = io_stream_cache_find(&c, id);
        assert_int_equal(e != NULL, there[i]);
        if (e) {
            assert_string_equal(e->id, id);
            assert_int_equal(e->channels, i);
            if (rand_r(&shaken) % 3)
                continue;
            io_stream_cache_drop(&c, e);
            n--;
        } else {
            assert_int_equal(io_stream_cache_add(&c, id, &e), 0);
            e->channels = i;
            e->extra = malloc(8);
            added++;
            n++;
        }
        there[i] = !there[i];
        assert_int_equal(c.n, n);
    }
    io_stream_cache_done(&c);
    assert_int_equal(freed, added);
}

static void forgets_at_its_limit(void **state)
{
    struct io_stream_cache c;
    struct io_cached *e;
    char id[32];
    size_t most = 0;

    assert_int_equal(io_stream_cache_init(&c, 1, &host, free_extra), 0);
    for (unsigned i = 0; i < 600000; i++) {
        snprintf(id, sizeof id, "%u", i);
        assert_int_equal(io_stream_cache_add(&c, id, &e), 0);
        assert_ptr_equal(io_stream_cache_find(&c, id), e);
        most = c.n > most ? c.n : most;
    }
    assert_true(most < 300000 && c.n < most);
    io_stream_cache_done(&c);
}

/* Those that have ended leave, however many come; those that live stay, until all are given back. */
static void lets_go_of_the_ended(void **state)
{
    enum { LIVE = 500, ALL = 100000 };
    struct io_stream_cache c;
    struct io_cached *e;
    char id[32];

    assert_int_equal(io_stream_cache_init(&c, 1, &host, free_extra), 0);
    given_back = 0;
    for (uintptr_t i = 0; i < ALL; i++) {
        snprintf(id, sizeof id, "%u", (unsigned)i);
        assert_int_equal(io_stream_cache_add(&c, id, &e), 0);
        e->stream = (void *)(i < LIVE ? 2 * i + 1 : 2 * i); /* a number, never looked at */
        assert_true(c.n <= 2 * (LIVE + 1024));
    }
    for (uintptr_t i = 0; i < LIVE; i++) {
        snprintf(id, sizeof id, "%u", (unsigned)i);
        e = io_stream_cache_find(&c, id);
        assert_non_null(e);
        assert_int_equal((uintptr_t)e->stream, 2 * i + 1);
    }
    io_stream_cache_done(&c);
    assert_int_equal(given_back, ALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_a_list),
        cmocka_unit_test(forgets_at_its_limit),
        cmocka_unit_test(lets_go_of_the_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
