/* records.c: see records.h. */
#include "io/records.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { NONE = -1, WRONG = -2 };

static int32_t byte_of(const char *text)
{
    static const struct {
        const char *name;
        int32_t byte;
    } names[] = {{"newline", '\n'}, {"nul", 0}, {"none", NONE}};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i].name) == 0)
            return names[i].byte;
    return text[0] && !text[1] ? (unsigned char)text[0] : WRONG;
}

int io_records_check(const struct io_records *r, const char **ret_key, char *reterr)
{
    *ret_key = "delimiter";
    if (!r->delimiter || byte_of(r->delimiter) != WRONG)
        return 0;
    snprintf(reterr, IO_ERR, "must be newline, nul, none or one byte");
    return -EINVAL;
}

int32_t io_records_delimiter(const struct io_records *r)
{
    return r->delimiter ? byte_of(r->delimiter) : '\n';
}

uint32_t io_records_max(const struct io_records *r)
{
    return r->max_record ? (uint32_t)r->max_record : IO_RECORD_MAX;
}
