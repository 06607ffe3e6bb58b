/* config_wrong.h: wrong configurations, each with the first line that must be said about it and the number of errors in
 * all. Lines of a text are counted from 1, columns in characters. */
#ifndef TESTS_CONFIG_WRONG_H
#define TESTS_CONFIG_WRONG_H

struct wrong {
    const char *text, *says;
    unsigned errors;
};

extern const struct wrong config_wrong[];
extern const unsigned config_wrong_n;

#endif
