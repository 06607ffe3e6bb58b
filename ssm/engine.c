/* engine.c: the public engine over whichever backend: slots and their generations, saved slots and their header. Used
 * by one thread at a time. The engine owns the backend's instance; the model is the caller's and outlives it. Whatever
 * touches slots first completes the batches under way, which may have them. Trap: a saved slot comes from a disk and is
 * believed only after every check passed; until then the slot in use is not touched. */
#include "ssm/backend.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ssm/bytes.h"
#include "ssm/checksum.h"
#include "ssm/fail.h"
#include "ssm/joint.h"
#include "ssm/model.h"

enum { SECTIONS_MAX = 16, NAME_BYTES = 16, UNDER_WAY_MAX = 2 };
enum { JOINT_NS = 400 }; /* about what a channel's sample costs in a joint row, … */
enum { BYTE_NS = 1000 }; /* … and the scoring of a byte */

struct batch {
    const struct ssm_item *items;
    uint32_t n;
};

struct ssm_engine {
    const struct ssm_model *model;
    const struct ssm_backend *backend;
    void *self;
    uint32_t dtypes; /* of weights and, from bit 8 on, of states */
    uint32_t capacity, used;
    uint32_t *generations;   /* odd while taken */
    uint32_t *given;         /* slots that were given back; */
    uint32_t n_given, fresh; /* from `fresh` on, none was ever taken: the slab fills from its start */
    struct ssm_section sections[SECTIONS_MAX];
    unsigned n_sections;
    size_t slot_bytes;
    char note[SSM_ERR];
    uint8_t *host;      /* [capacity][host_bytes], beside the backend's slab: what no device computes: */
    size_t host_bytes;  /* section "joint" where the model has an anomaly head, "bytes" where it reads them; else 0 */
    unsigned under_way; /* batches that the backend has, … */
    struct batch batches[UNDER_WAY_MAX]; /* … oldest first */
    int codes[UNDER_WAY_MAX];            /* of batches that were completed before they were waited for, oldest first */
    unsigned n_codes;
};

/* Of a saved slot; explicit places, little-endian. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_DTYPE = 12,
    AT_BYTES = 16,
    AT_SHAPE = 24,
    AT_OPS = 32,
    AT_CHECKSUM = AT_OPS + NAME_BYTES, /* over all that stands before and after it */
    HEADER_BYTES = AT_CHECKSUM + 8
};

static const char magic[8] = "mambadS\n";
enum { VERSION = 2 };

static bool live(const struct ssm_engine *e, struct ssm_slot slot)
{
    return slot.index < e->capacity && slot.generation % 2 == 1 && e->generations[slot.index] == slot.generation;
}

static void *host_at(const struct ssm_engine *e, struct ssm_slot slot)
{
    return e->host + slot.index * e->host_bytes;
}

struct finish {
    const struct ssm_engine *e;
    struct batch b;
};

/* Streams whose first item is in this part; of bytes each item is one. */
static void finish_part(void *ctx, unsigned part, unsigned parts)
{
    const struct finish *f = ctx;
    const struct ssm_config *c = &f->e->model->config;
    uint32_t from = (uint32_t)((uint64_t)f->b.n * part / parts), to = (uint32_t)((uint64_t)f->b.n * (part + 1) / parts);
    void *sections[SSM_CHANNELS_MAX];
    for (uint32_t i = from; i < to; i++) {
        const struct ssm_item *items = &f->b.items[i];
        if (items->scored.surprise)
            ssm_bytes_run(items, host_at(f->e, items->slot));
        if (items->channels == 0)
            continue;
        assert(f->e->host && items->channels <= SSM_CHANNELS_MAX && items->channels <= f->b.n - i);
        for (uint32_t k = 0; k < items->channels; k++)
            sections[k] = host_at(f->e, items[k].slot);
        ssm_joint_run(&c->calibration, c->front.patch, items, sections);
    }
}

/* What is left to do on the host when a device has done its part: the streams' joint rows, their bytes' surprises. */
static void finish(const struct ssm_engine *e, struct batch b)
{
    struct finish f = {e, b};
    uint64_t ns = 0;
    for (uint32_t i = 0; i < b.n; i++)
        ns += (uint64_t)b.items[i].n * (b.items[i].scored.surprise ? BYTE_NS : b.items[i].channels * JOINT_NS);
    if (ns > 0 && e->backend->share)
        e->backend->share(e->self, ns, finish_part, &f);
    else if (ns > 0)
        finish_part(&f, 0, 1);
}

static int wait_for_oldest(struct ssm_engine *e)
{
    int err = e->backend->wait(e->self);
    struct batch b = e->batches[0];
    memmove(e->batches, e->batches + 1, --e->under_way * sizeof *e->batches);
    if (err == 0)
        finish(e, b);
    return err;
}

static void complete(struct ssm_engine *e)
{
    while (e->under_way > 0)
        e->codes[e->n_codes++] = wait_for_oldest(e);
}

static void collect_sections(struct ssm_engine *e)
{
    unsigned n;
    const struct ssm_section *own = e->backend->sections(e->self, &n);
    assert(n + 1 < SECTIONS_MAX);
    e->sections[0] = (struct ssm_section){"header", 0, HEADER_BYTES};
    e->slot_bytes = HEADER_BYTES;
    for (unsigned i = 0; i < n; i++) {
        e->sections[i + 1] = (struct ssm_section){own[i].name, e->slot_bytes, own[i].bytes};
        e->slot_bytes += own[i].bytes;
    }
    e->n_sections = n + 1;
    if (e->host_bytes)
        e->sections[e->n_sections++] =
            (struct ssm_section){e->model->config.anomaly ? "joint" : "bytes", e->slot_bytes, e->host_bytes};
    e->slot_bytes += e->host_bytes;
}

/* Device "auto" is the CPU too where the CUDA backend is there and finds no device. */
static int open_backend(struct ssm_engine *e, const struct ssm_engine_opts *opts, char *reterr)
{
    const char *device = opts->device ? opts->device : "auto";
    bool choice = !strcmp(device, "auto");
    int err = ssm_backend_pick(device, &e->backend, e->note, reterr);
    if (err)
        return err;
    if (choice && e->backend != &ssm_backend_cpu) {
        err = e->backend->open(e->model, opts, &e->self, e->note);
        if (err && err != -ENODEV)
            return ssm_fail(reterr, err, "%s", e->note);
        if (!err) {
            e->note[0] = '\0';
            return 0;
        }
        e->backend = &ssm_backend_cpu;
    }
    return e->backend->open(e->model, opts, &e->self, reterr);
}

int ssm_engine_open(const struct ssm_model *model, const struct ssm_engine_opts *opts, struct ssm_engine **ret,
                    char *reterr)
{
    struct ssm_engine *e = calloc(1, sizeof *e);
    int err = -ENOMEM;
    assert(opts->slots >= 1 && (!opts->adapt || ssm_model_adapts(ssm_model_info(model))));
    if (!e || !(e->generations = calloc(opts->slots, sizeof *e->generations)) ||
        !(e->given = calloc(opts->slots, sizeof *e->given))) {
        ssm_fail(reterr, err, "out of memory for %u slots", opts->slots);
        goto fail;
    }
    e->host_bytes = model->config.anomaly             ? ssm_joint_bytes(model->config.front.patch)
                    : ssm_reads_bytes(&model->config) ? ssm_bytes_state()
                                                      : 0;
    if (e->host_bytes) /* the kernel gives its memory when it is first touched */
        e->host = calloc(opts->slots, e->host_bytes);
    if (e->host_bytes && !e->host) {
        ssm_fail(reterr, err, "out of memory for %u slots", opts->slots);
        goto fail;
    }
    e->model = model;
    e->dtypes = (uint32_t)opts->weights | (uint32_t)opts->state << 8;
    e->capacity = opts->slots;
    if ((err = open_backend(e, opts, reterr)))
        goto fail;
    collect_sections(e);
    *ret = e;
    return 0;

fail:
    ssm_engine_close(&e);
    return err;
}

void ssm_engine_close(struct ssm_engine **engine)
{
    struct ssm_engine *e = *engine;
    if (!e)
        return;
    if (e->self) {
        complete(e);
        e->backend->close(e->self);
    }
    free(e->generations);
    free(e->given);
    free(e->host);
    free(e);
    *engine = NULL;
}

const struct ssm_model *ssm_engine_model(const struct ssm_engine *e)
{
    return e->model;
}

const char *ssm_engine_ops(const struct ssm_engine *e)
{
    return e->backend->ops(e->self);
}

const char *ssm_engine_device(const struct ssm_engine *e)
{
    return e->backend->device(e->self);
}

const char *ssm_engine_note(const struct ssm_engine *e)
{
    return e->note;
}

const char *ssm_engine_failure(const struct ssm_engine *e)
{
    return e->backend->failure ? e->backend->failure(e->self) : "";
}

bool ssm_engine_exact(const struct ssm_engine *e)
{
    return !e->backend->exact || e->backend->exact(e->self);
}

/* ---- advance --------------------------------------------------------------------------------------------- */

int ssm_advance_start(struct ssm_engine *e, const struct ssm_item *items, uint32_t n_items)
{
    assert(e->under_way + e->n_codes < UNDER_WAY_MAX);
    for (uint32_t i = 0; i < n_items; i++) {
        assert(live(e, items[i].slot));
        assert(items[i].n >= 1);
    }
    int err = n_items ? e->backend->start(e->self, items, n_items) : 0;
    struct batch b = {items, n_items};
    if (!err && n_items && e->backend->wait)
        e->batches[e->under_way++] = b;
    else if (!err)
        finish(e, b);
    return err;
}

int ssm_advance_wait(struct ssm_engine *e)
{
    int err = 0;
    if (e->n_codes > 0) {
        err = e->codes[0];
        memmove(e->codes, e->codes + 1, --e->n_codes * sizeof *e->codes);
    } else if (e->under_way > 0) {
        err = wait_for_oldest(e);
    }
    return err;
}

bool ssm_advance_done(struct ssm_engine *e)
{
    return e->under_way == 0 || e->n_codes > 0 || (e->backend->done && e->backend->done(e->self));
}

double ssm_engine_busy(struct ssm_engine *e)
{
    return e->backend->busy ? e->backend->busy(e->self) : -1.0;
}

int ssm_advance(struct ssm_engine *e, const struct ssm_item *items, uint32_t n_items)
{
    assert(!e->under_way && !e->n_codes);
    int err = ssm_advance_start(e, items, n_items);
    return err ? err : ssm_advance_wait(e);
}

int ssm_engine_replay(struct ssm_engine *e, uint32_t times, float *ret_us)
{
    complete(e);
    return e->backend->replay ? e->backend->replay(e->self, times, ret_us) : -ENOTSUP;
}

/* ---- slots ----------------------------------------------------------------------------------------------- */

static void reset_host(struct ssm_engine *e, struct ssm_slot slot)
{
    if (e->model->config.anomaly)
        ssm_joint_reset(e->model->config.front.patch, host_at(e, slot));
    else if (e->host_bytes)
        ssm_bytes_reset(host_at(e, slot));
}

int ssm_slot_take(struct ssm_engine *e, struct ssm_slot *ret_slot)
{
    if (e->used == e->capacity)
        return -ENOSPC;
    complete(e);
    uint32_t index = e->n_given > 0 ? e->given[e->n_given - 1] : e->fresh;
    int err = e->backend->reset(e->self, index);
    if (err)
        return err;
    if (e->n_given > 0)
        e->n_given--;
    else
        e->fresh++;
    e->used++;
    e->generations[index]++;
    *ret_slot = (struct ssm_slot){index, e->generations[index]};
    reset_host(e, *ret_slot);
    return 0;
}

void ssm_slot_give(struct ssm_engine *e, struct ssm_slot slot)
{
    assert(live(e, slot));
    complete(e);
    e->generations[slot.index]++;
    e->given[e->n_given++] = slot.index;
    e->used--;
}

void ssm_slot_reset(struct ssm_engine *e, struct ssm_slot slot)
{
    assert(live(e, slot));
    complete(e);
    reset_host(e, slot);
    e->backend->reset(e->self, slot.index); /* it has its memory; a device that failed says so at the next batch */
}

int ssm_slot_copy(struct ssm_engine *e, struct ssm_slot from, struct ssm_slot to)
{
    assert(live(e, from) && live(e, to) && from.index != to.index);
    complete(e);
    int err = e->backend->copy(e->self, from.index, to.index);
    if (!err && e->model->config.anomaly)
        memcpy(host_at(e, to), host_at(e, from), e->host_bytes);
    else if (!err && e->host_bytes)
        ssm_bytes_copy(host_at(e, from), host_at(e, to));
    return err;
}

bool ssm_slot_logits(struct ssm_engine *e, struct ssm_slot slot, float *ret)
{
    assert(live(e, slot) && ssm_reads_bytes(&e->model->config));
    complete(e);
    const float *logits = ssm_bytes_logits(host_at(e, slot));
    if (logits)
        memcpy(ret, logits, SSM_BYTES * sizeof *ret);
    return logits;
}

uint32_t ssm_slots_used(const struct ssm_engine *e)
{
    return e->used;
}

size_t ssm_slot_bytes(const struct ssm_engine *e)
{
    return e->slot_bytes;
}

const struct ssm_section *ssm_slot_sections(const struct ssm_engine *e, unsigned *ret_n)
{
    *ret_n = e->n_sections;
    return e->sections;
}

static uint64_t checksum_of(const uint8_t *saved, size_t bytes)
{
    uint64_t hash = ssm_checksum(VERSION, saved, AT_CHECKSUM);
    return ssm_checksum(hash, saved + HEADER_BYTES, bytes - HEADER_BYTES);
}

static void write_header(const struct ssm_engine *e, uint8_t *h)
{
    uint32_t version = VERSION, dtype = e->dtypes;
    uint64_t bytes = e->slot_bytes, shape = ssm_model_shape_hash(e->model);
    memset(h, 0, HEADER_BYTES);
    memcpy(h + AT_MAGIC, magic, sizeof magic);
    memcpy(h + AT_VERSION, &version, sizeof version);
    memcpy(h + AT_DTYPE, &dtype, sizeof dtype);
    memcpy(h + AT_BYTES, &bytes, sizeof bytes);
    memcpy(h + AT_SHAPE, &shape, sizeof shape);
    strncpy((char *)h + AT_OPS, ssm_engine_ops(e), NAME_BYTES - 1);
}

int ssm_slot_save_unsealed(struct ssm_engine *e, struct ssm_slot slot, void *buf)
{
    uint8_t *saved = buf;
    assert(live(e, slot));
    complete(e);
    memset(saved, 0, HEADER_BYTES); /* what cannot be saved cannot be restored */
    int err = e->backend->save(e->self, slot.index, saved + HEADER_BYTES);
    if (err)
        return err;
    if (e->host_bytes)
        memcpy(saved + e->slot_bytes - e->host_bytes, host_at(e, slot), e->host_bytes);
    write_header(e, saved);
    return 0;
}

void ssm_slot_seal(void *buf, size_t bytes)
{
    uint8_t *saved = buf;
    uint64_t checksum;
    memcpy(&checksum, saved + AT_CHECKSUM, sizeof checksum);
    if (checksum)
        return;
    checksum = checksum_of(saved, bytes);
    memcpy(saved + AT_CHECKSUM, &checksum, sizeof checksum);
}

int ssm_slot_save(struct ssm_engine *e, struct ssm_slot slot, void *buf)
{
    int err = ssm_slot_save_unsealed(e, slot, buf);
    if (!err)
        ssm_slot_seal(buf, e->slot_bytes);
    return err;
}

static int check_saved(const struct ssm_engine *e, const uint8_t *saved, size_t bytes, const uint8_t *ours,
                       char *reterr)
{
    uint64_t checksum;
    if (bytes < HEADER_BYTES || memcmp(saved + AT_MAGIC, magic, sizeof magic))
        return ssm_fail(reterr, -EBADMSG, "not a saved slot");
    if (memcmp(saved + AT_VERSION, ours + AT_VERSION, sizeof(uint32_t)))
        return ssm_fail(reterr, -EBADMSG, "saved slot of another version than %d", VERSION);
    if (memcmp(saved + AT_SHAPE, ours + AT_SHAPE, sizeof(uint64_t)))
        return ssm_fail(reterr, -EBADMSG, "saved slot of a model of another shape than %s",
                        ssm_model_info(e->model)->name);
    if (bytes != e->slot_bytes || memcmp(saved + AT_BYTES, ours + AT_BYTES, sizeof(uint64_t)))
        return ssm_fail(reterr, -EBADMSG, "saved slot of %zu bytes where %zu are expected", bytes, e->slot_bytes);
    memcpy(&checksum, saved + AT_CHECKSUM, sizeof checksum);
    if (checksum != checksum_of(saved, bytes))
        return ssm_fail(reterr, -EBADMSG, "saved slot is damaged (checksum)");
    return 0;
}

int ssm_slot_check(const struct ssm_engine *e, const void *buf, size_t bytes, bool *ret_exact, char *reterr)
{
    const uint8_t *saved = buf;
    uint8_t ours[HEADER_BYTES];
    write_header(e, ours);
    int err = check_saved(e, saved, bytes, ours, reterr);
    if (!err && ret_exact)
        *ret_exact = !memcmp(saved + AT_OPS, ours + AT_OPS, NAME_BYTES) &&
                     !memcmp(saved + AT_DTYPE, ours + AT_DTYPE, sizeof(uint32_t));
    return err;
}

int ssm_slot_restore(struct ssm_engine *e, struct ssm_slot slot, const void *buf, size_t bytes, bool *ret_exact,
                     char *reterr)
{
    const uint8_t *saved = buf;
    assert(live(e, slot));
    complete(e);
    int err = ssm_slot_check(e, saved, bytes, ret_exact, reterr);
    if (!err && (err = e->backend->restore(e->self, slot.index, saved + HEADER_BYTES)))
        ssm_fail(reterr, err, "the device refused the saved slot: %s", strerror(-err));
    if (!err && e->host_bytes)
        memcpy(host_at(e, slot), saved + e->slot_bytes - e->host_bytes, e->host_bytes);
    return err;
}
