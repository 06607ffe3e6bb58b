/* errand.h: one stream's state for another thread, copied by its engine thread between two batches: the record and the
 * numbers of what was published belong together, for the stream stays out of batches until all that it was in have been
 * published. Others go on. Guarded by the inbox's lock; one at a time. */
#ifndef MD_ERRAND_H
#define MD_ERRAND_H

#include "daemon/stream.h"

struct md_scheduler;

struct md_errand {
    pthread_cond_t answered;
    char id[IO_ID_MAX + 1];
    int result;             /* 1: not answered yet */
    struct md_piece *piece; /* cut.h */
    struct md_voice voice;
};

void md_errand_init(struct md_errand *e);
void md_errand_done(struct md_errand *e);

/* Not the engine's thread. The stream is `s` under the id (it may be gone meanwhile). 0; −ESHUTDOWN: the engine is
 * ending. */
int md_errand_ask(struct md_scheduler *sch, const struct io_stream *s, const char *id);
/* The answer to that; *ret_piece is the caller's. 0; −ENOENT: gone, or nothing is known of it; −ENOMEM; −EIO: the
 * device failed; −ESHUTDOWN: the engine has ended, for good or for a reload; −ETIMEDOUT. */
int md_errand_await(struct md_scheduler *sch, int64_t until_ns, struct md_piece **ret_piece,
                    struct md_voice *ret_voice);

/* Engine: if the stream's last batch has been published. No batch is under way. */
void md_errand_run(struct md_scheduler *sch);
/* Engine: its thread ends. */
void md_errand_cancel(struct md_scheduler *sch);

#endif
