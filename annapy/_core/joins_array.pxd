# cython: language_level=3
"""The array header, and the two lattices over arrays: MaxArray, SumArray.

    offset  size
    0       1     dtype code   as DLPack numbers them: int 0, uint 1, float 2, bfloat 4, ...
    1       1     bits         of one element, a multiple of 8
    2       2     lanes        1
    4       1     ndim         <= 32
    5       3     zero
    8       8n    shape        i64 each, >= 0
    8+8n    ..    data         C-contiguous, little-endian

Invariants
    the header's size is a multiple of 8, so data that follows it keeps the header's alignment
    count * itemsize == nbytes <= ARRAY_BYTES_MAX, also when a dimension is zero (count == 0)
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport CORRUPT, OK, Buf, Cursor, Span, cur_left, load_u16, load_u64

cdef enum:
    ARRAY_NDIM_MAX = 32
    ARRAY_HEADER_MIN = 8

cdef enum:
    ARRAY_BYTES_MAX = 0x40000000  # 1 GiB

cdef enum Dtype:              # DLPack's codes; the narrow floats are 7..14, all of 8 bits
    DT_INT = 0
    DT_UINT = 1
    DT_FLOAT = 2
    DT_BFLOAT = 4
    DT_COMPLEX = 5
    DT_BOOL = 6
    DT_FLOAT8_FIRST = 7
    DT_FLOAT8_LAST = 14

cdef struct Array:            # a parsed array; everything is borrowed from the input
    uint8_t code
    uint8_t bits
    uint8_t ndim
    size_t itemsize
    size_t count              # elements
    size_t nbytes             # of data
    Span header               # the header's bytes, shape included
    const uint8_t* data


cdef inline bint dtype_known(uint8_t code, uint8_t bits) noexcept nogil:
    if code == DT_INT or code == DT_UINT:
        return bits == 8 or bits == 16 or bits == 32 or bits == 64
    if code == DT_FLOAT:
        return bits == 16 or bits == 32 or bits == 64
    if code == DT_BFLOAT:
        return bits == 16
    if code == DT_COMPLEX:
        return bits == 64 or bits == 128
    if code == DT_BOOL or DT_FLOAT8_FIRST <= code <= DT_FLOAT8_LAST:
        return bits == 8
    return False


cdef inline int64_t array_dim(const Array* a, int i) noexcept nogil:
    return <int64_t>load_u64(a.header.ptr + 8 + 8 * i)


cdef inline int array_header_parse(Cursor* c, Array* a) noexcept nogil:
    """Header only; leaves the cursor where the data starts. OK or CORRUPT."""
    cdef const uint8_t* p = c.at
    cdef uint64_t room, dim, count = 1
    cdef bint empty = False
    cdef int i
    if cur_left(c) < 8:
        return CORRUPT
    a.code = p[0]
    a.bits = p[1]
    a.ndim = p[4]
    if load_u16(p + 2) != 1 or p[5] or p[6] or p[7] or a.ndim > ARRAY_NDIM_MAX:
        return CORRUPT
    if not dtype_known(a.code, a.bits) or cur_left(c) < 8 + 8 * <size_t>a.ndim:
        return CORRUPT
    a.itemsize = a.bits >> 3
    # Dimensions beside a zero are bounded like the others: no reader has to fear a product.
    room = (<uint64_t>1 << 62) / a.itemsize
    for i in range(a.ndim):
        dim = load_u64(p + 8 + 8 * i)
        if dim == 0:
            empty = True
            continue
        if dim > room:
            return CORRUPT
        room /= dim
        count *= dim
    a.count = 0 if empty else <size_t>count
    if a.count > <size_t>ARRAY_BYTES_MAX / a.itemsize:
        return CORRUPT
    a.nbytes = a.count * a.itemsize
    a.header.ptr = p
    a.header.len = 8 + 8 * <size_t>a.ndim
    c.at += a.header.len
    a.data = c.at
    return OK


cdef inline int array_parse(Cursor* c, Array* a) noexcept nogil:
    """Header and data, which may be followed by other bytes. OK or CORRUPT."""
    if array_header_parse(c, a) != OK or cur_left(c) < a.nbytes:
        return CORRUPT
    c.at += a.nbytes
    return OK


cdef inline void array_header_store(uint8_t* p, uint8_t code, uint8_t bits, int ndim,
                                    const int64_t* shape) noexcept nogil:
    """Writes 8 + 8 * ndim bytes."""
    cdef uint16_t lanes = 1
    p[0] = code
    p[1] = bits
    memcpy(p + 2, &lanes, 2)
    p[4] = <uint8_t>ndim
    p[5] = 0
    p[6] = 0
    p[7] = 0
    if ndim:
        memcpy(p + 8, shape, 8 * <size_t>ndim)


cdef int sumarray_total(Span state, Buf* out) noexcept nogil
# Appends the value of a verified SumArray: the header, then the sum of all contributions. Nothing
# for the bottom. OVERFLOWED: integers that only together leave their dtype.
