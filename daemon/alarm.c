/* alarm.c: see alarm.h. An alarm starts at the first row with p ≤ threshold and ends after MD_ALARM_CALM consecutive rows
 * with p > MD_ALARM_RATIO · threshold, so that a score that hovers about the threshold is one alarm and not many. */
#include "daemon/alarm.h"

#include <math.h>

enum md_alarm_turn md_alarm_row(struct md_alarm *a, double threshold, int64_t seq, float p)
{
    if (isnan(p)) {
        return MD_ALARM_NONE;
    }
    bool low = (double)p <= threshold;
    if (!a->active) {
        if (!low) {
            return MD_ALARM_NONE;
        }
        *a = (struct md_alarm){.from = seq, .last = seq, .count = 1, .active = true};
        return MD_ALARM_START;
    }
    if (low) {
        a->last = seq;
        a->count++;
    }
    a->calm = (double)p > (double)MD_ALARM_RATIO * threshold ? a->calm + 1 : 0;
    if (a->calm < MD_ALARM_CALM) {
        return MD_ALARM_NONE;
    }
    a->active = false;
    return MD_ALARM_END;
}
