/* rig.c: set-up for the engine's tests. One thread; failures end the test program by assertion. */
#include "tests/ssm/rig.h"

#include <assert.h>
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ssm/dtype.h"
#include "ssm/model.h"
#include "tests/seed.h"

struct rng rig_rng(const char *test)
{
    printf("%s: ", test);
    return (struct rng){test_seed()};
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

struct ssm_model *rig_vivid(const char *preset)
{
    struct ssm_model *m = rig_random(preset);
    for (uint32_t l = 0; l < m->config.L; l++) {
        m->layers[l].D.scale = 0.1f;
        m->layers[l].x_proj.scale *= 6.0f;
        m->layers[l].out_proj.scale *= 4.0f;
    }
    return m;
}

struct ssm_engine *rig_engine(const struct ssm_model *m, const struct rig_variant *v, uint32_t threads, uint32_t slots)
{
    struct ssm_engine_opts opts = {.device = v->device,
                                   .ops = v->ops,
                                   .weights = v->weights,
                                   .state = v->state,
                                   .deterministic = true,
                                   .adapt = ssm_model_adapts(ssm_model_info(m)),
                                   .slots = slots,
                                   .threads = threads};
    struct ssm_engine *e = NULL;
    char why[SSM_ERR] = "";
    if (ssm_engine_open(m, &opts, &e, why))
        fprintf(stderr, "%s: %s\n", rig_name(v), why);
    assert(e);
    return e;
}

struct ssm_slot rig_slot(struct ssm_engine *e)
{
    struct ssm_slot slot;
    int err = ssm_slot_take(e, &slot);
    if (err)
        fprintf(stderr, "ssm_slot_take: %s: %s\n", strerror(-err), ssm_engine_failure(e));
    assert(!err);
    return slot;
}

/* ---- variants -------------------------------------------------------------------------------------------- */

static bool on_cuda, light;

static bool take_argument(int *argc, char **argv, const char *name)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], name))
            continue;
        memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof *argv);
        --*argc;
        return true;
    }
    return false;
}

int rig_begin(int *argc, char **argv)
{
    const char *required = getenv("MAMBAD_REQUIRE_GPU");
    char why[SSM_ERR] = "";
    light = take_argument(argc, argv, "light");
    on_cuda = take_argument(argc, argv, "cuda");
    setvbuf(stdout, NULL, _IOLBF, 0); /* in order with what goes to stderr */
    if (!on_cuda)
        return 0;
    struct ssm_engine_opts opts = {.device = "cuda", .slots = 1};
    struct ssm_model *m = rig_random("3x1,5,7");
    struct ssm_engine *e = NULL;
    int err = ssm_engine_open(m, &opts, &e, why);
    ssm_engine_close(&e);
    ssm_model_close(&m);
    if (!err)
        return 0;
    if (err != -ENODEV || (required && !strcmp(required, "1"))) {
        fprintf(stderr, "no GPU to test: %s\n", why);
        return 1;
    }
    printf("skipped: %s\n", why);
    return 77;
}

bool rig_cuda(void)
{
    return on_cuda;
}

bool rig_light(void)
{
    return light;
}

static bool cuda_variant(unsigned i, struct rig_variant *ret)
{
    static const struct rig_variant few[] = {{"cuda", NULL, SSM_F32, SSM_F32},
                                             {"cuda", NULL, SSM_BF16, SSM_F32},
                                             {"cuda", NULL, SSM_F16, SSM_F16}};
    if (i >= (light ? 3 : 9))
        return false;
    *ret = light ? few[i] : (struct rig_variant){"cuda", NULL, (enum ssm_dtype)(i / 3), (enum ssm_dtype)(i % 3)};
    return true;
}

bool rig_variant(unsigned i, struct rig_variant *ret)
{
    const struct ssm_ops *ops;
    if (on_cuda)
        return cuda_variant(i, ret);
    for (unsigned k = 0; (ops = ssm_ops_at(k)); k++) {
        for (enum ssm_dtype d = SSM_F32; d <= SSM_F16; d++) {
            if (!ops->usable() || !ops->takes(d) || i-- > 0)
                continue;
            *ret = rig_cpu(ops->name, d);
            return true;
        }
    }
    return false;
}

struct rig_variant rig_common(void)
{
    return on_cuda ? (struct rig_variant){"cuda", NULL, SSM_BF16, SSM_F32} : rig_cpu(NULL, SSM_F32);
}

const struct rig_variant rig_ref = {"cpu", "ref", SSM_F32, SSM_F32};

struct rig_variant rig_cpu(const char *ops, enum ssm_dtype weights)
{
    return (struct rig_variant){"cpu", ops, weights, SSM_F32};
}

struct rig_variant rig_truth(enum ssm_dtype weights)
{
    static const char *const names[] = {"avx512", "avx2"};
    const struct ssm_ops *ops;
    for (unsigned n = 0; n < 2; n++)
        for (unsigned i = 0; (ops = ssm_ops_at(i)); i++)
            if (!strcmp(ops->name, names[n]) && ops->usable() && ops->takes(weights))
                return rig_cpu(ops->name, weights);
    return rig_cpu("ref", weights);
}

const char *rig_signal_size(unsigned i)
{
    static const char *const sizes[] = {"20x2,5,0,3", "64x2,16,0", "768x1,16,0"};
    return i < (!on_cuda || light ? 1 : 3) ? sizes[i] : NULL;
}

const char *rig_name(const struct rig_variant *v)
{
    static char text[64];
    snprintf(text, sizeof text, "%s%s%s %s weights %s state", v->device, v->ops ? " " : "", v->ops ? v->ops : "",
             ssm_dtype_name(v->weights), ssm_dtype_name(v->state));
    return text;
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
