/* tail_view.h: the live table of `mambactl tail` on a terminal. */
#ifndef TOOLS_TAIL_VIEW_H
#define TOOLS_TAIL_VIEW_H

#include "tools/tail_line.h"
#include "tools/tail_model.h"

/* Draws over the frame before, in place. columns × rows is the terminal's size. */
void tail_view_draw(FILE *out, const struct tail_model *m, const char *endpoint, struct tail_style style, int columns,
                    int rows);

#endif
