/* test_open_faults.c: whatever fails while a configuration is read and a daemon opens everything it names – each
 * allocation, file, thread and socket in turn, once or from then on – ends in an error with a text and an exit code, or
 * is got over; nothing stays behind. The linker's --wrap sends the calls of the daemon's own objects through here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/daemon/service.h"

static _Atomic bool armed;
static _Atomic unsigned long calls;
static unsigned long fail_at, fail_from; /* counted from 1; 0: never */

static bool fails(int err)
{
    unsigned long n;

    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return false;
    n = atomic_fetch_add(&calls, 1) + 1;
    if (n != fail_at && (!fail_from || n < fail_from))
        return false;
    errno = err;
    return true;
}

/* name, what it returns where it fails, errno, parameters and their names */
#define WRAP(type, name, failed, err, params, args)                                                                    \
    type __real_##name params;                                                                                         \
    type __wrap_##name params;                                                                                         \
    type __wrap_##name params                                                                                          \
    {                                                                                                                  \
        return fails(err) ? failed : __real_##name args;                                                               \
    }

WRAP(void *, malloc, NULL, ENOMEM, (size_t n), (n))
WRAP(void *, calloc, NULL, ENOMEM, (size_t n, size_t size), (n, size))
WRAP(void *, realloc, NULL, ENOMEM, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, NULL, ENOMEM, (size_t align, size_t n), (align, n))
WRAP(char *, strdup, NULL, ENOMEM, (const char *s), (s))
WRAP(char *, strndup, NULL, ENOMEM, (const char *s, size_t n), (s, n))
WRAP(FILE *, open_memstream, NULL, ENOMEM, (char **text, size_t *n), (text, n))
WRAP(void *, mmap64, MAP_FAILED, ENOMEM, (void *at, size_t n, int prot, int flags, int fd, off_t from),
     (at, n, prot, flags, fd, from))
WRAP(int, eventfd, -1, EMFILE, (unsigned n, int flags), (n, flags))
WRAP(int, open64, -1, EMFILE, (const char *path, int flags, int mode), (path, flags, mode))
WRAP(FILE *, fopen64, NULL, EMFILE, (const char *path, const char *mode), (path, mode))
WRAP(DIR *, opendir, NULL, EMFILE, (const char *path), (path))
WRAP(int, pthread_create, EAGAIN, EAGAIN, (pthread_t * t, const pthread_attr_t *attr, void *(*run)(void *), void *arg),
     (t, attr, run, arg))
WRAP(void *, zmq_ctx_new, NULL, ENOMEM, (void), ())
WRAP(void *, zmq_socket, NULL, EMFILE, (void *context, int type), (context, type))

/* ---- */

static char dir[64], key[128], clients[128];

static unsigned count_in(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;

    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void write_file(const char *name, const char *text, int mode)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int setup(void **state)
{
    char public[41], secret[41], text[4096] = "x,y\n";

    strcpy(dir, "/tmp/mambad-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < 40; i++)
        sprintf(text + strlen(text), "%u,%u\n", i * i % 17, i);
    write_file("a.csv", text, 0600);
    write_file("b.csv", text, 0600);
    if (zmq_curve_keypair(public, secret) == 0) {
        write_file("key", secret, 0600);
        write_file("clients", public, 0600);
    }
    service_model();
    md_log_setup(MD_ERROR, MD_LOG_TEXT);
    return 0;
}

static int clean_up(void **state)
{
    char command[128];

    service_sweep();
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

struct outcome {
    bool parsed, started;
    int code;
    bool lost; /* some of its rows, messages or files, counted */
    char text[1024];
};

static bool losses(struct md_daemon *daemon)
{
    json_t *status = md_daemon_status(daemon), *errors, *discarded, *n;
    json_int_t lost = 0, error = 0;
    const char *reason;

    assert_int_equal(json_unpack(status, "{s:{s:{s:o, s:o}}, s:{s:{s:{s:I}}}}", "inputs", "c", "input_errors_total",
                                 &errors, "input_discarded_samples_total", &discarded, "outputs", "j",
                                 "output_dropped_messages_total", "error", &error),
                     0);
    json_object_foreach(errors, reason, n) lost += json_integer_value(n);
    json_object_foreach(discarded, reason, n) lost += strcmp(reason, "tail") ? json_integer_value(n) : 0;
    json_decref(status);
    return lost || error;
}

/* Reads it, starts it, lets it do its work, stops it. */
static struct outcome live(const char *yaml, bool finite)
{
    struct outcome out = {0};
    struct md_config *config = NULL;
    struct md_daemon *daemon = NULL;
    char *said = NULL;
    size_t n;
    FILE *errors = __real_open_memstream(&said, &n);

    atomic_store(&calls, 0);
    atomic_store(&armed, true);
    out.code = md_config_parse("test", yaml, NULL, 0, true, errors, &config);
    out.parsed = out.code == 0;
    if (out.parsed)
        out.code = md_daemon_start(config, MD_ONCE, &daemon, out.text);
    atomic_store(&armed, false);
    fclose(errors);
    out.started = out.parsed && out.code == 0;
    if (!out.parsed && n)
        snprintf(out.text, sizeof out.text, "%s", said);
    if (out.started && finite) {
        struct pollfd end = {md_daemon_fd(daemon), POLLIN, 0};
        assert_int_equal(poll(&end, 1, 30000), 1);
        out.lost = losses(daemon);
    }
    if (out.started)
        out.code = md_daemon_stop(&daemon, 10000000000);
    md_config_free(&config);
    free(said);
    return out;
}

static void check(const struct outcome *out, unsigned long k)
{
    static const int codes[] = {EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_IOERR, EX_CONFIG};
    bool known = false;

    if (out->started) {
        if (out->code && out->code != EX_IOERR)
            fail_msg("call %lu: stopped with %d", k, out->code);
        return;
    }
    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
        known |= out->code == codes[i];
    if (out->parsed ? !known : out->code >= 0)
        fail_msg("call %lu: code %d", k, out->code);
    if (out->code == EX_CONFIG && strstr(out->text, "memory"))
        fail_msg("call %lu: the configuration is not at fault: %s", k, out->text);
    if ((!out->text[0] || strcmp(out->text + strlen(out->text) - 2, ": ") == 0) && out->code != -ENOMEM)
        fail_msg("call %lu: refused without a word", k);
}

/* Rows in the output that is a file, since the last time. How many messages they make is the batches' affair. */
static unsigned long new_rows(void)
{
    static unsigned long before;
    char path[128], *line = NULL;
    unsigned long n = 0, had = before;
    size_t cap = 0;
    FILE *f;

    snprintf(path, sizeof path, "%s/out.jsonl", dir);
    f = __real_fopen64(path, "r");
    while (f && getline(&line, &cap, f) > 0) {
        const char *shape = strstr(line, "\"shape\":[");
        n += shape ? strtoul(shape + strlen("\"shape\":["), NULL, 10) : 0;
    }
    if (f)
        fclose(f);
    free(line);
    before = n;
    return n - had;
}

/* finite: its inputs end, and all that they hold comes out, or is counted, where it starts at all. */
static void each_in_turn(const char *format, bool finite)
{
    char yaml[4096];
    unsigned long most, rows;
    unsigned files, threads;
    struct outcome out;

    snprintf(key, sizeof key, "%s/key", dir);
    snprintf(clients, sizeof clients, "%s/clients", dir);
    snprintf(yaml, sizeof yaml, format, service_model(), dir, dir, dir, dir, dir, dir);
    fail_at = fail_from = 0;
    out = live(yaml, finite);
    if (!out.started || out.code)
        fail_msg("it does not even run: %d %s", out.code, out.text);
    most = atomic_load(&calls);
    rows = new_rows();
    files = count_in("/proc/self/fd");
    threads = count_in("/proc/self/task");
    assert_true(most > 50);
    for (unsigned from = 0; from < 2; from++)
        for (unsigned long k = 1; k <= most; k++) {
            fail_at = from ? 0 : k;
            fail_from = from ? k : 0;
            if (getenv("VERBOSE"))
                fprintf(stderr, "%s %lu of %lu\n", from ? "from" : "only", k, most);
            out = live(yaml, finite);
            if (getenv("VERBOSE"))
                fprintf(stderr, "  %d %d %d %s\n", out.parsed, out.started, out.code, out.text);
            check(&out, k);
            if (finite && out.started && out.code == 0 && new_rows() != rows && !out.lost)
                fail_msg("%s call %lu: rows are missing", from ? "from" : "only", k);
            if (count_in("/proc/self/fd") != files)
                fail_msg("%s call %lu: %u files are open, not %u", from ? "from" : "only", k, count_in("/proc/self/fd"),
                         files);
            for (unsigned tries = 0; count_in("/proc/self/task") != threads; tries++) {
                if (tries == 1000)
                    fail_msg("%s call %lu: %u threads, not %u", from ? "from" : "only", k, count_in("/proc/self/task"),
                             threads);
                nanosleep(&(struct timespec){0, 1000000}, NULL);
            }
        }
    fail_at = fail_from = 0;
    out = live(yaml, finite);
    assert_true(out.started && out.code == 0);
    printf("{\"faults\": %lu}\n", 2 * most); /* for tools/torture */
}

static void files(void **state)
{
    each_in_turn("models: {m: {path: %s, device: cpu, slots: 8, threads: 2}}\n"
                 "inputs: {c: {type: csv, files: ['%s/*.csv'], rate: 10, stream: '{input}-{stem}'}}\n"
                 "outputs: {j: {type: jsonl, path: %s/out.jsonl}}\n"
                 "streams: {'c*': {gap: {max: 5s}, publish: {prediction: {every: 2, horizon: 3, quantiles: [0.5]}}}}\n",
                 true);
}

static void state_and_restore(void **state)
{
    each_in_turn("models: {m: {path: %s, device: cpu, slots: 8, threads: 1}}\n"
                 "inputs: {c: {type: csv, files: ['%s/*.csv'], rate: 10}}\n"
                 "outputs: {j: {type: jsonl, path: %s/kept.jsonl}}\n"
                 "state: {dir: %s/state, interval: 1h, keep: 1}\n",
                 false);
}

/* A WAV file, and an HDF5 file that the daemon makes itself. */
static void media(void **state)
{
    static const unsigned char head[44] = "RIFF\x64\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00"
                                          "\x80\x3e\x00\x00\x02\x00\x10\x00"
                                          "data\x40\x00\x00";
    const char *why;
    char yaml[1024], wav[128], bytes[108] = {0};
    FILE *f;

    if (!io_source_find("audio", &why) || !io_source_find("hdf5", &why))
        skip();
    memcpy(bytes, head, sizeof head);
    snprintf(wav, sizeof wav, "%s/a.wav", dir);
    f = fopen(wav, "w");
    assert_int_equal(fwrite(bytes, sizeof bytes, 1, f), 1);
    fclose(f);
    snprintf(yaml, sizeof yaml,
             "models: {m: {path: %s, device: cpu, slots: 8, threads: 1}}\ninputs: {c: {type: csv, files: ['%s/*.csv'], "
             "rate: 10}}\n"
             "outputs: {j: {type: hdf5, path: '%s/made.h5'}}\n",
             service_model(), dir, dir);
    struct outcome out = live(yaml, true);
    assert_true(out.started && out.code == 0);
    each_in_turn("models: {m: {path: %s, device: cpu, slots: 64, threads: 1}}\n"
                 "inputs: {a: {type: audio, files: ['%s/*.wav'], channel: mix, rate: 4000, resample: true},\n"
                 "         h: {type: hdf5, files: '%s/made.h5', dataset: [/embedding_values], rate: 10}}\n"
                 "outputs: {r: {type: hdf5, path: '%s/record'}}\n",
                 false);
}

static void sockets(void **state)
{
    each_in_turn("models: {m: {path: %s, device: cpu, slots: 8, threads: 1}}\n"
                 "inputs: {p: {type: zmq, pattern: pull, bind: 'ipc://%s/p', subscribe: []}, r: {type: zmq, pattern: "
                 "router, bind: 'ipc://%s/r'},\n"
                 "         s: {type: zmq, pattern: sub, connect: 'ipc://%s/s', subscribe: [a, b]}}\n"
                 "outputs: {o: {type: zmq, bind: 'ipc://%s/o', curve_key: '%s/key', curve_clients: '%s/clients'}}\n",
                 false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files),
        cmocka_unit_test(state_and_restore),
        cmocka_unit_test(sockets),
        cmocka_unit_test(media),
    };

    return cmocka_run_group_tests(tests, setup, clean_up);
}
