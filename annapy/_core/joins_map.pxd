# cython: language_level=3
"""Map and ORMap register themselves; the layouts are in joins_map.pyx and joins_ormap.pyx.

Here is what both need of a nested operation.
"""
from libc.stdint cimport uint8_t

from annapy._core.codec cimport Buf, Span
from annapy._core.registry cimport LatticeType, Op

cdef int update_parse(const Op* op, Span* field, Op* nested) noexcept nogil
# OP_UPDATE's argument: counted field, u8 nested tag, u8 nested opcode, nested argument.

cdef int nested_delta(const LatticeType* lattice, Span old, const Op* nested,
                      Buf* out) noexcept nogil
# The delta of a nested operation on a whole nested state; OP_MERGE's is the state in its cell.
