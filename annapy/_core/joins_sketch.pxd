# cython: language_level=3
"""HyperLogLog, for the engine; joins_sketch.pyx has the layout."""
from libc.stdint cimport uint64_t

from annapy._core.codec cimport Span

cdef uint64_t hll_estimate(Span state) noexcept nogil
# How many distinct members a verified state has seen, rounded; 0 for the bottom.
