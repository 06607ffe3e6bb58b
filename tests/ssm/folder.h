/* folder.h: model folders written from models in memory, and spoilt on purpose. */
#ifndef TEST_SSM_FOLDER_H
#define TEST_SSM_FOLDER_H

#include "ssm/model.h"

/* config.json and model.safetensors of `m`, matrices and vectors alike stored as `dtype`. */
void folder_write(const char *dir, const struct ssm_model *m, enum ssm_dtype dtype);

/* Replaces the first `from` by `to` in a text file, or in a safetensors file's header (whose length is set anew). False
 * if `from` does not occur. */
bool folder_edit(const char *dir, const char *file, const char *from, const char *to);

/* A small signal model: patch, horizon and quantiles as given, other sizes odd. */
struct ssm_model *folder_signal_model(uint32_t patch, uint32_t horizon, uint32_t n_quantiles, bool mask);

/* The same of a size as of ssm_model_random(). */
struct ssm_model *folder_sized_model(const char *size, uint32_t patch, uint32_t horizon, uint32_t n_quantiles,
                                     bool mask);

#endif
