/* composer.c: see composer.h. Trap: a text is in one batch at a time; between its fill and its landing it is `flying`,
 * and neither its slot nor its buffers may be touched. */
#include "daemon/composer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "daemon/scheduler.h"

enum { PROMPT_ROWS = 512 }; /* of all prompts in a batch, so that streams do not wait long for it */

void md_composer_init(struct md_composer *c)
{
    pthread_mutex_init(&c->lock, NULL);
}

static void forget(struct md_text *list, const char *reason)
{
    while (list) {
        struct md_text *t = list;
        list = t->next;
        md_text_end(t, reason, NULL);
        eventfd_write(t->notify, 1);
        md_text_leave(t);
    }
}

/* Whole, oldest first; the composer has none of them any more. */
static struct md_text *take_arrived(struct md_composer *c)
{
    struct md_text *list;

    pthread_mutex_lock(&c->lock);
    list = c->arrived;
    c->arrived = NULL;
    atomic_store(&c->any_arrived, false);
    pthread_mutex_unlock(&c->lock);
    return list;
}

void md_composer_refuse(struct md_composer *c, const char *reason)
{
    forget(take_arrived(c), reason);
}

void md_composer_done(struct md_composer *c)
{
    md_composer_refuse(c, "shutdown");
    pthread_mutex_destroy(&c->lock);
}

void md_composer_add(struct md_scheduler *s, struct md_text *t)
{
    struct md_text **last;

    t->owners++; /* nobody else has it yet */
    t->inbox = &s->inbox;
    pthread_mutex_lock(&s->composer.lock);
    for (last = &s->composer.arrived; *last; last = &(*last)->next)
        ;
    *last = t;
    atomic_store(&s->composer.any_arrived, true);
    pthread_mutex_unlock(&s->composer.lock);
    md_inbox_call(&s->inbox);
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

/* The text leaves this thread. Its bytes that wait are sent yet. */
static void finish(struct md_scheduler *s, struct md_text *t, const char *reason, const char *error)
{
    struct md_text **at;

    for (at = &s->composer.open; *at && *at != t; at = &(*at)->next)
        ;
    if (*at)
        *at = t->next;
    if (t->has_slot)
        ssm_slot_give(s->engine, t->slot);
    atomic_store_explicit(&s->slots_used, ssm_slots_used(s->engine), memory_order_relaxed);
    md_text_end(t, reason, error);
    eventfd_write(t->notify, 1);
    md_text_leave(t);
}

static bool at_stop(const struct md_text *t)
{
    size_t n = strlen(t->stop);

    return n > 0 && t->made >= n && memcmp(t->tail + MD_TEXT_STOP - n, t->stop, n) == 0;
}

/* The byte behind what was read; it may be the last. */
static void draw(struct md_scheduler *s, struct md_text *t)
{
    float p[MD_BYTES];
    uint8_t byte;

    md_sampler_weigh(&t->sampler, t->logits, p);
    byte = md_sampler_pick(&t->sampler, p);
    md_sampler_saw(&t->sampler, byte);
    memmove(t->tail, t->tail + 1, MD_TEXT_STOP - 1);
    t->tail[MD_TEXT_STOP - 1] = byte;
    t->made++;
    md_text_put(t, byte);
    md_bump(&s->composer.counters.bytes, 1);
    if (at_stop(t))
        finish(s, t, "stop", NULL);
    else if (t->made == t->n)
        finish(s, t, "length", NULL);
}

/* The stream's slot here, if it is live. */
static bool find_slot(struct md_scheduler *s, const char *id, struct ssm_slot *ret)
{
    struct md_registry *r = s->registry;
    struct io_stream *stream;
    bool found;

    pthread_mutex_lock(&r->lock);
    stream = md_registry_find(r, id, (uint32_t)strlen(id));
    found = stream && stream->inbox == &s->inbox && stream->course.slots;
    if (found)
        *ret = stream->course.slots[0]; /* ends in this thread only */
    pthread_mutex_unlock(&r->lock);
    return found;
}

static const char *begin(struct md_scheduler *s, struct md_text *t)
{
    struct ssm_slot from;
    int r = md_scheduler_heard(s, ssm_slot_take(s->engine, &t->slot));

    if (r)
        return r == -EIO ? "the device failed" : "the model has no slot left";
    t->has_slot = true;
    if (t->stream && !find_slot(s, t->stream, &from))
        return "the stream is not live, or its state lies on the disk";
    if (t->stream && md_scheduler_heard(s, ssm_slot_copy(s->engine, from, t->slot)))
        return "the device failed";
    if (t->prompt_n == 0 && !ssm_slot_logits(s->engine, t->slot, t->logits))
        return "the stream has read nothing yet";
    md_sampler_init(&t->sampler, &t->how, 0);
    for (size_t i = 0; i < t->prompt_n; i++)
        md_sampler_saw(&t->sampler, t->prompt[i]);
    return NULL;
}

static void take_up(struct md_scheduler *s)
{
    struct md_composer *c = &s->composer;
    struct md_text *next;

    for (struct md_text *t = atomic_load(&c->any_arrived) ? take_arrived(c) : NULL; t; t = next) {
        const char *error = begin(s, t);
        struct md_text **last = &c->open;
        next = t->next;
        while (*last)
            last = &(*last)->next;
        *last = t;
        t->next = NULL;
        if (error)
            finish(s, t, NULL, error);
        else if (t->prompt_n == 0)
            draw(s, t);
    }
}

void md_composer_end(struct md_scheduler *s, const char *reason)
{
    struct md_text *next;

    for (struct md_text *t = s->composer.open; t; t = next) {
        next = t->next;
        if (!t->flying)
            finish(s, t, reason, NULL);
    }
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

/* How many bytes the text reads in this batch: the prompt but for its last byte in portions, then byte by byte. Older
 * texts' prompts come first; 0: the others wait. */
static uint32_t portion(const struct md_text *t, uint32_t *rows)
{
    size_t left = t->prompt_n - t->at;
    uint32_t most = *rows < MD_TEXT_CHUNK ? *rows : MD_TEXT_CHUNK;

    if (left <= 1)
        return 1;
    most = left - 1 < most ? (uint32_t)(left - 1) : most;
    *rows -= most;
    return most;
}

void md_composer_fill(struct md_scheduler *s, struct md_batch *b)
{
    struct md_text *next;
    uint32_t rows = PROMPT_ROWS;

    take_up(s);
    s->composer.ready = false; /* who is left waits for the client, which calls, or for a batch to land */
    for (struct md_text *t = s->composer.open; t; t = next) {
        bool dropped, room = md_text_has_room(t, &dropped);
        next = t->next;
        if (t->flying)
            continue;
        if (dropped) {
            finish(s, t, NULL, NULL);
            continue;
        }
        t->n_read = room ? portion(t, &rows) : 0;
        size_t i = t->n_read ? md_arena_add(&b->texts, 1, sizeof t) : SIZE_MAX;
        if (i == SIZE_MAX)
            continue; /* without memory in a later batch */
        ((struct md_text **)b->texts.p)[i] = t;
        t->flying = true;
    }
}

/* From the prompt's last byte on the logits are wanted. */
static void fill_item(struct md_text *t, struct ssm_item *item)
{
    size_t left = t->prompt_n - t->at;

    for (uint32_t i = 0; i < t->n_read; i++)
        t->tokens[i] = left ? t->prompt[t->at + i] : t->tail[MD_TEXT_STOP - 1];
    *item = (struct ssm_item){.slot = t->slot, .n = t->n_read, .tokens = t->tokens, .interval = 1};
    if (left <= 1)
        item->out = (struct ssm_out){.logits = t->logits, .logits_stride = MD_BYTES};
}

uint32_t md_composer_items(struct md_batch *b)
{
    size_t first = md_arena_add(&b->items, b->texts.n, sizeof(struct ssm_item));
    struct md_text **texts = b->texts.p;

    for (size_t i = 0; first != SIZE_MAX && i < b->texts.n; i++)
        fill_item(texts[i], (struct ssm_item *)b->items.p + first + i);
    for (size_t i = 0; first == SIZE_MAX && i < b->texts.n; i++)
        texts[i]->flying = false; /* they wait for memory */
    b->texts.n = first == SIZE_MAX ? 0 : b->texts.n;
    return (uint32_t)b->items.n;
}

void md_composer_land(struct md_scheduler *s, struct md_batch *b)
{
    struct md_text **texts = b->texts.p;
    int notify = b->texts.n ? texts[0]->notify : -1; /* the same for all; texts that end may be gone at once */

    for (size_t i = 0; i < b->texts.n; i++) {
        struct md_text *t = texts[i];
        size_t left = t->prompt_n - t->at;
        t->flying = false;
        if (b->failed) {
            finish(s, t, NULL, "the device failed");
            continue;
        }
        t->at += left ? t->n_read : 0;
        md_bump(&s->composer.counters.prompt_bytes, left ? t->n_read : 0);
        if (left > 1)
            continue;
        draw(s, t);
    }
    s->composer.ready = s->composer.open != NULL;
    if (notify >= 0)
        eventfd_write(notify, 1);
}
