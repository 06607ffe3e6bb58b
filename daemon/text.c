/* text.c: see text.h. */
#include "daemon/text.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/inbox.h"

static void free_text(struct md_text *t)
{
    free(t->prompt);
    free(t->stop);
    free(t->stream);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

struct md_text *md_text_new(const struct md_sampling *how, uint64_t n, uint8_t *prompt, size_t prompt_n,
                            const char *stop, const char *stream, int notify)
{
    struct md_text *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    t->how = *how;
    t->n = n;
    t->prompt_n = prompt_n;
    t->notify = notify;
    t->owners = 1;
    t->stop = strdup(stop ? stop : "");
    t->stream = stream ? strdup(stream) : NULL;
    if (!t->stop || (stream && !t->stream)) {
        free_text(t);
        return NULL;
    }
    t->prompt = prompt;
    return t;
}

void md_text_leave(struct md_text *t)
{
    pthread_mutex_lock(&t->lock);
    bool last = --t->owners == 0;
    pthread_mutex_unlock(&t->lock);
    if (last)
        free_text(t);
}

/* ---- the service's side ------------------------------------------------------------------------------------------ */

uint32_t md_text_peek(struct md_text *t, uint8_t ret[MD_TEXT_QUEUE], const char **ret_reason, const char **ret_error)
{
    pthread_mutex_lock(&t->lock);
    uint32_t n = t->waiting;
    for (uint32_t i = 0; i < n; i++)
        ret[i] = t->queue[(t->first + i) % MD_TEXT_QUEUE];
    *ret_reason = t->reason;
    *ret_error = t->error;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void md_text_consume(struct md_text *t, uint32_t n)
{
    pthread_mutex_lock(&t->lock);
    bool was_full = t->waiting == MD_TEXT_QUEUE;
    t->first = (t->first + n) % MD_TEXT_QUEUE;
    t->waiting -= n;
    if (was_full && t->inbox)
        md_inbox_call(t->inbox);
    pthread_mutex_unlock(&t->lock);
}

void md_text_drop(struct md_text *t)
{
    pthread_mutex_lock(&t->lock);
    t->dropped = true;
    if (t->inbox)
        md_inbox_call(t->inbox);
    pthread_mutex_unlock(&t->lock);
    md_text_leave(t);
}

/* ---- the engine's side ------------------------------------------------------------------------------------------- */

bool md_text_has_room(struct md_text *t, bool *ret_dropped)
{
    pthread_mutex_lock(&t->lock);
    bool room = t->waiting < MD_TEXT_QUEUE;
    *ret_dropped = t->dropped;
    pthread_mutex_unlock(&t->lock);
    return room;
}

void md_text_put(struct md_text *t, uint8_t byte)
{
    pthread_mutex_lock(&t->lock);
    t->queue[(t->first + t->waiting++) % MD_TEXT_QUEUE] = byte;
    pthread_mutex_unlock(&t->lock);
}

void md_text_end(struct md_text *t, const char *reason, const char *error)
{
    pthread_mutex_lock(&t->lock);
    t->reason = reason;
    t->error = error;
    t->inbox = NULL;
    pthread_mutex_unlock(&t->lock);
}
