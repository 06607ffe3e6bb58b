/* swap.h: another model in the place of one that is served. What is new is opened beside the old, while that still
 * works: so what cannot be opened, or finds no room there, changes nothing. Slots go over as bytes, and until the
 * exchange is settled both sides are whole. Main thread; but for md_swap_open() while no thread runs. */
#ifndef MD_SWAP_H
#define MD_SWAP_H

#include "daemon/served.h"

struct md_swap {
    struct md_served_model *served;
    bool due;               /* else all stays as it is */
    struct md_loaded other; /* what it is to have; once exchanged, what it had */
    struct ssm_slot *slots; /* of its open streams in `other`, stream by stream */
    bool carries, exact;    /* states go along; to the same weights and arithmetic */
    bool alike;             /* the architecture is the same */
};

/* `had`: what is loaded was opened by; NULL: nothing is loaded. 0 or a sysexits code; `reterr` (IO_ERR). */
int md_swap_open(struct md_swap *w, struct md_served_model *m, const struct md_model_conf *had,
                 const struct md_model_conf *conf, bool adapt, uint32_t texts, char *reterr);
/* Slots, and where they go along states, for all open streams. 0; −EINVAL: the old is as it was, `reterr` says why. */
int md_swap_move(struct md_swap *w, char *reterr);
/* There, and back again. */
void md_swap_exchange(struct md_swap *w);
/* It stays exchanged: streams whose states did not go along begin new epochs. */
void md_swap_settle(struct md_swap *w, struct md_registry *r);
/* What is not in use. */
void md_swap_done(struct md_swap *w);

#endif
