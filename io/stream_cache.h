/* stream_cache.h: a source's memory of which daemon stream an id stands for, so that a message costs one hash look-up
 * and no call. Only a hint: an entry may be dropped at any time, and the daemon is asked again. One thread. */
#ifndef IO_STREAM_CACHE_H
#define IO_STREAM_CACHE_H

#include "io/source.h"

struct io_cached {
    struct io_stream *stream;
    void *extra;  /* the source's own about this stream; freed with the entry */
    void *sender; /* whose it is, where senders can send again (zmq_router.h); malloc'ed, freed with the entry */
    double rate;  /* of the messages, before resampling */
    uint32_t channels;
    bool irregular;
    uint32_t len;
    uint64_t hash;
    char id[];
};

struct io_stream_cache {
    struct io_cached **table; /* open addressing, linear probing, never more than half full */
    size_t mask, n;
    size_t sweep_at; /* before there are more, those that the daemon lets go leave */
    uint64_t seed;
    const struct io_host *host;
    void (*free_extra)(void *extra);
};

/* A seed that senders cannot know; free_extra takes NULL too. Of the host let_go() is called. */
int io_stream_cache_init(struct io_stream_cache *c, uint64_t seed, const struct io_host *host,
                         void (*free_extra)(void *extra));
void io_stream_cache_done(struct io_stream_cache *c); /* all are given back */
struct io_cached *io_stream_cache_find(const struct io_stream_cache *c, const char *id);
/* Adds an id that is not there. -ENOMEM. Others may leave for it: those of ended streams; near its limit all. */
int io_stream_cache_add(struct io_stream_cache *c, const char *id, struct io_cached **ret);
void io_stream_cache_drop(struct io_stream_cache *c, struct io_cached *entry);

#endif
