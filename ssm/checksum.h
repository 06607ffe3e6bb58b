/* checksum.h: 64 bits over a saved slot. FNV-1a by words in four lanes: every step is a bijection of the hash, so that
 * a change within any one word is always seen. Little-endian, like all saved bytes. Pure. */
#ifndef SSM_CHECKSUM_H
#define SSM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t ssm_checksum_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x100000001b3u;
    return hash ^ hash >> 29;
}

static inline uint64_t ssm_checksum(uint64_t seed, const void *bytes, size_t n)
{
    const uint8_t *at = bytes, *end = at + n / 8 * 8;
    uint64_t first = 0xcbf29ce484222325u + seed * 31, word = 0, words[4];
    uint64_t a = first, b = first + 1, c = first + 2, d = first + 3; /* the lanes, in registers */
    for (; end - at >= 32; at += 32) {
        memcpy(words, at, sizeof words);
        a = ssm_checksum_mix(a, words[0]);
        b = ssm_checksum_mix(b, words[1]);
        c = ssm_checksum_mix(c, words[2]);
        d = ssm_checksum_mix(d, words[3]);
    }
    uint64_t lane[4] = {a, b, c, d};
    for (unsigned i = 0; at < end; at += 8, i++) {
        memcpy(&word, at, 8);
        lane[i] = ssm_checksum_mix(lane[i], word);
    }
    word = 0;
    memcpy(&word, at, n % 8);
    uint64_t hash = ssm_checksum_mix(lane[0], word ^ n);
    for (unsigned i = 1; i < 4; i++)
        hash = ssm_checksum_mix(hash, lane[i]);
    return hash;
}

#endif
