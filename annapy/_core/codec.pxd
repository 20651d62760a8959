# cython: language_level=3
"""Bytes in, bytes out: the one growable writer and the one bounded reader of the core.

Owns    Span (borrowed bytes), Buf (growable output), Cursor (bounded input), varints, little-endian
        loads and stores, and the status codes that every nogil function returns.
Threads none of its own; a Buf or a Cursor belongs to the thread that holds it.

Invariants
    cursor.at <= cursor.end                       a Cursor never reads past its input
    buf.len <= buf.cap                            a Buf never writes past its memory
    buf.status != OK  =>  buf.ptr[0:len] is void  failure is sticky; callers test it at the end
    a varint is minimal                           a longer spelling of the same number is CORRUPT
    nothing here allocates from a length that foreign bytes claim, only from bytes that are there
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
    #error "annapy's cell format is little-endian; this machine is not"
    #endif
    #define annapy_likely(x) __builtin_expect(!!(x), 1)
    #define annapy_unlikely(x) __builtin_expect(!!(x), 0)
    """
    bint likely "annapy_likely"(bint) noexcept nogil
    bint unlikely "annapy_unlikely"(bint) noexcept nogil


# What a nogil function returns. Zero is success; every failure is negative.
cdef enum Status:
    OK = 0
    CORRUPT = -1      # foreign bytes are not a canonical encoding        CorruptCellError
    NO_MEMORY = -2    # malloc or the arena is exhausted                  CapacityError
    OVERFLOWED = -3   # a 64-bit integer would overflow                   OverflowError
    WRONG_TYPE = -4   # the cell holds another lattice                    LatticeTypeError
    OVER_LIMIT = -5   # past a documented limit                           ValueError
    NOT_A_NUMBER = -6 # NaN where order matters                           ValueError
    WRONG_SHAPE = -7  # array of another shape or dtype                   ValueError
    BAD_OPERATION = -8  # an opcode that this lattice does not have       TypeError
    MISSING = -9      # no such key, field or member                      KeyError
    BUSY = -10        # a bounded wait ran out                            TimeoutError
    SUPERSEDED = -11  # a later stamp is already there; nothing changed
    COLD = -12        # the key may be on disk: look there, then ask again


cdef struct Span:          # borrowed bytes
    const uint8_t* ptr
    size_t len


cdef struct Buf:           # growable output, owned by whoever called buf_init
    uint8_t* ptr
    size_t len
    size_t cap
    int status


cdef struct Cursor:        # bounded input
    const uint8_t* at
    const uint8_t* end


# --- loads and stores -----------------------------------------------------------------------

cdef inline uint16_t load_u16(const uint8_t* p) noexcept nogil:
    cdef uint16_t x
    memcpy(&x, p, 2)
    return x

cdef inline uint32_t load_u32(const uint8_t* p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, 4)
    return x

cdef inline uint64_t load_u64(const uint8_t* p) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, p, 8)
    return x

cdef inline double load_f64(const uint8_t* p) noexcept nogil:
    cdef double x
    memcpy(&x, p, 8)
    return x

cdef inline void store_u16(uint8_t* p, uint16_t x) noexcept nogil:
    memcpy(p, &x, 2)

cdef inline void store_u32(uint8_t* p, uint32_t x) noexcept nogil:
    memcpy(p, &x, 4)

cdef inline void store_u64(uint8_t* p, uint64_t x) noexcept nogil:
    memcpy(p, &x, 8)

cdef inline void store_f64(uint8_t* p, double x) noexcept nogil:
    memcpy(p, &x, 8)


# --- spans ----------------------------------------------------------------------------------

cdef inline Span span(const void* p, size_t n) noexcept nogil:
    cdef Span s
    s.ptr = <const uint8_t*>p
    s.len = n
    return s

cdef inline int span_compare(Span a, Span b) noexcept nogil:
    """memcmp order, the shorter first on a common prefix."""
    cdef size_t n = a.len if a.len < b.len else b.len
    cdef int c = memcmp(a.ptr, b.ptr, n) if n else 0
    if c:
        return -1 if c < 0 else 1
    if a.len == b.len:
        return 0
    return -1 if a.len < b.len else 1

cdef inline bint span_equal(Span a, Span b) noexcept nogil:
    return a.len == b.len and (a.len == 0 or memcmp(a.ptr, b.ptr, a.len) == 0)

cdef inline Span span_of_bytes(bytes b):
    """Borrowed: valid while the caller holds `b`."""
    return span(<const char*>b, len(b))


# --- the writer -----------------------------------------------------------------------------

cdef inline void buf_init(Buf* b) noexcept nogil:
    b.ptr = NULL
    b.len = 0
    b.cap = 0
    b.status = OK

cdef inline void buf_free(Buf* b) noexcept nogil:
    free(b.ptr)
    b.ptr = NULL
    b.len = 0
    b.cap = 0

cdef inline void buf_clear(Buf* b) noexcept nogil:
    """Forget the contents, keep the memory."""
    b.len = 0
    b.status = OK

cdef inline void buf_fail(Buf* b, int status) noexcept nogil:
    if b.status == OK:
        b.status = status

cdef inline int buf_grow(Buf* b, size_t more) noexcept nogil:
    cdef size_t cap = b.cap * 2 if b.cap else 256
    cdef uint8_t* p
    if more > (<size_t>1 << 62) or b.len > (<size_t>1 << 62):
        buf_fail(b, NO_MEMORY)
        return -1
    while cap < b.len + more:
        cap *= 2
    p = <uint8_t*>realloc(b.ptr, cap)
    if p == NULL:
        buf_fail(b, NO_MEMORY)
        return -1
    b.ptr = p
    b.cap = cap
    return 0

cdef inline uint8_t* buf_reserve(Buf* b, size_t n) noexcept nogil:
    """Room for `n` more bytes: where to write them (the caller then adds to len), or NULL."""
    if unlikely(b.status != OK):
        return NULL
    if unlikely(b.cap - b.len < n) and buf_grow(b, n) < 0:
        return NULL
    return b.ptr + b.len

cdef inline void buf_put(Buf* b, const void* p, size_t n) noexcept nogil:
    cdef uint8_t* to = buf_reserve(b, n)
    if to != NULL and n:
        memcpy(to, p, n)
        b.len += n

cdef inline void buf_span(Buf* b, Span s) noexcept nogil:
    buf_put(b, s.ptr, s.len)

cdef inline void buf_u8(Buf* b, uint8_t x) noexcept nogil:
    cdef uint8_t* to = buf_reserve(b, 1)
    if to != NULL:
        to[0] = x
        b.len += 1

cdef inline void buf_u16(Buf* b, uint16_t x) noexcept nogil:
    buf_put(b, &x, 2)

cdef inline void buf_u32(Buf* b, uint32_t x) noexcept nogil:
    buf_put(b, &x, 4)

cdef inline void buf_u64(Buf* b, uint64_t x) noexcept nogil:
    buf_put(b, &x, 8)

cdef inline void buf_f64(Buf* b, double x) noexcept nogil:
    buf_put(b, &x, 8)

cdef inline size_t varint_size(uint64_t x) noexcept nogil:
    cdef size_t n = 1
    while x >= 0x80:
        x >>= 7
        n += 1
    return n

cdef inline uint8_t* varint_store(uint8_t* p, uint64_t x) noexcept nogil:
    """LEB128, least significant group first; returns where the next byte goes."""
    while x >= 0x80:
        p[0] = <uint8_t>(x | 0x80)
        p += 1
        x >>= 7
    p[0] = <uint8_t>x
    return p + 1

cdef inline void buf_varint(Buf* b, uint64_t x) noexcept nogil:
    cdef uint8_t* to = buf_reserve(b, 10)
    if to != NULL:
        b.len += <size_t>(varint_store(to, x) - to)

cdef inline void buf_counted(Buf* b, Span s) noexcept nogil:
    """varint length, then the bytes."""
    buf_varint(b, s.len)
    buf_span(b, s)


# --- the reader -----------------------------------------------------------------------------
# Every reader returns OK or CORRUPT and leaves its result in the last argument.

cdef inline Cursor cursor(Span s) noexcept nogil:
    cdef Cursor c
    c.at = s.ptr
    c.end = s.ptr + s.len
    return c

cdef inline size_t cur_left(const Cursor* c) noexcept nogil:
    return <size_t>(c.end - c.at)

cdef inline int cur_u8(Cursor* c, uint8_t* x) noexcept nogil:
    if c.at == c.end:
        return CORRUPT
    x[0] = c.at[0]
    c.at += 1
    return OK

cdef inline int cur_u16(Cursor* c, uint16_t* x) noexcept nogil:
    if cur_left(c) < 2:
        return CORRUPT
    x[0] = load_u16(c.at)
    c.at += 2
    return OK

cdef inline int cur_u32(Cursor* c, uint32_t* x) noexcept nogil:
    if cur_left(c) < 4:
        return CORRUPT
    x[0] = load_u32(c.at)
    c.at += 4
    return OK

cdef inline int cur_u64(Cursor* c, uint64_t* x) noexcept nogil:
    if cur_left(c) < 8:
        return CORRUPT
    x[0] = load_u64(c.at)
    c.at += 8
    return OK

cdef inline int cur_varint(Cursor* c, uint64_t* x) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint8_t byte
    cdef int shift = 0
    if likely(c.at < c.end and c.at[0] < 0x80):
        x[0] = c.at[0]
        c.at += 1
        return OK
    while c.at < c.end:
        byte = c.at[0]
        c.at += 1
        if shift == 63 and byte > 1:
            return CORRUPT
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                return CORRUPT          # not minimal
            x[0] = value
            return OK
        shift += 7
        if shift > 63:
            return CORRUPT
    return CORRUPT

cdef inline int cur_take(Cursor* c, uint64_t n, Span* s) noexcept nogil:
    """The next `n` bytes, borrowed."""
    if n > cur_left(c):
        return CORRUPT
    s.ptr = c.at
    s.len = <size_t>n
    c.at += n
    return OK

cdef inline int cur_counted(Cursor* c, Span* s) noexcept nogil:
    """varint length, then that many bytes, borrowed."""
    cdef uint64_t n = 0
    if cur_varint(c, &n) != OK:
        return CORRUPT
    return cur_take(c, n, s)

cdef inline Span cur_rest(Cursor* c) noexcept nogil:
    cdef Span s = span(c.at, cur_left(c))
    c.at = c.end
    return s
