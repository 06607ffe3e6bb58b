/* cut.h: one cut through everything that a snapshot holds, without stopping anything.
 *
 * Every engine draws its line between two batches. From there on a stream is copied before it is touched for the first
 * time, and the others are copied in small portions between batches: all copies show the streams as they were at the
 * line. The batch behind the line carries the cut's number to the publisher, which lets nothing behind the lines out
 * before the last engine's line has come by; there it copies what it keeps of each stream (voice) and hands every
 * output a mark. So states, positions, numbers and what the outputs hold belong together.
 *
 * Engine threads copy, the snapshot's own thread writes, and reads what of a stream is away on the disk. A stream that
 * is not open (ended, or restored and not yet begun again) is guarded by the registry's lock, all others belong to
 * their engine. */
#ifndef MD_CUT_H
#define MD_CUT_H

#include <string.h>

#include "daemon/stock.h"
#include "daemon/scheduler.h"
#include "daemon/snapshot_file.h"

struct md_registry;

/* Payload of a stream's record: this, the ids of its input and its model, its runs, its slots. */
struct md_saved_stream {
    uint32_t struct_bytes; /* sizeof this: of the same build's layout */
    uint32_t channels, n_runs, input_len, model_len;
    uint8_t irregular, open, inexact, pad;
    double rate;
    int64_t judged; /* row behind the last one that was taken or refused, by the source's numbers; IO_SEQ_NONE */
    int64_t origin; /* as in md_trail, like those that follow */
    uint64_t mark;
    uint8_t last[MD_TRAIL];
    uint32_t rows, pad2;
    int64_t lost;        /* as in md_course */
    uint64_t slot_bytes; /* of each of `channels`; 0: none are saved */
    struct md_timeline time;
};

struct md_piece { /* whole records on their way to the file */
    struct md_piece *next;
    size_t bytes;
    struct md_stock *stock;     /* that it came from; NULL: from malloc() */
    struct md_spill_file *file; /* the slots are there yet, in these cells; NULL: all is in the record */
    uint32_t *cells, n_cells;
    uint32_t n_slots;                         /* that were copied, and lack their checksums yet */
    size_t slots_at, slot_stride, slot_bytes; /* where they belong; bytes from the records' beginning */
    uint64_t records[];
};

/* Not the engine's thread: what the record lacks yet, what is on the disk and checksums. Negative errno. */
int md_piece_fill(struct md_piece *p);
void md_piece_free(struct md_piece *p);

struct md_snapshot_cut {
    pthread_mutex_t lock;
    pthread_cond_t wake;            /* something to write, or somebody is done */
    struct md_piece *first, **last; /* to be written */
    size_t waiting;                 /* bytes of them */
    struct md_stock stock;          /* where copies are put that must not take long */
    unsigned engines_left;
    int outputs_left;       /* marks that were asked for and are not there; may be below 0 before all were asked for */
    bool voiced;            /* the publisher has copied the voices */
    bool failed;            /* out of memory: there will be no snapshot of this cut */
    _Atomic uint32_t open;  /* number of the cut for which copies are still due; 0: none */
    _Atomic bool under_way; /* no stream's record may be forgotten */
};

void md_cut_init(struct md_snapshot_cut *c);
void md_cut_done(struct md_snapshot_cut *c);

/* The snapshot's thread, before the engines are asked: memory for copies of `bytes` in all. */
void md_cut_provide(struct md_snapshot_cut *c, size_t bytes);

/* Engine: the line is here. No batch is under way. */
void md_cut_line(struct md_scheduler *sch, uint32_t number);
/* Engine: before anything of the stream changes. */
void md_cut_touch(struct md_scheduler *sch, struct io_stream *s);
/* Engine: some of what is left, less where rows wait to be advanced; true: nothing is. No batch is under way. */
bool md_cut_sweep(struct md_scheduler *sch, bool hurried);
/* Engine: the stream is about to leave the list of open ones. */
void md_cut_leaves(struct md_scheduler *sch, const struct io_stream *s);

/* The first n rows of a block, n ≥ 1, have been judged. */
void md_trail_add(struct md_trail *t, struct io_block *b, uint32_t n);
/* Whether the rows before row n of a block are those of a mark. */
bool md_is_marked(struct io_block *b, uint32_t n, uint64_t mark, uint32_t rows);

/* Row that a sender is to go on with after a restart from this record, or IO_SEQ_NONE. */
int64_t md_saved_next(const struct md_saved_stream *saved);

/* The stream's record as it is now, of one with slots while the engine is idle; NULL: out of memory. sch NULL: it is
 * not open. In `stock` where that is given and has room. */
struct md_piece *md_cut_copy(struct md_scheduler *sch, const char *model, struct io_stream *s, struct md_stock *stock);
/* The same for a snapshot, after which the stream's sender need not keep what the record covers. */
struct md_piece *md_cut_save(struct md_scheduler *sch, const char *model, struct io_stream *s, struct md_stock *stock);
/* What stands in the record of the stream of this id. */
static inline const struct md_saved_stream *md_piece_saved(const struct md_piece *p, const char *id)
{
    return (const void *)((const uint8_t *)p->records + md_record_bytes((uint32_t)strlen(id), 0));
}

/* Hands a piece to the writer; NULL: the cut has failed. */
void md_cut_give(struct md_snapshot_cut *c, struct md_piece *p);

/* The writer: the engines are done; the streams without slots. Then no copy is due any more. */
void md_cut_rest(struct md_snapshot_cut *c, struct md_registry *r, uint32_t number);

#endif
