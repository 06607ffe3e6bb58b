/* rare_tokens.h: the baseline of log scores: how rare a line's words have been so far. Digits count as alike, or every
 * number would be rare. One thread. */
#ifndef TOOLS_RARE_TOKENS_H
#define TOOLS_RARE_TOKENS_H

#include <stddef.h>
#include <stdint.h>

struct rare_tokens {
    struct rare_token *table;
    size_t mask, n;
    uint64_t total;
};

int rare_tokens_init(struct rare_tokens *r); /* 0; −ENOMEM */
void rare_tokens_done(struct rare_tokens *r);

/* Of one line, by the words before it, which it then joins: −ln of its words' frequencies, their mean and the most. 0;
 * −ENOMEM. */
int rare_tokens_line(struct rare_tokens *r, const uint8_t *line, size_t n, double *ret_mean, double *ret_most);

#endif
