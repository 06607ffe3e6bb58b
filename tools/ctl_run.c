/* ctl_run.c: `mambactl run`: files through the daemon's own pipeline, offline. It writes a configuration for them,
 * starts the daemon under MD_ONCE, and waits. The main thread sleeps in poll() on a signalfd and on the daemon's end.
 *
 * An output file is made in a folder beside it and moved into place at the end, so that a run that failed leaves what
 * was there before. Trap: the HDF5 sink names its segments itself. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "tools/ctl_inputs.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl run -m MODEL [OPTION]... INPUT... [-o OUT]...\n";
static const char help[] =
    "Processes files offline through the same pipeline as the daemon.\n"
    "\n" CTL_INPUTS_HELP "\n"
    "  -m, --model DIR         the model folder\n"
    "  -o, --output OUT        OUT.jsonl, OUT.h5, or - for JSON lines on standard output (default); may be given "
    "again;\n"
    "                          a file that is there is replaced once all is written\n"
    "      --families LIST     what is written (default prediction,embedding,anomaly,channel_anomaly,surprise,event)\n"
    "      --set KEY.PATH=VALUE\n"
    "                          any key of the configuration; the model is models.model, inputs are inputs.audio, "
    ".raw,\n"
    "                          .hdf5, .csv, .bytes\n"
    "      --print-config      print the configuration that this makes, and end\n"
    "  -q, --quiet             no progress, only errors\n"
    "  -v, --verbose           the daemon's log\n"
    "      --help              print this text and end\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 bad input data, 66 no such input, 69 device unavailable, 74 input/output error,\n"
    "78 wrong configuration or model folder.\n";

enum { OUTPUTS = 8 };

struct output {
    const char *path;
    char *folder; /* of a file on its way; NULL: written in place */
};

struct run {
    struct ctl_inputs inputs;
    const char *model, *families;
    struct output out[OUTPUTS];
    unsigned n_out, n_sets;
    const char **sets;
    bool print, quiet, verbose;
};

/* ---- configuration ---------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

static bool is_hdf5(const char *path)
{
    return ends_with(path, ".h5") || ends_with(path, ".hdf5");
}

/* Standard output, a pipe or a device is no file to be replaced. */
static bool in_place(const char *path)
{
    struct stat st;
    return strcmp(path, "-") == 0 || (!is_hdf5(path) && stat(path, &st) == 0 && !S_ISREG(st.st_mode));
}

/* A folder beside the output, on its file system. */
static int make_folder(struct output *o)
{
    const char *slash = strrchr(o->path, '/');
    if (in_place(o->path))
        return EX_OK;
    if (asprintf(&o->folder, "%.*s.mambactl-XXXXXX", slash ? (int)(slash + 1 - o->path) : 0, o->path) < 0) {
        o->folder = NULL;
        return EX_UNAVAILABLE;
    }
    if (mkdtemp(o->folder))
        return EX_OK;
    fprintf(stderr, "mambactl run: %s: %s\n", o->path, strerror(errno));
    free(o->folder);
    o->folder = NULL;
    return EX_IOERR;
}

static json_t *families(const char *list)
{
    json_t *names = json_array();
    char *copy = strdup(list), *rest;
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
        json_array_append_new(names, json_string(name));
    free(copy);
    return names;
}

static json_t *output_section(const struct run *run)
{
    json_t *section = json_object();
    for (unsigned i = 0; i < run->n_out; i++) {
        const struct output *o = &run->out[i];
        bool hdf5 = is_hdf5(o->path);
        char id[16], path[PATH_MAX];
        snprintf(id, sizeof id, "out%u", i + 1);
        snprintf(path, sizeof path, "%s/out%s", o->folder ? o->folder : ".", hdf5 ? "" : ".jsonl");
        json_t *out = json_object();
        json_object_set_new(out, "path", json_string(o->folder || hdf5 ? path : o->path));
        json_object_set_new(out, "type", json_string(hdf5 ? "hdf5" : "jsonl"));
        if (!hdf5 && strcmp(o->path, "-") != 0)
            json_object_set_new(out, "append", json_false());
        json_object_set_new(out, "families", families(run->families));
        json_object_set_new(section, id, out);
    }
    return section;
}

/* 0, or an exit code after messages on stderr. */
static int make_config(const struct run *run, char *const *args, int n, struct md_config **ret)
{
    json_t *inputs = ctl_inputs_section(&run->inputs, args, n);
    if (!inputs)
        return EX_USAGE;
    const char *level = run->verbose ? "info" : run->quiet ? "error" : "warn";
    json_t *root = json_pack("{s:{s:{s:s}}, s:o, s:o, s:{s:s, s:s}}", "models", "model", "path", run->model, "inputs",
                             inputs, "outputs", output_section(run), "log", "level", level, "format", "text");
    char *text = root ? ctl_config_text(root) : NULL;
    int r = text ? md_config_parse("mambactl run", text, run->sets, run->n_sets, true, stderr, ret) : -EINVAL;
    free(text);
    json_decref(root);
    return r ? EX_CONFIG : EX_OK;
}

/* A model of bytes reads whatever the inputs are as such. One that cannot be opened is complained of later. */
static bool reads_bytes(const char *model)
{
    char why[SSM_ERR];
    struct ssm_model *m;
    if (ssm_model_open(model, &m, why))
        return false;
    bool bytes = ssm_model_info(m)->bytes;
    ssm_model_close(&m);
    return bytes;
}

/* ---- running ---------------------------------------------------------------------------------------------- */

static double number_at(json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* One line on the terminal, rewritten in place. */
static void show_progress(struct md_daemon *d, double seconds)
{
    json_t *status = md_daemon_status(d), *input;
    double taken = 0, ends = 0, starts = 0;
    const char *id;
    json_object_foreach(json_object_get(status, "inputs"), id, input)
    {
        taken += number_at(input, "accepted_samples_total");
        starts += number_at(input, "stream_starts_total");
        ends += number_at(input, "stream_ends_total");
    }
    fprintf(stderr, "\r\x1b[K%.0f of %.0f streams done, %.0f samples, %.3g samples/s", ends, starts, taken,
            seconds > 0 ? taken / seconds : 0);
    fflush(stderr);
    json_decref(status);
}

/* Sleeps until the daemon has ended by itself (0) or a signal came (its number). */
static int wait_for_end(struct md_daemon *d, int signals, bool progress)
{
    enum { TICK_MS = 200 };
    struct pollfd fds[] = {{.fd = md_daemon_fd(d), .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    struct signalfd_siginfo info = {0};
    for (double seconds = 0;; seconds += TICK_MS * 1e-3) {
        int n = poll(fds, 2, progress ? TICK_MS : 1000);
        if (progress)
            show_progress(d, seconds);
        if (n > 0 && fds[1].revents && read(signals, &info, sizeof info) == sizeof info)
            break;
        if (n > 0 && fds[0].revents)
            break;
    }
    if (progress)
        fputc('\n', stderr);
    return (int)info.ssi_signo;
}

/* Returns the exit code; *ret_signal: the signal that ended it before its time; *ret_stopped as md_daemon_stop(). */
static int process(const struct run *run, const struct md_config *config, int *ret_signal, int *ret_stopped)
{
    struct md_daemon *daemon = NULL;
    char reterr[IO_ERR] = "";
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before the first thread */
    int signals = signalfd(-1, &set, SFD_CLOEXEC), code = signals < 0 ? EX_UNAVAILABLE : EX_OK;
    md_log_setup(config->log_level, config->log_format);
    if (code == EX_OK)
        code = md_daemon_start(config, MD_ONCE, &daemon, reterr);
    if (code == EX_OK) {
        *ret_signal = wait_for_end(daemon, signals, !run->quiet && !run->verbose && isatty(STDERR_FILENO));
        code = md_daemon_status_code(daemon);
        *ret_stopped = md_daemon_stop(&daemon, *ret_signal ? 1000000000 : config->shutdown_timeout_ns);
        code = code ? code : *ret_stopped;
    } else {
        fprintf(stderr, "mambactl run: %s\n", reterr[0] ? reterr : strerror(errno));
    }
    if (signals >= 0)
        close(signals);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    return code;
}

/* Moves the folder's one file to its place, or, where the run failed, throws it away. */
static int settle_output(struct output *o, bool keep)
{
    int code = keep ? EX_IOERR : EX_OK;
    DIR *dir = o->folder ? opendir(o->folder) : NULL;
    struct dirent *e;
    while (dir && (e = readdir(dir))) {
        if (e->d_name[0] == '.')
            continue;
        if (keep)
            code = renameat(dirfd(dir), e->d_name, AT_FDCWD, o->path) == 0 ? EX_OK : EX_IOERR;
        else
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir)
        closedir(dir);
    if (code)
        fprintf(stderr, "mambactl run: %s: could not be written\n", o->path);
    if (o->folder)
        rmdir(o->folder);
    free(o->folder);
    o->folder = NULL;
    return code;
}

static int run_files(struct run *run, char *const *args, int n)
{
    struct md_config *config = NULL;
    int code = EX_OK, signal_ = 0, stopped = 0;
    for (unsigned i = 0; i < run->n_out && code == EX_OK && !run->print; i++)
        code = make_folder(&run->out[i]);
    if (code == EX_OK)
        code = make_config(run, args, n, &config);
    if (code == EX_OK && run->print)
        md_config_print(config, stdout);
    else if (code == EX_OK)
        code = process(run, config, &signal_, &stopped);
    for (unsigned i = 0; i < run->n_out; i++) {
        int settled = run->out[i].folder ? settle_output(&run->out[i], code == EX_OK && !signal_) : EX_OK;
        code = code ? code : settled;
    }
    if (signal_) /* as if it had not been caught, for the shell's sake */
        raise(signal_);
    fflush(stdout);
    if (stopped)
        _exit(code);
    md_config_free(&config);
    return code;
}

/* ---- options ---------------------------------------------------------------------------------------------- */

static int refuse(const char *what, const char *about)
{
    fprintf(stderr, "mambactl run: %s%s\n%s", what, about, usage);
    return EX_USAGE;
}

static int add_output(struct run *run, const char *path)
{
    if (run->n_out == OUTPUTS)
        return refuse("too many outputs", "");
    if (strcmp(path, "-") != 0 && !is_hdf5(path) && !ends_with(path, ".jsonl") && !ends_with(path, ".ndjson"))
        return refuse("an output ends in .jsonl or .h5, or is -, unlike ", path);
    run->out[run->n_out++].path = path;
    return -1;
}

/* −1: go on; else the exit code. */
static int take_option(struct run *run, int option)
{
    switch (option) {
    case 'm':
        run->model = optarg;
        return -1;
    case 'o':
        return add_output(run, optarg);
    case 'f':
        run->families = optarg;
        return -1;
    case 's':
        run->sets[run->n_sets++] = optarg;
        return strchr(optarg, '=') ? -1 : refuse("--set needs KEY.PATH=VALUE, not ", optarg);
    case 'p':
        run->print = true;
        return -1;
    case 'q':
        run->quiet = true;
        return -1;
    case 'v':
        run->verbose = true;
        return -1;
    case 'h':
        printf("%s\n%s", usage, help);
        return EX_OK;
    default:
        if (ctl_inputs_option(&run->inputs, option, optarg))
            return -1;
        fputs(usage, stderr);
        return EX_USAGE;
    }
}

int ctl_run(int argc, char **argv)
{
    static const struct option longs[] = {CTL_INPUTS_LONG,
                                          {"model", required_argument, NULL, 'm'},
                                          {"output", required_argument, NULL, 'o'},
                                          {"families", required_argument, NULL, 'f'},
                                          {"set", required_argument, NULL, 's'},
                                          {"print-config", no_argument, NULL, 'p'},
                                          {"quiet", no_argument, NULL, 'q'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct run run = {.inputs.command = "run"};
    int c, code = -1;
    run.families = "prediction,embedding,anomaly,channel_anomaly,surprise,event";
    run.sets = calloc((size_t)argc + 1, sizeof *run.sets);
    while (run.sets && code < 0 && (c = getopt_long(argc, argv, "m:o:qv", longs, NULL)) != -1)
        code = take_option(&run, c);
    if (code < 0 && !run.model)
        code = refuse("a model is needed: -m DIR", "");
    if (code < 0 && optind == argc)
        code = refuse("an input is needed", "");
    if (code < 0) {
        if (run.n_out == 0)
            add_output(&run, "-");
        run.inputs.bytes |= reads_bytes(run.model);
        code = run_files(&run, argv + optind, argc - optind);
    }
    free(run.sets);
    return code;
}
