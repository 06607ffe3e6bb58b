/* channels.c: choosing and mixing channels. Pure functions; any thread. Trap: configs count channels from 1, as sound
 * tools and people do; everything else counts from 0. */
#include "io/channels.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int io_channels_parse(const char *text, struct io_channels *ret, char *reterr)
{
    *ret = (struct io_channels){.how = IO_CHANNELS_ALL};
    if (!text || strcmp(text, "all") == 0)
        return 0;
    if (strcmp(text, "mix") == 0) {
        ret->how = IO_CHANNELS_MIX;
        return 0;
    }
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '1' || text[0] > '9' || *end || n > 65536) {
        snprintf(reterr, IO_ERR, "'%s' is neither all nor mix nor a channel's number (1 is the first)", text);
        return -EINVAL;
    }
    *ret = (struct io_channels){.how = IO_CHANNELS_ONE, .one = (uint32_t)n - 1};
    return 0;
}

int io_channels_count(const struct io_channels *c, uint32_t of, const char *path, char *reterr)
{
    if (c->how == IO_CHANNELS_ALL)
        return (int)of;
    if (c->how == IO_CHANNELS_ONE && c->one >= of) {
        snprintf(reterr, IO_ERR, "%s: channel %u is wanted, there are %u", path, c->one + 1, of);
        return -EBADMSG;
    }
    return 1;
}

void io_channels_take(const struct io_channels *c, const double *in, uint32_t n, uint32_t of, double *out)
{
    if (c->how == IO_CHANNELS_ALL) {
        memcpy(out, in, (size_t)n * of * sizeof *out);
        return;
    }
    for (uint32_t i = 0; i < n; i++, in += of) {
        double sum = 0;
        for (uint32_t k = 0; k < of; k++)
            sum += in[k];
        out[i] = c->how == IO_CHANNELS_MIX ? sum / of : in[c->one];
    }
}
