/* csv_time.c: times as people write them into CSV files, to ns. Pure functions. Trap: decimals go by integer
 * arithmetic, for a double holds no ns since 1970. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "io/csv.h"

/* Days since 1970-01-01 in the Gregorian calendar; March-based years put the leap day last. */
static int64_t days(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* `width` digits at *at; −1: there are none. */
static int digits(const char **at, int width)
{
    int v = 0;
    for (int i = 0; i < width; i++) {
        if (!isdigit((unsigned char)(*at)[i]))
            return -1;
        v = v * 10 + ((*at)[i] - '0');
    }
    *at += width;
    return v;
}

static bool valid_date(int year, int month, int day)
{
    static const int length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return year >= 1678 && year <= 2261 && month >= 1 && month <= 12 && day >= 1 &&
           day <= length[month - 1] + (month == 2 && leap); /* the years that int64 ns hold */
}

/* The fraction after a point, in units of 10^-places, cut there. */
static int64_t fraction(const char **at, int places)
{
    int64_t v = 0;
    if (**at != '.' && **at != ',')
        return 0;
    for (++*at; isdigit((unsigned char)**at); ++*at)
        if (places-- > 0)
            v = v * 10 + (**at - '0');
    for (; places > 0; places--)
        v *= 10;
    return v;
}

/* "Z", "+01:00", "-0530" or nothing; seconds east of UTC. */
static bool zone(const char **at, int *ret)
{
    *ret = 0;
    while (**at == ' ')
        ++*at;
    if (**at == 'Z' || **at == 'z') {
        ++*at;
    } else if (**at == '+' || **at == '-') {
        int sign = *(*at)++ == '-' ? -1 : 1, hours = digits(at, 2);
        *at += **at == ':';
        int minutes = **at ? digits(at, 2) : 0;
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
            return false;
        *ret = sign * (hours * 3600 + minutes * 60);
    }
    return **at == '\0';
}

/* "hh:mm", "hh:mm:ss", "hh:mm:ss.f", then a zone. */
static bool clock_time(const char **at, int64_t *ret_s, int64_t *ret_ns)
{
    int hour = digits(at, 2), minute = **at == ':' ? (++*at, digits(at, 2)) : -1, second = 0, east;
    if (minute >= 0 && **at == ':') {
        ++*at;
        second = digits(at, 2);
    }
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return false;
    *ret_ns = fraction(at, 9);
    if (!zone(at, &east))
        return false;
    *ret_s = hour * 3600 + minute * 60 + second - east;
    return true;
}

static bool iso(const char *text, int64_t *ret_ns)
{
    const char *at = text;
    int64_t s = 0, ns = 0;
    int year = digits(&at, 4);
    char separator = *at;
    if (year < 0 || (separator != '-' && separator != '/'))
        return false;
    at++;
    int month = digits(&at, 2), day = 1;
    if (*at == separator) {
        at++;
        day = digits(&at, 2);
    }
    if (!valid_date(year, month, day))
        return false;
    if (*at == 'T' || *at == 't' || *at == ' ') {
        at++;
        if (!clock_time(&at, &s, &ns))
            return false;
    }
    if (*at)
        return false;
    *ret_ns = (days(year, month, day) * 86400 + s) * 1000000000 + ns;
    return true;
}

/* A decimal number of units of 10^-places s; other notations (1.7e9) go through double. */
static bool epoch(const char *text, int places, int64_t *ret_ns)
{
    const char *at = text + (*text == '-');
    int64_t unit = 1, whole = 0;
    for (int i = 0; i < 9 - places; i++)
        unit *= 10;
    const char *first = at;
    for (; isdigit((unsigned char)*at); at++)
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *at - '0', &whole))
            return false;
    if (at == first)
        return false;
    int64_t rest = fraction(&at, 9 - places);
    if (*at == '\0') {
        if (__builtin_mul_overflow(whole, unit, &whole) || __builtin_add_overflow(whole, rest, &whole))
            return false;
        *ret_ns = *text == '-' ? -whole : whole;
        return true;
    }
    char *end;
    double v = strtod(text, &end) * (double)unit;
    if (*end || !(v > -9.2e18 && v < 9.2e18))
        return false;
    *ret_ns = (int64_t)v;
    return true;
}

bool io_csv_time(const char *text, enum io_csv_time how, int64_t *ret_ns)
{
    const char *at = text;
    int year, month = 1, day = 1;
    switch (how) {
    case IO_CSV_ISO:
        return iso(text, ret_ns);
    case IO_CSV_S:
    case IO_CSV_MS:
    case IO_CSV_US:
    case IO_CSV_NS:
        return epoch(text, 3 * (int)(how - IO_CSV_S), ret_ns);
    case IO_CSV_YEAR:
    case IO_CSV_YMD:
        year = digits(&at, 4);
        if (how == IO_CSV_YMD && year >= 0) {
            month = digits(&at, 2);
            day = month < 0 ? -1 : digits(&at, 2);
        } else if (strncmp(at, ".0", 2) == 0) {
            at += 2;
        }
        if (*at || !valid_date(year, month, day))
            return false;
        *ret_ns = days(year, month, day) * 86400000000000;
        return true;
    }
    return false;
}
