/* assembly.h: what a running daemon is made of; for daemon.c, which builds and ends it, reload.c, which changes it, and
 * status.c, which looks at it. */
#ifndef MD_ASSEMBLY_H
#define MD_ASSEMBLY_H

#include "daemon/daemon.h"
#include "daemon/feeder.h"
#include "daemon/generate.h"
#include "daemon/publisher.h"
#include "daemon/served.h"
#include "daemon/snapshot.h"

struct md_daemon {
    const struct md_config *config;
    struct io_pool *pool;
    struct md_registry registry;
    struct md_served_model **models; /* as in the config, like inputs and outputs */
    struct md_input **inputs;
    struct md_output **outputs;
    struct md_feeder *feeders;
    unsigned n_models, n_inputs, n_outputs, n_feeders;
    struct md_publisher publisher;
    struct io_sink_env env;
    struct md_snapshot_file restored; /* what the daemon went on from; mapped while it runs */
    struct md_snapshots snapshots;
    struct md_snapshot_counters snapshot_counters;
    int64_t started_ns;
    uint64_t run;
    struct md_generate_counters texts;
    int texts_fd; /* eventfd: an engine has something for the generation service; it outlives that */
    int finished_fd;
    bool once;   /* MD_ONCE */
    bool adapts; /* md_config_adapts() of the start: what the engines have room for */
    _Atomic int finite_left, code;
    _Atomic bool draining;
    /* reload.c. The lock is held while the parts change places: who looks at them from another thread takes it. */
    pthread_mutex_t shape;
    struct md_input **retired;               /* inputs that are gone; records of their streams still name them */
    struct md_served_model **retired_models; /* likewise; nothing is loaded */
    struct md_config **configs;              /* that came by reloads; inputs and outputs that stayed keep theirs */
    unsigned n_retired, n_retired_models, n_configs;
    int asked_fd;       /* eventfd: one of these was asked for */
    _Atomic bool drain; /* an end, as by SIGTERM */
    uint64_t asked;     /* reloads asked for by the control socket, under `shape`, as is the rest; */
    uint64_t answered;  /* up to which they are answered */
    uint64_t reloads, refused;
    char *reload_text; /* why the last one was refused, in a line or in several that end with a newline each; or "".
                          NULL: none yet, or no memory for it */
};

/* Made, not open; a model with nothing loaded. NULL: out of memory. */
struct md_served_model *md_daemon_model(struct md_daemon *d, const struct md_model_conf *conf);
struct md_input *md_daemon_input(struct md_daemon *d, const struct md_input_conf *conf);
struct md_output *md_daemon_output(struct md_daemon *d, const struct md_output_conf *conf);
/* Threads for all inputs and outputs, which open those that are not open. 0 or a sysexits code. */
int md_daemon_connect(struct md_daemon *d, char *reterr);
int md_daemon_start_threads(struct md_daemon *d);

#endif
