/* spill.c: see spill.h. Who leaves is found at the end of the list of resident streams, which is kept in the order in
 * which they ran last.
 *
 * Traps: a stream that leaves is copied for a snapshot under way first; cells are not written again while a snapshot
 * has yet to read them; and when nobody is quiet, streams take turns: one that has had its slots for a while gives them
 * up with rows still queued, so that no stream waits for ever, and no faster than that, so that work is not all disk.
 */
#include "daemon/spill.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/course.h"
#include "daemon/cut.h"
#include "daemon/input.h"

enum {
    LEAVE_MAX = 8,       /* streams at a time, so that reads find a job */
    LOOKED_AT = 64,      /* resident streams in search of a quiet one */
    TURN_NS = 100000000, /* a stream that is not quiet keeps its slots for so long at least */
};

/* ---- cells ------------------------------------------------------------------------------------------------------- */

static int push(uint32_t **list, uint32_t *n, uint32_t *cap, uint32_t cell)
{
    if (*n == *cap) {
        uint32_t more = *cap ? 2 * *cap : 64;
        uint32_t *grown = realloc(*list, more * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        *list = grown;
        *cap = more;
    }
    (*list)[(*n)++] = cell;
    return 0;
}

static void unpin(struct md_spill *sp)
{
    if (atomic_load(&sp->file.pins) > 0)
        return;
    while (sp->n_limbo > 0 && push(&sp->vacant, &sp->n_vacant, &sp->cap_vacant, sp->limbo[sp->n_limbo - 1]) == 0)
        sp->n_limbo--;
}

/* NULL: there are none, or no memory. */
static uint32_t *take_cells(struct md_spill *sp, uint32_t n)
{
    uint32_t *cells;

    unpin(sp);
    if (sp->max_cells - sp->n_cells + sp->n_vacant < n)
        return NULL;
    cells = malloc(n * sizeof *cells);
    for (uint32_t i = 0; cells && i < n; i++)
        cells[i] = sp->n_vacant ? sp->vacant[--sp->n_vacant] : sp->n_cells++;
    atomic_fetch_add_explicit(&sp->counters.cells, cells ? n : 0, memory_order_relaxed);
    return cells;
}

/* Where there is no memory to note that they are vacant they are not used again. */
static void give_cells(struct md_spill *sp, uint32_t *cells, uint32_t n)
{
    unpin(sp);
    for (uint32_t i = 0; i < n; i++)
        push(&sp->limbo, &sp->n_limbo, &sp->cap_limbo, cells[i]);
    unpin(sp);
    atomic_fetch_sub_explicit(&sp->counters.cells, n, memory_order_relaxed);
    free(cells);
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

static void append(struct md_spill_list *l, struct io_stream *s)
{
    s->course.next_spill = NULL;
    *(l->head ? &l->tail->course.next_spill : &l->head) = s;
    l->tail = s;
}

static struct io_stream *pop(struct md_spill_list *l)
{
    struct io_stream *s = l->head;

    if (s)
        l->head = s->course.next_spill;
    return s;
}

static void wait_for_slots(struct md_scheduler *sch, struct io_stream *s)
{
    s->course.since_ns = md_now_ns();
    append(&sch->spill.waiting, s);
    atomic_fetch_add_explicit(&sch->spill.counters.waiting, 1, memory_order_relaxed);
}

static struct io_stream *next_waiting(struct md_spill *sp)
{
    struct io_stream *s = pop(&sp->waiting);

    atomic_fetch_sub_explicit(&sp->counters.waiting, s != NULL, memory_order_relaxed);
    return s;
}

static uint32_t free_slots(const struct md_scheduler *sch)
{
    uint32_t taken =
        sch->spill.resident + sch->spill.promised; /* what else the engine has slots for are none of these */

    return taken < sch->spill.slots ? sch->spill.slots - taken : 0;
}

bool md_spill_busy(const struct md_spill *sp)
{
    return sp->waiting.head || sp->leaving.head || sp->jobs > 0;
}

static void choose(struct md_spill *sp, struct io_stream *s)
{
    s->course.to_leave = true;
    sp->coming += s->channels;
}

static void unchoose(struct md_spill *sp, struct io_stream *s)
{
    sp->coming -= s->course.to_leave ? s->channels : 0;
    s->course.to_leave = false;
}

bool md_spill_parks(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_spill *sp = &sch->spill;
    struct md_course *c = &s->course;

    if (!md_spill_on(sp) && !c->away)
        return false;
    sp->widest = s->channels > sp->widest ? s->channels : sp->widest;
    if (c->to_leave && !c->held) {
        append(&sp->leaving, s);
        return true;
    }
    if (c->slots) {
        unchoose(sp, s);
        md_course_ran(sch, s);
        return false;
    }
    if (c->away && c->end_due && !c->mine && !c->held)
        return false; /* its end needs no slots */
    if (!c->away && !sp->waiting.head && free_slots(sch) >= s->channels)
        return false;
    wait_for_slots(sch, s);
    return true;
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

static bool may_leave(const struct md_scheduler *sch, const struct io_stream *s)
{
    return !s->course.held && !s->course.to_leave && s != sch->asked_for;
}

/* Makes streams leave until `want` slots are free or about to be, or nobody can now: those that have nothing in the
 * inbox, else one whose turn is over. */
static void free_up(struct md_scheduler *sch, uint32_t want)
{
    struct md_spill *sp = &sch->spill;
    int64_t now = md_now_ns();
    struct io_stream *s = sch->open.tail, *before, *turn = NULL;

    for (unsigned i = 0; s && i < LOOKED_AT && free_slots(sch) + sp->coming < want; i++, s = before) {
        before = s->course.prev_open;
        if (!may_leave(sch, s))
            continue;
        if (md_inbox_claim(&sch->inbox, s)) {
            choose(sp, s);
            append(&sp->leaving, s);
        } else if (!turn && now - s->course.since_ns > TURN_NS) {
            turn = s;
        }
    }
    if (free_slots(sch) + sp->coming < want && turn && now - sp->waiting.head->course.since_ns > TURN_NS)
        choose(sp, turn); /* it leaves when it is about to run */
}

/* It has left, or stays after all. */
static void let_go(struct md_scheduler *sch, struct io_stream *s)
{
    unchoose(&sch->spill, s);
    md_inbox_return(&sch->inbox, &s, 1);
}

static void refuse(struct md_scheduler *sch, struct io_stream *s)
{
    md_bump(&sch->spill.counters.refused, 1);
    md_course_refuse(sch, s);
}

/* Those that wait cannot be helped, for now; or those only that have nothing on the disk to change places with. */
static void refuse_waiting(struct md_scheduler *sch, bool only_new)
{
    struct md_spill_list left = sch->spill.waiting;
    struct io_stream *s;

    sch->spill.waiting = (struct md_spill_list){0};
    while ((s = pop(&left)) != NULL) {
        if (only_new && s->course.away) {
            append(&sch->spill.waiting, s);
            continue;
        }
        atomic_fetch_sub_explicit(&sch->spill.counters.waiting, 1, memory_order_relaxed);
        refuse(sch, s);
    }
}

static void has_left(struct md_scheduler *sch, struct md_spill_job *job)
{
    struct io_stream *s = job->stream;

    if (job->result) {
        md_log(MD_ERROR, sch->model, "states cannot be written to the disk, streams that need slots are refused: %s",
               strerror(-job->result));
        give_cells(&sch->spill, job->cells, job->n);
        let_go(sch, s);
        refuse_waiting(sch, job->for_new);
        return;
    }
    md_course_away(sch, s, job->cells);
    md_bump(&sch->spill.counters.written, 1);
    let_go(sch, s);
}

/* 0: it is on its way, or stays; −EAGAIN: not yet, what it was in is still being published, or the disk is busy. */
static int leave(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_spill *sp = &sch->spill;
    struct md_spill_job *job;
    int r = 0;

    if (atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0)
        return -EAGAIN;
    job = md_spill_job_take(&sp->file, s->channels);
    if (!job)
        return -EAGAIN;
    job->cells = take_cells(sp, s->channels);
    if (!job->cells && sp->n_limbo >= s->channels) { /* a snapshot is about to be done with them */
        md_spill_job_give(&sp->file, job);
        return -EAGAIN;
    }
    md_cut_touch(sch, s);
    for (uint32_t i = 0; job->cells && i < s->channels && r == 0; i++)
        r = md_scheduler_heard(sch, ssm_slot_save(sch->engine, s->course.slots[i], job->bytes + i * sp->file.cell));
    if (!job->cells || r) {
        if (job->cells)
            give_cells(sp, job->cells, s->channels);
        md_spill_job_give(&sp->file, job);
        let_go(sch, s);
        refuse_waiting(sch, false);
        return 0;
    }
    job->stream = s;
    job->reads = false;
    /* A newcomer leaves room for two of the widest, so that whoever is away can always change places. */
    job->for_new = sp->waiting.head && !sp->waiting.head->course.away;
    job->upto = sp->n_cells + (job->for_new ? 2 * sp->widest : 0);
    job->upto = job->upto < sp->max_cells ? job->upto : sp->max_cells;
    if (md_spill_job_submit(&sp->file, job)) {
        job->result = -EAGAIN;
        has_left(sch, job);
        md_spill_job_give(&sp->file, job);
    } else {
        sp->jobs++;
    }
    return 0;
}

static void leave_all(struct md_scheduler *sch)
{
    struct md_spill_list left = sch->spill.leaving;
    struct io_stream *s;

    sch->spill.leaving = (struct md_spill_list){0};
    while ((s = pop(&left)) != NULL)
        if (leave(sch, s))
            append(&sch->spill.leaving, s);
}

/* ---- coming back ------------------------------------------------------------------------------------------------- */

/* False: not yet. */
static bool come_back(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_spill *sp = &sch->spill;
    struct md_spill_job *job = md_spill_job_take(&sp->file, s->channels);

    if (!job)
        return false;
    job->stream = s;
    job->cells = s->course.cells;
    job->reads = true;
    if (md_spill_job_submit(&sp->file, job)) {
        md_spill_job_give(&sp->file, job);
        return false;
    }
    sp->jobs++;
    sp->promised += s->channels;
    return true;
}

static void has_come(struct md_scheduler *sch, struct md_batch *b, struct md_spill_job *job)
{
    struct md_spill *sp = &sch->spill;
    struct io_stream *s = job->stream;
    uint32_t *cells = s->course.cells;
    int r;

    sp->promised -= s->channels;
    r = md_course_back(sch, b, s, job->result ? NULL : job->bytes, sp->file.cell);
    if (r == -ENOMEM) { /* no slots on the device after all: it stays where it is */
        refuse(sch, s);
        return;
    }
    if (job->result)
        md_log_stream(MD_ERROR, s->id, strerror(-job->result),
                      "its state cannot be read from the disk, it begins anew: %s", strerror(-job->result));
    md_bump(r ? &sp->counters.lost : &sp->counters.read, 1);
    s->course.cells = NULL;
    give_cells(sp, cells, s->channels);
    md_inbox_return(&sch->inbox, &s, 1);
}

/* Whether the one that has waited for longest gets slots now. */
static bool serve(struct md_scheduler *sch, struct md_batch *b)
{
    struct io_stream *s = sch->spill.waiting.head;

    if (!s || free_slots(sch) < s->channels || (s->course.cells && !come_back(sch, s)))
        return false;
    next_waiting(&sch->spill);
    if (s->course.cells)
        return true;
    if (s->course.away ? md_course_back(sch, b, s, NULL, 0) : md_course_open(sch, s))
        refuse(sch, s);
    else
        md_inbox_return(&sch->inbox, &s, 1);
    return true;
}

static void land(struct md_scheduler *sch, struct md_batch *b, bool wait)
{
    struct md_spill *sp = &sch->spill;
    struct md_spill_job *job;

    while (sp->jobs > 0 && (job = md_spill_job_next(&sp->file, wait)) != NULL) {
        sp->jobs--;
        if (job->reads)
            has_come(sch, b, job);
        else
            has_left(sch, job);
        md_spill_job_give(&sp->file, job);
    }
}

void md_spill_step(struct md_scheduler *sch, struct md_batch *b)
{
    struct md_spill *sp = &sch->spill;
    uint32_t want = 0;
    unsigned n = 0;

    land(sch, b, false);
    while (serve(sch, b))
        ;
    for (const struct io_stream *s = sp->waiting.head; s && n < LEAVE_MAX; s = s->course.next_spill, n++)
        want += s->channels;
    want = want < sp->slots ? want : sp->slots;
    if (want)
        free_up(sch, want);
    leave_all(sch);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void md_spill_drop(struct md_scheduler *sch, struct io_stream *s)
{
    if (s->course.cells)
        give_cells(&sch->spill, s->course.cells, s->channels);
    s->course.cells = NULL;
    unchoose(&sch->spill, s);
}

void md_spill_settle(struct md_scheduler *sch, struct md_batch *b)
{
    struct md_spill *sp = &sch->spill;
    struct io_stream *s;

    land(sch, b, true);
    while ((s = pop(&sp->leaving)) != NULL)
        let_go(sch, s);
    while ((s = next_waiting(sp)) != NULL)
        md_inbox_return(&sch->inbox, &s, 1);
    for (s = sch->open.head; s; s = s->course.next_open)
        unchoose(sp, s);
}

void md_spill_init(struct md_spill *sp)
{
    *sp = (struct md_spill){0};
    md_spill_file_init(&sp->file);
}

void md_spill_allow(struct md_spill *sp, const char *dir, uint64_t limit)
{
    sp->file.dir = dir;
    sp->limit = limit;
}

void md_spill_done(struct md_spill *sp)
{
    md_spill_file_done(&sp->file);
    free(sp->vacant);
    free(sp->limbo);
}

void md_spill_fit(struct md_spill *sp, size_t slot_bytes)
{
    uint64_t cells = sp->limit / slot_bytes;

    md_spill_file_fit(&sp->file, slot_bytes);
    sp->max_cells = cells < UINT32_MAX / 2 ? (uint32_t)cells : UINT32_MAX / 2;
    sp->n_cells = sp->n_vacant = sp->n_limbo = 0;
}
