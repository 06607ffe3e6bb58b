/* alarm.h: from a stream's p-values to anomaly_start and anomaly_end, with hysteresis. Plain state, saved as it stands;
 * publisher thread. */
#ifndef MD_ALARM_H
#define MD_ALARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MD_ALARM_CALM = 32, /* rows in a row that must look normal before an alarm ends */
    MD_ALARM_RATIO = 10 /* … that is, have a p above this many times the threshold */
};

struct md_alarm {
    int64_t from, last; /* first and last row at or below the threshold */
    uint64_t count;     /* of such rows */
    uint32_t calm;
    bool active;
};

enum md_alarm_turn { MD_ALARM_NONE, MD_ALARM_START, MD_ALARM_END };

/* Rows seq, seq + 1, … with p-values p[0], p[stride], …; NaN says nothing. Returns how many were looked at: all n with
 * *ret NONE, or up to and with the one that made *ret. On END, from, last and count describe the alarm that ended. */
uint32_t md_alarm_rows(struct md_alarm *a, double threshold, int64_t seq, const float *p, size_t stride, uint32_t n,
                       enum md_alarm_turn *ret);

#endif
