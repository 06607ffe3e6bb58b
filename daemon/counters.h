/* counters.h: every counter of the daemon. Names in the status JSON are those of the metrics, without prefix. Each is
 * written by the threads named and read by any; all are relaxed atomics, initialised to 0, and only ever grow. */
#ifndef MD_COUNTERS_H
#define MD_COUNTERS_H

#include <jansson.h>
#include <stdatomic.h>

#include "io/sink.h"

typedef _Atomic uint64_t md_count;

static inline void md_add(md_count *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

/* For counters with one writer: no locked instruction. */
static inline void md_bump(md_count *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t md_read(md_count *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static inline void md_raise(md_count *c, uint64_t v) /* one writer: the largest value seen */
{
    if (v > md_read(c)) {
        atomic_store_explicit(c, v, memory_order_relaxed);
    }
}

/* Durations in ns by powers of two: two buckets an octave, so that a quantile is good to ±20 %. One writer. */
enum { MD_HIST_BUCKETS = 80 };
struct md_hist {
    md_count n, sum, max, bucket[MD_HIST_BUCKETS];
};
void md_hist_add(struct md_hist *h, uint64_t ns);
/* What came to `h` since `then` was taken off it likewise, or with zeros in it: since ever; `max` is that of all. */
void md_hist_since(struct md_hist *ret, struct md_hist *h, struct md_hist *then);
json_t *md_hist_json(struct md_hist *h); /* count, sum, p50, p99, max in seconds */

/* Of one input. The source thread writes the first group, the engine threads the second. */
struct md_input_counters {
    md_count messages, bytes, samples; /* received */
    md_count errors[IO_R_COUNT];       /* messages or files refused, by reason */
    md_count blocked;                  /* times that a full queue held the source back */
    md_count queue_high_water;         /* rows of the fullest stream */
    md_count acks, acks_dropped;       /* to senders; dropped: they did not read them */
    md_count discarded[IO_R_COUNT];    /* samples, by reason; any thread */
    _Alignas(64) md_count accepted;    /* samples that the model took */
    md_count gaps, clock;              /* holes announced; messages whose seq and t_ns disagreed */
    md_count resets[8];                /* by enum md_reset */
    md_count starts, ends;             /* of streams */
    md_count records, records_cut;     /* of byte streams; those that were cut at max_record */
};
json_t *md_input_counters_json(struct md_input_counters *c);

enum md_cut { MD_CUT_FULL, MD_CUT_DELAY, MD_CUT_IDLE, MD_CUTS }; /* why a batch was closed */

struct md_engine_counters { /* written by the engine thread */
    md_count batches, streams, samples, steps, cut[MD_CUTS], failures, busy_ns;
    struct md_hist step; /* from a batch's start to its results */
};
json_t *md_engine_counters_json(struct md_engine_counters *c);

struct md_output_counters { /* written by the thread that serves the sink */
    md_count messages[IO_FAMILIES], dropped_slow, dropped_error;
};
json_t *md_output_counters_json(struct md_output_counters *c);

#endif
