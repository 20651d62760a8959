# cython: language_level=3
"""Hashes and checksums over bytes: key hash (seeded), content hash (fixed), CRC32C.

Owns    nothing at run time but a one-time probe for the CRC instruction.
Note    hash64 with seed 0 is part of the format (HyperLogLog registers depend on it) and never
        changes; with a random seed it spreads keys over shards and buckets.
Source  folded 64x64->128-bit multiplication as in wyhash (Wang Yi); CRC32C: Castagnoli 1993,
        RFC 3720.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "hashing.h" nogil:
    uint64_t hash64 "annapy_hash64"(const void* p, size_t n, uint64_t seed) noexcept
    uint32_t crc32c "annapy_crc32c"(uint32_t crc, const void* p, size_t n) noexcept
