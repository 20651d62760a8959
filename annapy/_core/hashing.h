/* Hashes and checksums over bytes; hashing.pxd has the contract.
 *
 * hash64: words of 8 bytes are folded through a 64x64->128-bit multiplication. Two lanes for
 * inputs over 32 bytes. Not cryptographic: with a secret random seed it resists accidental and
 * casual collision, no more.
 */
#ifndef ANNAPY_HASHING_H
#define ANNAPY_HASHING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t annapy_read64(const uint8_t *p) { uint64_t x; memcpy(&x, p, 8); return x; }
static inline uint64_t annapy_read32(const uint8_t *p) { uint32_t x; memcpy(&x, p, 4); return x; }

static inline uint64_t annapy_fold(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

#define ANNAPY_P0 0x9E3779B97F4A7C15ull
#define ANNAPY_P1 0xC2B2AE3D27D4EB4Full
#define ANNAPY_P2 0x165667B19E3779F9ull
#define ANNAPY_P3 0xD6E8FEB86659FD93ull

static inline uint64_t annapy_hash64(const void *data, size_t n, uint64_t seed) {
    const uint8_t *p = (const uint8_t *)data;
    uint64_t a, b, left = n;
    seed = annapy_fold(seed ^ ANNAPY_P0, (uint64_t)n ^ ANNAPY_P1);
    if (left > 32) {
        uint64_t lane = seed ^ ANNAPY_P3;
        do {
            seed = annapy_fold(annapy_read64(p) ^ ANNAPY_P1, annapy_read64(p + 8) ^ seed);
            lane = annapy_fold(annapy_read64(p + 16) ^ ANNAPY_P2, annapy_read64(p + 24) ^ lane);
            p += 32;
            left -= 32;
        } while (left > 32);
        seed ^= lane;
    }
    if (left > 16) {
        seed = annapy_fold(annapy_read64(p) ^ ANNAPY_P1, annapy_read64(p + 8) ^ seed);
        p += 16;
        left -= 16;
    }
    if (left >= 8) {
        a = annapy_read64(p);
        b = annapy_read64(p + left - 8);
    } else if (left >= 4) {
        a = annapy_read32(p);
        b = annapy_read32(p + left - 4);
    } else if (left) {
        a = ((uint64_t)p[0] << 16) | ((uint64_t)p[left >> 1] << 8) | p[left - 1];
        b = 0;
    } else {
        a = b = 0;
    }
    return annapy_fold(ANNAPY_P3 ^ seed, annapy_fold(a ^ ANNAPY_P1, b ^ seed ^ ANNAPY_P2));
}

/* CRC32C, reflected polynomial 0x82F63B78. */
static inline uint32_t annapy_crc32c_soft(uint32_t crc, const uint8_t *p, size_t n) {
    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static inline uint32_t
annapy_crc32c_hard(uint32_t crc, const uint8_t *p, size_t n) {
    uint64_t c = crc;
    for (; n >= 8; n -= 8, p += 8) c = _mm_crc32_u64(c, annapy_read64(p));
    for (; n; n--) c = _mm_crc32_u8((uint32_t)c, *p++);
    return (uint32_t)c;
}
static inline int annapy_crc32c_has(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static inline uint32_t annapy_crc32c_hard(uint32_t crc, const uint8_t *p, size_t n) {
    for (; n >= 8; n -= 8, p += 8) crc = __crc32cd(crc, annapy_read64(p));
    for (; n; n--) crc = __crc32cb(crc, *p++);
    return crc;
}
static inline int annapy_crc32c_has(void) { return 1; }
#else
#define annapy_crc32c_hard annapy_crc32c_soft
static inline int annapy_crc32c_has(void) { return 0; }
#endif

static inline uint32_t annapy_crc32c(uint32_t crc, const void *data, size_t n) {
    const uint8_t *p = (const uint8_t *)data;
    crc = ~crc;
    crc = annapy_crc32c_has() ? annapy_crc32c_hard(crc, p, n) : annapy_crc32c_soft(crc, p, n);
    return ~crc;
}

#endif
