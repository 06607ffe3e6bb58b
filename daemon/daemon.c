/* daemon.c: builds the service from a configuration, and takes it down again. Runs on the caller's thread.
 *
 * Order of birth: models, registry, outputs, sources, then the threads; so a configuration that cannot work says so
 * before the first sample is taken. Order of death: sources fall silent, engines drain, the publisher empties, sinks
 * flush and close.
 *
 * `run` must rise with every start: without a state folder it is the time of the start in milliseconds since the Unix
 * epoch.
 */
#include "daemon/assembly.h"
#include "daemon/exit_code.h"
#include "daemon/restore.h"
#include "daemon/scarce.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

static const size_t pool_limit = (size_t)1
                                 << 30; /* bytes of blocks on their way; queues bound it far below, as a rule */
static const int64_t forget_default_ns = 7 * INT64_C(86400) * 1000000000;
enum { remember_default = 100000 };
static const int64_t grace_ns = 1000000000; /* past the time-out, for threads that have been told to give up */

static int refuse(char *reterr, int code, const char *kind, const char *id, const char *text)
{
    snprintf(reterr, IO_ERR, "%s %s: %.400s", kind, id, text);
    return code;
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

static int open_model(struct md_daemon *d, unsigned i, unsigned flags, char *reterr)
{
    const struct md_model_conf *conf = &d->config->models[i];
    struct md_loaded l = {0};
    int r = md_load_folder(conf, flags & MD_PRESETS, &l, reterr);

    if (r == 0)
        r = md_load_engine(conf, flags & MD_NULL_DEVICE ? "null" : NULL, d->adapts, md_config_texts(d->config), &l,
                           reterr);
    if (r == 0 && !(d->models[i] = md_daemon_model(d, conf))) {
        snprintf(reterr, IO_ERR, "out of memory");
        r = EX_UNAVAILABLE;
    }
    if (r) {
        md_unload(&l);
        return r;
    }
    d->n_models++;
    md_served_exchange(d->models[i], &l);
    md_loaded_say(&d->models[i]->loaded, conf->id);
    return 0;
}

static int open_models(struct md_daemon *d, unsigned flags, char *reterr)
{
    const struct ssm_model_info **infos = calloc(d->config->n_models + 1, sizeof *infos);
    int r = 0;

    if (!infos) {
        snprintf(reterr, IO_ERR, "out of memory");
        return EX_UNAVAILABLE;
    }
    for (unsigned i = 0; i < d->config->n_models && r == 0; i++)
        if ((r = open_model(d, i, flags, reterr)) == 0)
            infos[i] = &d->models[i]->loaded.info;
    if (r == 0) {
        md_served_widths(d->config, infos, &d->env);
        r = md_served_check(d->config, infos, reterr);
    }
    free(infos);
    return r;
}

struct md_served_model *md_daemon_model(struct md_daemon *d, const struct md_model_conf *conf)
{
    struct md_served_model *m = md_served_new(conf->id, d->pool);

    if (!m)
        return NULL;
    m->scheduler.publisher = &d->publisher;
    m->scheduler.code = &d->code;
    m->scheduler.registry = &d->registry;
    m->scheduler.cut = d->config->state_dir ? &d->snapshots.cut : NULL;
    m->scheduler.max_delay_ns = d->config->max_delay_ns;
    m->scheduler.max_streams = d->config->max_streams;
    if (d->config->state_dir)
        md_spill_allow(&m->scheduler.spill, d->config->state_dir, (uint64_t)d->config->state_spill_bytes);
    return m;
}

/* ---- inputs, outputs, the threads that serve them ----------------------------------------------------------- */

static bool is_finite(const struct md_input_conf *conf)
{
    return conf->class_->replayable && !(conf->class_->endless && conf->class_->endless(conf->conf));
}

struct md_input *md_daemon_input(struct md_daemon *d, const struct md_input_conf *conf)
{
    struct md_input *in = aligned_alloc(_Alignof(struct md_input), sizeof *in);
    struct md_served_model *m = d->models[conf->model];

    if (!in)
        return NULL;
    memset(in, 0, sizeof *in);
    in->conf = conf;
    in->registry = &d->registry;
    in->inbox = &m->scheduler.inbox;
    in->publisher = &d->publisher;
    in->model = m->scheduler.model;
    in->info = &m->loaded.info;
    in->code = &d->code;
    md_input_init(in, d->pool);
    return in;
}

struct md_output *md_daemon_output(struct md_daemon *d, const struct md_output_conf *conf)
{
    struct md_output *o = calloc(1, sizeof *o);

    if (!o)
        return NULL;
    md_output_init(o);
    o->conf = conf;
    o->code = &d->code;
    o->env = d->env;
    o->env.door = md_door_open(&o->door, conf->id);
    o->env.position = md_restored_position(&d->restored, conf->id);
    md_snapshots_attach(&d->snapshots, o);
    return o;
}

static int describe_all(struct md_daemon *d, unsigned flags)
{
    bool files = true; /* and nothing else */
    int finite = 0;

    for (; d->n_outputs < d->config->n_outputs; d->n_outputs++)
        if (!(d->outputs[d->n_outputs] = md_daemon_output(d, &d->config->outputs[d->n_outputs])))
            return -ENOMEM;
    for (; d->n_inputs < d->config->n_inputs; d->n_inputs++) {
        struct md_input *in = md_daemon_input(d, &d->config->inputs[d->n_inputs]);
        if (!in)
            return -ENOMEM;
        in->finite = flags & MD_ONCE && is_finite(in->conf);
        finite += in->finite;
        files &= in->conf->class_->replayable;
        d->inputs[d->n_inputs] = in;
    }
    for (unsigned i = 0; i < d->n_inputs && flags & MD_ONCE && finite == 0; i++) {
        d->inputs[i]->finite = true; /* none that ends by itself: the end is when they all say so */
        d->inputs[i]->host.once = files;
    }
    d->finite_left = finite || !(flags & MD_ONCE) ? finite : (int)d->n_inputs;
    return 0;
}

static struct md_feeder *new_feeder(struct md_daemon *d, unsigned n_inputs, unsigned n_outputs)
{
    struct md_feeder *f = &d->feeders[d->n_feeders];

    if (md_feeder_init(f, n_inputs, n_outputs))
        return NULL;
    d->n_feeders++;
    return f;
}

static struct md_feeder *shared_feeder(struct md_daemon *d, const char *group)
{
    struct md_feeder *f;

    for (unsigned i = 0; i < d->n_feeders; i++)
        if (d->feeders[i].group && strcmp(d->feeders[i].group, group) == 0)
            return &d->feeders[i];
    f = new_feeder(d, d->n_inputs, d->n_outputs);
    if (f)
        f->group = group;
    return f;
}

static void drain_engines(void *arg)
{
    struct md_daemon *d = arg;

    md_snapshots_drained(&d->snapshots);
    for (unsigned i = 0; i < d->n_models; i++)
        md_inbox_drain(&d->models[i]->scheduler.inbox, false);
}

enum { NAP_MAX_NS = 1000000 }; /* what comes during a nap must fit into the socket's queue */

static int make_feeders(struct md_daemon *d)
{
    d->feeders = calloc(d->n_inputs + d->n_outputs + 1, sizeof *d->feeders);
    if (!d->feeders)
        return -ENOMEM;
    for (unsigned i = 0; i < d->n_outputs; i++) {
        struct md_output *o = d->outputs[i];
        const struct io_sink_class *c = o->conf->class_;
        if (!c->thread && !c->own_thread)
            continue;
        struct md_feeder *f = c->own_thread ? new_feeder(d, 0, 1) : shared_feeder(d, c->thread);
        if (!f)
            return -ENOMEM;
        f->outputs[f->n_outputs++] = o;
        o->wake_fd = f->wake_fd;
    }
    for (unsigned i = 0; i < d->n_inputs; i++) {
        const char *group = d->inputs[i]->conf->class_->thread;
        struct md_feeder *f = group ? shared_feeder(d, group) : new_feeder(d, 1, 0);
        if (!f)
            return -ENOMEM;
        f->inputs[f->n_inputs++] = d->inputs[i];
        d->inputs[i]->wake_fd = f->wake_fd;
    }
    for (unsigned i = 0; i < d->n_feeders; i++) {
        d->feeders[i].nap_ns = d->config->max_delay_ns / 2 < NAP_MAX_NS ? d->config->max_delay_ns / 2 : NAP_MAX_NS;
        d->feeders[i].finite_left = &d->finite_left;
        d->feeders[i].finished = drain_engines;
        d->feeders[i].arg = d;
    }
    return 0;
}

int md_daemon_connect(struct md_daemon *d, char *reterr)
{
    char text[IO_ERR] = "";

    if (make_feeders(d)) {
        snprintf(reterr, IO_ERR, "out of memory");
        return EX_UNAVAILABLE;
    }
    for (unsigned i = 0; i < d->n_outputs; i++) {
        int r = d->outputs[i]->wake_fd < 0 && !d->outputs[i]->sink ? md_output_open(d->outputs[i], text) : 0;
        if (r)
            return refuse(reterr, md_output_code(d->outputs[i], r), "output", d->outputs[i]->conf->id,
                          *text ? text : strerror(-r));
    }
    for (unsigned i = 0; i < d->n_feeders; i++) {
        if (md_feeder_open(&d->feeders[i])) {
            snprintf(reterr, IO_ERR, "%s", d->feeders[i].reterr);
            return d->feeders[i].failed;
        }
    }
    return 0;
}

/* ---- start
 * ------------------------------------------------------------------------------------------------------------ */

static int allocate(struct md_daemon *d)
{
    const struct md_config *c = d->config;

    d->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->asked_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->texts_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->models = calloc(c->n_models + 1, sizeof(struct md_served_model *));
    d->inputs = calloc(c->n_inputs + 1, sizeof(struct md_input *));
    d->outputs = calloc(c->n_outputs + 1, sizeof(struct md_output *));
    if (!d->models || !d->inputs || !d->outputs || d->finished_fd < 0 || d->asked_fd < 0 || d->texts_fd < 0 ||
        io_pool_new(pool_limit, &d->pool) || md_registry_init(&d->registry, c))
        return -ENOMEM;
    return 0;
}

static void describe_publisher(struct md_daemon *d)
{
    d->publisher.run = d->run;
    d->publisher.started_ns = d->started_ns;
    d->publisher.outputs = d->outputs;
    d->publisher.n_outputs = d->n_outputs;
    d->publisher.registry = &d->registry;
    d->publisher.cut = d->config->state_dir ? &d->snapshots.cut : NULL;
    d->publisher.remember = d->config->state_dir ? d->config->state_remember : remember_default;
    d->publisher.forget_ns = d->config->state_dir ? d->config->state_forget_after_ns : forget_default_ns;
    d->publisher.n_engines = d->n_models;
    d->publisher.finished_fd = d->finished_fd;
}

static void free_all(struct md_daemon *d)
{
    for (unsigned i = 0; i < d->n_feeders; i++)
        md_feeder_done(&d->feeders[i]);
    for (unsigned i = 0; i < d->n_outputs; i++) {
        md_output_done(d->outputs[i]);
        free(d->outputs[i]);
    }
    md_registry_done(&d->registry);
    for (unsigned i = 0; i < d->n_inputs; i++)
        free(d->inputs[i]);
    for (unsigned i = 0; i < d->n_retired; i++)
        free(d->retired[i]);
    for (unsigned i = 0; i < d->n_models; i++)
        md_served_free(d->models[i]);
    for (unsigned i = 0; i < d->n_retired_models; i++)
        md_served_free(d->retired_models[i]);
    md_publisher_done(&d->publisher);
    md_snapshots_done(&d->snapshots);
    md_snapshot_close(&d->restored);
    io_pool_free(&d->pool);
    if (d->finished_fd >= 0)
        close(d->finished_fd);
    if (d->asked_fd >= 0)
        close(d->asked_fd);
    if (d->texts_fd >= 0)
        close(d->texts_fd);
    for (unsigned i = 0; i < d->n_configs; i++)
        md_config_free(&d->configs[i]);
    pthread_mutex_destroy(&d->shape);
    free(d->reload_text);
    free(d->retired);
    free(d->retired_models);
    free(d->configs);
    free(d->models);
    free(d->inputs);
    free(d->outputs);
    free(d->feeders);
    free(d);
}

/* Nothing has run yet: what is open is closed again. */
static void abandon(struct md_daemon *d)
{
    for (unsigned i = 0; i < d->n_feeders; i++) {
        md_feeder_quit(&d->feeders[i], 0);
        md_feeder_go(&d->feeders[i]);
        md_feeder_join(&d->feeders[i]);
    }
    for (unsigned i = 0; i < d->n_outputs; i++)
        md_output_close(d->outputs[i], 0);
    free_all(d);
}

/* Engines that have got nothing yet; there is no publisher that would give their batches back. */
static void end_engines(struct md_daemon *d)
{
    md_snapshots_stop(&d->snapshots);
    for (unsigned i = 0; i < d->n_models; i++) {
        md_inbox_drain(&d->models[i]->scheduler.inbox, true);
        md_scheduler_join(&d->models[i]->scheduler);
    }
    d->publisher.head = d->publisher.tail = NULL;
}

int md_daemon_start_threads(struct md_daemon *d)
{
    int r = md_publisher_init(&d->publisher);

    for (unsigned i = 0; i < d->n_models && r == 0; i++)
        r = md_scheduler_start(&d->models[i]->scheduler);
    if (r == 0)
        r = md_snapshots_start(&d->snapshots);
    if (r == 0)
        r = md_publisher_start(&d->publisher);
    if (r)
        end_engines(d);
    for (unsigned i = 0; i < d->n_feeders && r == 0; i++)
        md_feeder_go(&d->feeders[i]);
    return r;
}

/* In seconds, a service that is restarted at once would have the same number twice. */
static uint64_t start_number(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The newest snapshot, and the folder of the next. `run` rises whatever the clock does. */
static int open_state(struct md_daemon *d, char *reterr)
{
    char text[MD_SNAPSHOT_ERR] = "";
    int r;

    if (!d->config->state_dir)
        return 0;
    r = md_snapshots_lock(&d->snapshots, d->config->state_dir, text);
    if (r) {
        snprintf(reterr, IO_ERR, "state: %.480s", text);
        return r == -EWOULDBLOCK || md_scarce(r) ? EX_UNAVAILABLE : EX_IOERR;
    }
    r = md_restore_open(d, reterr);
    if (r)
        return r;
    if (d->run <= d->restored.head.run)
        d->run = d->restored.head.run + 1;
    r = md_snapshots_init(&d->snapshots, d, text);
    if (r == 0)
        return 0;
    snprintf(reterr, IO_ERR, "state: %.480s", text);
    return md_scarce(r) ? EX_UNAVAILABLE : EX_IOERR;
}

int md_daemon_start(const struct md_config *config, unsigned flags, struct md_daemon **ret, char *reterr)
{
    struct md_daemon *d = calloc(1, sizeof *d);
    char text[MD_SNAPSHOT_ERR] = "";
    int r;

    if (!d) {
        snprintf(reterr, IO_ERR, "out of memory");
        return EX_UNAVAILABLE;
    }
    d->config = config;
    d->snapshots.lock_fd = -1;
    d->asked_fd = d->texts_fd = d->finished_fd = -1;
    pthread_mutex_init(&d->shape, NULL);
    d->once = flags & MD_ONCE;
    d->adapts = md_config_adapts(config);
    d->started_ns = md_now_ns();
    d->run = start_number();
    r = allocate(d) ? EX_UNAVAILABLE : 0;
    if (r) {
        snprintf(reterr, IO_ERR, "out of memory");
        goto fail;
    }
    r = open_models(d, flags, reterr);
    if (r)
        goto fail;
    r = open_state(d, reterr);
    if (r)
        goto fail;
    d->env.run = d->run;
    if (describe_all(d, flags)) {
        snprintf(reterr, IO_ERR, "out of memory");
        r = EX_UNAVAILABLE;
        goto fail;
    }
    describe_publisher(d);
    r = md_restore_streams(d, reterr);
    if (r)
        goto fail;
    r = md_daemon_connect(d, reterr);
    if (r)
        goto fail;
    if (md_snapshots_first(&d->snapshots, text)) {
        snprintf(reterr, IO_ERR, "state: %.480s", text);
        r = EX_IOERR;
        goto fail;
    }
    r = md_daemon_start_threads(d);
    if (r == 0) {
        *ret = d;
        return 0;
    }
    snprintf(reterr, IO_ERR, "cannot start threads: %s", strerror(-r));
    r = EX_UNAVAILABLE;

fail:
    abandon(d);
    return r;
}

uint64_t md_daemon_snapshot(struct md_daemon *d)
{
    uint64_t number;

    pthread_mutex_lock(&d->shape);
    number = md_snapshots_ask(&d->snapshots);
    pthread_mutex_unlock(&d->shape);
    return number;
}

int md_daemon_fd(const struct md_daemon *d)
{
    return d->finished_fd;
}

int md_daemon_status_code(const struct md_daemon *d)
{
    return atomic_load(&((struct md_daemon *)d)->code);
}

bool md_daemon_moves(struct md_daemon *d)
{
    bool moves = true;

    for (unsigned i = 0; i < d->n_models; i++)
        moves &= md_scheduler_moves(&d->models[i]->scheduler, &d->models[i]->seen);
    return moves;
}

/* ---- stop
 * ------------------------------------------------------------------------------------------------------------- */

static bool finished_within(const struct md_daemon *d, int64_t ns)
{
    struct pollfd p = {d->finished_fd, POLLIN, 0};
    struct timespec t = {ns / 1000000000, ns % 1000000000};

    return atomic_load(&d->publisher.finished) || (ns >= 0 && ppoll(&p, 1, &t, NULL) == 1);
}

static bool tell_lost(struct io_stream *s, void *arg)
{
    md_inbox_tell_lost(s->input, s);
    return true;
}

/* 0: all that was queued is out; 1: some of it was given up; −1: threads hang in an output. */
static int drain(struct md_daemon *d, int64_t deadline)
{
    for (unsigned i = 0; i < d->n_feeders; i++)
        if (!md_feeder_mute(&d->feeders[i], md_add_sat(deadline, grace_ns)))
            return -1;
    md_registry_each(&d->registry, tell_lost, NULL);
    drain_engines(d);
    if (finished_within(d, deadline - md_now_ns()))
        return 0;
    for (unsigned i = 0; i < d->n_models; i++)
        md_inbox_drain(&d->models[i]->scheduler.inbox, true);
    return finished_within(d, grace_ns) ? 1 : -1;
}

static void end_threads(struct md_daemon *d, int64_t deadline, bool clean)
{
    char text[MD_SNAPSHOT_ERR] = "";

    md_publisher_join(&d->publisher);
    for (unsigned i = 0; i < d->n_models; i++)
        md_scheduler_join(&d->models[i]->scheduler);
    if (clean && md_snapshots_last(&d->snapshots, text)) {
        md_log(MD_ERROR, NULL, "no snapshot at the end: %s; the one before stays", text);
        md_end_with(&d->code, EX_IOERR);
    }
    for (unsigned i = 0; i < d->n_feeders; i++) {
        int64_t left = deadline - md_now_ns();
        md_feeder_quit(&d->feeders[i], left > 0 ? left : 0);
        md_feeder_join(&d->feeders[i]);
    }
    for (unsigned i = 0; i < d->n_outputs; i++) {
        int64_t left = deadline - md_now_ns();
        md_output_close(d->outputs[i], left > 0 ? left : 0);
    }
}

int md_daemon_stop(struct md_daemon **daemon, int64_t timeout_ns)
{
    struct md_daemon *d = *daemon;
    int64_t deadline = md_add_sat(md_now_ns(), timeout_ns);
    int r, code;

    if (!d)
        return 0;
    *daemon = NULL;
    atomic_store(&d->draining, true);
    md_snapshots_stop(&d->snapshots);
    r = drain(d, deadline);
    if (r < 0) {
        md_log(MD_ERROR, NULL, "an output takes no messages, or a batch does not end: given up after %.1f s",
               1e-9 * (double)timeout_ns);
        return EX_IOERR; /* nothing can be freed under threads that hang */
    }
    if (r > 0 && timeout_ns > 0)
        md_log(MD_WARN, NULL, "not drained within %.1f s: queued samples are lost", 1e-9 * (double)timeout_ns);
    end_threads(d, deadline, r == 0);
    if (r > 0)
        md_end_with(&d->code, EX_IOERR);
    code = atomic_load(&d->code);
    free_all(d);
    return code == EX_DATAERR ? 0 : code;
}
