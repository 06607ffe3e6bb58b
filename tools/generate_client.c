/* generate_client.c: `mambactl generate --connect`: a text from a daemon's generation service (docs/protocol.md §6).
 * What standard output does not take yet is not read either: then the daemon waits. Trap: libzmq connects again without
 * a word to a daemon that has died, and the text would never end; so the socket is watched. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <zmq.h>

#include "tools/generate.h"

enum { CONNECT_MS = 5000, POLL_MS = 200, FRAMES = 3, REASON = 32 };

struct client {
    const char *endpoint;
    void *context, *socket, *monitor;
};

static int complain(int code, const char *what, const char *why)
{
    fprintf(stderr, "mambactl generate: %s: %s\n", what, why);
    return code;
}

static int connect_to(struct client *c)
{
    static const char watch[] = "inproc://watch";
    int one = 1, zero = 0, wait = CONNECT_MS;
    c->context = zmq_ctx_new();
    c->socket = zmq_socket(c->context, ZMQ_DEALER);
    c->monitor = zmq_socket(c->context, ZMQ_PAIR);
    zmq_setsockopt(c->socket, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(c->socket, ZMQ_IMMEDIATE, &one, sizeof one); /* a send then waits for the daemon */
    zmq_setsockopt(c->socket, ZMQ_SNDTIMEO, &wait, sizeof wait);
    if (zmq_socket_monitor(c->socket, watch, ZMQ_EVENT_DISCONNECTED) || zmq_connect(c->monitor, watch) ||
        zmq_connect(c->socket, c->endpoint))
        return complain(EX_UNAVAILABLE, c->endpoint, zmq_strerror(errno));
    return EX_OK;
}

static void disconnect(struct client *c)
{
    zmq_close(c->monitor);
    zmq_close(c->socket);
    zmq_ctx_term(c->context);
}

/* 0.7, not the many digits of its nearest float. */
static json_t *number(float f)
{
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)f);
    return json_real(strtod(text, NULL));
}

/* NULL: a string is no UTF-8. */
static char *header_of(const struct generate_options *o)
{
    const struct md_sampling *how = &o->how;
    json_t *h =
        json_pack("{s:i, s:I, s:o, s:i, s:o, s:o, s:o, s:I, s:s*, s:s*, s:s*}", "id", 1, "n", (json_int_t)o->bytes,
                  "temperature", number(how->temperature), "top_k", (int)how->top_k, "top_p", number(how->top_p),
                  "min_p", number(how->min_p), "repetition_penalty", number(how->repetition_penalty), "seed",
                  (json_int_t)how->seed, "stop", o->stop, "model", o->model.dir, "stream", o->stream);
    char *text = h ? json_dumps(h, JSON_COMPACT) : NULL;
    json_decref(h);
    return text;
}

static int ask(struct client *c, const struct generate_options *o, const uint8_t *prompt, size_t n)
{
    char *header = header_of(o);
    if (!header)
        return complain(EX_USAGE, "--stop, --stream or -m", "no UTF-8");
    bool sent = zmq_send(c->socket, "gen", 3, ZMQ_SNDMORE) >= 0 &&
                zmq_send(c->socket, header, strlen(header), ZMQ_SNDMORE) >= 0 && zmq_send(c->socket, prompt, n, 0) >= 0;
    free(header);
    if (sent)
        return EX_OK;
    return complain(EX_UNAVAILABLE, c->endpoint, errno == EAGAIN ? "nobody answers" : zmq_strerror(errno));
}

static bool is_word(zmq_msg_t *m, const char *word)
{
    return zmq_msg_size(m) == strlen(word) && memcmp(zmq_msg_data(m), word, strlen(word)) == 0;
}

/* The whole message; of frames beyond FRAMES the last stays. Returns how many there were. */
static unsigned receive(struct client *c, zmq_msg_t frames[FRAMES])
{
    unsigned n = 0;
    bool more = true;
    while (more) {
        zmq_msg_t *frame = &frames[n < FRAMES ? n : FRAMES - 1];
        more = zmq_msg_recv(frame, c->socket, 0) >= 0 && zmq_msg_more(frame);
        n++;
    }
    return n;
}

static int take_end(struct client *c, zmq_msg_t *header, char *ret_reason)
{
    json_t *h = json_loadb(zmq_msg_data(header), zmq_msg_size(header), 0, NULL);
    const char *reason = json_string_value(json_object_get(h, "reason"));
    const char *message = json_string_value(json_object_get(h, "message"));
    int code = EX_OK;
    if (reason)
        snprintf(ret_reason, REASON, "%s", reason);
    else
        code = complain(EX_UNAVAILABLE, c->endpoint, message ? message : "this is no generation service");
    json_decref(h);
    return code;
}

/* −1: the text goes on; else an exit code. */
static int take(struct client *c, void (*put)(void *ctx, uint8_t byte), void *ctx, char *ret_reason)
{
    zmq_msg_t frames[FRAMES];
    int code = -1;
    for (unsigned i = 0; i < FRAMES; i++)
        zmq_msg_init(&frames[i]);
    bool data = receive(c, frames) == 3 && is_word(&frames[0], "data");
    const uint8_t *bytes = zmq_msg_data(&frames[2]);
    for (size_t i = 0; data && i < zmq_msg_size(&frames[2]); i++)
        put(ctx, bytes[i]);
    if (!data)
        code = take_end(c, &frames[1], ret_reason);
    for (unsigned i = 0; i < FRAMES; i++)
        zmq_msg_close(&frames[i]);
    return code;
}

static int follow(struct client *c, void (*put)(void *ctx, uint8_t byte), void *ctx, bool (*is_over)(void),
                  char *ret_reason)
{
    zmq_pollitem_t items[] = {{.socket = c->socket, .events = ZMQ_POLLIN},
                              {.socket = c->monitor, .events = ZMQ_POLLIN}};
    bool cancelled = false;
    int code = -1;
    while (code < 0) {
        items[0].revents = items[1].revents = 0;
        zmq_poll(items, 2, POLL_MS); /* a signal may come just before it */
        if (!cancelled && is_over()) {
            zmq_send(c->socket, "cancel", 6, ZMQ_SNDMORE);
            zmq_send(c->socket, "{\"id\":1}", 8, 0);
            cancelled = true;
        }
        if (items[0].revents)
            code = take(c, put, ctx, ret_reason);
        else if (items[1].revents)
            code = complain(EX_UNAVAILABLE, c->endpoint, "the daemon went away before the end");
    }
    return code;
}

int generate_remote(const struct generate_options *o, const uint8_t *prompt, size_t prompt_n,
                    void (*put)(void *ctx, uint8_t byte), void *ctx, bool (*is_over)(void), char *ret_reason)
{
    struct client c = {.endpoint = o->connect};
    int code = connect_to(&c);
    if (code == EX_OK)
        code = ask(&c, o, prompt, prompt_n);
    if (code == EX_OK)
        code = follow(&c, put, ctx, is_over, ret_reason);
    disconnect(&c);
    return code;
}
