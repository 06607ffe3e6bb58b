/* compare.h: the comparisons that all tests of the engine share; test_broken_ops shows that they catch what they
 * should. */
#ifndef TEST_SSM_COMPARE_H
#define TEST_SSM_COMPARE_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "ssm/ssm.h"
#include "tests/ssm/tolerance.h"

/* ‖a − b‖₂ / ‖b‖₂; NaN where either holds one. */
static inline double relative_error(const float *a, const float *b, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return difference == 0.0 ? 0.0 : sqrt(difference / size);
}

static inline bool within(double error, double bound)
{
    return error <= bound; /* false for NaN */
}

static inline double bound_of(enum ssm_dtype dtype)
{
    return dtype == SSM_F32 ? TOLERANCE_F32 : dtype == SSM_BF16 ? TOLERANCE_BF16 : TOLERANCE_F16;
}

static inline void poison(float *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] = NAN;
}

#endif
