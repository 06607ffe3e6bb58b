/* door.h: peers that the socket of an input, an output or the generation service did not let in: counted by reason, and
 * said in the log, at most once a second and reason. */
#ifndef MD_DOOR_H
#define MD_DOOR_H

#include "daemon/counters.h"

struct md_door {
    const char *subject; /* the input's or output's id, or server.generate */
    /* written by the adapter's thread that calls refused() */
    int64_t said_ns[IO_REFUSALS]; /* when the log heard of it last, */
    uint64_t more[IO_REFUSALS];   /* and how often it came since */
    md_count refused[IO_REFUSALS];
};

/* What an adapter is given. The subject is borrowed. */
struct io_door md_door_open(struct md_door *d, const char *subject);
json_t *md_door_json(struct md_door *d);

#endif
