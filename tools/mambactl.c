/* mambactl.c: the table of subcommands. Each is a function of its own in ctl_NAME.c. */
#include "tools/mambactl.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"status", ctl_status, "a running daemon's models, inputs, outputs and counters"},
    {"streams", ctl_streams, "a running daemon's streams"},
    {"snapshot", ctl_snapshot, "have a running daemon write a snapshot, or one stream's state to a file"},
    {"restore", ctl_restore, "give a running daemon a stream's state from a file"},
    {"reset", ctl_reset, "have streams of a running daemon begin anew"},
    {"reload", ctl_reload, "have a running daemon read its configuration again"},
    {"drain", ctl_drain, "have a running daemon write everything and end"},
    {"tail", ctl_tail, "show what a daemon publishes"},
    {"feed", ctl_feed, "send audio, HDF5, CSV, bytes or standard input to a ZeroMQ input"},
    {"run", ctl_run, "process files offline through the daemon's pipeline"},
    {"inspect", ctl_inspect, "describe a model folder, an output file or a snapshot"},
    {"keygen", ctl_keygen, "make a pair of CURVE keys"},
    {"bench", ctl_bench, "measure the engine and the daemon"},
    {"generate", ctl_generate, "have a byte model go on with a text"},
    {"eval", ctl_eval, "how good a model's forecasts, anomaly scores or byte predictions are on files"},
    {NULL, NULL, NULL},
};

static void print_usage(FILE *out)
{
    fputs("usage: mambactl COMMAND [OPTION]...\n       mambactl --help | --version\n", out);
}

static void print_help(void)
{
    print_usage(stdout);
    fputs("\nCommands (mambactl COMMAND --help says more):\n", stdout);
    for (const struct command *c = commands; c->name; c++)
        printf("  %-9s %s\n", c->name, c->help);
    fputs("\nExit codes: 0 done, 64 usage, 65 bad data, 66 no input, 69 unavailable, 70 bug, 74 input/output error,\n"
          "78 wrong configuration or model folder.\n",
          stdout);
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name) {
        print_usage(stderr);
        return EX_USAGE;
    }
    if (!strcmp(name, "--version")) {
        puts("mambactl " MAMBAD_VERSION);
        return EX_OK;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "help")) {
        print_help();
        return EX_OK;
    }
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c->run(argc - 1, argv + 1);
    fprintf(stderr, "mambactl: unknown command '%s'\n", name);
    print_usage(stderr);
    return EX_USAGE;
}

/* That standard output takes nothing may show only when it is flushed. No command ends well then, or without a word,
 * but where a reader has had enough. */
int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    int code = run(argc, argv);
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    struct pollfd reader = {.fd = STDOUT_FILENO};
    if (poll(&reader, 1, 0) != 1 || !(reader.revents & POLLERR))
        fputs("mambactl: standard output cannot be written\n", stderr);
    return code == EX_OK ? EX_IOERR : code;
}
