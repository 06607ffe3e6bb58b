/* log_faults.h: a log with faults in it whose places are known: lines are read from a file, and faulty ones put between
 * them. The same seed gives the same. One thread. */
#ifndef TOOLS_LOG_FAULTS_H
#define TOOLS_LOG_FAULTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What is put in: a line of another program behind the beginning of the line before; that line with a word replaced by
 * letters, cut off, or followed by random bytes; a short message of failure. */
enum log_fault { LOG_FINE, LOG_FOREIGN, LOG_WORD, LOG_CUT, LOG_NOISE, LOG_FAILURE, LOG_FAULTS };
const char *log_fault_name(enum log_fault f);

struct log_line {
    size_t at, n; /* in text; with its newline */
    uint8_t fault;
};

struct log {
    uint8_t *text;
    size_t bytes, cap;
    struct log_line *lines;
    size_t n, room;
};

/* All whole lines of a file; from line `after` on one in `every`, at random, is followed by a fault. 0; −ENOMEM; −EIO.
 */
int log_read(struct log *log, FILE *from, uint64_t seed, size_t after, double every);
void log_free(struct log *log);

#endif
