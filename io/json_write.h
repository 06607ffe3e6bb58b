/* json_write.h: pieces of JSON text into a caller's bounded buffer. A piece that does not fit sets `full`, and nothing
 * is written from then on, so that a text is built without a check per piece. */
#ifndef IO_JSON_WRITE_H
#define IO_JSON_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct io_out {
    char *p, *end;
    bool full;
};

static inline void io_out_bytes(struct io_out *o, const char *text, size_t len)
{
    if ((size_t)(o->end - o->p) < len || o->full) {
        o->full = true;
        return;
    }
    memcpy(o->p, text, len);
    o->p += len;
}

/* A literal whose length the compiler knows. */
#define IO_OUT_LIT(o, text) io_out_bytes((o), (text), sizeof(text) - 1)

void io_out_u64(struct io_out *o, uint64_t v);
void io_out_i64(struct io_out *o, int64_t v);
void io_out_real(struct io_out *o, double v); /* the shortest text that reads back as v; null where not finite */
void io_out_level(struct io_out *o, float v); /* as written in a config: 0.1 and not 0.100000001 */
/* A string with its quotes, at most `max` bytes of it, whole characters; bytes that are no UTF-8 become U+FFFD. */
void io_out_string(struct io_out *o, const char *text, size_t max);

#endif
