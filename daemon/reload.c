/* reload.c: see reload.h. In this order: what cannot change in a running daemon is refused; other models are opened
 * beside those in use (swap.h); sources fall silent; streams of inputs that go away end; the engines stop between two
 * batches, with what is queued left in the queues; the publisher empties; every thread ends, and the parts change
 * places; the threads start again. So nothing is copied but the states of a model that is exchanged, and a stream whose
 * input and model stay does not see it.
 *
 * Trap: a source or sink that stays was opened with the old configuration's struct and goes on reading it. */
#include "daemon/reload.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/assembly.h"
#include "daemon/exit_code.h"
#include "daemon/swap.h"

/* ---- what stays -------------------------------------------------------------------------------------------------- */

struct change {
    struct md_daemon *d;
    struct md_config *config;
    struct md_served_model **models; /* what the daemon is to have; once it has it, what it had */
    struct md_input **inputs;
    struct md_output **outputs;
    unsigned n_models, n_inputs, n_outputs;
    struct md_swap *swaps;               /* as in the new configuration's models, … */
    const struct ssm_model_info **infos; /* … likewise */
    struct md_plan *plans;
    struct io_sink_env env; /* how wide rows are to be; once they are, how wide they were */
    char *reterr;
};

typedef void printer(const struct md_config *c, unsigned i, FILE *out);

/* Whether two parts of two configurations read the same, defaults and all. */
static bool same_text(printer *print, const struct md_config *a, unsigned i, const struct md_config *b, unsigned k)
{
    char *texts[2] = {NULL, NULL};
    size_t n[2];
    bool same;

    for (int t = 0; t < 2; t++) {
        FILE *out = open_memstream(&texts[t], &n[t]);
        if (out)
            print(t ? b : a, t ? k : i, out);
        if (out)
            fclose(out);
    }
    same = texts[0] && texts[1] && strcmp(texts[0], texts[1]) == 0;
    free(texts[0]);
    free(texts[1]);
    return same;
}

static bool equal(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_service(const struct md_generate_conf *a, const struct md_generate_conf *b)
{
    return equal(a->endpoint, b->endpoint) && equal(a->curve_key, b->curve_key) &&
           equal(a->curve_clients, b->curve_clients) && a->insecure == b->insecure && a->requests == b->requests &&
           a->per_client == b->per_client && a->prompt == b->prompt && a->bytes == b->bytes;
}

static int refuse(const struct change *c, const char *text)
{
    snprintf(c->reterr, IO_ERR, "%s", text);
    return -EINVAL;
}

/* What is fixed when the process starts. */
static int check_fixed(const struct change *c)
{
    const struct md_config *old = c->d->config, *new = c->config;

    if (md_config_adapts(new) && !c->d->adapts)
        return refuse(c, "streams: adapt needs a restart where the start had none");
    if (!equal(old->state_dir, new->state_dir))
        return refuse(c, "state.dir: another folder needs a restart");
    if (old->state_spill_bytes != new->state_spill_bytes)
        return refuse(c, "state.spill: another size needs a restart");
    if (!equal(old->control, new->control))
        return refuse(c, "server.control: another socket needs a restart");
    if (!same_service(&old->generate, &new->generate))
        return refuse(c, "server.generate: another socket, key or limit of it needs a restart");
    for (unsigned i = 0; i < c->d->n_models; i++)
        if (atomic_load(&c->d->models[i]->scheduler.failed))
            return refuse(c, "a model's device has failed: that needs a restart");
    if (c->d->once)
        return refuse(c, "with --once the daemon ends by itself");
    if (atomic_load(&c->d->publisher.finished))
        return refuse(c, "the daemon is ending");
    return 0;
}

/* What a source knows of its model. */
static bool same_input(const struct ssm_model_info *a, const struct ssm_model_info *b)
{
    return a->rate == b->rate && a->bytes == b->bytes;
}

/* The running input or output that an entry of the new configuration describes as it is; NULL: none. A source knows its
 * model's rate, and whether it reads bytes, a sink of tables how wide their rows are. */
static struct md_input *find_input(const struct change *c, unsigned i)
{
    const struct md_config *new = c->config, *old = c->d->config;

    for (unsigned k = 0; k < old->n_inputs; k++)
        if (!strcmp(old->inputs[k].id, new->inputs[i].id))
            return same_text(md_config_print_input, old, k, new, i) &&
                           same_input(c->d->inputs[k]->info, c->infos[new->inputs[i].model])
                       ? c->d->inputs[k]
                       : NULL;
    return NULL;
}

static bool wide_enough(const struct io_sink_env *has, const struct io_sink_env *needs)
{
    return has->horizon_max >= needs->horizon_max && has->quantiles_max >= needs->quantiles_max &&
           has->embedding_max >= needs->embedding_max;
}

static struct md_output *find_output(const struct change *c, unsigned i)
{
    const struct md_config *new = c->config, *old = c->d->config;

    for (unsigned k = 0; k < old->n_outputs; k++)
        if (!strcmp(old->outputs[k].id, new->outputs[i].id))
            return same_text(md_config_print_output, old, k, new, i) &&
                           (!new->outputs[i].class_->tables || wide_enough(&c->d->outputs[k]->env, &c->env))
                       ? c->d->outputs[k]
                       : NULL;
    return NULL;
}

static bool stays(const struct change *c, const struct md_input *in)
{
    for (unsigned i = 0; i < c->n_inputs; i++)
        if (c->inputs[i] == in)
            return true;
    return false;
}

static bool stays_output(const struct change *c, const struct md_output *o)
{
    for (unsigned i = 0; i < c->n_outputs; i++)
        if (c->outputs[i] == o)
            return true;
    return false;
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

/* That of the id, and what it was opened by; or one that was served once; or a new one. */
static struct md_served_model *find_model(struct change *c, unsigned i, const struct md_model_conf **ret_had)
{
    struct md_daemon *d = c->d;
    const struct md_model_conf *conf = &c->config->models[i];

    for (unsigned k = 0; k < d->n_models; k++)
        if (!strcmp(d->config->models[k].id, conf->id)) {
            *ret_had = &d->config->models[k];
            return d->models[k];
        }
    for (unsigned k = 0; k < d->n_retired_models; k++)
        if (!strcmp(d->retired_models[k]->scheduler.model, conf->id))
            return d->retired_models[k];
    return md_daemon_model(d, conf);
}

/* All that can be found out beside the running daemon. */
static int open_models(struct change *c)
{
    const struct md_config *new = c->config;
    int r = 0;

    c->infos = calloc(new->n_models + 1, sizeof *c->infos);
    c->models = calloc(new->n_models + 1, sizeof(struct md_served_model *));
    c->swaps = calloc(new->n_models + 1, sizeof *c->swaps);
    if (!c->infos || !c->models || !c->swaps)
        return refuse(c, "out of memory");
    for (; c->n_models < new->n_models &&r == 0; c->n_models++) {
        const struct md_model_conf *had = NULL, *conf = &new->models[c->n_models];
        struct md_served_model *m = find_model(c, c->n_models, &had);
        struct md_swap *w = &c->swaps[c->n_models];
        if (!m)
            return refuse(c, "out of memory");
        c->models[c->n_models] = m;
        r = md_swap_open(w, m, had, conf, c->d->adapts, md_config_texts(new), c->reterr);
        c->infos[c->n_models] = w->due ? &w->other.info : &m->loaded.info;
    }
    c->env = c->d->env;
    if (r == 0) {
        md_served_widths(new, c->infos, &c->env);
        r = md_served_check(new, c->infos, c->reterr);
    }
    return r ? -EINVAL : 0;
}

/* Those that are served have what is new loaded, and those that are not to be served are left out; or all is as it was
 * before. */
static void exchange_models(struct change *c)
{
    struct md_daemon *d = c->d;
    struct change had = *c;

    for (unsigned i = 0; i < c->config->n_models; i++)
        if (c->swaps[i].due)
            md_swap_exchange(&c->swaps[i]);
    c->models = d->models;
    c->n_models = d->n_models;
    c->env = d->env;
    d->models = had.models;
    d->n_models = had.n_models;
    d->env = had.env;
}

/* What is known of a model stands elsewhere once it is loaded. */
static void take_models(struct change *c)
{
    struct md_daemon *d = c->d;

    exchange_models(c);
    for (unsigned i = 0; i < d->n_models; i++)
        c->infos[i] = &d->models[i]->loaded.info;
    md_served_widths(c->config, c->infos, &d->env);
}

static int move_states(struct change *c)
{
    int r = 0;

    for (unsigned i = 0; i < c->n_models && r == 0; i++)
        if (c->swaps[i].due)
            r = md_swap_move(&c->swaps[i], c->reterr);
    return r;
}

static bool among(const struct md_served_model *m, struct md_served_model *const *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i] == m)
            return true;
    return false;
}

/* Of those that the change has and the daemon has not: what was served is kept as a name, what never was goes. */
static void drop_models(struct change *c, bool done)
{
    struct md_daemon *d = c->d;
    unsigned kept = 0;

    for (unsigned i = 0; i < d->n_retired_models; i++) /* served again */
        if (!among(d->retired_models[i], d->models, d->n_models))
            d->retired_models[kept++] = d->retired_models[i];
    d->n_retired_models = kept;
    for (unsigned i = 0; c->swaps && i < c->config->n_models; i++)
        md_swap_done(&c->swaps[i]);
    for (unsigned i = 0; i < c->n_models; i++) {
        struct md_served_model *m = c->models[i];
        if (among(m, d->models, d->n_models) || among(m, d->retired_models, d->n_retired_models))
            continue;
        if (done) {
            md_served_retire(m);
            d->retired_models[d->n_retired_models++] = m;
        } else {
            md_served_free(m);
        }
    }
    md_plan_free(&c->plans);
    free(c->infos);
    free(c->swaps);
    free(c->models);
}

/* ---- coming to rest ---------------------------------------------------------------------------------------------- */

struct gone {
    const struct change *c;
    bool end;      /* live ones are told to end */
    uint64_t left; /* not at rest */
};

static bool end_stream(struct io_stream *s, void *arg)
{
    struct gone *g = arg;
    bool live;

    if (stays(g->c, s->input))
        return true;
    pthread_mutex_lock(&s->inbox->lock);
    live = s->queue.live;
    pthread_mutex_unlock(&s->inbox->lock);
    if (live && g->end)
        md_inbox_cut_off(s);
    g->left += live || atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0;
    return true;
}

/* True: the daemon is to end; the signal stays pending. */
static bool nap(void)
{
    enum { NAP_MS = 1 };
    sigset_t pending;

    poll(NULL, 0, NAP_MS);
    return sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT));
}

/* Returns when the publisher and the engines have ended; what is queued stays where it is. -EINTR: the daemon is to
 * end; *ret_lost: and the engines, told to take no more, leave what is queued. */
static int come_to_rest(const struct change *c, bool *ret_lost)
{
    struct md_daemon *d = c->d;
    struct gone g = {c, true, 0};

    md_snapshots_stop(&d->snapshots);
    for (unsigned i = 0; i < d->n_feeders; i++)
        while (!md_feeder_mute(&d->feeders[i], md_now_ns() + 1000000))
            if (nap())
                return -EINTR;
    md_registry_each(&d->registry, end_stream, &g);
    for (g.end = false; g.left;) {
        if (nap())
            return -EINTR;
        g.left = 0;
        md_registry_each(&d->registry, end_stream, &g);
    }
    md_snapshots_drained(&d->snapshots);
    for (unsigned i = 0; i < d->n_models; i++)
        md_inbox_drain(&d->models[i]->scheduler.inbox, true);
    while (!atomic_load(&d->publisher.finished))
        if (nap()) {
            *ret_lost = true;
            return -EINTR;
        }
    md_publisher_join(&d->publisher);
    for (unsigned i = 0; i < d->n_models; i++)
        md_scheduler_join(&d->models[i]->scheduler);
    return 0;
}

static void end_feeders(struct md_daemon *d)
{
    for (unsigned i = 0; i < d->n_feeders; i++) {
        d->feeders[i].keep = true;
        md_feeder_quit(&d->feeders[i], 0);
        md_feeder_go(&d->feeders[i]); /* where it has not begun */
        md_feeder_join(&d->feeders[i]);
        md_feeder_done(&d->feeders[i]);
    }
    for (unsigned i = 0; i < d->n_outputs; i++)
        d->outputs[i]->wake_fd = -1; /* no thread serves it now */
    free(d->feeders);
    d->feeders = NULL;
    d->n_feeders = 0;
}

/* ---- changing places --------------------------------------------------------------------------------------------- */

static bool has_no_handle(struct io_stream *s, void *arg)
{
    s->queue.held = s->queue.held && s->input != arg;
    return true;
}

static void close_source(struct md_registry *r, struct md_input *in)
{
    if (in->source)
        in->conf->class_->close(in->source);
    in->source = NULL;
    md_registry_each(r, has_no_handle, in);
}

/* What it holds is remembered, in case it is opened again after all. */
static void close_sink(struct md_output *o)
{
    const struct io_sink_class *class_ = o->conf->class_;
    bool marked = o->sink && class_->mark && class_->mark(o->sink, &o->position) == 0;

    o->env.position = marked ? &o->position : NULL;
    md_output_close(o, 1000000000);
}

/* The streams of an input that was closed belong to the one that is opened in its place. One that can begin again does
 * so at its first row; the rows that were taken are let through unseen. */
static bool hand_over(struct io_stream *s, void *arg)
{
    struct md_input *const *pair = arg;

    if (s->input != pair[0] || pair[1]->inbox != s->inbox)
        return true;
    s->input = pair[1];
    s->replay = (struct md_replay){.from = IO_SEQ_NONE};
    if (pair[1]->conf->class_->replayable)
        s->replay = md_replay_from(&s->course.trail, true);
    return true;
}

static void give_streams(struct md_daemon *d, struct md_input *from, struct md_input *to)
{
    struct md_input *pair[] = {from, to};

    md_registry_each(&d->registry, hand_over, pair);
}

static int make_new(struct change *c)
{
    struct md_daemon *d = c->d;

    for (unsigned i = 0; i < c->n_inputs; i++)
        if (!c->inputs[i] && !(c->inputs[i] = md_daemon_input(d, &c->config->inputs[i])))
            return -ENOMEM;
    for (unsigned i = 0; i < c->n_outputs; i++) {
        if (c->outputs[i])
            continue;
        c->outputs[i] = md_daemon_output(d, &c->config->outputs[i]);
        if (!c->outputs[i])
            return -ENOMEM;
        c->outputs[i]->env.position = NULL; /* the start's snapshot is long past */
    }
    return 0;
}

static void swap_parts(struct change *c)
{
    struct md_daemon *d = c->d;
    struct change had = *c;

    c->inputs = d->inputs;
    c->outputs = d->outputs;
    c->n_inputs = d->n_inputs;
    c->n_outputs = d->n_outputs;
    d->inputs = had.inputs;
    d->outputs = had.outputs;
    d->n_inputs = had.n_inputs;
    d->n_outputs = had.n_outputs;
    d->publisher.outputs = d->outputs;
    d->publisher.n_outputs = d->n_outputs;
}

/* Closes what the daemon has and the change has not; with those in use exchanged, streams go to inputs of the same id.
 */
static void change_places(struct change *c)
{
    struct md_daemon *d = c->d;

    for (unsigned i = 0; i < d->n_inputs; i++)
        if (!stays(c, d->inputs[i]))
            close_source(&d->registry, d->inputs[i]);
    for (unsigned i = 0; i < d->n_outputs; i++)
        if (!stays_output(c, d->outputs[i]))
            close_sink(d->outputs[i]);
    swap_parts(c);
    for (unsigned i = 0; i < c->n_inputs; i++)
        for (unsigned k = 0; k < d->n_inputs; k++)
            if (c->inputs[i] != d->inputs[k] && !strcmp(c->inputs[i]->conf->id, d->inputs[k]->conf->id))
                give_streams(d, c->inputs[i], d->inputs[k]);
}

/* With the models in their places. 0; else the parts are where they were, and not connected. */
static int change_parts(struct change *c)
{
    struct md_daemon *d = c->d;
    const struct md_config *old = d->config;

    if (md_registry_plans(&d->registry, c->config, &c->plans) || make_new(c))
        return refuse(c, "out of memory");
    change_places(c);
    d->config = c->config;
    if (md_daemon_connect(d, c->reterr) == 0)
        return 0;
    end_feeders(d);
    change_places(c);
    d->config = old;
    return -EINVAL;
}

/* 0; −EINVAL: all is as before; −EIO: not even that. */
static int apply(struct change *c)
{
    struct md_daemon *d = c->d;
    char text[IO_ERR] = "";

    end_feeders(d);
    if (move_states(c) == 0) {
        take_models(c);
        if (change_parts(c) == 0)
            return 0;
        exchange_models(c);
    }
    if (md_daemon_connect(d, text) == 0)
        return -EINVAL;
    end_feeders(d);
    snprintf(c->reterr, IO_ERR, "what was there before cannot be opened again: %.400s", text);
    return -EIO;
}

/* ---- the end of it ----------------------------------------------------------------------------------------------- */

/* What the change has and the daemon has not: after a success the old ones, which records of streams may name, else the
 * new ones. */
static void drop_rest(struct change *c, bool done)
{
    struct md_daemon *d = c->d;
    struct change now = {
        .inputs = d->inputs, .outputs = d->outputs, .n_inputs = d->n_inputs, .n_outputs = d->n_outputs};

    for (unsigned i = 0; i < c->n_inputs; i++)
        if (c->inputs[i] && !stays(&now, c->inputs[i]) && done)
            d->retired[d->n_retired++] = c->inputs[i];
        else if (c->inputs[i] && !stays(&now, c->inputs[i]))
            free(c->inputs[i]);
    for (unsigned i = 0; i < c->n_outputs; i++) {
        if (!c->outputs[i] || stays_output(&now, c->outputs[i]))
            continue;
        md_output_done(c->outputs[i]);
        free(c->outputs[i]);
    }
    free(c->inputs);
    free(c->outputs);
    drop_models(c, done);
}

static void take_over(struct change *c)
{
    struct md_daemon *d = c->d;

    for (unsigned i = 0; i < c->config->n_models; i++)
        if (c->swaps[i].due)
            md_swap_settle(&c->swaps[i], &d->registry);
    md_registry_replan(&d->registry, c->config, c->plans);
    c->plans = NULL;
    for (unsigned i = 0; i < d->n_models; i++) {
        d->models[i]->scheduler.max_delay_ns = c->config->max_delay_ns;
        d->models[i]->scheduler.max_streams = c->config->max_streams;
    }
    if (c->config->state_dir) {
        d->publisher.forget_ns = c->config->state_forget_after_ns;
        d->publisher.remember = c->config->state_remember;
    }
    d->configs[d->n_configs++] = c->config;
}

static void start_again(struct md_daemon *d)
{
    (void)!read(d->finished_fd, &(uint64_t){0}, sizeof(uint64_t));
    md_publisher_done(&d->publisher);
    atomic_store(&d->publisher.finished, false);
    d->publisher.n_engines = d->n_models;
    for (unsigned i = 0; i < d->n_models; i++)
        md_scheduler_again(&d->models[i]->scheduler);
    if (md_daemon_start_threads(d)) {
        md_log(MD_ERROR, NULL, "cannot start threads again: what was done since the newest snapshot is lost");
        md_log_flush(true);
        _exit(EX_UNAVAILABLE); /* as after kill -9: a start goes on from there */
    }
}

/* Room for what a success adds, and the parts that stay. */
static int prepare(struct change *c)
{
    struct md_daemon *d = c->d;
    struct md_input **retired = realloc(d->retired, (d->n_retired + d->n_inputs + 1) * sizeof *retired);
    struct md_served_model **models =
        realloc(d->retired_models, (d->n_retired_models + d->n_models + 1) * sizeof *models);
    struct md_config **configs = realloc(d->configs, (d->n_configs + 1) * sizeof *configs);

    d->retired = retired ? retired : d->retired;
    d->retired_models = models ? models : d->retired_models;
    d->configs = configs ? configs : d->configs;
    c->inputs = calloc(c->n_inputs + 1, sizeof(struct md_input *));
    c->outputs = calloc(c->n_outputs + 1, sizeof(struct md_output *));
    if (!retired || !models || !configs || !c->inputs || !c->outputs) {
        c->n_inputs = c->n_outputs = 0;
        return -ENOMEM;
    }
    for (unsigned i = 0; i < c->n_inputs; i++)
        c->inputs[i] = find_input(c, i);
    for (unsigned i = 0; i < c->n_outputs; i++)
        c->outputs[i] = find_output(c, i);
    return 0;
}

int md_daemon_reload(struct md_daemon *d, struct md_config *config, char *reterr)
{
    struct change c = {
        .d = d, .config = config, .n_inputs = config->n_inputs, .n_outputs = config->n_outputs, .reterr = reterr};
    bool lost = false;
    int r = check_fixed(&c);

    if (r)
        return r;
    r = open_models(&c);
    if (r) {
        drop_models(&c, false);
        return r;
    }
    pthread_mutex_lock(&d->shape);
    r = prepare(&c);
    if (r)
        snprintf(reterr, IO_ERR, "out of memory");
    if (r == 0 && (r = come_to_rest(&c, &lost)) != 0)
        snprintf(reterr, IO_ERR, "the end came in between%s", lost ? "; what was queued is lost" : "");
    if (r == 0) {
        r = apply(&c);
        if (r == 0)
            take_over(&c);
        if (r != -EIO)
            start_again(d);
    }
    if (r == -EIO || lost)
        md_end_with(&d->code, EX_IOERR);
    drop_rest(&c, r == 0);
    pthread_mutex_unlock(&d->shape);
    return r;
}

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

uint64_t md_daemon_ask_reload(struct md_daemon *d)
{
    uint64_t number;

    pthread_mutex_lock(&d->shape);
    number = ++d->asked;
    pthread_mutex_unlock(&d->shape);
    eventfd_write(d->asked_fd, 1);
    return number;
}

void md_daemon_ask_drain(struct md_daemon *d)
{
    atomic_store(&d->drain, true);
    eventfd_write(d->asked_fd, 1);
}

int md_daemon_asked_fd(const struct md_daemon *d)
{
    return d->asked_fd;
}

bool md_daemon_drain_asked(const struct md_daemon *d)
{
    return atomic_load(&((struct md_daemon *)(uintptr_t)d)->drain);
}

uint64_t md_daemon_reload_asked(struct md_daemon *d)
{
    uint64_t number;

    pthread_mutex_lock(&d->shape);
    number = d->asked;
    pthread_mutex_unlock(&d->shape);
    return number;
}

void md_daemon_answer_reload(struct md_daemon *d, uint64_t number, const char *text)
{
    pthread_mutex_lock(&d->shape);
    d->answered = number;
    d->reloads += !text;
    d->refused += text != NULL;
    free(d->reload_text);
    d->reload_text = strdup(text ? text : "");
    pthread_mutex_unlock(&d->shape);
}
