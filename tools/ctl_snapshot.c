/* ctl_snapshot.c: `mambactl snapshot`: asks a daemon for one and waits until it is on the disk. */
#include <stdio.h>
#include <sysexits.h>
#include <unistd.h>

#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl snapshot [--control ENDPOINT | -c FILE]\n";
static const char help[] = "Has a running daemon write a snapshot now, and returns when it is on the disk.\n"
                           "\n" CTL_CONTROL_HELP "74: it could not be written; the snapshots before it stay.\n";

enum { POLL_US = 20000 };

/* The status' `snapshots`, once request `number` is answered. */
static int wait_for(const struct ctl_target *target, json_int_t number, json_t **ret)
{
    for (;;) {
        json_t *reply = NULL, *snapshots;
        int code = ctl_control_request(target, json_pack("{s:s}", "command", "status"), &reply);

        if (code)
            return code;
        snapshots = json_object_get(reply, "snapshots");
        if (json_integer_value(json_object_get(snapshots, "answered")) >= number) {
            *ret = json_incref(snapshots);
            json_decref(reply);
            return EX_OK;
        }
        json_decref(reply);
        usleep(POLL_US);
    }
}

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
    static const struct option longs[] = {CTL_CONTROL_LONG, {NULL, 0, NULL, 0}};
    struct ctl_target target = {.command = "snapshot", .timeout_ms = 5000};
    json_t *reply = NULL, *snapshots = NULL;
    int c, code = -1;

    optind = 1;
    while ((c = getopt_long(argc, argv, CTL_CONTROL_SHORT, longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (!ctl_control_option(&target, c, optarg, &code))
            code = EX_USAGE;
        if (code >= 0)
            break;
    }
    if (code < 0 && optind < argc)
        code = EX_USAGE;
    if (code == EX_USAGE)
        fputs(usage, stderr);
    if (code >= 0)
        return code;
    code = ctl_control_request(&target, json_pack("{s:s}", "command", "snapshot"), &reply);
    if (code)
        return code;
    code = wait_for(&target, json_integer_value(json_object_get(reply, "number")), &snapshots);
    json_decref(reply);
    if (code)
        return code;
    code = report(&target, snapshots);
    json_decref(snapshots);
    return code;
}
