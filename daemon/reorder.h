/* reorder.h: blocks of a stream that wait for late ones. */
#ifndef MD_REORDER_H
#define MD_REORDER_H

#include "daemon/scheduler.h"

/* The first block of course.mine waits, in the order of its numbers. */
void md_reorder_hold(struct md_scheduler *sch, struct io_stream *s);

/* Where the first waiting block's turn has come, or the wait is over, it goes before all others of course.mine. force:
 * it is over. */
bool md_reorder_release(struct md_scheduler *sch, struct io_stream *s, bool force);

/* When the first one's wait is over; INT64_MAX: nothing waits. */
int64_t md_reorder_due(const struct md_course *c);

#endif
