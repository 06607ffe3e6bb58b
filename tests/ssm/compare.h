/* compare.h: the comparisons that all tests of the engine share; test_broken_ops shows that they catch what they
 * should. */
#ifndef TEST_SSM_COMPARE_H
#define TEST_SSM_COMPARE_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tests/ssm/rig.h"
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

/* The same where NaN marks what is missing: NaN unless both miss the same. */
static inline double masked_error(const float *a, const float *b, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i]))
            continue;
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return difference == 0.0 ? 0.0 : sqrt(difference / size);
}

/* The share of values that lie beyond bound · (1 + their size); 1 where one is missing and the other is not. */
static inline double share_beyond(const float *a, const float *b, size_t n, double bound)
{
    size_t beyond = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) != isnan(b[i]))
            return 1.0;
        beyond += !isnan(a[i]) && !(fabs((double)a[i] - (double)b[i]) <= bound * (1.0 + fabs((double)b[i])));
    }
    return (double)beyond / (double)n;
}

/* Of what a variant puts out, from a model of so many layers. */
static inline double bound_of(const struct rig_variant *v, uint32_t n_layer)
{
    double deep = n_layer >= TOLERANCE_DEEP_LAYERS ? TOLERANCE_DEEP : 1.0;
    double weights = v->weights == SSM_F32    ? TOLERANCE_F32
                     : v->weights == SSM_BF16 ? TOLERANCE_BF16 * deep
                                              : TOLERANCE_F16 * deep;
    double state = v->state == SSM_F32 ? 0.0 : v->state == SSM_BF16 ? TOLERANCE_STATE_BF16 : TOLERANCE_STATE_F16;
    return weights + state;
}

/* Of the SSM states that it holds. */
static inline double bound_of_state(const struct rig_variant *v, uint32_t n_layer)
{
    double held = v->state == SSM_F32 ? 0.0 : v->state == SSM_BF16 ? TOLERANCE_HELD_BF16 : TOLERANCE_HELD_F16;
    return bound_of(v, n_layer) + held;
}

/* The place and the bits of the first value that differs, into text; false if none does. */
static inline bool first_difference(const float *got, const float *want, size_t n, char *text, size_t size)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t a, b;
        memcpy(&a, &got[i], sizeof a);
        memcpy(&b, &want[i], sizeof b);
        if (a == b)
            continue;
        snprintf(text, size, "[%zu of %zu]: got %.9g (%08" PRIx32 "), want %.9g (%08" PRIx32 ")", i, n, (double)got[i],
                 a, (double)want[i], b);
        return true;
    }
    return false;
}

static inline void poison(float *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] = NAN;
}

#endif
