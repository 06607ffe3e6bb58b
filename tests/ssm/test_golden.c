/* test_golden.c: the engine against Hugging Face's MambaForCausalLM (tools/make_golden.py), on every variant
 * that this machine can run. argv[1]: the folder of golden files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "tests/ssm/compare.h"
#include "tests/ssm/ladder.h"

static const char *golden;

static void run_folder(const char *name)
{
    char dir[4096];
    struct rig_variant v;
    snprintf(dir, sizeof dir, "%s/%s", golden, name);
    for (unsigned i = 0; rig_variant(i, &v); i++) {
        struct golden_errors e = golden_run(dir, &v);
        printf("%-16s %-40s: logits %.2g conv %.2g ssm %.2g\n", name, rig_name(&v), e.logits, e.conv, e.ssm);
        assert_true(within(e.logits, bound_of(&v, 2)));
        assert_true(within(e.conv, TOLERANCE_F32));
        assert_true(within(e.ssm, TOLERANCE_F32));
    }
}

static void plain(void **state)
{
    run_folder("plain");
}

static void biases_and_untied_head(void **state)
{
    run_folder("bias-untied");
}

static void no_convolution_bias(void **state)
{
    run_folder("no-conv-bias");
}

static void stored_as_bf16(void **state)
{
    run_folder("stored-bf16");
}

static void original_names(void **state)
{
    run_folder("original-names");
}

static void sharded_and_stored_as_f16(void **state)
{
    run_folder("sharded-f16");
}

static void bytes(void **state)
{
    run_folder("bytes");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(biases_and_untied_head),
        cmocka_unit_test(no_convolution_bias),
        cmocka_unit_test(stored_as_bf16),
        cmocka_unit_test(original_names),
        cmocka_unit_test(sharded_and_stored_as_f16),
        cmocka_unit_test(bytes),
    };
    int code = rig_begin(&argc, argv);
    if (code || argc != 2)
        return code ? code : 64;
    golden = argv[1];
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
