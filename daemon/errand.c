/* errand.c: see errand.h. Trap: who asked may have given up meanwhile, or ask for another stream; the answer is only
 * for the one that is still asked for. */
#include "daemon/errand.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cut.h"
#include "daemon/input.h"

void md_errand_init(struct md_errand *e)
{
    pthread_condattr_t clock;

    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&e->answered, &clock);
    pthread_condattr_destroy(&clock);
}

void md_errand_done(struct md_errand *e)
{
    pthread_cond_destroy(&e->answered);
}

int md_errand_ask(struct md_scheduler *sch, const struct io_stream *s, const char *id)
{
    struct md_inbox *in = &sch->inbox;
    struct md_errand *e = &sch->errand;
    bool ending;

    pthread_mutex_lock(&in->lock);
    ending = in->draining;
    if (!ending) {
        strncpy(e->id, id, IO_ID_MAX);
        e->result = 1;
        in->errand = s;
        pthread_cond_signal(&in->wake);
    }
    pthread_mutex_unlock(&in->lock);
    return ending ? -ESHUTDOWN : 0;
}

int md_errand_await(struct md_scheduler *sch, int64_t until_ns, struct md_piece **ret_piece, struct md_voice *ret_voice)
{
    struct md_inbox *in = &sch->inbox;
    struct md_errand *e = &sch->errand;
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    int r = 0;

    pthread_mutex_lock(&in->lock);
    while (e->result > 0 && r == 0)
        r = pthread_cond_timedwait(&e->answered, &in->lock, &until);
    in->errand = NULL;
    r = e->result > 0 ? -r : e->result;
    if (r == 0) {
        *ret_piece = e->piece;
        *ret_voice = e->voice;
    }
    pthread_mutex_unlock(&in->lock);
    return r;
}

static void answer(struct md_scheduler *sch, int result, struct md_piece *piece, const struct md_voice *voice)
{
    struct md_errand *e = &sch->errand;

    pthread_mutex_lock(&sch->inbox.lock);
    if (sch->inbox.errand && sch->inbox.errand == sch->asked_for) {
        e->result = result;
        e->piece = piece;
        e->voice = *voice;
        sch->inbox.errand = NULL;
        pthread_cond_signal(&e->answered);
        piece = NULL;
    }
    pthread_mutex_unlock(&sch->inbox.lock);
    md_piece_free(piece);
    sch->asked_for = NULL;
}

/* The registry's lock guards a stream without slots, and keeps any from being forgotten. */
void md_errand_run(struct md_scheduler *sch)
{
    struct md_registry *r = sch->registry;
    char id[IO_ID_MAX + 1];
    struct md_piece *piece = NULL;
    struct md_voice voice = {0};
    int result = -ENOENT;

    pthread_mutex_lock(&sch->inbox.lock);
    memcpy(id, sch->errand.id, sizeof id);
    pthread_mutex_unlock(&sch->inbox.lock);
    pthread_mutex_lock(&r->lock);
    struct io_stream *s = md_registry_find(r, id, (uint32_t)strlen(id));
    if (s && s == sch->asked_for && s->inbox == &sch->inbox && s->course.returning) {
        if (atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0) {
            pthread_mutex_unlock(&r->lock);
            return; /* what it was in is still being published */
        }
        bool failed = atomic_load(&sch->failed); /* what an ended stream holds may lack rows, too */
        piece = failed ? NULL : md_cut_copy(sch, sch->model, s, NULL);
        voice = s->voice;
        result = piece ? 0 : failed ? -EIO : -ENOMEM;
    }
    pthread_mutex_unlock(&r->lock);
    answer(sch, result, piece, &voice);
}

void md_errand_cancel(struct md_scheduler *sch)
{
    pthread_mutex_lock(&sch->inbox.lock);
    sch->asked_for = sch->inbox.errand;
    pthread_mutex_unlock(&sch->inbox.lock);
    if (sch->asked_for)
        answer(sch, -ESHUTDOWN, NULL, &(struct md_voice){0});
}
