/* spill.h: more live streams than slots. Where every slot is taken and a stream without any has rows, the stream that
 * has been quiet for longest leaves: its slots are written to the disk and given to the other; when rows of its own
 * come, it takes slots again and goes on with the same bits. Engine thread, but for what says otherwise; the disk's
 * work is done by spill_file.h's thread, meanwhile the stream waits and others go on.
 *
 * A live stream is in one of these places, all but the first two in the engine's hands (never ready in the inbox):
 *   resident   has slots (course.slots)                         away   has cells, or is fresh, or has not begun
 *   leaving    resident, to be written once it is in no batch   writing
 *   waiting    not resident, has rows, in the order in which they came   reading
 *
 * A state is given up by no failure of writing: the stream keeps its slots, and who wanted them is refused. One that
 * cannot be read back is lost, which is counted and said, and its stream begins a new epoch. */
#ifndef MD_SPILL_H
#define MD_SPILL_H

#include "daemon/counters.h"
#include "daemon/spill_file.h"

struct md_batch;
struct md_scheduler;

struct md_spill_counters {
    md_count written, read; /* streams that left, and that came back */
    md_count refused, lost; /* that got no slots, for the others could not be written; whose state could not be read */
    _Atomic uint32_t waiting, cells; /* streams; in use */
};

struct md_spill_list { /* of streams, by course.next_spill */
    struct io_stream *head, *tail;
};

struct md_spill {
    struct md_spill_file file;
    uint64_t limit;            /* bytes of disk */
    uint32_t slots, max_cells; /* 0 cells: nothing is spilled */
    uint32_t resident;         /* slots that streams have */
    uint32_t n_cells;          /* that were ever used: the lowest numbers */
    uint32_t *vacant, n_vacant, cap_vacant;
    uint32_t *limbo, n_limbo, cap_limbo; /* given up, but to be read yet (file.pins) */
    uint32_t widest;                     /* channels of a stream, of all so far */
    uint32_t promised, coming;           /* slots: of streams being read; of those that leave */
    uint32_t jobs;                       /* under way */
    struct md_spill_list waiting, leaving;
    struct md_spill_counters counters;
};

static inline bool md_spill_on(const struct md_spill *sp)
{
    return sp->max_cells > 0;
}

/* Nothing is spilled, */
void md_spill_init(struct md_spill *sp);
/* before it is said where: `limit` bytes of disk at most, in `dir`, which stays the caller's. */
void md_spill_allow(struct md_spill *sp, const char *dir, uint64_t limit);
void md_spill_done(struct md_spill *sp);
/* For slots of that size; nothing is on the disk. Nothing runs. */
void md_spill_fit(struct md_spill *sp, size_t slot_bytes);

/* A stream is about to run: whether it has to wait for slots first, or has to leave. Then it stays in the engine's
 * hands (spill.c gives it back to the inbox). */
bool md_spill_parks(struct md_scheduler *sch, struct io_stream *s);
/* What is due. No batch is under way; `b` takes what is to be said of states that are lost. */
void md_spill_step(struct md_scheduler *sch, struct md_batch *b);
/* Whether streams wait, or are on their way. */
bool md_spill_busy(const struct md_spill *sp);
/* The stream has ended, wherever it was. */
void md_spill_drop(struct md_scheduler *sch, struct io_stream *s);
/* The engine thread ends: all streams are where they can stay, those with rows in the inbox. */
void md_spill_settle(struct md_scheduler *sch, struct md_batch *b);

#endif
