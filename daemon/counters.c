/* counters.c: counters as JSON, and histograms of durations. */
#include "daemon/counters.h"

#include <math.h>

#include "daemon/timeline.h"

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 2) {
        return 0;
    }
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
    unsigned b = 2 * octave + (ns >> (octave - 1) & 1);
    return b < MD_HIST_BUCKETS ? b : MD_HIST_BUCKETS - 1;
}

void md_hist_add(struct md_hist *h, uint64_t ns)
{
    md_bump(&h->n, 1);
    md_bump(&h->sum, ns);
    md_raise(&h->max, ns);
    md_bump(&h->bucket[bucket_of(ns)], 1);
}

void md_hist_since(struct md_hist *ret, struct md_hist *h, struct md_hist *then)
{
    *ret = (struct md_hist){.n = md_read(&h->n) - md_read(&then->n),
                            .sum = md_read(&h->sum) - md_read(&then->sum),
                            .max = md_read(&h->max)};
    for (unsigned b = 0; b < MD_HIST_BUCKETS; b++)
        md_add(&ret->bucket[b], md_read(&h->bucket[b]) - md_read(&then->bucket[b]));
}

/* ns; 0 while empty */
static double quantile(struct md_hist *h, double q)
{
    double max = (double)md_read(&h->max);
    double want = q * (double)md_read(&h->n), seen = 0;
    for (unsigned b = 0; b < MD_HIST_BUCKETS; b++) {
        seen += (double)md_read(&h->bucket[b]);
        if (seen > 0 && seen >= want) {
            double low = (double)(UINT64_C(1) << b / 2) * (b & 1 ? 1.5 : 1.0);
            return fmin(low * (b & 1 ? 7.0 / 6 : 1.25), max); /* the bucket's middle */
        }
    }
    return 0;
}

json_t *md_hist_json(struct md_hist *h)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f}", "count", (json_int_t)md_read(&h->n), "sum",
                     1e-9 * (double)md_read(&h->sum), "p50", 1e-9 * quantile(h, 0.5), "p99", 1e-9 * quantile(h, 0.99),
                     "max", 1e-9 * (double)md_read(&h->max));
}

static void set(json_t *o, const char *key, md_count *c)
{
    json_object_set_new(o, key, json_integer((json_int_t)md_read(c)));
}

static json_t *by_reason(md_count *c)
{
    json_t *o = json_object();
    for (unsigned r = 0; r < IO_R_COUNT; r++) {
        set(o, io_reason_name(r), &c[r]);
    }
    return o;
}

json_t *md_input_counters_json(struct md_input_counters *c)
{
    json_t *o = json_object(), *resets = json_object();
    set(o, "input_messages_total", &c->messages);
    set(o, "input_bytes_total", &c->bytes);
    set(o, "input_samples_total", &c->samples);
    set(o, "accepted_samples_total", &c->accepted);
    json_object_set_new(o, "input_errors_total", by_reason(c->errors));
    json_object_set_new(o, "input_discarded_samples_total", by_reason(c->discarded));
    set(o, "input_gaps_total", &c->gaps);
    set(o, "input_clock_total", &c->clock);
    set(o, "input_blocked_total", &c->blocked);
    set(o, "acks_total", &c->acks);
    set(o, "acks_dropped_total", &c->acks_dropped);
    for (unsigned r = MD_RESET_NONE + 1; r < MD_RESETS; r++) {
        set(resets, md_reset_name(r), &c->resets[r]);
    }
    json_object_set_new(o, "stream_resets_total", resets);
    set(o, "stream_starts_total", &c->starts);
    set(o, "stream_ends_total", &c->ends);
    set(o, "records_total", &c->records);
    set(o, "records_cut_total", &c->records_cut);
    set(o, "queue_high_water_rows", &c->queue_high_water);
    return o;
}

json_t *md_engine_counters_json(struct md_engine_counters *c)
{
    static const char *const cuts[MD_CUTS] = {"full", "delay", "idle"};
    json_t *o = json_object(), *cut = json_object();
    set(o, "batches_total", &c->batches);
    set(o, "batch_streams_total", &c->streams);
    set(o, "batch_samples_total", &c->samples);
    set(o, "steps_total", &c->steps);
    for (unsigned i = 0; i < MD_CUTS; i++) {
        set(cut, cuts[i], &c->cut[i]);
    }
    json_object_set_new(o, "batch_cut_total", cut);
    set(o, "device_failures_total", &c->failures);
    json_object_set_new(o, "device_busy_seconds_total", json_real(1e-9 * (double)md_read(&c->busy_ns)));
    json_object_set_new(o, "step_duration_seconds", md_hist_json(&c->step));
    return o;
}

json_t *md_output_counters_json(struct md_output_counters *c)
{
    json_t *o = json_object(), *kinds = json_object(), *dropped = json_object();
    for (unsigned f = 0; f < IO_FAMILIES; f++) {
        set(kinds, io_family_name(f), &c->messages[f]);
    }
    json_object_set_new(o, "output_messages_total", kinds);
    set(dropped, "slow", &c->dropped_slow);
    set(dropped, "error", &c->dropped_error);
    json_object_set_new(o, "output_dropped_messages_total", dropped);
    return o;
}
