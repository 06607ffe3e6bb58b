/* stream.c: the registry. Source threads ask it for streams; the status walks it. Records are freed when the daemon
 * ends or when they are forgotten.
 *
 * Trap: while entries of an ended stream wait for the publisher, its identity must not change under them (in_flight).
 */
#include "daemon/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/input.h"
#include "io/records.h"
#include "io/wire.h"

enum { TABLE_MIN = 256 };

int md_registry_init(struct md_registry *r, const struct md_config *config)
{
    *r = (struct md_registry){.mask = TABLE_MIN - 1, .config = config};
    r->table = calloc(TABLE_MIN, sizeof(struct io_stream *));
    if (!r->table)
        return -ENOMEM;
    pthread_mutex_init(&r->lock, NULL);
    (void)!getrandom(&r->seed, sizeof r->seed, GRND_NONBLOCK);
    return 0;
}

void md_restored_drop(struct md_restored *r)
{
    free(r->own);
    *r = (struct md_restored){0};
}

static void put_all(struct io_pool *pool, struct io_block *b)
{
    while (b) {
        struct io_block *next = b->next;
        io_block_put(pool, b);
        b = next;
    }
}

static void stream_free(struct io_stream *s)
{
    put_all(s->inbox->pool, s->queue.head);
    put_all(s->inbox->pool, s->course.mine);
    put_all(s->inbox->pool, s->course.held);
    md_restored_drop(&s->course.restored);
    free(s->course.slots);
    free(s->course.cells);
    free(s->course.runs);
    free(s->id);
    free(s);
}

void md_registry_done(struct md_registry *r)
{
    if (!r->table)
        return;
    for (size_t i = 0; i <= r->mask; i++) {
        while (r->table[i]) {
            struct io_stream *s = r->table[i];
            r->table[i] = s->chain;
            stream_free(s);
        }
    }
    free(r->table);
    r->table = NULL;
    md_plan_free(&r->plans);
    pthread_mutex_destroy(&r->lock);
}

/* Seeded, so that senders cannot choose ids that meet in one bucket. */
static uint64_t hash_id(const struct md_registry *r, const char *id)
{
    uint64_t h = 0xcbf29ce484222325u ^ r->seed;

    for (; *id; id++) {
        h = (h ^ (unsigned char)*id) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h ^ h >> 32;
}

static struct io_stream *find(const struct md_registry *r, const char *id, uint64_t hash)
{
    struct io_stream *s = r->table[hash & r->mask];

    while (s && (s->hash != hash || strcmp(s->id, id)))
        s = s->chain;
    return s;
}

static void grow(struct md_registry *r)
{
    size_t mask = r->mask * 2 + 1;
    struct io_stream **table = calloc(mask + 1, sizeof(struct io_stream *));

    if (!table)
        return; /* longer chains, that is all */
    for (size_t i = 0; i <= r->mask; i++) {
        while (r->table[i]) {
            struct io_stream *s = r->table[i];
            r->table[i] = s->chain;
            s->chain = table[s->hash & mask];
            table[s->hash & mask] = s;
        }
    }
    free(r->table);
    r->table = table;
    r->mask = mask;
}

/* Of an input that is gone, whose model may be another by now, there are none. */
static void set_records(struct io_stream *s)
{
    const struct md_input_conf *conf = s->input->conf;
    const struct io_records *records =
        s->input->info->bytes && conf->class_->records ? conf->class_->records(conf->conf) : NULL;

    if (!records)
        return;
    s->delimiter = io_records_delimiter(records);
    s->record_max = io_records_max(records);
}

static void set_rules(struct io_stream *s)
{
    const struct io_common *common = s->input->conf->conf;

    set_records(s);
    s->course.rules = (struct md_time_rules){
        .irregular = s->irregular,
        .rate = s->irregular ? (struct md_rate){0, 1} : md_rate_of(s->rate),
        .interval_ns = common->interval_ns,
        .gap_max_ns = s->plan->policy.gap_max_ns,
        .nan_reset = s->plan->nan_reset,
        .reorder = s->plan->policy.late == MD_LATE_REORDER,
    };
}

/* An input that has a handle of it keeps that, stale (inbox.h): it finds out under the lock that this takes. */
static void set_input(struct io_stream *s, struct md_input *input)
{
    pthread_mutex_t *lock = &s->inbox->lock;

    pthread_mutex_lock(lock);
    if (s->input != input && s->queue.held) {
        s->queue.held = false;
        atomic_fetch_add_explicit(&s->queue.stale, 1, memory_order_relaxed);
    }
    if (s->input != input)
        s->replay = (struct md_replay){.from = IO_SEQ_NONE};
    s->input = input;
    s->inbox = input->inbox;
    pthread_mutex_unlock(lock);
}

/* What a stream is from now on. It is not live, and nothing of it is on its way. */
static int identify(struct md_registry *r, struct io_stream *s, struct md_input *input,
                    const struct io_stream_desc *desc)
{
    struct md_policy policy;
    const struct md_plan *plan;

    md_config_policy(r->config, desc->id, &policy);
    plan = md_plan_get(&r->plans, &policy, input->info);
    if (!plan)
        return -ENOMEM;
    s->plan = plan;
    set_input(s, input);
    s->channels = desc->channels;
    s->irregular = desc->irregular;
    s->rate = desc->irregular ? 0 : desc->rate;
    set_rules(s);
    return 0;
}

/* A new record; not yet in the table. */
static struct io_stream *make(struct md_registry *r, struct md_input *input, const struct io_stream_desc *desc)
{
    struct io_stream *s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64);

    if (!s)
        return NULL;
    memset(s, 0, sizeof *s);
    s->course.trail.next = s->course.lost = s->place.next = IO_SEQ_NONE;
    atomic_init(&s->seen.p, -1);
    s->id = strdup(desc->id);
    s->hash = hash_id(r, desc->id);
    s->inbox = input->inbox;
    if (!s->id || identify(r, s, input, desc)) {
        stream_free(s);
        return NULL;
    }
    return s;
}

static void insert(struct md_registry *r, struct io_stream *s)
{
    struct io_stream **bucket;

    if (r->n > r->mask)
        grow(r);
    bucket = &r->table[s->hash & r->mask];
    s->chain = *bucket;
    *bucket = s;
    r->n++;
}

static bool same(const struct io_stream *s, const struct md_input *input, const struct io_stream_desc *desc)
{
    return s->input == input && s->channels == desc->channels && s->irregular == desc->irregular &&
           s->rate == (desc->irregular ? 0 : desc->rate);
}

/* A state that its next rows do not go on from: that is said as a gap. */
static void let_go(struct io_stream *s)
{
    if (s->course.restored.open)
        s->course.lost = s->course.time.next;
    md_restored_drop(&s->course.restored);
}

/* May an input go on with a stream that is there already? */
static int admit(struct md_registry *r, struct io_stream *s, struct md_input *input, const struct io_stream_desc *desc)
{
    bool live, held, other;
    int err;

    pthread_mutex_lock(&s->inbox->lock);
    live = s->queue.live;
    held = s->queue.held;
    pthread_mutex_unlock(&s->inbox->lock);
    if (live && (s->input != input || (held && input->conf->class_->replayable)))
        return -EEXIST;
    if (same(s, input, desc)) {
        if (live || !s->replan || atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0)
            return 0;
        s->replan = false;
        return identify(r, s, input, desc);
    }
    if (live)
        return -EINVAL;
    if (atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0)
        return s->input == input ? -EINVAL : -EEXIST; /* its last messages are still on their way */
    other = s->input != input;
    if (s->course.restored.open)
        md_log_stream(MD_WARN, s->id, input->conf->id,
                      "cannot go on: what comes (input %s, channels: %u, rate: %g Hz) is not what its state is of "
                      "(input %s, channels: %u, rate: %g Hz)",
                      input->conf->id, desc->channels, desc->rate, s->input->conf->id, s->channels, s->rate);
    let_go(s);
    err = identify(r, s, input, desc);
    if (err == 0 && other) { /* whose it was looks at them no more */
        s->course.trail = (struct md_trail){.next = IO_SEQ_NONE};
        s->place = (struct md_place){.next = IO_SEQ_NONE};
    }
    return err;
}

int md_registry_open(struct md_registry *r, struct md_input *input, const struct io_stream_desc *desc,
                     struct io_stream **ret)
{
    struct io_stream *s, *made = NULL;
    int err = 0;

    if (desc->channels == 0 || desc->channels > SSM_CHANNELS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&r->lock);
    s = find(r, desc->id, hash_id(r, desc->id));
    if (s)
        err = admit(r, s, input, desc);
    else if (!(s = made = make(r, input, desc)))
        err = -ENOMEM;
    if (err == 0)
        err = md_inbox_enter(s->inbox, s);
    if (err == 0 && made)
        insert(r, made);
    if (err == 0 && desc->anew) {
        let_go(s);
        s->replay = (struct md_replay){.from = IO_SEQ_NONE};
    }
    pthread_mutex_unlock(&r->lock);
    if (err == 0)
        *ret = s;
    else if (made)
        stream_free(made); /* a refused id leaves nothing behind */
    return err;
}

int md_registry_restore(struct md_registry *r, struct md_input *input, const struct io_stream_desc *desc,
                        struct io_stream **ret)
{
    struct io_stream *s;

    if (desc->channels == 0 || desc->channels > SSM_CHANNELS_MAX || !io_id_valid(desc->id, strlen(desc->id)))
        return -EINVAL;
    if (find(r, desc->id, hash_id(r, desc->id)))
        return -EEXIST;
    s = make(r, input, desc);
    if (!s)
        return -ENOMEM;
    atomic_store_explicit(&s->seen.last_ns, md_now_ns(), memory_order_relaxed);
    insert(r, s);
    *ret = s;
    return 0;
}

int md_registry_turn(struct md_registry *r, struct io_stream *s, struct md_input *input,
                     const struct io_stream_desc *desc)
{
    bool live;

    pthread_mutex_lock(&s->inbox->lock);
    live = s->queue.live || s->queue.held || s->queue.ready;
    pthread_mutex_unlock(&s->inbox->lock);
    if (live || atomic_load_explicit(&s->in_flight, memory_order_acquire) > 0)
        return -EBUSY;
    if (desc->channels == 0 || desc->channels > SSM_CHANNELS_MAX)
        return -EINVAL;
    md_restored_drop(&s->course.restored);
    s->replan = false;
    return identify(r, s, input, desc);
}

struct io_stream *md_registry_find(struct md_registry *r, const char *id, uint32_t len)
{
    char name[IO_ID_MAX + 1];

    if (len > IO_ID_MAX)
        return NULL;
    memcpy(name, id, len);
    name[len] = '\0';
    return find(r, name, hash_id(r, name));
}

/* Of a live stream part of the policy stays. */
static void next_policy(const struct md_config *config, const struct io_stream *s, struct md_policy *ret)
{
    const struct md_policy *had = &s->plan->policy;

    md_config_policy(config, s->id, ret);
    if (!md_course_is_open(&s->course))
        return;
    ret->nan = had->nan;
    ret->late = had->late;
    ret->adapt = had->adapt;
    ret->alarm_p = s->voice.alarm.active ? had->alarm_p : ret->alarm_p;
}

int md_registry_plans(const struct md_registry *r, const struct md_config *config, struct md_plan **ret)
{
    *ret = NULL;
    for (size_t i = 0; i <= r->mask; i++)
        for (struct io_stream *s = r->table[i]; s; s = s->chain) {
            struct md_policy policy;
            next_policy(config, s, &policy);
            if (!md_plan_get(ret, &policy, s->input->info))
                return -ENOMEM;
        }
    return 0;
}

void md_registry_replan(struct md_registry *r, const struct md_config *config, struct md_plan *plans)
{
    struct md_plan *before = r->plans;

    r->config = config;
    r->plans = plans;
    for (size_t i = 0; i <= r->mask; i++)
        for (struct io_stream *s = r->table[i]; s; s = s->chain) {
            struct md_policy policy;
            next_policy(config, s, &policy);
            s->replan = md_course_is_open(&s->course);
            s->plan = md_plan_get(&r->plans, &policy, s->input->info); /* it is there */
            set_rules(s);
        }
    md_plan_free(&before);
}

static bool forgotten(struct io_stream *s, int64_t before_ns)
{
    bool idle;

    pthread_mutex_lock(&s->inbox->lock);
    idle = !s->queue.live && !s->queue.held && !s->queue.ready;
    pthread_mutex_unlock(&s->inbox->lock);
    return idle && atomic_load_explicit(&s->queue.stale, memory_order_acquire) == 0 &&
           atomic_load_explicit(&s->in_flight, memory_order_acquire) == 0 &&
           atomic_load_explicit(&s->seen.last_ns, memory_order_relaxed) < before_ns;
}

static int earlier(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* When the oldest of `most` that may be forgotten was heard last; INT64_MIN: there are no more than that, or no memory
 * to find out. Those that wait with their states do not count. */
static int64_t oldest_kept(const struct md_registry *r, uint32_t most)
{
    int64_t *times = r->n > most ? malloc(r->n * sizeof *times) : NULL, oldest = INT64_MIN;
    size_t n = 0;

    for (size_t i = 0; times && i <= r->mask; i++)
        for (struct io_stream *s = r->table[i]; s; s = s->chain)
            if (forgotten(s, INT64_MAX) && !s->course.restored.open)
                times[n++] = atomic_load_explicit(&s->seen.last_ns, memory_order_relaxed);
    if (n > most) {
        qsort(times, n, sizeof *times, earlier);
        oldest = times[n - most - 1] + 1;
    }
    free(times);
    return oldest;
}

uint64_t md_registry_forget(struct md_registry *r, int64_t before_ns, uint32_t most)
{
    uint64_t early = 0;

    pthread_mutex_lock(&r->lock);
    int64_t oldest_ns = oldest_kept(r, most);
    for (size_t i = 0; i <= r->mask; i++) {
        struct io_stream **at = &r->table[i];
        while (*at) {
            struct io_stream *s = *at;
            bool due = forgotten(s, before_ns);
            if (!due && (!forgotten(s, oldest_ns) || s->course.restored.open)) {
                at = &s->chain;
                continue;
            }
            early += !due;
            *at = s->chain;
            r->n--;
            stream_free(s);
        }
    }
    r->kept = r->n;
    pthread_mutex_unlock(&r->lock);
    return early;
}

bool md_registry_crowded(struct md_registry *r, uint32_t most)
{
    pthread_mutex_lock(&r->lock);
    bool crowded = r->n > most && r->n > r->kept + most / 8;
    pthread_mutex_unlock(&r->lock);
    return crowded;
}

void md_registry_each(struct md_registry *r, bool (*fn)(struct io_stream *s, void *arg), void *arg)
{
    bool go_on = true;

    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i <= r->mask && go_on; i++)
        for (struct io_stream *s = r->table[i]; s && go_on; s = s->chain)
            go_on = fn(s, arg);
    pthread_mutex_unlock(&r->lock);
}
