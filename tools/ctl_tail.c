/* ctl_tail.c: `mambactl tail`: subscribes to a daemon's zmq output and shows it: JSON lines, or on a terminal a live
 * table. One thread; SIGINT and SIGTERM come through a descriptor, so that they end the loop between two messages. */
#include <fnmatch.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/config_value.h"
#include "io/zmq_endpoint.h"
#include "tools/mambactl.h"
#include "tools/tail_json.h"
#include "tools/tail_view.h"

enum { FRAME_MS = 200, DRAIN = 1000 };

static const char usage[] = "usage: mambactl tail ENDPOINT [--family NAME,...] [--stream ID|GLOB] [--json] [--count N] "
                            "[--for DURATION]\n"
                            "                     [--key FILE --server-key FILE]\n";
static const char help[] =
    "Shows what a daemon publishes on a zmq output, e.g. mambactl tail tcp://127.0.0.1:5556\n"
    "On a terminal: a live table of streams, forecasts and anomaly scores; elsewhere one JSON line per message.\n"
    "\n"
    "      --family NAME,...   only these: prediction embedding anomaly channel_anomaly surprise event sys\n"
    "      --stream ID|GLOB    only these streams\n"
    "      --json              JSON lines, on a terminal too\n"
    "      --count N           end after N messages\n"
    "      --for DURATION      end after this time (250ms, 10s, 5m)\n"
    "      --key FILE          secret key (mambactl keygen), where the output has CURVE, with\n"
    "      --server-key FILE   the public key of the output\n"
    "      --help              print this text and end\n"
    "\n"
    "Ends on SIGINT and SIGTERM. Exit codes: 0 done, 64 usage, 69 nothing came within --for, 74 output error,\n"
    "78 wrong key file.\n";

struct tail {
    char *endpoint;
    const char *stream;
    struct io_zmq_ends ends;
    unsigned families; /* bit per io_family */
    bool json, globbed;
    uint64_t count, shown; /* count 0: no end */
    int64_t for_ns;        /* −1: no end */
    struct tail_model model;
    struct tail_style style;
};

static int refuse_usage(const char *what, const char *about)
{
    fprintf(stderr, "mambactl tail: %s%s\n%s", what, about, usage);
    return EX_USAGE;
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- options ---- */

static int parse_families(const char *list, unsigned *ret)
{
    *ret = 0;
    for (const char *p = list;; p++) {
        size_t len = strcspn(p, ",");
        int f = tail_family(p, len);
        if (f < 0)
            return refuse_usage("unknown family in ", list);
        *ret |= 1u << f;
        p += len;
        if (!*p)
            return 0;
    }
}

static int parse_number(enum io_option_kind kind, const char *text, int64_t *ret)
{
    const struct io_option o = {.name = "", .kind = kind, .min = 1, .max = 9e15};
    char why[MD_WHY];

    return md_value_parse(&o, text, ret, why) ? refuse_usage(why, "") : 0;
}

/* −1: go on; else the exit code. */
static int parse_options(int argc, char **argv, struct tail *t)
{
    static const struct option longs[] = {{"family", required_argument, NULL, 'f'},
                                          {"stream", required_argument, NULL, 's'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"count", required_argument, NULL, 'n'},
                                          {"for", required_argument, NULL, 'd'},
                                          {"key", required_argument, NULL, 'K'},
                                          {"server-key", required_argument, NULL, 'S'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int64_t count = 0;
    int c, r = 0;

    while (!r && (c = getopt_long(argc, argv, "f:s:n:", longs, NULL)) != -1) {
        if (c == 'f')
            r = parse_families(optarg, &t->families);
        else if (c == 's')
            t->stream = optarg;
        else if (c == 'j')
            t->json = true;
        else if (c == 'n')
            r = parse_number(IO_OPT_INT, optarg, &count);
        else if (c == 'K')
            t->ends.curve_key = optarg;
        else if (c == 'S')
            t->ends.curve_server = optarg;
        else if (c == 'd')
            r = parse_number(IO_OPT_DURATION, optarg, &t->for_ns);
        else if (c == 'h')
            return printf("%s\n%s", usage, help) < 0 ? EX_IOERR : EX_OK;
        else
            r = fputs(usage, stderr) < 0 ? EX_IOERR : EX_USAGE;
    }
    if (r)
        return r;
    if (optind + 1 != argc)
        return refuse_usage(optind == argc ? "ENDPOINT is missing" : "one ENDPOINT at a time: ",
                            optind == argc ? "" : argv[optind + 1]);
    if (!t->ends.curve_key != !t->ends.curve_server)
        return refuse_usage("--key and --server-key go together", "");
    t->endpoint = argv[optind];
    t->count = (uint64_t)count;
    t->globbed = t->stream && strpbrk(t->stream, "*?[");
    return -1;
}

/* ---- socket ---- */

/* Exact streams are chosen by topic, at the publisher; globs here. */
static void subscribe(void *socket, const struct tail *t, enum io_family f)
{
    char topic[IO_TOPIC_MAX];
    size_t len = strlen(io_family_name(f)) + 1;

    if (t->stream && !t->globbed && f != IO_SYS && io_id_valid(t->stream, strlen(t->stream)))
        len = io_topic_write(topic, f, t->stream);
    else
        io_topic_write(topic, f, "");
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, topic, len);
}

static void say_refused(void *self, enum io_refusal why, const char *text)
{
    const struct tail *t = self;

    if (t->json)
        fprintf(stderr, "mambactl tail: %s\n", text);
}

static int open_socket(struct tail *t, struct io_zmq *z)
{
    const struct io_door door = {t, say_refused};
    int hwm = 100000, r;
    char reterr[IO_ERR] = "";

    t->ends.connect = (struct io_strings){&t->endpoint, 1};
    r = io_zmq_open(z, ZMQ_SUB, reterr);
    if (r == 0) {
        zmq_setsockopt(z->socket, ZMQ_RCVHWM, &hwm, sizeof hwm);
        for (int f = 0; f < IO_FAMILIES; f++)
            if (t->families & 1u << f || (f == IO_SYS && !t->json))
                subscribe(z->socket, t, (enum io_family)f);
        r = io_zmq_attach(z, &t->ends, &door, reterr);
    }
    if (r == 0)
        return 0;
    fprintf(stderr, "mambactl tail: %s\n", reterr);
    return r == -EKEYREJECTED ? EX_CONFIG : EX_USAGE;
}

static bool wanted(const struct tail *t, const struct tail_message *msg)
{
    if (!t->globbed)
        return true;
    json_t *root = json_loadb(msg->header, msg->header_len, 0, NULL);
    const char *id = json_string_value(json_object_get(root, "stream"));
    bool yes = (!t->json && msg->topic_len > 4 && !memcmp(msg->topic, "sys/", 4)) || (id && !fnmatch(t->stream, id, 0));
    json_decref(root);
    return yes;
}

/* Takes what has arrived, up to a bound, so that the view is drawn under any load. */
static void drain(struct tail *t, void *socket)
{
    zmq_msg_t frames[3];

    for (int i = 0; i < 3; i++)
        zmq_msg_init(&frames[i]);
    for (int k = 0; k < DRAIN && (!t->count || t->shown < t->count); k++) {
        unsigned n = 0;
        do {
            if (zmq_msg_recv(&frames[n < 3 ? n : 2], socket, ZMQ_DONTWAIT) < 0)
                goto done;
        } while (zmq_msg_more(&frames[n < 3 ? n : 2]) && ++n);
        struct tail_message msg = {.topic = zmq_msg_data(&frames[0]),
                                   .header = zmq_msg_data(&frames[1]),
                                   .payload = zmq_msg_data(&frames[2]),
                                   .topic_len = zmq_msg_size(&frames[0]),
                                   .header_len = zmq_msg_size(&frames[1]),
                                   .bytes = zmq_msg_size(&frames[2])};
        if (n == 2 && wanted(t, &msg))
            t->shown += !(t->json ? tail_json_line(stdout, &msg) : tail_model_add(&t->model, &msg));
    }
done:
    for (int i = 0; i < 3; i++)
        zmq_msg_close(&frames[i]);
}

/* ---- the loop ---- */

static void draw(struct tail *t)
{
    struct winsize w;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || !w.ws_col || !w.ws_row)
        w = (struct winsize){.ws_col = 80, .ws_row = 24};
    tail_view_draw(stdout, &t->model, t->endpoint, t->style, w.ws_col, w.ws_row);
}

static int loop(struct tail *t, void *socket, int signals)
{
    zmq_pollitem_t items[2] = {{.socket = socket, .events = ZMQ_POLLIN}, {.fd = signals, .events = ZMQ_POLLIN}};
    int64_t now = now_ns(), end = t->for_ns >= 0 ? now + t->for_ns : INT64_MAX, ticked = now;

    while (now < end && !(t->count && t->shown >= t->count) && !(items[1].revents & ZMQ_POLLIN)) {
        int64_t next = t->json ? end : ticked + FRAME_MS * 1000000;
        next = next < end ? next : end;
        zmq_poll(items, 2, next == INT64_MAX ? -1 : (long)((next - now + 999999) / 1000000));
        drain(t, socket);
        now = now_ns();
        if (!t->json && now >= ticked + FRAME_MS * 1000000) {
            tail_model_tick(&t->model, (double)(now - ticked) * 1e-9);
            draw(t);
            ticked = now;
        }
        if (fflush(stdout) || ferror(stdout))
            return EX_IOERR; /* mambactl.c says so */
    }
    if (!t->json)
        draw(t);
    if (t->shown == 0 && now >= end) {
        fprintf(stderr, "mambactl tail: nothing came from %s\n", t->endpoint);
        return EX_UNAVAILABLE;
    }
    return EX_OK;
}

/* The terminal's: a locale that is not named leaves UTF-8 likely, one that is named decides. */
static struct tail_style style_of_terminal(void)
{
    const char *names[] = {getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")}, *locale = NULL,
               *term = getenv("TERM");

    for (int i = 0; i < 3 && !locale; i++)
        locale = names[i] && *names[i] ? names[i] : NULL;
    return (struct tail_style){
        .utf8 = !locale || strcasestr(locale, "utf-8") || strcasestr(locale, "utf8"),
        .colour = !getenv("NO_COLOR") && term && strcmp(term, "dumb"),
    };
}

int ctl_tail(int argc, char **argv)
{
    struct tail t = {.families = (1u << IO_FAMILIES) - 1, .for_ns = -1};
    int r = parse_options(argc, argv, &t), signals;
    struct io_zmq z = {0};
    sigset_t set;

    if (r >= 0)
        return r;
    t.json = t.json || !isatty(STDOUT_FILENO);
    t.style = style_of_terminal();
    tail_model_init(&t.model);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    r = open_socket(&t, &z);
    if (!r && !t.json)
        fputs("\033[?25l\033[2J", stdout); /* no cursor */
    if (!r)
        r = loop(&t, z.socket, signals);
    if (!t.json)
        fputs("\033[?25h", stdout);
    if (fflush(stdout) && !r)
        r = EX_IOERR;
    io_zmq_close(&z, 0);
    close(signals);
    tail_model_done(&t.model);
    return r;
}
