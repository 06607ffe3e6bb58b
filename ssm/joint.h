/* joint.h: the anomaly rows of a stream as a whole: how far its channels lie, together, from where they have been, and
 * how much the forecasts were surprised. docs/signal-model.md, sec. 7, has the formulas. The state is spread over the
 * sections "joint" of the stream's slots. Pure functions of one stream; any thread. */
#ifndef SSM_JOINT_H
#define SSM_JOINT_H

#include "ssm/calibrate.h"

size_t ssm_joint_bytes(uint32_t patch); /* of a slot's section, for any number of channels */
void ssm_joint_reset(uint32_t patch, void *state);

/* What one advance of a stream gave: items[0 … channels−1] as in ssm.h, sections [channels]. Writes the joint rows of
 * the steps that ended. */
void ssm_joint_run(const struct ssm_calibration *c, uint32_t patch, const struct ssm_item *items,
                   void *const *sections);

#endif
