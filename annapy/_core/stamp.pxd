# cython: language_level=3
"""The stamp: what orders registers, deadlines and generations.

Owns    its layout and its total order. 20 bytes, little-endian, no padding:

    offset  size
    0       8     hlc      48-bit milliseconds since 1970 << 16 | 16-bit logical
    8       8     actor    node id << 20 | incarnation, or a hash of a name
    16      4     client   client incarnation

Invariants
    the all-zero stamp means "never"; no operation carries it
    two operations never carry the same stamp unless they are one operation, posted again
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    STAMP_SIZE = 20

cdef packed struct Stamp:      # ordered by (hlc, actor, client)
    uint64_t hlc               # 48-bit milliseconds since 1970 << 16 | 16-bit logical
    uint64_t actor             # node id << 20 | incarnation, or a hash of a name
    uint32_t client            # client incarnation


cdef inline int stamp_compare(const Stamp* a, const Stamp* b) noexcept nogil:
    if a.hlc != b.hlc:
        return -1 if a.hlc < b.hlc else 1
    if a.actor != b.actor:
        return -1 if a.actor < b.actor else 1
    if a.client != b.client:
        return -1 if a.client < b.client else 1
    return 0

cdef inline bint stamp_is_zero(const Stamp* s) noexcept nogil:
    return s.hlc == 0 and s.actor == 0 and s.client == 0
