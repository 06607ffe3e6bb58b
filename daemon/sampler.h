/* sampler.h: picks the next byte from a byte model's logits. Pure but for the sampler itself, which one thread uses; it
 * is plain data that may be saved as it stands, and goes on with the same choices: the k-th draw depends on seed,
 * stream and k alone.
 *
 * The steps and their order are those of Hugging Face's logits processors: repetition penalty (Keskar et al.,
 * arXiv 1909.05858), temperature, top-k, top-p (Holtzman et al., arXiv 1904.09751), min-p (Nguyen et al.,
 * arXiv 2407.01082). */
#ifndef MD_SAMPLER_H
#define MD_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

enum { MD_BYTES = 256 };

struct md_sampling {
    float temperature;        /* 0: the likeliest byte, the lowest of equals; ≥ 0 */
    uint32_t top_k;           /* so many of the likeliest stay; 0: all */
    float top_p;              /* the fewest of the likeliest that reach this probability stay; (0, 1], 1: all */
    float min_p;              /* what has at least this share of the likeliest's probability stays; [0, 1] */
    float repetition_penalty; /* > 0; logits of bytes seen before are divided (below 0: multiplied) by it; 1: none */
    uint64_t seed;
};

struct md_sampler {
    struct md_sampling how;
    uint64_t stream, drawn; /* samplers of one seed and different streams are independent */
    uint64_t seen[MD_BYTES / 64];
};

void md_sampler_init(struct md_sampler *s, const struct md_sampling *how, uint64_t stream);
/* A byte of prompt or output, for the repetition penalty. */
void md_sampler_saw(struct md_sampler *s, uint8_t byte);
/* The distribution that the next byte is to be drawn from: sums to 1, zero where a byte was ruled out. `logits` are
 * finite. */
void md_sampler_weigh(const struct md_sampler *s, const float logits[MD_BYTES], float ret_p[MD_BYTES]);
/* Uniform in [0, 1): the next of the sampler's numbers. */
double md_sampler_uniform(struct md_sampler *s);
/* The byte at which the sum of p, in order, passes u · its total. */
uint8_t md_sampler_draw(const float p[MD_BYTES], double u);
/* The byte at the sampler's next number; without temperature p leaves no choice, and none is used up. */
uint8_t md_sampler_pick(struct md_sampler *s, const float p[MD_BYTES]);
/* Whether a byte that was drawn from q may pass for one drawn from p; if not, *ret is another that may. Either way *ret
 * has the distribution p (Leviathan et al., arXiv 2211.17192, sec. 2.3). */
bool md_sampler_accept(struct md_sampler *s, const float p[MD_BYTES], const float q[MD_BYTES], uint8_t byte,
                       uint8_t *ret);

#endif
