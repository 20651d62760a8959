# cython: language_level=3
"""MaxArray and SumArray: lattices over whole arrays.

Owns    their states: checks, joins, orders and deltas. Pure functions over bytes.

    maxarray   array header · data                                dtypes: all ints, float16/32/64
    sumarray   array header · (actor u64, version u64, data, zeros to a multiple of 8)*
                                              dtypes: int32/64, float32/64; actors ascend, not 0

Invariants
    the empty state is the bottom of both; equal states have equal bytes
    no float is NaN or -0; a contribution is finite, and its version is at least 1
    data starts at a multiple of 8 from the state's start
    the join of two shapes or dtypes is the one with the greater header: a lexicographic product of
        the chain of headers and the states below each, so the laws hold; an operation on another
        shape than the one that is there is refused with WRONG_SHAPE
    maxarray: the join is the maximum per element
    sumarray: the join takes, per actor, the higher version, and on a tie the greater bytes. Only
        the actor raises its version, so a tie differs only if two writers share an actor

A contribution is the running sum of everything that its actor added, and a delta carries the whole
of it: joining it twice, late or out of order changes nothing. The value is the sum of the
contributions in ascending order of actors, the same bits everywhere.

Source  Shapiro et al. 2011 (a counter is a vector of per-actor sums); Li et al. 2014, "Scaling
        distributed machine learning with the parameter server".
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from annapy._core.cell cimport TAG_MAXARRAY, TAG_SUMARRAY
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, NOT_A_NUMBER, OK, OVERFLOWED, WRONG_SHAPE, Buf, Cursor, Span, buf_free,
    buf_init, buf_put, buf_reserve, buf_span, buf_u64, cur_left, cursor, load_u64, span,
    span_compare, span_equal, span_of_bytes, store_u64,
)
from annapy._core.registry cimport (
    OP_ADD, OP_OBSERVE, LatticeType, Op, lattice_register,
)

cdef extern from "joins_array.h" nogil:
    void elements_max "annapy_array_max"(int code, int bits, uint8_t* out, const uint8_t* a,
                                         const uint8_t* b, size_t n) noexcept
    bint elements_below "annapy_array_below"(int code, int bits, const uint8_t* a,
                                             const uint8_t* b, size_t n) noexcept
    int elements_tidy "annapy_array_tidy"(int code, int bits, uint8_t* out, const uint8_t* a,
                                          size_t n) noexcept
    int elements_untidy "annapy_array_untidy"(int code, int bits, const uint8_t* a,
                                              size_t n) noexcept
    bint elements_add "annapy_array_add"(int code, int bits, uint8_t* sum, const uint8_t* a,
                                         size_t n) noexcept
    bint integers_total "annapy_array_total"(int bits, uint8_t* out, const uint8_t* first,
                                             size_t entries, size_t stride, const uint8_t* skip,
                                             const uint8_t* instead, size_t n) noexcept

cdef enum:
    ENTRY_HEAD = 16           # actor, version
    HAS_NAN = 1               # what elements_tidy and elements_untidy report
    HAS_INFINITY = 2
    HAS_MINUS_ZERO = 4


cdef inline bint max_takes(const Array* a) noexcept nogil:
    return a.code == DT_INT or a.code == DT_UINT or a.code == DT_FLOAT

cdef inline bint sum_takes(const Array* a) noexcept nogil:
    return (a.code == DT_INT or a.code == DT_FLOAT) and a.bits >= 32

cdef inline int whole_array(Span s, Array* a) noexcept nogil:
    """`s` is exactly one array. OK or CORRUPT."""
    cdef Cursor c = cursor(s)
    if array_parse(&c, a) != OK or cur_left(&c):
        return CORRUPT
    return OK

cdef inline Span header_of(Span state) noexcept nogil:
    """Of a verified state."""
    return span(state.ptr, 8 + 8 * <size_t>state.ptr[4])

cdef inline int by_header(Span a, Span b) noexcept nogil:
    """Which side wins whole: < 0 b, > 0 a, 0 neither. The empty state has the least header."""
    if a.len == 0 or b.len == 0:
        return (a.len != 0) - (b.len != 0)
    return span_compare(header_of(a), header_of(b))

cdef bint array_is_empty(Span state) noexcept nogil:
    return state.len == 0


# --- MaxArray ---------------------------------------------------------------------------------

cdef int max_verify(Span state, int depth) noexcept nogil:
    cdef Array a
    if state.len == 0:
        return OK
    if whole_array(state, &a) != OK or not max_takes(&a):
        return CORRUPT
    if elements_untidy(a.code, a.bits, a.data, a.count) & (HAS_NAN | HAS_MINUS_ZERO):
        return CORRUPT
    return OK


cdef int max_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Array x, y
    cdef uint8_t* to
    cdef int c = by_header(a, b)
    if c or a.len == 0:
        buf_span(out, a if c > 0 else b)
        return out.status
    if whole_array(a, &x) != OK or whole_array(b, &y) != OK:
        return CORRUPT
    to = buf_reserve(out, a.len)
    if to == NULL:
        return out.status
    memcpy(to, x.header.ptr, x.header.len)
    elements_max(x.code, x.bits, to + x.header.len, x.data, y.data, x.count)
    out.len += a.len
    return OK


cdef int max_order(Span a, Span b, int* order) noexcept nogil:
    cdef Array x, y
    cdef int c = by_header(a, b)
    if c or a.len == 0:
        order[0] = (c <= 0) | (c >= 0) << 1
        return OK
    if whole_array(a, &x) != OK or whole_array(b, &y) != OK:
        return CORRUPT
    order[0] = (elements_below(x.code, x.bits, x.data, y.data, x.count)
                | elements_below(x.code, x.bits, y.data, x.data, x.count) << 1)
    return OK


cdef int max_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_OBSERVE of an array. The bottom if nothing rises."""
    cdef Array x
    cdef uint8_t* to
    if op.code != OP_OBSERVE or whole_array(op.arg, &x) != OK or not max_takes(&x):
        return BAD_OPERATION
    if old.len and not span_equal(header_of(old), x.header):
        return WRONG_SHAPE
    to = buf_reserve(delta, op.arg.len)
    if to == NULL:
        return delta.status
    memcpy(to, x.header.ptr, x.header.len)
    to += x.header.len
    if elements_tidy(x.code, x.bits, to, x.data, x.count) & HAS_NAN:
        return NOT_A_NUMBER
    if old.len and elements_below(x.code, x.bits, to, old.ptr + x.header.len, x.count):
        return OK
    delta.len += op.arg.len
    return OK


# --- SumArray ---------------------------------------------------------------------------------

cdef inline size_t stride_of(const Array* a) noexcept nogil:
    return ENTRY_HEAD + ((a.nbytes + 7) & ~<size_t>7)

cdef inline int sum_open(Span state, Array* a, Cursor* entries) noexcept nogil:
    """The header of a state that is not empty, and a cursor at its first entry."""
    entries[0] = cursor(state)
    return array_header_parse(entries, a)


cdef int sum_verify(Span state, int depth) noexcept nogil:
    cdef Array a
    cdef Cursor c
    cdef size_t stride, i
    cdef uint64_t last = 0
    if state.len == 0:
        return OK
    if sum_open(state, &a, &c) != OK or not sum_takes(&a):
        return CORRUPT
    stride = stride_of(&a)
    if c.at == c.end or cur_left(&c) % stride:
        return CORRUPT
    while c.at < c.end:
        if load_u64(c.at) <= last or load_u64(c.at + 8) == 0:
            return CORRUPT
        last = load_u64(c.at)
        if elements_untidy(a.code, a.bits, c.at + ENTRY_HEAD, a.count):
            return CORRUPT
        for i in range(ENTRY_HEAD + a.nbytes, stride):
            if c.at[i]:
                return CORRUPT
        c.at += stride
    return OK


cdef inline int entry_compare(const uint8_t* p, const uint8_t* q, size_t stride) noexcept nogil:
    """Two entries of one actor: by version, then by bytes."""
    cdef uint64_t x = load_u64(p + 8)
    cdef uint64_t y = load_u64(q + 8)
    if x != y:
        return -1 if x < y else 1
    return memcmp(p + ENTRY_HEAD, q + ENTRY_HEAD, stride - ENTRY_HEAD)


cdef int sum_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Array x, y
    cdef Cursor p, q
    cdef size_t stride
    cdef uint64_t i, j
    cdef int c = by_header(a, b)
    if c or a.len == 0:
        buf_span(out, a if c > 0 else b)
        return out.status
    if sum_open(a, &x, &p) != OK or sum_open(b, &y, &q) != OK:
        return CORRUPT
    stride = stride_of(&x)
    buf_reserve(out, a.len + b.len)
    buf_span(out, x.header)
    while p.at < p.end and q.at < q.end:
        i = load_u64(p.at)
        j = load_u64(q.at)
        if i < j:
            buf_put(out, p.at, stride)
        elif j < i:
            buf_put(out, q.at, stride)
        else:
            buf_put(out, p.at if entry_compare(p.at, q.at, stride) >= 0 else q.at, stride)
        if i <= j:
            p.at += stride
        if j <= i:
            q.at += stride
    buf_put(out, p.at, cur_left(&p))
    buf_put(out, q.at, cur_left(&q))
    return out.status


cdef bint sum_below(Cursor p, Cursor q, size_t stride) noexcept nogil:
    while p.at < p.end:
        while q.at < q.end and load_u64(q.at) < load_u64(p.at):
            q.at += stride
        if q.at == q.end or load_u64(q.at) != load_u64(p.at):
            return False
        if entry_compare(p.at, q.at, stride) > 0:
            return False
        p.at += stride
    return True


cdef int sum_order(Span a, Span b, int* order) noexcept nogil:
    cdef Array x, y
    cdef Cursor p, q
    cdef int c = by_header(a, b)
    if c or a.len == 0:
        order[0] = (c <= 0) | (c >= 0) << 1
        return OK
    if sum_open(a, &x, &p) != OK or sum_open(b, &y, &q) != OK:
        return CORRUPT
    order[0] = sum_below(p, q, stride_of(&x)) | sum_below(q, p, stride_of(&x)) << 1
    return OK


cdef const uint8_t* sum_find(Cursor entries, uint64_t actor, size_t stride) noexcept nogil:
    """The actor's entry, or NULL."""
    while entries.at < entries.end:
        if load_u64(entries.at) == actor:
            return entries.at
        entries.at += stride
    return NULL


cdef int sum_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_ADD of an array: the actor's contribution, raised, one version later."""
    cdef Array x, y
    cdef Cursor entries = cursor(old)
    cdef const uint8_t* mine = NULL
    cdef uint8_t* to
    cdef size_t stride, size
    if op.code != OP_ADD or op.actor == 0 or whole_array(op.arg, &x) != OK or not sum_takes(&x):
        return BAD_OPERATION
    stride = stride_of(&x)
    if old.len:
        if sum_open(old, &y, &entries) != OK:
            return CORRUPT
        if not span_equal(y.header, x.header):
            return WRONG_SHAPE
        mine = sum_find(entries, op.actor, stride)
    size = x.header.len + stride
    to = buf_reserve(delta, size)
    if to == NULL:
        return delta.status
    memcpy(to, x.header.ptr, x.header.len)
    to += x.header.len
    memset(to + stride - 8, 0, 8)                     # the padding is within the last 8 bytes
    store_u64(to, op.actor)
    store_u64(to + 8, 1)
    if elements_tidy(x.code, x.bits, to + ENTRY_HEAD, x.data, x.count):
        return NOT_A_NUMBER
    if mine != NULL:
        store_u64(to + 8, load_u64(mine + 8) + 1)
        if load_u64(to + 8) == 0:
            return OVERFLOWED
        if elements_add(x.code, x.bits, to + ENTRY_HEAD, mine + ENTRY_HEAD, x.count):
            return OVERFLOWED
    if x.code == DT_INT and old.len and integers_total(
        x.bits, NULL, entries.at + ENTRY_HEAD, cur_left(&entries) / stride, stride,
        mine + ENTRY_HEAD if mine != NULL else NULL, to + ENTRY_HEAD, x.count,
    ):
        return OVERFLOWED
    delta.len += size
    return OK


cdef int sumarray_total(Span state, Buf* out) noexcept nogil:
    cdef Array a
    cdef Cursor c
    cdef uint8_t* to
    cdef size_t stride
    if state.len == 0:
        return OK
    if sum_open(state, &a, &c) != OK:
        return CORRUPT
    stride = stride_of(&a)
    to = buf_reserve(out, a.header.len + a.nbytes)
    if to == NULL:
        return out.status
    memcpy(to, a.header.ptr, a.header.len)
    to += a.header.len
    if a.code == DT_INT:
        if integers_total(a.bits, to, c.at + ENTRY_HEAD, cur_left(&c) / stride, stride, NULL, NULL,
                          a.count):
            return OVERFLOWED
    elif a.nbytes:
        memcpy(to, c.at + ENTRY_HEAD, a.nbytes)
        c.at += stride
        while c.at < c.end:
            elements_add(a.code, a.bits, to, c.at + ENTRY_HEAD, a.count)
            c.at += stride
    out.len += a.header.len + a.nbytes
    return OK


# --- registration -----------------------------------------------------------------------------

cdef void declare() noexcept:
    cdef LatticeType t
    t.flags = 0
    t.is_empty = array_is_empty
    t.tag = TAG_MAXARRAY
    t.kind = b"maxarray"
    t.verify = max_verify
    t.join = max_join
    t.order = max_order
    t.mutate = max_mutate
    lattice_register(&t)
    t.tag = TAG_SUMARRAY
    t.kind = b"sumarray"
    t.verify = sum_verify
    t.join = sum_join
    t.order = sum_order
    t.mutate = sum_mutate
    lattice_register(&t)


declare()


# --- for the Python face ----------------------------------------------------------------------

def total(bytes state not None):
    """The value of a verified SumArray as header and data; b"" for the bottom."""
    cdef Buf out
    cdef Span s = span_of_bytes(state)
    cdef int status
    buf_init(&out)
    try:
        with nogil:
            status = sumarray_total(s, &out)
        if status == OVERFLOWED:
            raise OverflowError("the contributions of a sumarray add up past its dtype")
        if status != OK:
            raise MemoryError("no memory for the value of a sumarray")
        return (<char*>out.ptr)[:out.len]
    finally:
        buf_free(&out)


def contributions(bytes state not None):
    """{actor: version} of a verified SumArray."""
    cdef Span s = span_of_bytes(state)
    cdef Array a
    cdef Cursor c
    found = {}
    if s.len and sum_open(s, &a, &c) == OK:
        while c.at < c.end:
            found[load_u64(c.at)] = load_u64(c.at + 8)
            c.at += stride_of(&a)
    return found
