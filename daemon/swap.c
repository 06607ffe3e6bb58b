/* swap.c: see swap.h. Trap: what the new model means by a patch, a horizon, a quantile is another thing: plans are made
 * anew afterwards (md_registry_replan()), and an epoch that ends is counted by the old one. */
#include "daemon/swap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/input.h"
#include "daemon/log.h"

/* But for `carry`, which is only asked. */
static bool same_keys(const struct md_model_conf *a, const struct md_model_conf *b)
{
    return !strcmp(a->path, b->path) && !strcmp(a->device, b->device) && a->weights_stored == b->weights_stored &&
           a->weights == b->weights && a->state == b->state && a->deterministic == b->deterministic &&
           a->slots == b->slots && a->threads == b->threads;
}

int md_swap_open(struct md_swap *w, struct md_served_model *m, const struct md_model_conf *had,
                 const struct md_model_conf *conf, bool adapt, uint32_t texts, char *reterr)
{
    const struct md_loaded *old = &m->loaded;
    struct md_loaded *new = &w->other;
    int r = md_load_folder(conf, false, new, reterr);

    w->served = m;
    if (r)
        return r;
    if (had && same_keys(had, conf) && new->hash == old->hash) {
        md_unload(new);
        return 0;
    }
    w->alike = had && ssm_model_shape_hash(new->model) == ssm_model_shape_hash(old->model);
    w->exact = had && new->hash == old->hash;
    w->carries = w->exact || (w->alike && conf->carry);
    r = md_load_engine(conf, NULL, adapt, texts, new, reterr);
    if (r)
        md_unload(new);
    w->due = r == 0;
    return r;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

static int move_slot(struct md_swap *w, struct ssm_slot from, struct ssm_slot *ret, void *bytes, char *text)
{
    bool exact = true;
    int r = ssm_slot_take(w->other.engine, ret);

    if (r || !w->carries)
        return r;
    r = ssm_slot_save(w->served->loaded.engine, from, bytes);
    if (r == 0)
        r = ssm_slot_restore(w->other.engine, *ret, bytes, ssm_slot_bytes(w->served->loaded.engine), &exact, text);
    w->exact &= exact;
    return r;
}

static int move_slots(struct md_swap *w, struct ssm_slot *to, void *bytes, char *text)
{
    int r = 0;

    for (struct io_stream *s = w->served->scheduler.open.head; s && r == 0; s = s->course.next_open)
        for (uint32_t i = 0; i < s->channels && r == 0; i++)
            r = move_slot(w, s->course.slots[i], to++, bytes, text);
    return r;
}

/* Cells of the spill file that there are beside the new slots. */
static uint64_t cells_of(const struct md_swap *w)
{
    const struct md_spill *sp = &w->served->scheduler.spill;

    return w->carries ? sp->max_cells : sp->limit / ssm_slot_bytes(w->other.engine);
}

int md_swap_move(struct md_swap *w, char *reterr)
{
    const struct md_loaded *old = &w->served->loaded;
    const char *id = w->served->scheduler.model;
    const struct md_inbox *in = &w->served->scheduler.inbox;
    uint32_t used = w->served->scheduler.spill.resident, widest = in->taken ? in->widest : 0;
    uint64_t cells = cells_of(w);
    char text[SSM_ERR] = "";
    void *bytes = NULL;
    int r = -ENOMEM;

    used = md_spill_on(&w->served->scheduler.spill) ? (used > widest ? used : widest) : in->taken;
    if (in->taken > w->other.slots && in->taken + 2 * (uint64_t)widest > w->other.slots + cells)
        used = in->taken;
    if (used > w->other.slots) {
        snprintf(reterr, IO_ERR, "models.%.200s.slots: %u are too few: %u are in use", id, w->other.slots, used);
        return -EINVAL;
    }
    if (!old->engine)
        return 0;
    w->exact &= ssm_engine_exact(old->engine);
    w->slots = calloc(used + 1, sizeof *w->slots);
    bytes = malloc(ssm_slot_bytes(old->engine));
    if (w->slots && bytes)
        r = move_slots(w, w->slots, bytes, text);
    free(bytes);
    if (r)
        snprintf(reterr, IO_ERR, "models.%.200s: the streams' states cannot go over: %.200s", id,
                 *text          ? text
                 : r == -ENOMEM ? "out of memory"
                                : "a device failed");
    return r ? -EINVAL : 0;
}

void md_swap_exchange(struct md_swap *w)
{
    struct ssm_slot *at = w->slots;

    md_served_exchange(w->served, &w->other);
    for (struct io_stream *s = w->served->scheduler.open.head; s; s = s->course.next_open)
        for (uint32_t i = 0; i < s->channels; i++, at++) {
            struct ssm_slot had = s->course.slots[i];
            s->course.slots[i] = *at;
            *at = had;
        }
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static void end_epoch(struct md_swap *w, struct io_stream *s)
{
    struct md_course *c = &s->course;

    c->anew = 1 + (uint32_t)(c->time.rows % w->other.info.patch);
    c->n_runs = 0;
    c->inexact = false;
    md_timeline_reset(&c->time);
    w->served->scheduler.anew = true;
}

/* What waits in a snapshot's file for its stream to begin again. */
static bool settle_restored(struct io_stream *s, void *arg)
{
    const struct md_swap *w = arg;
    struct md_course *c = &s->course;

    if (s->inbox != &w->served->scheduler.inbox || !c->restored.open)
        return true;
    if (w->carries) {
        c->restored.inexact |= w->other.hash != w->served->loaded.hash;
        return true;
    }
    c->lost = c->lost == IO_SEQ_NONE ? c->time.next : c->lost;
    md_restored_drop(&c->restored);
    return true;
}

static void say(const struct md_swap *w, uint32_t n)
{
    const char *id = w->served->scheduler.model;

    md_loaded_say(&w->served->loaded, id);
    if (n && w->carries)
        md_log(MD_INFO, id, "streams that go on with their states%s: %u",
               w->exact ? "" : ", and say exact: false until they begin anew", n);
    else if (n)
        md_log(MD_WARN, id, "streams that begin new epochs (%s): %u",
               w->alike ? "other weights, without `carry`" : "another architecture", n);
}

/* What of a stream is on the disk goes along as it lies there, or not at all. */
static uint32_t settle_list(struct md_swap *w, const struct md_stream_list *list)
{
    uint32_t n = 0;

    for (struct io_stream *s = list->head; s; s = s->course.next_open, n++) {
        if (w->carries) {
            s->course.inexact |= !w->exact;
            continue;
        }
        end_epoch(w, s);
        md_spill_drop(&w->served->scheduler, s);
    }
    return n;
}

void md_swap_settle(struct md_swap *w, struct md_registry *r)
{
    struct md_scheduler *sch = &w->served->scheduler;
    uint32_t n;

    n = settle_list(w, &sch->open) + settle_list(w, &sch->away);
    if (!w->carries) {
        md_spill_fit(&sch->spill, ssm_slot_bytes(sch->engine));
        sch->inbox.cells = sch->spill.max_cells;
    }
    md_registry_each(r, settle_restored, w);
    if (!w->served->loaded.info.bytes)
        md_composer_refuse(&sch->composer, "reload"); /* what came just before it */
    say(w, n);
}

void md_swap_done(struct md_swap *w)
{
    md_unload(&w->other);
    free(w->slots);
    w->slots = NULL;
}
