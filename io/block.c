/* block.c: the pool of blocks. Free lists of power-of-two classes under one short lock; memory comes from malloc while
 * the pool grows and stays with the pool. When the limit is near, free blocks of other classes make room.
 *
 * Any thread. The pool owns free blocks; a block handed out belongs to whoever holds it. The lock is never held across
 * malloc() or free(): a scheduler that puts blocks back must not wait for a page fault of a source. */
#include "io/block.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CLASS_SHIFT = 6, CLASSES = 15 }; /* 64 bytes … IO_BLOCK_MAX */
static_assert((size_t)1 << (CLASS_SHIFT + CLASSES - 1) == IO_BLOCK_MAX, "the last class is the largest block");

struct io_pool {
    pthread_mutex_t lock;
    struct io_block *free[CLASSES];
    size_t limit, used, held, peak; /* bytes with headers: of blocks out, of all blocks; most ever out */
};

static size_t class_capacity(unsigned c)
{
    return (size_t)1 << (CLASS_SHIFT + c);
}

static size_t class_bytes(unsigned c)
{
    return sizeof(struct io_block) + class_capacity(c);
}

static unsigned class_of(size_t payload)
{
    if (payload <= class_capacity(0))
        return 0;
    return (unsigned)(64 - __builtin_clzll((unsigned long long)payload - 1)) - CLASS_SHIFT;
}

int io_pool_new(size_t limit, struct io_pool **ret)
{
    struct io_pool *p = calloc(1, sizeof *p);
    pthread_mutexattr_t attr;

    if (!p)
        return -ENOMEM;
    p->limit = limit;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* spins first: the section is a few instructions */
    pthread_mutex_init(&p->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    *ret = p;
    return 0;
}

static void free_list(struct io_block *list)
{
    while (list) {
        struct io_block *next = list->next;
        free(list);
        list = next;
    }
}

void io_pool_free(struct io_pool **pool)
{
    struct io_pool *p = *pool;

    if (!p)
        return;
    assert(p->used == 0 && "every block was put back");
    for (unsigned c = 0; c < CLASSES; c++)
        free_list(p->free[c]);
    pthread_mutex_destroy(&p->lock);
    free(p);
    *pool = NULL;
}

/* Unlinks free blocks, largest first, until `bytes` more fit under the limit; the caller frees the list. */
static struct io_block *make_room(struct io_pool *p, size_t bytes)
{
    struct io_block *out = NULL;

    for (unsigned c = CLASSES; c-- > 0;) {
        while (p->free[c] && p->held + bytes > p->limit) {
            struct io_block *b = p->free[c];
            p->free[c] = b->next;
            p->held -= class_bytes(c);
            b->next = out;
            out = b;
        }
    }
    return out;
}

static void count_out(struct io_pool *p, size_t bytes)
{
    p->used += bytes;
    if (p->used > p->peak)
        p->peak = p->used;
}

static void give_up(struct io_pool *p, size_t bytes)
{
    pthread_mutex_lock(&p->lock);
    p->used -= bytes;
    p->held -= bytes;
    pthread_mutex_unlock(&p->lock);
}

struct io_block *io_block_get(struct io_pool *p, size_t payload)
{
    unsigned c = class_of(payload);
    struct io_block *b, *evicted = NULL;
    bool fits = true;

    assert(payload <= IO_BLOCK_MAX);
    pthread_mutex_lock(&p->lock);
    b = p->free[c];
    if (b) {
        p->free[c] = b->next;
    } else {
        evicted = make_room(p, class_bytes(c));
        fits = p->held + class_bytes(c) <= p->limit;
        p->held += fits ? class_bytes(c) : 0;
    }
    if (fits)
        count_out(p, class_bytes(c));
    pthread_mutex_unlock(&p->lock);
    free_list(evicted);

    if (!b && fits) {
        b = malloc(class_bytes(c));
        if (!b)
            give_up(p, class_bytes(c));
    }
    if (!b)
        return NULL;
    memset(b, 0, sizeof *b);
    b->class_ = c;
    b->capacity = (uint32_t)class_capacity(c);
    return b;
}

void io_block_put(struct io_pool *p, struct io_block *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&p->lock);
    b->next = p->free[b->class_];
    p->free[b->class_] = b;
    p->used -= class_bytes(b->class_);
    pthread_mutex_unlock(&p->lock);
}

void io_pool_usage(struct io_pool *p, size_t *ret_used, size_t *ret_held, size_t *ret_peak)
{
    pthread_mutex_lock(&p->lock);
    *ret_used = p->used;
    *ret_held = p->held;
    *ret_peak = p->peak;
    pthread_mutex_unlock(&p->lock);
}
