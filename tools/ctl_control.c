/* ctl_control.c: see ctl_control.h. libzmq waits without a word for a peer that is not there, so the socket file is
 * tried with a plain connect() first: a daemon that is not running is said at once, with the reason. */
#include "tools/ctl_control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/config.h"
#include "daemon/config_value.h"

static int parse_timeout(struct ctl_target *target, const char *text)
{
    static const struct io_option option = {
        .name = "timeout", .kind = IO_OPT_DURATION, .fallback = "5s", .min = 1e6, .max = 3600e9};
    char why[MD_WHY];
    int64_t ns;

    if (md_value_parse(&option, text, &ns, why) < 0) {
        fprintf(stderr, "mambactl %s: --timeout: %s\n", target->command, why);
        return EX_USAGE;
    }
    target->timeout_ms = (int)(ns / 1000000);
    return -1;
}

bool ctl_control_option(struct ctl_target *target, int option, const char *value, int *ret_code)
{
    *ret_code = -1;
    switch (option) {
    case 'C':
        target->control = value;
        return true;
    case 'c':
        target->config = value;
        return true;
    case 'j':
        target->json = true;
        return true;
    case 'T':
        *ret_code = parse_timeout(target, value);
        return true;
    default:
        return false;
    }
}

/* ---- which endpoint --------------------------------------------------------------------------------------------- */

static int endpoint_of_config(const struct ctl_target *target, char **ret)
{
    struct md_config *config = NULL;
    int rc = md_config_load(target->config, NULL, 0, false, stderr, &config);

    if (rc < 0)
        return rc == -ENOENT ? EX_NOINPUT : EX_CONFIG;
    *ret = config->control ? strdup(config->control) : NULL;
    md_config_free(&config);
    if (*ret)
        return 0;
    fprintf(stderr, "mambactl %s: %s has no server.control\n", target->command, target->config);
    return EX_CONFIG;
}

static int find_endpoint(const struct ctl_target *target, char **ret)
{
    const char *given = target->control ? target->control : getenv("MAMBAD_CONTROL");

    if (target->config && !target->control)
        return endpoint_of_config(target, ret);
    if (!given || !*given) {
        fprintf(stderr, "mambactl %s: which daemon? --control ENDPOINT, -c FILE or MAMBAD_CONTROL says it\n",
                target->command);
        return EX_USAGE;
    }
    if (asprintf(ret, "%s%s", strstr(given, "://") ? "" : "ipc://", given) < 0)
        *ret = NULL;
    return *ret ? 0 : EX_UNAVAILABLE;
}

static int unavailable(const struct ctl_target *target, const char *endpoint, const char *why)
{
    fprintf(stderr, "mambactl %s: %s: %s\n", target->command, endpoint, why);
    return EX_UNAVAILABLE;
}

/* 0: somebody listens there; an errno, EINVAL where it is no ipc:// endpoint. */
static int serves(const char *endpoint)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = endpoint + strlen("ipc://");
    int fd, rc;

    if (strncmp(endpoint, "ipc://", 6) || strlen(path) >= sizeof address.sun_path)
        return EINVAL;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    rc = fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int knock(const struct ctl_target *target, const char *endpoint)
{
    int rc = serves(endpoint);

    return !rc ? 0
               : unavailable(target, endpoint,
                             rc == EINVAL         ? "is not an ipc:// endpoint"
                             : rc == ECONNREFUSED ? "nobody serves it"
                                                  : strerror(rc));
}

/* ---- one exchange ----------------------------------------------------------------------------------------------- */

/* The reply as text into *ret_message, which the caller closes; an exit code. */
static int exchange(const struct ctl_target *target, const char *endpoint, void *socket, const char *request,
                    zmq_msg_t *ret_message)
{
    int linger = 0, timeout = target->timeout_ms;

    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout, sizeof timeout);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    if (zmq_connect(socket, endpoint) < 0 || zmq_send(socket, request, strlen(request), 0) < 0 ||
        zmq_msg_recv(ret_message, socket, 0) < 0)
        return unavailable(target, endpoint, errno == EAGAIN ? "no reply" : zmq_strerror(errno));
    return 0;
}

static int read_reply(const struct ctl_target *target, const char *endpoint, zmq_msg_t *message, json_t **ret)
{
    json_error_t error;
    json_t *reply = json_loadb(zmq_msg_data(message), zmq_msg_size(message), 0, &error);
    const char *why = json_string_value(json_object_get(reply, "error"));
    int rc = 0;

    if (!json_is_object(reply))
        rc = unavailable(target, endpoint, "the reply is not a JSON object");
    else if (!json_is_true(json_object_get(reply, "ok")))
        rc = unavailable(target, endpoint, why ? why : "refused");
    if (rc)
        json_decref(reply);
    else
        *ret = reply;
    return rc;
}

int ctl_control_request(const struct ctl_target *target, json_t *request, json_t **ret_reply)
{
    char *endpoint = NULL, *text = json_dumps(request, JSON_COMPACT);
    void *context = NULL, *socket = NULL;
    zmq_msg_t message;
    int rc;

    json_decref(request);
    if (!text) {
        fprintf(stderr, "mambactl %s: the arguments are not UTF-8\n", target->command);
        return EX_USAGE;
    }
    zmq_msg_init(&message);
    rc = find_endpoint(target, &endpoint);
    if (rc == 0)
        rc = knock(target, endpoint);
    if (rc == 0) {
        context = zmq_ctx_new();
        socket = context ? zmq_socket(context, ZMQ_REQ) : NULL;
        rc = socket ? exchange(target, endpoint, socket, text, &message) : EX_UNAVAILABLE;
    }
    if (rc == 0)
        rc = read_reply(target, endpoint, &message, ret_reply);
    zmq_msg_close(&message);
    if (socket)
        zmq_close(socket);
    if (context)
        zmq_ctx_term(context);
    free(endpoint);
    free(text);
    return rc;
}

int ctl_control_options(struct ctl_target *target, int argc, char **argv, const char *usage, const char *help,
                        const char **ret_operand)
{
    static const struct option longs[] = {CTL_CONTROL_LONG, {NULL, 0, NULL, 0}};
    int c, code = -1;

    optind = 1;
    while (code < 0 && (c = getopt_long(argc, argv, CTL_CONTROL_SHORT, longs, NULL)) != -1) {
        if (c == 'h') {
            printf("%s\n%s", usage, help);
            return EX_OK;
        }
        if (!ctl_control_option(target, c, optarg, &code))
            code = EX_USAGE;
    }
    if (code < 0 && optind + (ret_operand != NULL) != argc)
        code = EX_USAGE;
    if (code == EX_USAGE)
        fputs(usage, stderr);
    if (code < 0 && ret_operand)
        *ret_operand = argv[optind];
    return code;
}

/* ---- what takes its time ----------------------------------------------------------------------------------------- */

enum { POLL_US = 20000 };

int ctl_control_ask(const struct ctl_target *target, const char *section, json_t **ret)
{
    json_t *reply = NULL, *part = NULL;
    int code = ctl_control_request(target, json_pack("{s:s}", "command", target->command), &reply);
    json_int_t number = json_integer_value(json_object_get(reply, "number"));

    json_decref(reply);
    while (code == EX_OK) {
        code = ctl_control_request(target, json_pack("{s:s}", "command", "status"), &reply);
        if (code)
            break;
        part = json_object_get(reply, section);
        if (json_integer_value(json_object_get(part, "answered")) >= number) {
            *ret = json_incref(part);
            json_decref(reply);
            break;
        }
        json_decref(reply);
        usleep(POLL_US);
    }
    return code;
}

int ctl_control_gone(const struct ctl_target *target)
{
    char *endpoint = NULL;
    int code = find_endpoint(target, &endpoint);

    while (code == EX_OK && serves(endpoint) == 0)
        usleep(POLL_US);
    free(endpoint);
    return code;
}
