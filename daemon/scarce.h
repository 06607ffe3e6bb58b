/* scarce.h: errors of which not what the configuration names is the cause. */
#ifndef MD_SCARCE_H
#define MD_SCARCE_H

#include <errno.h>
#include <stdbool.h>

/* Memory or file descriptors are out: exit code 69, and a later start may succeed. `err`: negative errno. */
static inline bool md_scarce(int err)
{
    return err == -ENOMEM || err == -EMFILE || err == -ENFILE;
}

#endif
