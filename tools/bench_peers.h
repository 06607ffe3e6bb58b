/* bench_peers.h: the two processes around a daemon under measurement: one sends, one subscribes. They are forked before
 * the daemon has threads, and their CPU time is not its own. */
#ifndef TOOLS_BENCH_PEERS_H
#define TOOLS_BENCH_PEERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct bench_peer {
    pid_t pid;
    int to, from; /* pipes */
};

/* Sends float32 messages of `samples` rows on a PUSH socket, stream after stream in turn. */
int bench_sender_start(struct bench_peer *p, const char *endpoint, uint32_t streams, uint32_t samples, unsigned burst);
void bench_sender_send(struct bench_peer *p, uint64_t messages,
                       double per_second); /* 0: as fast as it goes; returns at once */

/* Counts what a PUB socket sends. */
int bench_subscriber_start(struct bench_peer *p, const char *endpoint);
uint64_t bench_subscriber_count(struct bench_peer *p); /* messages so far, heartbeats left out */
bool bench_subscriber_joined(struct bench_peer *p);    /* it has heard a heartbeat */

void bench_peer_stop(struct bench_peer *p);

#endif
