/* Memory orders, in one place; atomics.pxd says which to use when.
 *
 * Shared payload bytes are only ever touched as relaxed atomic 8-byte words (annapy_words_*): a
 * reader may copy a slab while its owner rewrites it, and learns from the record's version that it
 * must retry. As plain bytes that would be a data race; as words it is a defined, torn value.
 * ThreadSanitizer does not model fences, so each validation load is itself an acquire (or an
 * acquire read-modify-write of zero under TSAN).
 */
#ifndef ANNAPY_ATOMICS_H
#define ANNAPY_ATOMICS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define annapy_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define annapy_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define annapy_load_seq(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define annapy_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define annapy_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define annapy_store_seq(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define annapy_fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define annapy_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)

static inline int annapy_cas32(uint32_t *p, uint32_t old, uint32_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline int annapy_cas64(uint64_t *p, uint64_t old, uint64_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline void annapy_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void annapy_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void annapy_fence_seq(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void annapy_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

static inline void annapy_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* From shared memory to private memory. `from` is 8-byte aligned and readable up to the next
 * multiple of 8; `to` need not be aligned. Under TSAN every word is an acquire. */
#if defined(__SANITIZE_THREAD__)
#define ANNAPY_WORD_LOAD __ATOMIC_ACQUIRE
#define ANNAPY_WORD_STORE __ATOMIC_RELEASE
#else
#define ANNAPY_WORD_LOAD __ATOMIC_RELAXED
#define ANNAPY_WORD_STORE __ATOMIC_RELAXED
#endif

/* The last n < 8 bytes of a run, without a call: pieces of 4, 2 and 1. */
static inline void annapy_tail_out(uint8_t *t, uint64_t w, size_t n) {
    if (n & 4) { uint32_t x = (uint32_t)w; memcpy(t, &x, 4); t += 4; w >>= 32; }
    if (n & 2) { uint16_t x = (uint16_t)w; memcpy(t, &x, 2); t += 2; w >>= 16; }
    if (n & 1) *t = (uint8_t)w;
}

static inline uint64_t annapy_tail_in(const uint8_t *f, size_t n) {
    uint64_t w = 0;
    unsigned shift = 0;
    if (n & 4) { uint32_t x; memcpy(&x, f, 4); w = x; f += 4; shift = 32; }
    if (n & 2) { uint16_t x; memcpy(&x, f, 2); w |= (uint64_t)x << shift; f += 2; shift += 16; }
    if (n & 1) w |= (uint64_t)*f << shift;
    return w;
}

static inline void annapy_words_out(void *to, const void *from, size_t n) {
    const uint64_t *f = (const uint64_t *)from;
    uint8_t *t = (uint8_t *)to;
    for (; n >= 32; n -= 32, t += 32, f += 4) {
        uint64_t w[4];
        w[0] = __atomic_load_n(f, ANNAPY_WORD_LOAD);
        w[1] = __atomic_load_n(f + 1, ANNAPY_WORD_LOAD);
        w[2] = __atomic_load_n(f + 2, ANNAPY_WORD_LOAD);
        w[3] = __atomic_load_n(f + 3, ANNAPY_WORD_LOAD);
        memcpy(t, w, 32);
    }
    for (; n >= 8; n -= 8, t += 8, f++) {
        uint64_t w = __atomic_load_n(f, ANNAPY_WORD_LOAD);
        memcpy(t, &w, 8);
    }
    if (n) {
        uint64_t w = __atomic_load_n(f, ANNAPY_WORD_LOAD);
        annapy_tail_out(t, w, n);
    }
}

/* As words_out, from any byte of shared memory: aligned words are loaded and shifted together. */
static inline void annapy_bytes_out(void *to, const void *from, size_t n) {
    const uint64_t *f = (const uint64_t *)((uintptr_t)from & ~(uintptr_t)7);
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    uint8_t *t = (uint8_t *)to;
    uint64_t low, high, w;
    if (shift == 0) {
        annapy_words_out(to, from, n);
        return;
    }
    low = __atomic_load_n(f++, ANNAPY_WORD_LOAD);
    for (; n >= 8; n -= 8, t += 8, f++) {
        high = __atomic_load_n(f, ANNAPY_WORD_LOAD);
        w = low >> shift | high << (64 - shift);
        memcpy(t, &w, 8);
        low = high;
    }
    if (n) {
        w = low >> shift;
        if (n > 8 - shift / 8) w |= __atomic_load_n(f, ANNAPY_WORD_LOAD) << (64 - shift);
        annapy_tail_out(t, w, n);
    }
}

/* From private memory to shared memory; `to` is 8-byte aligned, the last word is zero-padded. */
static inline void annapy_words_in(void *to, const void *from, size_t n) {
    uint64_t *t = (uint64_t *)to;
    const uint8_t *f = (const uint8_t *)from;
    for (; n >= 32; n -= 32, f += 32, t += 4) {
        uint64_t w[4];
        memcpy(w, f, 32);
        __atomic_store_n(t, w[0], ANNAPY_WORD_STORE);
        __atomic_store_n(t + 1, w[1], ANNAPY_WORD_STORE);
        __atomic_store_n(t + 2, w[2], ANNAPY_WORD_STORE);
        __atomic_store_n(t + 3, w[3], ANNAPY_WORD_STORE);
    }
    for (; n >= 8; n -= 8, f += 8, t++) {
        uint64_t w;
        memcpy(&w, f, 8);
        __atomic_store_n(t, w, ANNAPY_WORD_STORE);
    }
    if (n) __atomic_store_n(t, annapy_tail_in(f, n), ANNAPY_WORD_STORE);
}

/* Whether shared bytes equal private ones, read word by word as above. */
static inline int annapy_words_equal(const void *shared, const void *mine, size_t n) {
    const uint64_t *f = (const uint64_t *)shared;
    const uint8_t *m = (const uint8_t *)mine;
    for (; n >= 8; n -= 8, m += 8, f++) {
        uint64_t w;
        memcpy(&w, m, 8);
        if (__atomic_load_n(f, ANNAPY_WORD_LOAD) != w) return 0;
    }
    if (n) {
        uint64_t w = __atomic_load_n(f, ANNAPY_WORD_LOAD);
        return ((w ^ annapy_tail_in(m, n)) << (64 - 8 * n)) == 0;
    }
    return 1;
}

#endif
