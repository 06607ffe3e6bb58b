/* tail_line.c: see tail_line.h. Knows escape sequences and widths of characters, nothing of streams. */
#include "tools/tail_line.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "io/utf8.h"

static void put(struct tail_line *l, const char *text, size_t len)
{
    if (l->len + len >= sizeof l->text)
        return;
    memcpy(l->text + l->len, text, len);
    l->len += len;
    l->text[l->len] = '\0';
}

void tail_line_begin(struct tail_line *l, struct tail_style style, int width)
{
    l->style = style;
    l->column = 0;
    l->width = width;
    l->len = 0;
    l->text[0] = '\0';
}

void tail_ink(struct tail_line *l, enum tail_ink ink)
{
    static const char *const codes[] = {
        [TAIL_PLAIN] = "\033[0m",    [TAIL_BOLD] = "\033[0;1m",    [TAIL_DIM] = "\033[0;2m",
        [TAIL_GREEN] = "\033[0;32m", [TAIL_YELLOW] = "\033[0;33m", [TAIL_RED] = "\033[0;1;31m",
        [TAIL_CYAN] = "\033[0;36m",
    };

    if (l->style.colour)
        put(l, codes[ink], strlen(codes[ink]));
}

/* Columns that a character takes: East Asian wide ones and pictures two, combining marks none. */
static int char_width(uint32_t c)
{
    if ((c >= 0x300 && c < 0x370) || c == 0x200d || (c >= 0xfe00 && c < 0xfe10))
        return 0;
    if ((c >= 0x1100 && c < 0x1160) || (c >= 0x2e80 && c < 0xa4d0) || (c >= 0xac00 && c < 0xd7a4) ||
        (c >= 0xf900 && c < 0xfb00) || (c >= 0xff00 && c < 0xff61) || (c >= 0x1f300 && c < 0x1fb00) || c >= 0x20000)
        return 2;
    return 1;
}

/* One character at p: its bytes, columns and value; what is not UTF-8 or not printable counts as one '?'. */
static size_t step(const char *p, int *ret_width, uint32_t *c)
{
    size_t n = io_utf8_step(p, strlen(p), c);

    if (!n || *c < 0x20 || (*c >= 0x7f && *c < 0xa0))
        *c = '?';
    *ret_width = char_width(*c);
    return n ? n : 1;
}

static int text_width(const char *text)
{
    int sum = 0, w;
    uint32_t c;

    for (; *text; sum += w)
        text += step(text, &w, &c);
    return sum;
}

static void put_char(struct tail_line *l, uint32_t c, int width)
{
    char utf8[4];

    if (c >= 0x80 && !l->style.utf8)
        put(l, "??", (size_t)width);
    else
        put(l, utf8, io_utf8_put(utf8, c));
    l->column += width;
}

void tail_gap(struct tail_line *l, int to_column)
{
    while (l->column < to_column && l->column < l->width)
        put_char(l, ' ', 1);
}

void tail_text(struct tail_line *l, const char *text, int width)
{
    int have = text_width(text), cell = width < 0 ? -width : width ? width : have;
    int end = l->column + cell < l->width ? l->column + cell : l->width;
    bool cut = l->column + have > end;
    uint32_t c;
    int w;

    if (width < 0 && !cut)
        tail_gap(l, end - have);
    while (*text && l->column < end) {
        size_t n = step(text, &w, &c);
        if (cut && l->column + w > end - 1)
            break;
        put_char(l, c, w);
        text += n;
    }
    if (cut && l->column < end)
        put_char(l, l->style.utf8 ? 0x2026 : '~', 1);
    tail_gap(l, end);
}

void tail_spark(struct tail_line *l, const float *v, unsigned n, float low, float high)
{
    static const char ascii[] = "_.-~=+*#";

    for (unsigned i = 0; i < n && l->column < l->width; i++) {
        float part = high > low ? (v[i] - low) / (high - low) : 0.5f;
        int level = (int)(fminf(fmaxf(part, 0), 1) * 7.999f);
        if (isnan(v[i]))
            put_char(l, ' ', 1);
        else
            put_char(l, l->style.utf8 ? 0x2581u + (uint32_t)level : (unsigned char)ascii[level], 1);
    }
}

void tail_bar(struct tail_line *l, float part, int width)
{
    int eighths = (int)(fminf(fmaxf(part, 0), 1) * (float)width * 8 + 0.5f), end = l->column + width;

    for (; eighths >= 8 && l->column < l->width; eighths -= 8)
        put_char(l, l->style.utf8 ? 0x2588 : '#', 1);
    if (eighths && l->style.utf8 && l->column < l->width)
        put_char(l, 0x2590u - (uint32_t)eighths, 1);
    tail_gap(l, end);
}
