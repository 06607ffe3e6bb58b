/* control_none.c: stands in for control.c in a build without libzmq. */
#include "daemon/control.h"

#include <errno.h>

int md_control_open(const char *endpoint, struct md_daemon *daemon, struct md_control **ret, char *reterr)
{
    snprintf(reterr, IO_ERR, "control socket %s: this build has no libzmq", endpoint);
    return -ENOSYS;
}

void md_control_mute(struct md_control *control)
{
}

void md_control_close(struct md_control **control)
{
    *control = NULL;
}
