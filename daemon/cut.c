/* cut.c: streams into records. Trap: a stream that a batch touches first is copied there and then, however much waits
 * to be written: it must not wait for a disk. The portions in between do wait, and leave most of the stock to those.
 * Each such copy holds up a batch: so its memory is there already, and its checksums are the writer's. */
#include "daemon/cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/input.h"
#include "ssm/checksum.h"

enum { STOCK_MAX = 128 << 20, WAITING_MAX = STOCK_MAX / 4, PORTION_NS = 500000, HURRIED_NS = 100000 };
enum { HURRIED_SHARE = 20, HURRIED_MOST_NS = 2000000 }; /* of the time since the last portion: long batches are few */

void md_cut_init(struct md_snapshot_cut *c)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    md_stock_init(&c->stock);
    c->last = &c->first;
}

void md_cut_done(struct md_snapshot_cut *c)
{
    while (c->first) {
        struct md_piece *p = c->first;
        c->first = p->next;
        md_piece_free(p);
    }
    md_stock_done(&c->stock);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
}

void md_cut_provide(struct md_snapshot_cut *c, size_t bytes)
{
    md_stock_provide(&c->stock, bytes < STOCK_MAX ? bytes : STOCK_MAX);
}

/* ---- a record --------------------------------------------------------------------------------------------------- */

/* Of a row's values and, where it has one, its time. */
static uint64_t row_mark(struct io_block *b, uint32_t row)
{
    size_t bytes = b->channels * io_sample_bytes(b->type);
    uint64_t mark = ssm_checksum(bytes, b->data + row * bytes, bytes);

    return b->timed ? ssm_checksum(mark, io_block_times(b) + row, sizeof(int64_t)) : mark;
}

static void add_bytes(struct md_trail *t, const struct io_block *b, uint32_t n)
{
    uint32_t had = b->seq == t->next && b->origin == t->origin ? t->rows : 0, some = n < MD_TRAIL ? n : MD_TRAIL;
    uint32_t keep = had < MD_TRAIL - some ? had : MD_TRAIL - some;

    memmove(t->last, t->last + had - keep, keep);
    memcpy(t->last + keep, b->data + n - some, some);
    t->rows = keep + some;
    t->mark = ssm_checksum(t->rows, t->last, t->rows);
}

void md_trail_add(struct md_trail *t, struct io_block *b, uint32_t n)
{
    if (b->type == IO_U8) {
        add_bytes(t, b, n);
    } else {
        t->mark = row_mark(b, n - 1);
        t->rows = 1;
    }
    t->next = b->seq + n;
    t->origin = b->origin;
}

bool md_is_marked(struct io_block *b, uint32_t n, uint64_t mark, uint32_t rows)
{
    if (n < rows || n > b->n)
        return false;
    return mark == (b->type == IO_U8 ? ssm_checksum(rows, b->data + n - rows, rows) : row_mark(b, n - 1));
}

/* That the next rows begin a new epoch, which no row has come to yet. */
static void save_reset(struct md_saved_stream *saved, const struct io_stream *s)
{
    if (atomic_load_explicit(&s->queue.reset, memory_order_relaxed) && saved->open && saved->time.rows > 0)
        saved->time.reset = MD_RESET_SENDER;
}

/* Where a replay has to go on. */
static void save_place(struct md_saved_stream *saved, const struct md_course *c)
{
    struct io_block *b = saved->open ? c->mine : NULL;
    struct md_trail t = c->trail;

    if (b && c->at > 0 && b->seq != IO_SEQ_NONE)
        md_trail_add(&t, b, c->at);
    saved->judged = t.next;
    saved->origin = t.origin;
    saved->mark = t.mark;
    saved->rows = t.rows;
    memcpy(saved->last, t.last, sizeof t.last);
}

/* A hole that was given up lies behind what was judged, and is not to be given up again. */
int64_t md_saved_next(const struct md_saved_stream *saved)
{
    return saved->judged != IO_SEQ_NONE && saved->time.next > saved->judged ? saved->time.next : saved->judged;
}

int md_piece_fill(struct md_piece *p)
{
    uint8_t *slots = (uint8_t *)p->records + p->slots_at;

    for (uint32_t i = 0; i < p->n_slots; i++)
        ssm_slot_seal(slots + i * p->slot_stride, p->slot_bytes);
    return p->file ? md_spill_file_read(p->file, p->cells, p->n_cells, slots, p->slot_stride) : 0;
}

void md_piece_free(struct md_piece *p)
{
    if (p && p->file)
        atomic_fetch_sub(&p->file->pins, 1);
    if (p)
        free(p->cells);
    if (p && p->stock)
        md_stock_give(p->stock, p);
    else
        free(p);
}

/* What is on the disk stays there; nothing else is written in its place until the piece is freed. */
static int refer(struct md_scheduler *sch, const struct io_stream *s, struct md_piece *p)
{
    p->cells = malloc(s->channels * sizeof *p->cells);
    if (!p->cells)
        return -ENOMEM;
    memcpy(p->cells, s->course.cells, s->channels * sizeof *p->cells);
    p->n_cells = s->channels;
    p->file = &sch->spill.file;
    atomic_fetch_add(&p->file->pins, 1);
    return 0;
}

static int copy_slots(struct md_scheduler *sch, const struct io_stream *s, struct md_piece *p)
{
    uint8_t *to = (uint8_t *)p->records + p->slots_at;
    int r = s->course.cells ? refer(sch, s, p) : 0;

    for (; s->course.slots && p->n_slots < s->channels && r == 0; p->n_slots++)
        r = md_scheduler_heard(
            sch, ssm_slot_save_unsealed(sch->engine, s->course.slots[p->n_slots], to + p->n_slots * p->slot_stride));
    return r;
}

static struct md_piece *new_piece(size_t bytes, struct md_stock *stock)
{
    struct md_piece *in_stock = stock ? md_stock_take(stock, sizeof *in_stock + bytes) : NULL;
    struct md_piece *p = in_stock ? in_stock : malloc(sizeof *p + bytes);

    if (p)
        *p = (struct md_piece){.bytes = bytes, .stock = in_stock ? stock : NULL};
    return p;
}

/* What was restored and has not begun again: its record as it came, but for a reset. */
static struct md_piece *copy_again(const struct io_stream *s)
{
    const struct md_restored *old = &s->course.restored;
    uint32_t id_len = (uint32_t)strlen(s->id);
    size_t bytes = md_record_bytes(id_len, old->bytes);
    struct md_piece *p = new_piece(bytes, NULL);

    if (!p)
        return NULL;
    struct md_saved_stream *saved = md_record_begin(p->records, MD_RECORD_STREAM, s->id, id_len, old->bytes);
    memcpy(saved, old->saved, old->bytes);
    saved->inexact |= old->inexact;
    save_reset(saved, s);
    return p;
}

struct md_piece *md_cut_copy(struct md_scheduler *sch, const char *model, struct io_stream *s, struct md_stock *stock)
{
    const struct md_course *c = &s->course;
    bool open = md_course_is_open(c);
    size_t slot = c->slots || c->cells ? ssm_slot_bytes(sch->engine) : 0; /* 0: as after a reset */
    uint32_t id_len = (uint32_t)strlen(s->id), n_runs = open ? c->n_runs : 0;
    uint32_t input_len = (uint32_t)strlen(s->input->conf->id), model_len = (uint32_t)strlen(model);
    size_t runs = n_runs * sizeof(struct md_run);
    size_t payload = sizeof(struct md_saved_stream) + md_record_padded(input_len) + md_record_padded(model_len) + runs +
                     (open ? s->channels * md_record_padded(slot) : 0);
    size_t bytes = md_record_bytes(id_len, payload);

    if (c->restored.saved)
        return copy_again(s);
    struct md_piece *p = new_piece(bytes, stock);
    if (!p)
        return NULL;
    uint8_t *to = md_record_begin(p->records, MD_RECORD_STREAM, s->id, id_len, payload);
    memset(to, 0, payload - (open ? s->channels * md_record_padded(slot) : 0));
    struct md_saved_stream *saved = (void *)to;
    saved->struct_bytes = sizeof *saved;
    saved->channels = s->channels;
    saved->n_runs = n_runs;
    saved->input_len = input_len;
    saved->model_len = model_len;
    saved->irregular = s->irregular;
    saved->open = open;
    saved->inexact = open && (c->inexact || !ssm_engine_exact(sch->engine));
    saved->rate = s->rate;
    saved->lost = c->lost;
    save_place(saved, c);
    saved->slot_bytes = slot;
    memcpy(&saved->time, &c->time, sizeof c->time);
    save_reset(saved, s);
    to += sizeof *saved;
    memcpy(to, s->input->conf->id, input_len);
    memcpy(to + md_record_padded(input_len), model, model_len);
    to += md_record_padded(input_len) + md_record_padded(model_len);
    if (runs)
        memcpy(to, c->runs, runs);
    p->slots_at = (size_t)(to + runs - (uint8_t *)p->records);
    p->slot_stride = md_record_padded(slot);
    p->slot_bytes = slot;
    if (open && copy_slots(sch, s, p)) {
        md_piece_free(p);
        return NULL;
    }
    return p;
}

struct md_piece *md_cut_save(struct md_scheduler *sch, const char *model, struct io_stream *s, struct md_stock *stock)
{
    struct md_piece *p = md_cut_copy(sch, model, s, stock);

    if (p) {
        const struct md_saved_stream *saved = md_piece_saved(p, s->id);
        s->place.cut = md_saved_next(saved);
        s->place.cut_end = !saved->open;
    }
    return p;
}

void md_cut_give(struct md_snapshot_cut *c, struct md_piece *p)
{
    pthread_mutex_lock(&c->lock);
    if (p) {
        p->next = NULL;
        *c->last = p;
        c->last = &p->next;
        c->waiting += p->bytes;
    } else {
        c->failed = true;
    }
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* ---- engine side ------------------------------------------------------------------------------------------------ */

static void save(struct md_scheduler *sch, struct io_stream *s)
{
    s->course.cut = sch->cut_number;
    md_cut_give(sch->cut, md_cut_save(sch, sch->model, s, &sch->cut->stock));
}

void md_cut_line(struct md_scheduler *sch, uint32_t number)
{
    sch->cut_number = number;
    sch->sweep_at = sch->open.head;
    sch->sweep_away = sch->away.head;
    sch->sweeping = true;
    sch->swept_ns = md_now_ns();
}

void md_cut_touch(struct md_scheduler *sch, struct io_stream *s)
{
    struct md_registry *r;

    if (!sch->cut || atomic_load(&sch->cut->open) != sch->cut_number)
        return;
    if (md_course_is_open(&s->course)) {
        if (s->course.cut != sch->cut_number)
            save(sch, s);
        return;
    }
    r = s->input->registry;
    pthread_mutex_lock(&r->lock);
    if (s->course.cut != sch->cut_number && s->course.returning)
        save(sch, s);
    s->course.cut = sch->cut_number;
    pthread_mutex_unlock(&r->lock);
}

void md_cut_leaves(struct md_scheduler *sch, const struct io_stream *s)
{
    if (sch->sweep_at == s)
        sch->sweep_at = s->course.next_open;
    if (sch->sweep_away == s)
        sch->sweep_away = s->course.next_open;
}

static struct io_stream *next_swept(struct md_scheduler *sch)
{
    if (!sch->sweep_at) {
        sch->sweep_at = sch->sweep_away;
        sch->sweep_away = NULL;
    }
    return sch->sweep_at;
}

static bool crowded(struct md_snapshot_cut *c)
{
    pthread_mutex_lock(&c->lock);
    bool full = c->waiting > WAITING_MAX;
    pthread_mutex_unlock(&c->lock);
    return full;
}

static int64_t portion(const struct md_scheduler *sch, bool hurried, int64_t now_ns)
{
    int64_t share = (now_ns - sch->swept_ns) / HURRIED_SHARE;

    if (!hurried)
        return PORTION_NS;
    return share < HURRIED_NS ? HURRIED_NS : share > HURRIED_MOST_NS ? HURRIED_MOST_NS : share;
}

static bool sweep_until(struct md_scheduler *sch, int64_t until)
{
    for (struct io_stream *s; (s = next_swept(sch)) != NULL;) {
        if (md_now_ns() > until || crowded(sch->cut))
            return false;
        sch->sweep_at = s->course.next_open;
        if (s->course.cut != sch->cut_number)
            save(sch, s);
    }
    return true;
}

bool md_cut_sweep(struct md_scheduler *sch, bool hurried)
{
    if (!sch->sweeping)
        return true;
    int64_t now = md_now_ns();
    bool all = sweep_until(sch, now + portion(sch, hurried, now));
    sch->swept_ns = md_now_ns();
    if (!all)
        return false;
    sch->sweeping = false;
    pthread_mutex_lock(&sch->cut->lock);
    sch->cut->engines_left--;
    pthread_cond_signal(&sch->cut->wake);
    pthread_mutex_unlock(&sch->cut->lock);
    return true;
}

/* ---- the writer's side ------------------------------------------------------------------------------------------ */

struct rest {
    struct md_snapshot_cut *cut;
    uint32_t number;
};

static bool copy_rest(struct io_stream *s, void *arg)
{
    const struct rest *r = arg;

    if (s->course.cut == r->number || md_course_is_open(&s->course) || !s->course.returning)
        return true;
    s->course.cut = r->number;
    md_cut_give(r->cut, md_cut_save(NULL, s->input->model, s, NULL));
    return true;
}

void md_cut_rest(struct md_snapshot_cut *c, struct md_registry *r, uint32_t number)
{
    struct rest rest = {c, number};

    md_registry_each(r, copy_rest, &rest);
    atomic_store(&c->open, 0);
}
