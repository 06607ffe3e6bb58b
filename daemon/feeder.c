/* feeder.c: see feeder.h. The thread owns its sources' turns and its sinks' writes; it never waits for a stream's queue
 * (a source that is held back returns and is woken). */
#include "daemon/feeder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>

int md_feeder_init(struct md_feeder *f, unsigned n_inputs, unsigned n_outputs)
{
    f->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (f->wake_fd < 0)
        return -errno;
    sem_init(&f->opened, 0, 0);
    sem_init(&f->go, 0, 0);
    sem_init(&f->muted, 0, 0);
    f->inputs = calloc(n_inputs + 1, sizeof(struct md_input *));
    f->outputs = calloc(n_outputs + 1, sizeof(struct md_output *));
    f->wake_ns = calloc(n_inputs + 1, sizeof *f->wake_ns);
    f->naps = calloc(n_inputs + 1, sizeof *f->naps);
    f->polls = calloc(n_inputs + 1, sizeof *f->polls);
    if (f->inputs && f->outputs && f->wake_ns && f->naps && f->polls)
        return 0;
    md_feeder_done(f);
    return -ENOMEM;
}

void md_feeder_done(struct md_feeder *f)
{
    free(f->inputs);
    free(f->outputs);
    free(f->wake_ns);
    free(f->naps);
    free(f->polls);
    sem_destroy(&f->opened);
    sem_destroy(&f->go);
    sem_destroy(&f->muted);
    close(f->wake_fd);
}

/* ---- opening and closing, on the thread that uses them ----------------------------------------------------------- */

static int input_code(const struct io_source_class *c, int err)
{
    switch (err) {
    case -ENOENT: /* of a socket: the folder of its path */
        return c->replayable ? EX_NOINPUT : EX_UNAVAILABLE;
    case -EBADMSG:
    case -EINVAL:
    case -EISDIR:
        return EX_DATAERR;
    case -EKEYREJECTED:
        return EX_CONFIG;
    case -EACCES:
        return c->replayable ? EX_DATAERR : EX_UNAVAILABLE;
    case -EADDRINUSE:
    case -EADDRNOTAVAIL:
    case -ENODEV:
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE:
        return EX_UNAVAILABLE;
    default:
        return EX_IOERR;
    }
}

static void name_failure(struct md_feeder *f, int code, const char *kind, const char *id, const char *text, int err)
{
    f->failed = code;
    snprintf(f->reterr, sizeof f->reterr, "%s %s: %.400s", kind, id, *text ? text : strerror(-err));
}

static void open_all(struct md_feeder *f)
{
    char text[IO_ERR] = "";

    for (unsigned i = 0; i < f->n_outputs && !f->failed; i++) {
        int r = f->outputs[i]->sink ? 0 : md_output_open(f->outputs[i], text);
        if (r)
            name_failure(f, md_output_code(f->outputs[i], r), "output", f->outputs[i]->conf->id, text, r);
    }
    for (unsigned i = 0; i < f->n_inputs && !f->failed; i++) {
        struct md_input *in = f->inputs[i];
        int r = in->source ? 0 : in->conf->class_->open(in->conf->conf, &in->host, &in->source, text);
        if (r)
            name_failure(f, input_code(in->conf->class_, r), "input", in->conf->id, text, r);
    }
}

static void close_all(struct md_feeder *f)
{
    for (unsigned i = 0; i < f->n_inputs; i++) {
        if (f->inputs[i]->source)
            f->inputs[i]->conf->class_->close(f->inputs[i]->source);
        f->inputs[i]->source = NULL;
    }
    for (unsigned i = 0; i < f->n_outputs; i++)
        md_output_close(f->outputs[i], f->linger_ns);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

enum { DENSE = 4 };

/* Where messages come one by one, a wake-up for each costs several times what the message does. So once wake-ups have
 * been dense, nap follows nap until one brings nothing. A burst alone is read as it comes, while it is in the cache. */
static void rest(struct md_feeder *f, unsigned i, int64_t wake_ns, bool brought)
{
    const struct md_input *in = f->inputs[i];
    struct md_nap *nap = &f->naps[i];
    int64_t now = md_now_ns();

    f->wake_ns[i] = wake_ns;
    if (brought && f->nap_ns > 0 && nap->dense >= DENSE) {
        f->polls[i].fd = -1;
        f->wake_ns[i] = now + f->nap_ns < wake_ns ? now + f->nap_ns : wake_ns;
        nap->from_ns = now;
        return;
    }
    if (f->polls[i].fd < 0 && in->conf->class_->fd)
        f->polls[i].fd = in->conf->class_->fd(in->source);
    nap->dense = nap->from_ns ? 0 : nap->dense;
    nap->from_ns = 0;
    nap->awake_ns = now;
}

/* What came during a nap may have come at its beginning, and counts as arrived then: naps are part of latencies, and of
 * `max_delay`. */
static void turn(struct md_feeder *f, unsigned i, int64_t now)
{
    struct md_input *in = f->inputs[i];
    struct md_nap *nap = &f->naps[i];
    uint64_t had = atomic_load_explicit(&in->counters.messages, memory_order_relaxed);
    int64_t wake = INT64_MAX, since = nap->from_ns ? nap->from_ns : now;

    if (!nap->from_ns)
        nap->dense = now - nap->awake_ns < f->nap_ns ? nap->dense + 1 : 0;
    switch (in->conf->class_->turn(in->source, since, &wake)) {
    case IO_TURN_MORE:
        f->wake_ns[i] = nap->from_ns = nap->awake_ns = 0; /* its next turn is no wake-up */
        break;
    case IO_TURN_WAIT:
        rest(f, i, wake, atomic_load_explicit(&in->counters.messages, memory_order_relaxed) != had);
        break;
    case IO_TURN_DONE:
        f->wake_ns[i] = INT64_MAX;
        atomic_store(&in->done, true);
        if (in->finite && atomic_fetch_sub(f->finite_left, 1) == 1)
            f->finished(f->arg);
        break;
    }
}

/* One turn for every source that is due. Returns when the next is: 0 for at once. */
static int64_t turns(struct md_feeder *f)
{
    int64_t now = md_now_ns(), due = INT64_MAX;

    if (atomic_load_explicit(&f->mute, memory_order_relaxed)) {
        for (unsigned i = 0; i < f->n_inputs; i++)
            f->polls[i].fd = -1;
        if (!f->ack)
            sem_post(&f->muted);
        f->ack = true;
        return INT64_MAX;
    }
    for (unsigned i = 0; i < f->n_inputs; i++) {
        struct md_input *in = f->inputs[i];
        bool room = atomic_exchange_explicit(&in->room, false, memory_order_acquire);
        if (atomic_load_explicit(&in->done, memory_order_relaxed))
            continue;
        if (room || f->polls[i].revents || f->wake_ns[i] <= now)
            turn(f, i, now);
        f->polls[i].revents = 0;
        due = f->wake_ns[i] < due ? f->wake_ns[i] : due;
    }
    return due;
}

static void wait_until(struct md_feeder *f, int64_t due)
{
    struct pollfd *bell = &f->polls[f->n_inputs];
    struct timespec t = {0};
    int64_t left;

    for (unsigned i = 0; i < f->n_outputs; i++) {
        int64_t flush = md_output_flush_due(f->outputs[i]);
        due = flush < due ? flush : due;
    }
    left = due == INT64_MAX ? INT64_MAX : due - md_now_ns();
    if (left > 0)
        t = (struct timespec){left / 1000000000, left % 1000000000};
    if (ppoll(f->polls, f->n_inputs + 1, due == INT64_MAX ? NULL : &t, NULL) > 0 && bell->revents)
        (void)!read(f->wake_fd, &(uint64_t){0}, sizeof(uint64_t));
}

static void serve_until_quit(struct md_feeder *f)
{
    for (unsigned i = 0; i < f->n_inputs; i++) {
        const struct io_source_class *c = f->inputs[i]->conf->class_;
        f->polls[i] = (struct pollfd){c->fd ? c->fd(f->inputs[i]->source) : -1, POLLIN, 0};
    }
    f->polls[f->n_inputs] = (struct pollfd){f->wake_fd, POLLIN, 0};
    for (;;) {
        bool quit = atomic_load(&f->quit), served = false;
        int64_t due = quit ? 0 : turns(f);
        for (unsigned i = 0; i < f->n_outputs; i++)
            served |= md_output_serve(f->outputs[i]);
        if (quit && !served)
            return;
        if (served)
            due = 0;
        if (!quit && (due > 0 || f->n_inputs > 1))
            wait_until(f, due);
    }
}

static void *run(void *arg)
{
    struct md_feeder *f = arg;

    open_all(f);
    sem_post(&f->opened);
    while (sem_wait(&f->go))
        continue;
    if (!f->failed)
        serve_until_quit(f);
    if (!f->keep)
        close_all(f);
    return NULL;
}

int md_feeder_open(struct md_feeder *f)
{
    int r = pthread_create(&f->thread, NULL, run, f);

    if (r) {
        f->failed = EX_UNAVAILABLE;
        snprintf(f->reterr, sizeof f->reterr, "cannot start a thread: %s", strerror(r));
        return f->failed;
    }
    f->running = true;
    pthread_setname_np(f->thread, f->group ? f->group : f->n_outputs ? "sink" : "source");
    while (sem_wait(&f->opened))
        continue;
    return f->failed;
}

void md_feeder_go(struct md_feeder *f)
{
    sem_post(&f->go);
}

static void wake(struct md_feeder *f)
{
    (void)!write(f->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

bool md_feeder_mute(struct md_feeder *f, int64_t deadline_ns)
{
    struct timespec until = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    int r;

    if (!f->running || f->failed || f->silent)
        return true;
    atomic_store(&f->mute, true);
    wake(f);
    do
        r = sem_clockwait(&f->muted, CLOCK_MONOTONIC, &until);
    while (r && errno == EINTR);
    f->silent = r == 0;
    return f->silent;
}

void md_feeder_quit(struct md_feeder *f, int64_t linger_ns)
{
    f->linger_ns = linger_ns;
    atomic_store(&f->quit, true);
    wake(f);
}

void md_feeder_join(struct md_feeder *f)
{
    if (f->running)
        pthread_join(f->thread, NULL);
    f->running = false;
}
