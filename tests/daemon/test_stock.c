/* test_stock.c: pieces of the stock never overlap, are aligned and whole; what came back is there again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/stock.h"

enum { PIECES = 300, ROUNDS = 20000 };

struct piece {
    unsigned char *p;
    size_t bytes;
    unsigned char mark;
};

static void check(const struct piece *x)
{
    for (size_t i = 0; i < x->bytes; i++)
        assert_int_equal(x->p[i], x->mark);
}

static void pieces(void **state)
{
    struct piece out[PIECES] = {0};
    struct md_stock s;
    unsigned refused = 0, taken = 0;

    (void)state;
    srand(7);
    md_stock_init(&s);
    assert_null(md_stock_take(&s, 1));
    md_stock_provide(&s, 3 * MD_STOCK_CHUNK);
    for (unsigned n = 0; n < ROUNDS; n++) {
        struct piece *x = &out[rand() % PIECES];
        if (x->p) {
            check(x);
            md_stock_give(&s, x->p);
            x->p = NULL;
            continue;
        }
        *x = (struct piece){.bytes = (size_t)(rand() % 100000) + 1, .mark = (unsigned char)rand()};
        x->p = md_stock_take(&s, x->bytes);
        refused += !x->p;
        taken += x->p != NULL;
        assert_int_equal((uintptr_t)x->p % 64, 0);
        if (x->p)
            memset(x->p, x->mark, x->bytes);
    }
    assert_true(refused > 0 && taken > ROUNDS / 20); /* in any order: a chunk with one piece out is not whole */
    for (unsigned i = 0; i < PIECES; i++)
        if (out[i].p)
            md_stock_give(&s, out[i].p);
    assert_null(md_stock_take(&s, MD_STOCK_CHUNK)); /* with its head it is too much */
    for (unsigned i = 0; i < 3; i++)
        assert_non_null(out[i].p = md_stock_take(&s, MD_STOCK_CHUNK - 64));
    assert_null(md_stock_take(&s, 1));
    for (unsigned i = 0; i < 3; i++)
        md_stock_give(&s, out[i].p);
    md_stock_provide(&s, 5 * MD_STOCK_CHUNK);
    md_stock_provide(&s, 1); /* it does not shrink */
    for (unsigned i = 0; i < 5; i++)
        assert_non_null(md_stock_take(&s, MD_STOCK_CHUNK / 2 + 1));
    assert_null(md_stock_take(&s, MD_STOCK_CHUNK / 2 + 1));
    md_stock_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
