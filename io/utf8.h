/* utf8.h: one step of strict UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
#ifndef IO_UTF8_H
#define IO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p (1–4), or 0 where p[0..len) does not begin with a whole valid one. len ≥ 1. */
size_t io_utf8_step(const char *p, size_t len, uint32_t *ret_char);

/* Writes c as UTF-8; returns its length. buf: 4 bytes. */
size_t io_utf8_put(char *buf, uint32_t c);

#endif
