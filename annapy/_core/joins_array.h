/* Element loops of the array lattices; joins_array.pxd has the layouts.
 *
 * Every load and store is a memcpy, so that data may lie at any address (mail, wire, a state after
 * an expiry) and gcc still turns each loop into vector code. No loop leaves early: a flag is
 * gathered instead, which keeps them branch-free.
 *
 * The order of a float16 is that of its bits, once those of a negative one are flipped.
 */
#ifndef ANNAPY_JOINS_ARRAY_H
#define ANNAPY_JOINS_ARRAY_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint16_t bits; } annapy_half;

static inline int16_t annapy_half_key(annapy_half h) {
    return (int16_t)(h.bits ^ ((uint16_t)((int16_t)h.bits >> 15) & 0x7FFF));
}

#define ANNAPY_LESS_EQUAL(x, y) ((x) <= (y))
#define ANNAPY_HALF_LESS_EQUAL(x, y) (annapy_half_key(x) <= annapy_half_key(y))

/* out = max(a, b) element by element; out may not overlap either. */
#define ANNAPY_MAX(NAME, T, LE)                                                              \
    static inline void annapy_max_##NAME(uint8_t *restrict out, const uint8_t *restrict a,   \
                                         const uint8_t *restrict b, size_t n) {              \
        for (size_t i = 0; i < n; i++) {                                                     \
            T x, y;                                                                          \
            memcpy(&x, a + i * sizeof(T), sizeof(T));                                        \
            memcpy(&y, b + i * sizeof(T), sizeof(T));                                        \
            x = LE(x, y) ? y : x;                                                            \
            memcpy(out + i * sizeof(T), &x, sizeof(T));                                      \
        }                                                                                    \
    }

/* Is a <= b everywhere? */
#define ANNAPY_BELOW(NAME, T, LE)                                                            \
    static inline int annapy_below_##NAME(const uint8_t *a, const uint8_t *b, size_t n) {    \
        unsigned above = 0;                                                                  \
        for (size_t i = 0; i < n; i++) {                                                     \
            T x, y;                                                                          \
            memcpy(&x, a + i * sizeof(T), sizeof(T));                                        \
            memcpy(&y, b + i * sizeof(T), sizeof(T));                                        \
            above |= !LE(x, y);                                                              \
        }                                                                                    \
        return !above;                                                                       \
    }

#define ANNAPY_ORDERED(NAME, T, LE) ANNAPY_MAX(NAME, T, LE) ANNAPY_BELOW(NAME, T, LE)

ANNAPY_ORDERED(i8, int8_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(i16, int16_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(i32, int32_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(i64, int64_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(u8, uint8_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(u16, uint16_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(u32, uint32_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(u64, uint64_t, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(f16, annapy_half, ANNAPY_HALF_LESS_EQUAL)
ANNAPY_ORDERED(f32, float, ANNAPY_LESS_EQUAL)
ANNAPY_ORDERED(f64, double, ANNAPY_LESS_EQUAL)

/* What a caller's floats become: -0 turns into +0. NaN is reported (1), and so is an
 * infinity (2). Returns the gathered flags. */
#define ANNAPY_TIDY(NAME, BITS, SIGN, INFINITE)                                              \
    static inline int annapy_tidy_##NAME(uint8_t *out, const uint8_t *a, size_t n) {         \
        unsigned nan = 0, infinite = 0;                                                      \
        for (size_t i = 0; i < n; i++) {                                                     \
            BITS x;                                                                          \
            memcpy(&x, a + i * sizeof(x), sizeof(x));                                        \
            nan |= (BITS)(x & (BITS)~SIGN) > INFINITE;                                       \
            infinite |= (BITS)(x & (BITS)~SIGN) == INFINITE;                                 \
            x = x == SIGN ? 0 : x;                                                           \
            memcpy(out + i * sizeof(x), &x, sizeof(x));                                      \
        }                                                                                    \
        return (int)(nan | infinite << 1);                                                   \
    }

ANNAPY_TIDY(f16, uint16_t, (uint16_t)0x8000, 0x7C00)
ANNAPY_TIDY(f32, uint32_t, 0x80000000u, 0x7F800000u)
ANNAPY_TIDY(f64, uint64_t, 0x8000000000000000ull, 0x7FF0000000000000ull)

/* The flags of annapy_tidy, and 4 if there is a -0: for bytes that must be tidy already. */
#define ANNAPY_UNTIDY(NAME, BITS, SIGN, INFINITE)                                            \
    static inline int annapy_untidy_##NAME(const uint8_t *a, size_t n) {                     \
        unsigned nan = 0, infinite = 0, minus = 0;                                           \
        for (size_t i = 0; i < n; i++) {                                                     \
            BITS x;                                                                          \
            memcpy(&x, a + i * sizeof(x), sizeof(x));                                        \
            nan |= (BITS)(x & (BITS)~SIGN) > INFINITE;                                       \
            infinite |= (BITS)(x & (BITS)~SIGN) == INFINITE;                                 \
            minus |= x == SIGN;                                                              \
        }                                                                                    \
        return (int)(nan | infinite << 1 | minus << 2);                                      \
    }

ANNAPY_UNTIDY(f16, uint16_t, (uint16_t)0x8000, 0x7C00)
ANNAPY_UNTIDY(f32, uint32_t, 0x80000000u, 0x7F800000u)
ANNAPY_UNTIDY(f64, uint64_t, 0x8000000000000000ull, 0x7FF0000000000000ull)

/* sum += a element by element. Returns 1 if an integer overflowed or a float left the finite. */
#define ANNAPY_ADD_INT(NAME, T)                                                              \
    static inline int annapy_add_##NAME(uint8_t *restrict sum, const uint8_t *restrict a,    \
                                        size_t n) {                                          \
        unsigned over = 0;                                                                   \
        for (size_t i = 0; i < n; i++) {                                                     \
            T x, y, z;                                                                       \
            memcpy(&x, sum + i * sizeof(T), sizeof(T));                                      \
            memcpy(&y, a + i * sizeof(T), sizeof(T));                                        \
            z = (T)((u##T)x + (u##T)y);                                                      \
            over |= ((x ^ z) & (y ^ z)) < 0;                                                 \
            memcpy(sum + i * sizeof(T), &z, sizeof(T));                                      \
        }                                                                                    \
        return (int)over;                                                                    \
    }

ANNAPY_ADD_INT(i32, int32_t)
ANNAPY_ADD_INT(i64, int64_t)

#define ANNAPY_ADD_FLOAT(NAME, T, ABS, LARGEST)                                              \
    static inline int annapy_add_##NAME(uint8_t *restrict sum, const uint8_t *restrict a,    \
                                        size_t n) {                                          \
        unsigned over = 0;                                                                   \
        for (size_t i = 0; i < n; i++) {                                                     \
            T x, y;                                                                          \
            memcpy(&x, sum + i * sizeof(T), sizeof(T));                                      \
            memcpy(&y, a + i * sizeof(T), sizeof(T));                                        \
            x += y;                                                                          \
            over |= !(ABS(x) <= LARGEST);                                                    \
            memcpy(sum + i * sizeof(T), &x, sizeof(T));                                      \
        }                                                                                    \
        return (int)over;                                                                    \
    }

ANNAPY_ADD_FLOAT(f32, float, fabsf, 3.4028234663852886e38f)
ANNAPY_ADD_FLOAT(f64, double, fabs, 1.7976931348623157e308)

/* --- by dtype: DLPack's code and bits, known to be one of those that the lattice takes --- */

#define ANNAPY_DTYPE(code, bits) ((unsigned)(code) << 8 | (unsigned)(bits))
#define ANNAPY_ORDERED_CASES(CALL)                                                           \
    case ANNAPY_DTYPE(0, 8): CALL(i8);                                                       \
    case ANNAPY_DTYPE(0, 16): CALL(i16);                                                     \
    case ANNAPY_DTYPE(0, 32): CALL(i32);                                                     \
    case ANNAPY_DTYPE(0, 64): CALL(i64);                                                     \
    case ANNAPY_DTYPE(1, 8): CALL(u8);                                                       \
    case ANNAPY_DTYPE(1, 16): CALL(u16);                                                     \
    case ANNAPY_DTYPE(1, 32): CALL(u32);                                                     \
    case ANNAPY_DTYPE(1, 64): CALL(u64);                                                     \
    case ANNAPY_DTYPE(2, 16): CALL(f16);                                                     \
    case ANNAPY_DTYPE(2, 32): CALL(f32);                                                     \
    case ANNAPY_DTYPE(2, 64): CALL(f64);

static void annapy_array_max(int code, int bits, uint8_t *out, const uint8_t *a, const uint8_t *b,
                             size_t n) {
#define ANNAPY_CALL(NAME) annapy_max_##NAME(out, a, b, n); return
    switch (ANNAPY_DTYPE(code, bits)) { ANNAPY_ORDERED_CASES(ANNAPY_CALL) }
#undef ANNAPY_CALL
}

static int annapy_array_below(int code, int bits, const uint8_t *a, const uint8_t *b, size_t n) {
#define ANNAPY_CALL(NAME) return annapy_below_##NAME(a, b, n)
    switch (ANNAPY_DTYPE(code, bits)) { ANNAPY_ORDERED_CASES(ANNAPY_CALL) }
#undef ANNAPY_CALL
    return 0;
}

static int annapy_array_tidy(int code, int bits, uint8_t *out, const uint8_t *a, size_t n) {
    switch (ANNAPY_DTYPE(code, bits)) {
    case ANNAPY_DTYPE(2, 16): return annapy_tidy_f16(out, a, n);
    case ANNAPY_DTYPE(2, 32): return annapy_tidy_f32(out, a, n);
    case ANNAPY_DTYPE(2, 64): return annapy_tidy_f64(out, a, n);
    }
    if (n) memcpy(out, a, n * ((size_t)bits >> 3));
    return 0;
}

static int annapy_array_untidy(int code, int bits, const uint8_t *a, size_t n) {
    switch (ANNAPY_DTYPE(code, bits)) {
    case ANNAPY_DTYPE(2, 16): return annapy_untidy_f16(a, n);
    case ANNAPY_DTYPE(2, 32): return annapy_untidy_f32(a, n);
    case ANNAPY_DTYPE(2, 64): return annapy_untidy_f64(a, n);
    }
    return 0;
}

static int annapy_array_add(int code, int bits, uint8_t *sum, const uint8_t *a, size_t n) {
    switch (ANNAPY_DTYPE(code, bits)) {
    case ANNAPY_DTYPE(0, 32): return annapy_add_i32(sum, a, n);
    case ANNAPY_DTYPE(0, 64): return annapy_add_i64(sum, a, n);
    case ANNAPY_DTYPE(2, 32): return annapy_add_f32(sum, a, n);
    case ANNAPY_DTYPE(2, 64): return annapy_add_f64(sum, a, n);
    }
    return 1;
}

/* Integers of several contributions added up exactly: only the result has to fit, not what comes
 * on the way. An entry at `skip` counts as the data at `instead`. out: NULL, to ask only. */
static int annapy_array_total(int bits, uint8_t *out, const uint8_t *first, size_t entries,
                              size_t stride, const uint8_t *skip, const uint8_t *instead,
                              size_t n) {
    size_t width = (size_t)bits >> 3;
    for (size_t i = 0; i < n; i++) {
        __int128 sum = 0;
        int64_t x = 0;
        for (size_t e = 0; e < entries + (instead != NULL); e++) {
            const uint8_t *p = e == entries ? instead : first + e * stride;
            if (p == skip) continue;
            int32_t narrow;
            if (bits == 32) {
                memcpy(&narrow, p + i * 4, 4);
                x = narrow;
            } else {
                memcpy(&x, p + i * 8, 8);
            }
            sum += x;
        }
        x = (int64_t)sum;
        if (sum != x || (bits == 32 && x != (int32_t)x)) return 1;
        if (out != NULL) memcpy(out + i * width, &x, width);
    }
    return 0;
}

#endif
