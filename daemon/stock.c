/* stock.c: see stock.h. A piece has a head that knows its chunk. Trap: the current chunk may come back whole while it
 * is current; then it is cut from its beginning again. */
#include "daemon/stock.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

struct head { /* of a piece */
    _Alignas(64) struct md_chunk *chunk;
};

void md_stock_init(struct md_stock *s)
{
    *s = (struct md_stock){0};
    pthread_mutex_init(&s->lock, NULL);
}

static void drop(struct md_stock *s)
{
    if (s->n)
        munmap(s->bytes, s->n * MD_STOCK_CHUNK);
    free(s->chunks);
}

void md_stock_done(struct md_stock *s)
{
    drop(s);
    pthread_mutex_destroy(&s->lock);
}

void md_stock_provide(struct md_stock *s, size_t bytes)
{
    size_t n = (bytes + MD_STOCK_CHUNK - 1) / MD_STOCK_CHUNK;
    struct md_chunk *chunks;
    void *p;

    for (size_t i = 0; i < s->n; i++)
        assert(s->chunks[i].out == 0);
    if (n <= s->n)
        return;
    chunks = calloc(n, sizeof *chunks);
    p = mmap(NULL, n * MD_STOCK_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (!chunks || p == MAP_FAILED) {
        free(chunks);
        if (p != MAP_FAILED)
            munmap(p, n * MD_STOCK_CHUNK);
        return;
    }
    drop(s);
    s->chunks = chunks;
    s->bytes = p;
    s->n = n;
    s->whole = s->current = NULL;
    for (size_t i = n; i-- > 0; s->whole = &chunks[i])
        chunks[i] = (struct md_chunk){.next = s->whole, .bytes = s->bytes + i * MD_STOCK_CHUNK};
}

void *md_stock_take(struct md_stock *s, size_t bytes)
{
    size_t need = (sizeof(struct head) + bytes + 63) / 64 * 64;
    struct head *h = NULL;

    if (need > MD_STOCK_CHUNK)
        return NULL;
    pthread_mutex_lock(&s->lock);
    if (s->whole && (!s->current || s->current->cut + need > MD_STOCK_CHUNK)) {
        s->current = s->whole;
        s->whole = s->current->next;
    }
    if (s->current && s->current->cut + need <= MD_STOCK_CHUNK) {
        h = (struct head *)(void *)(s->current->bytes + s->current->cut);
        h->chunk = s->current;
        s->current->cut += need;
        s->current->out++;
    }
    pthread_mutex_unlock(&s->lock);
    return h ? h + 1 : NULL;
}

void md_stock_give(struct md_stock *s, void *p)
{
    struct md_chunk *c = ((struct head *)p - 1)->chunk;

    pthread_mutex_lock(&s->lock);
    if (--c->out == 0) {
        c->cut = 0;
        if (c != s->current) {
            c->next = s->whole;
            s->whole = c;
        }
    }
    pthread_mutex_unlock(&s->lock);
}
