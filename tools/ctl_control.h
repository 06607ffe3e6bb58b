/* ctl_control.h: a client of the control socket (REQ), and the options that its subcommands share. */
#ifndef TOOLS_CTL_CONTROL_H
#define TOOLS_CTL_CONTROL_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>

struct ctl_target {
    const char *command; /* the subcommand, for messages */
    const char *control; /* --control ENDPOINT or PATH */
    const char *config;  /* -c FILE: its server.control */
    int timeout_ms;
    bool json;
};

#define CTL_CONTROL_SHORT "c:"
/* clang-format off */
#define CTL_CONTROL_LONG                                                                                               \
    {"control", required_argument, NULL, 'C'}, {"socket", required_argument, NULL, 'C'},                               \
    {"config", required_argument, NULL, 'c'}, {"timeout", required_argument, NULL, 'T'},                               \
    {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}
/* clang-format on */

#define CTL_CONTROL_HELP                                                                                               \
    "      --control ENDPOINT  the daemon's control socket, ipc://PATH or PATH (--socket is the same)\n"               \
    "  -c, --config FILE       take it from server.control of this configuration\n"                                    \
    "                          default: the environment variable MAMBAD_CONTROL\n"                                     \
    "      --timeout DURATION  how long to wait for the reply (default 5s; restore: 10s)\n"                            \
    "      --json              JSON instead of text\n"                                                                 \
    "      --help              print this text and end\n"                                                              \
    "\n"                                                                                                               \
    "Exit codes: 0 done, 64 usage, 66 no such configuration, 69 no daemon there or no reply, 74 output error,\n"       \
    "78 wrong configuration.\n"

/* Takes one of the options above; false: it is none of them. *ret_code ≥ 0: end with it. */
bool ctl_control_option(struct ctl_target *target, int option, const char *value, int *ret_code);

/* The whole command line of a subcommand that has these options only, and an operand where ret_operand is not NULL.
 * −1: go on; else the exit code. */
int ctl_control_options(struct ctl_target *target, int argc, char **argv, const char *usage, const char *help,
                        const char **ret_operand);

/* Sends a request (taken) and returns 0 and the reply, or an exit code after a message on stderr. */
int ctl_control_request(const struct ctl_target *target, json_t *request, json_t **ret_reply);

/* Has the daemon do what the subcommand is called, and waits until `section` of its status says that it is answered: that
 * section, or an exit code after a message. */
int ctl_control_ask(const struct ctl_target *target, const char *section, json_t **ret);

/* Waits until nobody serves the control socket. */
int ctl_control_gone(const struct ctl_target *target);

#endif
