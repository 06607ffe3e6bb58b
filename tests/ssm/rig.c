/* rig.c: set-up for the engine's tests. One thread; failures end the test program by assertion. */
#include "tests/ssm/rig.h"

#include <assert.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rng rig_rng(const char *test)
{
    const char *given = getenv("MAMBAD_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    printf("%s: MAMBAD_TEST_SEED=%llu\n", test, (unsigned long long)seed);
    return (struct rng){seed};
}

static uint64_t next(struct rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t rig_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((next(r) >> 32) * n >> 32);
}

double rig_normal(struct rng *r)
{
    double u = ((double)(next(r) >> 11) + 0.5) * 0x1p-53, v = (double)(next(r) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

struct ssm_model *rig_random(const char *preset)
{
    struct ssm_model *m = NULL;
    char why[SSM_ERR] = "";
    if (ssm_model_random(preset, 1, &m, why))
        fprintf(stderr, "%s\n", why);
    assert(m);
    return m;
}

struct ssm_engine *rig_engine(const struct ssm_model *m, const char *ops, enum ssm_dtype dtype, uint32_t threads,
                              uint32_t slots)
{
    struct ssm_engine_opts opts = {.device = "cpu", .ops = ops, .weights = dtype, .slots = slots, .threads = threads};
    struct ssm_engine *e = NULL;
    char why[SSM_ERR] = "";
    if (ssm_engine_open(m, &opts, &e, why))
        fprintf(stderr, "%s\n", why);
    assert(e);
    return e;
}

struct ssm_slot rig_slot(struct ssm_engine *e)
{
    struct ssm_slot slot;
    int err = ssm_slot_take(e, &slot);
    assert(!err);
    return slot;
}

bool rig_variant(unsigned i, const char **ret_ops, enum ssm_dtype *ret_dtype)
{
    const struct ssm_ops *ops;
    for (unsigned k = 0; (ops = ssm_ops_at(k)); k++) {
        for (enum ssm_dtype d = SSM_F32; d <= SSM_F16; d++) {
            if (!ops->usable() || !ops->takes(d) || i-- > 0)
                continue;
            *ret_ops = ops->name;
            *ret_dtype = d;
            return true;
        }
    }
    return false;
}

/* ---- folders --------------------------------------------------------------------------------------------- */

static char folders[64][256];
static unsigned n_folders;

const char *rig_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    assert(n_folders < 64);
    char *dir = folders[n_folders++];
    snprintf(dir, sizeof folders[0], "%s/ssm-test-XXXXXX", tmp ? tmp : "/tmp");
    char *made = mkdtemp(dir);
    assert(made);
    return made;
}

static int drop(const char *path, const struct stat *info, int type, struct FTW *where)
{
    return remove(path);
}

void rig_sweep(void)
{
    while (n_folders > 0)
        nftw(folders[--n_folders], drop, 8, FTW_DEPTH | FTW_PHYS);
}

uint8_t *rig_read(const char *dir, const char *file, size_t *ret_bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "rb");
    assert(f);
    fseek(f, 0, SEEK_END);
    *ret_bytes = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*ret_bytes + 1);
    assert(bytes && fread(bytes, 1, *ret_bytes, f) == *ret_bytes);
    bytes[*ret_bytes] = 0;
    fclose(f);
    return bytes;
}

void rig_write(const char *dir, const char *file, const void *bytes, size_t n)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "wb");
    assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
}
