/* log.h: the daemon's log, on stderr: text on a terminal, lines with priorities for systemd's journal, JSON lines
 * otherwise (log.format decides). Any thread; a line is written with one write(2). Repeats of the same line within a
 * second are counted and said once, and so are lines that say the same of many streams. Where nobody reads, lines are
 * left out after a second, and counted. */
#ifndef MD_LOG_H
#define MD_LOG_H

#include <stdbool.h>

enum md_level { MD_ERROR, MD_WARN, MD_INFO, MD_DEBUG };
enum md_log_format { MD_LOG_AUTO, MD_LOG_TEXT, MD_LOG_JSON, MD_LOG_JOURNAL };

void md_log_setup(enum md_level level, enum md_log_format format);
/* `subject` is the stream, input, output or file that the line is about; NULL for none. */
void md_log(enum md_level level, const char *subject, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* `id` is one of many streams: of the lines with this format and the same `alike` (why, or of which input) only the
 * first of a second is said, then how many more. */
void md_log_stream(enum md_level level, const char *id, const char *alike, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Says the counts of repeats whose second is over; of all of them at the end of the process. */
void md_log_flush(bool all);

#endif
