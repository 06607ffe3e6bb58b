/* notice.h: what can be said of a channel without a model: that it has stopped moving, or that it has moved to another
 * level and stays there. docs/signal-model.md, sec. 9, has the rules. Both are judged by the channel's own history. Plain
 * state of one channel, all 0 to begin with; any thread. */
#ifndef SSM_NOTICE_H
#define SSM_NOTICE_H

#include <stdint.h>

#include "ssm/ssm.h"

struct ssm_watch {
    double last, run, longest; /* sample; samples like it on end; the longest such run that ended */
    double moves;              /* runs that ended */
    double sum, filled;        /* of the unfinished block */
    double blocks;             /* that the level has been learnt from */
    double level, reach;       /* mean of blocks; how far one has been from it */
    double side, beyond;       /* blocks on end that are far away, up positive; the sum of their means */
};

/* One sample; adds to *ret what it brings to light: the larger count stays. */
void ssm_watch_sample(struct ssm_watch *w, double x, struct ssm_notice *ret);

#endif
