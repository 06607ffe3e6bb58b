/* test_bitwise.c: a stream's outputs depend on its own inputs only: step by step = any chunks = any batch mix = any
 * number of threads, bit for bit, on every variant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "tests/ssm/ladder.h"

static struct rng rng;

static void run_preset(const char *preset, bool with_ref)
{
    char why[PLAY_WHY];
    struct rig_variant v;
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        if (!with_ref && v.ops && !strcmp(v.ops, "ref"))
            continue; /* too slow for this size */
        printf("%s on %s\n", preset, rig_name(&v));
        if (!bitwise_run(preset, &v, &rng, why))
            fail_msg("%s on %s: outputs depend on the batch: %s", preset, rig_name(&v), why);
    }
}

static void odd_sizes(void **state)
{
    run_preset("30x2,5,77", true);
}

static void one_channel_block(void **state)
{
    run_preset("3x1,17,9", true);
}

static void signal_sized(void **state)
{
    run_preset("64x2,16,50", true);
}

/* Beyond what a core's cache holds: the workers share each layer. */
static void large(void **state)
{
    run_preset("260x2,16,50", false);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_sizes),
        cmocka_unit_test(one_channel_block),
        cmocka_unit_test(signal_sized),
        cmocka_unit_test(large),
    };
    int code = rig_begin(&argc, argv);
    if (code)
        return code;
    rng = rig_rng("bitwise");
    return cmocka_run_group_tests_name("bitwise", tests, NULL, NULL);
}
