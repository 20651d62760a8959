# cython: language_level=3
"""Arrays between Python and bytes, for the extension modules; _views.pyx has the rules."""
from libc.stdint cimport uint8_t

from annapy._core.codec cimport Buf
from annapy._core.joins_array cimport Array

cdef int put_buffer(object x, Buf* out) except -1
# Appends header and data of anything with the buffer protocol. 1, or SerializationError.
cdef int put_dlpack(object x, Buf* out) except -1
# The same for an object with __dlpack__ in the host's memory.
cdef object array_copy(const Array* a)
# A fresh, writable ndarray (or Tensor, for a dtype that NumPy lacks).
cdef object array_view(const uint8_t* p, size_t n, object owner)
# A read-only ndarray (or Tensor) over p[0:n] = header and data; keeps `owner` alive.
