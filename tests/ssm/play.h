/* play.h: what streams of tokens put into an engine and what came out of it, so that the same streams can be played in
 * other ways, or on another device, and compared. */
#ifndef TEST_SSM_PLAY_H
#define TEST_SSM_PLAY_H

#include "tests/ssm/rig.h"

enum { PLAY_WHY = 256 };

struct play_stream {
    uint32_t T;
    int32_t *tokens;
    int64_t *dt;    /* every third stream is regular: NULL */
    float *logits;  /* [T][V], NaN until they are played */
    uint8_t *saved; /* the slot afterwards */
};

struct play {
    uint32_t n, V;
    size_t saved_bytes;
    bool borrows; /* the inputs */
    struct play_stream *streams;
};

/* n streams of T[i] random tokens; dt in units of which three are the reference step. */
void play_new(struct play *p, const struct ssm_model *m, const uint32_t *T, uint32_t n, struct rng *r);
void play_again(struct play *p, const struct play *other); /* the same inputs, which stay other's */
void play_done(struct play *p);

struct ssm_item play_item(const struct play *p, uint32_t stream, uint32_t at, uint32_t n, struct ssm_slot slot);

void play_save(struct play *p, uint32_t stream, struct ssm_engine *e, struct ssm_slot slot);

/* From fresh slots to the end: one stream after the other, or all in one batch, at most `chunk` steps a call. */
void play_alone(struct play *p, struct ssm_engine *e, uint32_t chunk);
void play_together(struct play *p, struct ssm_engine *e, uint32_t chunk);

/* To the bit, logits and slots; else `why` [PLAY_WHY] says where. */
bool play_same(const struct play *got, const struct play *want, char *why);
bool play_finite(const struct play *p, char *why);

struct play_errors {
    double logits, conv, ssm; /* relative, over all streams */
};
struct play_errors play_compare(const struct play *got, const struct play *want, struct ssm_engine *e);

#endif
