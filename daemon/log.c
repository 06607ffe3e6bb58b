/* log.c: see log.h. Any thread; one lock around formatting and the write. The log is the process's, so it is the one
 * place with state at file level. Trap: a line that repeats is held back, so somebody has to call md_log_flush() from
 * time to time (main's loop does) for its count to be said. */
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/utf8.h"

enum { LINE = 2048, SUBJECT = 256, HELD = 32, WINDOW_NS = 1000000000 };

/* A line said within the last second, and how often it, or one like it, came again since. */
struct held {
    uint64_t hash; /* 0: free */
    int64_t until_ns;
    uint64_t again;
    bool alike;
    enum md_level level;
    char subject[SUBJECT], text[LINE];
};

static struct {
    pthread_mutex_t lock;
    enum md_level level;
    enum md_log_format format;
    struct held held[HELD];
    int out;            /* stderr, or where it leads to, opened so that writing does not block */
    uint64_t unwritten; /* lines since it last took one */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = MD_INFO, .out = STDERR_FILENO};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* Whether stderr is the stream that systemd gave the process: JOURNAL_STREAM is its device and inode. */
static bool to_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;

    return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == (dev_t)dev && st.st_ino == (ino_t)ino;
}

/* Of a pipe or terminal, which may be full: a description of its own, for stderr's may be shared with others. */
static void open_out(void)
{
    struct stat st;
    int fd = -1;

    if (fstat(STDERR_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || isatty(STDERR_FILENO)))
        fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (state.out != STDERR_FILENO)
        close(state.out);
    state.out = fd < 0 ? STDERR_FILENO : fd;
}

void md_log_setup(enum md_level level, enum md_log_format format)
{
    pthread_mutex_lock(&state.lock);
    open_out();
    state.level = level;
    state.format = format != MD_LOG_AUTO      ? format
                   : isatty(STDERR_FILENO)    ? MD_LOG_TEXT
                   : to_journal()             ? MD_LOG_JOURNAL
                                              : MD_LOG_JSON;
    pthread_mutex_unlock(&state.lock);
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* "2026-01-31T12:00:00.123Z" */
static void write_time(char *out, size_t cap)
{
    struct timespec t;
    struct tm tm;
    size_t n;

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    n = strftime(out, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, cap - n, ".%03ldZ", t.tv_nsec / 1000000);
}

/* Text as the inside of a JSON string; what is not UTF-8 becomes '?'. Returns its length. */
static size_t escape(char *out, size_t cap, const char *text)
{
    size_t n = 0, left = strlen(text);

    while (left && n + 8 < cap) {
        uint32_t c = 0;
        size_t step = io_utf8_step(text, left, &c);

        if (step == 0)
            out[n++] = '?';
        else if (c < 0x20 || c == 0x7F)
            n += (size_t)snprintf(out + n, cap - n, "\\u%04x", (unsigned)c);
        else if (c == '"' || c == '\\')
            n += (size_t)snprintf(out + n, cap - n, "\\%c", (char)c);
        else
            for (size_t i = 0; i < step; i++)
                out[n++] = text[i];
        text += step ? step : 1;
        left -= step ? step : 1;
    }
    out[n] = 0;
    return n;
}

/* Control characters would let a stream's name write lines of its own. The journal has times of its own, and takes the
 * level as syslog's number. */
static void write_text(char *line, size_t cap, enum md_level level, const char *subject, const char *text)
{
    static const int priorities[] = {3, 4, 6, 7};
    char when[40];

    write_time(when, sizeof when);
    if (state.format == MD_LOG_JOURNAL)
        snprintf(line, cap, "<%d>%s%s%s", priorities[level], subject, *subject ? ": " : "", text);
    else
        snprintf(line, cap, "%s %-5s %s%s%s", when, level_names[level], subject, *subject ? ": " : "", text);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            *p = ' ';
}

static void write_json(char *line, size_t cap, enum md_level level, const char *subject, const char *text)
{
    char when[40], safe[2 * SUBJECT];
    size_t n;

    write_time(when, sizeof when);
    n = (size_t)snprintf(line, cap, "{\"time\":\"%s\",\"level\":\"%s\",", when, level_names[level]);
    if (*subject) {
        escape(safe, sizeof safe, subject);
        n += (size_t)snprintf(line + n, cap - n, "\"subject\":\"%s\",", safe);
    }
    n += (size_t)snprintf(line + n, cap - n, "\"message\":\"");
    n += escape(line + n, cap - n - 4, text);
    snprintf(line + n, cap - n, "\"}");
}

/* A line that was not written whole counts as unwritten; that there is nobody to read at all cannot be said. */
static void write_line(enum md_level level, const char *subject, const char *text)
{
    char line[2 * LINE];
    ssize_t n, written;

    _Static_assert(sizeof line <= PIPE_BUF, "a pipe takes a line whole or not at all");
    if (state.format == MD_LOG_JSON)
        write_json(line, sizeof line - 1, level, subject, text);
    else
        write_text(line, sizeof line - 1, level, subject, text);
    n = (ssize_t)strlen(line);
    line[n++] = '\n';
    written = write(state.out, line, (size_t)n);
    state.unwritten += (written >= 0 && written < n) || (written < 0 && errno == EAGAIN);
}

/* Whether stderr takes a line, which a reader that is slow is waited for; one that has stopped holds nobody up: once a
 * line was given up, none waits until stderr takes one again. */
static bool takes_line(void)
{
    enum { PATIENCE_MS = 1000 };
    struct pollfd out = {.fd = state.out, .events = POLLOUT};
    uint64_t unwritten = state.unwritten;
    char told[80];

    if (poll(&out, 1, unwritten ? 0 : PATIENCE_MS) == 0)
        return false;
    if (unwritten == 0)
        return true;
    snprintf(told, sizeof told, "nobody read the log: %llu lines were not written", (unsigned long long)unwritten);
    state.unwritten = 0;
    write_line(MD_WARN, "", told);
    if (state.unwritten == 0)
        return takes_line();
    state.unwritten = unwritten;
    return false;
}

static void emit(enum md_level level, const char *subject, const char *text)
{
    if (takes_line())
        write_line(level, subject, text);
    else
        state.unwritten++;
}

/* ---- repeats ------------------------------------------------------------------------------------------------ */

static void say_held(struct held *h)
{
    char text[LINE + 64];

    if (h->again) {
        snprintf(text, sizeof text, "%s (%llu more%s)", h->text, (unsigned long long)h->again,
                 h->alike ? " like it" : "");
        emit(h->level, h->subject, text);
    }
    h->hash = 0;
}

static void flush_until(int64_t now)
{
    for (unsigned i = 0; i < HELD; i++)
        if (state.held[i].hash && state.held[i].until_ns <= now)
            say_held(&state.held[i]);
}

static uint64_t hash_line(enum md_level level, const char *subject, const char *text)
{
    uint64_t h = 14695981039346656037ull + level; /* FNV-1a */

    for (; *subject; subject++)
        h = (h ^ (unsigned char)*subject) * 1099511628211ull;
    for (h *= 31; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211ull;
    return h ? h : 1;
}

/* Whether the line, or one like it, was said within the last second; it is then counted. */
static bool hold_back(uint64_t hash)
{
    for (unsigned i = 0; i < HELD; i++)
        if (state.held[i].hash == hash) {
            state.held[i].again++;
            return true;
        }
    return false;
}

/* Says the line, and remembers it in the oldest place. */
static void say(const struct held *line)
{
    struct held *place = &state.held[0];

    for (unsigned i = 1; i < HELD && place->hash; i++)
        if (!state.held[i].hash || state.held[i].until_ns < place->until_ns)
            place = &state.held[i];
    if (place->hash)
        say_held(place);
    *place = *line;
    emit(line->level, line->subject, line->text);
}

void md_log_flush(bool all)
{
    pthread_mutex_lock(&state.lock);
    flush_until(all ? INT64_MAX : now_ns());
    if (state.unwritten)
        takes_line();
    pthread_mutex_unlock(&state.lock);
}

void md_log(enum md_level level, const char *subject, const char *fmt, ...)
{
    int64_t now = now_ns();
    struct held line = {.until_ns = now + WINDOW_NS, .level = level};
    va_list args;

    va_start(args, fmt);
    vsnprintf(line.text, LINE, fmt, args);
    va_end(args);
    snprintf(line.subject, SUBJECT, "%s", subject ? subject : "");
    line.hash = hash_line(level, line.subject, line.text);
    pthread_mutex_lock(&state.lock);
    flush_until(now);
    if (level <= state.level && !hold_back(line.hash))
        say(&line);
    pthread_mutex_unlock(&state.lock);
}

/* What is held back is not even formatted: an engine may say it of every message. */
void md_log_stream(enum md_level level, const char *id, const char *alike, const char *fmt, ...)
{
    uint64_t hash = hash_line(level, fmt, alike);
    int64_t now = now_ns();
    va_list args;

    pthread_mutex_lock(&state.lock);
    flush_until(now);
    if (level <= state.level && !hold_back(hash)) {
        struct held line = {.hash = hash, .until_ns = now + WINDOW_NS, .alike = true, .level = level};
        va_start(args, fmt);
        vsnprintf(line.text, LINE, fmt, args);
        va_end(args);
        snprintf(line.subject, SUBJECT, "%s", id);
        say(&line);
    }
    pthread_mutex_unlock(&state.lock);
}
