/* source.h: the vtable of ingest adapters, and what the daemon offers them.
 *
 * A source never blocks and never logs. Its turn() does a bounded piece of work (read some rows or messages, push
 * blocks) and says when it wants the next one. The daemon gives every source a thread of its own, but all of libhdf5's
 * users one thread together (`thread` = "hdf5"), whose turns go round-robin. All calls for one source come from that
 * thread, except describe-only ones.
 *
 * An adapter declares everything about itself in one const struct: its config keys with ranges and defaults stand in
 * `options` and are parsed, checked, printed (--print-config) and documented from there. */
#ifndef IO_SOURCE_H
#define IO_SOURCE_H

#include "io/block.h"

enum { IO_ERR = 512, IO_ID_MAX = 200 };

/* ---- declarative options ---------------------------------------------------------------------------------- */

enum io_option_kind {
    IO_OPT_STRING,   /* char * */
    IO_OPT_STRINGS,  /* struct io_strings: a YAML scalar or list */
    IO_OPT_BOOL,     /* bool */
    IO_OPT_INT,      /* int64_t in [min, max] */
    IO_OPT_REAL,     /* double in [min, max] */
    IO_OPT_DURATION, /* int64_t ns: "250ms", "5s", "7d"; -1: not given */
    IO_OPT_SIZE,     /* int64_t bytes: "64MiB" */
    IO_OPT_ENUM      /* int: index into `names` */
};

struct io_strings {
    char **v;
    unsigned n;
};

struct io_option {
    const char *name, *help;
    enum io_option_kind kind;
    size_t offset;        /* into the adapter's config struct */
    const char *fallback; /* default, in config syntax; NULL: left zero (durations -1) */
    bool required;
    double min, max;          /* numbers; min == max: unchecked */
    const char *const *names; /* enums: NULL-terminated */
    const char *sole;         /* what a value names, and one key of one adapter only may; NULL: any number */
};

/* Keys that every input has; first member of every source's config struct. Their options are io_common_options[]
 * (io/registry.c), which precede the adapter's own. */
struct io_common {
    double rate;          /* Hz of the input, after its own resampling; 0: not given */
    int64_t interval_ns;  /* reference step of an irregular input; −1: the stream's first positive time difference */
    bool resample;        /* to the model's rate, or to `rate` where the model names none */
    double scale, offset; /* x·scale + offset */
    char *stream; /* id template: {input} {path} {stem} {dataset} {topic} {stream}; NULL: the adapter's default */
};
extern const struct io_option io_common_options[];

/* ---- the daemon's side ---------------------------------------------------------------------------------- */

/* Why samples or messages were not taken. Names are those of the metrics; io_reason_name(). */
enum io_reason {
    IO_R_MALFORMED,        /* a message of the wrong shape, header or size */
    IO_R_DTYPE,            /* unknown or unusable dtype */
    IO_R_SHAPE,            /* shape against payload, or channels unlike the stream's */
    IO_R_RATE,             /* a rate unlike the input's or the model's without resample: true */
    IO_R_ID,               /* not a valid stream id */
    IO_R_DUPLICATE_STREAM, /* another live source has this id */
    IO_R_STREAMS,          /* no slot left, or the limit on streams is reached */
    IO_R_QUEUE_FULL,       /* when_full dropped it */
    IO_R_NAN,
    IO_R_LATE,
    IO_R_DUPLICATE,
    IO_R_CLOCK,
    IO_R_GAP,
    IO_R_TAIL,
    IO_R_RESET,
    IO_R_FILE,   /* a file that cannot be opened or read on */
    IO_R_MEMORY, /* block pool at its limit */
    IO_R_SIZE,   /* a frame or header longer than it may be */
    IO_R_LIMIT,  /* more than the input takes a second */
    IO_R_AHEAD,  /* beyond missing rows that the sender is asked for again; these come again too */
    IO_R_COUNT
};
const char *io_reason_name(enum io_reason r);
/* Why there is no stream, of io_host.stream's error. */
enum io_reason io_stream_refusal(int err);

/* Why a peer was not let in. */
enum io_refusal {
    IO_PEER_KEY,       /* its key is not one of those that are let in */
    IO_PEER_PROTOCOL,  /* it does not speak CURVE, has another key for this end, or breaks the protocol */
    IO_PEER_HANDSHAKE, /* it went away or fell silent before it was known */
    IO_REFUSALS
};
const char *io_refusal_name(enum io_refusal r);

/* Who hears of that: any thread; `text` names the peer and says why. refused NULL: nobody. */
struct io_door {
    void *self;
    void (*refused)(void *self, enum io_refusal why, const char *text);
};

struct io_stream;  /* the daemon's; opaque to adapters */
struct io_records; /* io/records.h */

struct io_stream_desc {
    const char *id; /* final id, IO_ID_MAX bytes at most */
    uint32_t channels;
    double rate;      /* Hz after resampling; 0 irregular or unknown */
    bool irregular;   /* every row has its own time */
    bool anew;        /* its rows cannot be had again, or are not wanted: not to be gone on with from a snapshot */
    uint64_t samples; /* at hand, and lost where the stream is refused */
    bool patient;     /* the source asks again while there are no slots, which is then no error, and gives up itself */
    bool waited;      /* it has asked before */
};

/* How far a stream has come, for senders that can send again. By the sender's numbers. */
struct io_place {
    int64_t next;    /* behind the last row taken, or IO_SEQ_NONE */
    int64_t durable; /* first row that would have to be sent again if the daemon died now; where `ended`, `next` only
                        once the end would not have to be */
    bool ended;      /* and not begun again */
    uint32_t channels;
    double rate;
    bool irregular;
};

struct io_host {
    void *self;
    struct io_pool *pool;
    double model_rate; /* Hz the input's model takes; 0: any */
    bool bytes;        /* the model takes bytes: blocks of IO_U8, one channel, as they come */
    const char *input; /* the input's id */
    bool blocks;       /* when_full: block */
    bool once;         /* what is endless is to be DONE where it has read all that is there */
    /* Finds the input's live stream of this id or starts it. -EEXIST: another live source has the id; -ENOSPC: no
     * slots; -EINVAL: bad id or channels unlike the live stream's (each is counted, with desc->samples, and announced
     * by the daemon; no slots of a patient source is only said, once). */
    int (*stream)(void *self, const struct io_stream_desc *desc, struct io_stream **ret);
    /* Hands a block over. -EAGAIN: the queue is full and the input's policy is `block`: the caller keeps the block and
     * offers it again in a later turn (the daemon wakes the source when there is room). -ESTALE: the daemon has ended
     * the stream meanwhile (streams.idle): the caller keeps the block, gives the handle back by end(), and asks
     * stream() again. 0: taken, or dropped and counted by policy. A handle is good for this call until end(), let_go()
     * or the input's close, ended or not.
     */
    int (*push)(void *self, struct io_stream *stream, struct io_block *block);
    /* No more samples will come: the stream ends after its queue is consumed, its slots are freed. */
    void (*end)(void *self, struct io_stream *stream);
    /* True: the handle is given back, for the daemon has ended the stream itself, or `always`: it goes on without one.
     */
    bool (*let_go)(void *self, struct io_stream *stream, bool always);
    /* Something was not taken. `id` may be NULL; `text` says it for a person (rate-limited log line). */
    void (*discard)(void *self, enum io_reason why, const char *id, uint64_t samples, const char *text);
    /* Rows of a stream that stream() has given are over the input's limit (IO_R_LIMIT). They keep their numbers and are
     * told before the stream's next rows; the flags pass to those. */
    void (*drop)(void *self, struct io_stream *stream, uint64_t rows, uint32_t channels, uint32_t flags);
    /* An event `error` under the id; some of many. For what was refused under the id of a live stream. */
    void (*announce)(void *self, enum io_reason why, const char *id);
    /* An event to be published on the stream: "gap", "restore", "error", … */
    void (*note)(void *self, struct io_stream *stream, const char *event, const char *reason, int64_t from, int64_t to);
    void (*received)(void *self, uint64_t messages, uint64_t bytes);
    /* First row that is to be pushed of a stream that stream() has just given: the last one that was taken before a
     * restart (of bytes: of some dozen), by which the file is known again. What was taken is let through unseen. 0:
     * all. A source that can go there at once may; the others begin at row 0. *ret_origin: the number of its file's
     * first. */
    int64_t (*resume)(void *self, struct io_stream *stream, int64_t *ret_origin);
    /* The block that begins there, or NULL where the file ends before that: IO_SEQ_NONE where it is of the file that
     * was known. If not, nothing is held back any more, and a source that went there may begin at the file's first row,
     * with the number that is returned. Of one that does not ask, the rows that it passed over are said to be lost. */
    int64_t (*known)(void *self, struct io_stream *stream, struct io_block *block);
    /* Of a stream that stream() has given (false: the daemon has ended it, and another input has it since: give it
     * back); and of any of the input's by its id, live or not (false: never seen). */
    bool (*place)(void *self, struct io_stream *stream, struct io_place *ret);
    bool (*recall)(void *self, const char *id, struct io_place *ret);
    void (*answered)(void *self, uint64_t sent,
                     uint64_t dropped); /* acks to senders; dropped: they did not read them */
    struct io_door door;
};

/* ---- the adapter's side ----------------------------------------------------------------------------------- */

enum io_turn {
    IO_TURN_MORE, /* work is left: call again after others had their turn */
    IO_TURN_WAIT, /* nothing now: call at *ret_wake_ns (INT64_MAX: no time set), when fd() becomes readable, or when a
                     full queue got room */
    IO_TURN_DONE  /* finite input consumed: will never have more */
};

struct io_source_class {
    const char *type, *help;
    const struct io_option *options; /* ends with name NULL */
    size_t conf_bytes;
    const char *thread; /* NULL: a thread of its own */
    bool replayable;    /* default of when_full is block */
    bool only_bytes;    /* it gives nothing else */
    /* Checks what the options alone cannot; no file or socket is touched. *ret_key names the key at fault. */
    int (*check)(const void *conf, const char **ret_key, char *reterr);
    /* -ENOENT: an input file is missing (exit 66); -EBADMSG, -EACCES of a file: unreadable (65); -EADDRINUSE, -EACCES
     * of a socket … (69); -EKEYREJECTED: a key file is (78). */
    int (*open)(const void *conf, const struct io_host *host, void **ret_self, char *reterr);
    enum io_turn (*turn)(void *self, int64_t now_ns, int64_t *ret_wake_ns); /* CLOCK_MONOTONIC ns */
    void (*close)(void *self);
    /* optional: NULL means none */
    int (*fd)(void *self);             /* readable when a turn is worthwhile */
    bool (*endless)(const void *conf); /* replayable, but never DONE under this config: --once does not wait for it,
                                          unless it says so (io_host.once) */
    int (*keys)(const void *conf, char *reterr);           /* reads the key files that it names: 0 or -EKEYREJECTED */
    const struct io_records *(*records)(const void *conf); /* how bytes fall into records (io/records.h); NULL, also
                                                              under this config: it cannot give a model bytes */
    bool (*blocks)(const void *conf); /* default of when_full is block under this config; NULL: as `replayable` */
    /* Of every stream under this config; NULL, or 0: as they come. */
    uint32_t (*channels)(const void *conf);
    bool (*resent)(const void *conf); /* senders are told where a snapshot was and go on there under this config */
};

/* Adapters of this build, by index (NULL past the end) and by type; io/registry.c. A type that exists but was built
 * without its library gives NULL and a text in *ret_why. */
const struct io_source_class *io_source_at(unsigned i);
const struct io_source_class *io_source_find(const char *type, const char **ret_why);

#endif
