/* text.h: a text that a byte model writes for a client: what was asked for, and the bytes on their way to it.
 *
 * Two threads have it: the service's (generate.h), which makes it, hands it to a composer and takes its bytes; and the
 * engine's (composer.h), until it has ended. The last one frees it. What is between them stands under its lock; the
 * queue is bounded, and a text whose queue is full waits for the client. */
#ifndef MD_TEXT_H
#define MD_TEXT_H

#include <pthread.h>

#include "daemon/sampler.h"
#include "ssm/ssm.h"

struct md_inbox;

enum { MD_TEXT_QUEUE = 4096, MD_TEXT_CHUNK = 256, MD_TEXT_STOP = 256 };

struct md_text {
    /* asked for; fixed once it is handed over */
    struct md_sampling how;
    uint64_t n;      /* bytes wanted, ≥ 1 */
    uint8_t *prompt; /* owned; [prompt_n] */
    size_t prompt_n; /* 0: it begins behind the stream's last byte */
    char *stop;      /* owned; "" : none */
    char *stream;    /* owned; the live stream whose state it goes on from; NULL: a fresh one */
    int notify;      /* eventfd of the service: something has come */

    /* between the two */
    pthread_mutex_t lock;
    struct md_inbox *inbox; /* of the engine that has it; NULL: none has */
    const char *reason;     /* why it ended; NULL: it has not */
    const char *error;      /* instead of the reason, where something went wrong */
    bool dropped;           /* nobody wants it any more */
    unsigned owners;
    uint32_t first, waiting; /* of queue */
    uint8_t queue[MD_TEXT_QUEUE];

    /* the engine's */
    struct md_text *next;
    struct ssm_slot slot;
    struct md_sampler sampler;
    size_t at;       /* bytes of the prompt that were read */
    uint32_t n_read; /* by the batch that it is in */
    uint64_t made;
    bool flying, has_slot;
    uint8_t tail[MD_TEXT_STOP]; /* its last bytes, the newest last */
    int32_t tokens[MD_TEXT_CHUNK];
    float logits[MD_BYTES];
};

/* Takes the prompt over; copies the others. NULL: out of memory, and the prompt is the caller's. One owner. */
struct md_text *md_text_new(const struct md_sampling *how, uint64_t n, uint8_t *prompt, size_t prompt_n,
                            const char *stop, const char *stream, int notify);
void md_text_leave(struct md_text *t); /* one owner less; the last one frees it */

/* Service. The bytes that wait, up to all of them; whether that is the end, and how it ended. */
uint32_t md_text_peek(struct md_text *t, uint8_t ret[MD_TEXT_QUEUE], const char **ret_reason, const char **ret_error);
void md_text_consume(struct md_text *t, uint32_t n);
void md_text_drop(struct md_text *t); /* and leaves it */

/* Engine. */
bool md_text_has_room(struct md_text *t, bool *ret_dropped);
void md_text_put(struct md_text *t, uint8_t byte);
void md_text_end(struct md_text *t, const char *reason, const char *error);

#endif
