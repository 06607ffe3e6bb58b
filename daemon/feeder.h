/* feeder.h: a source thread. Most sources have one to themselves, as have sinks that may wait; libhdf5's users, sources
 * and sinks, share one, whose turns go round-robin. It sleeps in poll() on the sources' descriptors, on an eventfd (room
 * in a queue, a message for a sink, the end), and until the earliest time that a source asked for. */
#ifndef MD_FEEDER_H
#define MD_FEEDER_H

#include <poll.h>
#include <semaphore.h>

#include "daemon/input.h"
#include "daemon/output.h"

struct md_nap {
    int64_t from_ns;  /* since when the source naps, its descriptor not polled; 0: it does not */
    int64_t awake_ns; /* since when it does not */
    unsigned dense;   /* wake-ups in a row that came within the length of a nap */
};

struct md_feeder {
    const char *group; /* the adapters' `thread`; NULL: it serves one adapter only */
    struct md_input **inputs;
    int64_t *wake_ns;           /* [n_inputs] when each wants its next turn; 0: at once */
    struct md_nap *naps;        /* [n_inputs] */
    struct pollfd *polls;       /* [n_inputs + 1] */
    struct md_output **outputs; /* sinks served here */
    unsigned n_inputs, n_outputs;
    int wake_fd;
    int64_t nap_ns;           /* how long a source that has just brought messages is left alone */
    _Atomic int *finite_left; /* inputs that have yet to say DONE, of those that count; shared by all feeders */
    void (*finished)(void *); /* the last of them did */
    void *arg;
    _Atomic bool mute, quit; /* mute: no more turns for sources; quit: end when the sinks have nothing left */
    sem_t opened, go, muted; /* posted once each: all is open or `failed` is set; begin; the last turn is over */
    bool ack;                /* muted was posted */
    int failed;              /* sysexits code of what could not be opened; `reterr` names it */
    char reterr[IO_ERR];
    int64_t linger_ns; /* for the sinks' close */
    pthread_t thread;
    bool running;
    bool silent; /* its last turn is over, and that was heard of */
    bool keep;   /* at the end sources and sinks stay open */
};

/* Room for n inputs and outputs; they are added afterwards. */
int md_feeder_init(struct md_feeder *f, unsigned n_inputs, unsigned n_outputs);
/* Starts the thread, which opens those of its sinks and sources that are not open; returns when it has: 0 or `failed`. */
int md_feeder_open(struct md_feeder *f);
void md_feeder_go(struct md_feeder *f);
/* No more turns, from now to the end: returns when the last one is over; false: not until the deadline. */
bool md_feeder_mute(struct md_feeder *f, int64_t deadline_ns);
/* The thread writes what its sinks still have, closes everything unless it is to `keep` it, and ends. */
void md_feeder_quit(struct md_feeder *f, int64_t linger_ns);
void md_feeder_join(struct md_feeder *f);
void md_feeder_done(struct md_feeder *f);

#endif
