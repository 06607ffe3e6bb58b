/* base64.h: bytes as text in JSON (RFC 4648, with padding). Pure. */
#ifndef MD_BASE64_H
#define MD_BASE64_H

#include <stddef.h>

/* Text of n bytes, terminated; NULL: out of memory. */
char *md_base64_encode(const void *bytes, size_t n);
/* Bytes of a text, 8-aligned; NULL: not base64 of at least one byte, or out of memory. */
void *md_base64_decode(const char *text, size_t len, size_t *ret_n);

#endif
