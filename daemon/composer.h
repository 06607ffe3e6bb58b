/* composer.h: texts that one engine writes (text.h), beside its streams and in the same batches: a text reads its
 * prompt in portions, then each batch takes it on by a byte, drawn from the logits of the one before. The engine
 * thread's, but for md_composer_add(). Texts have slots of their own, so they take none from streams. */
#ifndef MD_COMPOSER_H
#define MD_COMPOSER_H

#include "daemon/batch.h"
#include "daemon/text.h"

struct md_scheduler;

struct md_composer_counters { /* written by the engine thread */
    md_count bytes, prompt_bytes;
};

struct md_composer {
    pthread_mutex_t lock;
    struct md_text *arrived; /* added, not yet taken up; oldest first */
    _Atomic bool any_arrived;
    struct md_text *open;
    bool ready; /* some of them can go on */
    struct md_composer_counters counters;
};

void md_composer_init(struct md_composer *c);
void md_composer_refuse(struct md_composer *c, const char *reason); /* ends what has arrived and was not taken up */
void md_composer_done(struct md_composer *c);                       /* the thread has ended, and nobody adds any more */

/* Any thread; the engine becomes an owner. It may be at rest, as during a reload: it takes the text up when it goes on.
 */
void md_composer_add(struct md_scheduler *s, struct md_text *t);

/* Texts that can go on now into the batch. */
void md_composer_fill(struct md_scheduler *s, struct md_batch *b);
/* Appends their items; after md_batch_items(). */
uint32_t md_composer_items(struct md_batch *b);
/* The batch has landed: draws bytes, ends what is at its end. */
void md_composer_land(struct md_scheduler *s, struct md_batch *b);
/* Ends all that are under no batch. */
void md_composer_end(struct md_scheduler *s, const char *reason);

#endif
