/* test_block.c: the block pool: classes, limit, eviction, accounting, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "io/block.h"

static void blocks_hold_what_was_asked_for(void **state)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 256, 1000, 4097, IO_BLOCK_MAX - 1, IO_BLOCK_MAX};
    struct io_pool *pool;

    assert_int_equal(io_pool_new(64 << 20, &pool), 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct io_block *b = io_block_get(pool, sizes[i]);
        assert_non_null(b);
        assert_true(b->capacity >= sizes[i]);
        assert_true(b->capacity < 2 * sizes[i] || b->capacity == 64);
        memset(b->data, 0xa5, b->capacity); /* the sanitizer watches */
        b->n = 7;
        b->seq = -1;
        b->flags = ~0u;
        io_block_put(pool, b);
        struct io_block *again = io_block_get(pool, sizes[i]);
        assert_ptr_equal(again, b);
        assert_int_equal(again->n, 0);
        assert_int_equal(again->seq, 0);
        assert_int_equal(again->flags, 0);
        io_block_put(pool, again);
    }
    io_block_put(pool, NULL);
    io_pool_free(&pool);
    assert_null(pool);
    io_pool_free(&pool);
}

static void times_are_aligned_behind_the_rows(void **state)
{
    struct io_pool *pool;

    assert_int_equal(io_pool_new(1 << 20, &pool), 0);
    for (uint32_t n = 1; n < 20; n++) {
        struct io_block *b = io_block_get(pool, io_block_need(n, 3, IO_F32, true));
        b->n = n;
        b->channels = 3;
        b->type = IO_F32;
        b->timed = true;
        unsigned char *times = (unsigned char *)io_block_times(b);
        assert_int_equal((uintptr_t)times % 8, 0);
        assert_true(times >= b->data + n * 12u);
        assert_true(times + n * 8u <= b->data + b->capacity);
        io_block_put(pool, b);
    }
    io_pool_free(&pool);
}

static void the_limit_holds_and_other_classes_make_room(void **state)
{
    enum { LIMIT = 4 << 20 };
    struct io_block *out[8];
    struct io_pool *pool;
    size_t used, held, peak;
    unsigned n = 0;

    assert_int_equal(io_pool_new(LIMIT, &pool), 0);
    while ((out[n] = io_block_get(pool, IO_BLOCK_MAX)))
        n++;
    assert_int_equal(n, 3);
    io_pool_usage(pool, &used, &held, &peak);
    assert_true(used <= LIMIT && used == held && peak == used);
    while (n)
        io_block_put(pool, out[--n]);
    io_pool_usage(pool, &used, &held, &peak);
    assert_int_equal(used, 0);
    assert_true(held == peak);

    /* the big ones are free: a crowd of small ones takes their place, and the other way round */
    struct io_block *list = NULL, *b;
    unsigned small = 0;
    for (; (b = io_block_get(pool, 64)); small++) {
        b->next = list;
        list = b;
    }
    assert_true(small == LIMIT / (64 + sizeof(struct io_block)));
    io_pool_usage(pool, &used, &held, &peak);
    assert_true(held <= LIMIT);
    while ((b = list)) {
        list = b->next;
        io_block_put(pool, b);
    }
    b = io_block_get(pool, IO_BLOCK_MAX);
    assert_non_null(b);
    io_block_put(pool, b);
    io_pool_free(&pool);
}

enum { ROUNDS = 20000, QUEUE = 64 };

struct lane {
    struct io_pool *pool;
    struct io_block *slot[QUEUE];
};

static void *produce(void *arg)
{
    struct lane *l = arg;

    for (unsigned i = 0; i < ROUNDS;) {
        if (__atomic_load_n(&l->slot[i % QUEUE], __ATOMIC_ACQUIRE)) {
            sched_yield();
            continue;
        }
        struct io_block *b = io_block_get(l->pool, (size_t)1 << i % 12);
        b->seq = i;
        __atomic_store_n(&l->slot[i % QUEUE], b, __ATOMIC_RELEASE);
        i++;
    }
    return NULL;
}

static void threads_share_a_pool(void **state)
{
    struct lane lanes[2] = {0};
    pthread_t threads[2];
    struct io_pool *pool;
    size_t used, held, peak;

    assert_int_equal(io_pool_new(16 << 20, &pool), 0);
    for (int t = 0; t < 2; t++) {
        lanes[t].pool = pool;
        assert_int_equal(pthread_create(&threads[t], NULL, produce, &lanes[t]), 0);
    }
    for (unsigned i[2] = {0, 0}; i[0] < ROUNDS || i[1] < ROUNDS;) {
        for (int t = 0; t < 2; t++) {
            struct io_block **slot = &lanes[t].slot[i[t] % QUEUE], *b = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
            if (!b) {
                sched_yield();
                continue;
            }
            assert_int_equal(b->seq, i[t]);
            __atomic_store_n(slot, NULL, __ATOMIC_RELEASE);
            io_block_put(pool, b);
            i[t]++;
        }
    }
    for (int t = 0; t < 2; t++)
        pthread_join(threads[t], NULL);
    io_pool_usage(pool, &used, &held, &peak);
    assert_int_equal(used, 0);
    assert_true(held <= 2 * (QUEUE + 1) * (4096 + sizeof(struct io_block))); /* no growth beyond what was ever out */
    io_pool_free(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_hold_what_was_asked_for),
        cmocka_unit_test(times_are_aligned_behind_the_rows),
        cmocka_unit_test(the_limit_holds_and_other_classes_make_room),
        cmocka_unit_test(threads_share_a_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
