/* ctl_reload.c: `mambactl reload` and `mambactl drain`: ask a daemon and wait until it is done. */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char reload_usage[] = "usage: mambactl reload [--control ENDPOINT | -c FILE]\n";
static const char reload_help[] =
    "Has a running daemon read its configuration again, and returns when it is in force; or says why it was refused:\n"
    "of a file that is wrong all that `mambad --check` would say.\n"
    "\n" CTL_CONTROL_HELP "78 also: the daemon refused its configuration and goes on with the one before.\n";

static const char drain_usage[] = "usage: mambactl drain [--control ENDPOINT | -c FILE]\n";
static const char drain_help[] =
    "Has a running daemon take no more input, write everything and end, as SIGTERM does; returns when it has ended.\n"
    "\n" CTL_CONTROL_HELP;

int ctl_reload(int argc, char **argv)
{
    struct ctl_target target = {.command = "reload", .timeout_ms = 5000};
    json_t *state = NULL;
    int code = ctl_control_options(&target, argc, argv, reload_usage, reload_help, NULL);
    const char *error;

    if (code < 0)
        code = ctl_control_ask(&target, "reload", &state);
    error = json_string_value(json_object_get(state, "error"));
    if (error && *error) {
        bool lines = error[strlen(error) - 1] == '\n'; /* those of `mambad --check` */
        fprintf(stderr, "mambactl reload: %s%s%s", lines ? "refused\n" : "", error, lines ? "" : "\n");
        code = EX_CONFIG;
    }
    if (state && target.json) {
        json_dumpf(state, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(state);
    return code;
}

int ctl_drain(int argc, char **argv)
{
    struct ctl_target target = {.command = "drain", .timeout_ms = 5000};
    json_t *reply = NULL;
    int code = ctl_control_options(&target, argc, argv, drain_usage, drain_help, NULL);

    if (code >= 0)
        return code;
    code = ctl_control_request(&target, json_pack("{s:s}", "command", "drain"), &reply);
    json_decref(reply);
    return code ? code : ctl_control_gone(&target);
}
