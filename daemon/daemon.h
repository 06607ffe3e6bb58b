/* daemon.h: the assembled service: models, engines, inputs, streams, schedulers, publisher, outputs. mambad runs it
 * under a config file; `mambactl run` and `bench daemon` run the same thing under a config of their own making.
 *
 *   source thread(s) → per-stream bounded queue → scheduler/engine thread (one per model) → publisher thread → sinks
 */
#ifndef MD_DAEMON_H
#define MD_DAEMON_H

#include <jansson.h>

#include "daemon/config.h"
#include "daemon/counters.h"
#include "io/source.h"

struct md_daemon;

enum md_daemon_flags {
    MD_ONCE = 1,       /* end when all finite inputs are consumed and flushed */
    MD_PRESETS = 2,    /* benchmarks: a model's path that is no folder names a random preset, … */
    MD_NULL_DEVICE = 4 /* … and the device of all is "null" */
};

/* Opens models, engines, outputs, then inputs, and starts all threads. Returns 0 or a sysexits code (78 model or
 * config, 66 no input, 65 bad data, 69 device, socket or address, 74 I/O); `reterr` names the thing at fault. */
int md_daemon_start(const struct md_config *config, unsigned flags, struct md_daemon **ret, char *reterr);

/* Readable (eventfd) when the daemon has finished by itself: MD_ONCE and all inputs consumed, or a fatal failure. */
int md_daemon_fd(const struct md_daemon *d);
/* 0, or the sysexits code of the fatal failure or of the first input that failed. */
int md_daemon_status_code(const struct md_daemon *d);

/* Whether every engine thread has moved since the last call, or has nothing to do. Main thread. */
bool md_daemon_moves(struct md_daemon *d);

/* Asks for a snapshot: its number, which the status' snapshots.answered reaches when it is on the disk or has failed; 0:
 * the configuration has no section `state`. Any thread. */
uint64_t md_daemon_snapshot(struct md_daemon *d);

/* Stops the sources, drains what is queued, flushes the sinks, within timeout_ns; frees all. Returns 0, 74, or
 * 69: a device has failed. Not 0: threads that were given up, in an output or a batch, may still read the
 * configuration, and the process ends by _exit(). A timeout of 0: what is queued is given up without a word. */
int md_daemon_stop(struct md_daemon **d, int64_t timeout_ns);

/* Snapshots of every counter, for the control socket and mambactl. New references. Any thread. */
json_t *md_daemon_status(struct md_daemon *d);
json_t *md_daemon_streams(struct md_daemon *d, const char *glob, unsigned limit);
/* The next rows of every live stream whose id matches begin a new epoch. How many streams that are. Any thread. */
uint64_t md_daemon_reset(struct md_daemon *d, const char *glob);
/* Arrival of a row's last sample to hand-over to the sinks; live, as long as the daemon. */
struct md_hist *md_daemon_latency(struct md_daemon *d);
/* Benchmarks: the daemon's side of the first input. One thread may push to it, in place of a source that has nothing. */
const struct io_host *md_daemon_host(const struct md_daemon *d);

#endif
