/* batch.c: staging. Rows of blocks become doubles, times become ticks, and every entry learns where its results will
 * stand. Engine thread.
 *
 * Trap: arenas move while they grow, so entries hold indices; pointers are made once, in md_batch_items(). */
#include "daemon/batch.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t md_arena_add(struct md_arena *a, size_t n, size_t size)
{
    size_t at = a->n;

    if (a->n + n > a->cap) {
        size_t cap = a->cap * 2 > a->n + n ? a->cap * 2 : a->n + n + 64;
        void *p = realloc(a->p, cap * size);
        if (!p)
            return SIZE_MAX;
        a->p = p;
        a->cap = cap;
    }
    a->n += n;
    return at;
}

void md_batch_clear(struct md_batch *b)
{
    b->entries.n = b->items.n = b->x.n = b->tokens.n = b->dt.n = b->runs.n = b->events.n = b->out.n = b->notices.n =
        b->warm.n = b->ends.n = b->texts.n = 0;
    b->spent = NULL;
    b->last = b->sent = b->failed = false;
    b->cut = 0;
}

void md_batch_done(struct md_batch *b)
{
    struct md_arena *all[] = {&b->entries, &b->items, &b->x,       &b->tokens, &b->dt,   &b->runs,
                              &b->events,  &b->out,   &b->notices, &b->warm,   &b->ends, &b->texts};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]->p);
        *all[i] = (struct md_arena){0};
    }
}

int md_batch_begin(struct md_batch *b, struct io_stream *s, struct md_entry **ret)
{
    const struct md_course *c = &s->course;
    uint32_t patch = s->plan->info->patch;
    size_t i = md_arena_add(&b->entries, 1, sizeof(struct md_entry));
    size_t run = i == SIZE_MAX ? i : md_arena_add(&b->runs, c->n_runs, sizeof(struct md_run));
    struct md_entry *e;

    if (run == SIZE_MAX) {
        b->entries.n = i == SIZE_MAX ? b->entries.n : i;
        return -ENOMEM;
    }
    if (c->n_runs)
        memcpy(md_batch_run(b, run), c->runs, c->n_runs * sizeof(struct md_run));
    e = md_batch_entry(b, i);
    *e = (struct md_entry){
        .stream = s,
        .epoch = c->time.epoch,
        .carried = (uint32_t)(c->time.rows % patch),
        .first_step = c->time.rows / patch,
        .first_run = (uint32_t)run,
        .n_runs = c->n_runs,
        .first_event = (uint32_t)b->events.n,
        .x = s->plan->info->bytes ? b->tokens.n : b->x.n,
        .dt = SIZE_MAX,
        .forecast = SIZE_MAX,
        .embedding = SIZE_MAX,
        .anomaly = SIZE_MAX,
        .joint = SIZE_MAX,
        .notices = SIZE_MAX,
        .warm = SIZE_MAX,
        .logits = SIZE_MAX,
        .surprise = SIZE_MAX,
        .records = SIZE_MAX,
        .ends = SIZE_MAX,
    };
    *ret = e;
    return 0;
}

/* Samples to doubles; returns how many are missing. */
static uint32_t stage_samples(double *to, const struct io_block *block, uint32_t at, uint32_t n)
{
    size_t first = (size_t)at * block->channels, count = (size_t)n * block->channels;
    uint32_t missing = 0;

    if (block->type == IO_F32) {
        const float *from = (const float *)(const void *)block->data + first;
        for (size_t i = 0; i < count; i++) {
            to[i] = (double)from[i];
            missing += !isfinite(from[i]);
        }
    } else if (block->type == IO_F64) {
        const double *from = (const double *)(const void *)block->data + first;
        for (size_t i = 0; i < count; i++) {
            to[i] = from[i];
            missing += !isfinite(from[i]);
        }
    } else {
        for (size_t i = 0; i < count; i++)
            to[i] = block->data[first + i];
    }
    return missing;
}

/* Sources give a byte model nothing else. */
static void stage_bytes(int32_t *to, const struct io_block *block, uint32_t at, uint32_t n)
{
    assert(block->type == IO_U8 && block->channels == 1);
    for (uint32_t i = 0; i < n; i++)
        to[i] = block->data[at + i];
}

/* Room for the samples of n rows; its index, or SIZE_MAX. */
static size_t add_samples(struct md_batch *b, const struct md_entry *e, size_t n)
{
    return e->stream->plan->info->bytes ? md_arena_add(&b->tokens, n, sizeof(int32_t))
                                        : md_arena_add(&b->x, n, sizeof(double));
}

static void drop_samples(struct md_batch *b, const struct md_entry *e, size_t from)
{
    *(e->stream->plan->info->bytes ? &b->tokens.n : &b->x.n) = from;
}

/* One run for the rows of a regular stream; one for every row where each has its own time. */
static void stage_runs(struct md_batch *b, struct md_entry *e, size_t first, struct io_block *block, uint32_t at,
                       uint32_t n, int64_t interval)
{
    const struct md_course *c = &e->stream->course;
    bool timed = c->rules.irregular && block->timed;
    const int64_t *dt = timed ? (const int64_t *)b->dt.p + e->dt + e->rows : NULL;

    for (uint32_t i = 0; i < (timed ? n : 1); i++) {
        int64_t seq = block->seq + at + i;
        if (timed && dt[i] > 0)
            interval = c->time.interval; /* known from its first positive difference on */
        *md_batch_run(b, first + i) = (struct md_run){
            .seq = seq,
            .anchor_seq = timed ? seq : c->time.anchor_seq,
            .anchor_t = timed ? io_block_times(block)[at + i] : c->time.anchor_t,
            .interval = interval,
            .arrived_ns = block->arrived_ns,
            .n = timed ? 1 : n,
        };
    }
}

/* Ticks are staged from the first row on that is not one regular step from the row before. */
static int stage_ticks(struct md_batch *b, struct md_entry *e, uint32_t n)
{
    const struct md_course *c = &e->stream->course;

    if (e->dt == SIZE_MAX && (c->rules.irregular || c->time.owed > 0)) {
        size_t dt = md_arena_add(&b->dt, e->rows, sizeof(int64_t));
        if (dt == SIZE_MAX)
            return -ENOMEM;
        for (uint32_t i = 0; i < e->rows; i++)
            ((int64_t *)b->dt.p)[dt + i] = 1;
        e->dt = dt;
    }
    if (e->dt != SIZE_MAX && md_arena_add(&b->dt, n, sizeof(int64_t)) == SIZE_MAX)
        return -ENOMEM;
    return 0;
}

int md_batch_rows(struct md_batch *b, struct md_entry *e, struct io_block *block, uint32_t at, uint32_t n,
                  uint32_t *ret_missing)
{
    struct md_course *c = &e->stream->course;
    uint32_t runs = c->rules.irregular && block->timed ? n : 1;
    int64_t interval = c->time.interval ? c->time.interval : c->rules.interval_ns > 0 ? c->rules.interval_ns : 0;
    size_t x = add_samples(b, e, (size_t)n * block->channels);
    size_t run = x == SIZE_MAX ? x : md_arena_add(&b->runs, runs, sizeof(struct md_run));

    if (run == SIZE_MAX || stage_ticks(b, e, n)) {
        if (x != SIZE_MAX)
            drop_samples(b, e, x);
        b->runs.n = e->first_run + e->n_runs;
        if (e->dt != SIZE_MAX)
            b->dt.n = e->dt + e->rows;
        return -ENOMEM;
    }
    if (e->stream->plan->info->bytes)
        stage_bytes((int32_t *)b->tokens.p + x, block, at, n);
    else
        *ret_missing = stage_samples((double *)b->x.p + x, block, at, n);
    md_timeline_take(&c->time, &c->rules, block, at, n,
                     e->dt == SIZE_MAX ? NULL : (int64_t *)b->dt.p + e->dt + e->rows);
    stage_runs(b, e, run, block, at, n, interval);
    e->n_runs += runs;
    e->interval = c->time.interval;
    e->rows += n;
    return 0;
}

/* The runs of the last `rows` rows of the entry stay with the stream. */
static int keep_carried(struct md_batch *b, const struct md_entry *e, uint32_t rows)
{
    struct md_course *c = &e->stream->course;
    uint32_t n = 0, covered = 0;

    while (covered < rows)
        covered += md_batch_run(b, e->first_run + e->n_runs - ++n)->n;
    if (n > c->cap_runs) {
        uint32_t cap = n < 4 ? 4 : n;
        struct md_run *runs = realloc(c->runs, cap * sizeof *runs);
        if (!runs)
            return -ENOMEM;
        c->runs = runs;
        c->cap_runs = cap;
    }
    if (n)
        memcpy(c->runs, md_batch_run(b, e->first_run + e->n_runs - n), n * sizeof *c->runs);
    if (covered > rows) {
        uint32_t skip = covered - rows;
        c->runs[0].seq += skip;
        c->runs[0].n -= skip;
    }
    c->n_runs = n;
    return 0;
}

/* Most records that can end in an entry. */
static size_t records_in(const struct md_batch *b, const struct md_entry *e)
{
    const int32_t *bytes = (const int32_t *)b->tokens.p + e->x;
    size_t n = e->rows / e->stream->record_max + 1;

    for (uint32_t i = 0; i < e->rows; i++)
        n += bytes[i] == e->stream->delimiter;
    return n;
}

/* A byte's logits are needed whatever is published: the next byte is judged by them. */
static int reserve_bytes(struct md_batch *b, struct md_entry *e)
{
    size_t records = records_in(b, e);

    if ((e->logits = md_arena_add(&b->out, (size_t)e->steps * e->stream->plan->info->vocab, sizeof(float))) ==
            SIZE_MAX ||
        (e->surprise = md_arena_add(&b->out, e->steps, sizeof(float))) == SIZE_MAX ||
        (e->records = md_arena_add(&b->out, records * 3, sizeof(float))) == SIZE_MAX ||
        (e->ends = md_arena_add(&b->ends, records, sizeof(uint32_t))) == SIZE_MAX ||
        (e->warm = md_arena_add(&b->warm, e->steps, 1)) == SIZE_MAX)
        return -ENOMEM;
    return 0;
}

/* Where the results will stand. Elements of a family follow each other step by step. */
static int reserve_results(struct md_batch *b, struct md_entry *e)
{
    const struct md_plan *p = e->stream->plan;
    size_t C = e->stream->channels;
    size_t forecast = md_chosen(e->first_step, e->steps, p->every[IO_PREDICTION]) * C * p->horizon * p->n_q;
    size_t embedding = md_chosen(e->first_step, e->steps, p->every[IO_EMBEDDING]) * C * p->info->embedding;
    size_t anomaly = md_chosen(e->first_step, e->steps, p->anomaly_every) * (size_t)p->info->patch * C * 3;

    if (p->info->bytes)
        return reserve_bytes(b, e);
    if (forecast && (e->forecast = md_arena_add(&b->out, forecast, sizeof(float))) == SIZE_MAX)
        return -ENOMEM;
    if (embedding && (e->embedding = md_arena_add(&b->out, embedding, sizeof(float))) == SIZE_MAX)
        return -ENOMEM;
    if (anomaly && (e->anomaly = md_arena_add(&b->out, anomaly, sizeof(float))) == SIZE_MAX)
        return -ENOMEM;
    if (anomaly && p->joint && (e->joint = md_arena_add(&b->out, anomaly / C, sizeof(float))) == SIZE_MAX)
        return -ENOMEM;
    if (e->joint != SIZE_MAX && (e->notices = md_arena_add(&b->notices, e->steps * (size_t)p->info->patch,
                                                           sizeof(struct ssm_notice))) == SIZE_MAX)
        return -ENOMEM;
    if (e->steps && (e->warm = md_arena_add(&b->warm, e->steps * C, 1)) == SIZE_MAX)
        return -ENOMEM;
    return 0;
}

int md_batch_end(struct md_batch *b, struct md_entry *e)
{
    uint32_t total = e->carried + e->rows, patch = e->stream->plan->info->patch;
    int r;

    e->n_events = (uint32_t)b->events.n - e->first_event;
    e->steps = total / patch;
    r = keep_carried(b, e, total % patch);
    if (r == 0 && e->steps)
        r = reserve_results(b, e);
    if (r == 0 && e->rows && md_arena_add(&b->items, e->stream->channels, sizeof(struct ssm_item)) == SIZE_MAX)
        r = -ENOMEM;
    return r;
}

static void item_outputs(const struct md_batch *b, const struct md_entry *e, uint32_t c, struct ssm_out *out)
{
    const struct md_plan *p = e->stream->plan;
    size_t C = e->stream->channels, forecast = (size_t)p->horizon * p->n_q, embedding = p->info->embedding;

    if (e->forecast != SIZE_MAX) {
        out->forecast = md_batch_out(b, e->forecast) + c * forecast;
        out->forecast_stride = C * forecast;
        out->forecast_every = p->every[IO_PREDICTION];
        out->horizon = p->horizon;
        out->n_q = p->n_q;
        memcpy(out->q, p->q, p->n_q);
    }
    if (e->embedding != SIZE_MAX) {
        out->embedding = md_batch_out(b, e->embedding) + c * embedding;
        out->embedding_stride = C * embedding;
        out->embedding_every = p->every[IO_EMBEDDING];
    }
    if (e->anomaly != SIZE_MAX) {
        out->anomaly = md_batch_out(b, e->anomaly) + c * 3;
        out->anomaly_stride = C * 3;
        out->anomaly_every = p->anomaly_every;
    }
    if (e->logits != SIZE_MAX) {
        out->logits = md_batch_out(b, e->logits);
        out->logits_stride = p->info->vocab;
    }
    if (e->warm != SIZE_MAX)
        out->warmup = (uint8_t *)b->warm.p + e->warm + (size_t)c * e->steps;
}

static void item_inputs(const struct md_batch *b, struct md_entry *e, uint32_t c, struct ssm_item *item)
{
    const struct md_plan *p = e->stream->plan;

    if (p->info->bytes) {
        item->tokens = (const int32_t *)b->tokens.p + e->x;
        item->scored = (struct ssm_scored){
            .surprise = md_batch_out(b, e->surprise),
            .log_probs = p->every[IO_PREDICTION] > 0,
            .delimiter = e->stream->delimiter,
            .record_max = e->stream->record_max,
            .records = md_batch_out(b, e->records),
            .ends = (uint32_t *)b->ends.p + e->ends,
            .n_records = &e->n_records,
        };
        return;
    }
    item->x = (const double *)b->x.p + e->x + c;
    item->x_stride = e->stream->channels;
}

uint32_t md_batch_items(struct md_batch *b)
{
    b->items.n = 0; /* there is room for all of them: md_batch_end() */
    for (size_t i = 0; i < b->entries.n; i++) {
        struct md_entry *e = md_batch_entry(b, i);
        uint32_t C = e->stream->channels;
        for (uint32_t c = 0; e->rows && !e->failed && c < C; c++) {
            struct ssm_item *item = (struct ssm_item *)b->items.p + md_arena_add(&b->items, 1, sizeof *item);
            *item = (struct ssm_item){
                .slot = e->stream->course.slots[c],
                .n = e->rows,
                .dt = e->dt == SIZE_MAX ? NULL : (const int64_t *)b->dt.p + e->dt,
                .interval = e->stream->irregular && e->interval > 0 ? e->interval : 1,
                .nan = e->stream->plan->nan,
                .adapt = e->stream->plan->adapt,
            };
            item_inputs(b, e, c, item);
            item_outputs(b, e, c, &item->out);
            if (c == 0 && e->stream->plan->joint) {
                item->channels = C;
                item->joint = e->joint == SIZE_MAX ? NULL : md_batch_out(b, e->joint);
                item->notices = e->notices == SIZE_MAX ? NULL : md_batch_notices(b, e->notices);
            }
        }
    }
    return (uint32_t)b->items.n;
}
