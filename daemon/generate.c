/* generate.c: the generation service's thread: takes requests, hands texts to engines, sends their bytes as they come.
 *
 * A client that does not read holds up nobody: its messages stay in its texts' queues, which are bounded, their engine
 * goes on without them, and after a while they are given up. Trap: a send either fails at the first frame, which names
 * the client, or not at all; so nothing is sent in halves. */
#include "daemon/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/assembly.h"
#include "daemon/generate_request.h"
#include "daemon/generate_socket.h"

enum { FRAMES = 4, PEER_MAX = 255, TURN = 64, RETRY_MS = 20, FAREWELL_MS = 200, HEADER_MAX = 2048 };
static const int64_t stalled_ns = 30000000000; /* given up after so long without a message taken */

struct peer {
    uint8_t id[PEER_MAX];
    size_t n;
};

/* A text under way. */
struct writing {
    struct writing *next;
    struct peer peer;
    char *id; /* as JSON */
    struct md_text *text;
    const char *cut;    /* why it ends before its end; NULL: it does not */
    uint64_t sent;      /* bytes */
    int64_t blocked_ns; /* since when the client has taken nothing; 0: it does */
};

struct md_generate {
    struct md_daemon *daemon;
    const struct md_generate_conf *conf;
    struct md_generate_counters *counters;
    struct md_generate_socket socket;
    int stop; /* eventfd */
    struct writing *list;
    pthread_t thread;
    bool running;
};

/* ---- sending ----------------------------------------------------------------------------------------------------- */

/* 0; −EAGAIN: the client's queue is full; −EHOSTUNREACH: it is gone. */
static int send_to(struct md_generate *g, const struct peer *peer, const char *kind, const char *header,
                   const void *data, size_t n)
{
    if (zmq_send(g->socket.zmq.socket, peer->id, peer->n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return -errno;
    zmq_send(g->socket.zmq.socket, kind, strlen(kind), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(g->socket.zmq.socket, header, strlen(header), (data ? ZMQ_SNDMORE : 0) | ZMQ_DONTWAIT);
    if (data)
        zmq_send(g->socket.zmq.socket, data, n, ZMQ_DONTWAIT);
    return 0;
}

/* id: as JSON. */
static int send_error(struct md_generate *g, const struct peer *peer, const char *id, const char *why)
{
    json_t *message = json_string(why); /* NULL: it quotes what is no UTF-8 */
    char *text = json_dumps(message ? message : json_null(), JSON_ENCODE_ANY), *header = NULL;
    int rc = -ENOMEM;

    if (text && asprintf(&header, "{\"id\":%s,\"message\":%s}", id, text) >= 0)
        rc = send_to(g, peer, "error", header, NULL, 0);
    free(header);
    free(text);
    json_decref(message);
    return rc;
}

static void forget(struct md_generate *g, struct writing *w)
{
    struct writing **at;

    for (at = &g->list; *at != w; at = &(*at)->next)
        ;
    *at = w->next;
    md_text_drop(w->text);
    free(w->id);
    free(w);
    atomic_fetch_sub(&g->counters->running, 1);
}

static int send_data(struct md_generate *g, struct writing *w, const uint8_t *bytes, uint32_t n)
{
    char header[HEADER_MAX];
    int rc;

    snprintf(header, sizeof header, "{\"id\":%s,\"seq\":%llu}", w->id, (unsigned long long)w->sent);
    rc = send_to(g, &w->peer, "data", header, bytes, n);
    if (rc == 0) {
        md_text_consume(w->text, n);
        md_bump(&g->counters->bytes, n);
        w->sent += n;
    }
    return rc;
}

/* What the last message of a text says. */
static int send_end(struct md_generate *g, struct writing *w, const char *reason, const char *error)
{
    char header[HEADER_MAX];
    int rc;

    snprintf(header, sizeof header, "{\"id\":%s,\"reason\":\"%s\",\"bytes\":%llu}", w->id, reason ? reason : "",
             (unsigned long long)w->sent);
    rc = error ? send_error(g, &w->peer, w->id, error) : send_to(g, &w->peer, "end", header, NULL, 0);
    if (rc == 0)
        md_bump(error ? &g->counters->errors : &g->counters->ends, 1);
    return rc;
}

/* Sends what has come. The text is forgotten when its end is said, or cannot be. */
static void flush(struct md_generate *g, struct writing *w)
{
    uint8_t bytes[MD_TEXT_QUEUE];
    const char *reason, *error;
    uint32_t n = md_text_peek(w->text, bytes, &reason, &error);
    bool over = w->cut || reason || error;
    int64_t now = md_now_ns();
    int rc = 0;

    if (n > 0 && !w->cut)
        rc = send_data(g, w, bytes, n);
    if (rc == 0 && over)
        rc = send_end(g, w, w->cut ? w->cut : reason, w->cut ? NULL : error);
    w->blocked_ns = rc != -EAGAIN ? 0 : w->blocked_ns ? w->blocked_ns : now;
    if (rc == -EAGAIN && now - w->blocked_ns < stalled_ns)
        return;
    if (rc)
        md_bump(rc == -EAGAIN ? &g->counters->stalled : &g->counters->gone, 1);
    if (rc || over)
        forget(g, w);
}

/* Whether some client has to be tried again. */
static bool flush_all(struct md_generate *g)
{
    bool blocked = false;

    for (struct writing *w = g->list, *next; w; w = next) {
        next = w->next;
        flush(g, w);
    }
    for (struct writing *w = g->list; w; w = w->next)
        blocked |= w->blocked_ns != 0;
    return blocked;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static bool same_peer(const struct peer *a, const struct peer *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n) == 0;
}

static struct writing *find(struct md_generate *g, const struct peer *peer, const char *id)
{
    struct writing *w = g->list;

    while (w && !(same_peer(&w->peer, peer) && !strcmp(w->id, id)))
        w = w->next;
    return w;
}

static const char *over_limit(struct md_generate *g, const struct peer *peer, const char *id,
                              const struct md_generate_request *r, size_t prompt_n)
{
    uint32_t all = 0, its = 0;

    for (struct writing *w = g->list; w; w = w->next) {
        all++;
        its += same_peer(&w->peer, peer);
    }
    if (find(g, peer, id))
        return "id: there is a text of that id already";
    if (prompt_n > (size_t)g->conf->prompt)
        return "the prompt is longer than server.generate_prompt";
    if (r->n > (uint64_t)g->conf->bytes)
        return "n: is more than server.generate_bytes";
    if (its >= g->conf->per_client)
        return "as many texts are being written for this client as server.generate_per_client allows";
    return all < g->conf->requests ? NULL : "as many texts are being written as server.generate_requests allows";
}

static struct md_inbox *inbox_of(struct md_registry *r, const char *id)
{
    struct io_stream *s;
    struct md_inbox *inbox;

    pthread_mutex_lock(&r->lock);
    s = md_registry_find(r, id, (uint32_t)strlen(id));
    inbox = s ? s->inbox : NULL;
    pthread_mutex_unlock(&r->lock);
    return inbox;
}

/* The engine that is asked for: by the model's id, by the stream, or the only one there is. Under the daemon's `shape`.
 */
static struct md_scheduler *find_engine(struct md_daemon *d, const struct md_generate_request *r, const char **ret_why)
{
    struct md_inbox *inbox = r->stream ? inbox_of(&d->registry, r->stream) : NULL;
    struct md_scheduler *found = NULL;
    unsigned n = 0;

    for (unsigned i = 0; i < d->n_models; i++) {
        struct md_scheduler *s = &d->models[i]->scheduler;
        if (!d->models[i]->loaded.info.bytes || (r->model && strcmp(r->model, s->model)) ||
            (r->stream && inbox != &s->inbox))
            continue;
        found = s;
        n++;
    }
    *ret_why = r->stream  ? "stream: there is no such stream of a byte model, or of this one"
               : r->model ? "model: there is no byte model of that id"
               : n > 1    ? "model: has to be named: there are several byte models"
                          : "there is no byte model";
    return n == 1 ? found : NULL;
}

/* Without a prompt a text begins behind the stream's last byte, or behind a new line. */
static struct md_text *make_text(struct md_generate *g, const struct md_generate_request *r, const void *prompt,
                                 size_t prompt_n)
{
    uint8_t *own = malloc(prompt_n + 1);
    struct md_text *t = NULL;

    if (own) {
        memcpy(own, prompt, prompt_n);
        if (prompt_n == 0 && !r->stream)
            own[prompt_n++] = '\n';
        t = md_text_new(&r->how, r->n, own, prompt_n, r->stop, r->stream, g->daemon->texts_fd);
    }
    if (!t)
        free(own);
    return t;
}

/* The line for the client where it is not taken. */
static const char *begin(struct md_generate *g, const struct peer *peer, const char *id,
                         const struct md_generate_request *r, const void *prompt, size_t prompt_n)
{
    const char *why = over_limit(g, peer, id, r, prompt_n);
    struct md_scheduler *engine;
    struct writing *w;

    if (why)
        return why;
    w = calloc(1, sizeof *w);
    if (!w || !(w->id = strdup(id)) || !(w->text = make_text(g, r, prompt, prompt_n))) {
        free(w ? w->id : NULL);
        free(w);
        return "out of memory";
    }
    pthread_mutex_lock(&g->daemon->shape); /* a reload is over first */
    engine = find_engine(g->daemon, r, &why);
    if (engine)
        md_composer_add(engine, w->text);
    pthread_mutex_unlock(&g->daemon->shape);
    if (!engine) {
        md_text_drop(w->text);
        free(w->id);
        free(w);
        return why;
    }
    w->peer = *peer;
    w->next = g->list;
    g->list = w;
    atomic_fetch_add(&g->counters->running, 1);
    md_bump(&g->counters->requests, 1);
    return NULL;
}

static void refuse(struct md_generate *g, const struct peer *peer, const char *id, const char *why)
{
    md_bump(&g->counters->refused, 1);
    send_error(g, peer, id, why); /* a client that does not read is not waited for */
}

static void take_gen(struct md_generate *g, const struct peer *peer, zmq_msg_t *header, zmq_msg_t *prompt)
{
    struct md_generate_request r;
    char reterr[IO_ERR], *id;
    const char *why = reterr;
    int rc = md_generate_request_read(&r, zmq_msg_data(header), zmq_msg_size(header), reterr);

    id = r.id ? json_dumps(r.id, JSON_ENCODE_ANY) : NULL;
    if (rc == 0)
        why = id ? begin(g, peer, id, &r, zmq_msg_data(prompt), zmq_msg_size(prompt)) : "out of memory";
    if (why)
        refuse(g, peer, id ? id : "null", why);
    free(id);
    md_generate_request_done(&r);
}

static void take_cancel(struct md_generate *g, const struct peer *peer, zmq_msg_t *header)
{
    struct md_generate_request r;
    char reterr[IO_ERR], *id;
    int rc = md_generate_request_read_id(&r, zmq_msg_data(header), zmq_msg_size(header), reterr);
    struct writing *w;

    id = r.id ? json_dumps(r.id, JSON_ENCODE_ANY) : NULL;
    w = id ? find(g, peer, id) : NULL;
    if (w) {
        md_bump(&g->counters->cancels, 1);
        w->cut = "cancel";
        flush(g, w);
    } else {
        refuse(g, peer, id ? id : "null", rc ? reterr : "there is no text of that id");
    }
    free(id);
    md_generate_request_done(&r);
}

static bool is_word(zmq_msg_t *m, const char *word)
{
    return zmq_msg_size(m) == strlen(word) && memcmp(zmq_msg_data(m), word, strlen(word)) == 0;
}

/* frames[0] is who sent it. */
static void take_message(struct md_generate *g, zmq_msg_t *frames, unsigned n)
{
    struct peer peer = {.n = zmq_msg_size(&frames[0])};

    memcpy(peer.id, zmq_msg_data(&frames[0]), peer.n); /* at most 255 bytes, by ZMTP */
    if (n == 4 && is_word(&frames[1], "gen")) {
        take_gen(g, &peer, &frames[2], &frames[3]);
    } else if (n == 3 && is_word(&frames[1], "cancel")) {
        take_cancel(g, &peer, &frames[2]);
    } else {
        md_bump(&g->counters->malformed, 1);
        send_error(g, &peer, "null", "not a request: [\"gen\", header, prompt] or [\"cancel\", header]");
    }
}

/* False: there is none. Frames beyond what a request can have are counted only. */
static bool receive(struct md_generate *g)
{
    zmq_msg_t frames[FRAMES + 1];
    unsigned n = 0;
    bool more = true, whole;

    for (unsigned i = 0; i <= FRAMES; i++)
        zmq_msg_init(&frames[i]);
    while (more && zmq_msg_recv(&frames[n < FRAMES ? n : FRAMES], g->socket.zmq.socket, ZMQ_DONTWAIT) >= 0) {
        more = zmq_msg_more(&frames[n < FRAMES ? n : FRAMES]);
        n++;
    }
    whole = n > 0 && !more;
    if (whole)
        take_message(g, frames, n);
    for (unsigned i = 0; i <= FRAMES; i++)
        zmq_msg_close(&frames[i]);
    return whole;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void end_all(struct md_generate *g)
{
    int64_t until = md_now_ns() + FAREWELL_MS * INT64_C(1000000);

    for (struct writing *w = g->list; w; w = w->next)
        w->cut = "shutdown";
    while (flush_all(g) && md_now_ns() < until)
        zmq_poll(NULL, 0, 1);
    while (g->list) {
        md_bump(&g->counters->stalled, 1);
        forget(g, g->list);
    }
}

static void *run(void *arg)
{
    struct md_generate *g = arg;
    zmq_pollitem_t items[] = {{.socket = g->socket.zmq.socket, .events = ZMQ_POLLIN},
                              {.fd = g->stop, .events = ZMQ_POLLIN},
                              {.fd = g->daemon->texts_fd, .events = ZMQ_POLLIN}};
    bool blocked = false;

    while (!items[1].revents) {
        if (zmq_poll(items, 3, blocked ? RETRY_MS : -1) < 0 && errno != EINTR)
            break;
        if (items[2].revents)
            (void)!read(g->daemon->texts_fd, &(uint64_t){0}, sizeof(uint64_t));
        for (unsigned i = 0; i < TURN && receive(g); i++)
            ;
        blocked = flush_all(g);
    }
    end_all(g);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int start(struct md_generate *g, char *reterr)
{
    int rc = md_generate_socket_open(&g->socket, g->conf, &g->counters->door, reterr);

    if (rc)
        return rc;
    g->stop = eventfd(0, EFD_CLOEXEC);
    rc = g->stop < 0 ? -errno : -pthread_create(&g->thread, NULL, run, g);
    g->running = rc == 0;
    if (g->running)
        pthread_setname_np(g->thread, "generate");
    else
        snprintf(reterr, IO_ERR, "generation service: %s", strerror(-rc));
    return rc;
}

int md_generate_open(struct md_daemon *d, struct md_generate **ret, char *reterr)
{
    struct md_generate *g = calloc(1, sizeof *g);
    int rc;

    if (!g) {
        snprintf(reterr, IO_ERR, "out of memory");
        return -ENOMEM;
    }
    g->daemon = d;
    g->conf = &d->config->generate;
    g->counters = &d->texts;
    g->stop = -1;
    rc = start(g, reterr);
    if (rc) {
        md_generate_close(&g);
        return rc;
    }
    *ret = g;
    return 0;
}

void md_generate_close(struct md_generate **generate)
{
    struct md_generate *g = *generate;

    *generate = NULL;
    if (!g)
        return;
    if (g->running) {
        eventfd_write(g->stop, 1);
        pthread_join(g->thread, NULL);
    }
    md_generate_socket_close(&g->socket, FAREWELL_MS * INT64_C(1000000));
    if (g->stop >= 0)
        close(g->stop);
    free(g);
}
