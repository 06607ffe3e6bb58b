/* wire.h: the JSON headers of the wire protocol (docs/protocol.md), read without a DOM and written without printf.
 * Pure functions on caller's buffers; any thread; no allocation. */
#ifndef IO_WIRE_H
#define IO_WIRE_H

#include "io/sink.h"

enum io_dtype { IO_D_F32, IO_D_F64, IO_D_I16, IO_D_I32, IO_D_I64, IO_D_U8, IO_D_I8 };
size_t io_dtype_bytes(enum io_dtype d);

/* An ingest header (format `array`). */
struct io_header {
    enum io_dtype dtype;
    uint32_t ndim;
    uint64_t shape[2];
    char stream[IO_ID_MAX + 1]; /* "" when absent; JSON escapes resolved */
    int64_t seq;                /* IO_SEQ_NONE when absent */
    int64_t t_ns;               /* IO_T_NONE when absent */
    double rate;                /* −1 when absent */
    uint32_t flags;             /* IO_START … */
};

enum { IO_HEADER_MAX = 65536 }; /* bytes of its text that are looked at */

/* Checks everything about the text: JSON syntax to the end, depth, types, ranges, UTF-8. Unknown keys are skipped. On
 * failure *ret_why says which and `out` is undefined. */
int io_header_parse(const char *text, size_t len, struct io_header *out, enum io_reason *ret_why,
                    const char **ret_text);

/* Valid stream id: 1–200 bytes of UTF-8 without control characters. */
bool io_id_valid(const char *id, size_t len);

/* "<family>/<id>/" with %XX escapes, NUL-terminated; returns its length. buf: IO_TOPIC_MAX. */
enum { IO_TOPIC_MAX = 3 * IO_ID_MAX + 32, IO_JSON_MAX = 4096 };
size_t io_topic_write(char *buf, enum io_family family, const char *id);

/* The header of a published message, without the closing brace's newline; returns its length, or 0 if cap is too small.
 */
size_t io_message_json(char *buf, size_t cap, const struct io_message *m);

/* %.9g, shortest float text that keeps every float32; NaN and infinities become null. Returns its length (≤ 24). */
size_t io_float_write(char *buf, float v);

/* Rows of any wire dtype into a block's samples (values · scale + offset where either is given). */
void io_rows_convert(void *dst, enum io_sample type, const void *src, enum io_dtype dtype, size_t n, double scale,
                     double offset);
enum io_sample io_dtype_sample(enum io_dtype d); /* what it travels as: i16 i8 f32 u8 → F32, others F64 */

#endif
