/* eval.h: what `mambactl eval forecast` and `eval anomaly` share: their command line, progress and output. */
#ifndef TOOLS_EVAL_H
#define TOOLS_EVAL_H

#include <stdio.h>

#include "tools/eval_suite.h"

struct eval_options {
    const char *command;                   /* "forecast" or "anomaly" */
    const char *model, *baseline, *scores; /* one of them */
    const char *suite, *data, *only, *device, *plot;
    uint32_t threads, patch; /* patch: of the baselines */
    bool json, quiet, ltsf, adapt;
    double threshold; /* a row is detected at this score, −log10 p */
    uint32_t vus_window;
    json_t *entry; /* how files named on the command line are treated */
    struct eval_suite series;
    size_t series_done;
    double shown_s; /* when the progress was last shown */
};

/* Each goes through the series and prints; the exit code, after a message on stderr. */
int eval_forecast(struct eval_options *o);
int eval_ltsf(struct eval_options *o);
int eval_anomaly(struct eval_options *o);

/* One line on stderr, where that is a terminal, ten times a second; rows 0 clears it. */
void eval_progress(struct eval_options *o, size_t rows);

/* Prints "mambactl eval: why" and returns the exit code that goes with a negative errno. */
int eval_fail(int err, const char *why);

json_t *eval_number(double v); /* for JSON: null where it is not finite */

/* A report, as JSON with the name of what was judged, or as `print` has it for a person. Gives it back. */
void eval_print(const struct eval_options *o, json_t *doc, void (*print)(const json_t *doc));
void eval_print_figure(const json_t *row, const char *key, int width, int decimals); /* behind a space; - for null */

/* Draws one picture: `doc` as tools/eval_plot.py reads it. Gives it back. Negative errno with reterr. */
int eval_plot(const struct eval_options *o, const char *name, json_t *doc, char *reterr);

enum { EVAL_NAME = 44 }; /* width of the column of names, which are cut at their beginning */

#endif
