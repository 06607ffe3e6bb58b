/* config_units.h: numbers with a unit, exactly: durations in ns and sizes in bytes. */
#ifndef MD_CONFIG_UNITS_H
#define MD_CONFIG_UNITS_H

#include <stdint.h>
#include <stdio.h>

struct md_unit {
    const char *name;
    int64_t factor;
};

extern const struct md_unit md_durations[], md_sizes[]; /* end with name NULL */

/* "12.5ms" by a table of units; -EINVAL: no number or no such unit, -ERANGE: not a whole number of the smallest unit,
 * or too large. */
int md_scaled_parse(const char *text, const struct md_unit *units, int64_t *ret);

/* With the largest unit that divides. */
void md_scaled_print(int64_t value, const struct md_unit *units, FILE *out);
void md_print_duration(int64_t ns, FILE *out); /* negative: none */

#endif
