/* log_faults.c: see log_faults.h. Trap: whether a line is followed by a fault must not depend on how many numbers the
 * fault before it drew, or logs of two rates could not be compared; each line has numbers of its own. */
#include "tools/log_faults.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FAULT_MAX = 512 };

static const char *const foreign[] = {
    "INFO  [worker-12] order.Ledger: processed 4711 items in 31 ms",
    "WARN  [ingest-3] relay.Queue: cursor is 88 ms late, retrying (3/5)",
    "LOG:  checkpoint complete: wrote 61 buffers (0.4%); write=6.012 s, sync=0.004 s",
    "GET /api/v1/invoice/77 HTTP/1.1\" 500 1312 \"-\" \"curl/7.88.1\"",
    "kernel: EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0",
};
static const char *const failures[] = {"Killed", "Segmentation fault (core dumped)", "fatal: I/O error", "OOM",
                                       "panic: runtime error: index out of range [3] with length 3"};

const char *log_fault_name(enum log_fault f)
{
    static const char *const names[] = {"fine", "foreign", "word", "cut", "noise", "failure"};
    return names[f];
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(uint64_t *state, size_t n)
{
    return (size_t)(draw(state) % n);
}

static int add_line(struct log *log, const void *text, size_t n, enum log_fault fault)
{
    if (log->bytes + n > log->cap) {
        size_t cap = 2 * log->cap + n + 4096;
        uint8_t *grown = realloc(log->text, cap);
        if (!grown)
            return -ENOMEM;
        log->text = grown;
        log->cap = cap;
    }
    if (log->n == log->room) {
        size_t room = 2 * log->room + 1024;
        struct log_line *grown = realloc(log->lines, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        log->lines = grown;
        log->room = room;
    }
    memcpy(log->text + log->bytes, text, n);
    log->lines[log->n++] = (struct log_line){log->bytes, n, (uint8_t)fault};
    log->bytes += n;
    return 0;
}

/* Where the k-th word of n bytes begins, and its length. */
static size_t word_at(const char *line, size_t n, size_t k, size_t *ret_n)
{
    size_t at = 0;
    for (; k > 0; k--)
        at += strcspn(line + at, " ") + 1;
    *ret_n = strcspn(line + at, " ");
    return at < n ? at : n;
}

/* Of a line without its newline; out has room for FAULT_MAX. Returns its bytes. */
static size_t make_fault(enum log_fault f, const char *line, size_t n, uint64_t *state, char *out)
{
    size_t words = 1, at, len;
    for (size_t i = 0; i < n; i++)
        words += line[i] == ' ';
    switch (f) {
    case LOG_FOREIGN:
        at = word_at(line, n, words > 2 ? 2 : 0, &len);
        return (size_t)snprintf(out, FAULT_MAX, "%.*s%s", (int)at, line,
                                foreign[below(state, sizeof foreign / sizeof *foreign)]);
    case LOG_WORD:
        memcpy(out, line, n);
        at = word_at(line, n, below(state, words), &len);
        for (size_t i = at; i < at + len; i++)
            out[i] = (char)('a' + below(state, 26));
        return n;
    case LOG_CUT:
        memcpy(out, line, n);
        return n > 1 ? 1 + below(state, n - 1) : n;
    case LOG_NOISE:
        at = n ? below(state, n) : 0;
        memcpy(out, line, at);
        for (len = 4 + below(state, 26); len > 0; len--) {
            char c = (char)below(state, 256);
            out[at++] = c == '\n' ? ' ' : c;
        }
        return at;
    default:
        return (size_t)snprintf(out, FAULT_MAX, "%s", failures[below(state, sizeof failures / sizeof *failures)]);
    }
}

static int add_fault(struct log *log, const char *line, size_t n, uint64_t state)
{
    enum log_fault f = (enum log_fault)(1 + below(&state, LOG_FAULTS - 1));
    char out[FAULT_MAX + 1];
    size_t most = FAULT_MAX - 128; /* of the line, so that what is added fits */
    char *copy = strndup(line, n < most ? n : most);
    if (!copy)
        return -ENOMEM;
    size_t bytes = make_fault(f, copy, strlen(copy), &state, out);
    free(copy);
    out[bytes] = '\n';
    return add_line(log, out, bytes + 1, f);
}

int log_read(struct log *log, FILE *from, uint64_t seed, size_t after, double every)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int r = 0;
    *log = (struct log){0};
    for (size_t i = 0; r == 0 && (n = getline(&line, &cap, from)) > 0 && line[n - 1] == '\n'; i++) {
        uint64_t state = seed ^ i * 0xd1342543de82ef95u;
        double chance = (double)(draw(&state) >> 11) * 0x1p-53;
        r = add_line(log, line, (size_t)n, LOG_FINE);
        if (r == 0 && i >= after && chance * every < 1)
            r = add_fault(log, line, (size_t)n - 1, state);
    }
    r = r ? r : ferror(from) ? -errno : 0;
    free(line);
    return r;
}

void log_free(struct log *log)
{
    free(log->text);
    free(log->lines);
    *log = (struct log){0};
}
