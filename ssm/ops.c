/* ops.c: which op tables this build has and which one an engine gets. Any thread; const data. The macros come from
 * ssm/meson.build, which knows the target's instruction set and what its compiler can emit. */
#include "ssm/ops.h"

#include <string.h>

static const struct ssm_ops *const tables[] = {
#ifdef SSM_OPS_AMX
    &ssm_ops_amx,
#endif
#ifdef SSM_OPS_AVX512
    &ssm_ops_avx512,
#endif
#ifdef SSM_OPS_AVX512BF16
    &ssm_ops_avx512bf16, /* after avx512: two vdpbf16ps take longer than the two FMAs they replace (docs/performance.md) */
#endif
#ifdef SSM_OPS_AVX2
    &ssm_ops_avx2,
#endif
    &ssm_ops_ref,        NULL,
};

const struct ssm_ops *ssm_ops_at(unsigned i)
{
    return i < sizeof tables / sizeof *tables ? tables[i] : NULL;
}

const struct ssm_ops *ssm_ops_pick(const char *name, enum ssm_dtype dtype)
{
    for (unsigned i = 0; tables[i]; i++) {
        const struct ssm_ops *ops = tables[i];
        if ((!name || !strcmp(name, ops->name)) && ops->usable() && ops->takes(dtype))
            return ops;
    }
    return NULL;
}
