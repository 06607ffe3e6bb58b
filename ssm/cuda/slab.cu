/* slab.cu: the memory of slots' states on the device, and their way to and from saved bytes. The engine's thread only.
 * Saving and restoring go through one pinned image of a slot on the host, where the layouts are changed: rare beside
 * steps, so simple wins. Trap: a chunk fresh from the device is not zero; what was never reset is never read. */
#include "ssm/cuda/gpu.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "ssm/dtype.h"

enum { CHUNK_BYTES = 64 << 20 };

static size_t rounded_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* States in 16 bytes. */
static size_t per_vector(enum ssm_dtype state)
{
    return 16 / ssm_dtype_bytes(state);
}

/* Vectors of 16 bytes that a channel's states take. */
static size_t vectors(const struct gpu_dims *d, enum ssm_dtype state)
{
    return rounded_up(d->N, per_vector(state)) / per_vector(state);
}

int gpu_slab_open(const struct gpu_model *m, enum ssm_dtype state, uint32_t slots, struct gpu_slab *ret, char *reterr)
{
    const struct gpu_dims *d = &m->d;
    struct gpu_slab s = {};
    s.conv = m->fast ? SSM_F16 : SSM_F32;
    s.state = state;
    s.conv_layer = rounded_up((size_t)(d->K - 1) * d->D * ssm_dtype_bytes(s.conv), 16);
    s.ssm_layer = rounded_up(d->D, 32) / 32 * vectors(d, state) * 512;
    s.ssm_at = rounded_up(d->L * s.conv_layer, 128);
    s.stride = rounded_up(s.ssm_at + d->L * s.ssm_layer, 128);
    size_t fit = CHUNK_BYTES / s.stride;
    s.per_chunk = fit < 1 ? 1 : fit < slots ? (uint32_t)fit : slots;
    s.n_chunks = (slots + s.per_chunk - 1) / s.per_chunk;
    s.chunks = (uint8_t **)calloc(s.n_chunks, sizeof *s.chunks);
    cudaError_t e = s.chunks ? cudaMallocHost((void **)&s.image, s.stride) : cudaErrorMemoryAllocation;
    if (e) {
        gpu_slab_close(&s);
        return gpu_fail(reterr, m->model->name, "host memory for slots", e);
    }
    *ret = s;
    return 0;
}

void gpu_slab_close(struct gpu_slab *s)
{
    for (uint32_t i = 0; s->chunks && i < s->n_chunks; i++)
        cudaFree(s->chunks[i]);
    cudaFreeHost(s->image);
    free(s->chunks);
    memset(s, 0, sizeof *s);
}

static int errno_of(cudaError_t e)
{
    return e ? gpu_fail(NULL, "", "", e) : 0;
}

static int touch(struct gpu_slab *s, uint32_t slot)
{
    uint8_t **chunk = &s->chunks[slot / s->per_chunk];
    return *chunk ? 0 : errno_of(cudaMalloc((void **)chunk, s->per_chunk * s->stride));
}

int gpu_slab_reset(struct gpu_slab *s, uint32_t slot, cudaStream_t stream)
{
    int err = touch(s, slot);
    return err ? err : errno_of(cudaMemsetAsync(gpu_slab_at(s, slot), 0, s->stride, stream));
}

int gpu_slab_copy(const struct gpu_slab *s, uint32_t from, uint32_t to, cudaStream_t stream)
{
    return errno_of(
        cudaMemcpyAsync(gpu_slab_at(s, to), gpu_slab_at(s, from), s->stride, cudaMemcpyDeviceToDevice, stream));
}

/* ---- saved bytes ---- */

static float get(enum ssm_dtype dtype, const uint8_t *at)
{
    float f;
    uint16_t half;
    if (dtype == SSM_F32) {
        memcpy(&f, at, sizeof f);
        return f;
    }
    memcpy(&half, at, sizeof half);
    return dtype == SSM_BF16 ? ssm_from_bf16(half) : ssm_from_f16(half);
}

/* fp16 saturates, as it does in the kernels. */
static void put(enum ssm_dtype dtype, uint8_t *at, float f)
{
    if (dtype == SSM_F32) {
        memcpy(at, &f, sizeof f);
        return;
    }
    float clipped = f > 65504.0f ? 65504.0f : f < -65504.0f ? -65504.0f : f;
    uint16_t half = dtype == SSM_BF16 ? ssm_to_bf16(f) : ssm_to_f16(clipped);
    memcpy(at, &half, sizeof half);
}

static size_t conv_at(const struct gpu_slab *s, uint32_t layer, size_t i)
{
    return layer * s->conv_layer + i * ssm_dtype_bytes(s->conv);
}

static size_t state_at(const struct gpu_slab *s, const struct gpu_dims *d, uint32_t layer, size_t n, size_t c)
{
    size_t per = per_vector(s->state), vector = (c / 32 * vectors(d, s->state) + n / per) * 32 + c % 32;
    return s->ssm_at + layer * s->ssm_layer + vector * 16 + n % per * ssm_dtype_bytes(s->state);
}

int gpu_slab_save(const struct gpu_slab *s, const struct gpu_model *m, uint32_t slot, float *conv, float *ssm,
                  cudaStream_t stream)
{
    const struct gpu_dims *d = &m->d;
    cudaError_t e = cudaMemcpyAsync(s->image, gpu_slab_at(s, slot), s->stride, cudaMemcpyDeviceToHost, stream);
    if (!e)
        e = cudaStreamSynchronize(stream);
    if (e)
        return errno_of(e);
    for (uint32_t l = 0; l < d->L; l++) {
        for (size_t i = 0; i < (size_t)(d->K - 1) * d->D; i++)
            *conv++ = get(s->conv, s->image + conv_at(s, l, i));
        for (size_t n = 0; n < d->N; n++)
            for (size_t c = 0; c < d->D; c++)
                *ssm++ = get(s->state, s->image + state_at(s, d, l, n, c));
    }
    return 0;
}

int gpu_slab_restore(struct gpu_slab *s, const struct gpu_model *m, uint32_t slot, const float *conv, const float *ssm,
                     cudaStream_t stream)
{
    const struct gpu_dims *d = &m->d;
    int err = touch(s, slot);
    if (err)
        return err;
    memset(s->image, 0, s->stride); /* pads too */
    for (uint32_t l = 0; l < d->L; l++) {
        for (size_t i = 0; i < (size_t)(d->K - 1) * d->D; i++)
            put(s->conv, s->image + conv_at(s, l, i), *conv++);
        for (size_t n = 0; n < d->N; n++)
            for (size_t c = 0; c < d->D; c++)
                put(s->state, s->image + state_at(s, d, l, n, c), *ssm++);
    }
    cudaError_t e = cudaMemcpyAsync(gpu_slab_at(s, slot), s->image, s->stride, cudaMemcpyHostToDevice, stream);
    return errno_of(e ? e : cudaStreamSynchronize(stream));
}
