/* panels.c: packing weights; see panels.h for the layout. Runs once per matrix, at open. */
#include "ssm/panels.h"

#include <string.h>

#include "ssm/dtype.h"

size_t ssm_panels_output_bytes(enum ssm_dtype dtype, uint32_t k, uint32_t k_step)
{
    uint32_t unit = dtype == SSM_BF16 && k_step < 2 ? 2 : k_step;
    return ((size_t)k + unit - 1) / unit * unit * ssm_dtype_bytes(dtype);
}

size_t ssm_panels_bytes(enum ssm_dtype dtype, uint32_t n, uint32_t k, uint32_t k_step)
{
    return SSM_PADDED(n) * ssm_panels_output_bytes(dtype, k, k_step);
}

/* One output's weights into column `at` of a panel of `width` outputs. */
static void pack_output(const struct ssm_weight *w, void *panel, uint32_t width, uint32_t at, const float *row)
{
    float *f32 = panel;
    uint16_t *f16 = panel;
    for (uint32_t k = 0; k < w->k; k++) {
        size_t i = (size_t)k * width + at;
        if (w->dtype == SSM_F32)
            f32[i] = row[k];
        else if (w->dtype == SSM_F16)
            f16[i] = ssm_to_f16(row[k]);
        else
            f16[((size_t)(k / 2) * width + at) * 2 + k % 2] = ssm_to_bf16(row[k]);
    }
}

void ssm_panels_pack(struct ssm_weight *w, const float *rows, uint32_t width, uint32_t k_step)
{
    size_t output_bytes = ssm_panels_output_bytes(w->dtype, w->k, k_step), padded = SSM_PADDED(w->n);
    memset(w->packed, 0, padded * output_bytes);
    for (uint32_t n = 0; n < w->n; n++) {
        uint32_t first = n / width * width, left = (uint32_t)(padded - first);
        char *panel = (char *)w->packed + first * output_bytes;
        pack_output(w, panel, left < width ? left : width, n - first, rows + (size_t)n * w->k);
    }
}
