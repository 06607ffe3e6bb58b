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

struct candidate {
    double logit, p;
    uint8_t byte;
};

/* Of equals the lower byte comes out as the larger key. */
static uint64_t key_of(float logit, int byte)
{
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u; /* ascends as floats do */
    return (uint64_t)bits << 8 | (uint64_t)(MD_BYTES - 1 - byte);
}

/* Descending; by radix, for a comparing sort takes longer than the whole step of a small model. The keys come in
 * descending by their lowest byte, and every pass is stable. */
static void sort_keys(uint64_t keys[MD_BYTES])
{
    uint64_t other[MD_BYTES], *from = keys, *to = other;
    for (int shift = 8; shift < 40; shift += 8) {
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
}

static void sort_candidates(const struct md_sampler *s, const float *logits, struct candidate v[MD_BYTES])
{
    const float penalty = s->how.repetition_penalty;
    float penalised[MD_BYTES];
    uint64_t keys[MD_BYTES];
    for (int i = 0; i < MD_BYTES; i++) {
        const bool seen = s->seen[i / 64] >> i % 64 & 1;
        penalised[i] = !seen ? logits[i] : logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
        keys[i] = key_of(penalised[i], i);
    }
    sort_keys(keys);
    for (int i = 0; i < MD_BYTES; i++) {
        const uint8_t byte = (uint8_t)(MD_BYTES - 1 - (keys[i] & 255));
        v[i] = (struct candidate){penalised[byte], 0, byte};
    }
}

/* Softmax at the temperature over the first n. */
static void to_probabilities(struct candidate *v, int n, double temperature)
{
    double sum = 0, most = v[0].logit;
    for (int i = 0; i < n; i++)
        sum += v[i].p = exp((v[i].logit - most) / temperature);
    for (int i = 0; i < n; i++)
        v[i].p /= sum;
}

void md_sampler_weigh(const struct md_sampler *s, const float logits[MD_BYTES], float ret_p[MD_BYTES])
{
    struct candidate v[MD_BYTES];
    const struct md_sampling *how = &s->how;
    int n = how->top_k && how->top_k < MD_BYTES ? (int)how->top_k : MD_BYTES;
    sort_candidates(s, logits, v);
    memset(ret_p, 0, MD_BYTES * sizeof *ret_p);
    if (how->temperature == 0) {
        ret_p[v[0].byte] = 1;
        return;
    }
    to_probabilities(v, n, how->temperature);
    double sum = v[0].p;
    int kept = 1;
    while (kept < n && sum < how->top_p)
        sum += v[kept++].p;
    while (kept > 1 && v[kept - 1].p < how->min_p * v[0].p)
        sum -= v[--kept].p;
    for (int i = 0; i < kept; i++)
        ret_p[v[i].byte] = (float)(v[i].p / sum);
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
