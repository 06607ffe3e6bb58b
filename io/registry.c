/* registry.c: the adapters of this build, the keys that all inputs share, and names of reasons and families. The one
 * file of io/ where HAVE_… stands. Const tables only. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "io/sink.h"

#define COMMON(field) offsetof(struct io_common, field)

const struct io_option io_common_options[] = {
    {"rate", "samples per second; a message or file of another rate is refused, or resampled", IO_OPT_REAL,
     COMMON(rate), .min = 0, .max = 1e9},
    {"interval", "reference step of an irregular input (default: the stream's first time difference)", IO_OPT_DURATION,
     COMMON(interval_ns)},
    {"resample", "resample to `rate`, or to the model's rate", IO_OPT_BOOL, COMMON(resample), "false"},
    {"scale", "samples are multiplied by this", IO_OPT_REAL, COMMON(scale), "1", .min = -1e300, .max = 1e300},
    {"offset", "and this is added", IO_OPT_REAL, COMMON(offset), "0", .min = -1e300, .max = 1e300},
    {"stream", "stream id, from {input} {path} {stem} {dataset} {topic} {stream}", IO_OPT_STRING, COMMON(stream)},
    {0},
};

/* An adapter that exists, and why it cannot be had where class_ is NULL. */
struct source_entry {
    const char *type, *why;
    const struct io_source_class *class_;
};

struct sink_entry {
    const char *type, *why;
    const struct io_sink_class *class_;
};

extern const struct io_source_class io_source_csv, io_source_bytes;
extern const struct io_sink_class io_sink_jsonl;

#if HAVE_ZMQ
extern const struct io_source_class io_source_zmq;
extern const struct io_sink_class io_sink_zmq;
#define SOURCE_ZMQ &io_source_zmq
#define SINK_ZMQ &io_sink_zmq
#else
#define SOURCE_ZMQ NULL
#define SINK_ZMQ NULL
#endif

#if HAVE_SNDFILE
extern const struct io_source_class io_source_audio;
#define SOURCE_AUDIO &io_source_audio
#else
#define SOURCE_AUDIO NULL
#endif

#if HAVE_HDF5
extern const struct io_source_class io_source_hdf5;
extern const struct io_sink_class io_sink_hdf5;
#define SOURCE_HDF5 &io_source_hdf5
#define SINK_HDF5 &io_sink_hdf5
#else
#define SOURCE_HDF5 NULL
#define SINK_HDF5 NULL
#endif

static const struct source_entry sources[] = {
    {"zmq", "this build has no libzmq", SOURCE_ZMQ},
    {"audio", "this build has no libsndfile", SOURCE_AUDIO},
    {"hdf5", "this build has no HDF5 library", SOURCE_HDF5},
    {"csv", NULL, &io_source_csv},
    {"bytes", NULL, &io_source_bytes},
};

static const struct sink_entry sinks[] = {
    {"zmq", "this build has no libzmq", SINK_ZMQ},
    {"jsonl", NULL, &io_sink_jsonl},
    {"hdf5", "this build has no HDF5 library", SINK_HDF5},
};

enum { N_SOURCES = sizeof sources / sizeof *sources, N_SINKS = sizeof sinks / sizeof *sinks };

const struct io_source_class *io_source_at(unsigned i)
{
    for (unsigned k = 0; k < N_SOURCES; k++) {
        if (sources[k].class_ && i-- == 0)
            return sources[k].class_;
    }
    return NULL;
}

const struct io_source_class *io_source_find(const char *type, const char **ret_why)
{
    for (unsigned k = 0; k < N_SOURCES; k++) {
        if (!strcmp(sources[k].type, type)) {
            *ret_why = sources[k].class_ ? NULL : sources[k].why;
            return sources[k].class_;
        }
    }
    *ret_why = NULL;
    return NULL;
}

const struct io_sink_class *io_sink_at(unsigned i)
{
    for (unsigned k = 0; k < N_SINKS; k++) {
        if (sinks[k].class_ && i-- == 0)
            return sinks[k].class_;
    }
    return NULL;
}

const struct io_sink_class *io_sink_find(const char *type, const char **ret_why)
{
    for (unsigned k = 0; k < N_SINKS; k++) {
        if (!strcmp(sinks[k].type, type)) {
            *ret_why = sinks[k].class_ ? NULL : sinks[k].why;
            return sinks[k].class_;
        }
    }
    *ret_why = NULL;
    return NULL;
}

const char *io_family_name(enum io_family f)
{
    static const char *const names[IO_FAMILIES] = {
        [IO_PREDICTION] = "prediction",
        [IO_EMBEDDING] = "embedding",
        [IO_ANOMALY] = "anomaly",
        [IO_CHANNEL_ANOMALY] = "channel_anomaly",
        [IO_SURPRISE] = "surprise",
        [IO_EVENT] = "event",
        [IO_SYS] = "sys",
    };
    return names[f];
}

const char *io_reason_name(enum io_reason r)
{
    static const char *const names[IO_R_COUNT] = {
        [IO_R_MALFORMED] = "malformed",
        [IO_R_DTYPE] = "dtype",
        [IO_R_SHAPE] = "shape",
        [IO_R_RATE] = "rate",
        [IO_R_ID] = "id",
        [IO_R_DUPLICATE_STREAM] = "duplicate_stream",
        [IO_R_STREAMS] = "streams",
        [IO_R_QUEUE_FULL] = "queue_full",
        [IO_R_NAN] = "nan",
        [IO_R_LATE] = "late",
        [IO_R_DUPLICATE] = "duplicate",
        [IO_R_CLOCK] = "clock",
        [IO_R_GAP] = "gap",
        [IO_R_TAIL] = "tail",
        [IO_R_RESET] = "reset",
        [IO_R_FILE] = "file",
        [IO_R_MEMORY] = "memory",
        [IO_R_SIZE] = "size",
        [IO_R_LIMIT] = "limit",
        [IO_R_AHEAD] = "ahead",
    };
    return names[r];
}

enum io_reason io_stream_refusal(int err)
{
    return err == -EEXIST   ? IO_R_DUPLICATE_STREAM
           : err == -ENOSPC ? IO_R_STREAMS
           : err == -ENOMEM ? IO_R_MEMORY
                            : IO_R_SHAPE;
}

const char *io_refusal_name(enum io_refusal r)
{
    static const char *const names[IO_REFUSALS] = {
        [IO_PEER_KEY] = "key",
        [IO_PEER_PROTOCOL] = "protocol",
        [IO_PEER_HANDSHAKE] = "handshake",
    };
    return names[r];
}
