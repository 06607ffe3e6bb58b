/* bytes.c: see bytes.h. Sums over the 256 logits run in eight lanes, the same bits whatever the instruction set. What
 * is stored as float is rounded once. Trap: a row's logits are needed for the byte after it, so they become
 * log-probabilities only then. */
#include "ssm/bytes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "ssm/calibrate.h"
#include "ssm/contexts.h"

static const struct ssm_calibration calibration = {.warmup = SSM_RECORDS_WARM, .memory = 20000};

enum { SCORE, P_VALUE, SURPRISE, COLUMNS };
enum { LANES = 8 }; /* SSM_BYTES is a multiple */

/* An unfinished record. */
struct record {
    uint64_t bytes, scored; /* of it so far; those that had a surprise */
    double sum;             /* of their surprises */
    double squares;         /* of what they surprised by in this stream beyond the usual, in spreads of that */
};

/* What the stream has shown follows, then the calibrator of records. */
struct bytes {
    uint64_t known; /* there was a byte before: */
    double norm;    /* ln of the sum of its logits' exponentials, */
    struct record record;
    float logits[SSM_BYTES];
};

static size_t calibrator_at(void)
{
    return sizeof(struct bytes) + ssm_contexts_bytes();
}

size_t ssm_bytes_state(void)
{
    return calibrator_at() + ssm_calibrate_bytes();
}

static void *contexts_of(struct bytes *s)
{
    return s + 1;
}

static void *calibrator_of(struct bytes *s)
{
    return (char *)s + calibrator_at();
}

void ssm_bytes_reset(void *state)
{
    struct bytes *s = state;
    memset(s, 0, sizeof *s);
    ssm_contexts_reset(contexts_of(s));
    ssm_calibrate_reset(&calibration, calibrator_of(s));
}

/* Slots that are copied for every few bytes, as speculation does, have scored none. */
void ssm_bytes_copy(const void *from, void *to)
{
    const struct bytes *s = from;
    memcpy(to, s, sizeof *s);
    ssm_contexts_copy(s + 1, contexts_of(to));
    memcpy(calibrator_of(to), (const char *)s + calibrator_at(), ssm_calibrate_bytes());
}

const float *ssm_bytes_logits(const void *state)
{
    const struct bytes *s = state;
    return s->known ? s->logits : NULL;
}

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t lanes_u __attribute__((vector_size(LANES * sizeof(uint32_t))));

/* `a` where `which` is all ones, `b` where it is 0 */
#define CHOSEN(which, a, b) ((lanes)(((lanes_u)(which) & (lanes_u)(a)) | (~(lanes_u)(which) & (lanes_u)(b))))

/* sums + e^t for t ≤ 0, within 2 ulp; NaN stays. Cody and Waite's reduction, Cephes' polynomial. */
__attribute__((always_inline)) static inline void add_exp(lanes *sums, const lanes *t)
{
    const lanes zero = {0}, least = zero - 87.0f;
    const float magic = 12582912.0f; /* 1.5·2²³: what is added to it is rounded to a whole number, in its low bits */
    lanes below = CHOSEN(*t < least, least, *t), shifted = below * 1.44269504f + magic, whole = shifted - magic;
    lanes r = below - whole * 0.693359375f - whole * -2.12194440e-4f, p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    *sums += (p * r * r + r + 1.0f) * (lanes)(((lanes_u)shifted << 23) + 0x3f800000u);
}

__attribute__((always_inline)) static inline double norm_of(const float *logits)
{
    lanes x, t, most, sums = {0};
    memcpy(&most, logits, sizeof most);
    for (int i = LANES; i < SSM_BYTES; i += LANES) {
        memcpy(&x, logits + i, sizeof x);
        most = CHOSEN(x > most, x, most);
    }
    float top = most[0];
    for (int k = 1; k < LANES; k++)
        top = most[k] > top ? most[k] : top;
    for (int i = 0; i < SSM_BYTES; i += LANES) {
        memcpy(&x, logits + i, sizeof x);
        t = x - top;
        add_exp(&sums, &t);
    }
    double sum = 0.0;
    for (int k = 0; k < LANES; k++)
        sum += (double)sums[k];
    return log(sum) + (double)top;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static double norm_avx2(const float *logits)
{
    return norm_of(logits);
}

double ssm_bytes_norm(const float *logits)
{
    return __builtin_cpu_supports("avx2") ? norm_avx2(logits) : norm_of(logits);
}
#else
double ssm_bytes_norm(const float *logits)
{
    return norm_of(logits);
}
#endif

static void normalise(float *row, double norm)
{
    for (int i = 0; i < SSM_BYTES; i++)
        row[i] = (float)((double)row[i] - norm);
}

static void add_byte(struct bytes *s, int32_t byte, double surprise)
{
    struct record *r = &s->record;
    double p = isnan(surprise) ? 1 : fmax(exp(-surprise), 1e-30); /* so that no record is infinitely strange */
    double usual, here = ssm_contexts_read(contexts_of(s), (uint8_t)byte, p, &usual), excess = fmax(here - usual, 0.0);
    r->bytes++;
    if (isnan(surprise))
        return;
    r->scored++;
    r->sum += surprise;
    r->squares += excess * excess / (usual + 1);
}

/* Root mean square: long records do not count as strange for being long, as by their sum, and a few strange bytes in
 * one do not drown, as in their mean. */
static double strangeness(const struct record *r)
{
    return sqrt(r->squares / (double)r->scored);
}

/* Scores the record, and learns it. */
static void end_record(struct bytes *s, float *row)
{
    const struct record *r = &s->record;
    double p = (double)NAN;
    if (r->scored > 0)
        p = ssm_calibrate_update(&calibration, calibrator_of(s), strangeness(r));
    row[SCORE] = isnan(p) ? NAN : (float)fmin(1.0, 0.0 - log10(p) / 10.0); /* 0 − …: p = 1 gives 0, not −0 */
    row[P_VALUE] = (float)p;
    row[SURPRISE] = r->scored > 0 ? (float)r->sum : NAN;
    s->record = (struct record){0};
}

static double surprise_at(const struct bytes *s, const float *before, int32_t byte)
{
    return s->known ? s->norm - (double)before[byte] : (double)NAN;
}

void ssm_bytes_run(const struct ssm_item *item, void *state)
{
    struct bytes *s = state;
    const struct ssm_scored *to = &item->scored;
    float *before = s->logits;
    uint32_t n_records = 0;
    assert(to->surprise && item->out.logits && to->record_max >= 1);
    for (uint32_t k = 0; k < item->n; k++) {
        float *row = item->out.logits + k * item->out.logits_stride;
        double surprise = surprise_at(s, before, item->tokens[k]);
        to->surprise[k] = (float)surprise;
        if (item->out.warmup)
            item->out.warmup[k] = !ssm_calibrate_warm(&calibration, calibrator_of(s));
        add_byte(s, item->tokens[k], surprise);
        if (item->tokens[k] == to->delimiter || s->record.bytes >= to->record_max) {
            to->ends[n_records] = k;
            end_record(s, to->records + COLUMNS * (size_t)n_records++);
        }
        if (k > 0 && to->log_probs)
            normalise(before, s->norm);
        s->known = 1;
        s->norm = ssm_bytes_norm(row);
        before = row;
    }
    *to->n_records = n_records;
    memcpy(s->logits, before, sizeof s->logits);
    if (to->log_probs)
        normalise(before, s->norm);
}
