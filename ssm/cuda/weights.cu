/* weights.cu: a model's weights on the device. Every tensor is read once, rounded to the weight dtype, packed on the
 * host a band of rows at a time and copied into one allocation. Runs at engine open, on the thread that opens. The
 * layout is walked twice with the same code: once to count bytes, once to fill. Trap: the host holds one matrix in fp32
 * at a time, never the model. */
#include "ssm/cuda/gpu.h"

#include <cerrno>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ssm/dtype.h"
#include "ssm/fail.h"

enum {
    ALIGN = 256,
    STAGE = 8 << 20,          /* bytes packed before they are copied, where a band is smaller than that */
    RESIDENT_BYTES = 16 << 20 /* of matrices; with the activations that flow by they still stay in L2 */
};

struct packer {
    const struct ssm_model *model;
    struct gpu_model *m;
    uint8_t *block; /* device; NULL while counting */
    size_t used;
    float *rows;    /* one matrix as it comes, rounded */
    uint8_t *stage; /* packed, on its way to the device */
    size_t stage_bytes;
    char *reterr;
};

/* Rows [from, from + n) of a tensor go to rows [to, to + n) of its matrix. */
struct piece {
    uint32_t from, n, to;
};

static void *take(struct packer *p, size_t bytes)
{
    void *at = p->block ? p->block + p->used : NULL;
    p->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static int copy(const struct packer *p, const void *to, const void *from, size_t bytes)
{
    cudaError_t e = cudaMemcpy((void *)to, from, bytes, cudaMemcpyHostToDevice);
    return e ? gpu_fail(p->reterr, p->model->name, "weights to the device", e) : 0;
}

/* [n] floats, zeros where the tensor is absent or shorter. */
static int take_vector(struct packer *p, const struct ssm_tensor *t, size_t n, const float **ret)
{
    *ret = (const float *)take(p, n * sizeof(float));
    if (!p->block)
        return 0;
    memset(p->rows, 0, n * sizeof(float));
    int err = t && t->rows ? ssm_tensor_read(t, 0, 1, p->rows, p->reterr) : 0;
    return err ? err : copy(p, *ret, p->rows, n * sizeof(float));
}

/* Rounds in place; *largest becomes the largest magnitude so far. */
static int round_rows(const struct packer *p, const struct ssm_tensor *t, float *rows, size_t n, float *largest)
{
    enum ssm_dtype dtype = p->m->dtype;
    uint32_t most = ssm_bits_of_float(*largest); /* magnitudes order as their bits do */
    for (size_t i = 0; i < n; i++) {
        rows[i] = ssm_rounded(dtype, rows[i]);
        uint32_t bits = ssm_bits_of_float(rows[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    *largest = ssm_float_of_bits(most);
    if (std::isfinite(*largest))
        return 0;
    return ssm_fail(p->reterr, -EBADMSG, "tensor '%s': a value does not fit %s", t->name, ssm_dtype_name(dtype));
}

/* The matrix [n][k] into p->rows. */
static int read_matrix(struct packer *p, const struct ssm_tensor *t, const struct piece *pieces, unsigned n_pieces,
                       const struct gpu_matrix *w, float *largest)
{
    memset(p->rows, 0, (size_t)w->n * w->k * sizeof(float));
    for (unsigned i = 0; i < n_pieces; i++) {
        float *rows = p->rows + (size_t)pieces[i].to * w->k;
        int err = ssm_tensor_read(t, pieces[i].from, pieces[i].n, rows, p->reterr);
        if (!err)
            err = round_rows(p, t, rows, (size_t)pieces[i].n * w->k, largest);
        if (err)
            return err;
    }
    return 0;
}

/* The power of two that, divided out, brings `largest` into [2^12, 2^13). */
static float scale_of(float largest)
{
    int e = largest > 0.0f ? ilogbf(largest) - 12 : 0;
    return ldexpf(1.0f, e > -126 ? e : -126);
}

/* 16 rows from `n` as fp16, in the order of gpu_matrix.tiled and of .fragments (NULL: not wanted). Both hold 16 rows
 * in 16·kp halves one after the other. */
static void pack_band(const struct packer *p, const struct gpu_matrix *w, uint32_t n, uint16_t *tiled,
                      uint16_t *fragments)
{
    float unscale = 1.0f / w->scale;
    uint32_t rows = w->n - n < 16 ? w->n - n : 16;
    memset(tiled, 0, (size_t)16 * w->kp * sizeof *tiled);
    if (fragments)
        memset(fragments, 0, (size_t)16 * w->kp * sizeof *fragments);
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = p->rows + (size_t)(n + r) * w->k;
        for (uint32_t k = 0; k < w->k; k++) {
            uint16_t half = ssm_to_f16(row[k] * unscale);
            tiled[((size_t)(r / 8) * (w->kp / 8) + k / 8) * 64 + r % 8 * 8 + k % 8] = half;
            if (fragments) {
                uint32_t lane = r % 8 * 4 + k % 8 / 2, at = k % 16 / 8 * 4 + r / 8 * 2 + k % 2;
                fragments[((size_t)(k / 16) * 32 + lane) * 8 + at] = half;
            }
        }
    }
}

/* As many bands of 16 rows at a time as the stage holds. */
static int copy_tiled(const struct packer *p, const struct gpu_matrix *w)
{
    size_t band = (size_t)16 * w->kp, copies = w->fragments ? 2 : 1;
    size_t most = p->stage_bytes / (band * copies * sizeof(uint16_t)), bands = w->np / 16;
    uint16_t *tiled = (uint16_t *)p->stage, *fragments = w->fragments ? tiled + most * band : NULL;
    for (size_t from = 0; from < bands; from += most) {
        size_t n = bands - from < most ? bands - from : most, bytes = n * band * sizeof(uint16_t);
        for (size_t i = 0; i < n; i++)
            pack_band(p, w, (uint32_t)(from + i) * 16, tiled + i * band, fragments ? fragments + i * band : NULL);
        int err = copy(p, w->tiled + from * band, tiled, bytes);
        if (!err && fragments)
            err = copy(p, w->fragments + from * band, fragments, bytes);
        if (err)
            return err;
    }
    return 0;
}

/* [k][np], as many k's at a time as the stage holds. */
static int copy_columns(const struct packer *p, const struct gpu_matrix *w)
{
    size_t most = p->stage_bytes / (w->np * sizeof(float));
    float *stage = (float *)p->stage;
    for (size_t from = 0; from < w->k; from += most) {
        size_t k = w->k - from < most ? w->k - from : most;
        memset(stage, 0, k * w->np * sizeof(float));
        for (size_t band = 0; band < w->n; band += 16) /* whole cache lines at a time */
            for (size_t i = 0; i < k; i++)
                for (size_t n = band; n < band + 16 && n < w->n; n++)
                    stage[i * w->np + n] = p->rows[n * w->k + from + i];
        int err = copy(p, w->columns + from * w->np, stage, k * w->np * sizeof(float));
        if (err)
            return err;
    }
    return 0;
}

static int take_matrix(struct packer *p, const struct ssm_tensor *t, const struct ssm_tensor *bias,
                       const struct piece *pieces, unsigned n_pieces, struct gpu_matrix *w)
{
    const struct piece *last = &pieces[n_pieces - 1];
    float largest = 0.0f;
    w->n = last->to + last->n;
    w->k = t->cols;
    w->np = GPU_PADDED(w->n);
    w->kp = GPU_PADDED(w->k);
    w->scale = 1.0f;
    w->biased = bias && bias->rows > 0;
    size_t halves = (size_t)w->np * w->kp * sizeof(uint16_t);
    if (p->m->fast)
        w->tiled = (const uint16_t *)take(p, halves);
    if (p->m->resident)
        w->fragments = (const uint16_t *)take(p, halves);
    if (!p->m->fast)
        w->columns = (const float *)take(p, (size_t)w->k * w->np * sizeof(float));
    int err = take_vector(p, bias, w->np, &w->bias);
    if (err || !p->block || (err = read_matrix(p, t, pieces, n_pieces, w, &largest)))
        return err;
    if (!p->m->fast)
        return copy_columns(p, w);
    w->scale = scale_of(largest);
    return copy_tiled(p, w);
}

static int take_whole(struct packer *p, const struct ssm_tensor *t, const struct ssm_tensor *bias, struct gpu_matrix *w)
{
    struct piece whole = {0, t->rows, 0};
    return take_matrix(p, t, bias, &whole, 1, w);
}

/* [D][K] of the file to [K][D]. */
static int take_conv(struct packer *p, const struct ssm_tensor *t, const float **ret)
{
    size_t n = (size_t)t->rows * t->cols;
    *ret = (const float *)take(p, n * sizeof(float));
    if (!p->block)
        return 0;
    float *out = (float *)p->stage;
    int err = ssm_tensor_read(t, 0, t->rows, p->rows, p->reterr);
    for (size_t k = 0; k < t->cols; k++)
        for (size_t d = 0; d < t->rows; d++)
            out[k * t->rows + d] = p->rows[d * t->cols + k];
    return err ? err : copy(p, *ret, out, n * sizeof(float));
}

/* Finite, so that Δ = 0 leaves the state as it is and not NaN. */
static float decay_rate(float A_log)
{
    return (float)fmax(-exp((double)A_log) * 1.4426950408889634074, -(double)FLT_MAX);
}

static size_t A_floats(const struct gpu_dims *d)
{
    return (size_t)((d->D + 31) / 32) * ((d->N + 3) / 4) * 128;
}

/* [D][N] of the file to the order of a state of fp32. */
static int take_A(struct packer *p, const struct ssm_tensor *t, const float **ret)
{
    const struct gpu_dims *d = &p->m->d;
    size_t n = A_floats(d), quads = (d->N + 3) / 4;
    *ret = (const float *)take(p, n * sizeof(float));
    if (!p->block)
        return 0;
    float *out = (float *)p->stage;
    int err = ssm_tensor_read(t, 0, t->rows, p->rows, p->reterr);
    memset(out, 0, n * sizeof(float));
    for (size_t c = 0; c < d->D; c++)
        for (size_t s = 0; s < d->N; s++)
            out[((c / 32 * quads + s / 4) * 32 + c % 32) * 4 + s % 4] = decay_rate(p->rows[c * d->N + s]);
    return err ? err : copy(p, *ret, out, n * sizeof(float));
}

static int take_layer(struct packer *p, const struct ssm_layer_tensors *t, struct gpu_layer *l)
{
    const struct gpu_dims *d = &p->m->d;
    struct piece select[] = {{0, d->R, 0}, {d->R, d->N, d->Rp}, {d->R + d->N, d->N, d->Rp + d->N}};
    int err;
    if ((err = take_vector(p, &t->norm, d->E, &l->norm)) ||
        (err = take_whole(p, &t->in_proj, &t->in_bias, &l->in_proj)) || (err = take_conv(p, &t->conv, &l->conv)) ||
        (err = take_vector(p, &t->conv_bias, d->D, &l->conv_bias)) ||
        (err = take_matrix(p, &t->x_proj, NULL, select, 3, &l->x_proj)) ||
        (err = take_whole(p, &t->dt_proj, &t->dt_bias, &l->dt_proj)) || (err = take_A(p, &t->A_log, &l->A)) ||
        (err = take_vector(p, &t->D, d->D, &l->skip)))
        return err;
    return take_whole(p, &t->out_proj, &t->out_bias, &l->out_proj);
}

static int copy_embedding(const struct packer *p, const struct ssm_tensor *t, uint8_t *to)
{
    size_t width = ssm_dtype_bytes(p->m->dtype), row = t->cols * width, most = p->stage_bytes / row;
    for (size_t from = 0; from < t->rows; from += most) {
        size_t n = t->rows - from < most ? t->rows - from : most, values = n * t->cols;
        float largest = 0.0f;
        uint16_t *halves = (uint16_t *)p->stage;
        int err = ssm_tensor_read(t, (uint32_t)from, (uint32_t)n, p->rows, p->reterr);
        if (err || (err = round_rows(p, t, p->rows, values, &largest)))
            return err;
        for (size_t i = 0; i < values && p->m->dtype != SSM_F32; i++)
            halves[i] = p->m->dtype == SSM_BF16 ? ssm_to_bf16(p->rows[i]) : ssm_to_f16(p->rows[i]);
        if ((err = copy(p, to + from * row, p->m->dtype == SSM_F32 ? (void *)p->rows : halves, n * row)))
            return err;
    }
    return 0;
}

static int take_embedding(struct packer *p, const struct ssm_tensor *t, const void **ret)
{
    *ret = take(p, (size_t)t->rows * t->cols * ssm_dtype_bytes(p->m->dtype));
    return p->block ? copy_embedding(p, t, (uint8_t *)*ret) : 0;
}

static int take_all(struct packer *p)
{
    const struct ssm_model *model = p->model;
    struct gpu_model *m = p->m;
    bool tokens = model->config.input == SSM_TOKENS;
    int err = tokens ? take_embedding(p, &model->embedding, &m->embedding)
                     : take_whole(p, &model->input, &model->input_bias, &m->input);
    for (uint32_t i = 0; !err && i < m->d.L; i++)
        err = take_layer(p, &model->layers[i], &m->layers[i]);
    if (!err)
        err = take_vector(p, &model->norm_f, m->d.E, &m->norm_f);
    if (!err && m->d.outputs)
        err = take_whole(p, &model->head, &model->head_bias, &m->head);
    size_t bytes = m->d.L * sizeof *m->layers;
    m->layers_device = (const struct gpu_layer *)take(p, bytes);
    return err || !p->block ? err : copy(p, m->layers_device, m->layers, bytes);
}

static struct gpu_dims dims_of(const struct ssm_config *c)
{
    struct gpu_dims d = {};
    d.E = c->E;
    d.D = c->D;
    d.N = c->N;
    d.K = c->K;
    d.R = c->R;
    d.Rp = GPU_PADDED(c->R);
    d.L = c->L;
    d.F = c->input == SSM_SAMPLES ? c->front.features : 0;
    d.outputs = c->input == SSM_TOKENS ? c->vocab : c->horizon * c->n_quantiles;
    d.eps = c->eps;
    return d;
}

static size_t halves_of(size_t n, size_t k)
{
    return GPU_PADDED(n) * GPU_PADDED(k) * sizeof(uint16_t);
}

static size_t matrix_bytes(const struct gpu_dims *d)
{
    size_t layer =
        halves_of(2 * d->D, d->E) + halves_of(d->Rp + 2 * d->N, d->D) + halves_of(d->D, d->R) + halves_of(d->E, d->D);
    return d->L * layer + halves_of(d->E, d->F) + halves_of(d->outputs, d->E);
}

static size_t max_of(const size_t *sizes, size_t n)
{
    size_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = sizes[i] > max ? sizes[i] : max;
    return max;
}

/* Bytes of the largest band or table that is staged. */
static size_t stage_bytes(const struct gpu_dims *d)
{
    size_t lengths[] = {d->outputs, 2 * (size_t)d->D, d->E, d->F, d->Rp + 2 * (size_t)d->N};
    size_t longest = GPU_PADDED(max_of(lengths, sizeof lengths / sizeof *lengths));
    size_t bands = 2 * 16 * longest * sizeof(uint16_t), conv = (size_t)d->D * d->K * sizeof(float);
    size_t sizes[] = {STAGE, longest * sizeof(float), bands, conv, A_floats(d) * sizeof(float)};
    return max_of(sizes, sizeof sizes / sizeof *sizes);
}

/* Floats of the largest tensor that is read as a whole, or of what becomes a stage of embeddings. */
static size_t row_floats(const struct gpu_dims *d, size_t stage)
{
    size_t E = d->E, D = d->D, select = (size_t)d->Rp + 2 * d->N;
    size_t sizes[] = {d->outputs * E, 2 * D * E, E * d->F, select * D, D * d->R, D * d->N, D * d->K, stage / 2};
    return max_of(sizes, sizeof sizes / sizeof *sizes);
}

static int no_memory(const struct packer *p, const char *where, size_t bytes)
{
    return ssm_fail(p->reterr, -ENOMEM, "%s: no memory for %zu bytes of weights on the %s", p->model->name, bytes,
                    where);
}

static int fill(struct packer *p)
{
    p->stage_bytes = stage_bytes(&p->m->d);
    size_t rows = row_floats(&p->m->d, p->stage_bytes);
    p->rows = (float *)malloc(rows * sizeof(float));
    p->stage = (uint8_t *)malloc(p->stage_bytes);
    int err = p->rows && p->stage ? 0 : no_memory(p, "host", rows * sizeof(float) + p->stage_bytes);
    p->block = (uint8_t *)p->m->block;
    p->used = 0;
    if (!err)
        err = take_all(p);
    cudaError_t e = err ? cudaSuccess : gpu_sync_default(); /* copies from pageable memory */
    if (e)
        err = gpu_fail(p->reterr, p->model->name, "weights to the device", e);
    free(p->rows);
    free(p->stage);
    return err;
}

static bool is_fast(const struct gpu_dims *d, enum ssm_dtype dtype)
{
    return dtype != SSM_F32 && d->N == 16 && d->K == 4 && d->E % 16 == 0 && d->D % 64 == 0 && d->Rp <= 256;
}

int gpu_model_open(const struct ssm_model *model, enum ssm_dtype dtype, struct gpu_model *ret, char *reterr)
{
    struct gpu_model m = {};
    struct packer p = {};
    p.model = model;
    p.m = &m;
    p.reterr = reterr;
    m.model = model;
    m.d = dims_of(&model->config);
    m.dtype = dtype;
    m.fast = is_fast(&m.d, dtype);
    m.resident = m.fast && matrix_bytes(&m.d) <= RESIDENT_BYTES;
    m.layers = (struct gpu_layer *)calloc(m.d.L, sizeof *m.layers);
    if (!m.layers)
        return no_memory(&p, "host", m.d.L * sizeof *m.layers);
    take_all(&p); /* counts; cannot fail */
    m.bytes = p.used;
    cudaError_t e = cudaMalloc(&m.block, m.bytes);
    int err = 0;
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        err = no_memory(&p, "device", m.bytes);
    } else if (e) {
        err = gpu_fail(reterr, model->name, "memory for weights", e);
    }
    if (!err)
        err = fill(&p);
    if (err)
        gpu_model_close(&m);
    else
        *ret = m;
    return err;
}

void gpu_model_close(struct gpu_model *m)
{
    cudaFree(m->block);
    free(m->layers);
    memset(m, 0, sizeof *m);
}
