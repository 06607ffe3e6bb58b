/* config_value.h: single values of a configuration, by the kind that their struct io_option names: from text, to text.
 */
#ifndef MD_CONFIG_VALUE_H
#define MD_CONFIG_VALUE_H

#include "daemon/config.h"

enum { MD_WHY = 768 };

/* Puts a scalar into base + o->offset (IO_OPT_STRINGS: appends). -EINVAL: `why` says what is wrong with it. */
int md_value_parse(const struct io_option *o, const char *text, void *base, char why[MD_WHY]);

/* The default of an option; what it holds before is overwritten. */
int md_value_default(const struct io_option *o, void *base);

/* Whether the value is to be printed: false for what was not given and has no default. */
bool md_value_given(const struct io_option *o, const void *base);
void md_value_print(const struct io_option *o, const void *base, FILE *out);

/* Frees the strings of all options of a table. */
void md_values_free(const struct io_option *options, void *base);

/* YAML text of single things: a string (quoted where it must be), a number. */
void md_print_string(const char *text, FILE *out);
void md_print_real(double v, FILE *out);
void md_print_float(float v, FILE *out);

#endif
