/* eval_file.c: see eval_file.h. What a file is packed with is read from its first bytes, as its name may lie. */
#include "tools/eval_file.h"

#include <errno.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

static const size_t bytes_max = (size_t)2 << 30;

/* Room for at least one byte more, and a zero. */
static bool grow(char **buf, size_t used, size_t *room)
{
    if (used + 1 < *room)
        return true;
    size_t more = *room ? *room * 2 : 1 << 16;
    char *bigger = realloc(*buf, more);
    if (!bigger)
        return false;
    *buf = bigger;
    *room = more;
    return true;
}

static int read_plain(FILE *f, char **buf, size_t *n)
{
    size_t room = 0, got = 1;
    for (*n = 0; got; *n += got) {
        if (*n > bytes_max)
            return -EFBIG;
        if (!grow(buf, *n, &room))
            return -ENOMEM;
        got = fread(*buf + *n, 1, room - *n - 1, f);
    }
    return ferror(f) ? -EIO : 0;
}

static int unpack_xz(const char *in, size_t in_bytes, char **buf, size_t *n)
{
    lzma_stream s = LZMA_STREAM_INIT;
    size_t room = 0;
    int r = 0;
    lzma_ret code = lzma_stream_decoder(&s, UINT64_MAX, LZMA_CONCATENATED);
    s.next_in = (const uint8_t *)in;
    s.avail_in = in_bytes;
    for (*n = 0; code == LZMA_OK && r == 0; *n = s.total_out) {
        r = *n > bytes_max ? -EFBIG : grow(buf, *n, &room) ? 0 : -ENOMEM;
        if (r)
            break;
        s.next_out = (uint8_t *)*buf + *n;
        s.avail_out = room - *n - 1;
        code = lzma_code(&s, LZMA_FINISH);
    }
    lzma_end(&s);
    return r ? r : code == LZMA_STREAM_END ? 0 : code == LZMA_MEM_ERROR ? -ENOMEM : -EBADMSG;
}

static int unpack_gz(const char *in, size_t in_bytes, char **buf, size_t *n)
{
    enum { GZIP = 16 };
    z_stream s = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)in_bytes};
    size_t room = 0;
    int r = 0, code = inflateInit2(&s, GZIP + MAX_WBITS);
    for (*n = 0; r == 0 && (code == Z_OK || (code == Z_STREAM_END && s.avail_in));) {
        if (code == Z_STREAM_END)
            code = inflateReset(&s);
        r = *n > bytes_max ? -EFBIG : grow(buf, *n, &room) ? 0 : -ENOMEM;
        if (r)
            break;
        size_t left = room - *n - 1;
        s.next_out = (Bytef *)*buf + *n;
        s.avail_out = (uInt)left;
        code = inflate(&s, Z_NO_FLUSH);
        *n += left - s.avail_out;
    }
    inflateEnd(&s);
    return r ? r : code == Z_STREAM_END ? 0 : code == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
}

int eval_file_read(const char *path, char **ret, size_t *ret_bytes, char *reterr)
{
    char *raw = NULL, *text = NULL;
    size_t raw_bytes = 0, bytes = 0;
    FILE *f = fopen(path, "rb");
    int r = f ? read_plain(f, &raw, &raw_bytes) : -errno;
    if (f)
        fclose(f);
    if (r == 0 && raw_bytes > 6 &&
        memcmp(raw,
               "\xfd"
               "7zXZ",
               6) == 0)
        r = unpack_xz(raw, raw_bytes, &text, &bytes);
    else if (r == 0 && raw_bytes > 2 && memcmp(raw, "\x1f\x8b", 2) == 0)
        r = raw_bytes > UINT32_MAX ? -EFBIG : unpack_gz(raw, raw_bytes, &text, &bytes);
    else if (r == 0) {
        text = raw;
        bytes = raw_bytes;
        raw = NULL;
    }
    free(raw);
    if (r) {
        free(text);
        snprintf(reterr, EVAL_ERR, "%s: %s", path,
                 r == -EBADMSG ? "the packed file is damaged or cut short" : strerror(-r));
        return r;
    }
    text[bytes] = '\0';
    *ret = text;
    *ret_bytes = bytes;
    return 0;
}

size_t eval_file_unpacked(const char *path)
{
    size_t n = strlen(path);
    return n > 3 && (strcasecmp(path + n - 3, ".xz") == 0 || strcasecmp(path + n - 3, ".gz") == 0) ? n - 3 : n;
}
