/* ctl_keygen.c: `mambactl keygen`: a pair of CURVE keys into two new files. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "io/zmq_key.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl keygen NAME [--json]\n";
static const char help[] =
    "Makes a pair of CURVE keys: NAME.key, the secret one (mode 0600), and NAME.pub, the public one. Files that are there\n"
    "are never overwritten. A socket's curve_key is the first; its peers need the second: as their curve_server, or in\n"
    "their file of curve_clients.\n"
    "\n"
    "      --json              print the files and the public key as JSON\n"
    "      --help              print this text and end\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 69 this libzmq has no CURVE, 74 a file is there, or cannot be written.\n";

/* A new file of one line, on the disk. */
static int write_key(const char *path, const char *key, int mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode), rc = 0;

    if (fd < 0)
        rc = errno;
    else if (dprintf(fd, "%s\n", key) < 0 || fsync(fd) < 0)
        rc = errno;
    if (fd >= 0 && close(fd) < 0 && !rc)
        rc = errno;
    if (fd >= 0 && rc)
        unlink(path);
    if (!rc)
        return EX_OK;
    fprintf(stderr, "mambactl keygen: %s: %s\n", path, rc == EEXIST ? "is there and is not overwritten" : strerror(rc));
    return EX_IOERR;
}

static int make(const char *name, bool json)
{
    char public[IO_ZMQ_KEY], secret[IO_ZMQ_KEY], *paths[2] = {NULL, NULL};
    int code = EX_UNAVAILABLE;

    if (zmq_curve_keypair(public, secret) < 0) {
        fprintf(stderr, "mambactl keygen: %s\n", zmq_strerror(errno));
        return EX_UNAVAILABLE;
    }
    if (asprintf(&paths[0], "%s.key", name) > 0 && asprintf(&paths[1], "%s.pub", name) > 0)
        code = write_key(paths[0], secret, 0600);
    explicit_bzero(secret, sizeof secret);
    if (code == EX_OK && (code = write_key(paths[1], public, 0644)) != EX_OK)
        unlink(paths[0]);
    if (code == EX_OK && json) {
        json_t *o = json_pack("{s:s, s:s, s:s}", "secret", paths[0], "public", paths[1], "key", public);
        code = o && json_dumpf(o, stdout, JSON_COMPACT) == 0 && puts("") >= 0 ? EX_OK : EX_IOERR;
        json_decref(o);
    } else if (code == EX_OK) {
        printf("%s: keep it secret\n%s: %s\n", paths[0], paths[1], public);
    }
    free(paths[0]);
    free(paths[1]);
    return fflush(stdout) ? EX_IOERR : code;
}

int ctl_keygen(int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    bool json = false;
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'j') {
            json = true;
        } else if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        } else {
            fputs(usage, stderr);
            return EX_USAGE;
        }
    }
    if (optind + 1 != argc || !*argv[optind]) {
        fprintf(stderr, "mambactl keygen: one NAME is needed\n%s", usage);
        return EX_USAGE;
    }
    return make(argv[optind], json);
}
