/* generate.h: the generation service: ROUTER on server.generate, whose clients (DEALER) have byte models write texts.
 * Formats: docs/protocol.md. A thread of its own; engines write the texts (composer.h) beside their streams. */
#ifndef MD_GENERATE_H
#define MD_GENERATE_H

#include "daemon/daemon.h"
#include "daemon/door.h"

struct md_generate_counters {              /* written by the service's thread */
    md_count requests, refused, malformed; /* taken; refused for what they ask or for a limit; no requests at all */
    md_count ends, cancels, errors;        /* of texts: said to the client, each once */
    md_count gone, stalled;                /* given up: the client went away, or took nothing for too long */
    md_count bytes;                        /* sent */
    _Atomic uint32_t running;
    struct md_door door; /* peers that were not let in */
};

struct md_generate;

/* What the endpoint and keys must be; reads no file. 0 or −EINVAL with the key at fault, less "generate_", or "bind".
 */
int md_generate_check(const struct md_generate_conf *conf, const char **ret_key, char *reterr);
/* The key files: 0 or −EKEYREJECTED. */
int md_generate_keys(const struct md_generate_conf *conf, char *reterr);

/* The daemon runs. −EADDRINUSE and others. */
int md_generate_open(struct md_daemon *daemon, struct md_generate **ret, char *reterr);
/* Before the daemon stops: all texts end, their clients are told. */
void md_generate_close(struct md_generate **generate);

#endif
