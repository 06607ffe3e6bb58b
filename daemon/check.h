/* check.h: `mambad --check`: the parts of a configuration that need its model folders opened. */
#ifndef MD_CHECK_H
#define MD_CHECK_H

#include "daemon/config.h"

/* Opens every model folder and judges the configuration against them; reports every error. 0 or −EINVAL. */
int md_check(const struct md_config *config, FILE *errors);

#endif
