/* tail_model.h: what the live view of `mambactl tail` knows about the streams it hears. One thread. */
#ifndef TOOLS_TAIL_MODEL_H
#define TOOLS_TAIL_MODEL_H

#include <stdio.h>

#include "io/wire.h"

struct tail_message { /* as received; borrowed */
    const char *topic, *header;
    size_t topic_len, header_len;
    const void *payload; /* at any address */
    size_t bytes;
};

enum { TAIL_AHEAD = 64, TAIL_HISTORY = 64, TAIL_EVENTS = 32, TAIL_STREAMS = 20000 };

struct tail_stream {
    char *id;
    double rate; /* −1: not told yet, 0: irregular */
    uint32_t channels;
    uint64_t rows; /* since the last tick */
    double rows_s; /* smoothed */
    bool forecast, scored, warmup, ended;
    float next, low, high;   /* first sample ahead: median, outer quantiles */
    float ahead[TAIL_AHEAD]; /* medians over the horizon */
    unsigned n_ahead;
    float score;                    /* highest since the last tick; −1: none */
    float shown;                    /* what the score column says: falls slowly, so that a peak can be read */
    float history[TAIL_HISTORY];    /* per tick, newest last; NaN: none */
    uint64_t run, due[IO_FAMILIES]; /* out_seq that the next message is to have; 0: none seen */
};

struct tail_event {
    char time[9], id[IO_ID_MAX + 1], text[200];
    bool alarming;
};

struct tail_model {
    struct tail_stream **streams;          /* by id */
    unsigned n, capacity, unseen;          /* unseen: streams beyond TAIL_STREAMS */
    struct tail_event events[TAIL_EVENTS]; /* ring; the newest is events[(n_events − 1) % TAIL_EVENTS] */
    uint64_t n_events;
    uint64_t messages, rows, lost; /* lost: rows that out_seq says were published and did not arrive */
    double messages_s, rows_s, latency_us;
    uint64_t ticked_messages, ticked_rows;
    uint64_t run;
    double uptime_s; /* −1: no heartbeat yet */
};

/* A family by its name in text[0..len): io_family, or −1. */
int tail_family(const char *text, size_t len);

void tail_model_init(struct tail_model *m);
void tail_model_done(struct tail_model *m);
int tail_model_add(struct tail_model *m, const struct tail_message *msg); /* −EBADMSG: not one of mambad's */
void tail_model_tick(struct tail_model *m, double seconds);               /* since the tick before */

#endif
