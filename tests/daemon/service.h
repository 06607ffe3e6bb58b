/* service.h: a whole daemon inside a test: a small random signal model, ZeroMQ inputs fed through real sockets, a JSON
 * lines output whose lines are read back as rows and events. */
#ifndef TEST_DAEMON_SERVICE_H
#define TEST_DAEMON_SERVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/daemon.h"
#include "io/block.h"

struct service {
    char dir[64];
    struct md_config *config;
    struct md_daemon *daemon;
    int code;            /* that its end is to have */
    void *zmq, *push[4]; /* one socket for each input in0 … in3 */
};

/* A folder with a model in it, shared by all tests of a program: patch 4, horizon 6, 3 quantiles, embedding 20, mask.
 */
const char *service_model(void);
void service_sweep(void);

/* Starts a daemon from a configuration text, in which MODEL, DIR and the endpoints IN0 … IN3 are replaced. */
void service_start(struct service *s, const char *yaml, unsigned flags);
/* Stops it; the output out.jsonl as a list of objects. */
json_t *service_stop(struct service *s);
void service_done(struct service *s);

/* One `array` message of n rows. `extra` is JSON text of more keys ("" or ",\"seq\":4"). */
void service_send(struct service *s, unsigned input, const char *stream, const float *x, size_t n, size_t channels,
                  const char *extra);
/* A message as it stands: header, payload, times (NULL: none). */
void service_send_frames(struct service *s, unsigned input, const char *header, const void *payload,
                         size_t payload_bytes, const void *times, size_t times_bytes);
void service_end(struct service *s, unsigned input, const char *stream);

/* Streams s`from` … of two digits, below s`to`, on input 0, each from 0 to `rows`, in a random order of streams, and
 * their ends. `some` sends a message of up to `most` rows from *at on, and moves that on. *chance: what chance begins
 * with. */
void service_send_mixed(struct service *s, unsigned from, unsigned to, unsigned rows, unsigned most, unsigned *chance,
                        void (*some)(struct service *s, unsigned stream, unsigned *at, unsigned most));

/* Waits until the number at a path ("inputs.in0.stream_ends_total") of the status is at least `least`; its value. */
uint64_t service_wait(struct service *s, const char *path, uint64_t least);
uint64_t service_count(struct service *s, const char *path);

/* The rows of a family as one text per row, "stream epoch seq values…", sorted; events as "stream epoch name …". */
struct texts {
    char **v;
    size_t n, cap;
};
struct texts texts_rows(json_t *lines, const char *family, const char *stream); /* stream NULL: all */
struct texts texts_events(json_t *lines, const char *stream);
void texts_free(struct texts *t);
void assert_same_rows(json_t *a, json_t *b, const char *family, const char *stream);
size_t events_of(json_t *lines, const char *stream, const char *event); /* how many */
json_t *event_of(json_t *lines, const char *stream, const char *event); /* the first, or NULL */

#endif
