/* play.c: the list of an input's files and the turns in which they are played. Runs on the source's thread; owns the
 * file list, the ids and the tracks that are open.
 *
 * All regular files are opened once before the first turn, so that a wrong one is an error at start and not a surprise
 * in the night. Pipes are not: closing one would end its writer. Trap: EPOLLONESHOT keeps a pipe that waits for room in
 * a queue from waking the thread over and over; it is armed only after the pipe was found empty. */
#include "io/play.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/stream_id.h"
#include "io/track.h"

enum {
    OPEN_FAST = 64,       /* files open at once, the rest wait */
    OPEN_REALTIME = 4096, /* all play together */
    OPENS_A_TURN = 4,
    STEPS_A_TURN = 16
};
static const int64_t slot_retry_ns = 100000000;
enum { SLOT_TRIES = 50 };

struct entry {
    char id[IO_ID_MAX + 1];
    int refused;      /* the io_reason for which the file is left out, or −1 */
    const char *twin; /* the path that has the same id */
};

struct io_play {
    struct io_track_shared shared;
    struct io_files files;
    struct entry *entries; /* [files.n] */
    struct io_track **tracks;
    unsigned n_tracks, open_max, next_file, next_track;
    int64_t open_ns; /* not before this is the next file opened */
};

/* ---- the list --------------------------------------------------------------------------------------------- */

static const char default_id[] = "{input}:{path}";

int io_play_check(const struct io_common *common, const char **ret_key, char *reterr)
{
    const struct io_id_parts usable = {.input = "", .path = "", .stem = ""};
    *ret_key = "stream";
    return common->stream ? io_id_check(common->stream, &usable, reterr) : 0;
}

static int by_id(const void *a, const void *b)
{
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    int c = strcmp(x->id, y->id);
    return c ? c : (x > y) - (x < y);
}

/* Gives every file its id; of files with the same id the first is played. */
static int name_streams(struct io_play *p)
{
    const struct io_common *c = p->shared.conf.common;
    p->entries = calloc(p->files.n + 1u, sizeof *p->entries);
    struct entry **order = calloc(p->files.n + 1u, sizeof *order);
    if (!p->entries || !order) {
        free(order);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < p->files.n; i++) {
        struct io_id_parts parts = {
            .input = p->shared.host.input, .path = p->files.v[i].rel, .stem = p->files.v[i].stem};
        int r = io_id_expand(c->stream ? c->stream : default_id, &parts, p->entries[i].id);
        p->entries[i].refused = r ? IO_R_ID : -1;
        order[i] = &p->entries[i];
    }
    qsort(order, p->files.n, sizeof *order, by_id);
    for (unsigned i = 1, first = 0; i < p->files.n; i++) {
        if (order[i]->refused < 0 && strcmp(order[i]->id, order[first]->id) == 0) {
            order[i]->refused = IO_R_DUPLICATE_STREAM;
            order[i]->twin = p->files.v[order[first] - p->entries].path;
        } else {
            first = i;
        }
    }
    free(order);
    return 0;
}

static bool is_pipe(const char *path)
{
    struct stat st;
    return strcmp(path, "-") == 0 || (stat(path, &st) == 0 && !S_ISREG(st.st_mode));
}

/* Opens a regular file and closes it again. */
static int look(const struct io_play *p, const char *path, struct io_play_format *ret, char *reterr)
{
    const struct io_reader_class *reader = p->shared.conf.reader;
    void *self;
    int r = reader->open(p->shared.conf.reader_conf, path, &self, reterr);
    if (r)
        return r;
    r = reader->format(self, ret, reterr);
    reader->close(self);
    return r;
}

/* Would the file play? Of a regular one its rate is settled too. */
static int probe(const struct io_play *p, const char *path, char *reterr)
{
    struct io_play_format format;
    double rate;
    bool resample;
    if (is_pipe(path)) {
        if (p->shared.conf.reader->fd)
            return 0;
        snprintf(reterr, IO_ERR, "%s: not a regular file", path);
        return -EBADMSG;
    }
    int r = look(p, path, &format, reterr);
    return r ? r : io_track_rate(&p->shared, path, &format, &rate, &resample, reterr);
}

int io_play_open(const struct io_play_conf *conf, const struct io_host *host, void **ret_self, char *reterr)
{
    struct io_play *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->shared = (struct io_track_shared){.conf = *conf, .host = *host, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    p->open_max = conf->realtime ? OPEN_REALTIME : OPEN_FAST;
    p->open_ns = INT64_MIN;
    p->tracks = calloc(p->open_max, sizeof *p->tracks);
    p->shared.times = calloc(IO_PLAY_ROWS, sizeof *p->shared.times);
    int r = p->shared.epoll < 0 ? -errno : p->tracks && p->shared.times ? 0 : -ENOMEM;
    if (r == 0)
        r = io_files_expand(conf->files, false, &p->files, reterr);
    if (r == 0)
        r = name_streams(p);
    for (unsigned i = 0; i < p->files.n && r == 0; i++)
        r = probe(p, p->files.v[i].path, reterr);
    if (r)
        io_play_close(p);
    else
        *ret_self = p;
    return r;
}

void io_play_close(void *self)
{
    struct io_play *p = self;
    for (unsigned i = 0; i < p->n_tracks; i++) {
        io_track_close(p->tracks[i]);
        free(p->tracks[i]);
    }
    for (unsigned i = 0; i < p->shared.n_plans; i++)
        io_resample_plan_free(&p->shared.plans[i].plan);
    if (p->shared.epoll >= 0)
        close(p->shared.epoll);
    io_files_free(&p->files);
    free(p->shared.plans);
    free(p->shared.in);
    free(p->shared.out);
    free(p->shared.times);
    free(p->tracks);
    free(p->entries);
    free(p);
}

int io_play_fd(void *self)
{
    return ((struct io_play *)self)->shared.epoll;
}

/* ---- turns ------------------------------------------------------------------------------------------------ */

static void refuse(const struct io_play *p, const char *path, const struct entry *e)
{
    struct io_play_format format = {.rows = -1};
    char why[IO_ERR] = "";
    if (!is_pipe(path))
        look(p, path, &format, why);
    if (e->twin)
        snprintf(why, sizeof why, "the same stream id as %s", e->twin);
    else
        snprintf(why, sizeof why, "makes no valid stream id of at most %d bytes", IO_ID_MAX);
    io_track_leave_out(&p->shared, (enum io_reason)e->refused, path, e->twin ? e->id : NULL, &format, why);
}

/* Opens the next file of the list, or says why it is left out. */
static void open_next(struct io_play *p, int64_t now_ns)
{
    char reterr[IO_ERR] = "";
    const struct entry *e = &p->entries[p->next_file];
    const char *path = p->files.v[p->next_file].path;
    if (e->refused >= 0) {
        refuse(p, path, e);
        p->next_file++;
        return;
    }
    struct io_track *t = malloc(sizeof *t);
    int r = t ? io_track_open(&p->shared, path, e->id, t, reterr) : -ENOMEM;
    if (r == 0) {
        p->tracks[p->n_tracks++] = t;
        p->next_file++;
        return;
    }
    free(t);
    if ((r == -EMFILE || r == -ENFILE || r == -ENOMEM) && p->n_tracks) { /* wait for a track to end */
        p->open_ns = now_ns + slot_retry_ns;
        return;
    }
    p->shared.host.discard(p->shared.host.self, IO_R_FILE, e->id, 0, reterr[0] ? reterr : strerror(-r));
    p->next_file++;
}

static void drop_track(struct io_play *p, unsigned i)
{
    io_track_close(p->tracks[i]);
    free(p->tracks[i]);
    memmove(p->tracks + i, p->tracks + i + 1, (--p->n_tracks - i) * sizeof *p->tracks);
}

/* The model has no slot for one more stream: play fewer at once from now on and try again when some have ended. Where
 * no other file of this input plays, none will: then the file is given up. */
static bool wait_for_slot(struct io_play *p, struct io_track *t, int64_t now_ns)
{
    unsigned playing = 0;
    for (unsigned i = 0; i < p->n_tracks; i++)
        playing += p->tracks[i]->stream != NULL;
    if (playing) {
        p->open_max = playing < p->open_max ? playing : p->open_max;
    } else if (++t->tries == SLOT_TRIES) {
        io_track_give_up(t, IO_R_STREAMS, "no slot came free for it");
        return false;
    }
    t->wake_ns = now_ns + slot_retry_ns;
    return true;
}

/* Steps the tracks in turn, beginning where the last turn stopped; returns whether any did something. */
static bool step_tracks(struct io_play *p, int64_t now_ns, int64_t *wake_ns)
{
    unsigned worked = 0;
    for (unsigned left = p->n_tracks; left > 0 && worked < STEPS_A_TURN; left--) {
        unsigned i = p->next_track < p->n_tracks ? p->next_track : 0;
        struct io_track *t = p->tracks[i];
        bool asleep = !(t->pending && t->stream) && t->wake_ns > now_ns && t->wake_ns != INT64_MAX;
        enum io_track_step step = asleep ? IO_TRACK_WAITS : io_track_step(t, now_ns);
        p->next_track = i + 1;
        bool over = step == IO_TRACK_ENDED || (step == IO_TRACK_NO_SLOT && !wait_for_slot(p, t, now_ns));
        worked += step == IO_TRACK_WORKED || over;
        if (over) {
            drop_track(p, i);
            p->next_track = i;
        }
    }
    for (unsigned i = 0; i < p->n_tracks; i++)
        *wake_ns = p->tracks[i]->wake_ns < *wake_ns ? p->tracks[i]->wake_ns : *wake_ns;
    return worked > 0;
}

enum io_turn io_play_turn(void *self, int64_t now_ns, int64_t *ret_wake_ns)
{
    struct io_play *p = self;
    struct epoll_event ready[16];
    unsigned opened = 0;
    while (epoll_wait(p->shared.epoll, ready, 16, 0) == 16) /* disarm what has fired; tracks read by themselves */
        ;
    while (p->next_file < p->files.n && p->n_tracks < p->open_max && p->open_ns <= now_ns && opened++ < OPENS_A_TURN)
        open_next(p, now_ns);
    bool held = p->next_file < p->files.n && p->n_tracks < p->open_max && p->open_ns > now_ns;
    int64_t wake_ns = held ? p->open_ns : INT64_MAX;
    bool worked = step_tracks(p, now_ns, &wake_ns);
    if (p->n_tracks == 0 && p->next_file == p->files.n)
        return IO_TURN_DONE;
    if (worked || opened)
        return IO_TURN_MORE;
    *ret_wake_ns = wake_ns;
    return IO_TURN_WAIT;
}
