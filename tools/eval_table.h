/* eval_table.h: a series as `mambactl eval` sees it: a table of numbers, with the rows' times where the file has a
 * clock. Any thread; libhdf5 wants one at a time. */
#ifndef TOOLS_EVAL_TABLE_H
#define TOOLS_EVAL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/eval_file.h"

struct eval_table {
    size_t rows;
    uint32_t channels;
    double *x;       /* [rows][channels], NaN: missing */
    int64_t *t_ns;   /* [rows]; NULL: the first column is no date (YYYY-MM-DD …) */
    bool steps_back; /* t_ns does so somewhere: it is of no use to a model */
    uint8_t *label;  /* [rows], of the label column; NULL: none was asked for */
};

/* Which of a file's columns count; names, or numbers from 1. Borrowed. */
struct eval_columns {
    const json_t *keep, *drop; /* arrays; keep NULL: all columns of numbers */
    const char *label;         /* column of labels, taken out of the channels; NULL: none */
    bool header;               /* the first line is one even if it has numbers; else that goes by its looks */
    bool flatten;              /* a row is a run of samples of one channel */
};

/* CSV (.csv, .txt, .out, packed or not), WFDB records of format 212 (.dat beside its .hea) or FILE.h5:/DATASET. Errors
 * name the file and, of a text, the line: -EBADMSG, -EINVAL (no such column), those of eval_file_read(). */
int eval_table_load(const char *path, const struct eval_columns *columns, struct eval_table *ret, char *reterr);
void eval_table_done(struct eval_table *t);

/* eval_hdf5.c; in a build without HDF5 -ENOSYS. */
int eval_hdf5_load(const char *path, const char *dataset, struct eval_table *ret, char *reterr);

/* eval_wfdb.c */
int eval_wfdb_load(const char *path, struct eval_table *ret, char *reterr);

/* Seconds between rows, the median over the clock; NaN: no clock. */
double eval_table_step(const struct eval_table *t);

#endif
