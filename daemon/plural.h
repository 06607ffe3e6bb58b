/* plural.h: counted things in what is said to a person: "%u stream%s", n, md_s(n). */
#ifndef MD_PLURAL_H
#define MD_PLURAL_H

#include <stdint.h>

static inline const char *md_s(uint64_t n)
{
    return n == 1 ? "" : "s";
}

#endif
