/* sink.h: the vtable of output adapters and the message they write. Field meanings: the wire protocol
 * (docs/protocol.md).
 *
 * A sink has a bounded queue of its own in front of it, fed by the publisher; write() runs on the sink's thread: one of
 * its own (own_thread), one that it shares with all adapters of the same `thread` ("hdf5": libhdf5's), or, with
 * neither, the publisher's. Sinks never log. */
#ifndef IO_SINK_H
#define IO_SINK_H

#include "io/source.h"

enum io_family {
    IO_PREDICTION,
    IO_EMBEDDING,
    IO_ANOMALY,
    IO_CHANNEL_ANOMALY,
    IO_SURPRISE,
    IO_EVENT,
    IO_SYS,
    IO_FAMILIES
};
const char *io_family_name(enum io_family f); /* "prediction", … "event", "sys" */

/* One message about one stream. Strings and arrays are borrowed for the length of the write() call. */
struct io_message {
    enum io_family family;
    const char *stream; /* raw id; "heartbeat" for sys */
    const char *model;
    uint64_t run, out_seq;
    uint32_t epoch;
    int64_t seq, stride, span;
    const uint32_t *spans; /* anomaly rows of byte streams, one a record: row i is about the spans[i] bytes behind those
                              of the rows before; stride and span say nothing. Else NULL */
    int64_t t_ns;          /* IO_T_NONE: null */
    const int64_t *times;  /* of each row, where t_ns and rate do not tell them (irregular streams); else NULL */
    double rate;
    bool warmup, exact;
    int64_t latency_us;
    /* payload: float32, C order; ndim 0: empty */
    const float *data;
    uint32_t ndim, shape[4];
    const float *quantiles; /* prediction */
    uint32_t n_quantiles;
    /* events */
    const char *event, *reason;      /* reason may be NULL */
    int64_t from_seq, to_seq, count; /* IO_SEQ_NONE / −1: left out */
    bool bridged;
    /* sys/heartbeat */
    double uptime_s;
    const uint64_t *last_out_seq; /* [IO_FAMILIES], or NULL */
};

/* What an output holds, so that it can be cut back to that: bytes of a file, rows of tables. Plain data. */
enum { IO_POSITION_COUNTS = 16 };
struct io_position {
    uint64_t counts[IO_POSITION_COUNTS];
    char path[4096]; /* of the file that the counts are about, where it may be another than the configured one */
};

/* What a sink may have to know when it is opened: the widest row of each family over all models and streams. */
struct io_sink_env {
    uint64_t run;
    uint32_t horizon_max, quantiles_max, embedding_max;
    const float *quantiles; /* [n_quantiles] of the widest forecast */
    uint32_t n_quantiles;
    struct io_door door;
    const struct io_position *position; /* of this output, in the snapshot that is gone on from; NULL: none */
};

struct io_sink_class {
    const char *type, *help;
    const struct io_option *options;
    size_t conf_bytes;
    const char *thread;
    bool own_thread;  /* its writes may wait, for its own peer only */
    bool tables;      /* whose rows are no wider than open() was told */
    int64_t flush_ns; /* a flush costs: the least time between two */
    /* As in io_source_class. resumes: a restart is to go on with what it holds. */
    int (*check)(const void *conf, bool resumes, const char **ret_key, char *reterr);
    int (*open)(const void *conf, const struct io_sink_env *env, void **ret_self, char *reterr);
    /* Optional, as in io_source_class. */
    int (*keys)(const void *conf, char *reterr);
    /* 0; -EAGAIN: not now (the peer is slow; the message counts as dropped, reason "slow"); other: the sink failed. */
    int (*write)(void *self, const struct io_message *m);
    /* Optional. Everything written so far is on the disk: where that ends. open() with that position cuts back to it.
     */
    int (*mark)(void *self, struct io_position *ret);
    int (*flush)(
        void *self); /* to the kernel or the socket; when what waited is written, at the earliest after flush_ns */
    int (*close)(void *self, int64_t linger_ns, char *reterr); /* frees even when it fails */
};

const struct io_sink_class *io_sink_at(unsigned i);
const struct io_sink_class *io_sink_find(const char *type, const char **ret_why);

#endif
