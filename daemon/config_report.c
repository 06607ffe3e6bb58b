/* config_report.c: see config_report.h. The place of an error may lie in another file than the text at hand (--set), so
 * a caret line is written only for places in the file itself. Trap: columns count characters, not bytes. */
#include "daemon/config_report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void md_report(struct md_report *report, struct md_where where, const char *fmt, ...)
{
    struct md_error *grown = realloc(report->errors, (report->n + 1) * sizeof *grown);
    va_list args;

    report->starved |= !grown;
    if (!grown)
        return;
    report->errors = grown;
    grown += report->n;
    va_start(args, fmt);
    if (vasprintf(&grown->text, fmt, args) < 0) {
        grown->text = NULL;
        report->starved = true;
    }
    va_end(args);
    grown->where = where;
    grown->order = report->n++;
}

static const char *line_at(const char *text, int line)
{
    while (text && --line > 0) {
        text = strchr(text, '\n');
        if (text)
            text++;
    }
    return text;
}

/* The source line, and below it spaces (tabs where the line has tabs) up to the caret. */
static void print_caret(const char *text, struct md_where where, FILE *out)
{
    const char *line = line_at(text, where.line);
    size_t bytes = line ? strcspn(line, "\r\n") : 0;
    int col = 1;

    if (!line || bytes == 0)
        return;
    fprintf(out, "%.*s\n", (int)bytes, line);
    for (size_t i = 0; i < bytes && col < where.col; i++) {
        if (((unsigned char)line[i] & 0xC0) == 0x80)
            continue;
        fputc(line[i] == '\t' ? '\t' : ' ', out);
        col++;
    }
    fputs("^\n", out);
}

/* By place; those without one (missing sections, --set) after the others, in the order of finding. */
static int by_place(const void *a, const void *b)
{
    const struct md_error *x = a, *y = b;

    if (!x->where.line != !y->where.line)
        return x->where.line ? -1 : 1;
    if (x->where.line != y->where.line)
        return x->where.line < y->where.line ? -1 : 1;
    if (x->where.col != y->where.col)
        return x->where.col < y->where.col ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

unsigned md_report_flush(struct md_report *report, FILE *out)
{
    unsigned n = report->n;
    bool starved = report->starved;

    if (n)
        qsort(report->errors, n, sizeof *report->errors, by_place);
    for (unsigned i = 0; i < n; i++) {
        struct md_error *e = &report->errors[i];

        if (!e->text)
            continue;
        if (e->where.file)
            fprintf(out, "%s:", e->where.file);
        if (e->where.line)
            fprintf(out, "%d:%d:", e->where.line, e->where.col);
        fprintf(out, "%serror: %s\n", e->where.file ? " " : "", e->text);
        if (e->where.line)
            print_caret(report->text, e->where, out);
    }
    if (starved)
        fputs("error: out of memory\n", out);
    md_report_drop(report);
    return n + starved;
}

void md_report_drop(struct md_report *report)
{
    for (unsigned i = 0; i < report->n; i++)
        free(report->errors[i].text);
    free(report->errors);
    report->errors = NULL;
    report->n = 0;
    report->starved = false;
}

/* ---- the nearest name --------------------------------------------------------------------------------------- */

enum { WORD = 64 };

/* Edit distance with swaps of neighbours (optimal string alignment), on the first WORD bytes. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][WORD + 1];
    unsigned n = (unsigned)strnlen(a, WORD), m = (unsigned)strnlen(b, WORD);

    for (unsigned j = 0; j <= m; j++)
        rows[0][j] = j;
    for (unsigned i = 1; i <= n; i++) {
        unsigned *now = rows[i % 3], *before = rows[(i + 2) % 3], *two = rows[(i + 1) % 3];

        now[0] = i;
        for (unsigned j = 1; j <= m; j++) {
            unsigned best = before[j - 1] + (a[i - 1] != b[j - 1]);

            if (before[j] + 1 < best)
                best = before[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && two[j - 2] + 1 < best)
                best = two[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[n % 3][m];
}

static int by_distance(const void *a, const void *b, void *word)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    unsigned dx = distance(word, x), dy = distance(word, y);

    return dx != dy ? (dx < dy ? -1 : 1) : strcmp(x, y);
}

/* A typing error, or one part of a longer name. */
static bool is_near(const char *word, const char *name)
{
    size_t len = strlen(word);

    return distance(word, name) <= (len < 4 ? 1 : len / 2) || (len >= 3 && strstr(name, word));
}

void md_hint(const char *word, const char **names, unsigned n, char hint[MD_HINT])
{
    size_t at;

    hint[0] = 0;
    if (n == 0)
        return;
    if (word)
        qsort_r(names, n, sizeof *names, by_distance, (void *)(uintptr_t)word);
    for (unsigned i = 0; word && i < n; i++)
        if (is_near(word, names[i])) {
            snprintf(hint, MD_HINT, " (did you mean '%s'?)", names[i]);
            return;
        }
    at = (size_t)snprintf(hint, MD_HINT, " (valid: ");
    for (unsigned i = 0; i < n && at + strlen(names[i]) + 8 < MD_HINT; i++)
        at += (size_t)snprintf(hint + at, MD_HINT - at, "%s%s", i ? ", " : "", names[i]);
    snprintf(hint + at, MD_HINT - at, ")");
}
