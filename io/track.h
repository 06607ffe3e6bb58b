/* track.h: one file being played as one stream: reader → resampler → scale → blocks. Used by play.c only; runs on the
 * source's thread. A track owns its reader, its resampler and the block that the host has not taken yet. */
#ifndef IO_TRACK_H
#define IO_TRACK_H

#include "io/play.h"
#include "io/resample.h"

struct io_track_plan {
    double from, to;
    struct io_resample_plan *plan;
};

/* What the tracks of one input share. */
struct io_track_shared {
    struct io_play_conf conf;
    struct io_host host;
    int epoll;                   /* pipes that have nothing to read */
    struct io_track_plan *plans; /* one per ratio met so far */
    unsigned n_plans;
    double *in, *out; /* rows on their way; grown when a track begins */
    int64_t *times;
    size_t in_cap, out_cap; /* values */
};

struct io_track {
    struct io_track_shared *shared;
    const char *path, *id;
    void *reader;
    struct io_play_format format;
    struct io_stream *stream;       /* NULL: not begun, or ended meanwhile and without slots to begin again */
    struct io_resampler *resampler; /* NULL: none needed */
    struct io_block *pending;       /* the host had no room for it */
    double rate;                    /* of the rows that leave; 0: unknown or irregular */
    uint32_t rows;                  /* most to be read in one step */
    uint64_t taken;                 /* rows read */
    int64_t seq;                    /* of the next row that leaves */
    int64_t t_ns;                   /* of the file's first row, or IO_T_NONE */
    int64_t began_ns, wake_ns;
    unsigned tries; /* to get slots, while no other file played */
    bool waits;     /* for slots */
    bool over;      /* the reader has no more */
};

enum io_track_step { IO_TRACK_WORKED, IO_TRACK_WAITS, IO_TRACK_ENDED, IO_TRACK_NO_SLOT };

/* The rate at which a file's rows leave, and whether they are to be resampled for it. -EBADMSG: the input does not take
 * the file's rate, or cannot be played without one; reterr names the file and both rates. */
int io_track_rate(const struct io_track_shared *s, const char *path, const struct io_play_format *format,
                  double *ret_rate, bool *ret_resample, char *reterr);

/* Counts and says that a file is not played: its samples, where the reader knows how many they are. */
void io_track_leave_out(const struct io_track_shared *s, enum io_reason reason, const char *path, const char *id,
                        const struct io_play_format *format, const char *why);
/* The same of what the host has not got of it. */
void io_track_give_up(const struct io_track *t, enum io_reason reason, const char *why);

int io_track_open(struct io_track_shared *s, const char *path, const char *id, struct io_track *t, char *reterr);
/* A bounded piece of work; IO_TRACK_WAITS: nothing to do before t->wake_ns, a readable pipe, or room in the queue. */
enum io_track_step io_track_step(struct io_track *t, int64_t now_ns);
void io_track_close(struct io_track *t);

#endif
