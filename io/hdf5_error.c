/* hdf5_error.c: libhdf5's error stack as one line of text. Runs on the thread that calls libhdf5; keeps nothing.
 *
 * Trap: libhdf5 has no error codes that tell causes apart. The errno of a failed system call only stands inside the
 * innermost description, as "errno = N". */
#include "io/hdf5_error.h"

#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cause {
    char text[192];
    int code; /* errno, 0: none */
};

void io_hdf5_quiet(void)
{
    H5dont_atexit(); /* closing a file again at exit whose last writes failed crashes libhdf5; we close what we open */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static herr_t take_innermost(unsigned depth, const H5E_error2_t *error, void *arg)
{
    struct cause *c = arg;
    const char *desc = error->desc ? error->desc : "", *code = strstr(desc, "errno = ");

    if (depth > 0)
        return 0;
    if (code)
        c->code = atoi(code + strlen("errno = "));
    snprintf(c->text, sizeof c->text, "%s", desc);
    /* what follows repeats the name, the errno and the system's flags */
    for (const char *const *cut = (const char *const[]){": name = ", ", errno = ", NULL}; *cut; cut++) {
        char *at = strstr(c->text, *cut);
        if (at)
            *at = '\0';
    }
    c->text[strcspn(c->text, "\r\n")] = '\0';
    return 0;
}

int io_hdf5_fail(char *reterr, const char *subject)
{
    struct cause c = {0};

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &c);
    H5Eclear2(H5E_DEFAULT);
    snprintf(reterr, IO_ERR, "%.250s: %s%s%s", subject, c.text[0] ? c.text : "libhdf5 failed", c.code ? ": " : "",
             c.code ? strerror(c.code) : "");
    return c.code > 0 ? -c.code : -EBADMSG;
}
