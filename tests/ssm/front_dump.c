/* front_dump.c: ssm_front_run and ssm_forecast_quantiles for test_trainer_agrees.py. stdin: int32 patch, mask, nan policy,
 * Q, n; double memory, diff_memory; n doubles x; n int64 dt (interval 1000); Q floats z. stdout, per step, all doubles:
 * features, g, mean, scale, last, step, taken, blank, then Q quantiles of horizon 7. */
#include "ssm/forecast.h"

#include <stdio.h>
#include <stdlib.h>

enum { HORIZON_STEP = 7 };

static void get(void *to, size_t size, size_t n)
{
    if (fread(to, size, n, stdin) != n)
        exit(1);
}

static void put(double value)
{
    fwrite(&value, sizeof value, 1, stdout);
}

static void put_step(const struct ssm_front *f, const float *features, float g, const struct ssm_frame *frame,
                     const float *z, uint32_t Q)
{
    double q[SSM_QUANTILES_MAX];
    for (uint32_t i = 0; i < f->features; i++)
        put((double)features[i]);
    put((double)g);
    put(frame->mean);
    put(frame->scale);
    put(frame->last);
    put(frame->step);
    put(frame->taken);
    put(frame->blank);
    ssm_forecast_quantiles(frame, HORIZON_STEP, z, Q, q);
    for (uint32_t i = 0; i < Q; i++)
        put(q[i]);
}

int main(void)
{
    int32_t head[5];
    double memory[2];
    get(head, sizeof head, 1);
    get(memory, sizeof memory, 1);
    struct ssm_front f = {.patch = (uint32_t)head[0], .mask = head[1], .memory = memory[0], .diff_memory = memory[1]};
    f.features = (f.mask ? 3 : 2) * f.patch + 2;
    uint32_t Q = (uint32_t)head[3], n = (uint32_t)head[4];
    double *x = malloc(n * sizeof *x);
    int64_t *dt = malloc(n * sizeof *dt);
    float z[SSM_QUANTILES_MAX];
    get(x, sizeof *x, n);
    get(dt, sizeof *dt, n);
    get(z, sizeof *z, Q);

    size_t a, b;
    size_t bytes = ssm_front_bytes(&f, &a, &b);
    char *state = malloc(bytes);
    float *features = malloc(f.features * sizeof *features), g;
    double *patch = malloc(f.patch * sizeof *patch);
    struct ssm_frame frame;
    ssm_front_reset(&f, state, state + a);
    struct ssm_item item = {.n = n, .x = x, .x_stride = 1, .dt = dt, .interval = 1000, .nan = (enum ssm_nan)head[2]};
    for (uint32_t at = 0; ssm_front_run(&f, state, state + a, &item, &at, 1, features, f.features, &g, &frame, patch);)
        put_step(&f, features, g, &frame, z, Q);
    free(patch);
    free(features);
    free(state);
    free(dt);
    free(x);
    return 0;
}
