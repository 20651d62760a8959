# cython: language_level=3
"""Set members and map fields as bytes; members.pyx has the encodings."""
from libc.stdint cimport uint8_t

from annapy._core.codec cimport Buf

cdef int put_member(object x, Buf* out) except -1
# Appends; on an exception `out` is as long as before. TypeError: unhashable.
cdef object get_member(const uint8_t* p, size_t n)
# The whole of p[0:n].
