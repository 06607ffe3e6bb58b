/* json_scan.h: a pull scanner over one JSON text (RFC 8259), strict and without allocation: the caller asks for what it
 * expects. Every function that returns int gives 0 or -EBADMSG, after which s->error says why and the scan is over. */
#ifndef IO_JSON_SCAN_H
#define IO_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IO_JSON_DEPTH = 32 };

struct io_json {
    const char *p, *end;
    const char *error;
};

void io_json_init(struct io_json *s, const char *text, size_t len);

/* The next character after white space, not consumed; '\0' at the end of the text. */
char io_json_peek(struct io_json *s);
int io_json_expect(struct io_json *s, char c);
int io_json_end(struct io_json *s); /* nothing but white space is left */

/* Members and elements: call before each with *n = 0 at first; 1: another one follows, 0: the closing bracket was
 * consumed. */
int io_json_more(struct io_json *s, char close, unsigned *n);

/* A string with its escapes resolved, cut to cap − 1 bytes and NUL-terminated; *ret_len is its whole length, so one at
 * or above cap was cut. */
int io_json_string(struct io_json *s, char *buf, size_t cap, size_t *ret_len);
int io_json_int(struct io_json *s, int64_t *ret); /* an integer in int64's range, without fraction or exponent */
int io_json_real(struct io_json *s, double *ret); /* correctly rounded and finite */
bool io_json_null(struct io_json *s);             /* consumes null where it is next */
int io_json_skip(struct io_json *s);              /* any value, IO_JSON_DEPTH deep at most */

#endif
