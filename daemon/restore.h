/* restore.h: what a snapshot has, back into a daemon that is being built: one stream record each, not live, that its
 * source then finds. A stream that was open goes on where it was if its input replays or nothing can be missing; else
 * its id is remembered and begins a new epoch.
 *
 * The file stays mapped as long as the daemon: slots are taken from it when their stream begins again. */
#ifndef MD_RESTORE_H
#define MD_RESTORE_H

#include "daemon/cut.h"

struct md_daemon;

struct md_saved_parts {
    const char *input, *model; /* not terminated */
    const struct md_run *runs;
    const uint8_t *slots;
    size_t slot_stride;
};

/* Where the parts of a saved stream lie; −EBADMSG where they do not fit into its bytes. */
int md_restored_parts(const struct md_restored *r, struct md_saved_parts *ret);

/* What the record says becomes what the stream, which is not live, is remembered by; none of its rows counts as
 * durable. goes_on: with its slots. */
void md_restored_take(struct io_stream *s, const struct md_restored *r, bool goes_on);

/* Main thread. Opens the newest snapshot: 0, also where there is none; a sysexits code where the folder cannot be read.
 */
int md_restore_open(struct md_daemon *d, char *reterr);
/* Main thread, before sources and outputs are opened. 0 or a sysexits code. */
int md_restore_streams(struct md_daemon *d, char *reterr);

/* The position that the snapshot has of an output; NULL: none. */
const struct io_position *md_restored_position(const struct md_snapshot_file *f, const char *output);

#endif
