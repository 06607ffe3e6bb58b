/* backend.h: what a device must offer. One const table per backend; the CUDA one comes from libmambad_cuda.so,
 * opened by ssm/backend.c. All calls come from the thread that uses the engine. */
#ifndef SSM_BACKEND_H
#define SSM_BACKEND_H

#include "ssm/ssm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SSM_BACKEND_ABI = 7 };

struct ssm_backend {
    uint32_t abi; /* SSM_BACKEND_ABI */
    const char *name;
    /* mandatory */
    int (*open)(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr);
    void (*close)(void *self);
    const char *(*ops)(const void *self);
    const char *(*device)(const void *self);
    /* A slot to its fresh state. -ENOMEM: the device has no memory for it; -EIO. */
    int (*reset)(void *self, uint32_t slot);
    int (*copy)(void *self, uint32_t from, uint32_t to); /* both were reset before; 0 or -EIO */
    /* Takes a batch in and sends it on its way; the items and their buffers stay the caller's, unchanged, until wait
     * has returned for it. -EIO: the device failed before, and there is nothing to wait for. A backend without wait
     * has written the outputs when start returns. */
    int (*start)(void *self, const struct ssm_item *items, uint32_t n_items);
    const struct ssm_section *(*sections)(const void *self, unsigned *ret_n);
    /* The sections, back to back, in the layout that all backends share (ssm/slot.h). 0 or -EIO. */
    int (*save)(void *self, uint32_t slot, void *buf);
    int (*restore)(void *self, uint32_t slot, const void *buf);
    /* optional: NULL means that start does everything */
    int (*wait)(void *self);    /* until the outputs of the oldest batch under way are written; 0 or -EIO */
    bool (*done)(void *self);   /* wait would not have to wait for the device */
    double (*busy)(void *self); /* see ssm_engine_busy(); by the device's clock */
    /* optional: fn(ctx, part, parts) once for every part, on the backend's worker threads where about `ns` of work are
     * worth it; returns when all parts have ended. Work beside the model; a device may be at a batch meanwhile. */
    void (*share)(void *self, uint64_t ns, void (*fn)(void *ctx, unsigned part, unsigned parts), void *ctx);
    /* optional, benchmarks only: the device's part of the last batch, which must have been one pass, `times` times on
     * end, inputs and outputs on the device. µs per pass by the device's own clock. States move on, outputs do not
     * leave the device. */
    int (*replay)(void *self, uint32_t times, float *ret_us);
    /* optional: the line for a person behind an -EIO; "" while all is well */
    const char *(*failure)(const void *self);
    /* optional: whether outputs are bitwise independent of batch, chunking and threads, here where
     * opts->deterministic was false; NULL: they always are */
    bool (*exact)(const void *self);
};

extern const struct ssm_backend ssm_backend_cpu;
extern const struct ssm_backend ssm_backend_null; /* benchmarks of everything around the model */

/* Picks by opts->device: "cpu", "null", "cuda[:N]" (-ENODEV with the reason where it cannot be had), "auto" (cuda
 * where it can be had, else cpu; *ret_note says why not, for one log line). */
int ssm_backend_pick(const char *device, const struct ssm_backend **ret, char *ret_note, char *reterr);

/* For tools/bench: the entry `replay` of the engine's backend; -ENOTSUP where it has none. */
int ssm_engine_replay(struct ssm_engine *engine, uint32_t times, float *ret_us);

#ifdef __cplusplus
}
#endif
#endif
