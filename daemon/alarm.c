/* alarm.c: see alarm.h. An alarm starts at a row with p ≤ threshold and ends after MD_ALARM_CALM consecutive rows with
 * p > MD_ALARM_NORMAL, so that a score that hovers about the threshold is one alarm and not many, and what has not
 * ended is still under way. Where small p-values have been frequent of late, p has to be that much smaller to start
 * another one: a stream that cries wolf is heard less. */
#include "daemon/alarm.h"

#define CROWD_P 0.03       /* p-values below this are counted; so is their usual frequency */
#define CROWD_ROWS 2000.0  /* over which it is averaged … */
#define CROWD_BELIEF 200.0 /* … beginning with the usual one, worth this many rows */

static void follow_crowd(struct md_alarm *a, double p)
{
    if (p != p)
        return;
    if (a->rows++ == 0)
        a->crowd = CROWD_P;
    double memory = (double)a->rows + CROWD_BELIEF;
    a->crowd += ((p < CROWD_P ? 1.0 : 0.0) - a->crowd) / (memory < CROWD_ROWS ? memory : CROWD_ROWS);
}

static bool starts_with(const struct md_alarm *a, double threshold, double p)
{
    return p <= threshold && (!(a->crowd > CROWD_P) || p * a->crowd / CROWD_P <= threshold);
}

/* Rows of an active alarm; returns true where it ends with this one. */
static bool ends_with(struct md_alarm *a, double threshold, int64_t seq, double p)
{
    if (p <= threshold)
        a->count++;
    if (p > threshold && p > MD_ALARM_NORMAL) {
        a->calm++;
    } else if (p == p) { /* a missing score says nothing */
        a->calm = 0;
        a->last = seq;
    }
    return a->calm >= MD_ALARM_CALM;
}

uint32_t md_alarm_rows(struct md_alarm *a, double threshold, int64_t seq, const float *p, size_t stride, uint32_t n,
                       enum md_alarm_turn *ret)
{
    *ret = MD_ALARM_NONE;
    for (uint32_t i = 0; i < n; i++, seq++) {
        double value = (double)p[i * stride];
        if (a->active && ends_with(a, threshold, seq, value)) {
            a->active = false;
            *ret = MD_ALARM_END;
        } else if (!a->active && starts_with(a, threshold, value)) {
            *a = (struct md_alarm){
                .from = seq, .last = seq, .count = 1, .active = true, .rows = a->rows, .crowd = a->crowd};
            *ret = MD_ALARM_START;
        }
        follow_crowd(a, value);
        if (*ret != MD_ALARM_NONE)
            return i + 1;
    }
    return n;
}
