# cython: language_level=3
"""The only place that names memory orders.

    load_relaxed    statistics, hints
    load_acquire    what was published by a release: slot words, versions, cursors of a ring
    store_release   publishing: everything written before is seen by whoever acquires it
    cas, exchange   taking and giving back ownership (acquire and release)
    fence_seq       store, then look at another word (a sleeping owner, a retaken shard)
    words_*         payload bytes that a reader may see being rewritten
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t load_relaxed "annapy_load_relaxed"(const uint64_t* p) noexcept
    uint64_t load_acquire "annapy_load_acquire"(const uint64_t* p) noexcept
    uint64_t load_seq "annapy_load_seq"(const uint64_t* p) noexcept
    void store_relaxed "annapy_store_relaxed"(uint64_t* p, uint64_t x) noexcept
    void store_release "annapy_store_release"(uint64_t* p, uint64_t x) noexcept
    void store_seq "annapy_store_seq"(uint64_t* p, uint64_t x) noexcept
    uint64_t fetch_add "annapy_fetch_add"(uint64_t* p, uint64_t x) noexcept
    uint64_t exchange "annapy_exchange"(uint64_t* p, uint64_t x) noexcept
    bint cas64 "annapy_cas64"(uint64_t* p, uint64_t old, uint64_t new) noexcept

    uint32_t load32_relaxed "annapy_load_relaxed"(const uint32_t* p) noexcept
    uint32_t load32_acquire "annapy_load_acquire"(const uint32_t* p) noexcept
    void store32_relaxed "annapy_store_relaxed"(uint32_t* p, uint32_t x) noexcept
    void store32_release "annapy_store_release"(uint32_t* p, uint32_t x) noexcept
    uint32_t fetch_add32 "annapy_fetch_add"(uint32_t* p, uint32_t x) noexcept
    bint cas32 "annapy_cas32"(uint32_t* p, uint32_t old, uint32_t new) noexcept

    void fence_acquire "annapy_fence_acquire"() noexcept
    void fence_release "annapy_fence_release"() noexcept
    void fence_seq "annapy_fence_seq"() noexcept
    void prefetch "annapy_prefetch"(const void* p) noexcept
    void cpu_pause "annapy_pause"() noexcept

    void words_out "annapy_words_out"(void* to, const void* shared, size_t n) noexcept
    void bytes_out "annapy_bytes_out"(void* to, const void* shared, size_t n) noexcept
    void words_in "annapy_words_in"(void* shared, const void* source, size_t n) noexcept
    bint words_equal "annapy_words_equal"(const void* shared, const void* mine, size_t n) noexcept
