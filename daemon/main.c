/* main.c: mambad's command line and signals. The main thread starts everything, then sleeps in poll() on a signalfd and
 * on the daemon's end; all other threads have the signals blocked. Trap: signals are blocked before the first thread is
 * made, or one of them could take a SIGTERM and die of it. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "daemon/check.h"
#include "daemon/control.h"
#include "daemon/generate.h"
#include "daemon/notify.h"
#include "daemon/plural.h"
#include "daemon/reload.h"

static const char usage[] = "usage: mambad -c FILE [--check] [--once] [--set KEY.PATH=VALUE]... [--print-config]\n"
                            "       mambad --help | --version\n";

static const char help[] =
    "Streams of samples in, recurrent Mamba inference, predictions, embeddings and anomaly scores out.\n"
    "\n"
    "  -c, --config FILE       the configuration (YAML); - is standard input\n"
    "      --check             validate the configuration and its model folders, report every error, and end;\n"
    "                          opens no sockets and needs no input file to exist\n"
    "      --once              end when all finite inputs are consumed and their outputs flushed; where all inputs\n"
    "                          follow files, when all that is there has been (of a FIFO: until its writers have\n"
    "                          closed it). Sockets alone never end. A reload is refused\n"
    "      --set KEY.PATH=VALUE\n"
    "                          override one key; may be given again. A name that holds dots is written in double\n"
    "                          quotes; a value that opens with [ { \" or ' is YAML, any other is taken as it is\n"
    "      --print-config      print the effective configuration, defaults included, and end\n"
    "      --version           print the version and end\n"
    "      --help              print this text and end\n"
    "\n"
    "Signals: SIGTERM and SIGINT drain what is queued and end within server.shutdown_timeout, a second one ends at\n"
    "once. SIGUSR1 makes a snapshot. SIGHUP reads the configuration again: what it leaves as it is goes on "
    "undisturbed; an\n"
    "invalid one changes nothing.\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 bad input data, 66 no configuration or input file, 69 device, socket, address,\n"
    "thread or memory unavailable, 70 bug, 74 input/output error, or not all written in time, 78 wrong configuration\n"
    "or model folder.\n";

enum { PARTS = 64 };

/* What a configuration is made of, in words. */
static const char *count_parts(const struct md_config *c, char text[PARTS])
{
    snprintf(text, PARTS, "%u model%s, %u input%s, %u output%s", c->n_models, md_s(c->n_models), c->n_inputs,
             md_s(c->n_inputs), c->n_outputs, md_s(c->n_outputs));
    return text;
}

struct options {
    const char *file;
    const char **sets; /* [argc] */
    unsigned n_sets;
    bool check, once, print;
};

static int refuse_usage(const char *what, const char *about)
{
    fprintf(stderr, "mambad: %s%s\n%s", what, about, usage);
    return EX_USAGE;
}

/* −1: go on; else the exit code. */
static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
        {"once", no_argument, NULL, 'o'},         {"set", required_argument, NULL, 's'},
        {"print-config", no_argument, NULL, 'p'}, {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "c:", longs, NULL)) != -1) {
        switch (c) {
        case 'c':
            o->file = optarg;
            break;
        case 'k':
            o->check = true;
            break;
        case 'o':
            o->once = true;
            break;
        case 's':
            if (!strchr(optarg, '='))
                return refuse_usage("--set needs KEY.PATH=VALUE, not ", optarg);
            o->sets[o->n_sets++] = optarg;
            break;
        case 'p':
            o->print = true;
            break;
        case 'v':
            puts("mambad " MAMBAD_VERSION);
            return EX_OK;
        case 'h':
            printf("%s\n%s", usage, help);
            return EX_OK;
        default:
            fputs(usage, stderr);
            return EX_USAGE;
        }
    }
    if (optind < argc)
        return refuse_usage("unexpected argument ", argv[optind]);
    return o->file ? -1 : refuse_usage("a configuration is needed: -c FILE", "");
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static int block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its output */
    sigprocmask(SIG_BLOCK, set, NULL);
    return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void give_up(int number)
{
    static const char text[] = "mambad: the time to end is over and something still hangs\n";
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (poll(&out, 1, 0) == 1 && write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(EX_SOFTWARE);
    _exit(EX_IOERR);
}

/* A sink that hangs in write(2) cannot be told to stop; after the time that draining may take, and some, the process
 * ends without it. */
static void limit_end(int64_t timeout_ns)
{
    enum { GRACE_S = 2 };

    signal(SIGALRM, give_up);
    alarm((unsigned)(timeout_ns / 1000000000) + GRACE_S);
}

/* From now on SIGTERM and SIGINT end the process at once. */
static void let_signals_kill(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- reload ------------------------------------------------------------------------------------------------------ */

struct running {
    const struct options *o;
    const struct md_config *config; /* what the daemon runs under now */
    struct md_daemon *daemon;
    struct md_notify notify;
    int signals;
};

/* Reads and checks the file; 0, or the lines that say what is wrong with it (the caller's); its errors are logged one
 * by one. */
static int load_again(const struct options *o, struct md_config **ret, char **ret_text)
{
    size_t n = 0;
    FILE *errors = open_memstream(ret_text, &n);
    size_t length;
    int rc;

    if (!errors)
        return -ENOMEM;
    if (!strcmp(o->file, "-")) {
        fprintf(errors, "(stdin): error: a configuration from standard input cannot be read again\n");
        rc = -EINVAL;
    } else {
        rc = md_config_load(o->file, o->sets, o->n_sets, true, errors, ret);
    }
    if (rc == 0)
        rc = md_check(*ret, errors);
    fclose(errors);
    if (rc == 0)
        return 0;
    md_config_free(ret);
    for (const char *line = *ret_text; line && *line; line += length) {
        length = strcspn(line, "\n");
        if (memmem(line, length, "error: ", 7)) /* not the line that it points into */
            md_log(MD_ERROR, NULL, "reload: %.*s", (int)length, line);
        length += line[length] == '\n';
    }
    return rc;
}

static void say_ready(const struct running *r, const char *refused)
{
    const char *text = refused ? refused : "";
    size_t length = strcspn(text, "\n");
    char parts[PARTS];

    md_notify(&r->notify, "READY=1\nSTATUS=%s%s%.*s", count_parts(r->config, parts),
              refused ? "; reload refused: " : "", (int)(length < 200 ? length : 200), text);
}

/* False: the daemon has to end. */
static bool reload(struct running *r)
{
    struct timespec t;
    struct md_config *config = NULL;
    uint64_t asked = md_daemon_reload_asked(r->daemon);
    char *text = NULL, reterr[IO_ERR] = "", parts[PARTS];
    const char *refused = NULL;
    int rc;

    clock_gettime(CLOCK_MONOTONIC, &t);
    md_notify(&r->notify, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reading the configuration again",
              (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000);
    rc = load_again(r->o, &config, &text);
    if (rc) {
        refused = text && *text ? text : "out of memory";
    } else {
        rc = md_daemon_reload(r->daemon, config, reterr);
        refused = rc ? reterr : NULL;
        if (rc)
            md_log(MD_ERROR, NULL, "reload: %s", reterr);
    }
    if (rc) {
        md_log(MD_ERROR, NULL, "reload refused: the configuration stays as it was");
        md_config_free(&config);
    } else {
        r->config = config;
        md_log_setup(config->log_level, config->log_format);
        md_log(MD_INFO, NULL, "reloaded: %s", count_parts(config, parts));
    }
    md_daemon_answer_reload(r->daemon, asked, refused);
    say_ready(r, refused);
    free(text);
    if (rc == -EINTR) /* the signal is taken: the next one ends at once */
        (void)!read(r->signals, &(struct signalfd_siginfo){0}, sizeof(struct signalfd_siginfo));
    return rc != -EIO && rc != -EINTR;
}

/* ---- the main loop ----------------------------------------------------------------------------------------------- */

/* Whether the signal ends the daemon. */
static bool take_signal(struct running *r)
{
    struct signalfd_siginfo info;

    if (read(r->signals, &info, sizeof info) != sizeof info)
        return false;
    if (info.ssi_signo == SIGHUP)
        return !reload(r);
    if (info.ssi_signo == SIGUSR1) {
        if (md_daemon_snapshot(r->daemon))
            md_log(MD_INFO, NULL, "SIGUSR1: snapshot");
        else
            md_log(MD_WARN, NULL, "SIGUSR1: the configuration has no section `state`: nothing is written");
        return false;
    }
    md_log(MD_INFO, NULL, "%s: draining", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    return true;
}

/* Whether what the control socket asked for ends the daemon. */
static bool take_request(struct running *r)
{
    (void)!read(md_daemon_asked_fd(r->daemon), &(uint64_t){0}, sizeof(uint64_t));
    if (!md_daemon_drain_asked(r->daemon))
        return !reload(r);
    md_log(MD_INFO, NULL, "draining, as asked");
    return true;
}

/* Sleeps until the daemon is to end; false where it was asked to. The tick lets the log say its repeats, and feeds the
 * service manager's watchdog as long as the engines move. */
static bool wait_for_end(struct running *r)
{
    enum { TICK_MS = 1000 };
    struct pollfd fds[] = {{.fd = r->signals, .events = POLLIN},
                           {.fd = md_daemon_fd(r->daemon), .events = POLLIN},
                           {.fd = md_daemon_asked_fd(r->daemon), .events = POLLIN}};
    int64_t quarter_ms = r->notify.watchdog_ns / 4000000;
    int tick_ms = r->notify.watchdog_ns && quarter_ms < TICK_MS ? (int)quarter_ms + 1 : TICK_MS;

    for (;;) {
        int n = poll(fds, 3, tick_ms);

        if (n > 0 && fds[1].revents)
            return true;
        if (n > 0 && ((fds[0].revents && take_signal(r)) || (fds[2].revents && take_request(r))))
            return false;
        if (r->notify.watchdog_ns && md_daemon_moves(r->daemon))
            md_notify(&r->notify, "WATCHDOG=1");
        md_log_flush(false);
    }
}

static int serve(struct running *r)
{
    struct md_control *control = NULL;
    struct md_generate *generate = NULL;
    char reterr[IO_ERR] = "", parts[PARTS];
    int code = md_daemon_start(r->config, r->o->once ? MD_ONCE : 0, &r->daemon, reterr), rc;

    if (code != 0) {
        md_log(MD_ERROR, NULL, "%s", reterr);
        return code;
    }
    rc = r->config->control ? md_control_open(r->config->control, r->daemon, &control, reterr) : 0;
    if (rc == 0 && r->config->generate.endpoint)
        rc = md_generate_open(r->daemon, &generate, reterr);
    if (rc < 0) {
        md_log(MD_ERROR, NULL, "%s", reterr);
        md_control_close(&control);
        md_daemon_stop(&r->daemon, 0);
        return rc == -EKEYREJECTED ? EX_CONFIG : EX_UNAVAILABLE;
    }
    md_log(MD_INFO, NULL, "mambad " MAMBAD_VERSION " runs: %s", count_parts(r->config, parts));
    say_ready(r, NULL);
    if (wait_for_end(r))
        code = md_daemon_status_code(r->daemon);
    md_notify(&r->notify, "STOPPING=1\nSTATUS=draining");
    let_signals_kill();
    limit_end(r->config->shutdown_timeout_ns);
    md_generate_close(&generate);
    md_control_mute(control);
    rc = md_daemon_stop(&r->daemon, r->config->shutdown_timeout_ns);
    md_control_close(&control); /* `mambactl drain` waits for that */
    if (rc != 0)
        md_log(MD_ERROR, NULL, "the end was not clean: not everything was written");
    md_log(MD_INFO, NULL, "mambad ends");
    if (rc != 0) { /* a thread that was given up may still read the configuration: nothing is freed under it */
        md_log_flush(true);
        _exit(code ? code : rc);
    }
    return code;
}

static int run(const struct md_config *config, const struct options *o)
{
    struct running r = {.o = o, .config = config};
    sigset_t set;
    int code;

    r.signals = block_signals(&set);
    md_log_setup(config->log_level, config->log_format);
    if (r.signals < 0) {
        md_log(MD_ERROR, NULL, "signalfd: %s", strerror(errno));
        return EX_UNAVAILABLE;
    }
    md_notify_open(&r.notify);
    code = serve(&r);
    md_log_flush(true);
    md_notify_close(&r.notify);
    close(r.signals);
    return code;
}

/* What is done with a configuration that was read. */
static int act(const struct md_config *config, const struct options *o)
{
    char parts[PARTS];

    if (o->check && md_check(config, stderr) < 0)
        return EX_CONFIG;
    if (o->print)
        md_config_print(config, stdout);
    else if (o->check)
        printf("%s is valid: %s\n", config->file, count_parts(config, parts));
    else
        return run(config, o);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "mambad: standard output: %s\n", strerror(errno));
        return EX_IOERR;
    }
    return EX_OK;
}

int main(int argc, char **argv)
{
    struct options o = {.sets = calloc((size_t)argc + 1, sizeof *o.sets)};
    struct md_config *config = NULL;
    int code, rc;

    if (!o.sets)
        return EX_UNAVAILABLE;
    code = parse_options(argc, argv, &o);
    if (code < 0) {
        rc = md_config_load(o.file, o.sets, o.n_sets, !o.check, stderr, &config);
        code = rc == 0 ? act(config, &o) : rc == -ENOENT ? EX_NOINPUT : rc == -ENOMEM ? EX_UNAVAILABLE : EX_CONFIG;
    }
    md_config_free(&config);
    free(o.sets);
    return code;
}
