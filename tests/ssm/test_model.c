/* test_model.c: model folders, good and hostile. Each bad folder is a good one spoilt in one place; the error must be
 * the right errno and name what is wrong, and nothing may crash (the sanitizer builds run this). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ssm/dtype.h"
#include "tests/ssm/compare.h"
#include "tests/ssm/folder.h"
#include "tests/ssm/rig.h"

static struct rng rng;

/* ---- good ------------------------------------------------------------------------------------------------ */

static void logits_of(const struct ssm_model *m, float *logits, uint32_t T)
{
    int32_t tokens[16];
    struct ssm_engine *e = rig_engine(m, &rig_ref, 1, 1);
    for (uint32_t t = 0; t < T; t++)
        tokens[t] = (int32_t)(t * 5 % 30);
    struct ssm_item item = {.slot = rig_slot(e), .n = T, .tokens = tokens, .interval = 1};
    item.out.logits = logits;
    item.out.logits_stride = 30;
    poison(logits, T * 30);
    ssm_advance(e, &item, 1);
    ssm_engine_close(&e);
}

static void a_written_model_is_the_same_model(void **state)
{
    float a[16 * 30], b[16 * 30];
    char why[SSM_ERR] = "", slashes[300];
    const char *dir = rig_folder();
    struct ssm_model *m = rig_random("20x2,5,30"), *again = NULL;
    folder_write(dir, m, SSM_F32);
    snprintf(slashes, sizeof slashes, "%s//", dir);
    assert_int_equal(ssm_model_open(slashes, &again, why), 0);
    logits_of(m, a, 16);
    logits_of(again, b, 16);
    assert_memory_equal(a, b, sizeof a);
    const struct ssm_model_info *i = ssm_model_info(again);
    assert_string_equal(i->name, strrchr(dir, '/') + 1);
    assert_string_equal(i->type, "mamba");
    assert_int_equal(i->d_inner, 40);
    assert_int_equal(i->n_params, ssm_model_info(m)->n_params);
    assert_true(i->file_bytes > i->n_params * 4);
    ssm_model_close(&m);
    ssm_model_close(&again);
}

static void stored_dtypes_are_read(void **state)
{
    float full[16 * 30], half[16 * 30];
    char why[SSM_ERR] = "";
    struct ssm_model *m = rig_random("20x2,5,30");
    logits_of(m, full, 16);
    for (enum ssm_dtype d = SSM_BF16; d <= SSM_F16; d++) {
        const char *dir = rig_folder();
        struct ssm_model *stored = NULL;
        folder_write(dir, m, d);
        assert_int_equal(ssm_model_open(dir, &stored, why), 0);
        assert_int_equal(ssm_model_info(stored)->stored, d);
        logits_of(stored, half, 16);
        double error = relative_error(half, full, 16 * 30);
        assert_true(error > 0.0 && error < 0.05);
        ssm_model_close(&stored);
    }
    ssm_model_close(&m);
}

static void signal_models_open(void **state)
{
    struct ssm_model *m = folder_signal_model(4, 6, 3, true);
    const struct ssm_model_info *i = ssm_model_info(m);
    assert_string_equal(i->type, "mambad");
    assert_int_equal(i->input, SSM_SAMPLES);
    assert_int_equal(i->patch, 4);
    assert_int_equal(i->horizon, 6);
    assert_int_equal(i->n_quantiles, 3);
    assert_true(i->quantiles[0] == 0.25f && i->quantiles[2] == 0.75f);
    assert_int_equal(i->embedding, 20);
    assert_true(i->anomaly && i->mask && i->rate == 0.0);
    ssm_model_close(&m);
}

static void conversions_round_to_nearest_even(void **state)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        if ((h & 0x7c00) != 0x7c00)
            assert_int_equal(ssm_to_f16(ssm_from_f16((uint16_t)h)), h);
        if ((h & 0x7f80) != 0x7f80)
            assert_int_equal(ssm_to_bf16(ssm_from_bf16((uint16_t)h)), h);
    }
    assert_true(ssm_from_f16(1) == 0x1p-24f && ssm_from_f16(0x3c00) == 1.0f && isinf(ssm_from_f16(0x7c00)));
    assert_int_equal(ssm_to_f16(65504.0f), 0x7bff);
    assert_int_equal(ssm_to_f16(65520.0f), 0x7c00);
    assert_int_equal(ssm_to_f16(1.0f + 0x1p-11f), 0x3c00); /* ties go to even */
    assert_int_equal(ssm_to_f16(1.0f + 0x3p-11f), 0x3c02);
    assert_int_equal(ssm_to_f16(0x1p-25f), 0x0000);
    assert_int_equal(ssm_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(ssm_to_bf16(1.0f + 0x3p-8f), 0x3f82);
}

/* ---- spoilt ---------------------------------------------------------------------------------------------- */

struct spoilt {
    const char *file, *from, *to;
    int err;
    const char *says; /* part of the message */
};

/* Opens the model and an engine on it; the error of whichever refuses. */
static int open_all(const char *dir, enum ssm_dtype dtype, char *why)
{
    struct ssm_model *m = NULL;
    struct ssm_engine *e = NULL;
    struct ssm_engine_opts opts = {.device = "cpu", .ops = "ref", .weights = dtype, .slots = 1, .threads = 1};
    int err = ssm_model_open(dir, &m, why);
    if (!err)
        err = ssm_engine_open(m, &opts, &e, why);
    ssm_engine_close(&e);
    ssm_model_close(&m);
    return err;
}

static void spoil(const struct ssm_model *m, const struct spoilt *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct spoilt *c = &cases[i];
        char why[SSM_ERR] = "";
        const char *dir = rig_folder();
        folder_write(dir, m, SSM_F32);
        if (!folder_edit(dir, c->file, c->from, c->to))
            fail_msg("'%s' is not in %s", c->from, c->file);
        int err = open_all(dir, SSM_F32, why);
        if (err != c->err || !strstr(why, c->says))
            fail_msg("'%s' → '%s': error %d, \"%s\"", c->from, c->to, err, why);
        rig_sweep();
    }
}

#define W "model.safetensors"
#define C "config.json"

static void hostile_weights(void **state)
{
    static const struct spoilt cases[] = {
        {W, "\"F32\"", "\"F33\"", -EBADMSG, "'backbone.embeddings.weight' has the unknown dtype 'F33'"},
        {W, "\"F32\"", "\"BF16\"", -EBADMSG, "'backbone.embeddings.weight' has 2400 bytes"},
        {W, "\"F32\"", "\"I32\"", -EBADMSG, "'backbone.embeddings.weight' has dtype I32"},
        {W, "\"F32\"", "7", -EBADMSG, "no 'dtype'"},
        {W, "[30,20]", "[20,30]", -EBADMSG,
         "'backbone.embeddings.weight' has shape [20, 30]; the config makes it [30, 20]"},
        {W, "[30,20]", "[600]", -EBADMSG, "has shape [600]"},
        {W, "[30,20]", "[30,20,1]", -EBADMSG, "has shape [30, 20, 1]"},
        {W, "[30,20]", "[30,-20]", -EBADMSG, "not a size"},
        {W, "[30,20]", "[30,2.5]", -EBADMSG, "not a size"},
        {W, "[30,20]", "[4294967296,4294967296]", -EBADMSG, "overflows"},
        {W, "[30,20]", "[1,1,1,1,1,1,1,1,600]", -EBADMSG, "at most 8"},
        {W, "[30,20]", "\"x\"", -EBADMSG, "not a list"},
        {W, "[0,2400]", "[0,2404]", -EBADMSG, "'backbone.embeddings.weight' has 2404 bytes"},
        {W, "[0,2400]", "[2400,0]", -EBADMSG, "[begin, end]"},
        {W, "[0,2400]", "[-4,2396]", -EBADMSG, "[begin, end]"},
        {W, "[0,2400]", "[0]", -EBADMSG, "[begin, end]"},
        {W, "[0,2400]", "[4,2404]", -EBADMSG, "4 unclaimed bytes before tensor 'backbone.embeddings.weight'"},
        {W, "[2400,2480]", "[2396,2476]", -EBADMSG,
         "'backbone.layers.0.norm.weight' overlaps tensor 'backbone.embeddings.weight'"},
        {W, "[0,2400]", "[9223372036854773000,9223372036854775400]", -EBADMSG, "cut short"},
        {W, "[0,2400]", "[99999999999999999999,2400]", -EBADMSG, "header"},
        {W, "backbone.norm_f.weight", "backbone.norm_g.weight", -EBADMSG, "'backbone.norm_f.weight' is missing"},
        {W, "backbone.layers.1.mixer.A_log", "backbone.layers.0.mixer.A_log", -EBADMSG, "header"},
        {W, "layers.1.mixer.conv1d.bias", "layers.1.mixer.conv2d.bias", -EBADMSG,
         "'backbone.layers.1.mixer.conv1d.bias' is missing"},
        {W, "[40,1,4]", "[40,4,1]", -EBADMSG, "mixer.conv1d.weight' has shape [40, 4, 1]"},
        {W, "{\"backbone", "[\"backbone", -EBADMSG, "header"},
        {W, "{\"backbone", " {\"backbone", 0, ""},
        {W, "{\"backbone", "{\"__metadata__\":{\"format\":\"pt\"},\"backbone", 0, ""},
        {W, "{\"backbone", "{\"more\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"backbone", 0, ""},
        {W, "{\"backbone", "{\"more\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"backbone", -EBADMSG,
         "overlaps"},
        {W, "{\"backbone", "{\"more\":3,\"backbone", -EBADMSG, "tensor 'more'"},
    };
    struct ssm_model *m = rig_random("20x2,5,30");
    spoil(m, cases, sizeof cases / sizeof *cases);
    ssm_model_close(&m);
}

static void bad_configs(void **state)
{
    static const struct spoilt cases[] = {
        {C, "\"mamba\"", "\"mamba2\"", -EINVAL, "model_type 'mamba2'"},
        {C, "\"mamba\"", "\"falcon_mamba\"", -EINVAL, "model_type 'falcon_mamba'"},
        {C, "\"model_type\"", "\"model_tipe\"", -EINVAL, "model_type is missing"},
        {C, "\"hidden_size\": 20", "\"hidden_size\": 0", -EINVAL, "hidden_size must be an integer from 1"},
        {C, "\"hidden_size\": 20", "\"hidden_size\": 1e1", -EINVAL, "hidden_size"},
        {C, "\"hidden_size\": 20, ", "", -EINVAL, "hidden_size is missing"},
        {C, "\"hidden_size\": 20", "\"hidden_size\": 21", -EBADMSG, "'backbone.embeddings.weight' has shape [30, 20]"},
        {C, "\"conv_kernel\": 4", "\"conv_kernel\": 5", -EINVAL, "conv_kernel must be an integer from 2 to 4"},
        {C, "\"state_size\": 5", "\"state_size\": -1", -EINVAL, "state_size"},
        {C, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", -EBADMSG,
         "'backbone.layers.2.norm.weight' is missing"},
        {C, "\"use_bias\": false", "\"use_bias\": true", -EBADMSG, "'backbone.layers.0.mixer.in_proj.bias' is missing"},
        {C, "\"use_bias\": false, ", "", 0, ""},
        {C, "\"use_conv_bias\": true", "\"use_conv_bias\": false", -EBADMSG,
         "'backbone.layers.0.mixer.conv1d.bias' is there"},
        {C, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", -EBADMSG, "'lm_head.weight' is missing"},
        {C, "\"use_bias\": false", "\"use_bias\": 3", -EINVAL, "use_bias must be true or false"},
        {C, "\"use_bias\": false", "\"hidden_act\": \"gelu\"", -EINVAL, "hidden_act 'gelu' is not supported"},
        {C, "{", "[", -EINVAL, "config.json:"},
        {C, "\"use_bias\": false", "\"use_bias\": false, \"use_bias\": false", -EINVAL, "duplicate"},
    };
    struct ssm_model *m = rig_random("20x2,5,30");
    spoil(m, cases, sizeof cases / sizeof *cases);
    ssm_model_close(&m);
}

static void bad_signal_configs(void **state)
{
    static const struct spoilt cases[] = {
        {C, "\"samples\"", "\"logmel\"", -EINVAL, "input.kind 'logmel' is not supported"},
        {C, "\"arch\": \"mamba\"", "\"arch\": \"mamba2\"", -EINVAL, "backbone.arch 'mamba2' is not supported"},
        {C, "\"embedding\": {}", "\"classify\": {}", -EINVAL, "heads.classify is not supported"},
        {C, "\"version\": 1", "\"version\": 2", -EINVAL, "version 2 is not supported"},
        {C, "\"mask\": true", "\"mask\": true, \"log\": true", -EINVAL, "input.log is not supported"},
        {C, "\"mask\": true", "\"mask\": false", -EBADMSG,
         "'input.weight' has shape [20, 14]; the config makes it [20, 10]"},
        {C, "[0.25, ", "[0.5, ", -EINVAL, "quantiles must rise"},
        {C, "[0.25, ", "[0, ", -EINVAL, "quantiles must rise"},
        {C, "0.75]", "1]", -EINVAL, "quantiles must rise"},
        {C, "\"horizon\": 6", "\"horizon\": 1000000", -EINVAL, "horizon times quantiles"},
        {C, "\"horizon\": 6", "\"horizon\": 7", -EBADMSG, "'heads.forecast.weight' has shape [18, 20]"},
        {C, "\"patch\": 4", "\"patch\": 0", -EINVAL, "input.patch must be"},
        {C, "\"diff_memory\": 512", "\"diff_memory\": 0.5", -EINVAL, "input.normaliser.diff_memory must be"},
        {C, "\"mask\": true", "\"mask\": true, \"memory\": 9", -EINVAL, "input.memory is not supported"},
        {C, "\"normaliser\"", "\"normalizer\"", -EINVAL, "input.normalizer is not supported"},
        {C, "\"normaliser\": {\"memory\": 2048, \"diff_memory\": 512}", "\"memory\": 9, \"diff_memory\": 5", -EINVAL,
         "input.memory is not supported"},
        {C, ", \"normaliser\": {\"memory\": 2048, \"diff_memory\": 512}", "", -EINVAL, "input.normaliser is missing"},
        {C, "\"memory\": 2048, ", "", -EINVAL, "input.normaliser.memory is missing"},
        {C, "\"warmup\": 100, ", "", -EINVAL, "calibration.warmup is missing"},
        {C, "\"calibration\"", "\"calibrate\"", -EINVAL, "calibrate is not supported"},
        {C, "\"expand\": 2", "\"expand\": 2.01", -EINVAL, "expand"},
        {C, "\"input\"", "\"imput\"", -EINVAL, "imput is not supported"},
    };
    struct ssm_model *m = folder_signal_model(4, 6, 3, true);
    spoil(m, cases, sizeof cases / sizeof *cases);
    ssm_model_close(&m);
}

static void missing_files(void **state)
{
    char why[SSM_ERR] = "", path[300];
    const char *dir = rig_folder();
    struct ssm_model *m = rig_random("20x2,5,30");
    assert_int_equal(open_all("/nonexistent/model", SSM_F32, why), -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/model/config.json"));
    folder_write(dir, m, SSM_F32);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    assert_int_equal(open_all(dir, SSM_F32, why), -ENOENT);
    assert_non_null(strstr(why, "model.safetensors"));
    ssm_model_close(&m);
    rig_sweep();
}

static void bad_indexes(void **state)
{
    static const struct {
        const char *index, *says;
    } cases[] = {
        {"{}", "no 'weight_map'"},
        {"[", "index.json:1"},
        {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}", "tensor 'a' is not in a file of this folder"},
        {"{\"weight_map\": {\"a\": 3}}", "tensor 'a'"},
        {"{\"weight_map\": {\"a\": \"shard.safetensors\"}}", "tensor 'a' is not in shard.safetensors"},
        {"{\"weight_map\": {\"a\": \"gone.safetensors\"}}", "gone.safetensors"},
        {"{\"weight_map\": {\"backbone.norm_f.weight\": \"shard.safetensors\"}}",
         "'backbone.embeddings.weight' is missing"},
    };
    char why[SSM_ERR], from[300], to[300];
    const char *dir = rig_folder();
    struct ssm_model *m = rig_random("20x2,5,30");
    folder_write(dir, m, SSM_F32);
    snprintf(from, sizeof from, "%s/model.safetensors", dir);
    snprintf(to, sizeof to, "%s/shard.safetensors", dir);
    assert_int_equal(rename(from, to), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_write(dir, "model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        assert_true(open_all(dir, SSM_F32, why) < 0);
        if (!strstr(why, cases[i].says))
            fail_msg("%s: \"%s\"", cases[i].index, why);
    }
    ssm_model_close(&m);
    rig_sweep();
}

/* Any file cut anywhere, and bytes changed at random: an error or a model, never a crash. */
static void cut_and_scrambled_files(void **state)
{
    char why[SSM_ERR];
    const char *dir = rig_folder();
    struct ssm_model *m = rig_random("8x1,2,5");
    size_t bytes;
    folder_write(dir, m, SSM_F32);
    uint8_t *good = rig_read(dir, W, &bytes), *bad = malloc(bytes + 8);
    uint32_t header = (uint32_t)good[0] | (uint32_t)good[1] << 8;
    for (unsigned i = 0; i < 200; i++) {
        rig_write(dir, W, good, i < 20 ? i : rig_below(&rng, (uint32_t)bytes));
        assert_int_equal(open_all(dir, SSM_F32, why), -EBADMSG);
    }
    memcpy(bad, good, bytes);
    rig_write(dir, W, bad, bytes + 8);
    assert_int_equal(open_all(dir, SSM_F32, why), -EBADMSG);
    assert_non_null(strstr(why, "8 unclaimed bytes at the end"));
    for (unsigned i = 0; i < 600; i++) {
        memcpy(bad, good, bytes);
        for (uint32_t k = rig_below(&rng, 4) + 1; k > 0; k--)
            bad[rig_below(&rng, i % 2 ? 8 + header : 8)] = (uint8_t)rig_below(&rng, 256);
        rig_write(dir, W, bad, bytes);
        int err = open_all(dir, SSM_F32, why);
        assert_true(err == 0 || err == -EBADMSG);
    }
    free(good);
    free(bad);
    ssm_model_close(&m);
    rig_sweep();
}

static void values_must_be_finite(void **state)
{
    char why[SSM_ERR] = "";
    const char *dir = rig_folder();
    struct ssm_model *m = rig_random("20x2,5,30");
    size_t bytes;
    float bad[2] = {INFINITY, 1e6f};
    folder_write(dir, m, SSM_F32);
    uint8_t *file = rig_read(dir, W, &bytes);
    memcpy(file + bytes - 3 * sizeof(float), &bad[0], sizeof(float));
    rig_write(dir, W, file, bytes);
    assert_int_equal(open_all(dir, SSM_F32, why), -EBADMSG);
    assert_non_null(strstr(why, "'backbone.norm_f.weight': element 17 is not finite"));
    uint64_t header = (uint64_t)file[0] | (uint64_t)file[1] << 8;
    folder_write(dir, m, SSM_F32);
    free(file);
    file = rig_read(dir, W, &bytes);
    memcpy(file + 8 + header, &bad[1], sizeof(float)); /* in the embedding */
    rig_write(dir, W, file, bytes);
    assert_int_equal(open_all(dir, SSM_F32, why), 0);
    assert_int_equal(open_all(dir, SSM_F16, why), -EBADMSG);
    assert_non_null(strstr(why, "'backbone.embeddings.weight': a value does not fit fp16"));
    free(file);
    ssm_model_close(&m);
    rig_sweep();
}

static void engines_refuse_with_a_reason(void **state)
{
    static const struct {
        struct ssm_engine_opts opts;
        int err;
        const char *says;
    } cases[] = {
        {{.device = "tpu", .slots = 1}, -EINVAL, "device 'tpu'"},
        {{.device = "cuda:x", .slots = 1}, -EINVAL, "device 'cuda:x'"},
        {{.device = "cpu", .ops = "mmx", .slots = 1}, -ENOTSUP, "'mmx'"},
        {{.device = "cpu", .state = SSM_BF16, .slots = 1}, -ENOTSUP, "states as fp32 only"},
    };
    struct ssm_model *m = rig_random("20x2,5,30"), *none = NULL;
    char why[SSM_ERR] = "";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ssm_engine *e = NULL;
        assert_int_equal(ssm_engine_open(m, &cases[i].opts, &e, why), cases[i].err);
        assert_null(e);
        assert_non_null(strstr(why, cases[i].says));
    }
    assert_int_equal(ssm_model_random("64y4", 1, &none, why), -EINVAL);
    assert_int_equal(ssm_model_random("64x4,16,256,1,1", 1, &none, why), -EINVAL);
    assert_int_equal(ssm_model_random("64×4,8,0,5", 1, &none, why), 0);
    assert_int_equal(ssm_model_info(none)->patch, 5);
    assert_int_equal(ssm_model_info(none)->d_state, 8);
    ssm_model_close(&none);
    ssm_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_written_model_is_the_same_model),
        cmocka_unit_test(stored_dtypes_are_read),
        cmocka_unit_test(signal_models_open),
        cmocka_unit_test(conversions_round_to_nearest_even),
        cmocka_unit_test(hostile_weights),
        cmocka_unit_test(bad_configs),
        cmocka_unit_test(bad_signal_configs),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(bad_indexes),
        cmocka_unit_test(cut_and_scrambled_files),
        cmocka_unit_test(values_must_be_finite),
        cmocka_unit_test(engines_refuse_with_a_reason),
    };
    rng = rig_rng("model");
    int failed = cmocka_run_group_tests_name("model", tests, NULL, NULL);
    rig_sweep();
    return failed;
}
