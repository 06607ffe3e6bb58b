/* cholesky.h: small symmetric systems, solved in place: what the online regressions need. Lower triangles by rows. */
#ifndef SSM_CHOLESKY_H
#define SSM_CHOLESKY_H

#include <math.h>

/* x ← (a + add·I)⁻¹·x, of n unknowns; l has room for the factor. No square of the factor's diagonal falls below
 * `least`. */
static inline void ssm_cholesky_solve(int n, const double *a, double add, double least, double *l, double *x)
{
    for (int i = 0, row = 0; i < n; row += ++i)
        for (int j = 0, col = 0; j <= i; col += ++j) {
            double sum = a[row + j] + (i == j ? add : 0.0);
            for (int k = 0; k < j; k++)
                sum -= l[row + k] * l[col + k];
            l[row + j] = i == j ? sqrt(fmax(sum, least)) : sum / l[col + j];
        }
    for (int i = 0, row = 0; i < n; row += ++i) {
        for (int k = 0; k < i; k++)
            x[i] -= l[row + k] * x[k];
        x[i] /= l[row + i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            x[i] -= l[k * (k + 1) / 2 + i] * x[k];
        x[i] /= l[i * (i + 3) / 2];
    }
}

#endif
