/* wire_rows.c: rows of any wire dtype into a block's samples. `src` may stand at any address: libzmq hands out payloads
 * at odd ones, so every element is loaded with memcpy (which compilers turn into plain vector loads). */
#include "io/wire.h"

#include <assert.h>
#include <string.h>

enum io_sample io_dtype_sample(enum io_dtype d)
{
    return d == IO_D_F32 || d == IO_D_I16 || d == IO_D_I8 || d == IO_D_U8 ? IO_F32 : IO_F64;
}

/* Arithmetic is in double, rounded once to the block's type. */
#define ROWS(name, dst_t, src_t)                                                                                       \
    static void name(dst_t *dst, const unsigned char *src, size_t n, bool linear, double scale, double offset)         \
    {                                                                                                                  \
        src_t v;                                                                                                       \
        for (size_t i = 0; i < n && !linear; i++) {                                                                    \
            memcpy(&v, src + i * sizeof v, sizeof v);                                                                  \
            dst[i] = (dst_t)v;                                                                                         \
        }                                                                                                              \
        for (size_t i = 0; i < n && linear; i++) {                                                                     \
            memcpy(&v, src + i * sizeof v, sizeof v);                                                                  \
            dst[i] = (dst_t)((double)v * scale + offset);                                                              \
        }                                                                                                              \
    }

ROWS(f32_from_f32, float, float)
ROWS(f32_from_f64, float, double)
ROWS(f32_from_i16, float, int16_t)
ROWS(f32_from_i32, float, int32_t)
ROWS(f32_from_i64, float, int64_t)
ROWS(f32_from_u8, float, uint8_t)
ROWS(f32_from_i8, float, int8_t)
ROWS(f64_from_f32, double, float)
ROWS(f64_from_f64, double, double)
ROWS(f64_from_i16, double, int16_t)
ROWS(f64_from_i32, double, int32_t)
ROWS(f64_from_i64, double, int64_t)
ROWS(f64_from_u8, double, uint8_t)
ROWS(f64_from_i8, double, int8_t)

void io_rows_convert(void *dst, enum io_sample type, const void *src, enum io_dtype dtype, size_t n, double scale,
                     double offset)
{
    static void (*const to_f32[])(float *, const unsigned char *, size_t, bool, double, double) = {
        [IO_D_F32] = f32_from_f32, [IO_D_F64] = f32_from_f64, [IO_D_I16] = f32_from_i16, [IO_D_I32] = f32_from_i32,
        [IO_D_I64] = f32_from_i64, [IO_D_U8] = f32_from_u8,   [IO_D_I8] = f32_from_i8,
    };
    static void (*const to_f64[])(double *, const unsigned char *, size_t, bool, double, double) = {
        [IO_D_F32] = f64_from_f32, [IO_D_F64] = f64_from_f64, [IO_D_I16] = f64_from_i16, [IO_D_I32] = f64_from_i32,
        [IO_D_I64] = f64_from_i64, [IO_D_U8] = f64_from_u8,   [IO_D_I8] = f64_from_i8,
    };
    bool linear = scale != 1 || offset != 0;

    if (type == IO_F32) {
        to_f32[dtype](dst, src, n, linear, scale, offset);
    } else if (type == IO_F64) {
        to_f64[dtype](dst, src, n, linear, scale, offset);
    } else {
        assert(dtype == IO_D_U8 && "only bytes travel as bytes");
        memcpy(dst, src, n);
    }
}
