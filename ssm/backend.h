/* backend.h: what a device must offer. One const table per backend; the CUDA one comes from libmambad_cuda.so,
 * opened by ssm/backend.c. All calls come from the thread that uses the engine. */
#ifndef SSM_BACKEND_H
#define SSM_BACKEND_H

#include "ssm/ssm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SSM_BACKEND_ABI = 1 };

struct ssm_backend {
    uint32_t abi; /* SSM_BACKEND_ABI */
    const char *name;
    /* mandatory */
    int (*open)(const struct ssm_model *model, const struct ssm_engine_opts *opts, void **ret_self, char *reterr);
    void (*close)(void *self);
    const char *(*ops)(const void *self);
    const char *(*device)(const void *self);
    void (*reset)(void *self, uint32_t slot); /* a slot to its fresh state */
    int (*advance)(void *self, const struct ssm_item *items, uint32_t n_items);
    const struct ssm_section *(*sections)(const void *self, unsigned *ret_n);
    /* The sections, back to back, in the layout that all backends share (ssm/slot.h). */
    void (*save)(const void *self, uint32_t slot, void *buf);
    int (*restore)(void *self, uint32_t slot, const void *buf);
};

extern const struct ssm_backend ssm_backend_cpu;
extern const struct ssm_backend ssm_backend_null; /* benchmarks of everything around the model */

/* Picks by opts->device: "cpu", "null", "cuda[:N]" (-ENODEV with the reason where it cannot be had), "auto" (cuda
 * where it can be had, else cpu; *ret_note says why not, for one log line). */
int ssm_backend_pick(const char *device, const struct ssm_backend **ret, char *ret_note, char *reterr);

#ifdef __cplusplus
}
#endif
#endif
