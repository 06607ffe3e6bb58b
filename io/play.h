/* play.h: plays a list of files as streams, one each: the turns of every adapter that reads files row by row. The
 * adapter gives a reader for one file; playing adds the list, ids, rates and resampling, scale, pace, backpressure and
 * ends. Runs on the source's thread. */
#ifndef IO_PLAY_H
#define IO_PLAY_H

#include "io/source.h"

enum { IO_PLAY_ROWS = 1024 }; /* most rows asked of a reader at once */

struct io_play_format {
    double rate; /* Hz; 0: not known */
    uint32_t channels;
    enum io_sample type; /* what blocks carry: IO_F32 or IO_F64 */
    bool timed;          /* every row has a time of its own */
    int64_t rows;        /* of the whole file; −1: not known before its end */
};

struct io_reader_class {
    /* Never waits; "-" is standard input. On failure reterr names the file. */
    int (*open)(const void *conf, const char *path, void **ret_self, char *reterr);
    /* -EAGAIN: a pipe has not shown enough of itself yet; otherwise, as open. Called until it succeeds. */
    int (*format)(void *self, struct io_play_format *ret, char *reterr);
    /* Up to max rows [n][channels], and their times where timed. Returns n > 0; 0: the end; -EAGAIN: nothing yet;
     * others: unreadable from here on, reterr says where and why. */
    int (*read)(void *self, double *rows, int64_t *t_ns, uint32_t max, char *reterr);
    void (*close)(void *self);
    int (*fd)(void *self); /* optional: NULL means files only. A descriptor to wait on after -EAGAIN */
};

struct io_play_conf { /* borrowed until close */
    const struct io_common *common;
    const struct io_strings *files;
    const struct io_reader_class *reader;
    const void *reader_conf;
    bool realtime; /* each file at its own rate from the moment of its opening; else as fast as the host takes rows */
};

/* Checks the list and, of regular files, every header. Errors as for io_source_class.open; all four are its entries. */
int io_play_open(const struct io_play_conf *conf, const struct io_host *host, void **ret_self, char *reterr);
enum io_turn io_play_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns);
int io_play_fd(void *self);
void io_play_close(void *self);

/* Checks an input's `stream` template against what files have to offer. */
int io_play_check(const struct io_common *common, const char **ret_key, char *reterr);

#endif
