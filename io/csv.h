/* csv.h: the CSV input's configuration, what a file's columns are, and its notations of time. Pure functions; any
 * thread. */
#ifndef IO_CSV_H
#define IO_CSV_H

#include "io/source.h"

struct io_csv_conf {
    struct io_common common;
    struct io_strings files;
    int header;                /* 0: by its looks; 1: yes; 2: no */
    int delimiter;             /* 0: by its looks; 1 comma, 2 semicolon, 3 tab */
    char *time;                /* auto, none, or a column by name or number */
    struct io_strings columns; /* by name or number; none: all numeric ones */
};

/* ---- times ------------------------------------------------------------------------------------------------ */

enum io_csv_time {
    IO_CSV_ISO, /* 2024-01-31, 2024-01-31T12:00:00.5Z, 2024/01/31 12:00 */
    IO_CSV_S,   /* since the Unix epoch, as those below */
    IO_CSV_MS,
    IO_CSV_US,
    IO_CSV_NS,
    IO_CSV_YEAR, /* 1998 */
    IO_CSV_YMD   /* 20240131 */
};

/* ns since the Unix epoch; without a zone the time is UTC. */
bool io_csv_time(const char *text, enum io_csv_time how, int64_t *ret_ns);

/* ---- columns ---------------------------------------------------------------------------------------------- */

enum { IO_CSV_COLUMNS_MAX = 1024, IO_CSV_LINE_MAX = 64 << 10 };

struct io_csv_layout {
    char delimiter;
    bool header;
    int time; /* column, or −1 */
    enum io_csv_time how;
    unsigned columns, channels;
    unsigned short channel[IO_CSV_COLUMNS_MAX]; /* the column of each channel */
};

/* Splits a line in place; fields are trimmed and unquoted. Returns how many there are, at most max + 1. */
unsigned io_csv_split(char *line, char delimiter, char **fields, unsigned max);

bool io_csv_missing(const char *field);                             /* empty, NA, N/A, NaN, null, none */
bool io_csv_number(const char *field, char delimiter, double *ret); /* 1,5 is 1.5 where fields end with ; */
bool io_csv_content(const char *line);                              /* neither blank nor a # comment */

/* Looks at the beginning of a file. -EAGAIN: it takes three lines of content and `whole` is false; -EBADMSG; -ENOMEM.
 * An empty file has one channel. reterr does not name the file. */
int io_csv_look(const struct io_csv_conf *conf, const char *text, size_t len, bool whole, struct io_csv_layout *ret,
                char *reterr);

#endif
