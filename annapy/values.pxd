# cython: language_level=3
"""Python values as bytes, for the extension modules; values.pyx has the encodings."""
from libc.stdint cimport uint8_t

from annapy._core.codec cimport Buf, Span

cdef enum:
    DEPTH_MAX = 64               # containers within containers

cdef enum:
    VALUE_SIZE_MAX = 0x40000000  # 1 GiB

cdef enum Code:
    V_NONE = 0x01
    V_FALSE = 0x02
    V_TRUE = 0x03
    V_INT8 = 0x04                # + 1, 2, 4, 8 bytes
    V_INT16 = 0x05
    V_INT32 = 0x06
    V_INT64 = 0x07
    V_BIGINT = 0x08              # counted
    V_FLOAT = 0x09
    V_COMPLEX = 0x0A
    V_STR = 0x10                 # counted
    V_BYTES = 0x11
    V_BYTEARRAY = 0x12
    V_TUPLE = 0x18               # varint count, items
    V_LIST = 0x19
    V_DICT = 0x1A
    V_SET = 0x1B
    V_FROZENSET = 0x1C
    V_DATE = 0x20
    V_DATETIME = 0x21
    V_TIME = 0x22
    V_TIMEDELTA = 0x23
    V_UUID = 0x24
    V_DECIMAL = 0x25
    V_ARRAY = 0x30               # 3 zero bytes, array header, data
    V_SCALAR = 0x31              # a NumPy scalar: the same with ndim 0
    V_PICKLE = 0x40              # counted

cdef enum:
    V_ARRAY_HEAD = 4             # code and zeros before the array header

cdef int encode_value(object x, Buf* out, bint allow_pickle) except -1
# Appends; on an exception `out` is as long as before.
cdef object decode_value(const uint8_t* p, size_t n, bint allow_pickle)
# The whole of p[0:n]; whatever it returns owns its memory.
cdef int encode_member(object x, Buf* out) except -1
cdef object decode_member(const uint8_t* p, size_t n)

cdef inline bint value_is_array(const uint8_t* p, size_t n) noexcept nogil:
    """Header and data then start at p + V_ARRAY_HEAD: what a view is made over."""
    return n > V_ARRAY_HEAD and p[0] == V_ARRAY
