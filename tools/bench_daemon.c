/* bench_daemon.c: `mambactl bench daemon`: a whole daemon in this process, fed and subscribed to by two other processes
 * over ipc, or fed by a thread of this one. On the device `null`, which computes nothing, CPU time is what everything
 * outside the model costs: this process's, all threads, libzmq's included; the profile says which thread it went to. On
 * a real device the latencies and the device's own share of the time count. Checked before it is believed: all rows
 * accepted, all messages received. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/daemon.h"
#include "tools/bench_feed.h"
#include "tools/bench_peers.h"
#include "tools/mambactl.h"

enum { THREADS = 320, FAMILIES_MAX = 4 };
static const int64_t stop_ns = 10000000000;

struct options {
    const char *preset, *device, *weights, *state;
    uint32_t streams, samples;
    uint64_t messages;
    double per_second;
    unsigned burst;
    const char *families, *snapshots, *max_delay;
    bool in_process, json;
};

struct thread_time {
    char name[20];
    int id;               /* of one thread, or … */
    unsigned alike;       /* … threads of this name */
    double seconds, runs; /* runs: times it was put on a core: about how often it was woken */
};

/* What the daemon has counted since its start. */
struct counts {
    double busy;                                     /* seconds of the device */
    double batches, streams, samples, done, seconds; /* …; done: batches with results, seconds: until they were there */
    double lost, dropped;                            /* samples, messages */
};

/* One daemon, its peers, and what was measured. */
struct bench {
    const struct options *o;
    char dir[64], in[96], out[96];
    struct bench_peer sender, subscriber;
    struct bench_feed feed; /* in the sender's place */
    struct md_config *config;
    struct md_daemon *daemon;
    size_t slot_bytes;
    struct md_hist latency;
    struct counts counts;                                                   /* under load */
    double idle_share, rss_per_stream, rss_growth, seconds, cpu, published; /* bytes; CPU seconds */
    struct thread_time threads[THREADS];
    unsigned n_threads;
};

static const char usage[] = "usage: mambactl bench daemon [OPTION]...\n";
static const char help[] =
    "Measures the daemon, by default around a model that computes nothing: messages of float32 samples in on a PULL\n"
    "socket, results out on a PUB socket, both ipc, with sender and subscriber in processes of their own.\n"
    "\n"
    "      --device D         null (default), cpu, cuda, cuda:N, auto\n"
    "      --preset NAME      signal model of random weights (default forecast-64x2)\n"
    "      --weights DTYPE    fp32 (default), bf16, fp16\n"
    "      --state DTYPE      fp32 (default), bf16, fp16\n"
    "      --samples N        samples of a message (default 64)\n"
    "      --streams N        streams (default 10000)\n"
    "      --messages M       messages in (default 200000)\n"
    "      --rate R           messages a second (default 20000; 0: as fast as they are taken, so that several messages "
    "of a\n"
    "                         stream share a batch and a message out)\n"
    "      --burst N          messages sent together, of N streams (default 64); the pauses in between keep the rate\n"
    "      --families LIST    families published, of prediction,embedding,anomaly,channel_anomaly (default: first\n"
    "                         anomaly alone, then prediction,embedding,anomaly: what a further message costs)\n"
    "      --max-delay D      longest wait for a fuller batch (default 2ms)\n"
    "      --snapshots D      a snapshot every D (a duration), to a temporary folder\n"
    "      --in-process       blocks straight into the daemon's queues, from a thread of this process, and no sender\n"
    "      --json             one JSON object per line\n"
    "      --help\n";

/* ---- what the system says of this process
 * -------------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static double rss_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;

    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static bool read_thread(const char *id, struct thread_time *t)
{
    char path[300];
    unsigned long long ns = 0, runs = 0;
    FILE *f;
    bool ok;

    snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", id);
    f = fopen(path, "r");
    ok = f && fscanf(f, "%llu %*u %llu", &ns, &runs) == 2;
    if (f)
        fclose(f);
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", id);
    f = ok ? fopen(path, "r") : NULL;
    ok = f && fscanf(f, "%19[^\n]", t->name) == 1;
    if (f)
        fclose(f);
    t->id = atoi(id);
    t->seconds = 1e-9 * (double)ns;
    t->runs = (double)runs;
    return ok;
}

static unsigned read_threads(struct thread_time *t)
{
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    unsigned n = 0;

    while (d && n < THREADS && (e = readdir(d)))
        if (e->d_name[0] != '.' && read_thread(e->d_name, &t[n]))
            n++;
    if (d)
        closedir(d);
    return n;
}

/* ---- the daemon
 * ------------------------------------------------------------------------------------------------------------ */

static int start_daemon(struct bench *b, const char *families)
{
    static const char *const names[] = {"prediction", "embedding", "anomaly", "channel_anomaly"};
    char yaml[2048], publish[256] = "", state[128] = "", reterr[IO_ERR];
    bool null = !strcmp(b->o->device, "null");

    for (unsigned i = 0; i < FAMILIES_MAX; i++) {
        const char *at = strstr(families, names[i]);
        bool on = at && (at == families || at[-1] == ',');
        snprintf(publish + strlen(publish), sizeof publish - strlen(publish), "%s%s: %s", i ? ", " : "", names[i],
                 !on      ? "false"
                 : i == 0 ? "{horizon: 16, quantiles: [0.1, 0.5, 0.9]}"
                          : "true");
    }
    if (b->o->snapshots)
        snprintf(state, sizeof state, "state: {dir: '%s/state', interval: %s}\n", b->dir, b->o->snapshots);
    snprintf(yaml, sizeof yaml,
             "models: {model: {path: '%s', device: '%s', weights: %s, state: %s, slots: %u}}\n"
             "inputs: {in: {type: zmq, pattern: pull, bind: '%s', rate: 100}}\n"
             "outputs: {out: {type: zmq, bind: '%s', hwm: 10000000}}\n"
             "batch: {max_delay: %s}\nstreams: {'*': {publish: {%s}}}\n%s",
             b->o->preset, null ? "cpu" : b->o->device, b->o->weights, b->o->state, b->o->streams, b->in, b->out,
             b->o->max_delay, publish, state);
    md_log_setup(MD_ERROR, MD_LOG_TEXT);
    if (md_config_parse("bench", yaml, NULL, 0, true, stderr, &b->config))
        return EX_USAGE;
    int r = md_daemon_start(b->config, MD_PRESETS | (null ? MD_NULL_DEVICE : 0), &b->daemon, reterr);
    if (r)
        fprintf(stderr, "mambactl bench daemon: %s\n", reterr);
    return r;
}

static double number_at(json_t *o, const char *section, const char *id, const char *key)
{
    return json_number_value(json_object_get(json_object_get(json_object_get(o, section), id), key));
}

/* Messages out, heartbeats left out; samples that the model took. */
static double published(struct bench *b, double *ret_accepted)
{
    json_t *status = md_daemon_status(b->daemon), *kind;
    json_t *out = json_object_get(json_object_get(status, "outputs"), "out");
    const char *name;
    double sum = 0;

    json_object_foreach(json_object_get(out, "output_messages_total"), name, kind)
    {
        if (strcmp(name, "sys") != 0)
            sum += json_number_value(kind);
    }
    *ret_accepted = number_at(status, "inputs", "in", "accepted_samples_total");
    json_decref(status);
    return sum;
}

/* Until so many messages have been accepted and all that came of them received; false: it does not get on. Looks
 * rarely: to look costs CPU time of this process. */
static bool wait_for(struct bench *b, uint64_t messages, double *ret_published)
{
    double had = -1, got = 0;

    for (unsigned stuck = 0; stuck < 80; had = got, usleep(250000)) {
        *ret_published = published(b, &got);
        if (got >= (double)messages * b->o->samples && (double)bench_subscriber_count(&b->subscriber) >= *ret_published)
            return true;
        stuck = got == had ? stuck + 1 : 0;
    }
    return false;
}

static bool wait_for_subscriber(struct bench *b)
{
    for (unsigned looks = 0; looks < 1000; looks++, usleep(10000))
        if (bench_subscriber_joined(&b->subscriber))
            return true;
    return false;
}

/* ---- phases
 * ---------------------------------------------------------------------------------------------------------------- */

static void send(struct bench *b, uint64_t messages)
{
    if (b->o->in_process)
        bench_feed_send(&b->feed, messages, b->o->per_second);
    else
        bench_sender_send(&b->sender, messages, b->o->per_second);
}

/* All streams once, in two halves, so that what is taken once for all does not count; then nothing, and what that
 * costs. */
static bool measure_idle(struct bench *b)
{
    uint32_t half = b->o->streams / 2, rest = b->o->streams - half;
    double rss, cpu, out;
    int64_t start;

    send(b, half);
    if (!wait_for(b, half, &out))
        return false;
    rss = rss_bytes();
    send(b, rest);
    if (!wait_for(b, b->o->streams, &out))
        return false;
    b->rss_per_stream = (rss_bytes() - rss) / rest;
    cpu = cpu_seconds();
    start = md_now_ns();
    usleep(3000000);
    b->idle_share = (cpu_seconds() - cpu) / (1e-9 * (double)(md_now_ns() - start));
    return true;
}

static double sum_of(json_t *numbers)
{
    const char *key;
    json_t *number;
    double sum = 0;

    json_object_foreach(numbers, key, number) sum += json_number_value(number);
    return sum;
}

static struct counts read_counts(struct bench *b)
{
    json_t *status = md_daemon_status(b->daemon), *model, *input, *output, *step;

    model = json_object_get(json_object_get(status, "models"), "model");
    input = json_object_get(json_object_get(status, "inputs"), "in");
    output = json_object_get(json_object_get(status, "outputs"), "out");
    step = json_object_get(model, "step_duration_seconds");
    struct counts c = {.busy = json_number_value(json_object_get(model, "device_busy_seconds_total")),
                       .batches = json_number_value(json_object_get(model, "batches_total")),
                       .streams = json_number_value(json_object_get(model, "batch_streams_total")),
                       .samples = json_number_value(json_object_get(model, "batch_samples_total")),
                       .done = json_number_value(json_object_get(step, "count")),
                       .seconds = json_number_value(json_object_get(step, "sum")),
                       .lost = sum_of(json_object_get(input, "input_discarded_samples_total")),
                       .dropped = sum_of(json_object_get(output, "output_dropped_messages_total"))};
    json_decref(status);
    return c;
}

static struct counts counts_since(struct counts now, struct counts then)
{
    return (struct counts){.busy = now.busy - then.busy,
                           .batches = now.batches - then.batches,
                           .streams = now.streams - then.streams,
                           .samples = now.samples - then.samples,
                           .done = now.done - then.done,
                           .seconds = now.seconds - then.seconds,
                           .lost = now.lost - then.lost,
                           .dropped = now.dropped - then.dropped};
}

/* Since `before`; threads of one name become one line. */
static void sum_threads(struct bench *b, const struct thread_time *before, unsigned n_before)
{
    unsigned n = 0, at;

    for (unsigned i = 0; i < b->n_threads; i++) {
        struct thread_time t = b->threads[i];
        for (unsigned k = 0; k < n_before; k++)
            if (before[k].id == t.id) {
                t.seconds -= before[k].seconds;
                t.runs -= before[k].runs;
            }
        for (at = 0; at < n && strcmp(b->threads[at].name, t.name) != 0;)
            at++;
        if (at == n) {
            b->threads[n++] = t;
            b->threads[at].alike = 1;
        } else {
            b->threads[at].alike++;
            b->threads[at].seconds += t.seconds;
            b->threads[at].runs += t.runs;
        }
    }
    b->n_threads = n;
}

static bool measure_load(struct bench *b)
{
    struct thread_time before[THREADS];
    uint64_t warm = b->o->messages / 4;
    struct counts before_counts;
    double cpu, out, rss;
    struct md_hist then;
    unsigned n_before;
    int64_t start;

    send(b, warm); /* queues, pools and arenas reach their size */
    if (!wait_for(b, b->o->streams + warm, &out))
        return false;
    n_before = read_threads(before);
    rss = rss_bytes();
    cpu = cpu_seconds();
    md_hist_since(&then, md_daemon_latency(b->daemon), &(struct md_hist){0});
    atomic_store(&md_daemon_latency(b->daemon)->max, 0); /* nothing is under way */
    before_counts = read_counts(b);
    start = md_now_ns();
    send(b, b->o->messages);
    if (!wait_for(b, b->o->streams + warm + b->o->messages, &b->published))
        return false;
    b->seconds = 1e-9 * (double)(md_now_ns() - start);
    b->cpu = cpu_seconds() - cpu;
    b->counts = counts_since(read_counts(b), before_counts);
    md_hist_since(&b->latency, md_daemon_latency(b->daemon), &then);
    b->published -= out;
    b->rss_growth = rss_bytes() - rss;
    b->n_threads = read_threads(b->threads);
    sum_threads(b, before, n_before);
    return true;
}

static double us_per_message(const struct bench *b)
{
    return 1e6 * b->cpu / (double)b->o->messages;
}

static void print_snapshots(struct bench *b)
{
    json_t *status = md_daemon_status(b->daemon), *s = json_object_get(status, "snapshots");
    json_t *seconds = json_object_get(s, "duration_seconds");

    printf(
        "  %.0f snapshots, %.0f failed, of %.0f streams and %.1f MiB; p50 %.3f s, longest %.3f s; longest latency of a "
        "message %.2f ms\n",
        json_number_value(json_object_get(s, "written_total")), json_number_value(json_object_get(s, "failed_total")),
        json_number_value(json_object_get(s, "streams")), json_number_value(json_object_get(s, "bytes")) / (1 << 20),
        json_number_value(json_object_get(seconds, "p50")), json_number_value(json_object_get(seconds, "max")),
        1e-6 * (double)md_read(&b->latency.max));
    json_decref(status);
}

/* Shares of a core are of the whole time, in which the daemon may have had more to do than at the asked rate. */
static void print_threads(const struct bench *b)
{
    for (unsigned i = 0; i < b->n_threads; i++) {
        const struct thread_time *t = &b->threads[i];
        if (t->seconds > 0.001 * b->cpu)
            printf("    %3u %-16s %6.2f us, %6.1f %% of a core, woken %.3f times\n", t->alike, t->name,
                   1e6 * t->seconds / (double)b->o->messages, 100 * t->seconds / b->seconds,
                   t->runs / (double)b->o->messages);
    }
}

static void print_batches(struct bench *b)
{
    const struct counts *c = &b->counts;

    printf("  %.0f batches, of %.0f streams and %.0f samples in the mean, %.2f ms from start to results; lost: %.0f "
           "samples in, %.0f messages out\n",
           c->batches, c->streams / c->batches, c->samples / c->batches, 1e3 * c->seconds / c->done, c->lost,
           c->dropped);
}

static void print_text(struct bench *b, const char *families)
{
    json_t *latency = md_hist_json(&b->latency);

    printf("%s: %u streams, %llu messages of %u samples in%s, %.0f messages out in %.1f s (%.0f/s)\n", families,
           b->o->streams, (unsigned long long)b->o->messages, b->o->samples, b->o->in_process ? ", in process" : "",
           b->published, b->seconds, (double)b->o->messages / b->seconds);
    printf("  %s, %s weights, %s state on %s: arrival to hand-over p50 %.2f ms, p99 %.2f ms, longest "
           "%.2f ms; device busy %.1f %% of the time\n",
           b->o->preset, b->o->weights, b->o->state, b->o->device,
           1e3 * json_number_value(json_object_get(latency, "p50")),
           1e3 * json_number_value(json_object_get(latency, "p99")), 1e-6 * (double)md_read(&b->latency.max),
           100 * b->counts.busy / b->seconds);
    json_decref(latency);
    print_batches(b);
    if (b->o->snapshots)
        print_snapshots(b);
    printf("  CPU per message in, with its %.2f out: %.2f us; %.2f cores\n", b->published / (double)b->o->messages,
           us_per_message(b), b->cpu / b->seconds);
    print_threads(b);
    printf(
        "  idle: %.2f %% of a core; RSS per idle stream beside its slot: %.0f bytes; RSS growth under load: %.0f KiB\n",
        100 * b->idle_share, b->rss_per_stream - (double)b->slot_bytes, b->rss_growth / 1024);
}

static void print_json(struct bench *b, const char *families)
{
    json_t *threads = json_object(), *status = md_daemon_status(b->daemon), *o;

    for (unsigned i = 0; i < b->n_threads; i++)
        json_object_set_new(threads, b->threads[i].name,
                            json_real(1e6 * b->threads[i].seconds / (double)b->o->messages));
    o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:i, s:I, s:f, s:f, s:f, s:f, "
                  "s:f, s:f, s:o, s:o?}",
                  "bench", "daemon", "preset", b->o->preset, "device", b->o->device, "weights", b->o->weights, "state",
                  b->o->state, "latency_seconds", md_hist_json(&b->latency), "device_busy_share",
                  b->counts.busy / b->seconds, "batches", b->counts.batches, "batch_streams",
                  b->counts.streams / b->counts.batches, "batch_seconds", b->counts.seconds / b->counts.done,
                  "samples_lost", b->counts.lost, "messages_dropped", b->counts.dropped, "families", families,
                  "streams", (int)b->o->streams, "messages", (json_int_t)b->o->messages, "messages_out", b->published,
                  "seconds", b->seconds, "cpu_us_per_message", us_per_message(b), "idle_core_share", b->idle_share,
                  "rss_bytes_per_idle_stream", b->rss_per_stream - (double)b->slot_bytes, "rss_growth_bytes",
                  b->rss_growth, "cpu_us_by_thread", threads, "snapshots",
                  json_incref(json_object_get(status, "snapshots")));
    json_decref(status);
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(5));
    putchar('\n');
    json_decref(o);
}

static void remove_state(const char *dir)
{
    char path[512];
    struct dirent *e;

    snprintf(path, sizeof path, "%s/state", dir);
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/state/%s", dir, e->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    snprintf(path, sizeof path, "%s/state", dir);
    rmdir(path);
}

static int measure(const struct options *o, const char *families, double *ret_us, double *ret_out)
{
    struct bench b = {.o = o};
    int code = EX_UNAVAILABLE, stopped;

    snprintf(b.dir, sizeof b.dir, "/tmp/mambad-bench-XXXXXX");
    if (!mkdtemp(b.dir))
        return code;
    snprintf(b.in, sizeof b.in, "ipc://%s/in", b.dir);
    snprintf(b.out, sizeof b.out, "ipc://%s/out", b.dir);
    if ((!o->in_process && bench_sender_start(&b.sender, b.in, o->streams, o->samples, o->burst)) ||
        bench_subscriber_start(&b.subscriber, b.out))
        goto end;
    code = start_daemon(&b, families);
    if (code)
        goto end;
    code = EX_UNAVAILABLE;
    if (o->in_process && bench_feed_start(&b.feed, md_daemon_host(b.daemon), o->streams, o->samples, o->burst))
        goto end;
    json_t *status = md_daemon_status(b.daemon);
    b.slot_bytes = (size_t)number_at(status, "models", "model", "slot_bytes");
    json_decref(status);
    code = EX_SOFTWARE;
    if (!wait_for_subscriber(&b) || !measure_idle(&b) || !measure_load(&b)) {
        fprintf(stderr, "mambactl bench daemon: messages are missing\n");
        goto end;
    }
    (o->json ? print_json : print_text)(&b, families);
    *ret_us = us_per_message(&b);
    *ret_out = b.published / (double)o->messages;
    code = EX_OK;
end:
    bench_feed_stop(&b.feed);
    stopped = md_daemon_stop(&b.daemon, stop_ns);
    bench_peer_stop(&b.sender);
    bench_peer_stop(&b.subscriber);
    unlink(b.in + strlen("ipc://"));
    unlink(b.out + strlen("ipc://"));
    if (o->snapshots)
        remove_state(b.dir);
    rmdir(b.dir);
    if (stopped) {
        fprintf(stderr, "mambactl bench daemon: the daemon's end was not clean\n");
        fflush(stdout);
        _exit(stopped);
    }
    md_config_free(&b.config);
    return code;
}

/* ---- command line
 * ------------------------------------------------------------------------------------------------------------ */

static bool parse_number(const char *text, double least, double most, double *ret)
{
    char *end;

    *ret = strtod(text, &end);
    return end != text && !*end && *ret >= least && *ret <= most;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"device", required_argument, NULL, 'D'},
                                          {"preset", required_argument, NULL, 'P'},
                                          {"weights", required_argument, NULL, 'W'},
                                          {"state", required_argument, NULL, 'S'},
                                          {"samples", required_argument, NULL, 'n'},
                                          {"streams", required_argument, NULL, 's'},
                                          {"messages", required_argument, NULL, 'm'},
                                          {"rate", required_argument, NULL, 'r'},
                                          {"burst", required_argument, NULL, 'b'},
                                          {"families", required_argument, NULL, 'f'},
                                          {"max-delay", required_argument, NULL, 'd'},
                                          {"snapshots", required_argument, NULL, 'x'},
                                          {"in-process", no_argument, NULL, 'i'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    double v = 0;
    int c;

    optind = 1;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        bool ok = true;
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (c == 'D')
            o->device = optarg;
        else if (c == 'P')
            o->preset = optarg;
        else if (c == 'W')
            o->weights = optarg;
        else if (c == 'S')
            o->state = optarg;
        else if (c == 'n' && (ok = parse_number(optarg, 1, 1e5, &v)))
            o->samples = (uint32_t)v;
        else if (c == 's' && (ok = parse_number(optarg, 2, 1e6, &v)))
            o->streams = (uint32_t)v;
        else if (c == 'm' && (ok = parse_number(optarg, 4, 1e10, &v)))
            o->messages = (uint64_t)v;
        else if (c == 'r' && (ok = parse_number(optarg, 0, 1e8, &v)))
            o->per_second = v;
        else if (c == 'b' && (ok = parse_number(optarg, 1, 1e6, &v)))
            o->burst = (unsigned)v;
        else if (c == 'f')
            o->families = optarg;
        else if (c == 'd')
            o->max_delay = optarg;
        else if (c == 'x')
            o->snapshots = optarg;
        else if (c == 'i')
            o->in_process = true;
        else if (c == 'j')
            o->json = true;
        if (c == '?' || !ok) {
            fputs(usage, stderr);
            return EX_USAGE;
        }
    }
    return optind < argc ? fputs(usage, stderr), EX_USAGE : -1;
}

int bench_daemon(int argc, char **argv)
{
    struct options o = {.preset = "forecast-64x2",
                        .device = "null",
                        .weights = "fp32",
                        .state = "fp32",
                        .samples = 64,
                        .streams = 10000,
                        .messages = 200000,
                        .per_second = 20000,
                        .burst = 64,
                        .max_delay = "2ms"};
    double one = 0, more = 0, out_one = 0, out_more = 0;
    int code = parse(argc, argv, &o);

    if (code >= 0)
        return code;
    code = measure(&o, o.families ? o.families : "anomaly", &one, &out_one);
    if (code || o.families)
        return code;
    code = measure(&o, "prediction,embedding,anomaly", &more, &out_more);
    if (!code && !o.json)
        printf("a further message out: %.2f us\n", (more - one) / (out_more - out_one));
    return code;
}
