/* course.h: one stream's way through one batch: its blocks are judged, its rows staged, its events put in their places.
 * Engine thread. */
#ifndef MD_COURSE_H
#define MD_COURSE_H

#include "daemon/scheduler.h"

enum {
    MD_ROWS_MAX = 2048,     /* of one stream in one batch */
    MD_OUT_MAX = 1 << 20,   /* floats of results of one stream in one batch, a patch's rows excepted; … */
    MD_LOGITS_MAX = 1 << 17 /* … of a byte stream, which has many whatever it publishes */
};

/* Runs what is in course.mine into an entry of the batch. A stream that is not open is opened first. 1: the stream ends
 * with this entry, or waits for slots (spill.h): it stays in the engine's hands; 0; −ENOMEM: nothing was done. */
int md_course_run(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s);

/* Silence, idleness, holds that are over: what is due goes into an entry of its own. Returns when to look again. */
int64_t md_course_timers(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s, int64_t now_ns);

/* Says that a reload began its new epoch. −ENOMEM: nothing was said. */
int md_course_anew(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s);
/* For streams without slots (spill.h). 0; −ENOMEM: none can be had. */
int md_course_open(struct md_scheduler *sch, struct io_stream *s);
/* What waits of a stream that can have no slots is discarded, counted, announced; it is tried again with its next
 * block. */
void md_course_refuse(struct md_scheduler *sch, struct io_stream *s);
/* It ran: the others have been quiet for longer. */
void md_course_ran(struct md_scheduler *sch, struct io_stream *s);
/* Its slots have been written to the cells and are given back. */
void md_course_away(struct md_scheduler *sch, struct io_stream *s, uint32_t *cells);
/* Takes slots and goes on with what was read from its cells, where it has some, `stride` bytes a channel. Whatever else
 * than 0 or −ENOMEM (no slots, nothing was done): the state is lost (bytes NULL: it could not be read), a new epoch
 * begins. */
int md_course_back(struct md_scheduler *sch, struct md_batch *b, struct io_stream *s, const uint8_t *bytes,
                   size_t stride);

/* After the batch was advanced: gives the slots of a closing entry's stream back. */
void md_course_close(struct md_scheduler *sch, struct io_stream *s);

/* The entry's results are lost; its stream begins a new epoch. */
void md_course_fail(struct md_scheduler *sch, struct md_batch *b, struct md_entry *e, enum md_reset why,
                    const char *reason);

#endif
