/* base64.c: see base64.h. */
#include "daemon/base64.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *md_base64_encode(const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    char *text = malloc((n + 2) / 3 * 4 + 1), *to = text;

    for (size_t i = 0; text && i < n; i += 3) {
        uint32_t left = n - i < 3 ? (uint32_t)(n - i) : 3, word = (uint32_t)from[i] << 16;
        word |= left > 1 ? (uint32_t)from[i + 1] << 8 : 0;
        word |= left > 2 ? from[i + 2] : 0;
        for (uint32_t k = 0; k < 4; k++)
            *to++ = k <= left ? digits[word >> (18 - 6 * k) & 63] : '=';
    }
    if (text)
        *to = '\0';
    return text;
}

void *md_base64_decode(const char *text, size_t len, size_t *ret_n)
{
    uint8_t value[256], *bytes = NULL;
    size_t n = 0, pad = 0;

    memset(value, 64, sizeof value);
    for (uint8_t i = 0; i < 64; i++)
        value[(uint8_t)digits[i]] = i;
    while (pad < 2 && pad < len && text[len - 1 - pad] == '=')
        pad++;
    if (len == 0 || len % 4)
        return NULL;
    bytes = malloc(len / 4 * 3);
    for (size_t i = 0; bytes && i < len; i += 4) {
        uint32_t word = 0;
        for (size_t k = i; k < i + 4; k++) {
            uint8_t v = k < len - pad ? value[(uint8_t)text[k]] : 0;
            if (v == 64)
                goto fail;
            word = word << 6 | v;
        }
        for (int k = 16; k >= 0; k -= 8)
            bytes[n++] = (uint8_t)(word >> k);
    }
    *ret_n = n - pad;
    return bytes;
fail:
    free(bytes);
    return NULL;
}
