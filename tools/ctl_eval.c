/* ctl_eval.c: `mambactl eval forecast|anomaly`: the command line (those of `eval bytes` and `eval logs`: eval_bytes.c,
 * eval_logs.c). One thread. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "tools/eval.h"
#include "tools/mambactl.h"

static const char usage[] =
    "usage: mambactl eval forecast|anomaly -m DIR --suite FILE --data DIR [OPTION]...\n"
    "       mambactl eval forecast|anomaly -m DIR [OPTION]... FILE...\n"
    "       mambactl eval bytes -m DIR [OPTION]... FILE...      (see: mambactl eval bytes --help)\n"
    "       mambactl eval logs -m DIR [OPTION]... FILE...       (see: mambactl eval logs --help)\n";
static const char help[] =
    "Streams series through a model from their first rows, in one causal pass, and says how good its forecasts or its\n"
    "anomaly scores were. A FILE is CSV (plain, .xz or .gz), FILE.h5:/DATASET, or a WFDB record's .dat; suites and "
    "figures\n"
    "are described in docs/evaluation.md.\n"
    "\n"
    "What is judged, one of:\n"
    "  -m, --model DIR         a model folder\n"
    "      --adapt linear      … with online adaptation (default none)\n"
    "      --baseline NAME     forecast: naive, seasonal, linear; anomaly: gaussian (NAB's windowed Gaussian)\n"
    "      --scores DIR        anomaly: a number a row, higher is more anomalous, in DIR/SERIES.txt (.xz, .gz)\n"
    "On which series:\n"
    "      --suite FILE        a list of series, their labels, seasons and horizons\n"
    "      --data DIR          the folder that the suite's names are in (default: the current one)\n"
    "      --only TEXT         of these only the series with TEXT in their names\n"
    "For files:\n"
    "      --columns LIST      the columns that are channels, by name or number (default: all of numbers)\n"
    "      --drop LIST         columns that are none\n"
    "      --header            the first line has names, even if it looks like numbers\n"
    "      --season N          forecast: samples a season has (default 1)\n"
    "      --horizon N         forecast: samples ahead (default 32)\n"
    "      --labels FILE       anomaly: 0 or 1 a row (.txt), NAB's windows (.json), ranges of rows (.csv)\n"
    "      --label COLUMN      anomaly: a column of labels in the files themselves\n"
    "      --train FILE        anomaly: streamed first, not scored\n"
    "      --unscored N        anomaly: rows at the beginning that are not scored\n"
    "      --step SECONDS      between rows, where the first column is no date\n"
    "      --nab               anomaly: score by NAB's rules too\n"
    "How:\n"
    "      --protocol NAME     forecast: crps (default) or ltsf, the long-horizon protocol; its suite names the "
    "splits\n"
    "      --patch N           baseline forecasts: origins are multiples of N, as a model's of that patch (default 1)\n"
    "      --threshold S       anomaly: a row is detected at this score, −log10 p (default 3: p = 0.001)\n"
    "      --vus-window N      anomaly: the largest buffer of VUS-PR in rows (default 100)\n"
    "      --device NAME       cpu (default), cuda, cuda:N, auto\n"
    "      --threads N         worker threads (default: one per core)\n"
    "      --json              one JSON object\n"
    "      --plot DIR          a picture per series into DIR (needs /usr/bin/python3 with matplotlib)\n"
    "  -q, --quiet             no progress, only errors\n"
    "      --help              print this text and end\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 bad data, 66 no such file, 69 device unavailable, 74 input/output error,\n"
    "78 bad suite or model folder.\n";

/* ---- options ---------------------------------------------------------------------------------------------- */

static int refuse(const char *what, const char *about)
{
    fprintf(stderr, "mambactl eval: %s%s\n%s", what, about, usage);
    return EX_USAGE;
}

static json_t *split_list(const char *list)
{
    json_t *names = json_array();
    char *copy = strdup(list), *rest = NULL;
    for (char *name = copy ? strtok_r(copy, ",", &rest) : NULL; name; name = strtok_r(NULL, ",", &rest))
        json_array_append_new(names, json_string(name));
    free(copy);
    return names;
}

/* A number of at least `least`; −1: none such. */
static double number(const char *text, double least)
{
    char *end;
    double v = strtod(text, &end);
    return *text && !*end && v >= least && v < 1e9 ? v : -1;
}

enum {
    OPT_BASELINE = 256,
    OPT_SCORES,
    OPT_SUITE,
    OPT_DATA,
    OPT_ONLY,
    OPT_COLUMNS,
    OPT_DROP,
    OPT_HEADER,
    OPT_SEASON,
    OPT_HORIZON,
    OPT_UNSCORED,
    OPT_STEP,
    OPT_LABELS,
    OPT_LABEL,
    OPT_TRAIN,
    OPT_NAB,
    OPT_PROTOCOL,
    OPT_PATCH,
    OPT_THRESHOLD,
    OPT_VUS_WINDOW,
    OPT_ADAPT,
    OPT_DEVICE,
    OPT_THREADS,
    OPT_JSON,
    OPT_PLOT,
    OPT_HELP
};

static const struct option longs[] = {
    {"model", required_argument, NULL, 'm'},
    {"adapt", required_argument, NULL, OPT_ADAPT},
    {"baseline", required_argument, NULL, OPT_BASELINE},
    {"scores", required_argument, NULL, OPT_SCORES},
    {"suite", required_argument, NULL, OPT_SUITE},
    {"data", required_argument, NULL, OPT_DATA},
    {"only", required_argument, NULL, OPT_ONLY},
    {"columns", required_argument, NULL, OPT_COLUMNS},
    {"drop", required_argument, NULL, OPT_DROP},
    {"header", no_argument, NULL, OPT_HEADER},
    {"season", required_argument, NULL, OPT_SEASON},
    {"horizon", required_argument, NULL, OPT_HORIZON},
    {"unscored", required_argument, NULL, OPT_UNSCORED},
    {"step", required_argument, NULL, OPT_STEP},
    {"labels", required_argument, NULL, OPT_LABELS},
    {"label", required_argument, NULL, OPT_LABEL},
    {"train", required_argument, NULL, OPT_TRAIN},
    {"nab", no_argument, NULL, OPT_NAB},
    {"protocol", required_argument, NULL, OPT_PROTOCOL},
    {"patch", required_argument, NULL, OPT_PATCH},
    {"threshold", required_argument, NULL, OPT_THRESHOLD},
    {"vus-window", required_argument, NULL, OPT_VUS_WINDOW},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"json", no_argument, NULL, OPT_JSON},
    {"plot", required_argument, NULL, OPT_PLOT},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static const char *name_of(int option)
{
    for (const struct option *l = longs; l->name; l++)
        if (l->val == option)
            return l->name;
    return "";
}

/* Options that say how files are treated, as keys of a suite's entry. −2: it is none of them. */
static int take_entry_option(struct eval_options *o, int option, const char *value)
{
    const char *key = name_of(option);
    double v = 0;
    switch (option) {
    case OPT_COLUMNS:
    case OPT_DROP:
        json_object_set_new(o->entry, key, split_list(value));
        return -1;
    case OPT_SEASON:
    case OPT_HORIZON:
    case OPT_UNSCORED:
        v = number(value, option == OPT_UNSCORED ? 0 : 1);
        json_object_set_new(o->entry, key, json_integer((json_int_t)v));
        break;
    case OPT_STEP:
        v = number(value, 0);
        json_object_set_new(o->entry, key, json_real(v));
        break;
    case OPT_LABELS:
    case OPT_LABEL:
    case OPT_TRAIN:
        json_object_set_new(o->entry, key, json_string(value));
        return -1;
    case OPT_HEADER:
    case OPT_NAB:
        json_object_set_new(o->entry, key, json_true());
        return -1;
    default:
        return -2;
    }
    return v < 0 ? refuse("not a number for this: --", key) : -1;
}

static int take_count(uint32_t *ret, int option, const char *value)
{
    double v = number(value, option == OPT_PATCH);
    if (v < 0 || v > 100000)
        return refuse("not a number for this: --", name_of(option));
    *ret = (uint32_t)v;
    return -1;
}

/* −1: go on; else the exit code. */
static int take_option(struct eval_options *o, int option, const char *value)
{
    const char **text = option == 'm'            ? &o->model
                        : option == OPT_BASELINE ? &o->baseline
                        : option == OPT_SCORES   ? &o->scores
                        : option == OPT_SUITE    ? &o->suite
                        : option == OPT_DATA     ? &o->data
                        : option == OPT_ONLY     ? &o->only
                        : option == OPT_DEVICE   ? &o->device
                        : option == OPT_PLOT     ? &o->plot
                                                 : NULL;
    if (text) {
        *text = value;
        return -1;
    }
    switch (option) {
    case OPT_PROTOCOL:
        o->ltsf = strcmp(value, "ltsf") == 0;
        return o->ltsf || strcmp(value, "crps") == 0 ? -1 : refuse("no such protocol: ", value);
    case OPT_ADAPT:
        o->adapt = strcmp(value, "linear") == 0;
        return o->adapt || strcmp(value, "none") == 0 ? -1 : refuse("no such adaptation: ", value);
    case OPT_THRESHOLD:
        o->threshold = number(value, 0);
        return o->threshold < 0 ? refuse("not a number for this: --", "threshold") : -1;
    case OPT_PATCH:
    case OPT_VUS_WINDOW:
    case OPT_THREADS:
        return take_count(option == OPT_PATCH     ? &o->patch
                          : option == OPT_THREADS ? &o->threads
                                                  : &o->vus_window,
                          option, value);
    case OPT_JSON:
        return o->json = true, -1;
    case 'q':
        return o->quiet = true, -1;
    case OPT_HELP:
        printf("%s\n%s", usage, help);
        return EX_OK;
    default: {
        int code = take_entry_option(o, option, value);
        if (code == -2)
            fputs(usage, stderr);
        return code == -2 ? EX_USAGE : code;
    }
    }
}

/* ---- the command ------------------------------------------------------------------------------------------ */

static void keep_only(struct eval_suite *s, const char *text)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct eval_series v = s->v[i];
        if (strstr(v.name, text)) {
            s->v[i] = s->v[kept];
            s->v[kept++] = v;
        }
    }
    for (size_t i = kept; i < s->n; i++)
        eval_series_done(&s->v[i]);
    s->n = kept;
}

static int find_series(struct eval_options *o, char **files, int n, char *reterr)
{
    json_t *paths = json_array();
    int err;
    for (int i = 0; i < n; i++)
        json_array_append_new(paths, json_string(files[i]));
    json_object_set_new(o->entry, "files", paths);
    err = o->suite ? eval_suite_load(o->suite, o->data, &o->series, reterr)
                   : eval_suite_files(json_incref(o->entry), &o->series, reterr);
    if (err == 0 && o->only)
        keep_only(&o->series, o->only);
    if (err == 0 && o->series.n == 0) {
        snprintf(reterr, EVAL_ERR, "no series with '%.80s' in its name", o->only);
        err = -ENOENT;
    }
    return err;
}

static int check_options(const struct eval_options *o, int files)
{
    bool forecast = strcmp(o->command, "forecast") == 0;
    static const char *const forecasts[] = {"naive", "seasonal", "linear", NULL};
    static const char *const detectors[] = {"gaussian", NULL};
    if (!!o->model + !!o->baseline + !!o->scores != 1)
        return refuse("one of -m, --baseline and --scores is needed", "");
    if (o->scores && forecast)
        return refuse("--scores is for anomaly", "");
    if (!o->suite == !files)
        return refuse(files ? "a suite or files, not both" : "a suite or files are needed", "");
    for (const char *const *name = forecast ? forecasts : detectors; o->baseline && strcmp(o->baseline, *name) != 0;)
        if (!*++name)
            return refuse("no such baseline here: ", o->baseline);
    return -1;
}

int ctl_eval(int argc, char **argv)
{
    struct eval_options o = {.command = argc > 1 ? argv[1] : "",
                             .data = ".",
                             .device = "cpu",
                             .threshold = 3,
                             .vus_window = 100,
                             .patch = 1};
    bool forecast = strcmp(o.command, "forecast") == 0;
    char reterr[EVAL_ERR];
    int c, code = -1;
    if (strcmp(o.command, "--help") == 0)
        return take_option(&o, OPT_HELP, NULL);
    if (strcmp(o.command, "bytes") == 0)
        return eval_bytes(argc - 1, argv + 1);
    if (strcmp(o.command, "logs") == 0)
        return eval_logs(argc - 1, argv + 1);
    if (!forecast && strcmp(o.command, "anomaly") != 0)
        return refuse("forecast, anomaly, bytes or logs?", "");
    o.entry = json_object();
    optind = 2;
    while (code < 0 && (c = getopt_long(argc, argv, "m:q", longs, NULL)) != -1)
        code = take_option(&o, c, optarg);
    if (code < 0)
        code = check_options(&o, argc - optind);
    if (code < 0) {
        int err = find_series(&o, argv + optind, argc - optind, reterr);
        code = err ? eval_fail(err, reterr) : !forecast ? eval_anomaly(&o) : o.ltsf ? eval_ltsf(&o) : eval_forecast(&o);
    }
    eval_suite_done(&o.series);
    json_decref(o.entry);
    return code;
}
