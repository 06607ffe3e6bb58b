/* safetensors.h: one .safetensors file, mapped read-only. Every field of its header is checked before anything is
 * believed: sizes, offsets, overlaps, holes, products that overflow. Immutable after open; any thread. */
#ifndef SSM_SAFETENSORS_H
#define SSM_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

enum { SSM_ST_DIMS = 8 };

struct ssm_st_tensor {
    const char *name;
    const char *dtype; /* as in the file: "F32", "BF16", "I64", … */
    uint32_t n_dims;
    uint64_t shape[SSM_ST_DIMS];
    const uint8_t *data; /* not necessarily aligned */
    uint64_t bytes;
};

struct ssm_safetensors;

/* -ENOENT, -EIO, -ENOMEM, or -EBADMSG with the tensor's name and reason in `reterr`. */
int ssm_safetensors_open(const char *path, struct ssm_safetensors **ret, char *reterr);
void ssm_safetensors_close(struct ssm_safetensors **st);
const struct ssm_st_tensor *ssm_safetensors_find(const struct ssm_safetensors *st, const char *name);
uint64_t ssm_safetensors_bytes(const struct ssm_safetensors *st); /* of the file */

#endif
