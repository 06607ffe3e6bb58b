/* tensor.c: a tensor's values as fp32, from the mapped file or, in random models, out of a hash of (key, index):
 * benchmarks of models of any size then cost no memory beyond the engine's own. Pure; any thread. */
#include "ssm/model.h"

#include <errno.h>
#include <math.h>

#include "ssm/dtype.h"
#include "ssm/fail.h"

/* splitmix64 (Steele et al. 2014), as a uniform number in [0, 1). */
static double uniform(uint64_t key, uint64_t index)
{
    uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* The initial values of the paper's own code: A_n = −n, Δ log-uniform in [1e-3, 1e-1] through softplus's inverse. */
static float generated(const struct ssm_tensor *t, uint64_t i)
{
    double u = uniform(t->key, i);
    switch (t->fill) {
    case SSM_FILL_UNIFORM:
        return (float)((2.0 * u - 1.0) * (double)t->scale);
    case SSM_FILL_A_LOG:
        return logf((float)(i % t->cols + 1));
    case SSM_FILL_DT_BIAS: {
        double dt = exp(log(1e-3) + u * log(100.0));
        return (float)(dt + log(-expm1(-dt)));
    }
    default:
        return t->scale;
    }
}

static float stored(const struct ssm_tensor *t, uint64_t i)
{
    const uint8_t *at = (const uint8_t *)t->data + i * ssm_dtype_bytes(t->dtype);
    uint16_t half;
    float f;
    if (t->dtype == SSM_F32) {
        memcpy(&f, at, sizeof f);
        return f;
    }
    memcpy(&half, at, sizeof half);
    return t->dtype == SSM_BF16 ? ssm_from_bf16(half) : ssm_from_f16(half);
}

int ssm_tensor_read(const struct ssm_tensor *t, uint32_t row, uint32_t n, float *dst, char *reterr)
{
    uint64_t first = (uint64_t)row * t->cols, count = (uint64_t)n * t->cols;
    for (uint64_t i = 0; i < count; i++) {
        dst[i] = t->data ? stored(t, first + i) : generated(t, first + i);
        if (!isfinite(dst[i]))
            return ssm_fail(reterr, -EBADMSG, "tensor '%s': element %llu is not finite", t->name,
                            (unsigned long long)(first + i));
    }
    return 0;
}
