/* stock.h: memory that is there beforehand, for what must not wait for any: taking some neither allocates nor meets a
 * page for the first time, which costs several times what filling it does. What came back last is taken first, so that
 * as long as little is out, all of it stays in the processor's cache. Any thread. */
#ifndef MD_STOCK_H
#define MD_STOCK_H

#include <pthread.h>
#include <stddef.h>

enum { MD_STOCK_CHUNK = 2 << 20 }; /* what is taken at a time is smaller than this */

struct md_chunk { /* pieces are cut off it until it is full; when all have come back it is whole again */
    struct md_chunk *next;
    unsigned char *bytes;
    size_t cut;   /* bytes of it that were cut off */
    unsigned out; /* pieces */
};

struct md_stock {
    pthread_mutex_t lock;
    struct md_chunk *chunks, *whole, *current; /* [n]; those of which all is there; the one that is cut from, or NULL */
    unsigned char *bytes;
    size_t n;
};

void md_stock_init(struct md_stock *s);
void md_stock_done(struct md_stock *s);
/* At least so many bytes; while nothing is out. Where there is no memory it stays as it was. */
void md_stock_provide(struct md_stock *s, size_t bytes);
/* 64-aligned; NULL: nothing is left, or it is too much. */
void *md_stock_take(struct md_stock *s, size_t bytes);
void md_stock_give(struct md_stock *s, void *p);

#endif
