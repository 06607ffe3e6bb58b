/* csv.c: `type: csv`: text tables, each file a stream, its numeric columns the channels. Runs on the input's thread; a
 * reader owns its descriptor and one buffer, which holds the line that is being read.
 *
 * Trap: the layout is settled by the first three lines of content, which a pipe may not have sent yet. */
#include "io/csv.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "io/play.h"

struct csv {
    const struct io_csv_conf *conf;
    const char *path; /* the caller's */
    int fd;
    bool known, whole; /* the layout; all of the file is in the buffer */
    struct io_csv_layout layout;
    bool header_left; /* still to be skipped */
    long line;        /* number of the last line read */
    size_t at, end;   /* of what is unread in buf */
    int failed;       /* a bad line was met after rows that are delivered first */
    char why[IO_ERR];
    char *field[IO_CSV_COLUMNS_MAX];
    char buf[IO_CSV_LINE_MAX + 1];
};

static int bad_line(const struct csv *c, char *reterr, const char *why, const char *field)
{
    int n = snprintf(reterr, IO_ERR, "%s:%ld: ", c->path, c->line);
    snprintf(reterr + n, (size_t)(IO_ERR - n), why, field);
    return -EBADMSG;
}

/* ---- lines ------------------------------------------------------------------------------------------------ */

/* Reads more behind what is unread, having moved that to the front. 0, -EAGAIN, or an error with its text. */
static int fill(struct csv *c, char *reterr)
{
    memmove(c->buf, c->buf + c->at, c->end - c->at);
    c->end -= c->at;
    c->at = 0;
    ssize_t got = io_file_read(c->fd, c->buf + c->end, IO_CSV_LINE_MAX - c->end);
    if (got < 0) {
        snprintf(reterr, IO_ERR, "%s: %s", c->path, strerror((int)-got));
        return (int)got;
    }
    c->end += (size_t)got;
    c->whole = got == 0;
    return 0;
}

/* The next line, without its end. 1; 0: there is none; negative: as fill. */
static int next_line(struct csv *c, char **ret, char *reterr)
{
    char *newline;
    while (!(newline = memchr(c->buf + c->at, '\n', c->end - c->at)) && !c->whole) {
        if (c->end - c->at == IO_CSV_LINE_MAX) {
            c->line++;
            return bad_line(c, reterr, "the line is longer than 64 KiB", NULL);
        }
        int r = fill(c, reterr);
        if (r)
            return r;
    }
    if (c->at == c->end)
        return 0;
    char *line = c->buf + c->at, *end = newline ? newline : c->buf + c->end;
    c->at = (size_t)(end - c->buf) + (newline != NULL);
    *end = '\0';
    if (end > line && end[-1] == '\r')
        end[-1] = '\0';
    if (c->line++ == 0 && strncmp(line, "\xef\xbb\xbf", 3) == 0)
        line += 3;
    *ret = line;
    return 1;
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

static int parse_row(struct csv *c, char *line, double *row, int64_t *t_ns, char *reterr)
{
    const struct io_csv_layout *l = &c->layout;
    unsigned n = io_csv_split(line, l->delimiter, c->field, IO_CSV_COLUMNS_MAX);
    if (n != l->columns) {
        char text[64];
        snprintf(text, sizeof text, "%u field%s, where the first line has %u", n, n == 1 ? "" : "s", l->columns);
        return bad_line(c, reterr, "%s", text);
    }
    if (l->time >= 0 && !io_csv_time(c->field[l->time], l->how, t_ns))
        return bad_line(c, reterr, "'%.80s' is no time like those before", c->field[l->time]);
    for (unsigned i = 0; i < l->channels; i++) {
        const char *field = c->field[l->channel[i]];
        if (io_csv_missing(field))
            row[i] = NAN;
        else if (!io_csv_number(field, l->delimiter, &row[i]))
            return bad_line(c, reterr, "'%.80s' is no number", field);
    }
    return 0;
}

/* The next row of content. 1; 0: the end; negative: none now, or a bad line. */
static int next_row(struct csv *c, double *row, int64_t *t_ns, char *reterr)
{
    for (;;) {
        char *line = NULL;
        int r = next_line(c, &line, reterr);
        if (r <= 0)
            return r;
        if (!io_csv_content(line))
            continue;
        if (!c->header_left) {
            r = parse_row(c, line, row, t_ns, reterr);
            return r ? r : 1;
        }
        c->header_left = false;
    }
}

/* The rows before a bad line are delivered; the next read says what was wrong. */
static int csv_read(void *self, double *rows, int64_t *t_ns, uint32_t max, char *reterr)
{
    struct csv *c = self;
    uint32_t n = 0;
    int r = c->failed ? c->failed : 1;
    if (c->failed)
        memcpy(reterr, c->why, IO_ERR);
    while (r > 0 && n < max) {
        r = next_row(c, rows + (size_t)n * c->layout.channels, &t_ns[n], reterr);
        n += r > 0;
    }
    if (n == 0)
        return r;
    if (r < 0 && r != -EAGAIN) {
        c->failed = r;
        memcpy(c->why, reterr, IO_ERR);
    }
    return (int)n;
}

/* ---- reader ----------------------------------------------------------------------------------------------- */

static int csv_open_file(const void *conf, const char *path, void **ret_self, char *reterr)
{
    struct csv *c = malloc(sizeof *c);
    if (!c)
        return -ENOMEM;
    memset(c, 0, offsetof(struct csv, field));
    c->conf = conf;
    c->path = path;
    c->fd = io_file_open(path);
    if (c->fd < 0) {
        int r = c->fd;
        snprintf(reterr, IO_ERR, "%s: %s", path, strerror(-r));
        free(c);
        return r;
    }
    *ret_self = c;
    return 0;
}

static int csv_format(void *self, struct io_play_format *ret, char *reterr)
{
    struct csv *c = self;
    char why[IO_ERR] = "out of memory";
    int r = 0;
    while (!c->known) {
        bool full = c->end - c->at == IO_CSV_LINE_MAX;
        r = io_csv_look(c->conf, c->buf + c->at, c->end - c->at, c->whole || full, &c->layout, why);
        if (r == 0)
            break;
        if (r != -EAGAIN) {
            snprintf(reterr, IO_ERR, "%s: %.400s", c->path, why);
            return r;
        }
        r = fill(c, reterr);
        if (r)
            return r;
    }
    if (!c->known)
        c->header_left = c->layout.header;
    c->known = true;
    *ret = (struct io_play_format){
        .rate = c->conf->common.rate, .channels = c->layout.channels, .type = IO_F64, .rows = -1};
    ret->timed = c->layout.time >= 0;
    return 0;
}

static void csv_close_file(void *self)
{
    struct csv *c = self;
    close(c->fd);
    free(c);
}

static int csv_fd(void *self)
{
    return ((struct csv *)self)->fd;
}

static const struct io_reader_class reader = {csv_open_file, csv_format, csv_read, csv_close_file, csv_fd};

/* ---- source ----------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(struct io_csv_conf, field)

enum { NO_HEADER = 2 };
static const char *const headers[] = {"auto", "yes", "no", NULL};
static const char *const delimiters[] = {"auto", "comma", "semicolon", "tab", NULL};

static const struct io_option options[] = {
    {"files", "files and globs, each file a stream; - is standard input", IO_OPT_STRINGS, AT(files), .required = true},
    {"header", "whether the first line has the columns' names; auto: if it has no numbers", IO_OPT_ENUM, AT(header),
     "auto", .names = headers},
    {"delimiter", "between fields", IO_OPT_ENUM, AT(delimiter), "auto", .names = delimiters},
    {"time", "the column of times, by name or number; auto: the first if it looks like times; none", IO_OPT_STRING,
     AT(time), "auto"},
    {"columns", "the columns that are channels, by name or number (1 is the first); else all of numbers",
     IO_OPT_STRINGS, AT(columns)},
    {0},
};

static int check(const void *conf, const char **ret_key, char *reterr)
{
    const struct io_csv_conf *c = conf;
    for (unsigned i = 0; i < c->columns.n && c->header == NO_HEADER; i++) {
        const char *column = c->columns.v[i];
        if (column[strspn(column, "0")] && strspn(column, "0123456789") == strlen(column))
            continue;
        *ret_key = "columns";
        snprintf(reterr, IO_ERR, "'%.200s' is no number from 1, and with `header: no` there are no names", column);
        return -EINVAL;
    }
    return io_play_check(&c->common, ret_key, reterr);
}

static int csv_open(const void *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    const struct io_csv_conf *c = conf;
    struct io_play_conf play = {.common = &c->common, .files = &c->files, .reader = &reader, .reader_conf = c};
    return io_play_open(&play, host, ret_self, reterr);
}

extern const struct io_source_class io_source_csv;
const struct io_source_class io_source_csv = {
    .type = "csv",
    .help = "text tables with columns of numbers and, where the first one looks like it, of times",
    .options = options,
    .conf_bytes = sizeof(struct io_csv_conf),
    .replayable = true,
    .check = check,
    .open = csv_open,
    .turn = io_play_turn,
    .close = io_play_close,
    .fd = io_play_fd,
};
