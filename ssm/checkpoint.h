/* checkpoint.h: the weights of a model folder: model.safetensors, or the shards that Hugging Face's
 * model.safetensors.index.json names. Immutable after open; any thread. */
#ifndef SSM_CHECKPOINT_H
#define SSM_CHECKPOINT_H

#include "ssm/safetensors.h"

struct ssm_checkpoint;

int ssm_checkpoint_open(const char *dir, struct ssm_checkpoint **ret, char *reterr);
void ssm_checkpoint_close(struct ssm_checkpoint **checkpoint);
const struct ssm_st_tensor *ssm_checkpoint_find(const struct ssm_checkpoint *checkpoint, const char *name);
uint64_t ssm_checkpoint_bytes(const struct ssm_checkpoint *checkpoint);

#endif
