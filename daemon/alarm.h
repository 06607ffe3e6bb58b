/* alarm.h: from a stream's p-values to anomaly_start and anomaly_end, with hysteresis. Plain state, saved as it stands;
 * publisher thread. */
#ifndef MD_ALARM_H
#define MD_ALARM_H

#include <stdbool.h>
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

/* One scored row. p NaN: says nothing. On END, from, last and count describe the alarm that ended. */
enum md_alarm_turn md_alarm_row(struct md_alarm *a, double threshold, int64_t seq, float p);

#endif
