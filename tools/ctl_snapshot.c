/* ctl_snapshot.c: `mambactl snapshot`: asks a daemon for one and waits until it is on the disk; or for one stream's
 * state, which comes over the control socket and is written here. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/base64.h"
#include "daemon/plural.h"
#include "daemon/snapshot_file.h"
#include "tools/ctl_control.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl snapshot [--stream ID -o FILE] [--control ENDPOINT | -c FILE]\n";
static const char help[] =
    "Has a running daemon write a snapshot now, and returns when it is on the disk.\n"
    "\n"
    "      --stream ID         instead, writes the state of this stream, live or ended, to FILE: all that `mambactl\n"
    "                          restore` needs to go on with it. Rows that wait in its queue are not part of it.\n"
    "  -o, --output FILE       replaced when all of it is on the disk\n" CTL_CONTROL_HELP
    "74 also: it could not be written; the snapshots before it stay. 69 also: no such stream.\n";

static const char *size_text(double bytes, char text[32])
{
    bool large = bytes >= 1 << 20;

    snprintf(text, 32, "%.1f %s", bytes / (large ? 1 << 20 : 1 << 10), large ? "MiB" : "KiB");
    return text;
}

static int report(const struct ctl_target *target, json_t *snapshots)
{
    const char *error = json_string_value(json_object_get(snapshots, "error"));
    char size[32];

    if (error && *error) {
        fprintf(stderr, "mambactl snapshot: %s\n", error);
        return EX_IOERR;
    }
    if (target->json) {
        json_dumpf(snapshots, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        json_int_t n = json_integer_value(json_object_get(snapshots, "streams"));
        printf("%lld stream%s, %s\n", (long long)n, md_s((uint64_t)n),
               size_text(json_number_value(json_object_get(snapshots, "bytes")), size));
    }
    return EX_OK;
}

static int snapshot_all(const struct ctl_target *target)
{
    json_t *snapshots = NULL;
    int code = ctl_control_ask(target, "snapshots", &snapshots);

    if (snapshots)
        code = report(target, snapshots);
    json_decref(snapshots);
    return code;
}

/* ---- one stream -------------------------------------------------------------------------------------------------- */

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, bytes, n);
        if (w < 0 && errno != EINTR)
            return -errno;
        bytes += w > 0 ? w : 0;
        n -= w > 0 ? (size_t)w : 0;
    }
    return 0;
}

/* Under its name once it is whole. */
static int write_file(const char *path, const void *bytes, size_t n)
{
    char *part = NULL;
    int r = asprintf(&part, "%s.part", path) < 0 ? -ENOMEM : 0;
    int fd = r ? -1 : open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    r = r ? r : fd < 0 ? -errno : write_all(fd, bytes, n);
    if (fd >= 0) {
        r = r ? r : fsync(fd) ? -errno : 0;
        r = close(fd) && r == 0 ? -errno : r;
        r = r ? r : rename(part, path) ? -errno : 0;
        if (r)
            unlink(part);
    }
    free(part);
    if (r == 0)
        return EX_OK;
    fprintf(stderr, "mambactl snapshot: %s: %s\n", path, strerror(-r));
    return EX_IOERR;
}

static int snapshot_stream(const struct ctl_target *target, const char *stream, const char *path)
{
    char reterr[MD_SNAPSHOT_ERR], size[32];
    struct md_snapshot_file f;
    json_t *reply = NULL;
    size_t n = 0;
    int code = ctl_control_request(target, json_pack("{s:s, s:s}", "command", "snapshot", "stream", stream), &reply);

    if (code)
        return code;
    json_t *state = json_object_get(reply, "state");
    void *bytes = md_base64_decode(json_string_value(state), json_string_length(state), &n);
    if (!bytes || md_snapshot_read(bytes, n, &f, reterr)) {
        fprintf(stderr, "mambactl snapshot: the reply holds no state\n");
        code = EX_UNAVAILABLE;
    } else {
        code = write_file(path, bytes, n);
    }
    if (code == EX_OK && target->json)
        printf("{\"bytes\":%zu}\n", n);
    else if (code == EX_OK)
        printf("%s: %s\n", path, size_text((double)n, size));
    free(bytes);
    json_decref(reply);
    return code;
}

int ctl_snapshot(int argc, char **argv)
{
    static const struct option longs[] = {CTL_CONTROL_LONG,
                                          {"stream", required_argument, NULL, 's'},
                                          {"output", required_argument, NULL, 'o'},
                                          {NULL, 0, NULL, 0}};
    struct ctl_target target = {.command = "snapshot", .timeout_ms = 5000};
    const char *stream = NULL, *path = NULL;
    int c, code = -1;

    while (code < 0 && (c = getopt_long(argc, argv, CTL_CONTROL_SHORT "o:", longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c == 's')
            stream = optarg;
        else if (c == 'o')
            path = optarg;
        else if (!ctl_control_option(&target, c, optarg, &code))
            code = EX_USAGE;
    }
    if (code < 0 && (optind != argc || !stream != !path))
        code = EX_USAGE;
    if (code == EX_USAGE)
        fputs(usage, stderr);
    if (code >= 0)
        return code;
    return stream ? snapshot_stream(&target, stream, path) : snapshot_all(&target);
}
