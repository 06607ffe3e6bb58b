/* test_control.c: the control socket over a daemon that only counts its calls: the socket file's life, both commands,
 * and requests of every wrong kind. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "daemon/control.h"
#include "daemon/reload.h"
#include "daemon/transfer.h"

/* ---- the daemon that stands behind it --------------------------------------------------------------------------- */

/* The lock is for ThreadSanitizer: it cannot see that the reply orders the two threads. */
struct md_daemon {
    pthread_mutex_t lock;
    unsigned calls, limit, reloads, drains;
    char glob[64];
};

json_t *md_daemon_status(struct md_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    pthread_mutex_unlock(&d->lock);
    return json_pack("{s:i}", "answer", 42);
}

json_t *md_daemon_streams(struct md_daemon *d, const char *glob, unsigned limit)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    d->limit = limit;
    snprintf(d->glob, sizeof d->glob, "%s", glob);
    pthread_mutex_unlock(&d->lock);
    return json_pack("[{s:s}]", "id", "a");
}

uint64_t md_daemon_snapshot(struct md_daemon *d)
{
    return 7;
}

uint64_t md_daemon_ask_reload(struct md_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    d->reloads++;
    pthread_mutex_unlock(&d->lock);
    return 3;
}

uint64_t md_daemon_reset(struct md_daemon *d, const char *glob)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    snprintf(d->glob, sizeof d->glob, "%s", glob);
    pthread_mutex_unlock(&d->lock);
    return 5;
}

static const uint8_t state_bytes[] = {0, 1, 2, 3, 255};

int md_daemon_export(struct md_daemon *d, const char *id, void **ret, size_t *ret_bytes, char *reterr)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    snprintf(d->glob, sizeof d->glob, "%s", id);
    pthread_mutex_unlock(&d->lock);
    *ret = malloc(sizeof state_bytes);
    memcpy(*ret, state_bytes, sizeof state_bytes);
    *ret_bytes = sizeof state_bytes;
    return 0;
}

int md_daemon_import(struct md_daemon *d, const void *bytes, size_t n, const struct md_import *how, char *ret_id,
                     bool *ret_exact, char *reterr)
{
    bool same = n == sizeof state_bytes && !memcmp(bytes, state_bytes, n) && how->renumber && !how->input;

    pthread_mutex_lock(&d->lock);
    d->calls++;
    pthread_mutex_unlock(&d->lock);
    snprintf(ret_id, IO_ID_MAX + 1, "%s", how->as);
    *ret_exact = same;
    return 0;
}

void md_daemon_ask_drain(struct md_daemon *d)
{
    pthread_mutex_lock(&d->lock);
    d->calls++;
    d->drains++;
    pthread_mutex_unlock(&d->lock);
}

static void check_calls(struct md_daemon *d, unsigned calls, const char *glob, unsigned limit)
{
    pthread_mutex_lock(&d->lock);
    assert_int_equal(d->calls, calls);
    assert_string_equal(d->glob, glob);
    assert_int_equal(d->limit, limit);
    pthread_mutex_unlock(&d->lock);
}

/* ---- a client --------------------------------------------------------------------------------------------------- */

struct fixture {
    char folder[64], path[96], endpoint[128];
    struct md_daemon daemon;
    struct md_control *control;
    void *context, *socket; /* the client's, while it is open */
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char reterr[IO_ERR];

    pthread_mutex_init(&f->daemon.lock, NULL);
    strcpy(f->folder, "/tmp/mambad-test-control-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof f->path, "%s/control", f->folder);
    snprintf(f->endpoint, sizeof f->endpoint, "ipc://%s", f->path);
    assert_int_equal(md_control_open(f->endpoint, &f->daemon, &f->control, reterr), 0);
    f->context = zmq_ctx_new();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (f->socket) /* a test failed */
        zmq_close(f->socket);
    zmq_ctx_term(f->context);
    md_control_close(&f->control);
    unlink(f->path);
    rmdir(f->folder);
    free(f);
    return 0;
}

static void *connect_client(struct fixture *f, int type)
{
    void *socket = f->socket = zmq_socket(f->context, type);
    int timeout = 5000, linger = 0;

    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_connect(socket, f->endpoint), 0);
    return socket;
}

static void close_client(struct fixture *f)
{
    zmq_close(f->socket);
    f->socket = NULL;
}

/* The next reply, less the empty frame that is sent back to whoever sent one. */
static json_t *receive(void *socket)
{
    static char reply[1 << 16];
    int n = zmq_recv(socket, reply, sizeof reply, 0);
    json_t *json;

    if (n == 0)
        n = zmq_recv(socket, reply, sizeof reply, 0);
    assert_true(n > 0 && n < (int)sizeof reply);
    json = json_loadb(reply, (size_t)n, 0, NULL);
    assert_non_null(json);
    return json;
}

static json_t *ask(struct fixture *f, const void *request, size_t len)
{
    void *socket = connect_client(f, ZMQ_REQ);
    json_t *reply;

    assert_int_equal(zmq_send(socket, request, len, 0), (int)len);
    reply = receive(socket);
    close_client(f);
    return reply;
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

static void status_is_the_daemons(void **state)
{
    struct fixture *f = *state;
    json_t *reply;

    reply = ask(f, "{\"command\":\"status\"}", 20);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    assert_int_equal(json_integer_value(json_object_get(reply, "answer")), 42);
    json_decref(reply);
}

static void streams_pass_glob_and_limit(void **state)
{
    struct fixture *f = *state;
    const char *request = "{\"command\":\"streams\",\"glob\":\"a*\",\"limit\":7}";
    json_t *reply = ask(f, request, strlen(request));

    assert_true(json_is_true(json_object_get(reply, "ok")));
    assert_int_equal(json_array_size(json_object_get(reply, "streams")), 1);
    check_calls(&f->daemon, 1, "a*", 7);
    json_decref(reply);
    json_decref(ask(f, "{\"command\":\"streams\"}", 21));
    check_calls(&f->daemon, 2, "*", 1000);
}

static void snapshot_has_a_number(void **state)
{
    json_t *reply = ask(*state, "{\"command\":\"snapshot\"}", 22);

    assert_true(json_is_true(json_object_get(reply, "ok")));
    assert_int_equal(json_integer_value(json_object_get(reply, "number")), 7);
    json_decref(reply);
}

/* Bytes are base64 both ways. */
static void a_state_travels(void **state)
{
    static const char *const restore =
        "{\"command\":\"restore\",\"state\":\"AAECA/8=\",\"as\":\"b\",\"renumber\":true}";
    struct fixture *f = *state;
    json_t *reply = ask(f, "{\"command\":\"snapshot\",\"stream\":\"a\"}", 35);

    assert_string_equal(json_string_value(json_object_get(reply, "state")), "AAECA/8=");
    check_calls(&f->daemon, 1, "a", 0);
    json_decref(reply);
    reply = ask(f, restore, strlen(restore));
    assert_string_equal(json_string_value(json_object_get(reply, "stream")), "b");
    assert_true(json_is_true(json_object_get(reply, "exact")));
    json_decref(reply);
}

static void reload_and_drain_are_asked_for(void **state)
{
    struct fixture *f = *state;
    json_t *reply = ask(f, "{\"command\":\"reload\"}", 20);

    assert_int_equal(json_integer_value(json_object_get(reply, "number")), 3);
    json_decref(reply);
    reply = ask(f, "{\"command\":\"drain\"}", 19);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
    pthread_mutex_lock(&f->daemon.lock);
    assert_int_equal(f->daemon.reloads, 1);
    assert_int_equal(f->daemon.drains, 1);
    pthread_mutex_unlock(&f->daemon.lock);
}

static void reset_passes_a_glob(void **state)
{
    struct fixture *f = *state;
    const char *request = "{\"command\":\"reset\",\"glob\":\"b*\"}";
    json_t *reply = ask(f, request, strlen(request));

    assert_int_equal(json_integer_value(json_object_get(reply, "streams")), 5);
    check_calls(&f->daemon, 1, "b*", 0);
    json_decref(reply);
}

/* A DEALER need not send the empty frame that a REQ sends. */
static void dealer_is_answered(void **state)
{
    void *socket = connect_client(*state, ZMQ_DEALER);
    json_t *reply;

    zmq_send(socket, "{\"command\":\"status\"}", 20, 0);
    reply = receive(socket);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
    close_client(*state);
}

static void hostile_requests_touch_nothing(void **state)
{
    struct fixture *f = *state;
    static const char *const requests[] = {
        "",
        "x",
        "{",
        "[]",
        "null",
        "3",
        "\"status\"",
        "{}",
        "{\"command\":null}",
        "{\"command\":[\"status\"]}",
        "{\"command\":\"stat\"}",
        "{\"command\":\"status\"} x",
        "{\"command\":\"reset\"}",
        "{\"command\":\"reset\",\"glob\":[\"*\"]}",
        "{\"command\":\"reload\",\"file\":\"/etc/passwd\"}",
        "{\"command\":\"drain\",\"x\":1}",
        "{\"command\":\"status\",\"command\":\"status\"}",
        "{\"command\":\"status\",\"glob\":\"*\"}",
        "{\"command\":\"status\\u0000\"}",
        "{\"command\":\"\xff\"}",
        "{\"command\":\"streams\",\"glob\":3}",
        "{\"command\":\"streams\",\"glob\":\"*\",\"limit\":\"3\"}",
        "{\"command\":\"streams\",\"limit\":0}",
        "{\"command\":\"streams\",\"limit\":1.5}",
        "{\"command\":\"streams\",\"limit\":99999999999999999999}",
        "{\"command\":\"streams\",\"limit\":-1}",
        "{\"command\":\"snapshot\",\"stream\":3}",
        "{\"command\":\"snapshot\",\"stream\":\"a\",\"file\":\"/tmp/x\"}",
        "{\"command\":\"restore\"}",
        "{\"command\":\"restore\",\"file\":\"/tmp/x\"}",
        "{\"command\":\"restore\",\"state\":\"\"}",
        "{\"command\":\"restore\",\"state\":\"AAE\"}",
        "{\"command\":\"restore\",\"state\":\"A=EC\"}",
        "{\"command\":\"restore\",\"state\":\"AA*C\"}",
        "{\"command\":\"restore\",\"state\":\"AAEC\",\"as\":1}",
        "{\"command\":\"restore\",\"state\":\"AAEC\",\"renumber\":1}",
        "{\"command\":"
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "\u00e9\u00e9\"}",
    };

    for (unsigned i = 0; i < sizeof requests / sizeof *requests; i++) {
        json_t *reply = ask(f, requests[i], strlen(requests[i]));

        if (!json_is_false(json_object_get(reply, "ok")) || !json_is_string(json_object_get(reply, "error")))
            fail_msg("%s was not refused", requests[i]);
        json_decref(reply);
    }
    check_calls(&f->daemon, 0, "", 0);
}

static void huge_requests_are_refused(void **state)
{
    struct fixture *f = *state;
    static char request[3 << 20];
    json_t *reply;

    memset(request, '[', sizeof request);
    reply = ask(f, request, sizeof request);
    assert_true(json_is_false(json_object_get(reply, "ok")));
    json_decref(reply);
    reply = ask(f, request, 60000); /* nested to the limit on size */
    assert_true(json_is_false(json_object_get(reply, "ok")));
    json_decref(reply);
    check_calls(&f->daemon, 0, "", 0);
}

/* Multipart messages of any number of frames, and clients that go without waiting for their reply. */
static void odd_frames_are_survived(void **state)
{
    struct fixture *f = *state;
    json_t *reply;

    for (unsigned n = 1; n < 8; n++) {
        void *socket = connect_client(f, ZMQ_DEALER);

        for (unsigned i = 0; i < n; i++)
            zmq_send(socket, "ab", i % 3, i + 1 < n ? ZMQ_SNDMORE : 0);
        json_decref(receive(socket));
        close_client(f);
    }
    for (unsigned n = 0; n < 50; n++) {
        void *socket = connect_client(f, ZMQ_DEALER);

        zmq_send(socket, "{\"command\":\"status\"}", 20, 0);
        close_client(f);
    }
    reply = ask(f, "{\"command\":\"status\"}", 20);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static void file_is_private(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(S_ISSOCK(st.st_mode));
}

static void file_goes_at_close(void **state)
{
    struct fixture *f = *state;

    md_control_close(&f->control);
    assert_null(f->control);
    assert_int_equal(access(f->path, F_OK), -1);
}

static void served_endpoint_is_refused(void **state)
{
    struct fixture *f = *state;
    struct md_control *second = NULL;
    char reterr[IO_ERR] = "";

    assert_int_equal(md_control_open(f->endpoint, &f->daemon, &second, reterr), -EADDRINUSE);
    assert_null(second);
    assert_non_null(strstr(reterr, "another process serves it"));
    json_decref(ask(f, "{\"command\":\"status\"}", 20)); /* the first goes on */
}

/* The file of a daemon that was killed: bound once, served by nobody. */
static void stale_file_is_replaced(void **state)
{
    struct fixture *f = *state;
    char reterr[IO_ERR] = "", stale[112];

    snprintf(stale, sizeof stale, "%s.stale", f->path);
    assert_int_equal(rename(f->path, stale), 0); /* close() finds none of its own to remove */
    md_control_close(&f->control);
    assert_int_equal(rename(stale, f->path), 0);
    assert_int_equal(md_control_open(f->endpoint, &f->daemon, &f->control, reterr), 0);
    json_decref(ask(f, "{\"command\":\"status\"}", 20));
}

static void other_files_are_left_alone(void **state)
{
    struct fixture *f = *state;
    struct md_control *second = NULL;
    char reterr[IO_ERR] = "";
    FILE *out;

    md_control_close(&f->control);
    out = fopen(f->path, "w");
    assert_non_null(out);
    fclose(out);
    assert_int_equal(md_control_open(f->endpoint, &f->daemon, &second, reterr), -EEXIST);
    assert_non_null(strstr(reterr, "is there and is not a socket"));
    assert_int_equal(access(f->path, F_OK), 0);
    assert_int_equal(md_control_open("ipc:///nonexistent/folder/x", &f->daemon, &second, reterr), -ENOENT);
    assert_non_null(strstr(reterr, "/nonexistent/folder/x"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(status_is_the_daemons),
        TEST(streams_pass_glob_and_limit),
        TEST(snapshot_has_a_number),
        TEST(a_state_travels),
        TEST(reset_passes_a_glob),
        TEST(reload_and_drain_are_asked_for),
        TEST(dealer_is_answered),
        TEST(hostile_requests_touch_nothing),
        TEST(huge_requests_are_refused),
        TEST(odd_frames_are_survived),
        TEST(file_is_private),
        TEST(file_goes_at_close),
        TEST(served_endpoint_is_refused),
        TEST(stale_file_is_replaced),
        TEST(other_files_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
