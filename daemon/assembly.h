/* assembly.h: what a running daemon is made of; for daemon.c, which builds and ends it, and status.c, which looks at
 * it. */
#ifndef MD_ASSEMBLY_H
#define MD_ASSEMBLY_H

#include "daemon/daemon.h"
#include "daemon/feeder.h"
#include "daemon/publisher.h"
#include "daemon/snapshot.h"

struct md_served_model {
    struct ssm_model *model;
    struct md_scheduler scheduler;
    uint64_t hash; /* ssm_model_hash(); 0 where no snapshots are made */
    bool made;     /* scheduler is initialised */
    uint64_t seen; /* md_scheduler_moves(); the main thread's */
};

struct md_daemon {
    const struct md_config *config;
    struct io_pool *pool;
    struct md_registry registry;
    struct md_served_model *models; /* as in the config, like inputs and outputs */
    struct md_input *inputs;
    struct md_output *outputs;
    struct md_feeder *feeders;
    unsigned n_models, n_inputs, n_outputs, n_feeders;
    struct md_publisher publisher;
    struct io_sink_env env;
    struct md_snapshot_file restored; /* what the daemon went on from; mapped while it runs */
    struct md_snapshots snapshots;
    struct md_snapshot_counters snapshot_counters;
    int64_t started_ns;
    uint64_t run;
    int finished_fd;
    _Atomic int finite_left, code;
    _Atomic bool draining;
};

#endif
