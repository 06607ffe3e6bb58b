/* resample.h: rational polyphase resampling, in double, for samples of any scale.
 *
 * The filter is a Kaiser-windowed sinc: flat within 1e-6 up to 0.91 of the lower Nyquist frequency, 130 dB down from
 * that frequency on. Row k of the output is the signal at time k·from/to of the input's rows: no delay, and
 * ceil(n·to/from) rows come from n. Before its first and after its last row a signal is taken to hold its value, so a
 * constant stays that constant. However the rows are cut into calls, the bits that come out are the same.
 * A NaN spreads over the filter's length. */
#ifndef IO_RESAMPLE_H
#define IO_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

/* The filter bank of one ratio: immutable, shared by all resamplers (and threads) of that ratio, which it outlives. */
struct io_resample_plan;

/* -EINVAL: a rate that is not positive and finite; -ERANGE: a ratio whose filter bank would pass 8 MiB. */
int io_resample_plan_new(double from, double to, struct io_resample_plan **ret, char *reterr);
void io_resample_plan_free(struct io_resample_plan **plan);

/* One stream under a plan: a position and the last rows of each channel. One thread at a time. */
struct io_resampler;
int io_resampler_new(const struct io_resample_plan *plan, uint32_t channels, struct io_resampler **ret);
void io_resampler_free(struct io_resampler **r);

/* The most rows that `n` further rows can give. */
size_t io_resampler_room(const struct io_resampler *r, size_t n);

/* Takes n rows [n][channels], writes what they complete to `out` (room for io_resampler_room(r, n) rows), returns how
 * many rows that is. */
size_t io_resampler_push(struct io_resampler *r, const double *in, size_t n, double *out);

/* After the last row: writes up to `cap` rows (≥ io_resampler_room(r, 1)) of the rest; 0: there is none left. */
size_t io_resampler_flush(struct io_resampler *r, double *out, size_t cap);

/* The state as plain bytes, equal for equal signals whatever the cuts. restore: -EINVAL for another plan's state. */
size_t io_resampler_state_bytes(const struct io_resampler *r);
void io_resampler_save(const struct io_resampler *r, void *bytes);
int io_resampler_restore(struct io_resampler *r, const void *bytes);

#endif
