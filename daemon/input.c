/* input.c: what the daemon offers a source. Runs on the source's thread, but md_input_wake(). Counts and says what is
 * refused: each time in a counter, at most once a second and reason in the log, a few times a second as events. */
#include "daemon/input.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/cut.h"
#include "daemon/exit_code.h"
#include "daemon/publisher.h"
#include "io/wire.h"

static const int64_t hush_ns = 1000000000;
enum { NOTICES_A_SECOND = 16 };

void md_input_wake(struct md_input *in)
{
    atomic_store_explicit(&in->room, true, memory_order_release);
    (void)!write(in->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void say(struct md_input *in, enum io_reason why, const char *id, const char *text)
{
    int64_t now = md_now_ns();
    uint64_t more = in->hush.more[why];

    if (in->hush.said_ns[why] && now - in->hush.said_ns[why] < hush_ns) {
        in->hush.more[why]++;
        return;
    }
    in->hush.said_ns[why] = now;
    in->hush.more[why] = 0;
    if (more)
        md_log(MD_WARN, in->conf->id, "%s%s%s (%s; %" PRIu64 " more like it)", id ? id : "", id ? ": " : "", text,
               io_reason_name(why), more);
    else
        md_log(MD_WARN, in->conf->id, "%s%s%s (%s)", id ? id : "", id ? ": " : "", text, io_reason_name(why));
}

/* An event `error` under the id. */
static void announce(struct md_input *in, enum io_reason why, const char *id)
{
    int64_t now = md_now_ns();

    if (now - in->notice_ns >= hush_ns) {
        in->notice_ns = now;
        in->notices = 0;
    }
    if (in->notices++ < NOTICES_A_SECOND)
        md_publisher_notice(in->publisher, id, in->model, io_reason_name(why));
}

static void host_discard(void *self, enum io_reason why, const char *id, uint64_t samples, const char *text)
{
    struct md_input *in = self;

    md_bump(&in->counters.errors[why], 1);
    md_add(&in->counters.discarded[why], samples);
    if (id && (why == IO_R_RATE || why == IO_R_SIZE || why == IO_R_STREAMS)) /* no hole in rows' numbers shows it */
        announce(in, why, id);
    if (why == IO_R_FILE)
        md_end_with(in->code, EX_DATAERR);
    say(in, why, id, text);
}

static void host_drop(void *self, struct io_stream *s, uint64_t rows, uint32_t channels, uint32_t flags)
{
    struct md_input *in = self;

    md_bump(&in->counters.errors[IO_R_LIMIT], 1);
    md_inbox_drop(in, s, (uint32_t)rows, channels, flags);
    say(in, IO_R_LIMIT, s->id, "more than the input takes a second");
}

static void host_announce(void *self, enum io_reason why, const char *id)
{
    announce(self, why, id);
}

/* A stream that cannot be had is refused, counted and announced under its own id. */
static int refuse(struct md_input *in, int err, const struct io_stream_desc *desc)
{
    enum io_reason why = io_stream_refusal(err);

    md_bump(&in->counters.errors[why], 1);
    md_add(&in->counters.discarded[why], desc->samples);
    say(in, why, desc->id, "stream refused");
    announce(in, why, desc->id);
    return err;
}

static int host_stream(void *self, const struct io_stream_desc *desc, struct io_stream **ret)
{
    struct md_input *in = self;
    int r;

    if (!io_id_valid(desc->id, strlen(desc->id))) {
        md_bump(&in->counters.errors[IO_R_ID], 1);
        md_add(&in->counters.discarded[IO_R_ID], desc->samples);
        say(in, IO_R_ID, NULL, "stream refused: its id is not valid");
        return -EINVAL;
    }
    r = md_registry_open(in->registry, in, desc, ret);
    if (r == -ENOSPC && desc->patient) {
        if (!desc->waited)
            md_log_stream(MD_INFO, desc->id, in->conf->id, "waits until another stream ends: none can be added now");
        return r;
    }
    return r ? refuse(in, r, desc) : 0;
}

static void host_note(void *self, struct io_stream *s, const char *event, const char *reason, int64_t from, int64_t to);

/* ---- a source that begins again from its first row --------------------------------------------------------------- */

/* The block's first n rows go. The time of those that stay follows from what a stream that goes on knows; one that
 * begins anew is told. */
static void cut_rows(const struct io_stream *s, struct io_block *b, uint32_t n, bool anew)
{
    size_t row = b->channels * io_sample_bytes(b->type), left = b->n - n;
    const int64_t *times = io_block_times(b) + n;
    int64_t *to;

    memmove(b->data, b->data + n * row, left * row);
    b->t_ns = anew ? md_timeline_ns(&s->course.rules, b->seq, b->t_ns, b->seq + n) : IO_T_NONE;
    b->n = (uint32_t)left;
    b->seq += n;
    if (!b->timed)
        return;
    to = io_block_times(b); /* to the left of where they were */
    memmove(to, times, left * sizeof *to);
    b->t_ns = to[0];
}

/* It is not the file whose rows were taken: `passed` of its rows were passed over, and are lost, which is said. */
static void another_file(struct md_input *in, struct io_stream *s, int64_t passed, uint32_t channels,
                         const char *reason)
{
    md_log_stream(MD_WARN, s->id, in->conf->id,
                  "not the file that the snapshot knows: %" PRId64 " of its rows were passed over", passed);
    md_bump(&in->counters.errors[IO_R_FILE], 1);
    md_add(&in->counters.discarded[IO_R_FILE], (uint64_t)passed * channels);
    host_note(in, s, "gap", reason, 0, passed - 1);
}

/* Whether all of the block was taken before the snapshot. Else nothing more is held back. *ret_passed: rows that were
 * passed over of another file, for the last row that was taken is here, and is another; else 0. Under the inbox's lock.
 */
static bool seen_before(struct io_stream *s, struct io_block *b, int64_t *ret_passed)
{
    struct md_replay *r = &s->replay;
    bool anew = b->flags & (IO_START | IO_RESET);
    int64_t last; /* the row that the mark is of */

    if (r->from == IO_SEQ_NONE)
        return false;
    last = b->seq == IO_SEQ_NONE ? -1 : r->from - 1 - b->seq;
    if (!anew && last >= 0 && last < b->n) {
        r->met = md_is_marked(b, (uint32_t)last + 1, r->mark, r->rows);
        r->passed += last + 1;
        if (!r->met) {
            *ret_passed = r->passed;
            *r = (struct md_replay){.from = IO_SEQ_NONE};
            cut_rows(s, b, (uint32_t)last + 1, true);
            b->flags |= IO_START | IO_RESET;
            return false;
        }
    }
    if (!anew && b->seq != IO_SEQ_NONE && b->seq + b->n <= r->from && !(b->flags & IO_END)) {
        r->passed += r->met ? 0 : b->n;
        return true;
    }
    if (!anew && b->seq != IO_SEQ_NONE && b->seq < r->from)
        cut_rows(s, b, (uint32_t)(r->from - b->seq < b->n ? r->from - b->seq : b->n), r->quiet);
    *r = (struct md_replay){.from = IO_SEQ_NONE};
    return false;
}

/* The block is seen_before(), of a stream that is still this input's: its handle may be stale. */
static bool passes_over(struct md_input *in, struct io_stream *s, struct io_block *b)
{
    int64_t passed = 0;
    bool seen;

    if (!in->conf->class_->replayable)
        return false;
    pthread_mutex_lock(&in->inbox->lock);
    seen = s->input == in && seen_before(s, b, &passed);
    pthread_mutex_unlock(&in->inbox->lock);
    if (passed)
        another_file(in, s, passed, b->channels, "rotation");
    return seen;
}

static int host_push(void *self, struct io_stream *s, struct io_block *b)
{
    struct md_input *in = self;

    if (passes_over(in, s, b)) {
        io_block_put(in->host.pool, b);
        return 0;
    }
    return md_inbox_push(in, s, b, b->seq == IO_SEQ_NONE || b->n == 0 ? IO_SEQ_NONE : b->seq + b->n);
}

static void host_end(void *self, struct io_stream *s)
{
    struct md_input *in = self;
    struct io_place place = {0};
    struct md_replay had;

    md_inbox_place(in, s, &place);
    md_inbox_last(in, s, &had);
    if (had.from != IO_SEQ_NONE && had.from > 0 && !had.met) { /* the file is shorter */
        another_file(in, s, had.passed, place.channels, "truncation");
        had.quiet = false;
    }
    if (!had.quiet || !md_inbox_retract(in, s))
        md_inbox_end(in, s); /* it may be forgotten from here on */
}

static bool host_let_go(void *self, struct io_stream *s, bool always)
{
    return md_inbox_let_go(self, s, always);
}

/* Without snapshots nothing is ever asked for again that was taken. */
static bool host_place(void *self, struct io_stream *s, struct io_place *ret)
{
    struct md_input *in = self;
    bool own = md_inbox_place(in, s, ret);

    if (own && !in->registry->config->state_dir)
        ret->durable = ret->next;
    return own;
}

static bool host_recall(void *self, const char *id, struct io_place *ret)
{
    struct md_input *in = self;
    struct io_stream *s;

    pthread_mutex_lock(&in->registry->lock);
    s = md_registry_find(in->registry, id, (uint32_t)strlen(id));
    if (s && s->input != in)
        s = NULL;
    if (s) {
        host_place(in, s, ret);
        ret->ended = s->place.ended;
        if (s->place.ended && in->registry->config->state_dir && !s->place.durable_end && ret->durable == ret->next)
            ret->durable--;
    }
    pthread_mutex_unlock(&in->registry->lock);
    return s && ret->next != IO_SEQ_NONE;
}

static void host_answered(void *self, uint64_t sent, uint64_t dropped)
{
    struct md_input *in = self;

    md_bump(&in->counters.acks, sent);
    md_bump(&in->counters.acks_dropped, dropped);
}

static int64_t host_resume(void *self, struct io_stream *s, int64_t *ret_origin)
{
    struct md_input *in = self;

    pthread_mutex_lock(&in->inbox->lock);
    struct md_replay r = s->input == in ? s->replay : (struct md_replay){.from = IO_SEQ_NONE};
    pthread_mutex_unlock(&in->inbox->lock);
    *ret_origin = r.origin;
    return r.from == IO_SEQ_NONE || r.from == 0 ? 0 : r.from - r.rows; /* the mark's */
}

/* Another file's rows go on behind those that were taken. */
static int64_t host_known(void *self, struct io_stream *s, struct io_block *b)
{
    struct md_input *in = self;
    struct md_replay *r = &s->replay;

    pthread_mutex_lock(&in->inbox->lock);
    int64_t from = s->input == in ? r->from : IO_SEQ_NONE;
    bool long_enough = b && from > b->seq && from - b->seq <= b->n, known = from == IO_SEQ_NONE || from == 0;
    if (!known)
        known = r->met = long_enough && md_is_marked(b, (uint32_t)(from - b->seq), r->mark, r->rows);
    if (!known)
        *r = (struct md_replay){.from = IO_SEQ_NONE};
    pthread_mutex_unlock(&in->inbox->lock);
    if (known)
        return IO_SEQ_NONE;
    md_log_stream(MD_WARN, s->id, in->conf->id, "not the file that the snapshot knows: it is read from its beginning");
    host_note(in, s, "gap", long_enough ? "rotation" : "truncation", from, IO_SEQ_NONE);
    return from;
}

/* The event travels as a block, so that it keeps its place among the rows. Without memory for it, it is lost: the log
 * has it. */
static void host_note(void *self, struct io_stream *s, const char *event, const char *reason, int64_t from, int64_t to)
{
    struct md_input *in = self;
    struct io_block *b = io_block_get(in->host.pool, sizeof(struct md_note));
    struct md_note *n;

    md_log_stream(MD_INFO, s->id, reason ? reason : event, "%s%s%s", event, reason ? ": " : "", reason ? reason : "");
    if (!b)
        return;
    n = (struct md_note *)(void *)b->data;
    memset(n, 0, sizeof *n);
    n->from = from;
    n->to = to;
    strncpy(n->event, event, sizeof n->event - 1);
    if (reason)
        strncpy(n->reason, reason, sizeof n->reason - 1);
    b->seq = IO_SEQ_NONE;
    b->t_ns = IO_T_NONE;
    b->arrived_ns = (uint64_t)md_now_ns();
    b->flags = MD_NOTE;
    b->channels = 1; /* of no rows */
    if (md_inbox_push(in, s, b, IO_SEQ_NONE))
        io_block_put(in->host.pool, b);
}

static void host_received(void *self, uint64_t messages, uint64_t bytes)
{
    struct md_input *in = self;

    md_bump(&in->counters.messages, messages);
    md_bump(&in->counters.bytes, bytes);
}

void md_input_init(struct md_input *in, struct io_pool *pool)
{
    in->host = (struct io_host){
        .self = in,
        .pool = pool,
        .model_rate = in->info->rate,
        .bytes = in->info->bytes,
        .input = in->conf->id,
        .blocks = in->conf->when_full == MD_BLOCK,
        .door = md_door_open(&in->door, in->conf->id),
        .stream = host_stream,
        .push = host_push,
        .end = host_end,
        .let_go = host_let_go,
        .resume = host_resume,
        .known = host_known,
        .place = host_place,
        .recall = host_recall,
        .answered = host_answered,
        .discard = host_discard,
        .drop = host_drop,
        .announce = host_announce,
        .note = host_note,
        .received = host_received,
    };
}
