/* anomaly.c: the anomaly rows of a stream's channels as rows of the stream. Pure; any thread. Trap: channels without a
 * value (NaN) take no part; where none has one the row is NaN. */
#include <math.h>
#include <string.h>

#include "ssm/ssm.h"

enum { SCORE, P_VALUE, SURPRISE, COLUMNS };

/* Šidák: the chance that the least of n independent p-values is this small. In logarithms, or p below 1e-16 is lost. */
static double corrected(double p, uint32_t n)
{
    return -expm1((double)n * log1p(-p));
}

static void join_row(const float *rows, uint32_t channels, float *out)
{
    uint32_t scored = 0, surprised = 0;
    double least = 1.0, surprise = 0.0;
    for (uint32_t c = 0; c < channels; c++, rows += COLUMNS) {
        if (!isnan(rows[P_VALUE])) {
            least = fmin(least, (double)rows[P_VALUE]);
            scored++;
        }
        if (!isnan(rows[SURPRISE])) {
            surprise += (double)rows[SURPRISE];
            surprised++;
        }
    }
    double p = corrected(least, scored);
    out[SCORE] = scored ? (float)fmin(1.0, 0.0 - log10(p) / 10.0) : NAN;
    out[P_VALUE] = scored ? (float)p : NAN;
    out[SURPRISE] = surprised ? (float)surprise : NAN;
}

void ssm_anomaly_join(const float *rows, size_t n, uint32_t channels, float *out)
{
    if (channels == 1) {
        memcpy(out, rows, n * COLUMNS * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        join_row(rows + i * channels * COLUMNS, channels, out + i * COLUMNS);
}
