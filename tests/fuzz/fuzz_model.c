/* fuzz_model.c: model folders. Input: two bytes, the length of config.json, then that, then model.safetensors. A model
 * that opens is run for a few samples or tokens, if it is small. */
#include <stdio.h>
#include <string.h>

#include "ssm/ssm.h"
#include "tests/fuzz/fuzz.h"

static void run(const struct ssm_model *model)
{
    const struct ssm_model_info *info = ssm_model_info(model);
    const struct ssm_engine_opts opts = {
        .device = "cpu", .ops = "ref", .deterministic = true, .slots = 1, .threads = 1};
    static const double x[64] = {1, 2, 3, -1};
    static const int32_t tokens[2];
    struct ssm_engine *e = NULL;
    struct ssm_slot slot;
    char reterr[SSM_ERR];

    if (info->n_params > 200000 || info->patch > 64 || ssm_engine_open(model, &opts, &e, reterr))
        return;
    struct ssm_item item = {.n = info->input == SSM_TOKENS ? 2 : 64,
                            .x = x,
                            .x_stride = 1,
                            .tokens = info->input == SSM_TOKENS ? tokens : NULL,
                            .interval = 1,
                            .nan = SSM_NAN_SKIP};
    if (ssm_slot_take(e, &slot) == 0) {
        item.slot = slot;
        ssm_advance(e, &item, 1);
    }
    ssm_engine_close(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ssm_model *model = NULL;
    char reterr[SSM_ERR] = "";
    size_t n = size < 2 ? 0 : (size_t)data[0] + 256 * data[1];

    if (size < 2)
        return 0;
    n = n < size - 2 ? n : size - 2;
    fuzz_write("config.json", data + 2, n);
    fuzz_write("model.safetensors", data + 2 + n, size - 2 - n);
    if (ssm_model_open(fuzz_dir(), &model, reterr)) {
        if (!reterr[0])
            __builtin_trap(); /* refused without a word */
        return 0;
    }
    ssm_model_hash(model);
    run(model);
    ssm_model_close(&model);
    return 0;
}
