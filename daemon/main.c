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
#include <unistd.h>

#include "daemon/check.h"
#include "daemon/control.h"
#include "daemon/notify.h"

static const char usage[] = "usage: mambad -c FILE [--check] [--once] [--set KEY.PATH=VALUE]... [--print-config]\n"
                            "       mambad --help | --version\n";

static const char help[] =
    "Streams of samples in, recurrent Mamba inference, predictions, embeddings and anomaly scores out.\n"
    "\n"
    "  -c, --config FILE       the configuration (YAML); - is standard input\n"
    "      --check             validate the configuration and its model folders, report every error, and end;\n"
    "                          opens no sockets and needs no input file to exist\n"
    "      --once              end when all finite inputs are consumed and their outputs flushed\n"
    "      --set KEY.PATH=VALUE\n"
    "                          override one key; may be given again. A name that holds dots is written in double\n"
    "                          quotes; a value that opens with [ { \" or ' is YAML, any other is taken as it is\n"
    "      --print-config      print the effective configuration, defaults included, and end\n"
    "      --version           print the version and end\n"
    "      --help              print this text and end\n"
    "\n"
    "Signals: SIGTERM and SIGINT drain what is queued and end within server.shutdown_timeout, a second one ends at\n"
    "once. SIGUSR1 makes a snapshot. SIGHUP (reload) is not in this version and changes nothing.\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 bad input data, 66 no configuration or input file, 69 device, socket or address\n"
    "unavailable, 70 bug, 74 input/output error, 78 wrong configuration or model folder.\n";

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
    sigprocmask(SIG_BLOCK, set, NULL);
    return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void give_up(int number)
{
    static const char text[] = "mambad: the time to end is over and something still hangs\n";

    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
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

/* Whether the signal ends the daemon. */
static bool take_signal(int fd, struct md_daemon *daemon, struct md_control *control)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) != sizeof info)
        return false;
    if (info.ssi_signo == SIGHUP) {
        md_log(MD_WARN, NULL, "SIGHUP: reload is not in this version; the configuration stays");
        md_control_count_reload(control);
        return false;
    }
    if (info.ssi_signo == SIGUSR1) {
        if (md_daemon_snapshot(daemon))
            md_log(MD_INFO, NULL, "SIGUSR1: snapshot");
        else
            md_log(MD_WARN, NULL, "SIGUSR1: the configuration has no section `state`: nothing is written");
        return false;
    }
    md_log(MD_INFO, NULL, "%s: draining", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    return true;
}

/* Sleeps until the daemon is to end; false where a signal asked for it. The tick lets the log say its repeats, and feeds
 * the service manager's watchdog as long as the engines move. */
static bool wait_for_end(struct md_daemon *daemon, struct md_control *control, const struct md_notify *notify,
                         int signals)
{
    enum { TICK_MS = 1000 };
    struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = md_daemon_fd(daemon), .events = POLLIN}};
    int64_t quarter_ms = notify->watchdog_ns / 4000000;
    int tick_ms = notify->watchdog_ns && quarter_ms < TICK_MS ? (int)quarter_ms + 1 : TICK_MS;

    for (;;) {
        int n = poll(fds, 2, tick_ms);

        if (n > 0 && fds[1].revents)
            return true;
        if (n > 0 && fds[0].revents && take_signal(signals, daemon, control))
            return false;
        if (notify->watchdog_ns && md_daemon_moves(daemon))
            md_notify(notify, "WATCHDOG=1");
        md_log_flush(false);
    }
}

static int serve(const struct md_config *config, unsigned flags, const struct md_notify *notify, int signals)
{
    struct md_daemon *daemon = NULL;
    struct md_control *control = NULL;
    char reterr[IO_ERR] = "";
    int code = md_daemon_start(config, flags, &daemon, reterr), rc;

    if (code != 0) {
        md_log(MD_ERROR, NULL, "%s", reterr);
        return code;
    }
    if (config->control && md_control_open(config->control, daemon, &control, reterr) < 0) {
        md_log(MD_ERROR, NULL, "%s", reterr);
        md_daemon_stop(&daemon, 0);
        return EX_UNAVAILABLE;
    }
    md_log(MD_INFO, NULL, "mambad " MAMBAD_VERSION " runs: %u models, %u inputs, %u outputs", config->n_models,
           config->n_inputs, config->n_outputs);
    md_notify(notify, "READY=1\nSTATUS=%u models, %u inputs, %u outputs", config->n_models, config->n_inputs,
              config->n_outputs);
    if (wait_for_end(daemon, control, notify, signals))
        code = md_daemon_status_code(daemon);
    md_notify(notify, "STOPPING=1\nSTATUS=draining");
    let_signals_kill();
    limit_end(config->shutdown_timeout_ns);
    md_control_close(&control);
    rc = md_daemon_stop(&daemon, config->shutdown_timeout_ns);
    if (rc != 0)
        md_log(MD_ERROR, NULL, "the end was not clean: not everything was written in time");
    md_log(MD_INFO, NULL, "mambad ends");
    if (rc != 0) { /* a thread that was given up may still read the configuration: nothing is freed under it */
        md_log_flush(true);
        _exit(code ? code : rc);
    }
    return code;
}

static int run(const struct md_config *config, const struct options *o)
{
    sigset_t set;
    int signals = block_signals(&set), code;
    struct md_notify notify;

    md_log_setup(config->log_level, config->log_format);
    if (signals < 0) {
        md_log(MD_ERROR, NULL, "signalfd: %s", strerror(errno));
        return EX_UNAVAILABLE;
    }
    md_notify_open(&notify);
    code = serve(config, o->once ? MD_ONCE : 0, &notify, signals);
    md_log_flush(true);
    md_notify_close(&notify);
    close(signals);
    return code;
}

/* What is done with a configuration that was read. */
static int act(const struct md_config *config, const struct options *o)
{
    if (o->check && md_check(config, stderr) < 0)
        return EX_CONFIG;
    if (o->print)
        md_config_print(config, stdout);
    else if (o->check)
        printf("%s is valid: %u models, %u inputs, %u outputs\n", config->file, config->n_models, config->n_inputs,
               config->n_outputs);
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
