/* roster.c: see roster.h. What is wrong with a search for new files is said once. */
#include "io/roster.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

static const int64_t rescan_ns = 1000000000;

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int grow(struct io_roster *r)
{
    struct io_roster_entry *v = r->v;

    if ((r->n & (r->n - 1)) == 0) /* at powers of two */
        v = realloc(r->v, (r->n ? 2 * (size_t)r->n : 1) * sizeof *v);
    r->v = v ? v : r->v;
    return v ? 0 : -ENOMEM;
}

/* One that the adapter cannot take is wrong once: it is not tried again. */
static int add_file(struct io_roster *r, const struct io_file *file, bool fresh, char *reterr)
{
    struct io_roster_entry entry = {NULL, false};
    char *path;
    int rc;

    if (tfind(file->path, &r->paths, by_name))
        return 0;
    path = strdup(file->path);
    rc = !path || !tsearch(path, &r->paths, by_name) ? -ENOMEM : grow(r);
    if (rc == 0)
        rc = r->add(r->self, file, fresh, &entry.item, reterr);
    if (rc == 0)
        r->v[r->n++] = entry;
    if (rc == -ENOMEM && path)
        tdelete(path, &r->paths, by_name);
    if (rc == -ENOMEM)
        free(path);
    return rc;
}

/* A file that is not there yet. */
static int add_awaited(struct io_roster *r, char *path, char *reterr)
{
    char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    char *stem = strndup(name, dot && dot != name ? (size_t)(dot - name) : strlen(name));
    struct io_file file = {.path = path, .rel = name, .stem = stem};
    int rc = stem ? add_file(r, &file, true, reterr) : -ENOMEM;

    free(stem);
    return rc;
}

/* Adds what a pattern means now. */
static int scan_one(struct io_roster *r, char *pattern, bool fresh, char *reterr)
{
    struct io_strings one = {.v = &pattern, .n = 1};
    struct io_files found;
    int rc = io_files_expand(&one, r->follow, &found, reterr);

    if (rc == -ENOENT && r->follow)
        return add_awaited(r, pattern, reterr);
    if (rc)
        return rc;
    for (unsigned i = 0; i < found.n && rc == 0; i++)
        rc = add_file(r, &found.v[i], fresh, reterr);
    io_files_free(&found);
    return rc;
}

static int scan(struct io_roster *r, bool fresh, char *reterr)
{
    int rc = 0;

    for (unsigned i = 0; i < r->patterns->n && rc == 0; i++)
        rc = scan_one(r, r->patterns->v[i], fresh, reterr);
    return rc;
}

int io_roster_fill(struct io_roster *r, char *reterr)
{
    return scan(r, false, reterr);
}

void io_roster_done(struct io_roster *r)
{
    tdestroy(r->paths, free);
    free(r->v);
    r->paths = r->v = NULL;
    r->n = 0;
}

static void rescan(struct io_roster *r, int64_t now_ns)
{
    char why[IO_ERR] = "";

    if (scan(r, true, why) && !r->said) {
        r->host->discard(r->host->self, IO_R_FILE, NULL, 0, why[0] ? why : "out of memory");
        r->said = true;
    }
    r->rescan_ns = now_ns + (r->poll_ns > rescan_ns ? r->poll_ns : rescan_ns);
}

/* Files that may be open now: all that are followed, else `window` unfinished ones. */
static unsigned window_end(struct io_roster *r)
{
    unsigned open = 0, i;

    while (r->first < r->n && r->v[r->first].done)
        r->first++;
    if (r->follow)
        return r->n;
    for (i = r->first; i < r->n && open < r->window; i++)
        open += !r->v[i].done;
    return i;
}

static bool all_at_end(const struct io_roster *r, int64_t now_ns)
{
    bool all = true;

    for (unsigned i = r->first; i < r->n && all; i++)
        all = r->at_end(r->v[i].item, now_ns);
    return all;
}

enum io_turn io_roster_turn(struct io_roster *r, int64_t now_ns, int64_t *ret_wake_ns)
{
    int64_t wake = INT64_MAX;

    if (r->follow && now_ns >= r->rescan_ns)
        rescan(r, now_ns);
    unsigned end = window_end(r), span = end - r->first;
    for (unsigned k = 0; k < span; k++) {
        r->at = r->at + 1 < end && r->at + 1 > r->first ? r->at + 1 : r->first;
        struct io_roster_entry *e = &r->v[r->at];
        int64_t next = INT64_MAX;
        if (!e->done)
            e->done = r->turn(r->self, e->item, now_ns, &next);
        if (!e->done && next < wake)
            wake = next;
    }
    if (r->follow && r->rescan_ns < wake)
        wake = r->rescan_ns;
    *ret_wake_ns = wake;
    if (r->follow ? r->host->once && all_at_end(r, now_ns) : window_end(r) == r->first)
        return IO_TURN_DONE;
    return wake <= now_ns || (!r->follow && window_end(r) > end) ? IO_TURN_MORE : IO_TURN_WAIT;
}
