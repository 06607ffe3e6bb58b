/* generate_state.c: the file that `mambactl generate --state` goes on from. Little-endian:
 *
 *   header     struct header
 *   samples    n of struct generation, then n saved slots (ssm_slot_save), back to back
 *
 * The slots have checksums of their own; the header's is over itself and the samples. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ssm/checksum.h"
#include "tools/generate.h"

struct header {
    char magic[8];
    uint32_t version, samples;
    uint64_t model, slot_bytes, checksum;
};
static const char magic[8] = "mambadB\n";
enum { VERSION = 1, SAMPLES_MAX = 1 << 16 };

static int fail(char *reterr, int err, const char *path, const char *what)
{
    snprintf(reterr, SSM_ERR, "%.400s: %s", path, what);
    return err;
}

static uint64_t checksum_of(struct header h, const struct generation *samples)
{
    h.checksum = 0;
    return ssm_checksum(ssm_checksum(0, &h, sizeof h), samples, h.samples * sizeof *samples);
}

/* ---- saving ----------------------------------------------------------------------------------------------- */

static int write_all(FILE *f, struct ssm_engine *engine, const struct ssm_slot *slots, const struct generation *samples,
                     uint32_t n)
{
    struct header h = {.version = VERSION, .samples = n, .slot_bytes = ssm_slot_bytes(engine)};
    void *slot = malloc(h.slot_bytes);
    int err = slot ? 0 : -ENOMEM;
    memcpy(h.magic, magic, sizeof magic);
    h.model = ssm_model_hash(ssm_engine_model(engine));
    h.checksum = checksum_of(h, samples);
    if (!err && (fwrite(&h, sizeof h, 1, f) != 1 || fwrite(samples, sizeof *samples, n, f) != n))
        err = -errno;
    for (uint32_t i = 0; i < n && !err; i++) {
        err = ssm_slot_save(engine, slots[i], slot);
        if (!err && fwrite(slot, h.slot_bytes, 1, f) != 1)
            err = -errno;
    }
    free(slot);
    return err;
}

int generation_save(const char *path, struct ssm_engine *engine, const struct ssm_slot *slots,
                    const struct generation *samples, uint32_t n, char *reterr)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return fail(reterr, -ENAMETOOLONG, path, strerror(ENAMETOOLONG));
    FILE *f = fopen(part, "we");
    int err = f ? write_all(f, engine, slots, samples, n) : -errno;
    if (f && !err && (fflush(f) || fsync(fileno(f))))
        err = -errno;
    if (f && fclose(f) && !err)
        err = -errno;
    if (!err && rename(part, path))
        err = -errno;
    if (err && f)
        unlink(part);
    return err ? fail(reterr, err, path, strerror(-err)) : 0;
}

/* ---- loading ---------------------------------------------------------------------------------------------- */

static int read_header(FILE *f, const char *path, struct header *ret, char *reterr)
{
    if (fread(ret, sizeof *ret, 1, f) != 1 || memcmp(ret->magic, magic, sizeof magic) != 0)
        return fail(reterr, -EBADMSG, path, "no state of mambactl generate");
    if (ret->version != VERSION)
        return fail(reterr, -EBADMSG, path, "made by another version of mambactl");
    if (ret->samples == 0 || ret->samples > SAMPLES_MAX)
        return fail(reterr, -EBADMSG, path, "damaged: impossible number of samples");
    return 0;
}

int generation_count(const char *path, uint32_t *ret_n, char *reterr)
{
    struct header h;
    FILE *f = fopen(path, "re");
    if (!f)
        return fail(reterr, -errno, path, strerror(errno));
    int err = read_header(f, path, &h, reterr);
    if (!err)
        *ret_n = h.samples;
    fclose(f);
    return err;
}

static int load_samples(FILE *f, const char *path, struct ssm_engine *engine, const struct header *h,
                        struct generation *samples, char *reterr)
{
    if (h->model != ssm_model_hash(ssm_engine_model(engine)))
        return fail(reterr, -EBADMSG, path, "the state of another model, or of other weights");
    if (h->slot_bytes != ssm_slot_bytes(engine))
        return fail(reterr, -EBADMSG, path, "damaged: slots of another size");
    if (fread(samples, sizeof *samples, h->samples, f) != h->samples)
        return fail(reterr, -EBADMSG, path, "damaged: too short");
    if (checksum_of(*h, samples) != h->checksum)
        return fail(reterr, -EBADMSG, path, "damaged: wrong checksum");
    return 0;
}

static int load_slots(FILE *f, const char *path, struct ssm_engine *engine, const struct ssm_slot *slots, uint32_t n,
                      bool *ret_exact, char *reterr)
{
    const size_t bytes = ssm_slot_bytes(engine);
    char why[SSM_ERR];
    void *slot = malloc(bytes);
    int err = slot ? 0 : fail(reterr, -ENOMEM, path, strerror(ENOMEM));
    *ret_exact = true;
    for (uint32_t i = 0; i < n && !err; i++) {
        bool exact = true;
        if (fread(slot, bytes, 1, f) != 1)
            err = fail(reterr, -EBADMSG, path, "damaged: too short");
        else if ((err = ssm_slot_restore(engine, slots[i], slot, bytes, &exact, why)) != 0)
            snprintf(reterr, SSM_ERR, "%.200s: sample %u: %.250s", path, i, why);
        *ret_exact = *ret_exact && exact;
    }
    free(slot);
    return err;
}

int generation_load(const char *path, struct ssm_engine *engine, const struct ssm_slot *slots,
                    struct generation *samples, uint32_t n, bool *ret_exact, char *reterr)
{
    struct header h;
    FILE *f = fopen(path, "re");
    if (!f)
        return fail(reterr, -errno, path, strerror(errno));
    int err = read_header(f, path, &h, reterr);
    if (!err && h.samples != n)
        err = fail(reterr, -EBADMSG, path, "another number of samples than before");
    if (!err)
        err = load_samples(f, path, engine, &h, samples, reterr);
    if (!err)
        err = load_slots(f, path, engine, slots, n, ret_exact, reterr);
    fclose(f);
    return err;
}
