/* sampler.c: see sampler.h. Probabilities in double, so that neither the order of bytes nor a long tail decides. */
#include "daemon/sampler.h"

#include <math.h>
#include <string.h>

void md_sampler_init(struct md_sampler *s, const struct md_sampling *how, uint64_t stream)
{
    *s = (struct md_sampler){.how = *how, .stream = stream};
}

void md_sampler_saw(struct md_sampler *s, uint8_t byte)
{
    s->seen[byte / 64] |= (uint64_t)1 << byte % 64;
}

/* Of equals the lower byte comes out as the larger key. */
static uint64_t key_of(float logit, int byte)
{
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u; /* ascends as floats do */
    return (uint64_t)bits << 8 | (uint64_t)(MD_BYTES - 1 - byte);
}

static uint8_t byte_of(uint64_t key)
{
    return (uint8_t)(MD_BYTES - 1 - (key & 255));
}

static float logit_of(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 8);
    float logit;
    bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
    memcpy(&logit, &bits, sizeof logit);
    return logit;
}

static void list_keys(const struct md_sampler *s, const float *logits, uint64_t keys[MD_BYTES])
{
    const float penalty = s->how.repetition_penalty;
    for (int i = 0; i < MD_BYTES; i++) {
        const bool seen = s->seen[i / 64] >> i % 64 & 1;
        keys[i] = key_of(!seen ? logits[i] : logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty, i);
    }
}

static uint64_t largest(const uint64_t keys[MD_BYTES])
{
    uint64_t most = 0;
    for (int i = 0; i < MD_BYTES; i++)
        most = keys[i] > most ? keys[i] : most;
    return most;
}

/* Descending; a comparing sort takes longer than the whole step of a small model. By radix for the upper two bytes of
 * the logits, which leaves few keys out of order, and those not far from their places. */
static void sort_keys(uint64_t keys[MD_BYTES])
{
    uint64_t other[MD_BYTES], *from = keys, *to = other;
    for (int shift = 24; shift < 40; shift += 8) {
        unsigned at[256] = {0}, sum = 0;
        for (int i = 0; i < MD_BYTES; i++)
            at[from[i] >> shift & 255]++;
        for (int digit = 255; digit >= 0; digit--) {
            unsigned n = at[digit];
            at[digit] = sum;
            sum += n;
        }
        for (int i = 0; i < MD_BYTES; i++)
            to[at[from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    for (int i = 1; i < MD_BYTES; i++) {
        uint64_t key = keys[i];
        int k = i;
        for (; k > 0 && keys[k - 1] < key; k--)
            keys[k] = keys[k - 1];
        keys[k] = key;
    }
}

/* Softmax at the temperature over the first n. */
static void to_probabilities(const uint64_t *keys, double *p, int n, double temperature)
{
    double sum = 0, most = logit_of(keys[0]);
    for (int i = 0; i < n; i++)
        sum += p[i] = exp((logit_of(keys[i]) - most) / temperature);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

void md_sampler_weigh(const struct md_sampler *s, const float logits[MD_BYTES], float ret_p[MD_BYTES])
{
    uint64_t keys[MD_BYTES];
    double p[MD_BYTES];
    const struct md_sampling *how = &s->how;
    int n = how->top_k && how->top_k < MD_BYTES ? (int)how->top_k : MD_BYTES;
    list_keys(s, logits, keys);
    memset(ret_p, 0, MD_BYTES * sizeof *ret_p);
    if (how->temperature == 0) {
        ret_p[byte_of(largest(keys))] = 1;
        return;
    }
    sort_keys(keys);
    to_probabilities(keys, p, n, how->temperature);
    double sum = p[0];
    int kept = 1;
    while (kept < n && sum < how->top_p)
        sum += p[kept++];
    while (kept > 1 && p[kept - 1] < how->min_p * p[0])
        sum -= p[--kept];
    for (int i = 0; i < kept; i++)
        ret_p[byte_of(keys[i])] = (float)(p[i] / sum);
}

static uint64_t mix(uint64_t z) /* the finalizer of SplitMix64 (Steele et al., OOPSLA 2014) */
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double md_sampler_uniform(struct md_sampler *s)
{
    uint64_t key = mix(mix(s->how.seed + 0x9e3779b97f4a7c15u) ^ s->stream);
    return (double)(mix(key + s->drawn++ * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

uint8_t md_sampler_draw(const float p[MD_BYTES], double u)
{
    double total = 0, sum = 0;
    int last = 0;
    for (int i = 0; i < MD_BYTES; i++)
        total += p[i];
    for (int i = 0; i < MD_BYTES; i++) {
        if (p[i] <= 0)
            continue;
        last = i;
        sum += p[i];
        if (sum > u * total)
            break;
    }
    return (uint8_t)last;
}

static double next_number(struct md_sampler *s)
{
    return s->how.temperature > 0 ? md_sampler_uniform(s) : 0;
}

uint8_t md_sampler_pick(struct md_sampler *s, const float p[MD_BYTES])
{
    return md_sampler_draw(p, next_number(s));
}

bool md_sampler_accept(struct md_sampler *s, const float p[MD_BYTES], const float q[MD_BYTES], uint8_t byte,
                       uint8_t *ret)
{
    float rest[MD_BYTES]; /* of p, what q could not give */
    double total = 0;
    *ret = byte;
    if (next_number(s) * q[byte] < p[byte])
        return true;
    for (int i = 0; i < MD_BYTES; i++)
        total += rest[i] = p[i] > q[i] ? p[i] - q[i] : 0;
    *ret = md_sampler_pick(s, total > 0 ? rest : p); /* they differ by roundings only */
    return false;
}
