/* exit_code.h: what the process is going to end with: the first failure of the daemon itself (69, 74), else the first
 * input that could not be read (65), else 0. Any thread. */
#ifndef MD_EXIT_CODE_H
#define MD_EXIT_CODE_H

#include <stdatomic.h>
#include <sysexits.h>

static inline void md_end_with(_Atomic int *code, int why)
{
    int had = 0;

    if (!atomic_compare_exchange_strong(code, &had, why) && had == EX_DATAERR)
        atomic_compare_exchange_strong(code, &had, why);
}

#endif
