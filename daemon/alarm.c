/* alarm.c: see alarm.h. An alarm starts at the first row with p ≤ threshold and ends after MD_ALARM_CALM consecutive
 * rows with p > MD_ALARM_RATIO · threshold, so that a score that hovers about the threshold is one alarm and not many.
 */
#include "daemon/alarm.h"

/* The first row that starts an alarm, or n. What almost every row of every stream goes through. */
static uint32_t quiet_rows(double threshold, const float *p, size_t stride, uint32_t n)
{
    uint32_t i = 0;

    while (i < n && !((double)p[i * stride] <= threshold))
        i++;
    return i;
}

/* Rows of an active alarm; returns true where it ends with this one. */
static bool ends_with(struct md_alarm *a, double threshold, int64_t seq, double p)
{
    if (p <= threshold) {
        a->last = seq;
        a->count++;
    }
    if (p > MD_ALARM_RATIO * threshold)
        a->calm++;
    else if (p == p) /* a missing score says nothing */
        a->calm = 0;
    return a->calm >= MD_ALARM_CALM;
}

uint32_t md_alarm_rows(struct md_alarm *a, double threshold, int64_t seq, const float *p, size_t stride, uint32_t n,
                       enum md_alarm_turn *ret)
{
    uint32_t i;

    *ret = MD_ALARM_NONE;
    if (!a->active) {
        i = quiet_rows(threshold, p, stride, n);
        if (i == n)
            return n;
        *a = (struct md_alarm){.from = seq + i, .last = seq + i, .count = 1, .active = true};
        *ret = MD_ALARM_START;
        return i + 1;
    }
    for (i = 0; i < n; i++) {
        if (ends_with(a, threshold, seq + i, (double)p[i * stride])) {
            a->active = false;
            *ret = MD_ALARM_END;
            return i + 1;
        }
    }
    return n;
}
