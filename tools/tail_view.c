/* tail_view.c: draws the model as a table of streams over a list of events. Each frame is written from the top of the
 * screen, line by line, and clears only what it leaves behind, so that nothing flickers. Columns are left out from the
 * least important on until the rest fits. */
#include "tools/tail_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/plural.h"

enum { STREAM_LEAST = 12 };

/* ---- cells ---- */

/* v in at most `width` characters. */
static void compact(char *text, size_t cap, double v, int width)
{
    for (int digits = 5; digits > 0; digits--) {
        if (snprintf(text, cap, "%.*g", digits, v) <= width)
            return;
    }
}

static void cell_rate(struct tail_line *l, const struct tail_stream *s, int width)
{
    char text[32] = "";

    if (s->rate == 0)
        strcpy(text, "irreg.");
    else if (s->rate >= 1000)
        snprintf(text, sizeof text, "%.3g kHz", s->rate / 1000);
    else if (s->rate >= 0.1)
        snprintf(text, sizeof text, "%.4g Hz", s->rate);
    else if (s->rate > 1.0 / 5400)
        snprintf(text, sizeof text, "1/%.3g s", 1 / s->rate);
    else if (s->rate > 0)
        snprintf(text, sizeof text, "1/%.3g h", 1 / s->rate / 3600);
    tail_text(l, text, -width);
}

static void cell_rows(struct tail_line *l, const struct tail_stream *s, int width)
{
    char text[32];

    snprintf(text, sizeof text, s->rows_s < 9.95 ? "%.1f" : "%.0f", s->rows_s);
    tail_text(l, s->ended ? "ended" : text, -width);
}

static void cell_next(struct tail_line *l, const struct tail_stream *s, int width)
{
    char text[32] = "";

    if (s->forecast)
        compact(text, sizeof text, (double)s->next, width);
    tail_ink(l, TAIL_BOLD);
    tail_text(l, text, -width);
}

static void cell_band(struct tail_line *l, const struct tail_stream *s, int width)
{
    char low[32] = "", high[32] = "", text[80] = "";
    int each = (width - 4) / 2;

    if (s->forecast) {
        compact(low, sizeof low, (double)s->low, each);
        compact(high, sizeof high, (double)s->high, each);
        snprintf(text, sizeof text, "%s .. %s", low, high);
    }
    tail_text(l, text, -width);
}

static void cell_ahead(struct tail_line *l, const struct tail_stream *s, int width)
{
    float v[TAIL_AHEAD], low = INFINITY, high = -INFINITY;
    unsigned n = s->n_ahead < (unsigned)width ? s->n_ahead : (unsigned)width;

    for (unsigned i = 0; i < n; i++) {
        v[i] = s->ahead[i * s->n_ahead / n];
        low = fminf(low, v[i]);
        high = fmaxf(high, v[i]);
    }
    tail_ink(l, TAIL_CYAN);
    tail_spark(l, v, n, low, high);
}

static enum tail_ink score_ink(float score)
{
    return score >= 0.5f ? TAIL_RED : score >= 0.3f ? TAIL_YELLOW : TAIL_GREEN;
}

static void cell_score(struct tail_line *l, const struct tail_stream *s, int width)
{
    char text[32];

    if (!s->scored) {
        tail_text(l, s->warmup ? "warm-up" : "", width);
        return;
    }
    snprintf(text, sizeof text, "%.2f ", (double)s->shown);
    tail_ink(l, score_ink(s->shown));
    tail_text(l, text, 0);
    tail_bar(l, s->shown, width - 5);
}

static void cell_history(struct tail_line *l, const struct tail_stream *s, int width)
{
    int n = width < TAIL_HISTORY ? width : TAIL_HISTORY;

    tail_ink(l, score_ink(s->shown));
    tail_spark(l, s->history + TAIL_HISTORY - n, (unsigned)n, 0, 1);
}

/* ---- columns ---- */

struct column {
    const char *head;
    int width, rank; /* rank: the higher, the sooner left out */
    bool stretches, left;
    void (*cell)(struct tail_line *l, const struct tail_stream *s, int width);
};

static const struct column columns_of[] = {
    {"rate", 8, 5, false, false, cell_rate},      {"rows/s", 7, 3, false, false, cell_rows},
    {"next", 8, 1, false, false, cell_next},      {"band", 17, 4, false, false, cell_band},
    {"ahead", 12, 6, true, true, cell_ahead},     {"anomaly", 10, 2, false, true, cell_score},
    {"history", 12, 7, true, true, cell_history},
};
enum { COLUMNS = sizeof columns_of / sizeof *columns_of };

struct layout {
    int stream, width[COLUMNS]; /* 0: left out */
};

static void lay_out(struct layout *l, const struct tail_model *m, int columns)
{
    int used = STREAM_LEAST, longest = STREAM_LEAST, spare;

    memset(l, 0, sizeof *l);
    for (int rank = 1; rank <= COLUMNS; rank++) {
        for (int i = 0; i < COLUMNS; i++) {
            if (columns_of[i].rank == rank && used + 1 + columns_of[i].width <= columns) {
                l->width[i] = columns_of[i].width;
                used += 1 + columns_of[i].width;
            }
        }
    }
    for (unsigned i = 0; i < m->n; i++) {
        int len = (int)strlen(m->streams[i]->id);
        longest = len > longest ? len : longest;
    }
    spare = columns - used;
    l->stream = STREAM_LEAST + (spare < longest - STREAM_LEAST ? spare : longest - STREAM_LEAST);
    spare -= l->stream - STREAM_LEAST;
    for (int i = 0; i < COLUMNS; i++) { /* what is left goes to the pictures */
        int more = columns_of[i].stretches && l->width[i] ? (spare / 2 < 24 ? spare / 2 : 24) : 0;
        l->width[i] += more;
    }
}

/* ---- lines ---- */

static void end_line(FILE *out, struct tail_line *l)
{
    tail_ink(l, TAIL_PLAIN);
    fprintf(out, "%s\033[K\r\n", l->text);
}

static void draw_title(FILE *out, struct tail_line *l, const struct tail_model *m, const char *endpoint)
{
    char text[128];

    tail_ink(l, TAIL_BOLD);
    tail_text(l, "mambad  ", 0);
    tail_ink(l, TAIL_PLAIN);
    tail_text(l, endpoint, 0);
    if (m->uptime_s >= 0) {
        snprintf(text, sizeof text, "   run %llu, up %d:%02d", (unsigned long long)m->run, (int)m->uptime_s / 60,
                 (int)m->uptime_s % 60);
        tail_text(l, text, 0);
    }
    end_line(out, l);
}

static void draw_totals(FILE *out, struct tail_line *l, const struct tail_model *m)
{
    char text[160];

    if (m->messages == 0) {
        tail_ink(l, TAIL_DIM);
        tail_text(l, "waiting for messages", 0);
        end_line(out, l);
        return;
    }
    snprintf(text, sizeof text, "%u stream%s   %.0f rows/s   %.0f messages/s   latency %.1f ms   ", m->n, md_s(m->n),
             m->rows_s, m->messages_s, m->latency_us / 1000);
    tail_text(l, text, 0);
    snprintf(text, sizeof text, "%llu row%s lost", (unsigned long long)m->lost, md_s(m->lost));
    tail_ink(l, m->lost ? TAIL_RED : TAIL_PLAIN);
    tail_text(l, text, 0);
    end_line(out, l);
}

static void draw_heads(FILE *out, struct tail_line *l, const struct layout *lay)
{
    tail_ink(l, TAIL_DIM);
    tail_text(l, "stream", lay->stream);
    for (int i = 0; i < COLUMNS; i++) {
        if (!lay->width[i])
            continue;
        tail_text(l, " ", 0);
        tail_text(l, columns_of[i].head, columns_of[i].left ? lay->width[i] : -lay->width[i]);
    }
    end_line(out, l);
}

static void draw_stream(FILE *out, struct tail_line *l, const struct layout *lay, const struct tail_stream *s)
{
    tail_ink(l, s->ended ? TAIL_DIM : TAIL_PLAIN);
    tail_text(l, s->id, lay->stream);
    for (int i = 0; i < COLUMNS; i++) {
        int end = l->column + 1 + lay->width[i];
        if (!lay->width[i])
            continue;
        tail_ink(l, s->ended ? TAIL_DIM : TAIL_PLAIN);
        tail_text(l, " ", 0);
        columns_of[i].cell(l, s, lay->width[i]);
        tail_gap(l, end);
    }
    end_line(out, l);
}

static int by_interest(const void *a, const void *b)
{
    const struct tail_stream *x = *(struct tail_stream *const *)a, *y = *(struct tail_stream *const *)b;

    if (x->shown != y->shown)
        return x->shown < y->shown ? 1 : -1;
    return strcmp(x->id, y->id);
}

/* All streams by id where they fit, else the strangest ones. Returns the lines drawn. */
static int draw_streams(FILE *out, struct tail_line *l, const struct layout *lay, const struct tail_model *m, int lines)
{
    int columns = l->width, n = (int)m->n < lines ? (int)m->n : lines;
    struct tail_stream **order = m->streams;
    char text[64];

    if ((int)m->n > lines && lines > 1) {
        order = malloc(m->n * sizeof *order);
        if (!order)
            return 0;
        memcpy(order, m->streams, m->n * sizeof *order);
        qsort(order, m->n, sizeof *order, by_interest);
        n = lines - 1;
    }
    for (int i = 0; i < n; i++) {
        tail_line_begin(l, l->style, columns);
        draw_stream(out, l, lay, order[i]);
    }
    if (order != m->streams) {
        free(order);
        snprintf(text, sizeof text, "and %u more", m->n - (unsigned)n);
        tail_line_begin(l, l->style, columns);
        tail_ink(l, TAIL_DIM);
        tail_text(l, text, 0);
        end_line(out, l);
        n++;
    }
    return n;
}

static void draw_events(FILE *out, struct tail_line *l, const struct layout *lay, const struct tail_model *m, int lines)
{
    int n = m->n_events < TAIL_EVENTS ? (int)m->n_events : TAIL_EVENTS, columns = l->width;

    n = n < lines ? n : lines;
    for (int i = 0; i < n; i++) { /* newest first */
        const struct tail_event *e = &m->events[(m->n_events - 1 - (uint64_t)i) % TAIL_EVENTS];
        tail_line_begin(l, l->style, columns);
        tail_ink(l, TAIL_DIM);
        tail_text(l, e->id, lay->stream);
        tail_text(l, " ", 0);
        tail_text(l, e->time, 8);
        tail_text(l, " ", 0);
        tail_ink(l, e->alarming ? TAIL_RED : TAIL_PLAIN);
        tail_text(l, e->text, 0);
        end_line(out, l);
    }
}

void tail_view_draw(FILE *out, const struct tail_model *m, const char *endpoint, struct tail_style style, int columns,
                    int rows)
{
    int lines =
        rows > 4 ? rows - 4 : 0; /* title, totals, heads, and the last line stays free: writing there would scroll */
    int events = m->n_events == 0 || lines < 2 ? 0 : lines < 10 ? 1 : lines / 3;
    struct tail_line l;
    struct layout lay;

    lay_out(&lay, m, columns);
    fputs("\033[H", out);
    tail_line_begin(&l, style, columns);
    draw_title(out, &l, m, endpoint);
    tail_line_begin(&l, style, columns);
    draw_totals(out, &l, m);
    tail_line_begin(&l, style, columns);
    draw_heads(out, &l, &lay);
    lines -= draw_streams(out, &l, &lay, m, lines - events);
    if (lines > 2 && events > 1) {
        fputs("\033[K\r\n", out);
        lines--;
    }
    tail_line_begin(&l, style, columns);
    draw_events(out, &l, &lay, m, lines);
    fputs("\033[J", out);
    fflush(out);
}
