/* fail.h: one line for a person beside a negative errno. */
#ifndef SSM_FAIL_H
#define SSM_FAIL_H

#include "ssm/ssm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the line into reterr[SSM_ERR] (may be NULL) and returns `err`, so that callers write return ssm_fail(…). */
__attribute__((format(printf, 3, 4))) int ssm_fail(char *reterr, int err, const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
