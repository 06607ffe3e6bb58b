/* config_report.h: errors of a configuration, collected while it is read and then written in the order in which they
 * stand in the file, each as one line, the source line and a caret. One thread. */
#ifndef MD_CONFIG_REPORT_H
#define MD_CONFIG_REPORT_H

#include "daemon/config.h"

struct md_error {
    struct md_where where;
    char *text;
    unsigned order; /* of finding */
};

struct md_report {
    const char *text; /* of the file, for caret lines; may be NULL */
    struct md_error *errors;
    unsigned n;
    bool starved; /* memory was out: not everything was read, or said */
};

#define MD_NOWHERE ((struct md_where){NULL, 0, 0})

void md_report(struct md_report *report, struct md_where where, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes all errors and frees them; returns how many there were, want of memory among them. */
unsigned md_report_flush(struct md_report *report, FILE *out);

void md_report_drop(struct md_report *report); /* frees all errors unsaid */

/* The hint of a message about `word`, which is none of names[n]: " (did you mean 'x'?)" where one is near, else
 * " (valid: …)", nearest first. `names` is sorted in place. word NULL: just what is valid. "" for no names. */
enum { MD_HINT = 512 };
void md_hint(const char *word, const char **names, unsigned n, char hint[MD_HINT]);

#endif
