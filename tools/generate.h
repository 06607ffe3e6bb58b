/* generate.h: what `mambactl generate` is made of: its options, text for a person, and the file that a generation goes
 * on from. */
#ifndef TOOLS_GENERATE_H
#define TOOLS_GENERATE_H

#include <stdbool.h>
#include <stdio.h>

#include "daemon/sampler.h"
#include "tools/byte_model.h"
#include "tools/speculate.h"

struct generate_options {
    const char *prompt, *file, *state, *stop; /* NULL: not given */
    const char *connect, *stream;             /* a daemon writes the text; the model is then an id there */
    struct byte_model model, draft;           /* draft.dir NULL: none */
    uint32_t draft_length;
    uint64_t bytes;
    uint32_t samples; /* 0: not given */
    bool json, quiet;
    struct md_sampling how;
};

/* −1: go on; else the exit code, the message printed. */
int generate_parse(struct generate_options *ret, int argc, char **argv);

/* Has the daemon at o->connect go on with the prompt; its bytes go to put() one by one, until it ends or is_over(). 0
 * or an exit code, the message printed; *ret_reason (32 bytes) is why the text ended. */
int generate_remote(const struct generate_options *o, const uint8_t *prompt, size_t prompt_n,
                    void (*put)(void *ctx, uint8_t byte), void *ctx, bool (*is_over)(void), char *ret_reason);

/* Bytes to a stream. On a terminal (`careful`) a character is written when all of its bytes are there, and what is no
 * UTF-8, or would command the terminal, appears as U+FFFD; elsewhere bytes go out as they are. */
struct text_writer {
    FILE *out;
    bool careful;
    uint8_t held[4];
    unsigned n;
};
void text_put(struct text_writer *w, uint8_t byte);
void text_end(struct text_writer *w); /* writes out what is held, and flushes */

/* One sample between two runs: its slot has consumed all of its bytes but the last, which is `next`. */
struct generation {
    struct md_sampler sampler;
    int32_t next; /* −1: nothing to consume */
    int32_t finished;
};

/* The state file: samples and their slots. Written under another name, and renamed when it is on the disk. Negative
 * errno and a line that names the file; -EBADMSG: not such a file, damaged, or another model's. */
int generation_save(const char *path, struct ssm_engine *engine, const struct ssm_slot *slots,
                    const struct generation *samples, uint32_t n, char *reterr);
/* How many samples the file holds, so that slots can be made; then the load itself, of just as many. */
int generation_count(const char *path, uint32_t *ret_n, char *reterr);
int generation_load(const char *path, struct ssm_engine *engine, const struct ssm_slot *slots,
                    struct generation *samples, uint32_t n, bool *ret_exact, char *reterr);

#endif
