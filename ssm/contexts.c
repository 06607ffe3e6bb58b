/* contexts.c: see contexts.h. Counts of contexts of some lengths, and of contexts with the byte behind them, in one
 * hash table. Trap: a count that is another's makes a byte that never came look usual, hence the checks in cells; a
 * cell that was taken over only forgets. Slots hold this table: who changes what a cell means raises engine.c's
 * VERSION. */
#include "ssm/contexts.h"

#include <math.h>
#include <string.h>

enum {
    CELL_BITS = 15,
    CELLS = 1 << CELL_BITS,
    AGE = 1 << 16, /* bytes after which all counts are halved */
    BELIEF = 64,   /* what a shorter context says weighs like so many bytes seen */
    ORDERS = 6,
};
static const uint8_t lengths[ORDERS] = {0, 1, 2, 3, 4, 6};

struct cell {
    uint32_t check : 15, count : 17; /* count 0: free. One key's stays below 2 · AGE */
    float surprise;                  /* of contexts: that of so many bytes behind them, in nats */
};

struct contexts {
    uint64_t last; /* bytes, the latest lowest */
    uint64_t learnt;
    struct cell cells[CELLS];
};

struct place {
    uint32_t at, check;
};

size_t ssm_contexts_bytes(void)
{
    return sizeof(struct contexts);
}

/* Where nothing was learnt all is 0, and memory that was never touched stays so. */
void ssm_contexts_reset(void *state)
{
    if (((const struct contexts *)state)->learnt)
        memset(state, 0, sizeof(struct contexts));
}

void ssm_contexts_copy(const void *from, void *to)
{
    if (((const struct contexts *)from)->learnt || ((const struct contexts *)to)->learnt)
        memcpy(to, from, sizeof(struct contexts));
}

/* splitmix64's finaliser */
static struct place place_of(uint64_t key)
{
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    key ^= key >> 31;
    return (struct place){(uint32_t)(key >> (64 - CELL_BITS)), key & 0x7fff};
}

/* A key has one of two cells. NULL: none of them is its own. */
static struct cell *find(struct contexts *s, struct place p)
{
    for (uint32_t i = 0; i < 2; i++)
        if (s->cells[p.at ^ i].count > 0 && s->cells[p.at ^ i].check == p.check)
            return &s->cells[p.at ^ i];
    return NULL;
}

/* Takes over the rarer of both where it has none. */
static void learn(struct contexts *s, struct place p, double surprise)
{
    struct cell *c = find(s, p);
    if (!c) {
        c = &s->cells[p.at ^ (s->cells[p.at].count > s->cells[p.at ^ 1].count)];
        *c = (struct cell){.check = p.check};
    }
    c->count++;
    c->surprise += (float)surprise;
}

static void age(struct contexts *s)
{
    for (struct cell *c = s->cells; c < s->cells + CELLS; c++) {
        const uint32_t count = c->count / 2;
        c->surprise = count ? c->surprise * (float)count / (float)c->count : 0.0f;
        c->count = count;
    }
}

double ssm_contexts_read(void *state, uint8_t byte, double p, double *ret_usual)
{
    static const struct cell none;
    struct contexts *s = state;
    struct place context[ORDERS], followed[ORDERS];
    double usual = 1;
    for (int k = 0; k < ORDERS; k++) {
        const uint64_t key = (s->last & ((1ull << 8 * lengths[k]) - 1)) | (uint64_t)(lengths[k] + 1) << 56;
        context[k] = place_of(key);
        followed[k] = place_of(key | 1ull << 63 | (uint64_t)byte << 48);
        const struct cell *c = find(s, context[k]), *f = find(s, followed[k]);
        c = c ? c : &none;
        const double n = c->count, same = f ? fmin(f->count, n) : 0;
        p = (same + BELIEF * p) / (n + BELIEF);
        usual = ((double)c->surprise + BELIEF * usual) / (n + BELIEF);
    }
    const double surprise = -log(p);
    for (int k = 0; k < ORDERS; k++) {
        learn(s, context[k], surprise);
        learn(s, followed[k], 0);
    }
    s->last = s->last << 8 | byte;
    if (++s->learnt % AGE == 0)
        age(s);
    *ret_usual = usual;
    return surprise;
}
