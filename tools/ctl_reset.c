/* ctl_reset.c: `mambactl reset`: streams of a running daemon begin anew. */
#include <stdio.h>
#include <sysexits.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl reset GLOB [--control ENDPOINT | -c FILE]\n";
static const char help[] =
    "The next rows of every live stream whose id matches begin a new epoch: the model forgets what came before. Rows that\n"
    "wait in a queue still belong to the old one. `*` is all streams.\n"
    "\n" CTL_CONTROL_HELP "69 also: no live stream matches.\n";

int ctl_reset(int argc, char **argv)
{
    struct ctl_target target = {.command = "reset", .timeout_ms = 5000};
    const char *glob = NULL;
    json_t *reply = NULL;
    int code = ctl_control_options(&target, argc, argv, usage, help, &glob);
    json_int_t n;

    if (code >= 0)
        return code;
    code = ctl_control_request(&target, json_pack("{s:s, s:s}", "command", "reset", "glob", glob), &reply);
    if (code)
        return code;
    n = json_integer_value(json_object_get(reply, "streams"));
    if (target.json) {
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
    } else if (n) {
        printf("streams that begin anew with their next rows: %lld\n", (long long)n);
    }
    json_decref(reply);
    if (n)
        return EX_OK;
    fprintf(stderr, "mambactl reset: no live stream matches %s\n", glob);
    return EX_UNAVAILABLE;
}
