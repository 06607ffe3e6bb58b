/* stream_cache.c: see stream_cache.h. Memory is taken when an id is new, so a steady set of streams allocates nothing.
 */
#include "io/stream_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 64, LIMIT = 1 << 18, SWEEP_MIN = 1024 };

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93;
    return h ^ h >> 32;
}

static uint64_t hash(const struct io_stream_cache *c, const char *id, size_t len)
{
    uint64_t h = c->seed ^ len * 0x9e3779b97f4a7c15, w;

    for (; len >= 8; len -= 8, id += 8) {
        memcpy(&w, id, 8);
        h = mix(h ^ w);
    }
    w = 0;
    memcpy(&w, id, len);
    return mix(mix(h ^ w));
}

int io_stream_cache_init(struct io_stream_cache *c, uint64_t seed, const struct io_host *host,
                         void (*free_extra)(void *extra))
{
    *c = (struct io_stream_cache){
        .mask = FIRST - 1, .sweep_at = SWEEP_MIN, .seed = seed, .host = host, .free_extra = free_extra};
    c->table = calloc(FIRST, sizeof *c->table);
    return c->table ? 0 : -ENOMEM;
}

static void free_entry(struct io_stream_cache *c, struct io_cached *e)
{
    c->free_extra(e->extra);
    free(e->sender);
    free(e);
}

void io_stream_cache_done(struct io_stream_cache *c)
{
    for (size_t i = 0; c->table && i <= c->mask; i++) {
        if (!c->table[i])
            continue;
        c->host->let_go(c->host->self, c->table[i]->stream, true);
        free_entry(c, c->table[i]);
    }
    free(c->table);
    c->table = NULL;
}

struct io_cached *io_stream_cache_find(const struct io_stream_cache *c, const char *id)
{
    size_t len = strlen(id);
    uint64_t h = hash(c, id, len);

    for (size_t i = h & c->mask; c->table[i]; i = (i + 1) & c->mask) {
        struct io_cached *e = c->table[i];
        if (e->hash == h && e->len == len && !memcmp(e->id, id, len))
            return e;
    }
    return NULL;
}

static void put(struct io_cached **table, size_t mask, struct io_cached *e)
{
    size_t i = e->hash & mask;

    while (table[i])
        i = (i + 1) & mask;
    table[i] = e;
}

static int grow(struct io_stream_cache *c)
{
    size_t mask = c->mask * 2 + 1;
    struct io_cached **table = calloc(mask + 1, sizeof *table);

    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i <= c->mask; i++) {
        if (c->table[i])
            put(table, mask, c->table[i]);
    }
    free(c->table);
    c->table = table;
    c->mask = mask;
    return 0;
}

static void sweep(struct io_stream_cache *c, bool all)
{
    for (size_t i = 0; i <= c->mask; i++)
        while (c->table[i] && c->host->let_go(c->host->self, c->table[i]->stream, all))
            io_stream_cache_drop(c, c->table[i]); /* another may take its place */
}

/* Ids that fall silent and never come back must not pile up, here or in the daemon. What a sweep costs is shared by as
 * many additions. */
static void make_way(struct io_stream_cache *c)
{
    sweep(c, false);
    if (c->n > LIMIT - LIMIT / 8)
        sweep(c, true);
    c->sweep_at = c->n > LIMIT / 2 ? LIMIT : c->n > SWEEP_MIN / 2 ? c->n * 2 : SWEEP_MIN;
}

int io_stream_cache_add(struct io_stream_cache *c, const char *id, struct io_cached **ret)
{
    size_t len = strlen(id);
    struct io_cached *e;

    if (c->n >= c->sweep_at)
        make_way(c);
    if (c->n * 2 > c->mask && grow(c))
        return -ENOMEM;
    e = calloc(1, sizeof *e + len + 1);
    if (!e)
        return -ENOMEM;
    memcpy(e->id, id, len + 1);
    e->len = (uint32_t)len;
    e->hash = hash(c, id, len);
    put(c->table, c->mask, e);
    c->n++;
    *ret = e;
    return 0;
}

/* Whoever probed past the hole is put in anew, so that no tombstones are needed. */
void io_stream_cache_drop(struct io_stream_cache *c, struct io_cached *entry)
{
    size_t i = entry->hash & c->mask;

    while (c->table[i] != entry)
        i = (i + 1) & c->mask;
    c->table[i] = NULL;
    free_entry(c, entry);
    c->n--;
    for (i = (i + 1) & c->mask; c->table[i]; i = (i + 1) & c->mask) {
        struct io_cached *e = c->table[i];
        c->table[i] = NULL;
        put(c->table, c->mask, e);
    }
}
