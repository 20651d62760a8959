# cython: language_level=3
"""Lattices whose state is a number, a stamped value, or sorted columns of numbers per actor.

Owns    the states of MaxInt MinInt MaxFloat MinFloat Flag LWW Priority GCounter PNCounter
        VectorClock: their checks, joins, orders and deltas. Pure functions over bytes.

    maxint minint      i64
    maxfloat minfloat  f64, never NaN, never -0
    flag               one byte, 1
    lww                stamp (20 bytes, not zero) · encoded value; an empty value is the tombstone
    priority           f64 priority (never NaN, never -0) · encoded value, not empty
    gcounter, clock    (actor u64, n u64)*               actors ascend, n > 0
    pncounter          (actor u64, plus u64, minus u64)* actors ascend, not both 0

Invariants
    the empty state is the bottom of each; equal states have equal bytes
    join(a, b) of total orders is one of the two; of columns, the maximum per column
    a counter's value fits 64 signed bits whenever it was last changed here: an addition that
        would leave them fails before anything is minted (columns join to at most 2^64 - 1 each,
        so a join never fails, and readers add columns up without a limit)
Source  Shapiro et al. 2011, "A comprehensive study of convergent and commutative replicated data
        types" (counters, registers); Conway et al. 2012, "Logic and lattices for distributed
        programming" (maximum, minimum, flag).
"""
from libc.math cimport isnan
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove

from annapy._core.cell cimport (
    STAMP_SIZE, Stamp, stamp_compare, stamp_is_zero,
    TAG_CLOCK, TAG_FLAG, TAG_GCOUNTER, TAG_LWW, TAG_MAXFLOAT, TAG_MAXINT, TAG_MINFLOAT, TAG_MININT,
    TAG_PNCOUNTER, TAG_PRIORITY,
)
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, NOT_A_NUMBER, OK, OVERFLOWED, SUPERSEDED, Buf, Span, buf_f64, buf_put,
    buf_reserve, buf_span, buf_u8, buf_u64, load_f64, load_u64, span, span_compare, span_equal,
    store_u64,
)
from annapy._core.registry cimport (
    OP_ADD, OP_CLEAR, OP_ENABLE, OP_OBSERVE, OP_OFFER, OP_SET, LatticeType, Op, empty_fn, join_fn,
    lattice_register, mutate_fn, order_fn, verify_fn,
)

cdef extern from *:
    """
    typedef __int128 annapy_int128;
    """
    ctypedef long long int128 "annapy_int128"

cdef enum:
    PAIR = 16
    TRIPLE = 24
    SPLIT_MIN = 64 * TRIPLE     # bytes of either side below which one merge is enough


# --- total orders: the join is the greater one ------------------------------------------------
# A chain's join and order follow from its comparison alone. Empty is below everything.

ctypedef int (*compare_fn)(Span a, Span b) noexcept nogil


cdef inline int chain_compare(Span a, Span b, compare_fn compare) noexcept nogil:
    if a.len == 0 or b.len == 0:
        return (a.len != 0) - (b.len != 0)
    return compare(a, b)


cdef inline int chain_join(Span a, Span b, Buf* out, compare_fn compare) noexcept nogil:
    buf_span(out, a if chain_compare(a, b, compare) >= 0 else b)
    return out.status


cdef inline int chain_order(Span a, Span b, int* order, compare_fn compare) noexcept nogil:
    cdef int c = chain_compare(a, b, compare)
    order[0] = (c <= 0) | (c >= 0) << 1
    return OK


cdef bint span_is_empty(Span state) noexcept nogil:
    return state.len == 0


# --- MaxInt, MinInt ---------------------------------------------------------------------------

cdef int int_verify(Span state, int depth) noexcept nogil:
    return OK if state.len == 0 or state.len == 8 else CORRUPT

cdef int maxint_compare(Span a, Span b) noexcept nogil:
    cdef int64_t x = <int64_t>load_u64(a.ptr)
    cdef int64_t y = <int64_t>load_u64(b.ptr)
    return (x > y) - (x < y)

cdef int minint_compare(Span a, Span b) noexcept nogil:
    return maxint_compare(b, a)

cdef int maxint_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, maxint_compare)

cdef int minint_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, minint_compare)

cdef int maxint_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, maxint_compare)

cdef int minint_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, minint_compare)

cdef int int_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    if op.code != OP_OBSERVE or op.arg.len != 8:
        return BAD_OPERATION
    buf_span(delta, op.arg)
    return delta.status


# --- MaxFloat, MinFloat -----------------------------------------------------------------------

cdef inline bint float_is_canonical(const uint8_t* p) noexcept nogil:
    return not isnan(load_f64(p)) and load_u64(p) != <uint64_t>1 << 63

cdef int float_verify(Span state, int depth) noexcept nogil:
    if state.len == 0:
        return OK
    return OK if state.len == 8 and float_is_canonical(state.ptr) else CORRUPT

cdef int maxfloat_compare(Span a, Span b) noexcept nogil:
    cdef double x = load_f64(a.ptr)
    cdef double y = load_f64(b.ptr)
    return (x > y) - (x < y)

cdef int minfloat_compare(Span a, Span b) noexcept nogil:
    return maxfloat_compare(b, a)

cdef int maxfloat_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, maxfloat_compare)

cdef int minfloat_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, minfloat_compare)

cdef int maxfloat_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, maxfloat_compare)

cdef int minfloat_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, minfloat_compare)

cdef inline int float_put(Span arg, Buf* out) noexcept nogil:
    """The canonical form of a caller's float: -0 becomes +0, NaN has no place in an order."""
    cdef double x = load_f64(arg.ptr)
    if isnan(x):
        return NOT_A_NUMBER
    buf_f64(out, x + 0.0)               # -0.0 + 0.0 is +0.0, and nothing else changes
    return out.status

cdef int float_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    if op.code != OP_OBSERVE or op.arg.len != 8:
        return BAD_OPERATION
    return float_put(op.arg, delta)


# --- Flag -------------------------------------------------------------------------------------

cdef int flag_verify(Span state, int depth) noexcept nogil:
    if state.len == 0:
        return OK
    return OK if state.len == 1 and state.ptr[0] == 1 else CORRUPT

cdef int flag_join(Span a, Span b, Buf* out) noexcept nogil:
    buf_span(out, a if a.len else b)
    return out.status

cdef int flag_order(Span a, Span b, int* order) noexcept nogil:
    order[0] = (a.len <= b.len) | (a.len >= b.len) << 1
    return OK

cdef int flag_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    if op.code != OP_ENABLE or op.arg.len:
        return BAD_OPERATION
    buf_u8(delta, 1)
    return delta.status


# --- LWW --------------------------------------------------------------------------------------

cdef int lww_verify(Span state, int depth) noexcept nogil:
    cdef Stamp stamp
    if state.len == 0:
        return OK
    if state.len < STAMP_SIZE:
        return CORRUPT
    memcpy(&stamp, state.ptr, STAMP_SIZE)
    return CORRUPT if stamp_is_zero(&stamp) else OK

cdef int lww_compare(Span a, Span b) noexcept nogil:
    """By stamp, then by the value's bytes: without the second, equal stamps would not commute."""
    cdef Stamp x, y
    cdef int c
    memcpy(&x, a.ptr, STAMP_SIZE)
    memcpy(&y, b.ptr, STAMP_SIZE)
    c = stamp_compare(&x, &y)
    if c:
        return c
    return span_compare(span(a.ptr + STAMP_SIZE, a.len - STAMP_SIZE),
                        span(b.ptr + STAMP_SIZE, b.len - STAMP_SIZE))

cdef int lww_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, lww_compare)

cdef int lww_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, lww_compare)

cdef int lww_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_SET writes op.arg at op.stamp; OP_CLEAR, or an empty arg, the tombstone. SUPERSEDED if
    what is there joins to itself: nothing would change."""
    cdef size_t start = delta.len
    cdef Span arg = op.arg
    if op.code == OP_CLEAR:
        arg = span(NULL, 0)
    elif op.code != OP_SET:
        return BAD_OPERATION
    if stamp_is_zero(&op.stamp):
        return BAD_OPERATION
    buf_put(delta, &op.stamp, STAMP_SIZE)
    buf_span(delta, arg)
    if delta.status != OK:
        return delta.status
    if old.len and lww_compare(old, span(delta.ptr + start, delta.len - start)) >= 0:
        delta.len = start
        return SUPERSEDED
    return OK

cdef bint lww_is_empty(Span state) noexcept nogil:
    return state.len <= STAMP_SIZE


# --- Priority ---------------------------------------------------------------------------------

cdef int priority_verify(Span state, int depth) noexcept nogil:
    if state.len == 0:
        return OK
    return OK if state.len > 8 and float_is_canonical(state.ptr) else CORRUPT

cdef int priority_compare(Span a, Span b) noexcept nogil:
    """The greater element of the lattice is the lower priority; on a tie, the smaller bytes."""
    cdef int c = maxfloat_compare(b, a)
    if c:
        return c
    return span_compare(span(b.ptr + 8, b.len - 8), span(a.ptr + 8, a.len - 8))

cdef int priority_join(Span a, Span b, Buf* out) noexcept nogil:
    return chain_join(a, b, out, priority_compare)

cdef int priority_order(Span a, Span b, int* order) noexcept nogil:
    return chain_order(a, b, order, priority_compare)

cdef int priority_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    if op.code != OP_OFFER or op.arg.len <= 8:
        return BAD_OPERATION
    if float_put(op.arg, delta) != OK:
        return NOT_A_NUMBER if delta.status == OK else delta.status
    buf_put(delta, op.arg.ptr + 8, op.arg.len - 8)
    return delta.status


# --- columns: sorted (actor, number...) -------------------------------------------------------

cdef inline int columns_verify(Span state, size_t width) noexcept nogil:
    """Whole rows, actors strictly ascending and not 0, no row of zeros."""
    cdef const uint8_t* p = state.ptr
    cdef const uint8_t* end = state.ptr + state.len
    cdef uint64_t last = 0
    if state.len % width:
        return CORRUPT
    while p < end:
        if load_u64(p) <= last:
            return CORRUPT
        if load_u64(p + 8) == 0 and (width == PAIR or load_u64(p + 16) == 0):
            return CORRUPT
        last = load_u64(p)
        p += width
    return OK


cdef inline uint64_t greater(uint64_t x, uint64_t y) noexcept nogil:
    return x if x > y else y


cdef inline size_t columns_lower(Span state, uint64_t actor, size_t width) noexcept nogil:
    """The offset of the first row whose actor is not less."""
    cdef size_t low = 0
    cdef size_t high = state.len // width
    cdef size_t middle
    while low < high:
        middle = (low + high) // 2
        if load_u64(state.ptr + middle * width) < actor:
            low = middle + 1
        else:
            high = middle
    return low * width


cdef struct Merge:              # one merge under way: what is left of both sides, and where it goes
    const uint8_t* p
    const uint8_t* p_end
    const uint8_t* q
    const uint8_t* q_end
    uint8_t* to


cdef inline bint merge_going(const Merge* m) noexcept nogil:
    return m.p < m.p_end and m.q < m.q_end


cdef inline void merge_row(Merge* m, size_t width) noexcept nogil:
    """One row of the output. No branch depends on the data: actors of two replicas interleave at
    random, and a mispredicted branch would cost more than the row."""
    cdef uint64_t x = load_u64(m.p)
    cdef uint64_t y = load_u64(m.q)
    cdef uint64_t in_a = -<uint64_t>(x <= y)       # all ones, or zero
    cdef uint64_t in_b = -<uint64_t>(y <= x)
    store_u64(m.to, (x & in_a) | (y & in_b))
    store_u64(m.to + 8, greater(load_u64(m.p + 8) & in_a, load_u64(m.q + 8) & in_b))
    if width == TRIPLE:
        store_u64(m.to + 16, greater(load_u64(m.p + 16) & in_a, load_u64(m.q + 16) & in_b))
    m.p += width & in_a
    m.q += width & in_b
    m.to += width


cdef inline void merge_finish(Merge* m, size_t width) noexcept nogil:
    while merge_going(m):
        merge_row(m, width)
    if m.p < m.p_end:
        memcpy(m.to, m.p, <size_t>(m.p_end - m.p))
        m.to += m.p_end - m.p
    if m.q < m.q_end:
        memcpy(m.to, m.q, <size_t>(m.q_end - m.q))
        m.to += m.q_end - m.q


cdef inline int columns_join(Span a, Span b, Buf* out, size_t width) noexcept nogil:
    """The maximum per column. Each row of a merge waits for the one before it, so a large one is
    split at an actor into two that run side by side; the upper one is written where it ends up if
    the lower has no actor in common, and moved down if it has."""
    cdef Merge low, high
    cdef size_t cut_a, cut_b
    cdef uint8_t* start = buf_reserve(out, a.len + b.len)
    cdef uint8_t* upper
    if start == NULL:
        return out.status
    low.p, low.q, low.to = a.ptr, b.ptr, start
    low.p_end, low.q_end = a.ptr + a.len, b.ptr + b.len
    if a.len < SPLIT_MIN or b.len < SPLIT_MIN:
        merge_finish(&low, width)
        out.len += <size_t>(low.to - start)
        return OK
    cut_a = a.len // width // 2 * width
    cut_b = columns_lower(b, load_u64(a.ptr + cut_a), width)
    upper = start + cut_a + cut_b
    high.p, high.q, high.to = a.ptr + cut_a, b.ptr + cut_b, upper
    high.p_end, high.q_end = low.p_end, low.q_end
    low.p_end, low.q_end = high.p, high.q
    while merge_going(&low) and merge_going(&high):
        merge_row(&low, width)
        merge_row(&high, width)
    merge_finish(&low, width)
    merge_finish(&high, width)
    memmove(low.to, upper, <size_t>(high.to - upper))
    out.len += <size_t>(low.to - start) + <size_t>(high.to - upper)
    return OK


cdef inline bint columns_below(Span a, Span b, size_t width) noexcept nogil:
    cdef const uint8_t* p = a.ptr
    cdef const uint8_t* q = b.ptr
    cdef const uint8_t* p_end = a.ptr + a.len
    cdef const uint8_t* q_end = b.ptr + b.len
    while p < p_end:
        while q < q_end and load_u64(q) < load_u64(p):
            q += width
        if q == q_end or load_u64(q) != load_u64(p) or load_u64(q + 8) < load_u64(p + 8):
            return False
        if width == TRIPLE and load_u64(q + 16) < load_u64(p + 16):
            return False
        p += width
    return True


cdef inline const uint8_t* columns_find(Span state, uint64_t actor, size_t width) noexcept nogil:
    """The actor's row, or NULL."""
    cdef size_t at = columns_lower(state, actor, width)
    if at < state.len and load_u64(state.ptr + at) == actor:
        return state.ptr + at
    return NULL


cdef int pairs_verify(Span state, int depth) noexcept nogil:
    return columns_verify(state, PAIR)

cdef int pairs_join(Span a, Span b, Buf* out) noexcept nogil:
    return columns_join(a, b, out, PAIR)

cdef int pairs_order(Span a, Span b, int* order) noexcept nogil:
    order[0] = columns_below(a, b, PAIR) | columns_below(b, a, PAIR) << 1
    return OK

cdef int triples_verify(Span state, int depth) noexcept nogil:
    return columns_verify(state, TRIPLE)

cdef int triples_join(Span a, Span b, Buf* out) noexcept nogil:
    return columns_join(a, b, out, TRIPLE)

cdef int triples_order(Span a, Span b, int* order) noexcept nogil:
    order[0] = columns_below(a, b, TRIPLE) | columns_below(b, a, TRIPLE) << 1
    return OK


# --- GCounter, VectorClock, PNCounter ---------------------------------------------------------

cdef int gcounter_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_ADD of n >= 0: the actor's own column, n higher. The bottom if n is 0."""
    cdef const uint8_t* row
    cdef const uint8_t* p = old.ptr
    cdef const uint8_t* end = old.ptr + old.len
    cdef int64_t n
    cdef int128 total
    cdef uint64_t mine = 0
    if op.code != OP_ADD or op.arg.len != 8 or op.actor == 0:
        return BAD_OPERATION
    n = <int64_t>load_u64(op.arg.ptr)
    if n < 0:
        return BAD_OPERATION
    if n == 0:
        return OK
    total = n
    while p < end:
        total += load_u64(p + 8)
        p += PAIR
    if total > <int128>INT64_MAX:
        return OVERFLOWED
    row = columns_find(old, op.actor, PAIR)
    if row != NULL:
        mine = load_u64(row + 8)
    buf_u64(delta, op.actor)
    buf_u64(delta, mine + <uint64_t>n)
    return delta.status


cdef int clock_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_ADD, without an argument or with a count n >= 0: the actor's entry, one or n higher."""
    cdef const uint8_t* row
    cdef uint64_t n = 1
    cdef uint64_t mine = 0
    if op.code != OP_ADD or (op.arg.len != 8 and op.arg.len != 0) or op.actor == 0:
        return BAD_OPERATION
    if op.arg.len:
        n = load_u64(op.arg.ptr)
    if n > <uint64_t>INT64_MAX:
        return BAD_OPERATION
    row = columns_find(old, op.actor, PAIR)
    if row != NULL:
        mine = load_u64(row + 8)
    if n == 0:
        return OK
    if mine + n < mine:
        return OVERFLOWED
    buf_u64(delta, op.actor)
    buf_u64(delta, mine + n)
    return delta.status


cdef int pncounter_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_ADD of any i64: the actor's own plus or minus column, higher by its size."""
    cdef const uint8_t* row
    cdef const uint8_t* p = old.ptr
    cdef const uint8_t* end = old.ptr + old.len
    cdef int64_t n
    cdef int128 total
    cdef uint64_t plus = 0
    cdef uint64_t minus = 0
    cdef uint64_t size
    if op.code != OP_ADD or op.arg.len != 8 or op.actor == 0:
        return BAD_OPERATION
    n = <int64_t>load_u64(op.arg.ptr)
    if n == 0:
        return OK
    total = n
    while p < end:
        total += load_u64(p + 8)
        total -= load_u64(p + 16)
        p += TRIPLE
    if total > <int128>INT64_MAX or total < <int128>INT64_MIN:
        return OVERFLOWED
    row = columns_find(old, op.actor, TRIPLE)
    if row != NULL:
        plus = load_u64(row + 8)
        minus = load_u64(row + 16)
    size = <uint64_t>n if n > 0 else -<uint64_t>n
    if (plus + size < plus) if n > 0 else (minus + size < minus):
        return OVERFLOWED                # the column itself is full: after 2^64 of churn
    buf_u64(delta, op.actor)
    buf_u64(delta, plus + size if n > 0 else plus)
    buf_u64(delta, minus if n > 0 else minus + size)
    return delta.status


# --- registration -----------------------------------------------------------------------------

cdef void declare(uint8_t tag, const char* kind, verify_fn verify, join_fn join, order_fn order,
                  mutate_fn mutate, empty_fn is_empty) noexcept:
    cdef LatticeType t
    t.tag = tag
    t.flags = 0
    t.kind = kind
    t.verify = verify
    t.join = join
    t.order = order
    t.mutate = mutate
    t.is_empty = is_empty
    lattice_register(&t)


declare(TAG_MAXINT, b"maxint", int_verify, maxint_join, maxint_order, int_mutate, span_is_empty)
declare(TAG_MININT, b"minint", int_verify, minint_join, minint_order, int_mutate, span_is_empty)
declare(TAG_MAXFLOAT, b"maxfloat", float_verify, maxfloat_join, maxfloat_order, float_mutate,
        span_is_empty)
declare(TAG_MINFLOAT, b"minfloat", float_verify, minfloat_join, minfloat_order, float_mutate,
        span_is_empty)
declare(TAG_FLAG, b"flag", flag_verify, flag_join, flag_order, flag_mutate, span_is_empty)
declare(TAG_LWW, b"register", lww_verify, lww_join, lww_order, lww_mutate, lww_is_empty)
declare(TAG_PRIORITY, b"priority", priority_verify, priority_join, priority_order,
        priority_mutate, span_is_empty)
declare(TAG_GCOUNTER, b"gcounter", pairs_verify, pairs_join, pairs_order, gcounter_mutate,
        span_is_empty)
declare(TAG_PNCOUNTER, b"counter", triples_verify, triples_join, triples_order,
        pncounter_mutate, span_is_empty)
declare(TAG_CLOCK, b"clock", pairs_verify, pairs_join, pairs_order, clock_mutate, span_is_empty)
