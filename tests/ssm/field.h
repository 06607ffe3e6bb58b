/* field.h: what the op tests run on: aligned arrays of rows between guard bands, poisoned with NaN, and one cmocka test
 * per usable table. Leaving a band, or a column that is not an op's to write, changed fails the test. */
#ifndef TEST_SSM_FIELD_H
#define TEST_SSM_FIELD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/ops.h"
#include "tests/ssm/compare.h"
#include "tests/ssm/rig.h"

enum { FIELD_GUARD = 64 };

struct field {
    float *at; /* [rows][ld] */
    size_t rows, cols, ld;
    float *memory;
};

static inline size_t field_floats(const struct field *f)
{
    return f->rows * f->ld + 2 * FIELD_GUARD;
}

/* `own` columns to a row are the op's to write (cols padded), then `extra` that are not. */
static inline struct field field_new(size_t rows, size_t cols, size_t extra)
{
    struct field f = {.rows = rows, .cols = cols, .ld = SSM_PADDED(cols) + extra};
    f.memory = aligned_alloc(SSM_ALIGN, field_floats(&f) * sizeof(float));
    assert_non_null(f.memory);
    poison(f.memory, field_floats(&f));
    f.at = f.memory + FIELD_GUARD;
    return f;
}

static inline void field_free(struct field *f)
{
    free(f->memory);
}

static inline float *field_row(const struct field *f, size_t row)
{
    return f->at + row * f->ld;
}

/* Columns and their padding from a normal distribution times `scale`. */
static inline void field_fill(struct field *f, struct rng *r, double scale)
{
    for (size_t row = 0; row < f->rows; row++)
        for (size_t col = 0; col < SSM_PADDED(f->cols); col++)
            field_row(f, row)[col] = (float)(rig_normal(r) * scale);
}

static inline struct field field_random(size_t rows, size_t cols, size_t extra, struct rng *r, double scale)
{
    struct field f = field_new(rows, cols, extra);
    field_fill(&f, r, scale);
    return f;
}

static inline struct field field_copy(const struct field *f)
{
    struct field c = *f;
    c.memory = aligned_alloc(SSM_ALIGN, field_floats(f) * sizeof(float));
    assert_non_null(c.memory);
    memcpy(c.memory, f->memory, field_floats(f) * sizeof(float));
    c.at = c.memory + FIELD_GUARD;
    return c;
}

/* Guard bands and columns past the padding still hold NaN. */
static inline bool field_intact(const struct field *f)
{
    bool intact = true;
    for (size_t i = 0; i < FIELD_GUARD; i++)
        intact &= isnan(f->memory[i]) && isnan(f->at[f->rows * f->ld + i]);
    for (size_t row = 0; row < f->rows; row++)
        for (size_t col = SSM_PADDED(f->cols); col < f->ld; col++)
            intact &= isnan(field_row(f, row)[col]);
    return intact;
}

/* Every column, not its padding, is the same to the bit. */
static inline bool field_same(const struct field *a, const struct field *b)
{
    for (size_t row = 0; row < a->rows; row++)
        if (memcmp(field_row(a, row), field_row(b, row), a->cols * sizeof(float)))
            return false;
    return true;
}

/* Padding is finite, so that whoever reads whole vectors next is not harmed. */
static inline bool field_pads_finite(const struct field *f)
{
    for (size_t row = 0; row < f->rows; row++)
        for (size_t col = f->cols; col < SSM_PADDED(f->cols); col++)
            if (!isfinite(field_row(f, row)[col]))
                return false;
    return true;
}

/* Runs tests[] of (name, function) for every usable table; the table is the function's *state. */
struct field_test {
    const char *name;
    CMUnitTestFunction run;
};

static inline int field_run(const char *group, const struct field_test *tests, size_t n)
{
    struct CMUnitTest all[64];
    static char names[64][64];
    size_t count = 0;
    const struct ssm_ops *ops;
    for (unsigned i = 0; (ops = ssm_ops_at(i)); i++) {
        if (!ops->usable()) {
            print_message("%s: not on this CPU\n", ops->name);
            continue;
        }
        for (size_t t = 0; t < n; t++, count++) {
            assert_true(count < 64);
            snprintf(names[count], sizeof names[count], "%s: %s", ops->name, tests[t].name);
            all[count] = (struct CMUnitTest){
                .name = names[count], .test_func = tests[t].run, .initial_state = (void *)(uintptr_t)ops};
        }
    }
    return _cmocka_run_group_tests(group, all, count, NULL, NULL);
}

#endif
