/* front.c: samples to features (docs/signal-model.md, sec. 1 and 2). Runs on the thread that drives the engine; state
 * belongs to the slot. Samples are buffered raw and normalised only when their patch is complete, so that a call may
 * end anywhere. Trap: the statistics that scale a patch include that patch, which bounds features by about asinh(√n);
 * scaling by those before it would let one spike after silence reach the backbone as a number in the hundreds. */
#include "ssm/front.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define SAMPLE_MAX 1e150 /* squares of differences stay finite */
#define SCALE_REL 1e-12  /* a scale is never below this part of the mean: what double arithmetic leaves of it … */
#define SCALE_ABS 1e-30  /* … nor below this */
#define LOG_RATIO_MAX 10.0

struct normaliser {
    double mean, var;
    double diff2; /* mean square of first differences */
    double last;  /* last finite sample; meaningless while n is 0 */
    uint64_t n;   /* finite samples since the reset */
};

struct patch {
    int64_t elapsed;  /* ticks since the last step taken */
    int64_t seen;     /* … of them, up to the end of the last patch */
    uint32_t fill;    /* samples in x */
    uint16_t begun;   /* a step was taken since the reset */
    uint16_t patches; /* a patch was complete since the reset */
    double x[];       /* [patch], raw: NaN where missing */
};

size_t ssm_front_bytes(const struct ssm_front *f, size_t *ret_normaliser, size_t *ret_patch)
{
    *ret_normaliser = sizeof(struct normaliser);
    *ret_patch = sizeof(struct patch) + f->patch * sizeof(double);
    return *ret_normaliser + *ret_patch;
}

void ssm_front_reset(const struct ssm_front *f, void *normaliser, void *patch)
{
    memset(normaliser, 0, sizeof(struct normaliser));
    memset(patch, 0, sizeof(struct patch) + f->patch * sizeof(double));
}

uint32_t ssm_front_fill(const void *patch)
{
    return ((const struct patch *)patch)->fill;
}

/* Exponentially weighted Welford; plain averages until `memory` samples have been seen. */
static void learn(const struct ssm_front *f, struct normaliser *s, double x)
{
    s->n++;
    double alpha = 1.0 / fmin((double)s->n, f->memory);
    double delta = x - s->mean;
    s->mean += alpha * delta;
    s->var = (1.0 - alpha) * (s->var + alpha * delta * delta);
    if (s->n > 1) {
        double beta = 1.0 / fmin((double)(s->n - 1), f->diff_memory);
        double diff = x - s->last;
        s->diff2 += beta * (diff * diff - s->diff2);
    }
    s->last = x;
}

static struct ssm_frame frame_of(const struct normaliser *s, bool taken)
{
    double floor = SCALE_REL * fabs(s->mean) + SCALE_ABS;
    return (struct ssm_frame){
        .mean = s->mean,
        .scale = fmax(sqrt(s->var), floor),
        .last = s->last,
        .step = fmax(sqrt(s->diff2), floor),
        .taken = taken,
        .blank = s->n == 0,
    };
}

/* Lets the patch's samples pass the normaliser, held ones included. False: the step is not taken. The finite samples
 * of such a step are learnt all the same, so that the scale stays true and a held value is the last one seen. */
static bool absorb(const struct ssm_front *f, struct normaliser *s, enum ssm_nan policy, double *x)
{
    bool whole = true;
    for (uint32_t i = 0; i < f->patch; i++) {
        if (isnan(x[i]) && policy == SSM_NAN_HOLD && s->n > 0)
            x[i] = s->last;
        if (isnan(x[i]))
            whole = false;
        else
            learn(f, s, x[i]);
    }
    return whole || policy == SSM_NAN_MASK;
}

/* asinh to 1e-16 absolute, at half libm's price (it is most of a sample's cost); t is far from where t² overflows. */
static double arsinh(double t)
{
    double a = fabs(t);
    return copysign(log(a + sqrt(a * a + 1.0)), t);
}

/* `before`: the last finite sample ahead of the patch, NaN if there was none. */
static void write_features(const struct ssm_front *f, const struct normaliser *s, const struct ssm_frame *frame,
                           double before, const double *x, float *out)
{
    float *u = out, *w = out + f->patch, *b = f->mask ? w + f->patch : NULL;
    float *scalars = (b ? b : w) + f->patch;
    double prev = before;
    for (uint32_t i = 0; i < f->patch; i++) {
        bool present = !isnan(x[i]);
        if (present && isnan(prev))
            prev = x[i];
        u[i] = present ? (float)arsinh((x[i] - frame->mean) / frame->scale) : 0.0f;
        w[i] = present ? (float)arsinh((x[i] - prev) / frame->step) : 0.0f;
        if (b)
            b[i] = present ? 1.0f : 0.0f;
        if (present)
            prev = x[i];
    }
    double ratio = log(frame->step / frame->scale);
    scalars[0] = (float)fmax(-LOG_RATIO_MAX, fmin(LOG_RATIO_MAX, ratio));
    scalars[1] = (float)(log1p(fmin((double)s->n, f->memory)) / 10.0);
}

/* Exactly 1 for a regular stream: elapsed and the reference are then the same integer. */
static float gap_factor(const struct ssm_front *f, const struct patch *p, int64_t interval)
{
    int64_t reference;
    if (!p->begun)
        return 1.0f;
    if (__builtin_mul_overflow((int64_t)f->patch, interval, &reference))
        reference = INT64_MAX;
    return (float)((double)p->elapsed / (double)reference);
}

static uint32_t missing_before(const struct ssm_front *f, const struct patch *p, int64_t interval)
{
    double room = rint((double)(p->elapsed - p->seen) / (double)interval) - (double)f->patch;
    return p->patches ? (uint32_t)fmax(0.0, fmin(room, (double)UINT32_MAX)) : 0;
}

static void push(struct patch *p, const struct ssm_item *item, uint32_t i)
{
    double x = item->x[i * item->x_stride];
    int64_t dt = item->dt ? item->dt[i] : item->interval;
    assert(dt >= 0);
    if (__builtin_add_overflow(p->elapsed, dt, &p->elapsed))
        p->elapsed = INT64_MAX;
    p->x[p->fill++] = isfinite(x) ? fmax(-SAMPLE_MAX, fmin(SAMPLE_MAX, x)) : (double)NAN;
}

uint32_t ssm_front_run(const struct ssm_front *f, void *normaliser, void *patch, const struct ssm_item *item,
                       uint32_t *at, uint32_t max_steps, float *features, size_t ldf, float *g,
                       struct ssm_frame *frames, double *patches)
{
    struct normaliser *s = normaliser;
    struct patch *p = patch;
    uint32_t k = 0;
    assert(item->interval >= 1 && (f->mask || item->nan != SSM_NAN_MASK));
    while (k < max_steps && *at < item->n) {
        push(p, item, (*at)++);
        if (p->fill < f->patch)
            continue;
        p->fill = 0;
        memcpy(patches + (size_t)k * f->patch, p->x, f->patch * sizeof *patches);
        double before = s->n ? s->last : (double)NAN;
        bool taken = absorb(f, s, item->nan, p->x);
        frames[k] = frame_of(s, taken);
        frames[k].missing = missing_before(f, p, item->interval);
        p->patches = 1;
        memset(features + k * ldf, 0, f->features * sizeof *features);
        g[k] = gap_factor(f, p, item->interval);
        if (taken) {
            write_features(f, s, &frames[k], before, p->x, features + k * ldf);
            p->begun = 1;
            p->elapsed = 0;
        }
        p->seen = p->elapsed;
        k++;
    }
    return k;
}
