/* tail_line.h: one line of a terminal, built cell by cell and never wider than the terminal. */
#ifndef TOOLS_TAIL_LINE_H
#define TOOLS_TAIL_LINE_H

#include <stdbool.h>
#include <stddef.h>

struct tail_style {
    bool colour, utf8;
};

enum tail_ink { TAIL_PLAIN, TAIL_BOLD, TAIL_DIM, TAIL_GREEN, TAIL_YELLOW, TAIL_RED, TAIL_CYAN };

struct tail_line {
    struct tail_style style;
    int column, width; /* where it is, where it must end */
    size_t len;
    char text[4096];
};

void tail_line_begin(struct tail_line *l, struct tail_style style, int width);
void tail_ink(struct tail_line *l, enum tail_ink ink);

/* Text in a cell of `width` columns (0: as wide as the text), cut with an ellipsis; a negative width aligns right. */
void tail_text(struct tail_line *l, const char *text, int width);
void tail_gap(struct tail_line *l, int to_column); /* blanks */

/* n values as columns of eight heights between low and high; NaN is a blank. */
void tail_spark(struct tail_line *l, const float *v, unsigned n, float low, float high);
void tail_bar(struct tail_line *l, float part, int width); /* 0 … 1 */

#endif
