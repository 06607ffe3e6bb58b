/* byte_model.h: what `mambactl generate`, `eval bytes` and `eval logs` have in common: a byte model on a device, and values of their
 * options. */
#ifndef TOOLS_BYTE_MODEL_H
#define TOOLS_BYTE_MODEL_H

#include "ssm/ssm.h"

enum { BYTE_MODEL_WHY = 80 };

struct byte_model {
    const char *command; /* the subcommand, for messages */
    const char *dir, *device;
    enum ssm_dtype weights;
    uint32_t threads;
    struct ssm_model *model;
    struct ssm_engine *engine;
};

/* 0 or an exit code, the message printed: the folder is bad or none of bytes (78), or the device is not there (69). */
int byte_model_open(struct byte_model *m, uint32_t slots);
void byte_model_close(struct byte_model *m);

/* `why` says of a refused one what it should be. */
bool byte_model_count(const char *text, uint64_t least, uint64_t most, uint64_t *ret, char why[BYTE_MODEL_WHY]);
bool byte_model_weights(const char *text, enum ssm_dtype *ret);

#endif
