/* snapshot.c: asks for a cut, writes what comes of it, commits. One thread, which sleeps in between. Trap: a request
 * that comes while a snapshot is being made wants a later one: it is answered by the next. */
#include "daemon/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/assembly.h"

enum { YIELDING = 10 }; /* nice */

static void marked(void *arg)
{
    struct md_snapshot_cut *c = arg;

    pthread_mutex_lock(&c->lock);
    c->outputs_left--;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* A daemon that was just killed holds its folder until the kernel has taken back its memory. */
static bool lock_soon(int fd)
{
    int tries = 20;

    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK || --tries == 0)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return true;
}

int md_snapshots_lock(struct md_snapshots *s, const char *dir, char *reterr)
{
    char path[4200];

    if (mkdir(dir, 0700) && errno != EEXIST) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "%.400s: cannot be made: %s", dir, strerror(errno));
        return -errno;
    }
    snprintf(path, sizeof path, "%.4090s/lock", dir);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd >= 0 && lock_soon(s->lock_fd))
        return 0;
    snprintf(reterr, MD_SNAPSHOT_ERR, "%.400s: %s", path,
             s->lock_fd >= 0 && errno == EWOULDBLOCK ? "another daemon has this folder" : strerror(errno));
    return -errno;
}

int md_snapshots_init(struct md_snapshots *s, struct md_daemon *d, char *reterr)
{
    pthread_condattr_t clock;

    s->writer = calloc(1, sizeof *s->writer);
    if (!s->writer) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "out of memory");
        return -ENOMEM;
    }
    s->d = d;
    s->generation = d->restored.head.generation;
    md_cut_init(&s->cut);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &clock);
    pthread_condattr_destroy(&clock);
    return 0;
}

void md_snapshots_attach(struct md_snapshots *s, struct md_output *o)
{
    if (!s->d)
        return;
    o->on_mark = marked;
    o->on_mark_arg = &s->cut;
}

void md_snapshots_done(struct md_snapshots *s)
{
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    s->lock_fd = -1;
    if (!s->d)
        return;
    md_cut_done(&s->cut);
    free(s->writer);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    s->d = NULL;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static int begin(struct md_snapshots *s, bool clean, char *reterr)
{
    struct md_daemon *d = s->d;
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    const struct md_snapshot_head head = {
        .run = d->run,
        .generation = s->generation + 1,
        .t_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec,
        .clean = clean,
    };
    return md_snapshot_begin(s->writer, d->config->state_dir, &head, reterr);
}

static int append_one(struct md_snapshots *s, enum md_record_kind kind, const char *id, const void *data, size_t bytes,
                      char *reterr)
{
    uint32_t id_len = (uint32_t)strlen(id);
    size_t whole = md_record_bytes(id_len, bytes);
    void *record = malloc(whole);
    int r;

    if (!record) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "out of memory");
        return -ENOMEM;
    }
    md_record_write(record, kind, id, id_len, data, bytes);
    r = md_snapshot_append(s->writer, record, whole, 1, reterr);
    free(record);
    return r;
}

static int append_models(struct md_snapshots *s, char *reterr)
{
    struct md_daemon *d = s->d;
    int r = 0;

    for (unsigned i = 0; i < d->n_models && r == 0; i++)
        r = append_one(s, MD_RECORD_MODEL, d->config->models[i].id, &d->models[i]->loaded.hash,
                       sizeof d->models[i]->loaded.hash, reterr);
    return r;
}

static int append_outputs(struct md_snapshots *s, char *reterr)
{
    struct md_daemon *d = s->d;
    int r = 0;

    for (unsigned i = 0; i < d->n_outputs && r == 0; i++) {
        struct md_output *o = d->outputs[i];
        if (!o->conf->class_->mark)
            continue;
        r = o->marked;
        if (r)
            snprintf(reterr, MD_SNAPSHOT_ERR, "output %.200s cannot say what it holds: %s", o->conf->id, strerror(-r));
        else
            r = append_one(s, MD_RECORD_OUTPUT, o->conf->id, &o->position, sizeof o->position, reterr);
    }
    return r;
}

struct voices {
    uint8_t *records;
    size_t bytes, cap;
    uint64_t n;
    uint32_t number;
    bool failed;
};

/* Of the streams that the cut has a record of; under the registry's lock, so to memory only. */
static bool add_voice(struct io_stream *s, void *arg)
{
    struct voices *v = arg;
    uint32_t id_len = (uint32_t)strlen(s->id);
    size_t need = md_record_bytes(id_len, sizeof s->cut_voice);

    if (s->course.cut != v->number)
        return true;
    if (v->bytes + need > v->cap) {
        size_t cap = 2 * v->cap + need + 4096;
        uint8_t *grown = realloc(v->records, cap);
        v->failed = !grown;
        if (!grown)
            return false;
        v->records = grown;
        v->cap = cap;
    }
    md_record_write(v->records + v->bytes, MD_RECORD_VOICE, s->id, id_len, &s->cut_voice, sizeof s->cut_voice);
    v->bytes += need;
    v->n++;
    return true;
}

static int append_voices(struct md_snapshots *s, char *reterr)
{
    struct voices v = {.number = s->number};
    int r = 0;

    md_registry_each(&s->d->registry, add_voice, &v);
    if (v.failed) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "out of memory");
        r = -ENOMEM;
    }
    if (r == 0 && v.n)
        r = md_snapshot_append(s->writer, v.records, v.bytes, v.n, reterr);
    free(v.records);
    md_add(&s->d->snapshot_counters.streams, v.n - md_read(&s->d->snapshot_counters.streams));
    return r;
}

static int write_piece(struct md_snapshots *s, struct md_piece *p, char *reterr)
{
    int r = md_piece_fill(p);

    if (r) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "a stream's state on the disk cannot be read: %s", strerror(-r));
        return r;
    }
    return md_snapshot_append(s->writer, p->records, p->bytes, 1, reterr);
}

/* Writes pieces until nothing is left to wait for. */
static int write_pieces(struct md_snapshots *s, int r, char *reterr)
{
    struct md_snapshot_cut *c = &s->cut;
    bool rested = false;

    pthread_mutex_lock(&c->lock);
    while (c->first || c->engines_left || !rested || !c->voiced || c->outputs_left > 0) {
        struct md_piece *p = c->first;
        if (!p && (c->engines_left || (rested && (!c->voiced || c->outputs_left > 0)))) {
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        if (p) {
            c->first = p->next;
            if (!c->first)
                c->last = &c->first;
            c->waiting -= p->bytes;
        }
        pthread_mutex_unlock(&c->lock);
        if (p && r == 0) /* after a failure the rest is only taken out of the way */
            r = write_piece(s, p, reterr);
        md_piece_free(p);
        if (!p) {
            md_cut_rest(c, &s->d->registry, s->number);
            rested = true;
        }
        pthread_mutex_lock(&c->lock);
    }
    if (c->failed && r == 0) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "out of memory, or a device that failed");
        r = -ENOMEM;
    }
    pthread_mutex_unlock(&c->lock);
    return r;
}

/* What the file that is on the disk now has of the stream, its sender need not keep. */
static bool made_durable(struct io_stream *s, void *arg)
{
    const struct md_snapshots *of = arg;

    if (s->course.cut == of->number && s->place.cut != IO_SEQ_NONE) {
        atomic_store_explicit(&s->place.durable, s->place.cut, memory_order_relaxed);
        s->place.durable_end = s->place.cut_end;
    }
    return true;
}

/* From when a device has failed, rows have no results: what a snapshot would take as done is to be done again. The cut
 * is complete, so an engine that met the failure before it has said so. */
static int check_devices(const struct md_snapshots *s, char *reterr)
{
    const struct md_daemon *d = s->d;

    for (unsigned i = 0; i < d->n_models; i++)
        if (atomic_load(&d->models[i]->scheduler.failed)) {
            snprintf(reterr, MD_SNAPSHOT_ERR, "the device of model %.200s failed", d->config->models[i].id);
            return -EIO;
        }
    return 0;
}

static int finish(struct md_snapshots *s, int r, char *reterr)
{
    if (r == 0)
        r = check_devices(s, reterr);
    if (r == 0)
        r = append_voices(s, reterr);
    if (r == 0)
        r = append_outputs(s, reterr);
    if (r == 0)
        r = md_snapshot_commit(s->writer, s->d->config->state_keep, reterr);
    if (r) {
        md_snapshot_abandon(s->writer);
        return r;
    }
    s->generation++;
    md_registry_each(&s->d->registry, made_durable, s);
    return 0;
}

/* ---- a cut ------------------------------------------------------------------------------------------------------ */

/* A new number, and what is waited for. */
static void open_cut(struct md_snapshots *s, unsigned engines)
{
    struct md_snapshot_cut *c = &s->cut;

    s->number++;
    pthread_mutex_lock(&c->lock);
    c->engines_left = engines;
    c->outputs_left = 0;
    c->voiced = c->failed = false;
    pthread_mutex_unlock(&c->lock);
    atomic_store(&c->under_way, true);
    atomic_store(&c->open, s->number);
}

/* False: the engines are ending. */
static bool ask_engines(struct md_snapshots *s)
{
    pthread_mutex_lock(&s->lock);
    bool drained = s->drained;
    if (!drained) {
        open_cut(s, s->d->n_models);
        for (unsigned i = 0; i < s->d->n_models; i++)
            md_inbox_cut(&s->d->models[i]->scheduler.inbox, s->number);
    }
    pthread_mutex_unlock(&s->lock);
    return !drained;
}

static void account(struct md_snapshots *s, int r, int64_t begun)
{
    struct md_snapshot_counters *c = &s->d->snapshot_counters;

    md_bump(r ? &c->failed : &c->written, 1);
    if (r)
        return;
    atomic_store(&c->taken_ns, begun);
    md_add(&c->bytes, s->writer->at - md_read(&c->bytes));
    md_hist_add(&c->seconds, (uint64_t)(md_now_ns() - begun));
}

/* That the engines will copy, with some more for what stands around them. */
static size_t bytes_of_slots(struct md_daemon *d)
{
    enum { AROUND = 1024 };
    size_t bytes = 0;

    for (unsigned i = 0; i < d->n_models; i++) {
        struct md_scheduler *sch = &d->models[i]->scheduler;
        bytes += atomic_load_explicit(&sch->slots_used, memory_order_relaxed) * (ssm_slot_bytes(sch->engine) + AROUND);
    }
    return bytes;
}

static int take(struct md_snapshots *s, char *reterr)
{
    int64_t begun = md_now_ns();
    int r = check_devices(s, reterr);

    if (r == 0)
        r = begin(s, false, reterr);
    if (r == 0)
        r = append_models(s, reterr);
    md_cut_provide(&s->cut, bytes_of_slots(s->d));
    if (r || !ask_engines(s)) {
        md_snapshot_abandon(s->writer);
        if (r == 0) {
            snprintf(reterr, MD_SNAPSHOT_ERR, "the daemon is ending, with a snapshot of its own");
            return -ECANCELED;
        }
    } else {
        r = finish(s, write_pieces(s, r, reterr), reterr);
        atomic_store(&s->cut.under_way, false);
    }
    account(s, r, begun);
    return r;
}

struct last {
    struct md_snapshots *s;
    char *reterr;
    int r;
};

/* One after the other: all of them at once would need the memory of all slots again. */
static bool write_stream(struct io_stream *s, void *arg)
{
    struct last *last = arg;
    struct md_scheduler *sch = &md_served_of(s->inbox)->scheduler;
    struct md_piece *p;

    if (!md_course_is_open(&s->course) && !s->course.returning)
        return true;
    s->course.cut = last->s->number;
    s->cut_voice = s->voice;
    p = md_cut_save(sch, sch->model, s, NULL);
    if (!p) {
        snprintf(last->reterr, MD_SNAPSHOT_ERR, "out of memory, or a device that failed");
        last->r = -ENOMEM;
        return false;
    }
    last->r = write_piece(last->s, p, last->reterr);
    md_piece_free(p);
    return last->r == 0;
}

static bool has_nothing_waiting(struct io_stream *s, void *arg)
{
    bool *waiting = arg;

    *waiting |= s->queue.head || s->course.mine || s->course.held;
    return !*waiting;
}

int md_snapshots_first(struct md_snapshots *s, char *reterr)
{
    int r;

    if (!s->d || s->d->restored.map)
        return 0;
    r = begin(s, true, reterr);
    if (r == 0)
        r = append_models(s, reterr);
    return finish(s, r, reterr);
}

int md_snapshots_last(struct md_snapshots *s, char *reterr)
{
    int64_t begun = md_now_ns();
    struct last last = {s, reterr, 0};
    bool waiting = false;
    int marks = 0;

    if (!s->d)
        return 0;
    md_registry_each(&s->d->registry, has_nothing_waiting, &waiting); /* a live input may have gone on to the end */
    last.r = begin(s, !waiting, reterr);
    if (last.r == 0)
        last.r = append_models(s, reterr);
    open_cut(s, 0);
    for (unsigned i = 0; i < s->d->n_outputs; i++)
        marks += md_output_mark(s->d->outputs[i]);
    if (last.r == 0)
        md_registry_each(&s->d->registry, write_stream, &last);
    pthread_mutex_lock(&s->cut.lock);
    s->cut.outputs_left += marks;
    s->cut.voiced = true;
    pthread_mutex_unlock(&s->cut.lock);
    int r = finish(s, write_pieces(s, last.r, reterr), reterr);
    account(s, r, begun);
    return r;
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct md_snapshots *s = arg;
    int64_t due = md_add_sat(md_now_ns(), s->d->config->state_interval_ns);

    setpriority(PRIO_PROCESS, 0, YIELDING); /* of this thread: streams come first */
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        struct timespec until = {due / 1000000000, due % 1000000000};
        char text[MD_SNAPSHOT_ERR] = "";
        if (!s->asked && md_now_ns() < due) {
            pthread_cond_timedwait(&s->wake, &s->lock, &until);
            continue;
        }
        uint64_t answered = s->asked_n;
        s->asked = false;
        pthread_mutex_unlock(&s->lock);
        int r = take(s, text);
        if (r && r != -ECANCELED)
            md_log(MD_ERROR, NULL, "no snapshot: %s; the one before stays", text);
        due = md_add_sat(md_now_ns(), s->d->config->state_interval_ns);
        pthread_mutex_lock(&s->lock);
        memcpy(s->text, text, sizeof s->text);
        s->answered = answered;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int md_snapshots_start(struct md_snapshots *s)
{
    s->ending = s->drained = false;
    int r = s->d ? -pthread_create(&s->thread, NULL, run, s) : 0;

    s->running = s->d && r == 0;
    if (s->running)
        pthread_setname_np(s->thread, "snapshot");
    return r;
}

uint64_t md_snapshots_ask(struct md_snapshots *s)
{
    uint64_t mine;

    if (!s->running)
        return 0;
    pthread_mutex_lock(&s->lock);
    mine = ++s->asked_n;
    s->asked = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    return mine;
}

void md_snapshots_drained(struct md_snapshots *s)
{
    if (!s->d)
        return;
    pthread_mutex_lock(&s->lock);
    s->drained = true;
    pthread_mutex_unlock(&s->lock);
}

void md_snapshots_stop(struct md_snapshots *s)
{
    if (!s->running)
        return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->running = false;
}

json_t *md_snapshots_json(struct md_snapshots *s)
{
    struct md_snapshot_counters *c;
    int64_t taken;
    json_t *o;

    if (!s->d)
        return NULL;
    c = &s->d->snapshot_counters;
    taken = atomic_load(&c->taken_ns);
    pthread_mutex_lock(&s->lock);
    o = json_pack("{s:I, s:s}", "answered", (json_int_t)s->answered, "error", s->text);
    pthread_mutex_unlock(&s->lock);
    json_object_set_new(o, "written_total", json_integer((json_int_t)md_read(&c->written)));
    json_object_set_new(o, "failed_total", json_integer((json_int_t)md_read(&c->failed)));
    json_object_set_new(o, "corrupt_total", json_integer((json_int_t)md_read(&c->corrupt)));
    json_object_set_new(o, "bytes", json_integer((json_int_t)md_read(&c->bytes)));
    json_object_set_new(o, "streams", json_integer((json_int_t)md_read(&c->streams)));
    json_object_set_new(o, "age_seconds", taken ? json_real(1e-9 * (double)(md_now_ns() - taken)) : json_null());
    json_object_set_new(o, "duration_seconds", md_hist_json(&c->seconds));
    return o;
}
