/* fail.c: formats error lines. Any thread; the caller owns the buffer. */
#include "ssm/fail.h"

#include <stdarg.h>
#include <stdio.h>

int ssm_fail(char *reterr, int err, const char *format, ...)
{
    if (reterr) {
        va_list args;
        va_start(args, format);
        vsnprintf(reterr, SSM_ERR, format, args);
        va_end(args);
    }
    return err;
}
