/* config_units.c: see config_units.h. Trap: nothing passes through a double: 0.5us is 500 ns, 0.5ns an error. Pure
 * functions. */
#include "daemon/config_units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* Largest first: printing takes the first that divides. */
const struct md_unit md_durations[] = {{"d", 86400000000000},
                                       {"h", 3600000000000},
                                       {"min", 60000000000},
                                       {"s", 1000000000},
                                       {"ms", 1000000},
                                       {"us", 1000},
                                       {"ns", 1},
                                       {"m", 60000000000},
                                       {NULL, 0}};
const struct md_unit md_sizes[] = {
    {"TiB", 1LL << 40}, {"GiB", 1LL << 30}, {"MiB", 1LL << 20}, {"KiB", 1LL << 10},    {"B", 1}, {"", 1}, {"kB", 1000},
    {"KB", 1000},       {"MB", 1000000},    {"GB", 1000000000}, {"TB", 1000000000000}, {NULL, 0}};

int md_scaled_parse(const char *text, const struct md_unit *units, int64_t *ret)
{
    const char *at = text;
    __int128 value = 0, divisor = 1;
    unsigned digits = 0;
    bool fraction = false;

    for (; (*at >= '0' && *at <= '9') || (*at == '.' && !fraction); at++) {
        if (*at == '.') {
            fraction = true;
            continue;
        }
        value = value * 10 + (*at - '0');
        divisor *= fraction ? 10 : 1;
        if (++digits > 18)
            return -ERANGE;
    }
    if (digits == 0 || at[-1] == '.')
        return -EINVAL;
    while (*at == ' ')
        at++;
    while (units->name && strcmp(units->name, at))
        units++;
    if (!units->name)
        return -EINVAL;
    value *= units->factor;
    if (value % divisor || value / divisor > INT64_MAX)
        return -ERANGE;
    *ret = (int64_t)(value / divisor);
    return 0;
}

void md_scaled_print(int64_t value, const struct md_unit *units, FILE *out)
{
    while (units->factor > 1 && (value == 0 || value % units->factor))
        units++;
    fprintf(out, "%" PRId64 "%s", value / units->factor, units->name);
}

void md_print_duration(int64_t ns, FILE *out)
{
    if (ns < 0)
        fputs("none", out);
    else if (ns == 0)
        fputs("0s", out);
    else
        md_scaled_print(ns, md_durations, out);
}
