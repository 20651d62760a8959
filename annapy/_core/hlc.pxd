# cython: language_level=3
"""Hybrid logical time: 48-bit milliseconds since 1970, then 16 bits that count within one.

Threads any; `clock` is one word that a whole store shares, and only grows.

Invariants
    a stamp is greater than every stamp minted or observed before it on the same `clock`
    the wall clock stepping back never makes a stamp smaller, only the logical part run on
"""
from libc.stdint cimport uint64_t

cdef uint64_t clock_ms() noexcept nogil
# The wall clock, coarse (a few milliseconds) where that is cheaper.
cdef uint64_t clock_stamp(uint64_t* clock) noexcept nogil
# A fresh time, greater than all before it.
cdef void clock_observe(uint64_t* clock, uint64_t seen) noexcept nogil
cdef void clock_sleep_ns(long ns) noexcept nogil
