/* alarm.h: from a stream's p-values to anomaly_start and anomaly_end, with hysteresis. Plain state, all 0 to begin
 * with, saved as it stands; publisher thread. */
#ifndef MD_ALARM_H
#define MD_ALARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MD_ALARM_CALM = 16 }; /* rows in a row that must look normal before an alarm ends */
#define MD_ALARM_NORMAL 0.1  /* … that is, have a p above this */

struct md_alarm {
    int64_t from, last; /* first row, and last one that did not look normal */
    uint64_t count;     /* of rows at or below the threshold */
    uint32_t calm;
    bool active;
    uint64_t rows; /* with a p, so far */
    double crowd;  /* how frequent small p-values have been */
};

enum md_alarm_turn { MD_ALARM_NONE, MD_ALARM_START, MD_ALARM_END };

/* Rows seq, seq + 1, … with p-values p[0], p[stride], …; NaN says nothing. Returns how many were looked at: all n with
 * *ret NONE, or up to and with the one that made *ret. On END, from, last and count describe the alarm that ended. */
uint32_t md_alarm_rows(struct md_alarm *a, double threshold, int64_t seq, const float *p, size_t stride, uint32_t n,
                       enum md_alarm_turn *ret);

#endif
