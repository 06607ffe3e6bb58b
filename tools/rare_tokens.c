/* rare_tokens.c: see rare_tokens.h. An open table of hashes: words whose 64 bits are the same count as one. */
#include "tools/rare_tokens.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

struct rare_token {
    uint64_t hash, count; /* count 0: free */
};

int rare_tokens_init(struct rare_tokens *r)
{
    *r = (struct rare_tokens){.mask = 4095};
    r->table = calloc(r->mask + 1, sizeof *r->table);
    return r->table ? 0 : -ENOMEM;
}

void rare_tokens_done(struct rare_tokens *r)
{
    free(r->table);
    *r = (struct rare_tokens){0};
}

static struct rare_token *find(const struct rare_tokens *r, uint64_t hash)
{
    size_t i = hash & r->mask;
    while (r->table[i].count && r->table[i].hash != hash)
        i = (i + 1) & r->mask;
    return &r->table[i];
}

static int grow(struct rare_tokens *r)
{
    struct rare_tokens more = {.mask = r->mask * 2 + 1, .n = r->n, .total = r->total};
    more.table = calloc(more.mask + 1, sizeof *more.table);
    if (!more.table)
        return -ENOMEM;
    for (size_t i = 0; i <= r->mask; i++)
        if (r->table[i].count)
            *find(&more, r->table[i].hash) = r->table[i];
    free(r->table);
    *r = more;
    return 0;
}

/* FNV-1a of the word at *at, a run of digits as one of them; moves *at behind it. 0: there is no more. */
static uint64_t next_word(const uint8_t *line, size_t n, size_t *at)
{
    uint64_t h = 0xcbf29ce484222325u;
    bool digit = false;
    while (*at < n && (line[*at] == ' ' || line[*at] == '\n' || line[*at] == '\t'))
        ++*at;
    if (*at == n)
        return 0;
    for (; *at < n && line[*at] != ' ' && line[*at] != '\n' && line[*at] != '\t'; ++*at) {
        bool was = digit;
        digit = line[*at] >= '0' && line[*at] <= '9';
        if (!digit || !was)
            h = (h ^ (digit ? '0' : line[*at])) * 0x100000001b3u;
    }
    return h ? h : 1;
}

int rare_tokens_line(struct rare_tokens *r, const uint8_t *line, size_t n, double *ret_mean, double *ret_most)
{
    double sum = 0, most = 0;
    size_t words = 0;
    uint64_t hash;
    for (size_t at = 0; (hash = next_word(line, n, &at)); words++) {
        double rare = log((double)(r->total + r->n + 1)) - log((double)find(r, hash)->count + 1);
        sum += rare;
        most = fmax(most, rare);
    }
    for (size_t at = 0; (hash = next_word(line, n, &at));) {
        if (2 * (r->n + 1) > r->mask && grow(r))
            return -ENOMEM;
        struct rare_token *t = find(r, hash);
        r->n += t->count == 0;
        *t = (struct rare_token){hash, t->count + 1};
        r->total++;
    }
    *ret_mean = words ? sum / (double)words : 0;
    *ret_most = most;
    return 0;
}
