/* ctl_feed.c: `mambactl feed`: files or standard input to a ZeroMQ input, through the daemon's own sources. One thread,
 * which sleeps in zmq_poll() on the socket, the sources' descriptors and a signalfd. Nothing is read before a peer is
 * there, and a peer that takes no more holds the sources back. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/config.h"
#include "daemon/plural.h"
#include "tools/ctl_inputs.h"
#include "tools/feed_reliable.h"
#include "tools/feed_socket.h"
#include "tools/mambactl.h"

static const char usage[] = "usage: mambactl feed --connect ADDRESS | --bind ADDRESS [OPTION]... INPUT...\n";
static const char help[] =
    "Sends files or standard input to a daemon's ZeroMQ input (format: array).\n"
    "\n" CTL_INPUTS_HELP "\n"
    "      --connect ADDRESS   of the daemon's socket, tcp://127.0.0.1:5555 or ipc:///path\n"
    "      --bind ADDRESS      where the daemon connects to\n"
    "      --pattern push|pub  push for `pattern: pull` (default), pub for `pattern: sub`\n"
    "      --reliable          for `pattern: router`: rows are sent again until the daemon has them, whatever is "
    "restarted\n"
    "                          meanwhile; run again, it goes on where the daemon is\n"
    "      --until durable|acked\n"
    "                          with --reliable, ends when all rows are in a snapshot on the daemon's disk (default), "
    "or\n"
    "                          taken by it\n"
    "      --keep MIB          with --reliable and a pipe: most that is kept of what is not durable (default 64); more "
    "is\n"
    "                          not read\n"
    "      --topic TOPIC       topic frame; default with pub: the stream's id and a slash, else none\n"
    "      --pace fast|realtime\n"
    "                          as fast as it is taken (default), or at the data's own rate or times\n"
    "      --chunk N           most samples in a message (default 1024)\n"
    "      --wait SECONDS      how long to wait for a peer (default 10), and for an answer with --reliable (default "
    "60)\n"
    "      --key FILE          secret key (mambactl keygen): CURVE, with\n"
    "      --server-key FILE     --connect: the public key of the daemon's socket\n"
    "      --clients FILE        --bind: the public keys that are let in\n"
    "      --insecure          allow TCP beyond loopback without encryption\n"
    "      --set KEY.PATH=VALUE\n"
    "                          any key of an input: inputs.audio, .raw, .hdf5, .csv, .bytes\n"
    "  -q, --quiet             no progress\n"
    "      --help              print this text and end\n"
    "\n"
    "Exit codes: 0 done, 64 usage, 65 bad data, 66 no such file, 69 no peer or no such address, 74 not everything "
    "arrived,\n"
    "78 wrong option value or key file.\n";

enum { SOURCES = 64, SENDS_A_ROUND = 64 };
enum { OPT_KEY = 256, OPT_SERVER_KEY, OPT_CLIENTS }; /* beyond the letters, which ctl_inputs.h has its share of */

struct source {
    const struct io_source_class *class_;
    void *self; /* NULL: done */
};

struct ctl_feed {
    struct ctl_inputs inputs;
    struct io_zmq_ends ends;
    char *address[2]; /* of bind and of connect */
    const char **sets;
    unsigned n_sets;
    bool quiet;
    double wait_s;
    struct feed feed;
    struct feed_socket socket;
    struct md_config *config;
    struct source sources[SOURCES];
    unsigned n_sources;
    int signals;
    bool interrupted;
};

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- inputs ----------------------------------------------------------------------------------------------- */

/* Ids are not prefixed by an input's name here: what the receiver sees is the file's name. */
static void default_ids(json_t *section)
{
    const char *id;
    json_t *input;
    json_object_foreach(section, id, input)
    {
        bool standard_input = strcmp(json_string_value(json_array_get(json_object_get(input, "files"), 0)), "-") == 0;
        const char *stream = standard_input ? "stdin" : strncmp(id, "hdf5", 4) == 0 ? "{path}:{dataset}" : "{path}";
        if (!json_object_get(input, "stream"))
            json_object_set_new(input, "stream", json_string(stream));
    }
}

static int make_config(struct ctl_feed *c, char *const *args, int n)
{
    json_t *section = ctl_inputs_section(&c->inputs, args, n), *root;
    const char *id;
    json_t *input;
    if (!section)
        return EX_USAGE;
    default_ids(section);
    json_object_foreach(section, id, input) if (c->feed.realtime &&
                                                strcmp(json_string_value(json_object_get(input, "type")), "audio") == 0)
        json_object_set_new(input, "pace", json_string("realtime"));
    root = json_pack("{s:{s:{s:s}}, s:o}", "models", "none", "path", ".", "inputs", section);
    char *text = root ? ctl_config_text(root) : NULL;
    int r = text ? md_config_parse("mambactl feed", text, c->sets, c->n_sets, false, stderr, &c->config) : -EINVAL;
    free(text);
    json_decref(root);
    return r ? EX_CONFIG : EX_OK;
}

static int open_sources(struct ctl_feed *c)
{
    const struct md_config *config = c->config;

    for (unsigned i = 0; i < config->n_inputs && i < SOURCES; i++) {
        const struct md_input_conf *in = &config->inputs[i];
        struct source *s = &c->sources[c->n_sources];
        char reterr[IO_ERR] = "";
        s->class_ = in->class_;
        int r = s->class_->open(in->conf, &c->feed.host, &s->self, reterr);
        if (r) {
            fprintf(stderr, "mambactl feed: %s\n", reterr[0] ? reterr : strerror(-r));
            return r == -ENOENT ? EX_NOINPUT : EX_DATAERR;
        }
        c->n_sources++;
    }
    return EX_OK;
}

static void close_sources(struct ctl_feed *c)
{
    for (unsigned i = 0; i < c->n_sources; i++)
        if (c->sources[i].self)
            c->sources[i].class_->close(c->sources[i].self);
    c->n_sources = 0;
}

/* What cannot be read a second time is kept instead. */
static bool is_pipe(const char *arg)
{
    struct stat st;
    return strcmp(arg, "-") == 0 || (stat(arg, &st) == 0 && !S_ISREG(st.st_mode));
}

/* Takes the signal, if one came. */
static bool interrupted(struct ctl_feed *c)
{
    struct signalfd_siginfo info;
    c->interrupted |= read(c->signals, &info, sizeof info) == sizeof info;
    return c->interrupted;
}

/* ---- loop ------------------------------------------------------------------------------------------------- */

static bool turn_sources(struct ctl_feed *c, int64_t *wake_ns, bool *ret_left)
{
    bool worked = false;
    *ret_left = false;
    for (unsigned i = 0; i < c->n_sources; i++) {
        struct source *s = &c->sources[i];
        int64_t wake = INT64_MAX;
        enum io_turn turn = s->self ? s->class_->turn(s->self, clock_ns(), &wake) : IO_TURN_WAIT;
        if (turn == IO_TURN_DONE) {
            s->class_->close(s->self);
            s->self = NULL;
        }
        worked |= turn != IO_TURN_WAIT;
        *ret_left |= s->self != NULL;
        *wake_ns = wake < *wake_ns ? wake : *wake_ns;
    }
    return worked;
}

/* Sends what is due; *ret_full: the peer takes no more now. */
static bool send_due(struct ctl_feed *c, int64_t *wake_ns, bool *ret_full)
{
    struct feed_message m;
    unsigned n = 0;
    *ret_full = c->feed.moved = false;
    while (n < SENDS_A_ROUND && feed_next(&c->feed, clock_ns(), &m, wake_ns)) {
        if (!feed_socket_send(&c->socket, &m)) {
            *ret_full = true;
            break;
        }
        feed_sent(&c->feed, &m);
        n++;
    }
    return n > 0 || c->feed.moved;
}

static void sleep_until(struct ctl_feed *c, int64_t wake_ns, bool full)
{
    zmq_pollitem_t items[SOURCES + 2] = {{.fd = c->signals, .events = ZMQ_POLLIN}};
    short events = (short)((full ? ZMQ_POLLOUT : 0) | (c->feed.reliable ? ZMQ_POLLIN : 0));
    int n = 1;
    for (unsigned i = 0; i < c->n_sources; i++)
        if (c->sources[i].self && c->sources[i].class_->fd)
            items[n++] = (zmq_pollitem_t){.fd = c->sources[i].class_->fd(c->sources[i].self), .events = ZMQ_POLLIN};
    if (events)
        items[n++] = (zmq_pollitem_t){.socket = c->socket.zmq.socket, .events = events};
    int64_t ms = wake_ns == INT64_MAX ? 1000 : (wake_ns - clock_ns() + 999999) / 1000000;
    zmq_poll(items, n, ms < 0 ? 0 : ms < 1000 ? (long)ms : 1000);
}

static void show_progress(const struct feed *f, double seconds)
{
    fprintf(stderr, "\r\x1b[K%llu of %llu streams sent, %llu samples, %.1f MB, %.3g samples/s",
            (unsigned long long)f->ended, (unsigned long long)f->started, (unsigned long long)f->rows,
            (double)f->bytes / 1e6, seconds > 0 ? (double)f->rows / seconds : 0);
    fflush(stderr);
}

static bool rewind_sources(struct ctl_feed *c)
{
    close_sources(c);
    feed_rewind(&c->feed);
    int code = open_sources(c);
    c->feed.code = code ? code : c->feed.code;
    c->feed.broken = code != EX_OK;
    return true;
}

/* What the receiver says; true: something. */
static bool hear(struct ctl_feed *c)
{
    struct feed *f = &c->feed;
    bool heard = false;
    zmq_msg_t m[2];
    zmq_msg_init(&m[0]);
    zmq_msg_init(&m[1]);
    while (feed_socket_receive(&c->socket, m)) {
        heard = true;
        feed_reliable_hear(f, clock_ns(), zmq_msg_data(&m[0]), zmq_msg_size(&m[0]), zmq_msg_data(&m[1]),
                           zmq_msg_size(&m[1]));
    }
    zmq_msg_close(&m[0]);
    zmq_msg_close(&m[1]);
    feed_reliable_sweep(f);
    if (f->n_streams == 0)
        f->heard_ns = clock_ns(); /* nothing was asked */
    if ((double)(clock_ns() - f->heard_ns) > c->wait_s * 1e9) {
        fprintf(stderr, "mambactl feed: no answer for %g s; run again to go on\n", c->wait_s);
        f->code = f->code ? f->code : EX_UNAVAILABLE;
        f->broken = true;
    }
    return heard;
}

static void feed_all(struct ctl_feed *c)
{
    enum { SHOW_NS = 200000000 };
    bool left = true, full, progress = !c->quiet && isatty(STDERR_FILENO);
    int64_t began = clock_ns(), shown = 0;
    while ((left || c->feed.n_streams) && !interrupted(c)) {
        int64_t wake = INT64_MAX;
        bool worked = turn_sources(c, &wake, &left);
        worked |= send_due(c, &wake, &full);
        worked |= c->feed.reliable && hear(c);
        if (c->feed.broken)
            break;
        if (c->feed.rewind)
            left = worked = rewind_sources(c);
        if (progress && clock_ns() - shown > SHOW_NS) {
            shown = clock_ns();
            show_progress(&c->feed, (double)(shown - began) / 1e9);
        }
        if ((!worked || full) && (left || c->feed.n_streams))
            sleep_until(c, wake, full);
    }
    if (c->interrupted && !c->feed.reliable) { /* the streams end here, as far as the peer still takes it */
        int64_t wake;
        feed_cut(&c->feed);
        while (send_due(c, &wake, &full) && !full)
            ;
    }
    if (progress) {
        show_progress(&c->feed, (double)(clock_ns() - began) / 1e9);
        fputc('\n', stderr);
    }
}

/* What became of it all. */
static int conclude(const struct ctl_feed *c)
{
    const struct feed *f = &c->feed;
    if (c->interrupted)
        fprintf(stderr, "mambactl feed: interrupted; streams that have not arrived: %u of %llu: run again to go on\n",
                f->n_streams, (unsigned long long)f->started);
    else if (!c->quiet && !f->code && !f->broken)
        fprintf(stderr, "%llu stream%s: all rows are %s\n", (unsigned long long)f->ended, md_s(f->ended),
                f->durable ? "durable" : "acked");
    return c->interrupted ? EX_IOERR : EX_OK;
}

static int send_all(struct ctl_feed *c)
{
    char reterr[IO_ERR] = "";
    int r = feed_socket_open(&c->socket, &c->ends, (long)(c->wait_s * 1e3), c->signals, reterr);
    if (r == -EINTR)
        return EX_OK;
    if (r) {
        fprintf(stderr, "mambactl feed: %s\n", reterr);
        return r == -EKEYREJECTED ? EX_CONFIG : EX_UNAVAILABLE;
    }
    c->feed.heard_ns = clock_ns();
    feed_all(c);
    if (c->feed.reliable)
        return conclude(c);
    if (!c->interrupted)
        feed_socket_drain(&c->socket, c->signals);
    return EX_OK;
}

static int feed_inputs(struct ctl_feed *c, char *const *args, int n)
{
    sigset_t set;
    int code = feed_init(&c->feed, "feed") ? EX_UNAVAILABLE : make_config(c, args, n);
    for (int i = 0; i < n; i++)
        c->feed.keep |= is_pipe(args[i]);
    if (code == EX_OK)
        code = open_sources(c);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before libzmq's threads */
    c->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (code == EX_OK)
        code = send_all(c);
    sigprocmask(SIG_UNBLOCK, &set, NULL); /* a signal ends the wait for a peer that does not take the rest */
    feed_socket_close(&c->socket, c->feed.reliable ? 0 : code || c->interrupted ? 1000000000 : INT64_MAX);
    close_sources(c);
    if (c->feed.host.pool) {
        code = code ? code : c->feed.code;
        feed_done(&c->feed);
    }
    md_config_free(&c->config);
    close(c->signals);
    return code;
}

/* ---- options ---------------------------------------------------------------------------------------------- */

static int refuse(const char *what, const char *about)
{
    fprintf(stderr, "mambactl feed: %s%s\n%s", what, about, usage);
    return EX_USAGE;
}

static int take_pair(bool *ret, const char *value, const char *yes, const char *no, const char *option)
{
    *ret = strcmp(value, yes) == 0;
    return *ret || strcmp(value, no) == 0 ? -1 : refuse(option, value);
}

static int take_number(double *ret, const char *value, double min, double max, const char *option)
{
    char *end;
    *ret = strtod(value, &end);
    return *value && !*end && *ret >= min && *ret <= max ? -1 : refuse(option, value);
}

/* −1: go on; else the exit code. */
static int take_option(struct ctl_feed *c, int option)
{
    double v = 0;
    int code;
    switch (option) {
    case 'b':
    case 'c':
        c->address[option == 'c'] = optarg;
        return -1;
    case 'P':
        return take_pair(&c->socket.pub, optarg, "pub", "push", "--pattern is push or pub, not ");
    case 'p':
        return take_pair(&c->feed.realtime, optarg, "realtime", "fast", "--pace is fast or realtime, not ");
    case 't':
        c->socket.topic = optarg;
        return -1;
    case 'k':
        code = take_number(&v, optarg, 1, 1 << 20, "--chunk is 1 to 1048576, not ");
        c->feed.chunk = (uint32_t)v;
        return code;
    case 'w':
        return take_number(&c->wait_s, optarg, 0, 1e6, "--wait is a number of seconds, not ");
    case 'i':
        c->ends.insecure = true;
        return -1;
    case 'r':
        c->feed.reliable = true;
        return -1;
    case 'u':
        return take_pair(&c->feed.durable, optarg, "durable", "acked", "--until is durable or acked, not ");
    case 'K':
        code = take_number(&v, optarg, 1, 1 << 20, "--keep is 1 to 1048576 MiB, not ");
        c->feed.kept_max = (size_t)v << 20;
        return code;
    case OPT_KEY:
        c->ends.curve_key = optarg;
        return -1;
    case OPT_SERVER_KEY:
        c->ends.curve_server = optarg;
        return -1;
    case OPT_CLIENTS:
        c->ends.curve_clients = optarg;
        return -1;
    case 's':
        c->sets[c->n_sets++] = optarg;
        return strchr(optarg, '=') ? -1 : refuse("--set needs KEY.PATH=VALUE, not ", optarg);
    case 'q':
        c->quiet = true;
        return -1;
    case 'h':
        printf("%s\n%s", usage, help);
        return EX_OK;
    default:
        if (ctl_inputs_option(&c->inputs, option, optarg))
            return -1;
        fputs(usage, stderr);
        return EX_USAGE;
    }
}

static int check_options(struct ctl_feed *c)
{
    const char *key;
    char reterr[IO_ERR] = "";
    if (c->wait_s < 0)
        c->wait_s = c->feed.reliable ? 60 : 10;
    c->socket.dealer = c->feed.reliable;
    if (c->feed.reliable && (c->socket.pub || c->socket.topic))
        return refuse("--pattern and --topic do not go with --reliable", "");
    c->ends.bind = (struct io_strings){&c->address[0], c->address[0] != NULL};
    c->ends.connect = (struct io_strings){&c->address[1], c->address[1] != NULL};
    if (!c->address[0] == !c->address[1])
        return refuse("an address is needed: either --connect or --bind", "");
    if (io_zmq_ends_check(&c->ends, &key, reterr) == 0)
        return -1;
    if (!strncmp(key, "curve_", 6))
        return refuse("--connect needs --key and --server-key, --bind needs --key and --clients, or none of them", "");
    return refuse(reterr, "");
}

int ctl_feed(int argc, char **argv)
{
    static const struct option longs[] = {CTL_INPUTS_LONG,
                                          {"bind", required_argument, NULL, 'b'},
                                          {"connect", required_argument, NULL, 'c'},
                                          {"pattern", required_argument, NULL, 'P'},
                                          {"topic", required_argument, NULL, 't'},
                                          {"pace", required_argument, NULL, 'p'},
                                          {"chunk", required_argument, NULL, 'k'},
                                          {"wait", required_argument, NULL, 'w'},
                                          {"reliable", no_argument, NULL, 'r'},
                                          {"until", required_argument, NULL, 'u'},
                                          {"keep", required_argument, NULL, 'K'},
                                          {"key", required_argument, NULL, OPT_KEY},
                                          {"server-key", required_argument, NULL, OPT_SERVER_KEY},
                                          {"clients", required_argument, NULL, OPT_CLIENTS},
                                          {"insecure", no_argument, NULL, 'i'},
                                          {"set", required_argument, NULL, 's'},
                                          {"quiet", no_argument, NULL, 'q'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct ctl_feed *c = calloc(1, sizeof *c);
    int option, code = -1;
    if (!c || !(c->sets = calloc((size_t)argc + 1, sizeof *c->sets)))
        return EX_UNAVAILABLE;
    c->inputs.command = "feed";
    c->wait_s = -1;
    c->feed.chunk = 1024;
    c->feed.durable = true;
    c->feed.kept_max = (size_t)64 << 20;
    while (code < 0 && (option = getopt_long(argc, argv, "q", longs, NULL)) != -1)
        code = take_option(c, option);
    if (code < 0)
        code = check_options(c);
    if (code < 0 && optind == argc)
        code = refuse("an input is needed", "");
    if (code < 0)
        code = feed_inputs(c, argv + optind, argc - optind);
    free(c->sets);
    free(c);
    return code;
}
