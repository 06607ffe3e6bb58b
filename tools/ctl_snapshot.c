/* ctl_snapshot.c: `mambactl snapshot`: asks a daemon for one and waits until it is on the disk. */
#include <stdio.h>
#include <sysexits.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl snapshot [--control ENDPOINT | -c FILE]\n";
static const char help[] = "Has a running daemon write a snapshot now, and returns when it is on the disk.\n"
                           "\n" CTL_CONTROL_HELP "74: it could not be written; the snapshots before it stay.\n";

static int report(const struct ctl_target *target, json_t *snapshots)
{
    const char *error = json_string_value(json_object_get(snapshots, "error"));

    if (error && *error) {
        fprintf(stderr, "mambactl snapshot: %s\n", error);
        return EX_IOERR;
    }
    if (target->json) {
        json_dumpf(snapshots, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        printf("%lld streams, %.1f MiB\n", (long long)json_integer_value(json_object_get(snapshots, "streams")),
               json_number_value(json_object_get(snapshots, "bytes")) / (1 << 20));
    }
    return EX_OK;
}

int ctl_snapshot(int argc, char **argv)
{
    struct ctl_target target = {.command = "snapshot", .timeout_ms = 5000};
    json_t *snapshots = NULL;
    int code = ctl_control_options(&target, argc, argv, usage, help, NULL);

    if (code < 0)
        code = ctl_control_ask(&target, "snapshots", &snapshots);
    if (snapshots)
        code = report(&target, snapshots);
    json_decref(snapshots);
    return code;
}
