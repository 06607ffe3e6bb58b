/* generate_none.c: stands in for generate.c in a build without libzmq. */
#include "daemon/generate.h"

#include <errno.h>

int md_generate_check(const struct md_generate_conf *conf, const char **ret_key, char *reterr)
{
    return 0;
}

int md_generate_keys(const struct md_generate_conf *conf, char *reterr)
{
    return 0;
}

int md_generate_open(struct md_daemon *daemon, struct md_generate **ret, char *reterr)
{
    snprintf(reterr, IO_ERR, "generation socket: this build has no libzmq");
    return -ENOSYS;
}

void md_generate_close(struct md_generate **generate)
{
    *generate = NULL;
}
