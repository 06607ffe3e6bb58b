/* status.c: the daemon as JSON: every counter under the name of its metric, without prefix. Any thread; reads atomics,
 * and takes each lock for a moment only. */
#include <fnmatch.h>

#include "daemon/assembly.h"

static void set_int(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

struct census {
    const struct md_inbox *inbox; /* NULL: all */
    uint64_t live, ended, warming, alarms, spilled, waiting;
};

/* BEGINS: it is live, and the engine has not come to its first rows yet. WAITS: with a state, for its source. */
enum standing { OPEN, BEGINS, WAITS, ENDED };

static enum standing standing_of(struct io_stream *s)
{
    bool live;

    if (atomic_load_explicit(&s->seen.open, memory_order_relaxed))
        return OPEN;
    if (atomic_load_explicit(&s->seen.waits, memory_order_relaxed))
        return WAITS;
    pthread_mutex_lock(&s->inbox->lock);
    live = s->queue.live;
    pthread_mutex_unlock(&s->inbox->lock);
    return live ? BEGINS : ENDED;
}

static bool count_stream(struct io_stream *s, void *arg)
{
    struct census *c = arg;

    if (c->inbox && s->inbox != c->inbox)
        return true;
    enum standing standing = standing_of(s);
    c->waiting += standing == WAITS;
    c->ended += standing == ENDED;
    c->live += standing == BEGINS;
    c->warming += standing == BEGINS;
    if (standing != OPEN)
        return true;
    c->alarms += atomic_load_explicit(&s->seen.alarm, memory_order_relaxed);
    if (atomic_load_explicit(&s->seen.away, memory_order_relaxed)) {
        c->spilled++;
        return true;
    }
    c->live++;
    c->warming += !atomic_load_explicit(&s->seen.warm, memory_order_relaxed);
    return true;
}

static json_t *spill_status(struct md_scheduler *s)
{
    struct md_spill_counters *c = &s->spill.counters;
    json_t *o = json_object();

    set_int(o, "written_total", md_read(&c->written));
    set_int(o, "read_total", md_read(&c->read));
    set_int(o, "refused_total", md_read(&c->refused));
    set_int(o, "lost_total", md_read(&c->lost));
    set_int(o, "waiting", atomic_load_explicit(&c->waiting, memory_order_relaxed));
    set_int(o, "bytes", atomic_load_explicit(&c->cells, memory_order_relaxed) * (uint64_t)ssm_slot_bytes(s->engine));
    set_int(o, "bytes_max", s->spill.max_cells * (uint64_t)ssm_slot_bytes(s->engine));
    return o;
}

static json_t *model_status(struct md_daemon *d, unsigned i)
{
    struct md_scheduler *s = &d->models[i]->scheduler;
    struct census c = {.inbox = &s->inbox};
    json_t *o = json_object(), *streams = json_object();

    md_registry_each(&d->registry, count_stream, &c);
    json_object_set_new(o, "path", json_string(d->config->models[i].path));
    json_object_set_new(o, "device", json_string(ssm_engine_device(s->engine)));
    json_object_set_new(o, "ops", json_string(ssm_engine_ops(s->engine)));
    set_int(o, "slots", d->config->models[i].slots);
    set_int(o, "slots_used", atomic_load_explicit(&s->slots_used, memory_order_relaxed));
    set_int(o, "slot_bytes", ssm_slot_bytes(s->engine));
    set_int(streams, "active", c.live - c.warming);
    set_int(streams, "warmup", c.warming);
    set_int(streams, "spilled", c.spilled);
    set_int(streams, "waiting", c.waiting);
    set_int(streams, "ended", c.ended);
    set_int(streams, "alarm", c.alarms);
    json_object_set_new(o, "streams", streams);
    if (md_spill_on(&s->spill))
        json_object_set_new(o, "spill", spill_status(s));
    json_object_update_new(o, md_engine_counters_json(&s->counters));
    if (d->models[i]->loaded.info.bytes) {
        set_int(o, "text_bytes_total", md_read(&s->composer.counters.bytes));
        set_int(o, "prompt_bytes_total", md_read(&s->composer.counters.prompt_bytes));
    }
    return o;
}

static json_t *input_status(struct md_input *in)
{
    json_t *o = md_input_counters_json(&in->counters);

    json_object_set_new(o, "type", json_string(in->conf->class_->type));
    json_object_set_new(o, "model", json_string(in->model));
    set_int(o, "queue_capacity_rows", in->conf->queue);
    json_object_set_new(o, "peers_refused_total", md_door_json(&in->door));
    json_object_set_new(o, "done", json_boolean(atomic_load(&in->done)));
    return o;
}

static json_t *pool_status(struct md_daemon *d)
{
    size_t used, held, peak;

    io_pool_usage(d->pool, &used, &held, &peak);
    return json_pack("{s:I, s:I, s:I}", "used_bytes", (json_int_t)used, "held_bytes", (json_int_t)held, "peak_bytes",
                     (json_int_t)peak);
}

/* The lines of a configuration that is not even UTF-8 stand in the log. */
static json_t *reload_status(struct md_daemon *d)
{
    json_t *error = json_string(d->reload_text ? d->reload_text : d->refused ? "out of memory" : "");

    return json_pack("{s:I, s:I, s:I, s:o}", "reloads_total", (json_int_t)d->reloads, "refused_total",
                     (json_int_t)d->refused, "answered", (json_int_t)d->answered, "error",
                     error ? error : json_string("the configuration is not valid, and not UTF-8: see the log"));
}

static json_t *texts_status(struct md_daemon *d)
{
    struct md_generate_counters *c = &d->texts;

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "running",
                     (json_int_t)atomic_load(&c->running), "requests_total", (json_int_t)md_read(&c->requests),
                     "refused_total", (json_int_t)md_read(&c->refused), "malformed_total",
                     (json_int_t)md_read(&c->malformed), "ends_total", (json_int_t)md_read(&c->ends), "cancels_total",
                     (json_int_t)md_read(&c->cancels), "errors_total", (json_int_t)md_read(&c->errors), "gone_total",
                     (json_int_t)md_read(&c->gone), "stalled_total", (json_int_t)md_read(&c->stalled), "bytes_total",
                     (json_int_t)md_read(&c->bytes), "peers_refused_total", md_door_json(&c->door));
}

json_t *md_daemon_status(struct md_daemon *d)
{
    json_t *o = json_object(), *models = json_object(), *inputs = json_object(), *outputs = json_object();

    pthread_mutex_lock(&d->shape);
    json_object_set_new(o, "version", json_string(MAMBAD_VERSION));
    json_object_set_new(o, "state", json_string(atomic_load(&d->draining) ? "draining" : "running"));
    set_int(o, "run", d->run);
    json_object_set_new(o, "uptime_s", json_real(1e-9 * (double)(md_now_ns() - d->started_ns)));
    for (unsigned i = 0; i < d->n_models; i++)
        json_object_set_new(models, d->config->models[i].id, model_status(d, i));
    for (unsigned i = 0; i < d->n_inputs; i++)
        json_object_set_new(inputs, d->inputs[i]->conf->id, input_status(d->inputs[i]));
    for (unsigned i = 0; i < d->n_outputs; i++) {
        json_t *output = md_output_counters_json(&d->outputs[i]->counters);
        json_object_set_new(output, "type", json_string(d->outputs[i]->conf->class_->type));
        json_object_set_new(output, "peers_refused_total", md_door_json(&d->outputs[i]->door));
        json_object_set_new(outputs, d->outputs[i]->conf->id, output);
    }
    json_object_set_new(o, "models", models);
    json_object_set_new(o, "inputs", inputs);
    json_object_set_new(o, "outputs", outputs);
    json_object_set_new(o, "blocks", pool_status(d));
    json_object_set_new(o, "end_to_end_latency_seconds", md_hist_json(&d->publisher.latency));
    if (d->config->state_dir)
        json_object_set_new(o, "snapshots", md_snapshots_json(&d->snapshots));
    if (d->config->generate.endpoint)
        json_object_set_new(o, "generate", texts_status(d));
    json_object_set_new(o, "reload", reload_status(d));
    set_int(o, "streams_forgotten_early_total", md_read(&d->publisher.forgotten));
    set_int(o, "notices_dropped_total", md_read(&d->publisher.notices_lost));
    pthread_mutex_unlock(&d->shape);
    return o;
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

struct listing {
    json_t *rows;
    const char *glob;
    unsigned left;
    int64_t now_ns;
};

static const char *state_of(struct io_stream *s)
{
    enum standing standing = standing_of(s);

    if (standing != OPEN)
        return standing == WAITS ? "waiting" : standing == BEGINS ? "warmup" : "ended";
    if (atomic_load_explicit(&s->seen.alarm, memory_order_relaxed))
        return "alarm";
    if (atomic_load_explicit(&s->seen.away, memory_order_relaxed))
        return "spilled";
    return atomic_load_explicit(&s->seen.warm, memory_order_relaxed) ? "active" : "warmup";
}

static bool list_stream(struct io_stream *s, void *arg)
{
    struct listing *l = arg;
    int64_t next = atomic_load_explicit(&s->seen.next, memory_order_relaxed);
    int64_t last = atomic_load_explicit(&s->seen.last_ns, memory_order_relaxed);
    double p = (double)atomic_load_explicit(&s->seen.p, memory_order_relaxed);
    uint32_t waiting;
    json_t *o;

    if (l->left == 0)
        return false;
    if (fnmatch(l->glob, s->id, 0) != 0)
        return true;
    l->left--;
    pthread_mutex_lock(&s->inbox->lock);
    waiting = s->queue.rows;
    pthread_mutex_unlock(&s->inbox->lock);
    o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:f}", "stream", s->id, "state", state_of(s), "input", s->input->conf->id,
                  "model", s->input->model, "channels", (int)s->channels, "rate", s->rate);
    set_int(o, "epoch", atomic_load_explicit(&s->seen.epoch, memory_order_relaxed));
    json_object_set_new(o, "next_seq", next == IO_SEQ_NONE ? json_null() : json_integer(next));
    set_int(o, "rows", md_read(&s->seen.rows));
    set_int(o, "discarded_rows", md_read(&s->seen.discarded));
    set_int(o, "queue_rows", waiting);
    json_object_set_new(o, "p_value", p >= 0 ? json_real(p) : json_null());
    json_object_set_new(o, "age_s", last ? json_real(1e-9 * (double)(l->now_ns - last)) : json_null());
    json_array_append_new(l->rows, o);
    return true;
}

json_t *md_daemon_streams(struct md_daemon *d, const char *glob, unsigned limit)
{
    struct listing l = {json_array(), glob && *glob ? glob : "*", limit, md_now_ns()};

    pthread_mutex_lock(&d->shape);
    md_registry_each(&d->registry, list_stream, &l);
    pthread_mutex_unlock(&d->shape);
    return l.rows;
}

/* ---- reset ------------------------------------------------------------------------------------------------------- */

struct resetting {
    const char *glob;
    uint64_t n;
};

static bool reset_stream(struct io_stream *s, void *arg)
{
    struct resetting *r = arg;

    if (fnmatch(r->glob, s->id, 0) == 0)
        r->n += md_inbox_reset(s->inbox, s);
    return true;
}

uint64_t md_daemon_reset(struct md_daemon *d, const char *glob)
{
    struct resetting r = {.glob = glob};

    pthread_mutex_lock(&d->shape);
    md_registry_each(&d->registry, reset_stream, &r);
    pthread_mutex_unlock(&d->shape);
    return r.n;
}

struct md_hist *md_daemon_latency(struct md_daemon *d)
{
    return &d->publisher.latency;
}

const struct io_host *md_daemon_host(const struct md_daemon *d)
{
    return &d->inputs[0]->host;
}
