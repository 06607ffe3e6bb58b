/* roster.h: the files that an input's names and globs stand for, those that come while it is followed, and whose turn
 * it is. For adapters that keep something of their own for each file. On the source's thread. */
#ifndef IO_ROSTER_H
#define IO_ROSTER_H

#include "io/files.h"

struct io_roster {
    /* the adapter's, before io_roster_fill() */
    const struct io_strings *patterns;
    bool follow;     /* files may come later, and none is ever done with */
    int64_t poll_ns; /* the adapter looks for more in a file as often; for new files it is a second at least */
    unsigned window; /* of files that are not followed, so many are read at a time */
    const struct io_host *host;
    void *self;
    /* What it keeps of a file, which stays its own. fresh: the file was not there at the start. */
    int (*add)(void *self, const struct io_file *file, bool fresh, void **ret_item, char *reterr);
    /* A bounded piece of work, if any is due. True: it will never have more; else *ret_wake_ns says when it wants the
     * next turn. It gets one at every turn of the input: whoever waits for room in the daemon may have it at any. */
    bool (*turn)(void *self, void *item, int64_t now_ns, int64_t *ret_wake_ns);
    bool (*at_end)(void *item, int64_t now_ns); /* of a followed file: all that is there now was read */

    struct io_roster_entry {
        void *item;
        bool done;
    } * v; /* in the order in which they were found */
    unsigned n;
    unsigned first, at; /* those before `first` are done; whose turn it was last */
    int64_t rescan_ns;  /* when to look for new files */
    bool said;          /* that this failed */
    void *paths;        /* search tree */
};

/* What there is now. Of a followed input a name without a file is one that is awaited. */
int io_roster_fill(struct io_roster *r, char *reterr);
/* The input's turn: new files, then each that may be open. */
enum io_turn io_roster_turn(struct io_roster *r, int64_t now_ns, int64_t *ret_wake_ns);
void io_roster_done(struct io_roster *r); /* after the items */

#endif
