/* eval_suite.h: the series that `mambactl eval` goes through, from a suite file (docs/evaluation.md) or from files
 * named on the command line. Read only once made; any thread. */
#ifndef TOOLS_EVAL_SUITE_H
#define TOOLS_EVAL_SUITE_H

#include "tools/eval_table.h"

struct eval_series {
    char *path, *name;  /* the name is the path below the data folder, without extensions */
    const char *family; /* borrowed from the suite, as all that is const here */
    struct eval_columns columns;
    double step_s; /* between rows, where there is no clock; 0: unknown */

    size_t season, horizon; /* forecasts */
    const json_t *by_step;  /* seconds between rows → [season, horizon]; NULL: those above */
    bool returns;           /* logarithmic returns are streamed, not the values */

    size_t train_rows, test_rows[2]; /* long horizons; 0: none */
    double train_share, test_share;  /* or as shares of the rows */
    const json_t *horizons;

    char *train, *labels; /* anomalies: files; NULL: none */
    bool normal;          /* no row is anomalous */
    size_t unscored;      /* rows at the beginning */
    size_t fault;         /* rows from this one on are anomalous; 0: see labels */
    bool nab;             /* also scored by NAB's rules */
};

struct eval_suite {
    json_t *doc; /* owned */
    struct eval_series *v;
    size_t n;
};

/* 0; -EINVAL (what the suite says), -ENOENT (a pattern without files) and those of eval_file_read(). */
int eval_suite_load(const char *path, const char *data, struct eval_suite *ret, char *reterr);

/* One entry in memory, of the suite's form but with `files` an array of paths. Takes the entry. */
int eval_suite_files(json_t *entry, struct eval_suite *ret, char *reterr);
void eval_suite_done(struct eval_suite *s);
void eval_series_done(struct eval_series *s); /* of one that is taken out of a suite */

/* Labels of `rows` rows; to be freed. t: the table they belong to. */
int eval_labels_load(const struct eval_series *s, const struct eval_table *t, uint8_t **ret, char *reterr);

#endif
